"""Makes a process and what it starts trust one more authority, by mounts that only they see. A process of its own.

    python -I -S -c 'from agent.takeover.cover import main; main()' PID < REQUEST > ANSWER

It enters the mount namespace of PID, which must not be the machine's, and there lays a copy that also trusts the authority over
each bundle; then it watches for bundles that show later (agent/takeover/openings.py), until its standard input ends. The copies
are in a tmpfs that goes with the namespace: nothing is written to a disk. It is not the agent itself, for a process with threads
cannot enter a mount namespace (setns(2)). With the standard library alone; nothing is imported after entering.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from agent.takeover import bundles
from agent.takeover.bundles import Command, Found
from agent.takeover.certificates import first_der, joined, subject_hash
from agent.takeover.openings import Openings

_CLONE_NEWNS = 0x20000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_SLAVE = 1, 2, 4, 8, 32, 4096, 1 << 14, 1 << 19
_MNT_DETACH = 2

_PLACES = ("/tmp", "/run", "/mnt", "/var")
"""One is covered for a moment by the tmpfs: the process is still waiting to begin, and nobody else sees it."""

TMPFS_OPTIONS = b"mode=0755,size=256m"
"""Room for a thousand bundles. What is not used takes no memory."""

FOLDER_ENTRIES_MAX = 20_000
"""Of a folder of certificates that is copied; Debian's has 300."""

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(slots=True)
class Covered:
    """What was done: paths of files and of folders that also trust the authority, sockets that are hidden, and what could not be
    done and why. `single` is a file with nothing but the authority, where there is one."""

    files: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    sockets: list[str] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    single: str = ""


def main() -> None:
    """Read a request (JSON: ca, and the fields of a command), act, and print what was done."""
    pid, request = int(sys.argv[1]), json.loads(sys.stdin.readline())
    ca = request.pop("ca").encode()
    command = Command(**request)
    _check_own_mounts(pid)
    own, place = _own_namespace()
    _enter(pid)
    # What the person may not read shall not come into the copies: paths are theirs, and lead anywhere.
    with _rights_of(command):
        found = bundles.find(command)
        contents = {path: data for path in found.files if (data := bundles.read_bundle(path)) is not None}
        targets = [(path, _open(path)) for path in [*contents, *found.folders, *found.sockets]]
        roots = {str(root) for root in bundles.package_roots(command)}
    covered = _cover(found, ca, contents, targets)
    answer = json.dumps({**asdict(covered), "variables": variables(command, covered)})
    for _, fd in targets:
        os.close(fd)
    openings = None
    with contextlib.suppress(OSError):  # the kernel, or a privilege, is missing: what shows later is not covered
        openings = Openings(ca, set(covered.files), roots, lambda: _rights_of(command))
    print(answer, flush=True)
    if openings:
        openings.watch(own, place)


def _own_namespace() -> tuple[int, str]:
    """A mount namespace for this process alone, in which it looks while it watches; and a folder there with room for copies."""
    if _libc.unshare(_CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "unshare")
    _mount(None, "/", None, _MS_REC | _MS_SLAVE)
    place = next(place for place in ("/sys", "/mnt") if os.path.isdir(place))  # nobody keeps bundles there
    _mount("tmpfs", place, "tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, TMPFS_OPTIONS)
    return os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC), place


@contextlib.contextmanager
def _rights_of(command: Command) -> Iterator[None]:
    """Have the rights of the person whose command it is."""
    groups = os.getgroups()
    if command.uid == os.geteuid():
        yield
        return
    os.setgroups(command.groups)
    os.setegid(command.gid)
    os.seteuid(command.uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def variables(command: Command, covered: Covered) -> dict[str, str]:
    """What to set, so that programs read a covered bundle: what names one already stays as it is."""
    system = next((path for path in covered.files if path in bundles.SYSTEM_FILES), "") or next(iter(covered.files), "")
    found = {}
    for name in bundles.VARIABLES:
        present = command.environment.get(name, "")
        if present and os.path.realpath(os.path.join(command.folder, present)) in covered.files:
            continue
        # Node adds these to its own; the whole list would cost it time at every start.
        value = covered.single or system if name == "NODE_EXTRA_CA_CERTS" else system
        if value:
            found[name] = value
    return found


def _check_own_mounts(pid: int) -> None:
    """OSError where a process shares the machine's mounts, or ours."""
    theirs = os.stat(f"/proc/{pid}/ns/mnt").st_ino
    if any(theirs == _namespace(other) for other in ("self", "1")):
        raise OSError(errno.EINVAL, f"process {pid} has no mount namespace of its own")


def _enter(pid: int) -> None:
    """Enter the mount namespace of a process."""
    fd = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)
    root = os.open(f"/proc/{pid}/root", os.O_RDONLY | os.O_DIRECTORY)
    _check(_libc.setns(fd, _CLONE_NEWNS), "setns")
    # Whoever made the namespace: no mount of ours may spread to where it came from.
    _mount(None, "/", None, _MS_REC | _MS_SLAVE)
    # Its paths are those of its root, which is not the namespace's where it, or whoever started it, has changed root.
    os.fchdir(root)
    os.chroot(".")
    os.close(fd)
    os.close(root)


