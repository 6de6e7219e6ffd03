"""Processes, cgroups and containers, as /proc and the cgroup file system show them. Reads, makes cgroups, ends processes."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from agent import files

PROC = Path("/proc")

TICK = 10**9 // os.sysconf("SC_CLK_TCK")
"""Nanoseconds of a clock tick, in which /proc counts."""

CGROUP_PREFIX = "understudy-"
"""Of the cgroups that captures make for what they launch."""

_CONTAINER = re.compile(r"(?:cri-containerd-|crio-(?!conmon-)|docker-|libpod-|:cri-containerd:|/)([0-9a-f]{64})(?:\.scope)?$")


@dataclass(frozen=True, slots=True)
class Workload:
    """A process as people know it."""

    pid: int
    started: int
    command: str
    executable: str = ""
    cgroup: str = ""
    container: str = ""


@dataclass(frozen=True, slots=True)
class Mapping:
    """An executable file mapping of a process: its address range (as in map_files), and its path in the process's namespace."""

    range: str
    path: str
    device: int
    inode: int


def cgroup_mount() -> Path | None:
    """Where cgroup v2 is mounted: /sys/fs/cgroup on most systems, a folder below it on hybrid ones; None where nowhere."""
    for line in os.fsdecode((PROC / "self/mountinfo").read_bytes()).split("\n"):
        left, _, right = line.partition(" - ")
        if right.split(" ", 1)[0] == "cgroup2":
            return Path(left.split()[4])
    return None


def cgroup_of(pid: int | str) -> str:
    """The cgroup v2 path of a process, as the reader's namespace sees it; "" where it is gone."""
    with contextlib.suppress(OSError):
        for line in os.fsdecode((PROC / str(pid) / "cgroup").read_bytes()).split("\n"):
            if line.startswith("0::"):
                return line[3:]
    return ""


def lineage(cgroup: str, mount: Path) -> list[Path]:
    """A cgroup and those above it, without the root; none of one outside of the reader's namespace, whose path has dots."""
    path = mount / cgroup.lstrip("/")
    return [] if ".." in path.parts else [each for each in (path, *path.parents) if mount in each.parents]


def container_of(cgroup: str) -> str:
    """The container id in a cgroup path; "" outside containers."""
    for part in reversed(re.findall(r"/[^/]*", cgroup)):
        match = _CONTAINER.search(part)
        if match:
            return match.group(1)
    return ""


