"""Where programs keep their lists of trusted certificates: the system's, and those that interpreters and packages bring.

Reads only; every search is bounded. With the standard library alone: it runs in a process that has entered another mount namespace.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agent.takeover.certificates import is_bundle

SYSTEM_FILES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Arch, Gentoo
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # Fedora, RHEL 7 and later
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/ssl/cert.pem",  # Alpine
    "/etc/pki/tls/cacert.pem",
    "/usr/local/share/certs/ca-root-nss.crt",
)
"""As in Go's crypto/x509/root_linux.go."""

SYSTEM_FOLDERS = ("/etc/ssl/certs", "/etc/pki/tls/certs")
"""Where OpenSSL looks certificates up by the hash of their name."""

NAMES = frozenset(
    {
        "cacert.pem",  # certifi, botocore, pip, conda, httplib2
        "cacerts.pem",
        "cacerts.txt",
        "ca-certificates.crt",  # stripe
        "ca-certificates.pem",
        "ca-bundle.crt",
        "ca-bundle.pem",
        "ca_bundle.pem",
        "ca_certs.pem",
        "tls-ca-bundle.pem",
        "roots.pem",  # grpc
        "root-certs.pem",
    }
)
"""What packages call their bundles."""

VARIABLES = (
    "SSL_CERT_FILE",  # OpenSSL and what is built on it; Go; rustls
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "AWS_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "HTTPLIB2_CA_CERTS",
    "DENO_CERT",
    "CARGO_HTTP_CAINFO",
    "NIX_SSL_CERT_FILE",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
    "BUNDLE_SSL_CA_CERT",
    "PERL_LWP_SSL_CA_FILE",
)
"""What programs read the place of their bundle from."""

FOLDER_VARIABLE = "SSL_CERT_DIR"

_SOCKETS = (
    "/run/nscd/socket",  # nscd(8), unscd
    "/var/run/nscd/socket",
    "/run/systemd/resolve/io.systemd.Resolve",  # nss-resolve(8)
)
"""Where the C library asks others for addresses, out of reach of the hooks."""

BUNDLE_MAX = 4 << 20
"""Bytes; Mozilla's whole list has 0.2 million."""

PATH_MAX = 4096
"""Longer words are no paths (include/uapi/linux/limits.h)."""

DEPTH_MAX = 5
"""Below site-packages or node_modules: pip/_vendor/certifi/cacert.pem is at 4."""

ENTRIES_MAX = 200_000
"""Looked at in all: half a second. A large environment has 100,000."""

_ANCESTORS_MAX = 3
"""How far above a program its packages may be: app/bin/run and app/.venv."""


@dataclass(frozen=True, slots=True)
class Command:
    """What is going to run, as it was asked for."""

    arguments: tuple[str, ...] = ()
    folder: str = "/"
    environment: Mapping[str, str] = field(default_factory=dict)
    trust_files: tuple[str, ...] = ()
    """What else it reads certificates from, as the person says."""
    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()


@dataclass(slots=True)
class Found:
    """Bundles and folders of certificates by their real paths; sockets to hide; named files that cannot be used, and why."""

    files: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    sockets: list[Path] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)


def find(command: Command) -> Found:
    """Find everything that the command may trust by."""
    folders = _unique(_existing([*SYSTEM_FOLDERS, *_named_folders(command)], Path.is_dir))
    told = [Path(command.folder, name) for name in command.trust_files]
    candidates = [*map(Path, SYSTEM_FILES), *told, *_named_files(command), *below(package_roots(command))]
    files = _unique(path for path in _existing(candidates, Path.is_file) if read_bundle(path) is not None)
    failures = [(str(path), why) for path in told if (why := _why_not(path))]
    return Found(files, folders, _unique(_existing(_SOCKETS, Path.is_socket)), failures)


def _why_not(path: Path) -> str:
    """Why a file that was named cannot be used; "" where it can."""
    if not path.exists():
        return "there is no such file, or it may not be read"
    return "it is no list of certificates (PEM)" if read_bundle(path) is None else ""


