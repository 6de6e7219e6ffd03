"""The hooks that watch who leaves a workload's cgroup: loaded, attached, told who belongs to it, and read."""

from __future__ import annotations

import os
from ctypes import c_uint8, c_uint32, c_uint64
from pathlib import Path

from agent.kernel import libbpf
from agent.kernel.probes import cgroup_id, object_path
from agent.takeover.events import DeparturesSettings, Whereabouts

_TRACED = {
    "departures_fork": "sched_process_fork",
    "departures_move": "cgroup_attach_task",
    "departures_exit": "sched_process_exit",
}


class Departures:
    """The hooks of one workload."""

    def __init__(self) -> None:
        """Load. OSError where the kernel refuses, FileNotFoundError where the object is not built."""
        self._object = libbpf.Object(object_path("departures"))
        self._links: list[libbpf.Link] = []
        try:
            self._object.load()
            self._settings = self._object.map("settings")
            self._members = self._object.map("members")
            self._unknown = self._object.map("unknown")
            self._news = self._object.ring("news")
        except BaseException:
            self._object.close()
            raise

    def watch(self, cgroup: Path, mount: Path, *, refuse: bool) -> None:
        """Watch from now on who leaves `cgroup`. With `refuse`, whoever has left can call nobody: `mount` has all cgroups."""
        self._settings.put(c_uint32(0), DeparturesSettings(cgroup=cgroup_id(str(cgroup))))
        root = os.open(mount, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for program in self._object.programs():
                if program.name in _TRACED:
                    self._links.append(program.attach_raw_tracepoint(_TRACED[program.name]))
                elif refuse:
                    self._links.append(program.attach_cgroup(root))
        finally:
            os.close(root)

    def add(self, pid: int) -> None:
        """A process that is in the cgroup; what it forks from now on belongs to the workload, too."""
        self._members.put(c_uint32(pid), c_uint8(Whereabouts.INSIDE))

    @property
    def link_fds(self) -> list[int]:
        """What keeps the hooks attached."""
        return [link.fd for link in self._links]

    @property
    def epoll_fd(self) -> int:
        """Readable when there is news."""
        return self._news.epoll_fd

    def read(self) -> list[bytes]:
        """Take the news."""
        return self._news.read()

    @property
    def unknown(self) -> int:
        """Departures that there was no room to tell of, and processes that there was none to watch."""
        value = c_uint64()
        self._unknown.get(c_uint32(0), value)
        return value.value

    def close(self) -> None:
        """Let go of everything."""
        for link in self._links:
            link.close()
        self._news.close()
        self._object.close()
