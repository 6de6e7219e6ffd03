"""The search for secrets that were recognised finds what a search for each of them in each spelling finds, in one pass for all."""

from __future__ import annotations

import base64
import html
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.redaction import echoes, learned, spelt
from engine.redaction.content import NotInspected
from engine.redaction.echoes import SECRETS_LIMIT, Echoes
from engine.redaction.learned import Learned
from engine.redaction.lengths import Lengths
from engine.redaction.originals import Originals
from engine.redaction.pattern import Pattern, Span

Spell = Callable[[bytes], bytes]


def as_is(secret: bytes) -> bytes:
    return secret


def in_json(secret: bytes) -> bytes:
    return json.dumps(secret.decode())[1:-1].encode()


SPELLINGS: tuple[Spell, ...] = (
    as_is,
    in_json,
    lambda secret: json.dumps(secret.decode(), ensure_ascii=False)[1:-1].encode(),
    lambda secret: in_json(secret).replace(b"/", b"\\/"),
    lambda secret: in_json(in_json(secret)),
    lambda secret: quote(secret).encode(),
    lambda secret: quote_plus(secret).encode(),
    lambda secret: quote(quote(secret, safe="")).encode(),
    lambda secret: html.escape(secret.decode()).encode(),
    lambda secret: b"".join(b"%%%02x" % byte for byte in secret),
    lambda secret: "".join(f"&#{ord(char)};" for char in secret.decode()).encode(),
    lambda secret: "".join(f"&#x{ord(char):X};" for char in secret.decode()).encode(),
)
CODINGS: tuple[Spell, ...] = (
    base64.b64encode,
    base64.urlsafe_b64encode,
    lambda secret: base64.b64encode(b"a" + secret + b"bc"),
    lambda secret: base64.urlsafe_b64encode(b"ab" + secret + b"c").rstrip(b"="),
    lambda secret: base64.b64encode(secret).replace(b"/", b"\\/"),
)


def text_of(minimum: int, maximum: int) -> st.SearchStrategy[bytes]:
    printable = st.sampled_from("abcXYZ0129-_.~ /+&<>\"'\\%:=?é\n")
    return st.text(printable, min_size=minimum, max_size=maximum).map(str.encode)


_secret = st.builds(
    lambda number, text, tail: b"s%03d" % number + text + tail + b"7q", st.integers(0, 999), text_of(3, 20), st.just(b"")
)
_planted = st.tuples(st.integers(0, 199), st.integers(0, len(SPELLINGS) + len(CODINGS) - 1), text_of(0, 12))


