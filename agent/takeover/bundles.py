"""Where programs keep their lists of trusted certificates: the system's, and those that interpreters and packages bring.

Reads only; every search is bounded. With the standard library alone: it runs in a process that has entered another mount namespace,
with the rights of the person whose paths these are. What is found stays open: between the reading of a file and the mounting over
it, its path may come to lead elsewhere, its descriptor does not.
"""

from __future__ import annotations

import contextlib
import errno
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

BYTES_MAX = 128 << 20
"""Of everything that is found: the tmpfs of the copies has room for twice that, a list and the folder it is in."""

FOLDER_ENTRIES_MAX = 20_000
"""Of a folder of certificates that is copied; Debian's has 300."""

FOLDER_BYTES_MAX = 32 << 20
"""Of such a folder; Debian's has 0.6 million."""

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


@dataclass(frozen=True, slots=True)
class File:
    """A regular file as it was when it was open: what it held, and whose it is."""

    data: bytes
    status: os.stat_result

    @property
    def identity(self) -> tuple[int, int]:
        """The same for all names of a file."""
        return self.status.st_dev, self.status.st_ino


@dataclass(frozen=True, slots=True)
class Opened:
    """Something to lay a copy over, open on it: `bundle` is that of a list of certificates, `entries` those of a folder, by their
    paths below it; None is a folder."""

    fd: int
    bundle: File | None = None
    entries: Mapping[str, File | None] = field(default_factory=dict)


@dataclass(slots=True)
class Found:
    """Bundles, folders of certificates, and sockets to hide, by their real paths; what cannot be used, and why."""

    files: dict[Path, Opened] = field(default_factory=dict)
    folders: dict[Path, Opened] = field(default_factory=dict)
    sockets: dict[Path, Opened] = field(default_factory=dict)
    failures: list[tuple[str, str]] = field(default_factory=list)

    def close(self) -> None:
        """No more is laid over them."""
        for each in (*self.files.values(), *self.folders.values(), *self.sockets.values()):
            os.close(each.fd)


def find(command: Command) -> Found:
    """Find everything that the command may trust by, and open it with the rights that this thread has."""
    found = Found()
    told = [Path(command.folder, name) for name in command.trust_files]
    left = BYTES_MAX
    for path in existing([*map(Path, SYSTEM_FILES), *told, *_named_files(command), *below(package_roots(command))]):
        if path not in found.files and (opened := open_bundle(path)):
            found.files[path] = opened
            left -= opened.bundle.status.st_size if opened.bundle else 0
            if left < 0:
                os.close(found.files.pop(path).fd)
                found.failures.append((str(path), f"there are more than {BYTES_MAX >> 20} MiB of certificates"))
                break
    for path in existing([*SYSTEM_FOLDERS, *_named_folders(command)]):
        if path not in found.folders and os.path.isdir(path):
            try:
                found.folders[path] = _open_folder(path, command.uid)
            except OSError as error:
                found.failures.append((str(path), error.strerror or str(error)))
    for path in existing(_SOCKETS):
        if path not in found.sockets and path.is_socket():
            with contextlib.suppress(OSError):  # gone meanwhile
                found.sockets[path] = Opened(os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC))
    found.failures += [(str(path), why) for path in told if (why := _why_not(path, found))]
    return found


def _why_not(path: Path, found: Found) -> str:
    """Why a file that was named cannot be used; "" where it can."""
    if not os.path.exists(path):
        return "there is no such file, or it may not be read"
    return "" if Path(os.path.realpath(path)) in found.files else "it is no list of certificates (PEM)"


def _named_files(command: Command) -> list[Path]:
    """Files that the command is told of, by any variable or argument: `--ca FILE` and `--ca=FILE` have no common name."""
    words = [*command.environment.values(), *command.arguments, *(word.partition("=")[2] for word in command.arguments)]
    return [Path(command.folder, word) for word in words if word and len(word) < PATH_MAX and "\0" not in word]


def _named_folders(command: Command) -> list[Path]:
    return [Path(command.folder, name) for name in command.environment.get(FOLDER_VARIABLE, "").split(":") if name]


def existing(paths: Iterable[str | Path]) -> Iterator[Path]:
    """The real paths of those that exist. os.path, not pathlib, whose functions raise what is no OSError for a link to itself."""
    for path in paths:
        try:
            real = os.path.realpath(path, strict=True)
        except OSError:
            continue
        yield Path(real)


def _folders(paths: Iterable[Path]) -> list[Path]:
    return _unique(path for path in existing(paths) if os.path.isdir(path))


def _unique(paths: Iterable[Path]) -> list[Path]:
    return list(dict.fromkeys(paths))


