"""Makes a launched process trust the responder's authority: drives agent/takeover/cover.py, which does it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from agent.takeover import helper
from agent.takeover.bundles import Command
from agent.takeover.openings import SECONDS_MAX

COVER_SECONDS = 30.0
"""A search of the largest environments takes a second."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """A bundle that a process read before anybody knew that it would."""

    path: str
    pid: int


class Helper:
    """The process that covers, for as long as it watches for bundles that show later."""

    def __init__(self, pid: int, request: str) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self._process = subprocess.Popen(helper.command("cover", str(pid)), env={}, start_new_session=True, **pipes)  # type: ignore[call-overload]
        self._rest = b""
        self.fd: int = self._process.stdout.fileno()
        """Readable when there is news."""
        os.set_blocking(self.fd, False)
        with contextlib.suppress(BrokenPipeError):  # it tells why
            self._process.stdin.write(request.encode() + b"\n")
            self._process.stdin.flush()

    def line(self, seconds: float) -> bytes:
        """The first line that it says; TimeoutError, or OSError with its reason where it has ended."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self.fd], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError
            if not self._take():
                raise OSError(self.end())
        first, _, self._rest = self._rest.partition(b"\n")
        return first

    def _take(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            data = os.read(self.fd, 65536)
            self._rest += data
            return bool(data)
        return True

    def news(self) -> list[Unknown] | None:
        """What it has told since; None where it has ended."""
        going_on = self._take()
        *lines, self._rest = self._rest.split(b"\n")
        found = [Unknown(**json.loads(line)) for line in lines if line]
        return found if going_on or found else None

    def end(self) -> str:
        """Why it has ended, of its own accord or not."""
        reason: str = self._process.stderr.read().decode(errors="replace").strip().rpartition("\n")[2]
        status = self._process.wait()
        if status == -signal.SIGALRM:
            return (
                f"a file could not be looked at within {SECONDS_MAX} seconds; if somebody has a lease on it, its opening has failed"
            )
        return reason or (f"it was ended by signal {-status}" if status < 0 else f"it ended with status {status}")

    def stop(self) -> None:
        """No more: what is held goes on."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


@dataclass(frozen=True, slots=True)
class Trust:
    """What is covered in the process's mount namespace; what could not be, with the reason; variables to start it with. `helper`
    goes on covering, until it is stopped."""

    covered: tuple[str, ...] = ()
    failures: tuple[tuple[str, str], ...] = ()
    variables: Mapping[str, str] | None = None
    helper: Helper | None = None


def extend(pid: int, ca: str, command: Command) -> Trust:
    """Let process `pid`, which waits to become `command` in a mount namespace of its own, trust the PEM certificate `ca` too.

    OSError where it has none of its own, ValueError where `ca` is no certificate.
    """
    started = Helper(pid, json.dumps({"ca": ca, **asdict(command)}))
    try:
        answer = json.loads(started.line(COVER_SECONDS))
    except TimeoutError as error:
        started.stop()
        raise OSError(f"the bundles of process {pid} could not be covered within {COVER_SECONDS:.0f} seconds") from error
    except OSError as error:
        started.stop()
        raise OSError(f"the bundles of process {pid} could not be covered: {error}") from error
    covered = (*answer["files"], *answer["folders"], *answer["sockets"])
    return Trust(covered, tuple(map(tuple, answer["failures"])), answer["variables"], started)
