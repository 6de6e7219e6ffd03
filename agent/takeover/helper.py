"""Starts a process of the agent's own code that must not be the agent: one without its threads, or one that outlives it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import agent

_START = "import sys; sys.path.append(sys.argv.pop(1)); from agent.takeover.{0} import main; main()"
"""-I and -S leave the path of imports without our own code and everybody else's. It comes last, so that nothing beside it is taken
for a module of the standard library; `agent` itself imports nothing."""


STARTS_MAX = 16
"""How often one that was killed is started again: more often, something is wrong with it, or somebody means it."""


def command(module: str, *arguments: str) -> list[str]:
    """The command line that runs `main` of agent.takeover.MODULE."""
    root = Path(agent.__file__).parents[1]
    return [sys.executable, "-I", "-S", "-c", _START.format(module), str(root), *arguments]


def start(module: str, *arguments: str, keep: Sequence[int] = ()) -> subprocess.Popen[bytes]:
    """Start it in a session of its own, with these descriptors open."""
    return subprocess.Popen(
        command(module, *arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=keep,
        start_new_session=True,
        env={},
    )


class Kept:
    """A process that must outlive the agent; its end is waited for on a thread."""

    def __init__(self, module: str, *arguments: str, keep: Sequence[int] = ()) -> None:
        self._process = start(module, *arguments, keep=keep)
        self.fd = os.pidfd_open(self._process.pid)
        """Readable when it has ended."""
        threading.Thread(target=self._process.wait, name=module, daemon=True).start()

    def forget(self) -> None:
        """Let it be."""
        os.close(self.fd)
