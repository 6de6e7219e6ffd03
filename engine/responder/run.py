"""What happens in a run, counted. Written by the responder's thread alone; a report may be made on any."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from engine.matching.explain import Explanation
from engine.report import BackendCount, Miss, MockReport
from engine.responder.backends import Place

MISSES_LIMIT = 1000
"""Misses that are kept with their explanations: more than anybody reads; the rest is counted."""
PLACES_LIMIT = 1000
"""Places never recorded that are counted by themselves."""
TROUBLES_LIMIT = 100
OTHERS: Place = ("(others)", 0)


@dataclass(slots=True)
class Count:
    """Requests to a backend."""

    recorded: bool
    requests: int = 0
    matches: int = 0
    passed: int = 0


@dataclass(slots=True)
class _Missed:
    time: int
    operation: str
    method: str
    path: str
    explanation: Explanation
    times: int = 1
    passed: int = 0


class Run:
    """The record of a run."""

    def __init__(self, service: str, places: Iterable[Place]) -> None:
        self._service = service
        self._started = time.time_ns()
        self._counts = {place: Count(True) for place in places}
        self._places = len(self._counts) + PLACES_LIMIT
        self._misses: dict[tuple[Place, bytes], _Missed] = {}
        self._more_misses = 0
        self._troubles: dict[str, int] = {}

    def count(self, place: Place) -> Count:
        """The count of a backend."""
        found = self._counts.get(place)
        if found is None:
            place = place if len(self._counts) < self._places else OTHERS
            found = self._counts.setdefault(place, Count(False))
        return found

    def missed(self, place: Place, digest: bytes) -> Explanation | None:
        """Count a miss; the explanation of an equal one, if there was any."""
        self.count(place).requests += 1
        known = self._misses.get((place, digest))
        if known is None:
            return None
        known.times += 1
        return known.explanation

    def explained(self, place: Place, digest: bytes, operation: str, method: str, path: str, why: Explanation) -> None:
        """Keep why a request was missed that was counted just now."""
        if len(self._misses) < MISSES_LIMIT:
            self._misses[place, digest] = _Missed(time.time_ns(), operation, method, path, why)
        else:
            self._more_misses += 1

    def passed(self, place: Place, digest: bytes) -> None:
        """Count that a real backend answers a request that was missed."""
        self.count(place).passed += 1
        if known := self._misses.get((place, digest)):
            known.passed += 1

    def trouble(self, reason: str) -> None:
        """Count a connection that brought no request."""
        if reason in self._troubles or len(self._troubles) < TROUBLES_LIMIT:
            self._troubles[reason] = self._troubles.get(reason, 0) + 1

    def report(self) -> MockReport:
        """What happened so far. Copies of dictionaries are made in one step of the interpreter, so no lock is needed."""
        return MockReport(
            self._service,
            self._started,
            time.time_ns(),
            tuple(BackendCount(*place, c.recorded, c.requests, c.matches, c.passed) for place, c in list(self._counts.items())),
            tuple(_miss(place, missed) for (place, _), missed in list(self._misses.items())),
            self._more_misses,
            tuple(self._troubles.items()),
        )


def _miss(place: Place, missed: _Missed) -> Miss:
    why = missed.explanation
    return Miss(
        missed.time, missed.times, missed.passed, *place, missed.operation, missed.method, missed.path, why.reason, why.nearest,
        why.operation, why.differences,
    )  # fmt: skip
