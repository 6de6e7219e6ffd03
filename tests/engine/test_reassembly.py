from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.reassembly import LOST, UNKNOWN, Gap, Reassembler, Segment


def test_bytes_in_order_pass() -> None:
    r = Reassembler()
    assert r.data(0, b"ab", 1) == [Segment(0, b"ab", 1)]
    assert r.data(2, b"c", 2) == [Segment(2, b"c", 2)]
    assert r.next_offset == 3


def test_what_is_sent_again_is_dropped() -> None:
    r = Reassembler()
    r.data(0, b"abcd", 1)
    assert r.data(0, b"abcd", 2) == []
    assert r.data(2, b"cdef", 2) == [Segment(4, b"ef", 2)]
    assert r.data(6, b"", 3) == []


def test_a_jump_is_a_gap_of_unknown_reason() -> None:
    r = Reassembler(10)
    assert r.data(15, b"x", 1) == [Gap(10, 5, UNKNOWN), Segment(15, b"x", 1)]


def test_gaps_pass_once() -> None:
    r = Reassembler()
    assert r.gap(0, 4, LOST) == [Gap(0, 4, LOST)]
    assert r.gap(0, 4, LOST) == []
    assert r.gap(2, 4, LOST) == [Gap(4, 2, LOST)]
    assert r.gap(8, 1, LOST) == [Gap(6, 2, UNKNOWN), Gap(8, 1, LOST)]
    assert r.gap(9, 0, LOST) == []


@given(st.binary(max_size=200), st.lists(st.tuples(st.integers(0, 200), st.integers(0, 60), st.booleans()), max_size=40))
def test_every_offset_comes_out_exactly_once_and_in_order(stream: bytes, calls: list[tuple[int, int, bool]]) -> None:
    r = Reassembler()
    at = 0
    for offset, length, is_gap in calls:
        data = stream[offset : offset + length]
        events = r.gap(offset, length, LOST) if is_gap else r.data(offset, data, 0)
        for event in events:
            assert event.offset == at
            if isinstance(event, Segment):
                assert event.data == stream[at : at + len(event.data)]
                assert event.data
                at += len(event.data)
            else:
                assert event.length > 0
                at += event.length
    assert at == r.next_offset
