"""Keeps a takeover's hooks for as long as its cgroup has processes, then removes the cgroup. A process of its own.

    python -I -S -c 'from agent.takeover.keeper import main; main()' CGROUP

It inherits the descriptors of the hooks, which the kernel detaches when the last process that has them open is gone. So a workload
that was taken over never gets at its real backends when the agent dies: its calls fail at once, for nobody answers them any more.
With the standard library alone.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys


def main() -> None:
    """Wait until the cgroup is empty."""
    cgroup = sys.argv[1]
    with contextlib.suppress(OSError), open(f"{cgroup}/cgroup.events", "rb", buffering=0) as events:
        poll = select.poll()
        poll.register(events, select.POLLPRI)
        while _populated(events.fileno()):
            poll.poll()
    for folder, _, _ in os.walk(cgroup, topdown=False):
        with contextlib.suppress(OSError):  # somebody else's, again in use, or removed by the agent
            os.rmdir(folder)


def _populated(events: int) -> bool:
    """Whether processes are in the cgroup or below; to be asked again after each poll (cgroup-v2.rst, cgroup.events)."""
    return b"populated 1" in os.pread(events, 4096, 0)
