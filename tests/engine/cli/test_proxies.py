"""Proxies that an environment names."""

from __future__ import annotations

import pytest

from engine.cli.proxies import proxies, without_proxies

JAVA = b"-Xmx1g -Dhttps.proxyHost=127.0.0.1 -Dhttps.proxyPort=3128 '-Dname=a b' -DsocksProxyHost=socks.test"


@pytest.mark.parametrize(
    ("name", "value", "endpoint"),
    [
        ("HTTP_PROXY", "http://127.0.0.1:3128", ("127.0.0.1", 3128)),
        ("https_proxy", "http://user:secret@proxy.test", ("proxy.test", 80)),
        ("ALL_PROXY", "socks5h://[::1]:9050", ("::1", 9050)),
        ("all_proxy", "socks5://proxy.test", ("proxy.test", 1080)),
        ("npm_config_https_proxy", "https://proxy.test", ("proxy.test", 443)),
        ("NPM_CONFIG_PROXY", "localhost:8080", ("localhost", 8080)),
        ("grpc_proxy", "proxy.test", ("proxy.test", 1080)),
    ],
)
def test_what_names_a_proxy_is_known_and_taken_away(name: str, value: str, endpoint: tuple[str, int]) -> None:
    environment = {name.encode(): value.encode(), b"PATH": b"/bin"}
    assert proxies(environment) == {endpoint}
    left = without_proxies(environment)
    assert proxies(left) == set()
    assert (name.encode() in left, left[b"PATH"]) == (False, b"/bin")


@pytest.mark.parametrize(("name", "value"), [("NO_PROXY", "a.test"), ("NODE_USE_ENV_PROXY", "1"), ("no_proxy", "*")])
def test_what_names_none_is_taken_away_too(name: str, value: str) -> None:
    assert proxies({name.encode(): value.encode()}) == set()
    assert name.encode() not in without_proxies({name.encode(): value.encode()})


def test_others_stay() -> None:
    environment = {b"GOPROXY": b"https://modules.test", b"MY_REVERSE_PROXY": b"http://10.0.0.1:80", b"\xff": b"\xfe"}
    assert proxies(environment) == set()
    assert without_proxies(environment).items() >= environment.items()


def test_java_s_properties() -> None:
    environment = {b"JAVA_TOOL_OPTIONS": JAVA, b"MAVEN_OPTS": b"-Xss1m"}
    assert proxies(environment) == {("127.0.0.1", 3128), ("socks.test", 1080)}
    left = without_proxies(environment)
    assert (left[b"JAVA_TOOL_OPTIONS"], left[b"MAVEN_OPTS"]) == (b"-Xmx1g '-Dname=a b'", b"-Xss1m")


def test_git_asks_no_proxy_of_its_configuration() -> None:
    assert without_proxies({}) == {b"GIT_CONFIG_COUNT": b"1", b"GIT_CONFIG_KEY_0": b"http.proxy", b"GIT_CONFIG_VALUE_0": b""}
    added = {b"GIT_CONFIG_COUNT": b"1", b"GIT_CONFIG_KEY_0": b"a.b", b"GIT_CONFIG_VALUE_0": b"c"}
    left = without_proxies(added)
    assert (left[b"GIT_CONFIG_COUNT"], left[b"GIT_CONFIG_KEY_0"], left[b"GIT_CONFIG_KEY_1"]) == (b"2", b"a.b", b"http.proxy")


@pytest.mark.parametrize("value", [b"", b"http://[::1", b"http://host:port", b"'", b"\xff\xfe", b"://", b"http://h:99999"])
def test_no_value_raises(value: bytes) -> None:
    for name in (b"HTTP_PROXY", b"JAVA_TOOL_OPTIONS", b"GIT_CONFIG_COUNT"):
        assert all(host for host, _ in proxies({name: value}))
        without_proxies({name: value})
