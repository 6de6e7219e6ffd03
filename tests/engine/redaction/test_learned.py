"""What an answer tells as a secret is none in the clear in what follows, wherever it stands."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from engine.redaction import Redactor, learned
from engine.redaction.alone import Alone
from engine.redaction.learned import Learned
from engine.rrpair import Message, RRPair
from tests.engine.making import Exchange, pairs_of, write_snapshot

TOKEN = "tok-5af6c0ffee81"
LOGIN = Exchange("POST /login", b'{"access_token":"%b"}' % TOKEN.encode(), body=b"{}")
JSON = (("Content-Type", "application/json"),)


def redacted(*exchanges: Exchange) -> list[RRPair]:
    redactor = Redactor(bytes(32))
    return [redactor.pair(pair) for pair in pairs_of(*exchanges)]


def everything(pair: RRPair) -> bytes:
    messages = (pair.request, *((pair.response,) if pair.response else ()))
    parts = [b"".join((m.start_line, *(name + value for name, value in m.headers), m.body)) for m in messages]
    return b"".join((*parts, repr((pair.path, pair.query, pair.operation)).encode()))


ECHOES = {
    "query": Exchange(f"GET /echo?t={TOKEN}"),
    "path": Exchange(f"GET /session/{TOKEN}"),
    "escaped": Exchange(f"GET /echo?u=%2Fsession%2F{TOKEN}%3Fa"),
    "body": Exchange("POST /echo", body=b'{"ticket":"%b"}' % TOKEN.encode(), headers=JSON),
    "header": Exchange("GET /echo", headers=(("X-Ticket", TOKEN),)),
    "answer": Exchange("GET /echo", b'{"you sent":"%b"}' % TOKEN.encode()),
    "compressed answer": Exchange(
        "GET /echo", gzip.compress(b'{"you sent":"%b"}' % TOKEN.encode()), answer_headers=(*JSON, ("Content-Encoding", "gzip"))
    ),
}


@pytest.mark.parametrize("name", ECHOES)
def test_a_secret_of_an_answer_is_known_wherever_it_comes_again(name: str) -> None:
    login, echo = redacted(LOGIN, ECHOES[name])
    assert login.response
    standing_in = login.response.body.split(b'"')[3]
    assert standing_in.startswith(b"REDACTED-")
    found = everything(echo)
    if name == "compressed answer":
        assert echo.response
        found += gzip.decompress(echo.response.body)
    assert TOKEN.encode() not in found
    assert standing_in in found
    assert echo.redacted == ("repeated",)


def test_a_client_that_sends_what_stands_in_for_it_asks_the_same() -> None:
    login, echo = redacted(LOGIN, ECHOES["path"])
    assert login.response
    standing_in = login.response.body.split(b'"')[3]
    live, _ = Redactor(bytes(32)).request(Message(b"GET /session/%b HTTP/1.1" % standing_in, echo.request.headers))
    assert live.start_line == echo.request.start_line


def test_what_a_client_brings_itself_is_not_learned() -> None:
    """It brings it again under mock, perhaps without the request that named it."""
    _, echo = redacted(Exchange("GET /a", headers=(("X-Api-Key", TOKEN),)), ECHOES["query"])
    assert TOKEN in echo.query[0][1]


@pytest.mark.parametrize("told", ["sunshine", "1234567", "tok-5af", "word word wo1", "aaaaaaaaaaaaaaaa"])
def test_what_may_be_something_else_is_not_learned(told: str) -> None:
    _, echo = redacted(
        Exchange("POST /login", b'{"password":"%b"}' % told.encode()), Exchange("GET /echo", headers=(("X-A", told),))
    )
    assert dict(echo.request.headers)[b"X-A"] == told.encode()


@pytest.mark.parametrize("told", ["kdkslfkjdlskfj", "48151623", "ab12cd34", "a1b2.c3d4.e5f6"])
def test_what_may_be_a_word_or_number_is_known_where_it_stands_alone(told: str) -> None:
    before = json.dumps(
        {"a": f"x{told} {told}x", "b": f"/{told}/x", "c": f"-{told}", "d": f"{told}.5", "kdkslfkjdlskfj": f"u=%2F{told}"}
    )
    login, echo = redacted(Exchange("POST /login", b'{"session_id":"%b"}' % told.encode()), Exchange("GET /echo", before.encode()))
    assert login.response
    assert echo.response
    token = json.loads(login.response.body)["session_id"]
    expected = json.loads(before)
    expected |= {"b": f"/{token}/x", "kdkslfkjdlskfj": f"u=%2F{token}"}
    assert json.loads(echo.response.body) == expected


def test_two_numbers_with_one_token_are_not_both_known() -> None:
    known = Alone()
    known.learn(b"48151623", b"712345678901234")
    known.learn(b"48151624", b"712345678901234")
    assert known.replaced(b"/48151623/48151624") == b"/712345678901234/48151624"


@pytest.mark.parametrize("before", range(learned.PIECE - 20, learned.PIECE + 4))
def test_a_secret_is_found_where_a_long_text_is_taken_in_pieces(before: int) -> None:
    known = Learned()
    known.learn({TOKEN.encode(): b"REDACTED-secret-1"})
    text = b"x" * before + b'"' + TOKEN.encode() + b'"' + b"y" * learned.PIECE
    assert known.found(text)
    assert known.replaced(text) == text.replace(TOKEN.encode(), b"REDACTED-secret-1")


def test_the_latest_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learned, "SECRETS_LIMIT", 2)
    known = Learned()
    for n in range(3):
        known.learn({b"tok-00000000%d" % n: b"REDACTED-secret-%d" % n})
    assert [known.found(b"/tok-00000000%d/" % n) for n in range(3)] == [False, True, True]
    assert len(known._by_word) == 2


def test_a_recording_has_it_nowhere(tmp_path: Path) -> None:
    path = write_snapshot(tmp_path / "a.snapshot", LOGIN, *(each for name, each in ECHOES.items() if "compressed" not in name))
    assert TOKEN.encode() not in path.read_bytes()
