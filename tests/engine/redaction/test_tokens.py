from __future__ import annotations

import base64
import gzip
import json
import uuid
from collections.abc import Callable

import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from engine.redaction import Redactor
from engine.redaction.handed_out import handed_out
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


# -- forms -----------------------------------------------------------------------------------------------------------------

_formed = st.one_of(
    st.uuids().map(str),
    st.uuids().map(lambda made: str(made).upper()),
    st.binary(min_size=16, max_size=64).map(bytes.hex),
    st.binary(min_size=16, max_size=200).map(lambda secret: base64.b64encode(secret).decode()),
    st.binary(min_size=16, max_size=200).map(lambda secret: base64.urlsafe_b64encode(secret).decode()),
    st.text(min_size=16, max_size=60).map(lambda text: base64.b64encode(text.encode()).decode()),
    st.from_regex(r"[a-z]{3,9}:[a-z0-9:]{16,30}", fullmatch=True).map(lambda text: base64.b64encode(text.encode()).decode()),
)


@given(_formed)
def test_a_form_is_kept_and_stands_for_itself(secret: str) -> None:
    token = TOKENS.value(secret.encode(), Originals())
    assert TOKENS.value(token, Originals()) == token
    assert TOKENS.is_of(token, secret.encode())
    if secret.endswith("=") and len(secret) % 4 == 0:
        assert base64.b64encode(base64.b64decode(token, validate=True)) == token
        assert base64.urlsafe_b64encode(base64.urlsafe_b64decode(token)) == token
    again = body_of(json.dumps({"password": secret}).encode(), JSON)
    assert body_of(again, JSON) == again
    assert header_of(b"X-Api-Key", secret.encode()).decode() == json.loads(again)["password"] != secret


@given(st.binary(min_size=16, max_size=100).filter(lambda secret: any(byte >= 0xF8 for byte in secret)))
def test_bytes_in_base64_stay_as_many(secret: bytes) -> None:
    """0xF8 and above is in no UTF-8, so these are no text."""
    token = TOKENS.value(base64.b64encode(secret), Originals())
    if base64.b64encode(secret).endswith(b"="):
        assert len(base64.b64decode(token, validate=True)) == len(secret)
        assert base64.b64decode(token) != secret


def test_clients_read_what_stands_in_for_their_keys() -> None:
    key, session = Fernet.generate_key(), str(uuid.uuid4())
    told = json.loads(body_of(json.dumps({"secret_key": key.decode(), "session_id": session, "token": "ab" * 32}).encode(), JSON))
    Fernet(told["secret_key"])
    assert uuid.UUID(told["session_id"]).version == 4
    assert str(uuid.UUID(told["session_id"])) == told["session_id"] != session
    assert len(bytes.fromhex(told["token"])) == 32
    capitals = TOKENS.value(session.upper().encode(), Originals())
    assert uuid.UUID(capitals.decode()) == uuid.UUID(TOKENS.value(session.encode(), Originals()).decode())


def test_text_in_base64_stays_text() -> None:
    def decoded(text: str) -> str:
        return base64.b64decode(TOKENS.value(base64.b64encode(text.encode()), Originals()), validate=True).decode()

    assert decoded("correct horse battery") == TOKENS.value(b"correct horse battery", Originals()).decode()
    user, password = decoded("AWS:eyJwYXlsb2FkIjoi").split(":")
    assert (user, password) == tuple(TOKENS.value(part, Originals()).decode() for part in (b"AWS", b"eyJwYXlsb2FkIjoi"))
    beside = base64.b64encode(TOKENS.value(b"user", Originals()) + b":a real password")
    assert b"a real password" not in base64.b64decode(TOKENS.value(beside, Originals()))


def test_json_in_a_secret_stays_json() -> None:
    secret = {
        "username": "app",
        "password": "hunter2",
        "host": "db.example",
        "port": 5432,
        "l": ["s3", {"db_secret": {"pw": "x9"}}],
    }
    for text in (json.dumps(secret), json.dumps(secret, indent=1)):
        body = body_of(json.dumps({"SecretString": text}).encode(), JSON)
        told = json.loads(json.loads(body)["SecretString"])
        assert told["password"] == TOKENS.value(b"hunter2", Originals()).decode()
        assert (told["host"], told["port"]) == ("db.example", 5432)
        assert not any(each in body for each in (b'app"', b"hunter2", b"s3", b"x9"))
        assert body_of(body, JSON) == body
    assert json.loads(body_of(b'{"secret":"{broken"}', JSON))["secret"].startswith("REDACTED-")


