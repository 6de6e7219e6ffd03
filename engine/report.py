"""What came of a run: the values that are shown, and the JSON that is kept (the contract with whoever reads it by program)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from engine.matching.explain import Difference

FORMAT = 1
"""Of the JSON; rises when a reader would have to know."""


@dataclass(frozen=True, slots=True)
class Miss:
    """Requests without a recorded answer that are equal; nothing of them is shown that would be redacted in a recording.

    `time`: of the first, nanoseconds since the Unix epoch. `times`: how many. `passed`: how many of them the real backend
    answered. `nearest`: id of a recorded pair, or "".
    """

    time: int
    times: int
    passed: int
    host: str
    port: int
    operation: str
    method: str
    path: str
    reason: str
    nearest: str
    nearest_operation: str
    differences: tuple[Difference, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """Connections that did not go to the responder.

    `host`: the name that was asked for, or "".
    """

    host: str
    address: str
    port: int
    protocol: str
    command: str
    times: int


@dataclass(frozen=True, slots=True)
class BackendCount:
    """What a backend was asked. `recorded`: whether the snapshot has it and it was stood in for."""

    host: str
    port: int
    recorded: bool
    requests: int
    matches: int
    passed: int = 0
    """Answered by the real backend."""

    @property
    def misses(self) -> int:
        """Requests without an answer."""
        return self.requests - self.matches - self.passed


@dataclass(frozen=True, slots=True)
class MockReport:
    """A run of responders. Times are nanoseconds since the Unix epoch. `more_misses`: those that `misses` had no room for.

    `troubles`: connections that brought no request, by reason. `added_pairs`: those that went into the snapshot. What the takeover
    of a command's calls met besides the responder's backends: `refused`; `passed` to backends that are not mocked;
    `unrecorded`, let through to what the recording does not know.
    """

    service: str
    started: int
    ended: int
    backends: tuple[BackendCount, ...]
    misses: tuple[Miss, ...]
    more_misses: int
    troubles: tuple[tuple[str, int], ...]
    added_pairs: int = 0
    refused: tuple[Call, ...] = ()
    passed: tuple[Call, ...] = ()
    unrecorded: tuple[Call, ...] = ()

    @property
    def requests(self) -> int:
        """All requests."""
        return sum(backend.requests for backend in self.backends)

    @property
    def matches(self) -> int:
        """Those that were answered from the recording."""
        return sum(backend.matches for backend in self.backends)

    @property
    def passed_requests(self) -> int:
        """Those that real backends answered."""
        return sum(backend.passed for backend in self.backends)

    @property
    def responder_rate(self) -> float | None:
        """Share of the requests that were answered from the recording; None without requests."""
        return self.matches / self.requests if self.requests else None

    def to_json(self) -> dict[str, Any]:
        """Give what is kept as JSON."""
        return {
            "format": FORMAT,
            "mode": "responder-only",
            "service": self.service,
            "started": self.started,
            "ended": self.ended,
            "requests": self.requests,
            "matches": self.matches,
            "passed": self.passed_requests,
            "responder_rate": self.responder_rate,
            "backends": [{**asdict(backend), "misses": backend.misses} for backend in self.backends],
            "misses": [asdict(miss) for miss in self.misses],
            "more_misses": self.more_misses,
            "troubles": dict(self.troubles),
            "added_pairs": self.added_pairs,
            "refused": [asdict(call) for call in self.refused],
            "passed_through": [asdict(call) for call in self.passed],
            "unrecorded": [asdict(call) for call in self.unrecorded],
        }
