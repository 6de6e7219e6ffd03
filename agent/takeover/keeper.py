"""Keeps a takeover safe for as long as its cgroup has processes, though the agent may be gone. A process of its own, and its twin.

    python -I -S -c 'from agent.takeover.keeper import main; main()' PLAN

The hooks themselves belong to the cgroup and stay as long as it does. What points at the agent or the responder must not outlive
them, for somebody else might take their ports: so this process has their listening sockets open, too, and when one of them ends it
first tells the hooks to refuse what went there and then lets go of the ports. When the cgroup is empty, it removes it. It also has
open what keeps those hooks attached that are not of the cgroup. With the standard library alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import select
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass

from agent.takeover.events import SERVERS_MAX, Settings

_SYSCALL_BPF = {"x86_64": 321, "aarch64": 280}
_LOOK_UP, _UPDATE = 1, 2
"""BPF_MAP_LOOKUP_ELEM and BPF_MAP_UPDATE_ELEM of enum bpf_cmd."""


class _Element(ctypes.Structure):
    """`union bpf_attr` for these (include/uapi/linux/bpf.h)."""

    _fields_ = [
        ("map_fd", ctypes.c_uint32),
        ("key", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
    ]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to keep. All but the path are descriptors that the keeper inherits: the hooks' settings, a map; the agent and the
    responder, pidfds; the sockets that take calls for each of them; and what is only kept open."""

    cgroup: str
    settings: int
    agent: int
    responder: int
    agent_sockets: tuple[int, ...] = ()
    responder_sockets: tuple[int, ...] = ()
    kept: tuple[int, ...] = ()

    @property
    def descriptors(self) -> list[int]:
        """All of them."""
        return [self.settings, self.agent, self.responder, *self.agent_sockets, *self.responder_sockets, *self.kept]

    def dump(self) -> str:
        """As the argument of the keeper."""
        return json.dumps(asdict(self))


def main() -> None:
    """Keep until the cgroup is empty."""
    plan = Plan(**json.loads(sys.argv[1]))
    with contextlib.suppress(OSError):  # it takes no processes: as good as where the agent is
        _move_beside(plan.cgroup)
    os.fork()  # the twin: whoever is killed, one is left
    with contextlib.suppress(OSError), open(f"{plan.cgroup}/cgroup.events", "rb", buffering=0) as events:
        _keep(plan, events.fileno())
    for folder, _, _ in os.walk(plan.cgroup, topdown=False):
        with contextlib.suppress(OSError):  # somebody else's, again in use, or removed by another
            os.rmdir(folder)


def _move_beside(cgroup: str) -> None:
    """Move this process into the parent of a cgroup: what kills the keepers by their cgroup kills the workload with them."""
    with open(f"{os.path.dirname(cgroup)}/cgroup.procs", "w") as processes:
        processes.write(str(os.getpid()))


def _keep(plan: Plan, events: int) -> None:
    poll = select.poll()
    poll.register(events, select.POLLPRI)
    poll.register(plan.agent, select.POLLIN)
    poll.register(plan.responder, select.POLLIN)
    ends: dict[int, tuple[Callable[[Settings], None], tuple[int, ...]]] = {
        plan.agent: (without_names, plan.agent_sockets),
        plan.responder: (without_responder, plan.responder_sockets),
    }
    while populated(events):
        for fd, _ in poll.poll():
            if fd in ends:
                poll.unregister(fd)
                change, sockets = ends.pop(fd)
                with contextlib.suppress(OSError):
                    _change(plan.settings, change)
                for each in sockets:
                    os.close(each)


def without_names(settings: Settings) -> None:
    """Names are asked of nobody any more: the hooks refuse it."""
    settings.dns_udp4 = settings.dns_udp6 = (0,) * SERVERS_MAX
    settings.dns_tcp4 = settings.dns_tcp6 = 0


def without_responder(settings: Settings) -> None:
    """What the responder would answer is refused."""
    settings.closed = 1


def _change(settings_map: int, change: Callable[[Settings], None]) -> None:
    """Change the settings in their map; OSError where the kernel does not let us."""
    key, value = ctypes.c_uint32(0), Settings()
    element = _Element(settings_map, ctypes.addressof(key), ctypes.addressof(value))
    _bpf(_LOOK_UP, element)
    change(value)
    _bpf(_UPDATE, element)


def _bpf(command: int, element: _Element) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    number = ctypes.c_long(_SYSCALL_BPF[platform.machine()])
    if libc.syscall(number, ctypes.c_long(command), ctypes.byref(element), ctypes.c_long(ctypes.sizeof(element))):
        raise OSError(ctypes.get_errno(), "bpf")


def populated(events: int) -> bool:
    """Whether processes are in the cgroup or below; to be asked again after each poll (cgroup-v2.rst, cgroup.events)."""
    with contextlib.suppress(OSError):  # it has been removed
        return b"populated 1" in os.pread(events, 4096, 0)
    return False
