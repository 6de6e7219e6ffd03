"""What an answer tells as a secret is none in the clear in what follows, wherever it stands."""

from __future__ import annotations

import base64
import gzip
import html
import json
import random
import re
import string
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest

from engine.redaction import Digest, Redactor, echoes, learned, lengths, spelt
from engine.redaction.alone import Alone
from engine.redaction.learned import Learned
from engine.redaction.tokens import Tokens
from engine.rrpair import Message, RRPair
from engine.snapshot import Snapshot
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


@pytest.mark.parametrize(
    "told",
    [
        "sunshine",
        "1234567",
        "tok-5af",
        "word word wo1",
        "aaaaaaaaaaaaaaaa",
        "unauthenticated",
        "too-short-password",
        "20261124",
        "1732456789",
    ],
)
def test_what_may_be_something_else_is_not_learned(told: str) -> None:
    _, echo = redacted(
        Exchange("POST /login", b'{"password":"%b"}' % told.encode()), Exchange("GET /echo", headers=(("X-A", told),))
    )
    assert dict(echo.request.headers)[b"X-A"] == told.encode()


@pytest.mark.parametrize("told", ["kdkslfkjdlskfjqwpeoi", "48151623", "ab12cd34", "a1b2.c3d4"])
def test_what_may_be_a_word_or_number_is_known_where_it_stands_alone(told: str) -> None:
    before = json.dumps(
        {"a": f"x{told} {told}x", "b": f"/{told}/x", "c": f"-{told}", "d": f"{told}.5", "kdkslfkjdlskfjqwpeoi": f"u=%2F{told}"}
    )
    login, echo = redacted(Exchange("POST /login", b'{"session_id":"%b"}' % told.encode()), Exchange("GET /echo", before.encode()))
    assert login.response
    assert echo.response
    token = json.loads(login.response.body)["session_id"]
    expected = json.loads(before)
    expected |= {"b": f"/{token}/x", "kdkslfkjdlskfjqwpeoi": f"u=%2F{token}"}
    assert json.loads(echo.response.body) == expected


ORDINARY = {
    "a region": ("region=eu-west-1", "eu-west-1"),
    "a variant": ("ab=checkout-v2", "checkout-v2"),
    "a release": ("release=2024-11-24-rc1", "2024-11-24-rc1"),
    "a user": ("user=octocat-99", "octocat-99"),
    "a state": ("session=unauthenticated", "unauthenticated"),
    "a day": ("session=20261124", "20261124"),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_a_cookie_that_is_no_secret_changes_nothing_else(name: str) -> None:
    cookie, value = ORDINARY[name]
    page = Exchange("GET /home", b"<html></html>", answer_headers=(("Set-Cookie", f"{cookie}; Path=/"),))
    other = Exchange(f"GET /{value}/a?b={value}", json.dumps({"a": value, value: {"b": 1}}).encode(), host="other.example.com")
    home, kept = redacted(page, other)
    assert home.response
    assert b"REDACTED-" in dict(home.response.headers)[b"Set-Cookie"] or value.isdigit()
    assert kept == pairs_of(page, other)[1]


@pytest.mark.parametrize("told", [TOKEN, "48151623", "ab12cd34", "2f1c7a90-5b1e-4c8f-9d3a-7e6b5a4c3d2e"])
def test_a_random_name_of_json_is_replaced_as_a_value_is(told: str) -> None:
    """As in a map from sessions: a client looks up what stands in for it."""
    text = json.dumps({told: {"a": told}, "b": json.dumps({told: 1})})
    _, echo = redacted(Exchange("POST /login", json.dumps({"session_id": told}).encode()), Exchange("GET /echo", text.encode()))
    assert echo.response
    found = json.loads(echo.response.body)
    standing_in = found[next(name for name in found if name != "b")]["a"]
    assert standing_in != told
    assert set(found) == {standing_in, "b"}
    assert json.loads(found["b"]) == {standing_in: 1}


def test_two_numbers_with_one_token_are_not_both_known() -> None:
    known = Alone()
    known.learn(b"48151623", b"712345678901234")
    known.learn(b"48151624", b"712345678901234")
    assert known.replaced(b"/48151623/48151624") == b"/712345678901234/48151624"


@pytest.mark.parametrize("before", range(lengths.PIECE - 20, lengths.PIECE + 4))
def test_a_secret_is_found_where_a_long_text_is_taken_in_pieces(before: int) -> None:
    known = Learned()
    known.learn({TOKEN.encode(): b"REDACTED-secret-1"})
    text = b"x" * before + b'"' + TOKEN.encode() + b'"' + b"y" * lengths.PIECE
    assert known.found(text)
    assert known.replaced(text) == text.replace(TOKEN.encode(), b"REDACTED-secret-1")


def test_the_latest_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learned, "SECRETS_LIMIT", 2)
    known = Learned()
    for n in range(3):
        known.learn({b"tok-5af6c0ffee8%d" % n: b"REDACTED-secret-%d" % n})
    assert [known.found(b"/tok-5af6c0ffee8%d/" % n) for n in range(3)] == [False, True, True]
    assert len(known._by_word) == 2


