"""Work is linear in the input, whatever it is: counted in Python calls, and by inputs that are long enough for anything else
than linear time to run into the limit of a test (a square of 200 KB takes minutes where this takes tenths of a second).
"""

from __future__ import annotations

import sys
import tracemalloc
from types import FrameType

import pytest

from engine.redaction import bodies, fields
from engine.redaction.fields import FIELDS_LIMIT
from engine.rrpair import Message
from tests.engine.redaction.messages import REDACTOR

LONG = 200_000
SHORT = 4_000
REPEATED = [
    b'"password":"', b'"password":{', b'{"password":[', b"password=", b"password: ", b"password:\n", b"token: |\n", b'token="\\',
    b"token:`", b"token\\\\\\\\", b"token   ", b'<a password="', b"<password>", b"<a b='", b"<a ", b"<a>", b"</a>", b"<!--token=",
    b"<![CDATA[password", b"&amp;sig=", b"?sig=", b"?u=%3Fu%3Dtoken", b"pass%77ord", b'"pass\\u0077ord', b'{"name":"password",',
    b"-----BEGIN PRIVATE KEY-----", b"eyJhbGciOiJIUzI1NiJ9.", b"eyJaa", b"AKIAIOSFODNN7EXAMPLE:", b"://u:p", b"://a@", b"a:b@",
    b"bearer ", b"card4", b"card 4242424242424242 ", b"4242 4242 4242 4242 ", b'\\"token\\":\\"', b'name="abc"\r\n\r\n',
    b"--x\r\n\r\n", b'--x\r\nContent-Disposition: form-data; name="', b"a=b&", b"[1,", b'{"a":', b'"a":1,', b"xoxb-", b"A", b" ",
    b"name: token\n", b"- name: token\n  value: x\n", b"  value: x\n", b"{name: token, ", b'name="token" value={', b"x{",
    b"%3D", b"a%3Db",
    b'"token";s:99:"', b"Vtoken\np1\n", b"\x05token", b"token", b"<key>token</key>", b"<key>token</key><string>",
    b"a,token\n", b'"",',
    b'"', b"\\", b"\r", b"\x00", b"authorization: ", b"&#39;token",
]  # fmt: skip
MEDIA = [b"text/plain", b"text/csv", b"multipart/form-data; boundary=x", b"application/x-www-form-urlencoded"]
"""JSON and XML are known by their looks."""


def calls(message: Message) -> int:
    """How many calls of functions one redaction makes."""
    count = 0

    def note(frame: FrameType, event: str, arg: object) -> None:
        nonlocal count
        count += 1

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        REDACTOR.message(message, set())
    finally:
        sys.setprofile(before)
    return count


def message(text: bytes, media: bytes) -> Message:
    return Message(b"POST /x HTTP/1.1", ((b"Content-Type", media),), text)


