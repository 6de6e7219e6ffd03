from __future__ import annotations

import base64
import json
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from engine.formats.rrpair import format_time, from_json, parse_time, to_json
from engine.rrpair import Connection, Direction, Message, Role, RRPair

_fields = st.lists(st.tuples(st.binary(max_size=5), st.binary(max_size=5)), max_size=3).map(tuple)
_messages = st.builds(Message, st.binary(max_size=20), _fields, st.binary(max_size=20), _fields)
_nanos = st.integers(0, 10**12)
_pairs = st.builds(
    RRPair,
    st.text(max_size=4),
    st.integers(0, 4 * 10**18),
    st.sampled_from(Direction),
    st.text(max_size=3),
    st.just("http/1.1"),
    st.text(max_size=5),
    st.integers(0, 65535),
    st.text(max_size=4),
    st.text(max_size=4),
    st.lists(st.tuples(st.text(max_size=3), st.text(max_size=3)), max_size=2).map(tuple),
    st.text(max_size=4),
    _messages,
    st.builds(Connection, st.text(max_size=3), st.booleans(), st.sampled_from(Role)),
    st.integers(0, 999),
    st.none() | _messages,
    st.lists(_messages, max_size=2).map(tuple),
    _nanos,
    _nanos,
    _nanos,
    st.lists(st.text(max_size=3), max_size=2).map(tuple),
    st.lists(st.text(max_size=3), max_size=2).map(tuple),
    st.lists(st.text(max_size=3), max_size=2).map(tuple),
    st.dictionaries(st.text(max_size=2), st.text(max_size=2), max_size=2),
)


@given(_pairs)
def test_there_and_back(pair: RRPair) -> None:
    assert from_json(json.loads(json.dumps(to_json(pair)))) == pair


def test_the_contract() -> None:
    message = Message(b"GET / HTTP/1.1", ((b"A", b"\xff"),), b"\x00\xff", ((b"T", b"1"),))
    pair = RRPair(
        "ab",
        1_767_225_600_123_456_789,
        Direction.OUT,
        "s",
        "http/1.1",
        "h",
        443,
        "GET",
        "/",
        (("a", "b"),),
        "GET /",
        message,
        Connection("c", tls=True),
        200,
        message,
        duration=1_500_000_000,
        missing=("response body",),
    )
    line = to_json(pair)
    names = "id time duration direction service protocol technology tls host port method path query operation status"
    assert set(line) >= {
        *names.split(),
        *["request", "response", "complete", "missing", "signature", "interim", "redacted", "connection"],
    }
    assert line["time"] == "2026-01-01T00:00:00.123456789Z"
    assert line["duration"] == 1.5
    assert line["complete"] is False
    assert line["request"]["headers"] == [["A", "\xff"]]
    assert base64.b64decode(line["request"]["body"]) == b"\x00\xff"


@given(st.integers(0, 4 * 10**18))
def test_times(time: int) -> None:
    text = format_time(time)
    assert parse_time(text) == time
    assert datetime.fromisoformat(text[:26] + "+00:00").timestamp() == datetime.fromtimestamp(time // 1000 / 1e6, UTC).timestamp()