def known(secrets: list[bytes], learned: Learned | None = None) -> Echoes:
    """Those of a request, and those of its answer."""
    asked = Echoes(learned=learned)
    for secret in secrets[: len(secrets) // 2]:
        asked.add(secret, token(secret))
    told = Echoes(asked)
    for secret in secrets[len(secrets) // 2 :]:
        told.add(secret, token(secret))
    return told


def token(secret: bytes) -> bytes:
    return b"REDACTED-secret-%015x" % (int.from_bytes(secret[:5], "big") * 1000 + len(secret))


def text_with(secrets: list[bytes], planted: list[tuple[int, int, bytes]]) -> bytes:
    parts = []
    for at, how, between in planted:
        secret = secrets[at % len(secrets)]
        coding = how - len(SPELLINGS)
        parts.append(b"(" + CODINGS[coding](secret) + b")" if coding >= 0 else SPELLINGS[how](secret))
        parts.append(between)
    return b"".join(parts)


def naively_found(text: bytes, secrets: list[bytes]) -> list[bytes]:
    """The oracle: each secret, in each spelling and coding, one after the other."""
    ways = (*SPELLINGS, *CODINGS)
    return [spelt for secret in secrets for way in ways if (spelt := way(secret)) in text]


def settled(echoed: Callable[[bytes], bytes], text: bytes) -> bytes:
    for _ in range(8):
        before, text = text, echoed(text)
        if text == before:
            return text
    raise AssertionError(text)


@pytest.mark.parametrize("at_once", [False, True])
@settings(max_examples=40)
@given(st.lists(_secret, min_size=1, max_size=12, unique=True), st.lists(_planted, min_size=1, max_size=12))
def test_nothing_is_left_that_a_naive_search_finds(
    at_once: bool, secrets: list[bytes], planted: list[tuple[int, int, bytes]]
) -> None:
    told = known(secrets)
    told._looked = echoes.FINDS_LIMIT * at_once
    text = text_with(secrets, planted)
    assert naively_found(text, secrets)
    assert told.found(text)
    after = settled(lambda each: told.replaced(each, Originals()), text)
    assert naively_found(after, secrets) == []
    assert b"REDACTED-" in after or b"REDACTED-" in b"".join(decoded(after))


def decoded(text: bytes) -> Iterator[bytes]:
    """Base64 in a text: whole runs in brackets, as they are planted."""
    for run in re.findall(rb"\(([A-Za-z0-9+/_\\-]{16,}={0,2})\)", text):
        yield base64.b64decode(run.replace(b"\\/", b"/").translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=") + b"==")


@pytest.mark.parametrize("at_once", [False, True])
@given(
    st.lists(_secret, min_size=1, max_size=12, unique=True), st.lists(st.tuples(st.integers(0, 99), st.integers(0, 11)), min_size=1)
)
def test_apart_from_each_other_they_become_what_a_naive_search_makes_of_them(
    at_once: bool, secrets: list[bytes], planted: list[tuple[int, int]]
) -> None:
    told = known(secrets)
    told._looked = echoes.FINDS_LIMIT * at_once
    chosen = [(secrets[at % len(secrets)], SPELLINGS[how]) for at, how in planted]
    text = b"\n|\n".join(way(secret) for secret, way in chosen)
    wanted = b"\n|\n".join(token(secret) for secret, _ in chosen)
    assert settled(lambda each: told.replaced(each, Originals()), text) == wanted


def test_of_two_that_overlap_nothing_is_left() -> None:
    """They are looked for in passes of their own."""
    first, *others, last = [b"alpha-0-beta-1", *(b"other-%d-key" % n for n in range(echoes.TOGETHER)), b"beta-1-gamma-2"]
    told = known([first, *others, last])
    told._looked = echoes.FINDS_LIMIT
    assert told.replaced(b"<alpha-0-beta-1-gamma-2>", Originals()) == b"<" + token(first) + b">"


@pytest.mark.parametrize("way", SPELLINGS[:7])
def test_a_long_secret_is_found_as_common_encoders_write_it(way: Spell) -> None:
    secrets = [b"a%d/b c-" % n * 30 for n in range(3)]
    text = b"|".join(map(way, secrets))
    assert known(secrets).replaced(text, Originals()) == b"|".join(map(token, secrets))


# -- what it costs -------------------------------------------------------------------------------------------------------


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of each text that a pattern was asked about."""
    seen: list[int] = []
    spans, found = Pattern.spans, Pattern.found

    def counted_spans(self: Pattern, text: bytes, *groups: int) -> Iterator[tuple[Span, ...]]:
        seen.append(len(text))
        return spans(self, text, *groups)

    def counted_found(self: Pattern, text: bytes) -> bool:
        seen.append(len(text))
        return found(self, text)

    monkeypatch.setattr(Pattern, "spans", counted_spans)
    monkeypatch.setattr(Pattern, "found", counted_found)
    return seen


class Counted(bytes):
    """A text that counts how often it is searched for a piece."""

    searches = 0

    def __contains__(self, piece: object) -> bool:
        self.searches += 1
        return super().__contains__(piece)  # type: ignore[operator]


@pytest.mark.parametrize("words", [10_000, 20_000])
def test_one_secret_in_base64_makes_no_word_worth_a_search_of_its_own(words: int, passed: list[int]) -> None:
    told = known([b"%032x" % n for n in range(2 * SECRETS_LIMIT)])
    text = Counted(base64.b64encode(b"%032x" % 7) + b" abcdefghij" * words)
    count = 0

    def note(frame: FrameType, event: str, arg: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        after = told.replaced(text, Originals())
    finally:
        sys.setprofile(before)
    assert after.startswith(base64.b64encode(token(b"%032x" % 7))[:20])
    assert count < 10_000
    assert sum(passed) < 3 * len(text)
    assert len(passed) < 30
    assert text.searches < 8 * len(told._secrets) + 8


def test_many_texts_are_not_searched_for_one_secret_after_the_other(passed: list[int]) -> None:
    told = known([b"%032x" % n for n in range(2 * SECRETS_LIMIT)])
    texts = [Counted(b"abcdefghij %d" % n) for n in range(4000)]
    for text in texts:
        assert told.replaced(text, Originals()) is text
    assert sum(text.searches for text in texts) < 2 * echoes.FINDS_LIMIT / echoes.FIND_COST * 4
    assert len([text for text in texts if text.searches > 8]) < 1100
    assert len(passed) < 4000


@pytest.mark.parametrize(
    "repeated",
    [b"%s ", b"%%41 %s", base64.b64encode(b"%032x" % 7) + b" ", b"MDAwMDAwMDAwMDAwMDAwMD ", b"tok-5af6c0ff0007 "],
)
def test_what_a_message_may_cost_is_bounded(repeated: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(echoes, "WORK_LIMIT", 1000)
    before = Learned()
    before.learn({b"tok-5af6c0ff0007": b"REDACTED-secret-000000000000007"})
    secrets = [b"%032x" % n for n in range(40)]
    unit = repeated.replace(b"%s", b"%032x" % 7)
    assert known(secrets, before).replaced(unit * 10, Originals()) != unit * 10 or repeated.startswith(b"MDAw")
    with pytest.raises(NotInspected, match="too many repeated secrets"):
        known(secrets, before).replaced(unit * 1001, Originals())


# -- what earlier answers told -------------------------------------------------------------------------------------------

TOLD = b"tok-5af6c0ffee81/a b&c"
LEARNED_SPELLINGS = {"as it is": TOLD, "of a path": quote(TOLD).encode(), "of a query": quote(TOLD, safe="").encode()}


@pytest.mark.parametrize("name", LEARNED_SPELLINGS)
def test_what_was_told_is_known_in_each_spelling(name: str) -> None:
    before = Learned()
    before.learn({TOLD: b"REDACTED-secret-1"})
    for around in (b"%s", b"/x/%s?y", b'{"a":"%s"}', b"%%2F%s%%2F", b"%s %s"):
        text = around.replace(b"%s", LEARNED_SPELLINGS[name]).replace(b"%%", b"%")
        assert before.replaced(text) == text.replace(LEARNED_SPELLINGS[name], b"REDACTED-secret-1")


_told = st.builds(
    lambda before, number, after: before + b"tok-5af6c0ff%04d" % number + after,
    *(st.one_of(st.just(b""), text_of(0, 6).map(lambda text: text + b" ")), st.integers(0, 30), text_of(0, 0)),
)


@given(
    st.lists(st.integers(0, 30), min_size=1, unique=True),
    st.sampled_from([b"", b"a b/", b"\xc3\xa9?"]),
    st.sampled_from([b"", b"/z&", b" tok-1 "]),
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2), text_of(0, 8)), max_size=20),
)
def test_what_was_told_becomes_what_a_naive_search_makes_of_it(
    numbers: list[int], head: bytes, tail: bytes, planted: list[tuple[int, int, bytes]]
) -> None:
    """As words by themselves: what is between two of them is more than a letter."""
    secrets = [head + b"tok-5af6c0ff%04d" % number + tail for number in numbers]
    before = Learned()
    before.learn({secret: token(secret) for secret in secrets})
    ways: tuple[Spell, ...] = (as_is, lambda secret: quote(secret).encode(), lambda secret: quote(secret, safe="").encode())
    text = b"|".join(
        itertools.chain.from_iterable(
            (b"", ways[how](secrets[at % len(secrets)]), b"|" + between + b"|") for at, how, between in planted
        )
    )
    wanted = text
    for secret, way in itertools.product(secrets, ways):
        wanted = wanted.replace(way(secret), token(secret))
    assert before.replaced(text) == wanted


def test_many_that_were_told_are_found_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """The text is gone through once for all of them, and each that is in it is compared once."""
    before = Learned()
    secrets = [b"tok-5af6c0ff%04d" % number for number in range(2000)]
    before.learn({secret: b"REDACTED-secret-%015x" % n for n, secret in enumerate(secrets)})
    compared = 0

    read = spelt.readings

    def reading(*arguments: Any) -> Iterator[tuple[int, int, bytes]]:
        nonlocal compared
        compared += 1
        return read(*arguments)

    monkeypatch.setattr(learned, "readings", reading)

    class Text(bytes):
        def replace(self, *_: object) -> bytes:
            raise AssertionError("it is searched for each by itself")

    taken: list[int] = []
    pieces = Lengths._pieces

    def counted(lengths: Lengths, text: bytes) -> Iterator[tuple[int, bytes]]:
        taken.append(len(text))
        return pieces(lengths, text)

    monkeypatch.setattr(Lengths, "_pieces", counted)
    text = Text(b" ".join(secrets) + b" lorem ipsum" * 10_000)
    assert b"tok-" not in before.replaced(text)
    assert taken == [len(text)]
    assert compared == len(secrets)
