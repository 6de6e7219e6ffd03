"""What goes wrong in the agent: a thread that dies ends it, an event or file that cannot be handled is counted and told."""

from __future__ import annotations

import os
import sys
import threading
import traceback

THREAD_DIED = 70
"""Exit status of an agent one of whose threads died: EX_SOFTWARE of sysexits.h."""

LINES_SHOWN = 20
"""After so many lines failures are counted only: a workload may cause as many as it likes."""


class Failures:
    """Counts what could not be handled, and tells of the first. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.count = 0

    def note(self, what: str, error: BaseException) -> None:
        """Something was left out because of an error."""
        with self._lock:
            self.count += 1
            count = self.count
        if count <= LINES_SHOWN:
            _say(f"{what}: {_described(error)}")
        if count == LINES_SHOWN:
            _say("further failures are only counted: see understudy_agent_failures")


def end_when_a_thread_dies() -> None:
    """From now on an exception that nobody handles ends the process, whichever thread it is in.

    An agent without one of its threads would look alive and capture nothing. Its end detaches the probes and lets all go on that
    waits for it, and whoever started it sees that.
    """
    threading.excepthook = _end


def _end(death: threading.ExceptHookArgs) -> None:
    if death.exc_value is None or isinstance(death.exc_value, SystemExit):
        return
    name = death.thread.name if death.thread else "unknown"
    _say(f"thread {name!r} died, and the agent ends: {_described(death.exc_value)}")
    os._exit(THREAD_DIED)


def _described(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"


def _say(text: str) -> None:
    line = " ".join(text.split())  # one line, whatever an error says
    sys.stderr.write(f"understudy-agent: {line}\n".encode(errors="replace").decode())
    sys.stderr.flush()