def test_a_connection_string_keeps_its_parts() -> None:
    key = base64.b64encode(b"\xff" * 64).decode()
    text = f"DefaultEndpointsProtocol=https;AccountName=shop;AccountKey={key};EndpointSuffix=core.windows.net"
    body = body_of(json.dumps({"connectionString": text}).encode(), JSON)
    parts = dict(part.split("=", 1) for part in json.loads(body)["connectionString"].split(";"))
    assert len(base64.b64decode(parts.pop("AccountKey"), validate=True)) == 64
    assert parts == {"DefaultEndpointsProtocol": "https", "AccountName": "shop", "EndpointSuffix": "core.windows.net"}
    assert key.encode() not in body
    assert body_of(body, JSON) == body
    signed = body_of(b'{"connectionString":"BlobEndpoint=https://h/;SharedAccessSignature=sv=2020&sig=abc%3D"}', JSON)
    assert b"sig=" not in signed
    assert b"BlobEndpoint=https://h/;" in signed


@pytest.mark.parametrize(
    "secret",
    [b"6f9619ff-8b86-4011-b42d-00cf4fc964ff", b"6F9619FF-8B86-4011-B42D-00CF4FC964FF", b"ab" * 16, base64.b64encode(b"\xff" * 16)]
    + [base64.b64encode(text) for text in (b"correct horse battery", b"user:a-password-of-his", b"\xff" * 33)],
)
def test_a_token_of_any_form_was_handed_out(secret: bytes) -> None:
    token = TOKENS.value(secret, Originals())
    for text in (token, b"before " + token + b" behind", base64.b64decode(token) if token.startswith(b"Uk") else token):
        assert handed_out(Message(b"POST / HTTP/1.1", (), text))
    for shift in range(3):
        assert handed_out(Message(b"POST / HTTP/1.1", (), base64.b64encode(b"x" * shift + TOKENS.value(b"hunter2", Originals()))))
    assert not handed_out(Message(b"POST / HTTP/1.1", (), secret))


# -- short base64 ----------------------------------------------------------------------------------------------------------

HELD = [
    lambda value: {"Plaintext": value, "KeyId": "k"},
    lambda value: {"ARN": "a", "SecretBinary": value},
    lambda value: {"Item": {"password": {"B": value}}},
    lambda value: {"Item": {"password": {"BS": [value]}}},
    lambda value: {"data": {"password": value}, "kind": "Secret", "apiVersion": "v1"},
    lambda value: {"kind": "SecretList", "items": [{"data": {"password": value}, "type": "Opaque"}]},
    lambda value: {"password": {"payload": {"data": value}}},
]  # fmt: skip
"""Where a client decodes base64, whatever it holds."""


def _secret_in(document: object) -> str:
    """The one text of a document that is a token or holds one."""
    if isinstance(document, dict | list):
        return "".join(map(_secret_in, document.values() if isinstance(document, dict) else document))
    return str(document) if "UkVEQUNURUQ" in str(document) else ""


@pytest.mark.parametrize("held", HELD)
@pytest.mark.parametrize("secret", [b"A", b"abc", b"password1", b"12", b"\xff", b"\xff\xfe\xfd", b"\xd7\x6d\xf8", b"\x00" * 15])
def test_short_base64_stays_base64_where_clients_decode_it(held: Callable[[str], object], secret: bytes) -> None:
    value = base64.b64encode(secret).decode()
    told = body_of(json.dumps(held(value)).encode(), JSON)
    token = _secret_in(json.loads(told))
    decoded = base64.b64decode(token, validate=True)
    assert json.loads(told) == held(token)
    assert base64.b64encode(decoded).decode() == token != value
    assert decoded == TOKENS.value(secret, Originals()) if secret in (b"A", b"abc", b"password1") else b"REDACTED" in decoded
    assert body_of(told, JSON) == told
    assert TOKENS.value(token.encode(), Originals()) == token.encode()
    assert TOKENS.is_of(token.encode(), value.encode())
    for text in (token.encode(), decoded):
        assert handed_out(Message(b"POST / HTTP/1.1", (), text))


def test_short_base64_with_padding_is_base64_under_any_secret_name() -> None:
    for value in ("QQ==", "YWI=", "aHVudGVyMg==", "/w==", "__8="):
        token = json.loads(body_of(json.dumps({"api_token": value}).encode(), JSON))["api_token"]
        assert b"REDACTED" in base64.b64decode(token, validate=True)
    for value in ("YWJj", "QR==", "a=b=", "hunter22"):
        told = json.loads(body_of(json.dumps({"data": {"password": value}}).encode(), JSON))
        assert told["data"]["password"].startswith("REDACTED-")


def test_short_base64_stands_for_one_secret_only() -> None:
    secrets = [base64.b64encode(bytes([0xFF, first, second])) for first in range(64) for second in range(64)]
    assert len({TOKENS.value(secret, Originals(), base64=True) for secret in secrets}) == len(secrets)
