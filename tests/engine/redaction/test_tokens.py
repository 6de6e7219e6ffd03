from __future__ import annotations

import base64
import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.redaction import Redactor
from engine.redaction.originals import Originals
from engine.redaction.tokens import Tokens, is_luhn_valid, luhn_digit
from engine.rrpair import Message
from tests.engine.redaction.messages import REDACTOR, body_of, header_of, pair

TOKENS = Tokens(b"k" * 32)
JSON = b"application/json"

_numbers = st.integers(1, 10**19).map(lambda n: b"%d" % n)
_brands = st.sampled_from([b"4", b"51", b"2221", b"34", b"36", b"6011", b"35", b"62"])
_cards = st.tuples(_brands, st.text("0123456789", min_size=15, max_size=15), st.integers(13, 19)).map(
    lambda given: (given[0] + given[1].encode())[: given[2] - 1]
)


@given(st.binary(min_size=1, max_size=60))
def test_a_token_stands_for_itself(secret: bytes) -> None:
    token = TOKENS.value(secret, Originals())
    assert TOKENS.value(token, Originals()) == token


@given(_numbers)
def test_a_number_token_stands_for_itself(secret: bytes) -> None:
    token = TOKENS.number(secret, Originals())
    assert token != secret
    assert TOKENS.number(token, Originals()) == token
    assert json.loads(token) >= 0


@given(_cards, st.sampled_from([b"", b" ", b"-"]))
def test_a_card_token_stands_for_itself(body: bytes, joint: bytes) -> None:
    digits = body + luhn_digit(body)
    number = joint.join((digits[:4], digits[4:8], digits[8:12], digits[12:])) if len(digits) == 16 else digits
    token = TOKENS.card(number, Originals())
    assert is_luhn_valid(token.translate(None, b" -"))
    assert [c for c in token if c in b" -"] == [c for c in number if c in b" -"]
    assert TOKENS.card(token, Originals()) == TOKENS.value(token, Originals()) == token
    assert TOKENS.number(token.translate(None, b" -"), Originals()) == token.translate(None, b" -")


def test_tokens_differ_by_secret_and_by_key() -> None:
    made = {tokens.value(b"%d hunter" % n, Originals()) for tokens in (TOKENS, Tokens(b"j" * 32)) for n in range(100)}
    assert len(made) == 200
    assert len({TOKENS.number(b"%d" % n, Originals()) for n in range(100)}) > 95


@pytest.mark.parametrize("secret", [b"hunter2-9f8e7d6c", b"p@ss w%rd+/=", "pässword".encode()])
def test_one_secret_is_one_token_everywhere(secret: bytes) -> None:
    text = secret.decode()
    token = header_of(b"X-Api-Key", secret)
    quoted = b"".join(b"%%%02X" % byte for byte in secret)
    answer = json.loads(body_of(json.dumps({"access_token": text, "m": json.dumps({"secret": text})}).encode(), JSON))
    coded = body_of(gzip.compress(json.dumps({"token": text}).encode()), JSON, ((b"Content-Encoding", b"gzip"),))
    xml = text.replace("&", "&amp;").encode()
    assert answer["access_token"].encode() == token
    assert json.loads(answer["m"])["secret"].encode() == token
    assert json.loads(gzip.decompress(coded))["token"].encode() == token
    assert header_of(b"Authorization", b"Bearer " + secret) == b"Bearer " + token
    assert header_of(b"Cookie", b"a=" + quoted) == b"a=" + token
    assert header_of(b"Location", b"https://h/?token=" + quoted) == b"https://h/?token=" + token
    assert body_of(b"a=1&password=" + quoted, b"application/x-www-form-urlencoded") == b"a=1&password=" + token
    assert body_of(b"<a><password>" + xml + b"</password></a>", b"text/xml") == b"<a><password>" + token + b"</password></a>"
    assert REDACTOR.pair(pair(target=b"/x?api_key=" + quoted)).query == (("api_key", token.decode()),)
    basic = header_of(b"Authorization", b"Basic " + base64.b64encode(b"u:" + secret))
    assert base64.b64decode(basic.removeprefix(b"Basic ")).endswith(b":" + token)


def test_a_token_of_an_answer_that_is_sent_back_is_the_same_request() -> None:
    """What mock does: the client of the recording had the secret, the client of the mock has its token."""
    answer = json.loads(body_of(b'{"access_token":"hunter2-9f8e7d6c","id":"4000056655665556","pin":1234}', JSON))

    def request(token: str, order: str, pin: int) -> Message:
        body = json.dumps({"order": order, "pin": pin, "note": f"token={token}"}).encode()
        headers = ((b"Authorization", b"Bearer " + token.encode()), (b"Content-Type", JSON), (b"Cookie", b"t=" + token.encode()))
        return REDACTOR.message(Message(f"POST /o/{order}?token={token} HTTP/1.1".encode(), headers, body), set())

    assert answer["id"] == "4000056655665556"
    recorded = request("hunter2-9f8e7d6c", "4000056655665556", 1234)
    assert request(answer["access_token"], answer["id"], answer["pin"]) == recorded
    assert b"hunter2" not in recorded.body


def test_another_snapshot_has_other_tokens() -> None:
    secret = pair(b'{"password":"hunter2"}', JSON)
    assert Redactor(b"j" * 32).pair(secret).request.body != REDACTOR.pair(secret).request.body
