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
import json
import os
import resource
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

from agent.takeover import bundles
from agent.takeover.bundles import Command, Found, Opened
from agent.takeover.certificates import as_pem, first_der
from agent.takeover.copies import SINGLE, Copies
from agent.takeover.openings import Openings

_CLONE_NEWNS = 0x20000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_SLAVE = 1, 2, 4, 8, 32, 4096, 1 << 14, 1 << 19
_MNT_DETACH = 2

_PLACES = ("/tmp", "/run", "/mnt", "/var")
"""One is covered for a moment by the tmpfs: the process is still waiting to begin, and nobody else sees it."""

TMPFS_OPTIONS = b"mode=0755,size=256m"
"""Room for a thousand bundles. What is not used takes no memory."""

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
    # Nothing but the certificate: whoever made the request may be the person's.
    ca = as_pem(first_der(request.pop("ca").encode()))
    command = Command(**request)
    _check_own_mounts(pid)
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    own, place = _own_namespace()
    _enter(pid)
    # What the person may not read shall not come into the copies: paths are theirs, and lead anywhere.
    with _rights_of(command):
        found = bundles.find(command)
        roots = {str(root) for root in bundles.package_roots(command)}
    covered = _cover(found, ca)
    found.close()
    answer = json.dumps({**asdict(covered), "variables": variables(command, covered)})
    try:
        openings = Openings(ca, set(covered.files), roots, lambda: _rights_of(command))
    except OSError as error:
        print(answer, flush=True)
        sys.exit(f"this kernel does not show what is opened: {error}")
    print(answer, flush=True)
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


def _cover(found: Found, ca: bytes) -> Covered:
    """Lay copies over what was found: first all are made, then, when they can be changed no more, mounted onto its descriptors."""
    covered = Covered(failures=list(found.failures))
    place = next(place for place in _PLACES if os.path.isdir(place))
    options = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    _mount("tmpfs", place, "tmpfs", options, TMPFS_OPTIONS)
    room = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        copies = Copies(room, ca, {each.bundle.identity: each.bundle for each in found.files.values() if each.bundle})
        made: list[tuple[str, Opened, list[str], str]] = []
        for path, opened, done in _targets(found, covered):
            with _noted(covered, path):
                made.append((path, opened, done, copies.of(opened, len(made), folder=done is covered.folders)))
        _mount(None, place, None, options | _MS_REMOUNT | _MS_RDONLY)
        for path, opened, done, copy in made:
            with _noted(covered, path):
                _mount(f"/proc/self/fd/{room}/{copy}", f"/proc/self/fd/{opened.fd}", None, _MS_BIND)
                done.append(path)
    finally:
        os.close(room)
        _check(_libc.umount2(place.encode(), _MNT_DETACH), "umount")
    if covered.folders:
        covered.single = f"{covered.folders[0]}/{SINGLE}"
    return covered


def _targets(found: Found, covered: Covered) -> Iterator[tuple[str, Opened, list[str]]]:
    """What to lay copies over, and where to note that it was done. Folders come after the files in them, which they hide."""
    for those, done in ((found.files, covered.files), (found.folders, covered.folders), (found.sockets, covered.sockets)):
        yield from ((str(path), opened, done) for path, opened in those.items())


@contextlib.contextmanager
def _noted(covered: Covered, path: str) -> Iterator[None]:
    """What fails for one does not keep others from being covered."""
    try:
        yield
    except OSError as error:
        covered.failures.append((path, error.strerror or str(error)))


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: bytes | None = None) -> None:
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    _check(_libc.mount(*encoded, ctypes.c_ulong(flags), options), f"mounting on {target}")


def _check(result: int, what: str) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