def open_bundle(path: Path) -> Opened | None:
    """A list of certificates, by its real path; None where it is none, or may not be read.

    Words of a command line name anything: a FIFO would wait for a writer, a device might be changed by opening it, and files of
    proc, which say that they are empty, wait as they please (/proc/kmsg).
    """
    with contextlib.suppress(OSError):
        if _may_be_bundle(os.lstat(path)):
            with contextlib.ExitStack() as stack:
                fd = os.open(path, _READ | os.O_NOFOLLOW)
                stack.callback(os.close, fd)
                if _may_be_bundle(status := os.fstat(fd)) and is_bundle(data := _read(fd, status.st_size)):
                    stack.pop_all()  # it stays open
                    return Opened(fd, File(data, status))
    return None


_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def _read(fd: int, size: int) -> bytes:
    """What a file holds that says to have `size` bytes; where that is 0, nothing is asked of it."""
    with open(fd, "rb", buffering=0, closefd=False) as file:
        return (size and file.read(size)) or b""


def _open_folder(path: Path, uid: int) -> Opened:
    """A folder, and what is to be in its copy. Nothing may be hidden by it that the person could not have removed: a folder that is
    neither one of the system's nor the person's must hold certificates alone."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        is_own = str(path) in map(os.path.realpath, SYSTEM_FOLDERS) or os.fstat(fd).st_uid == uid
        entries: dict[str, File | None] = {}
        _read_folder(fd, "", entries, FOLDER_BYTES_MAX, strictly=not is_own)
    except OSError:
        os.close(fd)
        raise
    return Opened(fd, entries=entries)


def _read_folder(fd: int, below: str, entries: dict[str, File | None], left: int, *, strictly: bool) -> int:
    """Add what is in a folder, and what links lead to in their place; the bytes left. OSError where it cannot be copied."""
    for name in os.listdir(fd):
        if len(entries) >= FOLDER_ENTRIES_MAX:
            raise OSError(errno.EFBIG, f"more than {FOLDER_ENTRIES_MAX} files are in it")
        path = below + name
        if stat.S_ISDIR(_kind(name, fd)) and not strictly and path.count("/") < DEPTH_MAX:
            entries[path] = None
            with contextlib.suppress(PermissionError):  # nor can the person's programs look into it
                inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
                try:
                    left = _read_folder(inner, f"{path}/", entries, left, strictly=strictly)
                finally:
                    os.close(inner)
        elif file := _read_entry(name, fd, left):
            if strictly and not is_bundle(file.data):
                raise OSError(errno.EINVAL, f"{path} in it is no certificate (PEM): give a folder with nothing else")
            entries[path] = file
            left -= len(file.data)
        elif strictly:
            raise OSError(errno.EINVAL, f"{path} in it may not be read, or is no certificate: give a folder with nothing else")
    return left


def _kind(name: str, folder: int) -> int:
    with contextlib.suppress(OSError):
        return os.lstat(name, dir_fd=folder).st_mode
    return 0


def _read_entry(name: str, folder: int, left: int) -> File | None:
    """A regular file in a folder, or what a link there leads to; None where it is something else, or may not be read."""
    try:
        if not stat.S_ISREG(os.stat(name, dir_fd=folder).st_mode):
            return None
        fd = os.open(name, _READ, dir_fd=folder)
    except OSError:
        return None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return None
        if status.st_size > left:
            raise OSError(errno.EFBIG, f"more than {FOLDER_BYTES_MAX >> 20} MiB are in it")
        return File(_read(fd, status.st_size), status)
    finally:
        os.close(fd)


def _may_be_bundle(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode) and 0 < status.st_size <= BUNDLE_MAX


def package_roots(command: Command) -> list[Path]:
    """Where the packages of the interpreters are that the command may start, and those beside it."""
    roots: list[Path] = []
    for prefix in _unique(_prefixes(command)):
        for pattern in ("lib*/python3*/site-packages", "lib*/python3*/dist-packages", "lib/node_modules", "ssl"):
            roots += _matching(prefix, pattern)
    for folder in _unique(_beside(command)):
        roots += [folder / "node_modules", folder / "vendor" / "bundle"]
    roots += [Path(command.folder, name) for name in command.environment.get("PYTHONPATH", "").split(":") if name]
    roots += [Path(name) for name in command.environment.get("NODE_PATH", "").split(":") if name]
    return _folders(roots)


def _prefixes(command: Command) -> Iterator[Path]:
    """The roots of installations: X of X/bin/python. Through links too: an environment's python is that of its base."""
    environment = command.environment
    programs = [Path(folder, name) for folder in environment.get("PATH", "").split(":") for name in ("python3", "python", "node")]
    for folder in _beside(command):
        programs += _matching(folder, "*/bin/python")
        programs += _matching(folder, ".*/bin/python")
    programs += map(Path, command.arguments[:1])
    for program in programs:
        for real in existing([program]):
            yield program.parent.parent.absolute()
            yield real.parent.parent
    yield from (Path(environment[name]) for name in ("VIRTUAL_ENV", "CONDA_PREFIX") if name in environment)
    if "HOME" in environment:
        yield Path(environment["HOME"], ".local")


def _matching(folder: Path, pattern: str) -> Iterator[Path]:
    with contextlib.suppress(OSError):  # it may not be entered
        yield from folder.glob(pattern)


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