@pytest.mark.timeout(100)
@pytest.mark.parametrize("media", MEDIA)
@pytest.mark.parametrize("repeated", REPEATED)
def test_long_bodies(repeated: bytes, media: bytes) -> None:
    REDACTOR.message(message(repeated * (LONG // len(repeated)), media), set())


@pytest.mark.parametrize("repeated", REPEATED)
def test_calls_grow_with_the_input(repeated: bytes) -> None:
    for media in MEDIA:
        short, double = (message(repeated * (size // len(repeated)), media) for size in (SHORT, 2 * SHORT))
        assert calls(double) < 2.2 * calls(short) + 2000


LONG_STRINGS = [
    (b'x password="', b"\\a", b'"'), (b"x password='", b"\\d", b"'"), (b'{"password":"', b"\\n", b'"}'),
    (b'{"password":"', b"\\a", b'"}'), (b'{"a":"', b"\\/\\uzz", b'","password":"x"}'), (b'{"a":"password=x ', b"\\n", b'"}'),
    (b'{"a":"password=x \xff', b"\\u00e9\\\"", b'"}'), (b'<a password="x" ', b"''", b">"),
]  # fmt: skip
"""One field each, so no limit of fields ends the work: what is before the repeated part of it, that part, and what is behind."""


@pytest.mark.parametrize(("before", "repeated", "behind"), LONG_STRINGS)
def test_one_long_string_takes_few_calls(before: bytes, repeated: bytes, behind: bytes) -> None:
    text = before + repeated * (LONG // len(repeated)) + behind
    assert calls(message(text, b"text/plain")) < LONG / 100 + 2000


@pytest.mark.parametrize(("before", "repeated", "behind"), [*LONG_STRINGS, (b"<password>", b"&amp;", b"</password>")])
def test_one_long_string_takes_memory_for_some_copies(before: bytes, repeated: bytes, behind: bytes) -> None:
    given = message(before + repeated * (5 * LONG // len(repeated)) + behind, b"text/plain")
    REDACTOR.message(message(b"password=x", b"text/plain"), set())  # what is made once is not its own
    tracemalloc.start()
    REDACTOR.message(given, set())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 * len(given.body)


def test_a_text_that_two_readers_find_is_gone_into_once() -> None:
    """A field that holds a query is percent-encoded, too: by both ways, each of nine levels doubled the work (860,000 calls)."""
    nested = b"/u:p%40@h/x?ure=b,u=https%6nature=b,u=httpsx?ure=b,u=https%6nature=b,u=https%6A%6A%%token%3Dx#code=1"
    assert calls(Message(b"GET / HTTP/1.1", ((b"X-Other", nested),))) < 50_000


@pytest.mark.timeout(100)
@pytest.mark.parametrize("repeated", REPEATED)
def test_long_heads(repeated: bytes) -> None:
    value = repeated.replace(b"\r", b"").replace(b"\n", b"").replace(b" ", b"+") * (LONG // 4 // len(repeated))
    headers = ((b"X-Other", value), (b"Cookie", value), (b"Authorization", value), (b"Host", value))
    REDACTOR.message(Message(b"GET /" + value + b" HTTP/1.1", headers), set())


@pytest.mark.parametrize(
    ("media", "repeated"),
    [
        (b"text/plain", b"password=x\n"),
        (b"text/plain", b"password: x\n"),
        (b"text/plain", b"token y "),
        (b"text/plain", b"&x=%70assword%3Dx"),
        (b"text/plain", b"?a=%41"),
        (b"text/plain", b"a?token=b "),
        (b"text/plain", b"https://u:p@h "),
        (b"text/plain", b"eyJhbGciOiJIUzI1NiJ9.e30.abc "),
        (b"text/plain", b"bearer abcdefghijklmnop "),
        (b"text/plain", b"4242 4242 4242 4242 "),
        (b"text/plain", b"-----BEGIN PRIVATE KEY-----\n-----END "),
        (b"application/json", b'"password":"x",'),
        (b"application/json", b'"x":"a?token=b",'),
        (b"application/x-www-form-urlencoded", b"a=password%3Dx&"),
    ],
)
def test_a_message_has_one_limit_for_all_that_is_found_in_it(media: bytes, repeated: bytes) -> None:
    """What is found in a text without structure counts as fields do: this is what bounds the time that any message takes."""
    text = repeated * (FIELDS_LIMIT + 1)
    kept, work = spent(message(b"{" * (media == b"application/json") + text, media))
    assert b"bytes not stored: too many fields" in kept.body
    assert work < 25 * FIELDS_LIMIT


@pytest.mark.parametrize("before", [b"A" * 60, bytes(60)], ids=["letters", "zeros"])
def test_what_is_before_a_word_of_binary_content_counts(before: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its length is looked for at each byte of the name that the word may end: up to 64 steps."""
    monkeypatch.setattr(fields, "FIELDS_LIMIT", 2000)
    given = message(b"\0" + (before + b"token") * 1990, b"application/octet-stream")
    steps = 0
    lengths_before = bodies._lengths_before

    def counted(content: bytes, at: int) -> set[int]:
        nonlocal steps
        steps += 1
        return lengths_before(content, at)

    monkeypatch.setattr(bodies, "_lengths_before", counted)
    assert b"bytes not stored: " in REDACTOR.message(given, set()).body
    assert steps <= bodies.STEPS_TOGETHER * 2000


def spent(given: Message) -> tuple[Message, int]:
    """Redact a message and count the searches of `re` and `re2`, the tokens made and the like: all calls of C functions."""
    count = 0

    def note(frame: FrameType, event: str, arg: object) -> None:
        nonlocal count
        count += event == "c_call"

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        redacted = REDACTOR.message(given, set())
    finally:
        sys.setprofile(before)
    return redacted, count