def test_one_that_is_told_again_is_one_of_the_latest(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a CSRF token is with each page; those that are known alone and the others are one count."""
    monkeypatch.setattr(learned, "SECRETS_LIMIT", 4)
    known = Learned()
    secrets = {secret: Tokens(b"").token("secret", secret) for secret in (b"tok-5af6c0ffee80", b"ab12cd34")}
    kept: dict[bytes, Digest] = {}
    for n in range(2, 30):
        other = b"a1b2c3%02d" % n if n % 2 else b"5af6c0ffee9%02d" % n
        known.learn({**secrets, other: b"REDACTED-secret-%015x" % n})
        for digest in known.take_new():
            kept.pop(digest.word, None)
            kept[digest.word] = digest
        assert len(known._told) == len(known._by_word) + len(known._alone._tokens) == min(n + 1, 4)
        latest = Learned(b"", list(kept.values())[-4:])
        for secret, token in secrets.items():
            for each in (known, latest):
                assert each.found(b"/%b/" % secret)
                assert each.replaced(b"/%b/" % secret) == b"/%b/" % token
    assert sum(digest.token in secrets.values() for digest in kept.values()) == 2


def test_a_recording_has_it_nowhere(tmp_path: Path) -> None:
    path = write_snapshot(tmp_path / "a.snapshot", LOGIN, *(each for name, each in ECHOES.items() if "compressed" not in name))
    assert TOKEN.encode() not in path.read_bytes()


# -- as others write it ------------------------------------------------------------------------------------------------


def in_lower_case(text: str) -> str:
    """As .NET's HttpUtility writes escapes."""
    return "".join(char if char.isalnum() else "".join(f"%{byte:02x}" for byte in char.encode()) for char in text)


def in_json(text: str) -> str:
    """Not for Windows-1252 or the like: as header fields have it here."""
    return json.dumps(text)[1:-1]


SPELLINGS: dict[str, Callable[[str], str]] = {
    "lower-case escapes": in_lower_case,
    "a step of a path": lambda text: quote(text, safe="+=!$&'()*,;:@"),
    "only slashes": lambda text: text.replace("/", "%2F"),
    "escaped twice": lambda text: quote(quote(text, safe=""), safe=""),
    "escaped twice in lower case": lambda text: in_lower_case(in_lower_case(text)),
    "a form": lambda text: quote_plus(text, safe=""),
    "JSON": in_json,
    "JSON of PHP": lambda text: in_json(text).replace("/", "\\/"),
    "JSON of Gson": lambda text: "".join(f"\\u{ord(char):04x}" if char in "=&<>'" else in_json(char) for char in text),
    "JSON in JSON": lambda text: in_json(in_json(text).replace("/", "\\/")),
    "JSON in a query": lambda text: quote(in_json(text).replace("/", "\\/"), safe=""),
    "JavaScript": lambda text: "".join(char if char.isalnum() else f"\\x{ord(char):02x}" for char in text),
    "HTML": lambda text: html.escape(text),
    "HTML by number": lambda text: "".join(char if char.isalnum() else f"&#{ord(char)};" for char in text),
    "HTML by hexadecimal number": lambda text: "".join(char if char.isalnum() else f"&#x{ord(char):X};" for char in text),
}
SPELT = [
    "q7Rk2vXb9T/Lm3ZpW8c+Yd5NfH1sUa6e/g==",
    "/Zk3vT9qLm2xR7b=",
    "Zk3vT9qLm2xR7b:p w",
    'aB3$x"k9Zq<4w&Lm2>/xR7b',
    "9f86d081884c7d659a2feaa0c55ad015",
]


@pytest.mark.parametrize("name", SPELLINGS)
@pytest.mark.parametrize("secret", SPELT)
@pytest.mark.parametrize(
    "around", ["{}", "before {} after", "/x/{}", "x={}&y", "well,\\n{}\\n", "\\u003e{}\\u003c", "sess_{}_1", "a%252F{}%252f"]
)
def test_a_secret_is_known_in_each_spelling(name: str, secret: str, around: str) -> None:
    """To the recording, and by its digest."""
    [digest] = told(secret)
    text = around.format(SPELLINGS[name](secret)).encode()
    wanted = around.format(digest.token.decode()).encode()
    known = Learned()
    known.learn({secret.encode(): digest.token})
    later = Learned(KEY, [digest])
    later.recall(text)
    for each in (known, later):
        assert each.found(text)
        assert each.replaced(text) == wanted


@pytest.mark.parametrize(
    "spelling", ["{}\\ud83d\\ude00Zk3vT9qLm2xR7b", "{}%F0%9f%98%80Zk3vT9qLm2xR7b", "{}&#128512;Zk3vT9qLm2xR7b"]
)
def test_a_character_outside_the_basic_plane_is_read(spelling: str) -> None:
    known = Learned()
    known.learn({"\U0001f600Zk3vT9qLm2xR7b".encode(): b"REDACTED-secret-1"})
    assert known.replaced(spelling.format("a ").encode()) == b"a REDACTED-secret-1"


@pytest.mark.parametrize("text", [b"%25" * 30_000, b"\\" * 90_000, b"&amp;" * 20_000, b"%5C" * 30_000, b"%25%5C\\" * 15_000])
def test_what_is_read_around_a_word_is_bounded(text: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0
    meant = spelt._meant

    def counted(found: re.Match[bytes]) -> bytes:
        nonlocal read
        read += len(found[0])
        assert len(found[0]) <= spelt.ESCAPE
        return meant(found)

    monkeypatch.setattr(spelt, "_meant", counted)
    known = Learned()
    known.learn({b"/=" * 8 + b"Zk3vT9qLm2xR7b" + b"/=" * 8: b"REDACTED-secret-1"})
    text = b"%b/Zk3vT9qLm2xR7b/%b" % (text, text)
    assert known.replaced(text) == text
    assert read <= 32 * spelt.ESCAPE


# -- what is learned ---------------------------------------------------------------------------------------------------

PRINTABLE = string.ascii_letters + string.digits + "!#$%^*()-_+=.,:;@~"
LEARNED: dict[str, tuple[float, Callable[[random.Random], str]]] = {
    "base64 of 16 bytes": (0.97, lambda rnd: base64.b64encode(rnd.randbytes(16)).decode()),
    "base64 of 18 bytes": (0.96, lambda rnd: base64.b64encode(rnd.randbytes(18)).decode()),
    "base64 of 20 bytes": (0.97, lambda rnd: base64.b64encode(rnd.randbytes(20)).decode()),
    "base64 of 32 bytes": (0.99, lambda rnd: base64.b64encode(rnd.randbytes(32)).decode()),
    "16 of base32": (0.87, lambda rnd: "".join(rnd.choices(string.ascii_uppercase + "234567", k=16))),
    "24 printable": (0.76, lambda rnd: "".join(rnd.choices(PRINTABLE, k=24))),
    "12 letters and digits": (0.66, lambda rnd: "".join(rnd.choices(string.ascii_letters + string.digits, k=12))),
    "16 letters and digits": (0.94, lambda rnd: "".join(rnd.choices(string.ascii_letters + string.digits, k=16))),
    "two halves of a UUID": (0.99, lambda rnd: f"{rnd.randbytes(6).hex()}.{rnd.randbytes(6).hex()}"),
}


@pytest.mark.parametrize("name", LEARNED)
def test_what_was_made_at_random_is_learned_whole(name: str) -> None:
    share, make = LEARNED[name]
    rnd = random.Random(7)
    count = 0
    for _ in range(1000):
        secret = make(rnd).encode()
        known = Learned()
        known.learn({secret: b"REDACTED-secret-1"})
        count += known.replaced(b'{"ref":"%b"}' % secret) == b'{"ref":"REDACTED-secret-1"}'
    assert count >= share * 1000


USUAL = """
https://api.example.com/v1/Users?Id=3&Page=2 https://example.com/a/b/c.html?utm_source=Newsletter&utm_medium=Email
/usr/share/doc/Python3.11/README.Debian C:\\Users\\Public\\Documents\\Report2024.docx
john.doe+newsletter@Example.com Mozilla/5.0(X11;Linux)
application/vnd.openxmlformats-officedocument.spreadsheetml.sheet text/html;charset=UTF-8 arn:aws:iam::123456789012:role/MyRole
arn:aws:s3:::my-bucket/Key2 arn:aws:lambda:us-east-1:123456789012:function:ProcessOrder:PROD 1.4.0-beta.2+exp.sha.5114f85
2.10.3-rc.1+build.45 2024-11-24T10:11:12.123+02:00 2024-11-24T10:11:12Z api-7f.eu-west-1.compute.amazonaws.com */5,0,*,*,1-5
0/15;8-18;*;*;MON-FRI America/Argentina/Buenos_Aires en-US,en;q=0.9,de;q=0.8 urn:ietf:params:oauth:grant-type:jwt-bearer
postgres://localhost:5432/AppDb s3://my-bucket/Data/2024/11/24/part-0001.parquet user:read,user:write,Repo:Admin
projects/my-project-123/locations/europe-west1/keyRings/MyRing/cryptoKeys/MyKey ghcr.io/Org/Image:v1.2.3 pkg:pypi/Django@5.1.3
/api/v2/Orders(42)/Lines?$filter=Qty%20gt%203 $filter=Name+eq+'Bob'&$top=10 ${DB_PASSWORD} {{access_token}} Summer2024!
page=2&size=50&sort=createdAt,desc AWS::EC2::Instance X-Amz-Date;X-Amz-Target SHA-256=:base64:
"""
SENTENCES = [
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/131.0.0.0",
    "Your Token No 4a7B2 is in Use by User9",
    "0 5 * * 1-5",
    "Sun, 24 Nov 2024 10:11:12 GMT",
]


@pytest.mark.parametrize("usual", [*USUAL.split(), *SENTENCES])
def test_what_people_write_is_not_learned(usual: str) -> None:
    known = Learned()
    known.learn({usual.encode(): b"REDACTED-secret-1"})
    assert known._told == {}


@pytest.mark.parametrize("length", [8, 9, 10, 16])
def test_neither_half_of_a_random_secret_can_be_found_by_trying(length: int) -> None:
    """The digest of a word tells when a guess of it is right, and then the token when that of the rest is."""
    rnd = random.Random(7)
    for _ in range(50):
        halves = ["".join(rnd.choices(string.ascii_letters + string.digits, k=length)) for _ in range(2)]
        for digest in told(":".join(halves)):
            assert max(digest.length, digest.before + digest.after) >= 10


# -- by its digest -----------------------------------------------------------------------------------------------------

KEY = bytes(32)
AWKWARD = ["Zk3vT9qLm2xR7b/Nc+12==", "a.Zk3vT9qLm2xR7b", "Zk3vT9qLm2xR7b:p w", "é/Zk3vT9qLm2xR7b é", "100%Zk3vT9qLm2xR7b%"]


def told(*secrets: str) -> list[Digest]:
    """What a snapshot keeps of secrets that answers told."""
    redactor = Redactor(KEY)
    for secret in secrets:
        [pair] = pairs_of(Exchange("POST /login", json.dumps({"access_token": secret}, ensure_ascii=False).encode()))
        assert redactor.pair(pair) != pair
    return redactor.take_learned()


def live(exchange: Exchange, digests: list[Digest], key: bytes = KEY) -> bytes:
    [pair] = pairs_of(exchange)
    message, _ = Redactor(key, digests).request(pair.request)
    return everything(replace(pair, request=message, response=None, path="", query=(), operation=""))


@pytest.mark.parametrize("name", [name for name in ECHOES if "answer" not in name])
def test_a_live_request_has_what_stands_in_for_what_a_recorded_answer_told(name: str) -> None:
    login, echo = redacted(LOGIN, ECHOES[name])
    [digest] = told(TOKEN)
    found = live(ECHOES[name], [digest])
    assert TOKEN.encode() not in found
    assert found == everything(replace(echo, response=None, path="", query=(), operation=""))
    assert login.response
    assert digest.token in login.response.body
    assert TOKEN.encode() in live(ECHOES[name], [], KEY)
    assert TOKEN.encode() in live(ECHOES[name], [digest], b"another key"), "a digest tells nothing without its key"


@pytest.mark.parametrize("secret", AWKWARD)
@pytest.mark.parametrize("spelt", [str, quote, lambda text: quote(text, safe="")], ids=["raw", "quoted", "quoted all"])
def test_a_secret_that_is_more_than_a_word_is_known_by_that(secret: str, spelt: Callable[[str], str]) -> None:
    digests = told(secret)
    assert len(digests) == 1
    text = spelt(secret).encode().decode("latin-1")
    exchange = Exchange("GET /a", headers=(("X-A", f"before {text} after"),))
    assert b"before " + digests[0].token + b" after" in live(exchange, digests)
    _, recorded = redacted(Exchange("POST /login", json.dumps({"access_token": secret}, ensure_ascii=False).encode()), exchange)
    assert digests[0].token in everything(recorded)


def test_the_longest_word_of_a_secret_is_nothing_by_itself() -> None:
    digests = told("Zk3vT9qLm2xR7b/Nc+12==")
    for text in ("Zk3vT9qLm2xR7b", "Zk3vT9qLm2xR7b/Nc", "/", "Zk3vT9qLm2xR7b/Nc+13==", "%2FZk3vT9qLm2xR7b%2FNc"):
        assert text.encode() in live(Exchange("GET /a", headers=(("X-A", text),)), digests)


def test_a_secret_is_found_at_a_later_place_than_its_word() -> None:
    [digest] = told("Zk3vT9qLm2xR7b/Nc+12==")
    text = "Zk3vT9qLm2xR7b, " * (learned.PLACES_LIMIT - 1) + "Zk3vT9qLm2xR7b/Nc+12=="
    assert digest.token in live(Exchange("GET /a", headers=(("X-A", text),)), [digest])


def counted(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The words that are digested from now on."""
    digested: list[bytes] = []

    def digest(_: Learned, word: bytes) -> bytes:
        digested.append(word)
        return word

    monkeypatch.setattr(Learned, "_digest", digest)
    return digested


def test_words_of_a_message_are_digested_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each text is searched several times. A word of another length is none that was told."""
    digests = told(TOKEN)
    words = [b"unknownwo%03d" % n for n in range(20)]
    assert {len(word) for word in words} == {digest.length for digest in digests}
    body = b" ".join([*words, *(b"shortword%d" % n for n in range(20))]) + b' password="a secret of its own"'
    digested = counted(monkeypatch)
    Redactor(KEY, digests).request(pairs_of(Exchange("POST /a", body=body))[0].request)
    assert len(digested) <= 3 * len(words), "as it came, and with each secret replaced"
    assert set(digested) == set(words)


@pytest.mark.parametrize("size", ["as many as any message has", "too many"])
def test_digesting_is_bounded(monkeypatch: pytest.MonkeyPatch, size: str) -> None:
    """A message with more words that may be secrets than can be looked at is not kept."""
    monkeypatch.setattr(echoes, "WORK_LIMIT", 100)
    digests = told(TOKEN)
    count = 100 * learned.DIGESTED_TOGETHER // (4 if size != "too many" else 1) * 2
    digested = counted(monkeypatch)
    body = b" ".join(b"unknown%05d" % n for n in range(count))
    message, _ = Redactor(KEY, digests).request(pairs_of(Exchange("POST /a", body=body))[0].request)
    assert (b"not stored" in message.body) == (size == "too many")
    assert len(digested) <= 101 * learned.DIGESTED_TOGETHER


def test_what_is_told_again_is_not_new() -> None:
    digests = told(TOKEN)
    login, other = pairs_of(LOGIN, Exchange("POST /login", b'{"access_token":"another-5af6c0ffee"}'))
    redactor = Redactor(KEY, digests)
    redactor.pair(login)
    assert redactor.take_learned() == []
    redactor.pair(other)
    redactor.pair(login)
    [new] = redactor.take_learned()
    assert new not in digests
    redactor.pair(other)
    assert redactor.take_learned() == []


def test_what_is_new_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learned, "SECRETS_LIMIT", 2)
    latest = told(*[f"tok-5af6c0ffee8{n}" for n in range(5)])
    assert latest == told("tok-5af6c0ffee83", "tok-5af6c0ffee84")


@pytest.mark.parametrize(
    "secret", ["48151623", "ab12cd34", "a1b2.c3d4.e5f6.a7b8", "correcthorsebatterystaple", "4111-1111-1111-1111"]
)
@pytest.mark.parametrize("use", ["GET /s/{}/1", "GET /s?t={}", "GET /s/x%2F{}"])
def test_what_stands_alone_is_known_by_its_digest(tmp_path: Path, secret: str, use: str) -> None:
    """To a client that brings it itself, and to a recording that is gone on with."""
    login = Exchange("POST /login", json.dumps({"session_id": secret}).encode())
    asked = Exchange(use.format(secret))
    path = write_snapshot(tmp_path / "a.snapshot", login, asked)
    with Snapshot(path) as snapshot:
        _, recorded = snapshot.pairs()
        [pair] = pairs_of(asked)
        message, _ = snapshot.redactor().request(pair.request)
    assert secret.encode() not in message.start_line
    assert message.start_line == recorded.request.start_line
