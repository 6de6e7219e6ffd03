"""Removes what an agent leaves behind when it is killed together with its client. A process of its own, and its twin.

    python -I -S -c 'from agent.takeover.guard import main; main()' AGENT CLIENT FOLDER CGROUPS PREFIX

AGENT is a pidfd, CLIENT the reading end of a pipe that the client has open for writing. When both have ended, the client's private
FOLDER goes, and of the cgroups below CGROUPS those whose names begin with PREFIX, each as soon as it is empty. With the standard
library alone.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import sys
from collections.abc import Iterator

from agent.takeover.keeper import populated


def main() -> None:
    """Wait for both, then tidy up."""
    agent, client = map(int, sys.argv[1:3])
    folder, cgroups, prefix = sys.argv[3:]
    os.fork()  # the twin: whoever is killed, one is left
    for fd in (client, agent):
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        poll.poll()
    shutil.rmtree(folder, ignore_errors=True)
    for cgroup in list(_of_the_agent(cgroups, prefix)):
        _remove(cgroup)


def _of_the_agent(cgroups: str, prefix: str) -> Iterator[str]:
    for folder, names, _ in os.walk(cgroups):
        yield from (f"{folder}/{name}" for name in names if name.startswith(prefix))


def _remove(cgroup: str) -> None:
    """Remove a cgroup once it is empty, and those below it."""
    with contextlib.suppress(OSError), open(f"{cgroup}/cgroup.events", "rb", buffering=0) as events:
        poll = select.poll()
        poll.register(events, select.POLLPRI)
        while populated(events.fileno()):
            poll.poll()
    for folder, _, _ in os.walk(cgroup, topdown=False):
        with contextlib.suppress(OSError):  # removed by another
            os.rmdir(folder)
