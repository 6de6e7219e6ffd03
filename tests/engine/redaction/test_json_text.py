"""Escapes of JSON strings, also of what is no JSON."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.redaction.json_text import escape, unescape


@given(st.text())
def test_a_valid_string_is_what_json_reads(text: str) -> None:
    assert unescape(json.dumps(text)[1:-1].encode()) == text.encode("utf-8", "surrogatepass")


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        (rb"\d\/\n\u0041", b"d/\nA"),
        (rb"\\d\\\d", rb"\d\d"),
        (rb"\u00zz\u12", b"u00zzu12"),
        (b'"\\"\\d"', b'""d"'),
        (b"\xff\\u00e9\xc3\xa9\\d", b"\xff\xc3\xa9\xc3\xa9d"),
        (b"\\\xc3\xa9\\d", b"\xc3\xa9d"),
        (rb"\d\ud83d\ude00\ud800", "d\U0001f600\ud800".encode("utf-8", "surrogatepass")),
        (b"\\d\\", b"d\\"),
        (b"\\d\x00\x1f", b"d\x00\x1f"),
    ],
)
def test_of_what_is_no_escape_the_backslash_goes(text: bytes, plain: bytes) -> None:
    assert unescape(text) == plain


@pytest.mark.parametrize("before", range(4090, 4098))
def test_a_long_string_is_read_as_a_short_one(before: int) -> None:
    """Wherever its parts end."""
    pair = rb"\ud83d\ude00\\\u00e9\xff"
    assert unescape(rb"\d" * before + pair) == b"d" * before + unescape(rb"\d" + pair)[1:]


@given(st.binary())
def test_what_is_escaped_is_read_as_it_was(text: bytes) -> None:
    assert unescape(escape(text, b"\xff")) == text