def started(pid: int) -> int:
    """Start of a process, ns since boot, to the clock tick; 0 where it is gone. Field 22 of proc(5) stat."""
    with contextlib.suppress(OSError, IndexError):
        fields = (PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
        return int(fields[19]) * TICK
    return 0


def is_still(pid: int, started_at: int) -> bool:
    """Whether a number is still that of the process which had it when it started (ns since boot), not of a later one."""
    return started(pid) == started_at // TICK * TICK


def end(pid: int, started_at: int) -> bool:
    """End a process; whether it was there. One that has its number by now is left alone."""
    with contextlib.suppress(OSError):
        fd = os.pidfd_open(pid)  # first: what it names from here on is one process
        try:
            if is_still(pid, started_at):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
                return True
        finally:
            os.close(fd)
    return False


def look_up(pid: int, started_at: int = 0, command: str = "") -> Workload:
    """What is known of a process now; of one that is gone, what the caller knew."""
    folder, executable = PROC / str(pid), ""
    with contextlib.suppress(OSError):
        executable = os.readlink(folder / "exe")
        command = (folder / "comm").read_bytes().removesuffix(b"\n").decode(errors="replace")
    cgroup = cgroup_of(pid)
    return Workload(pid, started_at or started(pid), command, executable, cgroup, container_of(cgroup))


def pids() -> Iterator[int]:
    """Of all processes that can be seen."""
    for name in os.listdir(PROC):
        if name.isdigit():
            yield int(name)


def descendants(pid: int) -> list[int]:
    """The process and everything below it."""
    children: dict[int, list[int]] = {}
    for other in pids():
        with contextlib.suppress(OSError, IndexError):
            parent = int((PROC / str(other) / "stat").read_bytes().rpartition(b")")[2].split()[1])
            children.setdefault(parent, []).append(other)
    found = [pid]
    for member in found:
        found += children.get(member, [])
    return found


def executable_mappings(pid: int) -> list[Mapping]:
    """The files that a process has mapped executable, each once."""
    found: dict[tuple[int, int], Mapping] = {}
    with contextlib.suppress(OSError):
        for line in os.fsdecode((PROC / str(pid) / "maps").read_bytes()).split("\n"):
            fields = line.split(maxsplit=5)
            if len(fields) < 6 or "x" not in fields[1] or fields[4] == "0":
                continue
            major, minor = (int(part, 16) for part in fields[3].split(":"))
            path = fields[5].removesuffix(" (deleted)")
            mapping = Mapping(fields[0], path, os.makedev(major, minor), int(fields[4]))
            found.setdefault((mapping.device, mapping.inode), mapping)
    return list(found.values())


def open_mapping(pid: int, mapping: Mapping) -> int:
    """Open a mapped file for reading: by its place in memory, which survives deletion and needs CAP_CHECKPOINT_RESTORE, else by
    its path in the process's root. OSError where it cannot be had or is no regular file."""
    with contextlib.suppress(OSError):
        return files.open_place(files.place_of(_in_memory(pid, mapping)), mapping.inode, mapping.device, pid)
    place = files.place_in(f"{PROC}/{pid}/root", os.fsencode(mapping.path))
    return files.open_place(place, mapping.inode, mapping.device, pid)


def stat_mapping(pid: int, mapping: Mapping) -> os.stat_result:
    """The state of a mapped file, by its place in memory: OSError where that cannot be had."""
    status = os.stat(_in_memory(pid, mapping))
    if status.st_ino != mapping.inode:
        raise FileNotFoundError(f"process {pid} has another file mapped by now")
    return status


def _in_memory(pid: int, mapping: Mapping) -> str:
    # map_files has no leading zeros (fs/proc/base.c, dname_to_vma_addr).
    start, _, end = mapping.range.partition("-")
    return f"{PROC}/{pid}/map_files/{int(start, 16):x}-{int(end, 16):x}"


class Cgroup:
    """A cgroup made for one launched process and what it forks, by a capture, a takeover, or both: who comes last removes it."""

    _made: ClassVar[set[Path]] = set()
    """The paths of those that this agent made and has not removed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def for_launched(cls, mount: Path, name: str, pid: int) -> Self:
        """The one that this agent made and a process is in, or a new one below the cgroup that the process is in.

        There the process keeps the limits of whoever launched it, and is killed when they are, as the agent's helpers are.
        Where it cannot be made there, it is made right below the mount.
        """
        present = mount / cgroup_of(pid).lstrip("/")
        if present in cls._made:
            return cls(present)
        made = cls(_make_cgroup((present, mount) if ".." not in present.parts else (mount,), f"{CGROUP_PREFIX}{name}"))
        cls._made.add(made.path)
        return made

    @property
    def populated(self) -> bool:
        """Whether processes are in it or below."""
        with contextlib.suppress(OSError):
            return "populated 1" in (self.path / "cgroup.events").read_text()
        return False

    def adopt(self, pid: int) -> None:
        """Move a process into it."""
        (self.path / "cgroup.procs").write_text(str(pid))

    def remove(self) -> bool:
        """Remove it; False while processes are in it."""
        removed = remove_cgroup(self.path)
        if removed:
            self._made.discard(self.path)
        return removed


def _make_cgroup(parents: Sequence[Path], name: str) -> Path:
    """Make a cgroup below the first parent where one can be made that takes processes; OSError of the last where there is none."""
    *preferred, last = parents
    for parent in preferred:
        with contextlib.suppress(OSError):  # no such folder in this namespace, no permission, or a limit on depth or number
            made = parent / name
            made.mkdir()
            if (made / "cgroup.type").read_text() == "domain\n":
                return made
            made.rmdir()  # its parent is threaded: it takes threads only (cgroup-v2.rst, Threads)
    made = last / name
    made.mkdir()
    return made


def remove_cgroup(path: Path) -> bool:
    """Remove a cgroup that is empty, and those below it; False while processes are in it."""
    for folder, _, _ in os.walk(path, topdown=False):
        try:
            os.rmdir(folder)
        except FileNotFoundError:
            continue
        except OSError:
            return False
    return True


_INITIAL_CGROUP_NAMESPACE, _INITIAL_PID_NAMESPACE = 0xEFFFFFFB, 0xEFFFFFFC
"""Inodes of the initial namespaces (PROC_CGROUP_INIT_INO, PROC_PID_INIT_INO, include/linux/proc_ns.h)."""


def in_initial_pid_namespace() -> bool:
    """Whether processes have the numbers here by which the kernel's probes and hooks know them."""
    return os.stat(PROC / "self/ns/pid").st_ino == _INITIAL_PID_NAMESPACE


def depth(cgroup: Path) -> int | None:
    """How many levels below the kernel's root a cgroup lies; None in a namespace, whose root may itself lie anywhere."""
    mount = cgroup_mount()
    if mount is None or os.stat(PROC / "self/ns/cgroup").st_ino != _INITIAL_CGROUP_NAMESPACE:
        return None
    return len(cgroup.relative_to(mount).parts)


def find_container(mount: Path, prefix: str) -> dict[str, list[Path]]:
    """The containers whose id begins so, and their cgroups."""
    found: dict[str, list[Path]] = {}
    for folder, names, _ in os.walk(mount):
        for name in names:
            container = container_of("/" + name)
            if container and container.startswith(prefix):
                found.setdefault(container, []).append(Path(folder) / name)
    return found
