"""Words of some lengths are found as by splitting; most texts are told to have none without that."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.redaction import lengths
from engine.redaction.lengths import Lengths

texts = st.one_of(
    st.text("ab.@ %2F", max_size=60),
    st.lists(st.sampled_from([*"ab.@ %2F\\nu", "\\n", "\\u002f", "%252F"]), max_size=40).map("".join),
).map(str.encode)
_ESCAPE = re.compile(rb"%252F|%[0-9A-Fa-f]{2}|\\[nrt]|\\u[0-9A-Fa-f]{4}")


@given(texts, st.sets(st.integers(1, 6), min_size=1))
def test_words_are_those_of_a_naive_search(text: bytes, wanted: set[int]) -> None:
    some = Lengths(b"ab2F", b" .")
    for length in wanted:
        some.add(length)
    plain = _ESCAPE.sub(lambda found: b" " * len(found[0]), text)
    naive = [word for word in re.split(rb"[ .]", plain) if len(word) in wanted and re.fullmatch(rb"[ab2F]+", word)]
    found = set(some.words(text))
    assert found >= set(naive)
    assert {len(word) for word in found} <= wanted
    places = list(some.places(text, dict.fromkeys(naive)))
    assert [word for _, word in places] == naive
    assert all(plain.startswith(word, at) for at, word in places)


@pytest.mark.parametrize("length", [1, lengths.EXACT_LIMIT - 1, lengths.EXACT_LIMIT, lengths.EXACT_LIMIT + 1, 4096])
@pytest.mark.parametrize("others", [0, lengths.FEW - 1, lengths.FEW, 100])
def test_any_length_is_found_beside_any_number_of_others(length: int, others: int) -> None:
    some = Lengths(b"ab", b" ")
    for each in range(others):
        some.add(5000 + each)
        some.add(each + 2)
    some.add(length)
    assert list(some.words(b"b " + b"a" * length + b" b"))[-1:] or length == 1
    assert b"a" * length in set(some.words(b" " + b"a" * length + b" "))


def test_a_text_without_words_of_these_lengths_is_not_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    some = Lengths(b"ab", b" ")
    some.add(4)
    assert list(some._pieces(b"aaa aaaaa a@aaaa aaaa@")) == []
    assert [at for at, _ in some._pieces(b"aaa aaaa")] == [0]
