"""The takeover's hooks in the kernel: loaded, attached to a workload's cgroup, told what goes where, and read.

Each takeover loads its own, so that two cannot see each other.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from ctypes import c_uint8, c_uint32, c_uint64
from pathlib import Path

from agent.kernel import libbpf
from agent.kernel.probes import object_path
from agent.takeover.events import Action, Address, Destination, Rule, Settings

_OF_THE_RESPONDER, _OF_THE_RESOLVER = "takeover_getsockopt", "takeover_question"
"""The programs that belong to those who answer; all others to the workload."""


class Hooks:
    """The hooks of one takeover."""

    def __init__(self) -> None:
        """Load. OSError where the kernel refuses, FileNotFoundError where the object is not built."""
        self._object = libbpf.Object(object_path("takeover"))
        try:
            self._object.load()
            self._rules = self._object.map("rules")
            self._own_addresses = self._object.map("own_addresses")
            self._settings = self._object.map("settings")
            self._lost = self._object.map("news_lost")
            self._news = self._object.ring("news")
        except BaseException:
            self._object.close()
            raise
        self._links: list[libbpf.Link] = []

    def attach(self, workload: Path, responder: Path) -> None:
        """Hook what processes of the cgroup `workload` do from now on, for as long as it is there; and what the responder, in the
        cgroup of that name, asks."""
        with _opened(workload) as ours, _opened(responder) as theirs:
            for program in self._object.programs():
                if program.name == _OF_THE_RESPONDER:
                    self._links.append(program.attach_cgroup(theirs))
                elif program.name != _OF_THE_RESOLVER:
                    program.attach_to_cgroup_for_good(ours)

    def detach(self, workload: Path) -> None:
        """Take the hooks from a cgroup: of a takeover that did not come about."""
        with contextlib.suppress(OSError), _opened(workload) as ours:
            for program in self._object.programs():
                if program.name not in (_OF_THE_RESPONDER, _OF_THE_RESOLVER):
                    program.detach_from_cgroup(ours)

    @property
    def link_fds(self) -> list[int]:
        """What keeps the responder's hook attached."""
        return [link.fd for link in self._links]

    @property
    def question_filter(self) -> int:
        """The program for the resolver's sockets: they take what the workload sends, and nothing else."""
        return next(program.fd for program in self._object.programs() if program.name == _OF_THE_RESOLVER)

    @property
    def settings_fd(self) -> int:
        """The map of the settings."""
        return int(self._settings.fd)

    def set(self, settings: Settings) -> None:
        """Replace the settings."""
        self._settings.put(c_uint32(0), settings)

    def rule(self, address: Address, port: int, action: Action, real: Address | None = None) -> None:
        """Say what happens to a destination, which may stand for a real one. OSError where there are too many."""
        self._rules.put(Destination.of(address, port), Rule.of(action, real))

    def own(self, address: Address) -> None:
        """Say that an address is the machine's in the workload's network. OSError where there are too many."""
        self._own_addresses.put(Destination.of(address, 0), c_uint8(1))

    @property
    def epoll_fd(self) -> int:
        """Readable when there is news."""
        return self._news.epoll_fd

    def read(self) -> list[bytes]:
        """Take the news."""
        return self._news.read()

    @property
    def lost(self) -> int:
        """News that found no room, so far."""
        value = c_uint64()
        self._lost.get(c_uint32(0), value)
        return value.value

    def close(self) -> None:
        """Let go of everything."""
        for link in self._links:
            link.close()
        self._news.close()
        self._object.close()


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)
