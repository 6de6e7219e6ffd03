"""Proxies that a person's environment names: under `mock`, programs must not go past the responder by way of them.

The variables are taken away rather than pointed at the responder: a program then calls its backends by name, as it would where
there is no proxy, and a proxy that is no HTTP proxy (SOCKS) needs nothing of its own. Who asks the proxy all the same, since a
file or its code names it, is refused.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from urllib.parse import urlsplit

Endpoint = tuple[str, int]

_ADDRESSES = frozenset(
    {
        "http_proxy", "https_proxy", "all_proxy", "ftp_proxy", "ws_proxy", "wss_proxy",  # curl, libraries of most languages
        "grpc_proxy",
        "npm_config_proxy", "npm_config_http_proxy", "npm_config_https_proxy",  # npm, pnpm
        "yarn_proxy", "yarn_http_proxy", "yarn_https_proxy",
        "global_agent_http_proxy", "global_agent_https_proxy",  # Node
        "pip_proxy", "cargo_http_proxy", "cgi_http_proxy",
    }
)  # fmt: skip
"""Variables that name a proxy; in lower case, for programs read them in either."""

_NAMES = _ADDRESSES | {
    "no_proxy", "no_grpc_proxy", "npm_config_noproxy", "global_agent_no_proxy", "node_use_env_proxy", "git_proxy_command",
    "cloudsdk_proxy_type", "cloudsdk_proxy_address", "cloudsdk_proxy_port",
}  # fmt: skip
"""With those that say whom to ask without one, and how."""

_JAVA = ("JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS", "MAVEN_OPTS", "GRADLE_OPTS")
_JAVA_PROPERTIES = tuple(
    f"-D{name}"
    for name in (
        *(f"{scheme}.{what}" for scheme in ("http", "https", "ftp") for what in ("proxyHost", "proxyPort", "nonProxyHosts")),
        "socksProxyHost", "socksProxyPort", "socksNonProxyHosts", "java.net.useSystemProxies",
    )
)  # fmt: skip
"""System properties of java.net (Java's "Networking Properties")."""

_PORTS = {"http": 80, "https": 443}
_SOCKS_PORT = 1080
"""Also what curl takes where a proxy has no scheme and no port."""


def without_proxies(environment: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """The environment, with nothing in it that names a proxy."""
    found = {key: value for key, value in environment.items() if os.fsdecode(key).lower() not in _NAMES}
    for name in map(os.fsencode, _JAVA):
        if name in found and any(_is_java_property(word) for word in _words(found[name])):
            found[name] = os.fsencode(shlex.join(word for word in _words(found[name]) if not _is_java_property(word)))
    return found | _git(found)


def _git(environment: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """What makes git ask no proxy, though a file of its configuration names one (git-config(1), GIT_CONFIG_COUNT)."""
    count = environment.get(b"GIT_CONFIG_COUNT", b"0")
    number = count if count.isdigit() else b"0"
    return {
        b"GIT_CONFIG_COUNT": b"%d" % (int(number) + 1),
        b"GIT_CONFIG_KEY_" + number: b"http.proxy",
        b"GIT_CONFIG_VALUE_" + number: b"",
    }


def proxies(environment: dict[bytes, bytes]) -> set[Endpoint]:
    """The proxies that an environment names."""
    found = set()
    for key, value in environment.items():
        name, text = os.fsdecode(key), os.fsdecode(value)
        if name.lower() in _ADDRESSES:
            found.add(_endpoint(text))
        elif name in _JAVA:
            found.update(_java(_words(value)))
    return {(host, port) for host, port in found if host}


def _endpoint(text: str) -> Endpoint:
    try:
        parts = urlsplit(text if "://" in text else f"//{text}")
        return parts.hostname or "", parts.port or _PORTS.get(parts.scheme, _SOCKS_PORT)
    except ValueError:  # no address, no port
        return "", 0


def _java(words: list[str]) -> Iterator[Endpoint]:
    properties = dict(word.removeprefix("-D").partition("=")[::2] for word in words if _is_java_property(word))
    for host, port, default in (
        ("http.proxyHost", "http.proxyPort", "80"),
        ("https.proxyHost", "https.proxyPort", "443"),
        ("socksProxyHost", "socksProxyPort", str(_SOCKS_PORT)),
    ):
        if host in properties:
            yield _endpoint(f"{properties[host]}:{properties.get(port, default)}")


def _is_java_property(word: str) -> bool:
    return word.startswith(_JAVA_PROPERTIES)


def _words(value: bytes) -> list[str]:
    try:
        return shlex.split(os.fsdecode(value))
    except ValueError:  # an open quote: Java would not start either
        return []
