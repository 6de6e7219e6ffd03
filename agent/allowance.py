"""How long the files of each capture and process may be examined, so that slow ones hold up nobody else. Not thread-safe.

An allowance is used up by what is examined and comes back with time. The 1,800 programs and libraries of a Debian machine with all
that is needed to work on this take one second together; only files that were made for it use an allowance up.
"""

from __future__ import annotations

import time

CAPTURE_SECONDS = 9.0
"""At once, of one capture: with one more file (agent/examiner.py), less than the time that openings are held (agent/opens.py)."""

PROCESS_SECONDS = 6.0
"""At once, of one process: the others of its capture have what is left of the capture's."""

CAPTURE_SHARE, PROCESS_SHARE = 0.5, 0.25
"""How much comes back in a second in which none of it is used: a process leaves some of its capture's to others."""

KEPT_MAX = 1024
"""Allowances that are kept: past it, those that are whole are forgotten. As one file is examined at a time, some ten are not."""


class Allowances:
    """Of captures and processes by their numbers."""

    def __init__(self) -> None:
        self._whole_at: dict[tuple[int, int], float] = {}
        """When the allowance of a capture, or of a process of it, is whole again. What is not here is whole."""

    def left(self, capture: int, pid: int) -> bool:
        """Whether another file of this process may be examined."""
        now = time.monotonic()
        of_capture, of_process = (self._whole_at.get(key, now) - now for key in ((capture, 0), (capture, pid)))
        return of_capture * CAPTURE_SHARE < CAPTURE_SECONDS and of_process * PROCESS_SHARE < PROCESS_SECONDS

    def spend(self, capture: int, pid: int, seconds: float) -> None:
        """A file of this process was examined for so long."""
        now = time.monotonic()
        for key, share in (((capture, 0), CAPTURE_SHARE), ((capture, pid), PROCESS_SHARE)):
            self._whole_at[key] = max(self._whole_at.get(key, 0.0) + seconds, now) + seconds / share
        if len(self._whole_at) > KEPT_MAX:
            self._whole_at = {key: at for key, at in self._whole_at.items() if at > now}
