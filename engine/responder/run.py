"""What happens in a run, counted. Written by the responder's thread alone; a report may be made on any."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeVar

from engine.matching.explain import Difference, Explanation
from engine.report import BackendCount, FailedHandshake, Miss, MockReport
from engine.responder.backends import Place
from engine.responder.misses import Missed

MISSES_LIMIT = 1000
"""Misses that are kept with their explanations: more than anybody reads; the rest is counted."""
MISSES_BYTES = 16 * 1024 * 1024
"""Of their texts, which are what workloads send: a report is read whole, by people and programs."""
TEXT_LIMIT = 2000
"""Characters of a text that is kept: a path may have 256 KiB."""
HOST_LIMIT = 255
"""Characters of a host's name: DNS has no longer ones (RFC 1035 section 2.3.4), but a Host header may."""
PLACES_LIMIT = 1000
"""Places never recorded that are counted by themselves."""
TROUBLES_LIMIT = 100
_Text = TypeVar("_Text", str, str | None)
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
    """Without the request itself: it may be large."""

    time: int
    place: Place
    operation: str
    method: str
    path: str
    explanation: Explanation
    times: int = 0
    passed: int = 0

    @property
    def size(self) -> int:
        """Characters of its texts."""
        why = self.explanation
        texts = (self.place[0], self.operation, self.method, self.path, why.reason, why.operation)
        differences = sum(len(d.field) + len(d.recorded or "") + len(d.live or "") for d in why.differences)
        return sum(map(len, texts)) + differences


def _cut(text: _Text, limit: int = TEXT_LIMIT) -> _Text:
    return text if text is None or len(text) <= limit else text[:limit] + "…"


class Run:
    """The record of a run."""

    def __init__(self, service: str, places: Iterable[Place]) -> None:
        self._service = service
        self._started = time.time_ns()
        self._counts = {place: Count(True) for place in places}
        self._places = len(self._counts) + PLACES_LIMIT
        self._misses: dict[tuple[Place, bytes], _Missed] = {}
        self._misses_size = 0
        self._more_misses = 0
        self._troubles: dict[str, int] = {}
        self._failed_handshakes: dict[FailedHandshake, int] = {}

    def count(self, place: Place) -> Count:
        """The count of a backend."""
        found = self._counts.get(place)
        if found is None:
            place = (_cut(place[0], HOST_LIMIT), place[1])
            found = self._counts.get(place)
        if found is None:
            place = place if len(self._counts) < self._places else OTHERS
            found = self._counts.setdefault(place, Count(False))
        return found

    def explanation(self, place: Place, digest: bytes) -> Explanation | None:
        """Why an equal request was missed before, if one was."""
        known = self._misses.get((place, digest))
        return known.explanation if known else None

    def missed(self, missed: Missed, *, passed: bool) -> None:
        """Count a request that was not recorded. `passed`: the real backend answers it."""
        place, request = missed.place, missed.request
        count, key = self.count(place), (place, request.form.digest)
        count.requests += 1
        count.passed += passed
        known = self._misses.get(key)
        if known is None:
            known = self._kept(missed)
            if len(self._misses) >= MISSES_LIMIT or self._misses_size + known.size > MISSES_BYTES:
                self._more_misses += 1
                return
            self._misses[key] = known
            self._misses_size += known.size
        known.times += 1
        known.passed += passed

    @staticmethod
    def _kept(missed: Missed) -> _Missed:
        request, why = missed.request, missed.why
        place = (_cut(missed.place[0], HOST_LIMIT), missed.place[1])
        differences = tuple([Difference(_cut(d.field), _cut(d.recorded), _cut(d.live)) for d in why.differences])
        kept = Explanation(_cut(why.reason), why.nearest, _cut(why.operation), differences)
        return _Missed(time.time_ns(), place, _cut(request.operation), _cut(request.method), _cut(request.path), kept)

    def trouble(self, reason: str) -> None:
        """Count a connection that brought no request, or an answer that broke off."""
        reason = _cut(reason)
        if reason in self._troubles or len(self._troubles) < TROUBLES_LIMIT:
            self._troubles[reason] = self._troubles.get(reason, 0) + 1

    def handshake_failed(self, what: FailedHandshake) -> None:
        """Count a TLS handshake that came to nothing; `times` is not read."""
        if what in self._failed_handshakes or len(self._failed_handshakes) < TROUBLES_LIMIT:
            self._failed_handshakes[what] = self._failed_handshakes.get(what, 0) + 1
        else:
            self.trouble("TLS handshakes that failed, which are not listed")

    def report(self) -> MockReport:
        """What happened so far. Copies of dictionaries are made in one step of the interpreter, so no lock is needed."""
        return MockReport(
            self._service,
            self._started,
            time.time_ns(),
            tuple(BackendCount(*place, c.recorded, c.requests, c.matches, c.passed) for place, c in list(self._counts.items())),
            tuple(_miss(missed) for missed in list(self._misses.values())),
            self._more_misses,
            tuple(self._troubles.items()),
            failed_handshakes=tuple(replace(what, times=times) for what, times in list(self._failed_handshakes.items())),
        )


def _miss(found: _Missed) -> Miss:
    why = found.explanation
    return Miss(
        found.time, found.times, found.passed, *found.place, found.operation, found.method, found.path,
        why.reason, why.nearest, why.operation, why.differences,
    )  # fmt: skip
