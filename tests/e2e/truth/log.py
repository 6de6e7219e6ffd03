"""What really went over the wire, as one side wrote it down: the measure of what was captured."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

Headers = tuple[tuple[str, str], ...]
"""Header fields in order, names as sent, bytes as latin-1."""


@dataclass(frozen=True, slots=True)
class Digest:
    """Length and SHA-256 (hexadecimal) of a body."""

    length: int
    sha256: str

    @classmethod
    def of(cls, body: bytes) -> Digest:
        """Digest of a whole body."""
        return cls(len(body), hashlib.sha256(body).hexdigest())


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and its response. `connection` is the client's "address:port", `index` counts the requests on it."""

    marker: str
    connection: str
    index: int
    request_line: str
    request_headers: Headers
    request: Digest
    status: int
    response_headers: Headers
    response: Digest


@dataclass(frozen=True, slots=True)
class Told:
    """An exchange as a client program tells it. `connection` is a number that the client gave it."""

    marker: str
    connection: int
    request: Digest
    status: int
    response: Digest


def write_told(path: Path, lines: Iterable[Told]) -> None:
    """Writes a client's log, one JSON object a line."""
    path.write_text("".join(json.dumps(asdict(line)) + "\n" for line in lines))


def read_told(path: Path) -> list[Told]:
    """Reads a client's log."""
    return [_told(json.loads(line)) for line in path.read_text().splitlines()]


def _told(line: dict[str, object]) -> Told:
    halves = {name: Digest(**line.pop(name)) for name in ("request", "response")}  # type: ignore[arg-type]
    return Told(**line, **halves)  # type: ignore[arg-type]
