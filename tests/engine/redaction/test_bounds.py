"""Work is linear in the input, whatever it is: counted in Python calls, and by inputs that are long enough for anything else
than linear time to run into the limit of a test (a square of 200 KB takes minutes where this takes tenths of a second).
"""

from __future__ import annotations

import sys
from types import FrameType

import pytest

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
    b'"', b"\\", b"\r", b"\x00", b"authorization: ", b"&#39;token",
]  # fmt: skip
MEDIA = [b"text/plain", b"multipart/form-data; boundary=x", b"application/x-www-form-urlencoded"]
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


@pytest.mark.timeout(100)
@pytest.mark.parametrize("repeated", REPEATED)
def test_long_heads(repeated: bytes) -> None:
    value = repeated.replace(b"\r", b"").replace(b"\n", b"").replace(b" ", b"+") * (LONG // 4 // len(repeated))
    headers = ((b"X-Other", value), (b"Cookie", value), (b"Authorization", value), (b"Host", value))
    REDACTOR.message(Message(b"GET /" + value + b" HTTP/1.1", headers), set())
