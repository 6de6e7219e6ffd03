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

    `host`: the name that was asked for, or "". `reason`: why, where there is more to say than that it was not recorded.
    """

    host: str
    address: str
    port: int
    protocol: str
    command: str
    times: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Departed:
    """A process that left the cgroup of the command, and so what was taken over. `ended`: whether it was ended for that."""

    command: str
    pid: int
    cgroup: str
    ended: bool


@dataclass(frozen=True, slots=True)
class More:
    """What the lists of a report have no room for, in numbers of calls, and of processes that departed. `untold`: of either kind,
    lost on the way."""

    refused: int = 0
    passed: int = 0
    unrecorded: int = 0
    local: int = 0
    departed: int = 0
    untold: int = 0

    @property
    def missed(self) -> bool:
        """Whether any of it may have been a miss."""
        return bool(self.refused or self.unrecorded or self.departed or self.untold)


@dataclass(frozen=True, slots=True)
class FailedHandshake:
    """TLS handshakes that came to nothing. `command`: the client's program, or "". `reason`: OpenSSL's, mostly the client's
    alert."""

    host: str
    port: int
    command: str
    reason: str
    times: int = 0
    bundles: tuple[str, ...] = ()
    """Lists of certificates that the program read without the responder's authority in them."""

    @property
    def distrusted(self) -> bool:
        """Whether the client said that it does not trust the certificate (alerts of RFC 8446 section 6.2)."""
        return any(word in self.reason for word in ("UNKNOWN_CA", "BAD_CERTIFICATE", "CERTIFICATE_UNKNOWN"))


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
    of a command's calls met besides the responder's backends: `refused`; `passed` to backends that are left out by choice;
    `unrecorded`, let through to what the recording does not know, or cannot serve; `local`, to programs on this machine, which are
    left alone; `departed`, processes that got away; `more` of these; `news_ended`: why there was no more news of them before the
    command ended, or "".
    """

    service: str
    started: int
    ended: int
    backends: tuple[BackendCount, ...]
    misses: tuple[Miss, ...]
    more_misses: int
    troubles: tuple[tuple[str, int], ...]
    added_pairs: int = 0
    failed_handshakes: tuple[FailedHandshake, ...] = ()
    refused: tuple[Call, ...] = ()
    passed: tuple[Call, ...] = ()
    unrecorded: tuple[Call, ...] = ()
    local: tuple[Call, ...] = ()
    departed: tuple[Departed, ...] = ()
    more: More = More()
    news_ended: str = ""

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

    @property
    def missed(self) -> bool:
        """Whether anything that was called had no recorded answer, in whatever way it went."""
        unanswered = self.matches < self.requests or self.troubles or self.failed_handshakes or self.departed
        unknown = self.more.missed or self.news_ended
        return bool(unanswered or unknown or any(not self._is_tried_first(call) for call in (*self.refused, *self.unrecorded)))

    def _is_tried_first(self, call: Call) -> bool:
        """Whether it is QUIC being tried: a datagram to a place that is stood in for by TCP, where its caller comes again."""
        recorded = {(backend.host, backend.port) for backend in self.backends if backend.recorded}
        return call.protocol == "UDP" and not recorded.isdisjoint({(call.host, call.port), (call.address, call.port)})

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
            "local": [asdict(call) for call in self.local],
            "departed": [asdict(process) for process in self.departed],
            "more": {"passed_through" if kind == "passed" else kind: count for kind, count in asdict(self.more).items()},
            "news_ended": self.news_ended,
            "failed_handshakes": [asdict(failed) for failed in self.failed_handshakes],
            "missed": self.missed,
        }
