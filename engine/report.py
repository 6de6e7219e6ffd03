"""What came of a run: the values that are shown, and the JSON that is kept (the contract with whoever reads it by program)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from engine.matching.explain import Difference

FORMAT = 1
"""Of the JSON; rises when a reader would have to know."""


@dataclass(frozen=True, slots=True)
class Miss:
    """Requests without an answer that are equal; nothing of them is shown that would be redacted in a recording.

    `time`: of the first, nanoseconds since the Unix epoch. `times`: how many. `nearest`: id of a recorded pair, or "".
    """

    time: int
    times: int
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
    """Connections to a destination that was not recorded: refused, or let through because it was not to be mocked.

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

    @property
    def misses(self) -> int:
        """Requests without an answer."""
        return self.requests - self.matches


@dataclass(frozen=True, slots=True)
class MockReport:
    """A run of responders. Times are nanoseconds since the Unix epoch. `more_misses`: those that `misses` had no room for.

    `troubles`: connections that brought no request, by reason. `refused` and `passed`: what the takeover of a command's calls
    met besides the responder's backends.
    """

    service: str
    started: int
    ended: int
    backends: tuple[BackendCount, ...]
    misses: tuple[Miss, ...]
    more_misses: int
    troubles: tuple[tuple[str, int], ...]
    refused: tuple[Call, ...] = ()
    passed: tuple[Call, ...] = ()

    @property
    def requests(self) -> int:
        """All requests."""
        return sum(backend.requests for backend in self.backends)

    @property
    def matches(self) -> int:
        """Those that were answered from the recording."""
        return sum(backend.matches for backend in self.backends)

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
            "responder_rate": self.responder_rate,
            "backends": [{**asdict(backend), "misses": backend.misses} for backend in self.backends],
            "misses": [asdict(miss) for miss in self.misses],
            "more_misses": self.more_misses,
            "troubles": dict(self.troubles),
            "refused": [asdict(call) for call in self.refused],
            "passed_through": [asdict(call) for call in self.passed],
        }