def _named_files(command: Command) -> list[Path]:
    """Files that the command is told of, by any variable or argument: `--ca FILE` and `--ca=FILE` have no common name."""
    words = [*command.environment.values(), *command.arguments, *(word.partition("=")[2] for word in command.arguments)]
    return [Path(command.folder, word) for word in words if word and len(word) < PATH_MAX and "\0" not in word]


def _named_folders(command: Command) -> list[Path]:
    return [Path(command.folder, name) for name in command.environment.get(FOLDER_VARIABLE, "").split(":") if name]


def _existing(paths: Iterable[str | Path], kind: object) -> Iterator[Path]:
    for path in map(Path, paths):
        try:
            real = path.resolve(strict=True)
            if kind(real):  # type: ignore[operator]
                yield real
        except OSError:
            continue


def _unique(paths: Iterable[Path]) -> list[Path]:
    return list(dict.fromkeys(paths))


def read_bundle(path: Path) -> bytes | None:
    """What a list of certificates holds; None where it is none, or may not be read.

    Words of a command line name anything: a FIFO would wait for a writer, a device might be changed by opening it, and files of
    proc, which say that they are empty, wait as they please (/proc/kmsg).
    """
    with contextlib.suppress(OSError):
        if _may_be_bundle(os.stat(path)):
            with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC), "rb", buffering=0) as file:
                if _may_be_bundle(os.fstat(file.fileno())):
                    data = file.read(BUNDLE_MAX + 1) or b""
                    return data if len(data) <= BUNDLE_MAX and is_bundle(data) else None
    return None


def _may_be_bundle(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode) and 0 < status.st_size <= BUNDLE_MAX


def package_roots(command: Command) -> list[Path]:
    """Where the packages of the interpreters are that the command may start, and those beside it."""
    roots: list[Path] = []
    for prefix in _unique(_prefixes(command)):
        for pattern in ("lib*/python3*/site-packages", "lib*/python3*/dist-packages", "lib/node_modules", "ssl"):
            roots += prefix.glob(pattern)
    for folder in _unique(_beside(command)):
        roots += [folder / "node_modules", folder / "vendor" / "bundle"]
    roots += [Path(command.folder, name) for name in command.environment.get("PYTHONPATH", "").split(":") if name]
    roots += [Path(name) for name in command.environment.get("NODE_PATH", "").split(":") if name]
    return _unique(_existing(roots, Path.is_dir))


def _prefixes(command: Command) -> Iterator[Path]:
    """The roots of installations: X of X/bin/python. Through links too: an environment's python is that of its base."""
    environment = command.environment
    programs = [Path(folder, name) for folder in environment.get("PATH", "").split(":") for name in ("python3", "python", "node")]
    for folder in _beside(command):
        programs += folder.glob("*/bin/python")
        programs += folder.glob(".*/bin/python")
    programs += map(Path, command.arguments[:1])
    for program in programs:
        if program.exists():
            yield program.parent.parent.absolute()
            yield program.resolve().parent.parent
    yield from (Path(environment[name]) for name in ("VIRTUAL_ENV", "CONDA_PREFIX") if name in environment)
    if "HOME" in environment:
        yield Path(environment["HOME"], ".local")


def _beside(command: Command) -> Iterator[Path]:
    """The command's folder, those of the files that it names, and some above."""
    named = (Path(command.folder, argument) for argument in command.arguments if len(argument) < PATH_MAX and "\0" not in argument)
    folders = [Path(command.folder), *(path.parent for path in named if os.path.isfile(path))]
    for folder in folders:
        yield from (folder, *list(folder.parents)[: _ANCESTORS_MAX - 1])


def below(roots: Iterable[Path]) -> Iterator[Path]:
    """Files below the roots that are called like bundles, as far as the bounds allow."""
    budget = ENTRIES_MAX
    waiting = [(str(root), 0) for root in reversed(list(roots))]
    seen: set[str] = set()
    while waiting and budget > 0:
        folder, depth = waiting.pop()
        if folder in seen:
            continue
        seen.add(folder)
        try:
            entries = list(os.scandir(folder))
        except OSError:
            continue
        budget -= len(entries)
        for entry in entries:
            if entry.name in NAMES:
                yield Path(entry.path)
            elif depth < DEPTH_MAX and entry.name != "__pycache__" and entry.is_dir(follow_symlinks=False):
                waiting.append((entry.path, depth + 1))
