"""An RRPair as JSON, one object a line: the contract with whoever reads recordings by program.

Header strings are latin-1 (each character is a byte), bodies base64, times RFC 3339 in UTC to the nanosecond,
durations seconds.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from dataclasses import asdict
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from engine.rrpair import Connection, Direction, Fields, Message, Role, RRPair

NANO = 1_000_000_000


def to_json(pair: RRPair) -> dict[str, Any]:
    """Give what `json.dumps` makes a line of."""
    return {
        "id": pair.id,
        "time": format_time(pair.time),
        "duration": pair.duration / NANO,
        "request_ended": pair.request_ended / NANO,
        "response_started": pair.response_started / NANO,
        "direction": pair.direction.value,
        "service": pair.service,
        "protocol": pair.protocol,
        "technology": list(pair.technology),
        "tls": pair.connection.tls,
        "host": pair.host,
        "port": pair.port,
        "method": pair.method,
        "path": pair.path,
        "query": [list(parameter) for parameter in pair.query],
        "operation": pair.operation,
        "status": pair.status,
        "request": _message(pair.request),
        "interim": [_message(message) for message in pair.interim],
        "response": _message(pair.response) if pair.response else None,
        "complete": pair.complete,
        "missing": list(pair.missing),
        "redacted": list(pair.redacted),
        "connection": {**asdict(pair.connection), "role": pair.connection.role.name.lower()},
        "signature": pair.signature,
    }


def from_json(line: dict[str, Any]) -> RRPair:
    """Undo `to_json`. Raises KeyError, ValueError or TypeError on anything else."""
    connection = {**line["connection"], "role": Role[line["connection"]["role"].upper()]}
    return RRPair(
        id=line["id"],
        time=parse_time(line["time"]),
        direction=Direction(line["direction"]),
        service=line["service"],
        protocol=line["protocol"],
        host=line["host"],
        port=line["port"],
        method=line["method"],
        path=line["path"],
        query=tuple((name, value) for name, value in line["query"]),
        operation=line["operation"],
        request=_from_message(line["request"]),
        connection=Connection(**connection),
        status=line["status"],
        response=_from_message(line["response"]) if line["response"] else None,
        interim=tuple(_from_message(message) for message in line["interim"]),
        request_ended=_nanoseconds(line["request_ended"]),
        response_started=_nanoseconds(line["response_started"]),
        duration=_nanoseconds(line["duration"]),
        technology=tuple(line["technology"]),
        missing=tuple(line["missing"]),
        redacted=tuple(line["redacted"]),
        signature=dict(line["signature"]),
    )


def format_time(time: int) -> str:
    """Nanoseconds since the Unix epoch as RFC 3339."""
    seconds, nano = divmod(time, NANO)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{nano:09d}Z"


def parse_time(text: str) -> int:
    """Undo `format_time`. Raises ValueError."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    seconds = datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp()
    return int(seconds) * NANO + int(fraction.ljust(9, "0"))


def _nanoseconds(seconds: float) -> int:
    return int((Decimal(repr(seconds)) * NANO).to_integral_value())


def _message(message: Message) -> dict[str, Any]:
    return {
        "start_line": message.start_line.decode("latin-1"),
        "headers": _fields(message.headers),
        "trailers": _fields(message.trailers),
        "body": b64encode(message.body).decode("ascii"),
        "messages": [],
    }


def _from_message(message: dict[str, Any]) -> Message:
    return Message(
        message["start_line"].encode("latin-1"),
        _from_fields(message["headers"]),
        b64decode(message["body"], validate=True),
        _from_fields(message["trailers"]),
    )


def _fields(fields: Fields) -> list[list[str]]:
    return [[name.decode("latin-1"), value.decode("latin-1")] for name, value in fields]


def _from_fields(fields: list[list[str]]) -> Fields:
    return tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in fields)
