"""The window: what is sent again after a break, what is let go, and what is never let go."""

from __future__ import annotations

import sys
import tracemalloc
from types import FrameType
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

import agent.window
from agent.events import Source
from agent.streams import Facts, Process, StreamBound, StreamChunk, StreamClosed, StreamGap, StreamOpened, Tally
from agent.window import BATCH_BYTES, Item, Marker, Window

CLOSED = StreamClosed(1, 9, (Tally(), Tally(seen=4)))


def opened(stream: int = 1) -> StreamOpened:
    return StreamOpened(stream, 1, 1, Process(7, 1, 1), "curl", Source.TLS, True)


def chunk(offset: int, data: bytes, stream: int = 1, direction: int = 1) -> StreamChunk:
    return StreamChunk(stream, 2, direction, offset, data)


def drain(window: Window) -> list[Item]:
    items: list[Item] = []
    while batch := window.batch():
        items += batch[1]
    return items


def test_everything_goes_out_once_in_order() -> None:
    window = Window()
    items: list[Item] = [Marker(1), opened(), chunk(0, b"ab"), chunk(2, b"cd"), CLOSED]
    window.put(items)
    assert drain(window) == items
    assert window.batch() is None
    assert not window.idle
    window.received(1)
    assert window.idle


def test_a_batch_is_bounded() -> None:
    window = Window()
    window.put([opened(), *(chunk(n << 18, bytes(1 << 18)) for n in range(9))])
    batches = []
    while batch := window.batch():
        batches.append(batch[1])
    assert len(batches) == 3
    assert all(sum(len(i.data) for i in items if isinstance(i, StreamChunk)) <= BATCH_BYTES for items in batches)


def test_what_is_not_committed_is_sent_again() -> None:
    window = Window()
    bound = StreamBound(1, 2, Facts(inode=3))
    window.put([Marker(1), opened(), bound, chunk(0, b"abcd"), chunk(4, b"ef")])
    drain(window)
    window.received(1)
    window.committed(1, 0, 4, finished=False)
    window.reconnected()
    assert drain(window) == [opened(), bound, chunk(4, b"ef")]


def test_what_was_not_received_is_sent_again_with_its_marker() -> None:
    window = Window()
    items: list[Item] = [Marker(1), opened(), chunk(0, b"ab"), CLOSED, Marker(1, ended="ledger")]
    window.put(items)
    drain(window)
    window.reconnected()
    assert drain(window) == items


def test_what_is_finished_is_forgotten() -> None:
    window = Window()
    window.put([opened(), chunk(0, b"ab"), CLOSED])
    drain(window)
    window.received(1)
    window.committed(1, 0, 2, finished=True)
    assert window.kept_bytes == 0
    window.reconnected()
    assert drain(window) == []


def test_the_oldest_received_chunks_are_let_go_when_there_is_no_room() -> None:
    window = Window(kept_bytes=3000)
    window.put([opened(), *(chunk(n * 1000, bytes(1000)) for n in range(5))])
    drain(window)
    assert window.let_go_bytes == 0  # not received: nothing may be let go
    window.received(1)
    assert window.let_go_bytes == 3000
    window.reconnected()
    again = drain(window)
    assert again == [opened(), StreamGap(1, 2, 1, 0, 3000), chunk(3000, bytes(1000)), chunk(4000, bytes(1000))]
    assert window.missed_bytes == {1: 3000}
    window.reconnected()
    assert window.missed_bytes == {1: 3000}


def test_what_was_let_go_is_missed_only_where_the_engine_needs_it_again() -> None:
    window = Window(kept_bytes=3000)
    window.put([opened(), *(chunk(n * 1000, bytes(1000)) for n in range(5))])
    drain(window)
    window.received(1)
    window.committed(1, 0, 1500, finished=False)
    window.reconnected()
    assert window.missed_bytes == {1: 1500}


