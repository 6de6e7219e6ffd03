"""Has files examined by a process that may die of them: starts agent/examining.py, asks it, and starts it again."""

from __future__ import annotations

import contextlib
import json
import select
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import agent
from agent.events import TlsCall
from agent.examining import CPU_SECONDS
from agent.kernel.planner import PROGRAMS, UNKNOWN, Plan, Site

EXAMINE_SECONDS = 4.0
"""Wall-clock time for one file, whose opening may be held meanwhile: twice the processor time that it may take."""

ANSWER_BYTES = 64 << 10

_START = "import sys; sys.path.append(sys.argv.pop(1)); from agent.examining import main; main()"
"""-I and -S leave the path of imports without our own code and everybody else's; see agent/takeover/helper.py."""


class _Killed(Exception):
    """The examining process ended without an answer, and not by what it read."""


class Examiner:
    """Tells what to probe in a file. Thread-safe; the process is started when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None

    @property
    def pid(self) -> int:
        """Of the process; 0 while there is none."""
        return self._process.pid if self._process else 0

    def plan(self, fd: int) -> Plan:
        """Examine an open file. Whatever it does to the process that reads it, there is a plan, or a reason why there is none."""
        with self._lock:
            with contextlib.suppress(_Killed):
                return self._plan(fd)
            with contextlib.suppress(_Killed):  # by others: not for this file
                return self._plan(fd)
            return Plan(UNKNOWN, reason="it could not be examined: the examining process was killed")

    def _plan(self, fd: int) -> Plan:
        try:
            return _decoded(self._ask(fd))
        except ConnectionError as error:
            reason = self._end()
            if not reason:
                raise _Killed from error
            return Plan(UNKNOWN, reason=f"it could not be examined: {reason}")
        except (OSError, ValueError, LookupError, TypeError) as error:
            return Plan(UNKNOWN, reason=f"it could not be examined: {self._end() or error}")

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _ask(self, fd: int) -> bytes:
        if self._process and self._process.poll() is not None:  # it was killed, not by this file
            self._end()
        channel = self._channel or self._start()
        socket.send_fds(channel, [b"?"], [fd])
        poll = select.poll()
        poll.register(channel, select.POLLIN)
        if not poll.poll(EXAMINE_SECONDS * 1000):
            raise TimeoutError(f"it takes more than {EXAMINE_SECONDS:.0f} s")
        answer = channel.recv(ANSWER_BYTES)
        if not answer:
            raise ConnectionError("the examining process ended")
        return answer

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            root = str(Path(agent.__file__).parents[1])
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _START, root, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env={},
            )
        self._channel = ours
        return ours

    def _end(self) -> str:
        """End the process, so that the next file gets a new one; says what it died of, if it did."""
        process, channel, self._process, self._channel = self._process, self._channel, None, None
        if channel:
            channel.close()
        if process is None:
            return ""
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.2)  # one that died of the file is about to be gone
        process.kill()
        status = process.wait()
        if status == -signal.SIGXCPU:
            return f"it takes more than {CPU_SECONDS} s of processor time"
        return "" if status in (0, -signal.SIGKILL) else f"the examining process died of it ({status})"


def _decoded(answer: bytes) -> Plan:
    """The plan in an answer. A file may have taken the process over: what it says must be something that a plan can say."""
    said = json.loads(answer)
    sites = tuple(Site(str(one[0]), str(one[1]), int(one[2]), int(one[3]), bool(one[4])) for one in said["sites"])
    for site in sites:
        if site.program not in PROGRAMS or not 0 <= site.offset < 1 << 63 or (site.cookie and not TlsCall(site.cookie)):
            raise ValueError("its plan is none")
    return Plan(str(said["kind"]), sites, str(said["reason"]))
