"""Has openings held by a process of its own: starts agent/holding.py, and probes what it gives."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import agent
from agent.failures import Failures
from agent.holding import ASK_AGAIN, CLOSE, FORGET

MESSAGE_BYTES = 64 << 10

_START = "import sys; sys.path.append(sys.argv.pop(1)); from agent.holding import main; main()"
"""-I and -S leave the path of imports without our own code and everybody else's; see agent/takeover/helper.py."""


class Holder:
    """Holds what processes of one mount namespace open until it is probed."""

    def __init__(
        self,
        pid: int,
        examine: Callable[[int, int], bool],
        failures: Failures,
        unmounted: Callable[[frozenset[int]], object] = lambda _: None,
    ) -> None:
        """As agent.opens.Opens."""
        self._examine, self._failures, self._unmounted = examine, failures, unmounted
        self.not_waited = 0
        self._closed = threading.Event()
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            root = str(Path(agent.__file__).parents[1])
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _START, root, str(theirs.fileno()), str(pid)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
                env={},
            )
        message = self._channel.recv(MESSAGE_BYTES)
        said: dict[str, Any] = json.loads(message) if message else {"refused": "the process that was to hold them ended"}
        if "refused" in said:
            self._channel.close()
            self._process.wait()
            raise OSError(said["refused"])
        self.held = frozenset[int](said["holds"])
        """See agent.opens.Opens."""
        threading.Thread(target=self._serve, name="held", daemon=True).start()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def close(self) -> None:
        """Hold nothing any more."""
        self._say(CLOSE)
        self._closed.wait()

    def _serve(self) -> None:
        """Until the process ends, which may be after the end: it waits for leases."""
        with self._channel:
            while message := self._receive():
                self._take(*message)
        status = self._process.wait()
        if not self._closed.is_set():
            error = ChildProcessError(f"the process that held it ended ({status})")
            self._failures.note("what the process opens is no longer held until it is probed", error)
            self._closed.set()

    def _receive(self) -> tuple[dict[str, object], list[int]] | None:
        try:
            message, descriptors, _, _ = socket.recv_fds(self._channel, MESSAGE_BYTES, 1)
        except ConnectionError:  # it ended with something unread
            return None
        return (json.loads(message), list(descriptors)) if message else None

    def _take(self, said: dict[str, object], descriptors: list[int]) -> None:
        match said:
            case {"opens": int(pid)}:
                self._say(FORGET if self._probe(descriptors, pid) else ASK_AGAIN)
            case {"unmounted": list(devices)}:
                self._unmounted(frozenset(devices))
            case {"failed": str(what), "why": why}:
                self._failures.note(what, RuntimeError(why))
            case {"closed": int(not_waited)}:
                self.not_waited = not_waited
                self._closed.set()

    def _probe(self, descriptors: list[int], pid: int) -> bool:
        try:
            return self._examine(descriptors[0], pid)  # there is none where the agent has as many as it may have
        except Exception as error:  # of this file: the others go on
            self._failures.note("a file that is being opened could not be probed", error)
            return False
        finally:
            for fd in descriptors:  # before it goes on, for who opened it may unmount at once what it is on
                os.close(fd)

    def _say(self, what: bytes) -> None:
        with contextlib.suppress(OSError):  # it ended, which is told of when that is noticed
            self._channel.send(what)