def steps(window: Window, chunks: int) -> int:
    """Lines of the window's code that run while one stream's chunks are sent and received, and none is committed."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace if frame.f_code.co_filename == agent.window.__file__ else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        window.put([opened()])
        for n in range(chunks):
            window.put([chunk(n, b"x", direction=n % 2)])
            sequence, _ = window.batch() or (0, [])
            window.received(sequence)
    finally:
        sys.settrace(before)
    return count


def test_a_long_answer_takes_work_in_proportion_to_its_length() -> None:
    assert steps(Window(kept_bytes=1000), 2000) < 2.2 * steps(Window(kept_bytes=1000), 1000)


def test_a_long_answer_takes_no_more_room_than_there_is() -> None:
    """100,000 chunks of 16 KiB each way, none of them committed, with a hole in the middle that was never seen."""
    count, size, kept = 100_000, 16 << 10, 64 << 10
    data, middle = bytes(size), 50_000
    window = Window(kept_bytes=kept)
    window.put([Marker(1), opened()])
    for n in range(count):
        each = [StreamGap(1, 2, 0, n * size, size) if n == middle else chunk(n * size, data, direction=0)]
        window.put([*each, chunk(n * size, data)])
        sequence, _ = window.batch() or (0, [])
        window.received(sequence)
        assert window.kept_bytes <= kept
    window.committed(1, 10 * size + 1, 0, finished=False)
    window.reconnected()
    again = drain(window)
    assert again[:5] == [
        opened(),
        StreamGap(1, 2, 0, 0, middle * size),
        StreamGap(1, 2, 0, middle * size, size),
        StreamGap(1, 2, 0, (middle + 1) * size, (count - 1 - middle - 1) * size),
        StreamGap(1, 2, 1, 0, (count - 2) * size),
    ]
    last = (count - 1) * size
    assert again[5:] == [chunk(last - size, data), chunk(last, data, direction=0), chunk(last, data)]
    assert window.missed_bytes == {1: window.let_go_bytes - 10 * size - 1}


def test_streams_that_came_and_went_leave_nothing() -> None:
    """Without a break, and with room for all: whatever the window keeps grows with what is open only."""
    window = Window()
    tracemalloc.start()
    try:
        for stream in range(20_000):
            if stream == 1000:
                before, _ = tracemalloc.get_traced_memory()
            window.put([opened(stream), chunk(0, b"question", stream), chunk(0, b"answer", stream, direction=0)])
            sequence, _ = window.batch() or (0, [])
            window.received(sequence)
            window.committed(stream, 6, 8, finished=True)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 19_000  # less than a byte each


def test_of_two_streams_the_one_that_waited_longer_is_let_go_first() -> None:
    window = Window(kept_bytes=2500)
    window.put([opened(1), opened(2)])
    for offset, stream in ((0, 1), (0, 2), (1000, 1), (1000, 2)):
        window.put([chunk(offset, bytes(1000), stream)])
        sequence, _ = window.batch() or (0, [])
        window.received(sequence)
    window.reconnected()
    gaps = [item for item in drain(window) if isinstance(item, StreamGap)]
    assert gaps == [StreamGap(1, 2, 1, 0, 1000), StreamGap(2, 2, 1, 0, 1000)]


def test_full_means_that_nothing_more_should_come() -> None:
    window = Window(unsent_bytes=1000)
    window.put([chunk(0, bytes(1000))])
    assert window.full
    drain(window)
    assert not window.full


@given(st.lists(st.sampled_from(["put", "send", "receive", "commit", "break"]), max_size=60))
def test_no_byte_is_ever_missing(steps: list[str]) -> None:
    """An engine that keeps what it received and committed always has, or is sent again, every byte."""
    window, position, sequence, committed = Window(), 0, 0, 0
    have = bytearray()
    window.put([opened()])
    for step in steps:
        if step == "put":
            window.put([chunk(position, bytes([position % 251]))])
            position += 1
        elif step == "send":
            batch = window.batch()
            if batch:
                sequence, items = batch
                for item in items:
                    if isinstance(item, StreamChunk):
                        assert item.offset <= len(have), "a byte was skipped"
                        have[item.offset :] = item.data
        elif step == "receive":
            window.received(sequence)
        elif step == "commit":
            committed = len(have)
            window.committed(1, 0, committed, finished=False)
        else:
            del have[committed:]  # the engine died with what was not committed
            window.reconnected()
    for item in drain(window):
        if isinstance(item, StreamChunk):
            assert item.offset <= len(have)
            have[item.offset :] = item.data
    assert bytes(have) == bytes(n % 251 for n in range(position))


@given(
    st.lists(
        st.tuples(st.sampled_from(["chunk", "hole", "send", "receive", "commit", "break"]), st.integers(0, 1)),
        min_size=20,  # else most are too short to let anything go
        max_size=80,
    ),
    st.integers(100, 400),
)
def test_what_was_let_go_comes_as_a_gap_in_its_place(steps: list[tuple[str, int]], room: int) -> None:
    """An engine that was told of every byte or hole, and lost what it had not committed, is told of all of it again: bytes, holes,
    and gaps where bytes were let go, each direction in its order. What it misses so is counted, to the byte."""
    window, sequence, committed, missed = Window(kept_bytes=room), 0, [0, 0], 0
    truth, told = ["", ""], ["", ""]  # x: a byte, o: a hole, and in what the engine is told .: let go

    def take(items: list[Item]) -> None:
        for item in items:
            if isinstance(item, StreamChunk | StreamGap):
                assert item.offset <= len(told[item.direction]), "something was skipped"
                length = len(item.data) if isinstance(item, StreamChunk) else item.length
                known = truth[item.direction][item.offset : item.offset + length]
                lost = known.replace("x", ".") if isinstance(item, StreamGap) else known
                told[item.direction] += lost[len(told[item.direction]) - item.offset :]

    window.put([opened()])
    for step, way in steps:
        if step == "chunk":
            window.put([chunk(len(truth[way]), b"xxxx", direction=way)])
            truth[way] += "xxxx"
        elif step == "hole":
            window.put([StreamGap(1, 2, way, len(truth[way]), 4, lost=False)])
            truth[way] += "oooo"
        elif step == "send" and (batch := window.batch()):
            sequence = batch[0]
            take(batch[1])
        elif step == "receive":
            window.received(sequence)
        elif step == "commit":
            committed[way] = max(committed[way], len(told[way]) - 1)
            window.committed(1, committed[0], committed[1], finished=False)
        elif step == "break":
            before = told[:]
            told[:] = [text[:end] for text, end in zip(told, committed, strict=True)]
            window.reconnected()
            take(drain(window))
            for was, now in zip(before, told, strict=True):
                missed += sum(a == "x" and b == "." for a, b in zip(was, now, strict=False))
    take(drain(window))
    assert [text.replace(".", "x") for text in told] == truth
    assert window.missed_bytes[1] == missed


def test_what_is_left_of_a_capture_is_given_up_and_counted() -> None:
    """Received, in flight, and never sent; of another capture nothing goes."""
    other = StreamOpened(2, 1, 5, Process(7, 1, 1), "curl", Source.TLS, True)
    window = Window()
    window.put([Marker(1), Marker(5), opened(), other, chunk(0, b"taken"), chunk(0, b"other", stream=2)])
    sequence, _ = window.batch() or (0, [])
    window.received(sequence)
    window.put([chunk(5, b"on its way"), Marker(1, ended="ledger")])
    window.batch()
    window.put([chunk(15, b"waits"), opened(3), chunk(0, b"new", stream=3), chunk(5, b"more", stream=2), CLOSED])
    assert window.give_up(1) == len(b"on its way" + b"waits" + b"new")
    window.reconnected()
    assert drain(window) == [other, chunk(0, b"other", stream=2), chunk(5, b"more", stream=2)]


def test_what_a_broken_connection_took_counts_as_not_received() -> None:
    window = Window()
    window.put([opened(), chunk(0, b"taken")])
    sequence, _ = window.batch() or (0, [])
    window.received(sequence)
    window.reconnected()
    assert window.give_up(1) == len(b"taken")
    assert window.empty
    assert not window.full
    assert window.kept_bytes == 0