def _namespace(process: str) -> int:
    with contextlib.suppress(OSError):  # process 1 may hold more capabilities than we do
        return os.stat(f"/proc/{process}/ns/mnt").st_ino
    return 0


def _cover(found: Found, ca: bytes, contents: dict[Path, bytes], targets: list[tuple[Path, int]]) -> Covered:
    """Lay copies over what was found: first all are made, then, when they can be changed no more, mounted. `contents`: of the
    files. `targets`: what to lay them over, and a descriptor of each."""
    covered = Covered(failures=list(found.failures))
    place = next(place for place in _PLACES if os.path.isdir(place))
    options = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    _mount("tmpfs", place, "tmpfs", options, TMPFS_OPTIONS)
    try:
        copies = Copies(Path(place), ca, contents)
        made = []
        for path, fd in targets:
            with _noted(covered, path):
                made.append((path, fd, copies.of_folder(path, fd) if path in found.folders else copies.of_file(path)))
        _mount(None, place, None, options | _MS_REMOUNT | _MS_RDONLY)
        for path, fd, copy in made:
            with _noted(covered, path):
                _mount(str(copy), f"/proc/self/fd/{fd}", None, _MS_BIND)
                _list(covered, found, path).append(str(path))
    finally:
        _check(_libc.umount2(place.encode(), _MNT_DETACH), "umount")
    if covered.folders:
        covered.single = f"{covered.folders[0]}/{_SINGLE}"
    return covered


@contextlib.contextmanager
def _noted(covered: Covered, path: Path) -> Iterator[None]:
    """What fails for one does not keep others from being covered."""
    try:
        yield
    except OSError as error:
        covered.failures.append((str(path), error.strerror or str(error)))


def _list(covered: Covered, found: Found, path: Path) -> list[str]:
    if path in found.sockets:
        return covered.sockets
    return covered.folders if path in found.folders else covered.files


_SINGLE = "understudy-ca.pem"


def _open(path: Path) -> int:
    return os.open(path, os.O_PATH | os.O_CLOEXEC)


@dataclass(slots=True)
class Copies:
    """The copies, below `place`. `bundles` is what the files of certificates held before."""

    place: Path
    ca: bytes
    bundles: dict[Path, bytes]

    def of_file(self, path: Path) -> Path:
        """Of a bundle; of a socket, an empty file. Bundles that are alike share one."""
        content = joined(self.bundles[path], self.ca) if path in self.bundles else b""
        copy = self.place / hashlib.sha256(content).hexdigest()
        if not copy.exists():
            copy.write_bytes(content)
            copy.chmod(0o444)
        return copy

    def of_folder(self, path: Path, fd: int) -> Path:
        """Of a folder of certificates, with the authority under the hash of its name. `fd` is open on it."""
        source, copy = f"/proc/self/fd/{fd}/", self.place / f"folder-{fd}"
        if sum(len(folders) + len(files) for _, folders, files in os.walk(source)) > FOLDER_ENTRIES_MAX:
            raise OSError(errno.EFBIG, "too large a folder to copy")
        shutil.copytree(source, copy, symlinks=True, copy_function=_copy)
        for bundle, content in self.bundles.items():
            if bundle.is_relative_to(path):
                (copy / bundle.relative_to(path)).write_bytes(joined(content, self.ca))
        (copy / _SINGLE).write_bytes(self.ca)
        (copy / _SINGLE).chmod(0o444)
        name = subject_hash(first_der(self.ca))
        number = next(number for number in range(FOLDER_ENTRIES_MAX) if not os.path.lexists(copy / f"{name}.{number}"))
        (copy / f"{name}.{number}").symlink_to(_SINGLE)
        return copy


def _copy(source: str, target: str) -> str:
    """As shutil.copy2, with the owner; of what is no file, nothing."""
    status = os.lstat(source)
    if stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode):
        shutil.copy2(source, target, follow_symlinks=False)
        os.chown(target, status.st_uid, status.st_gid, follow_symlinks=False)
    return target


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: bytes | None = None) -> None:
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    _check(_libc.mount(*encoded, ctypes.c_ulong(flags), options), f"mounting on {target}")


def _check(result: int, what: str) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
