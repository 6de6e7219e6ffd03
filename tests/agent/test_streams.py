"""Streams: records of the ring in, ordered news out."""

from __future__ import annotations

import contextlib
import ctypes
import ssl
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import events
from agent.events import Kind, Source
from agent.streams import (
    OPAQUE_REST,
    PENDING_ITEM_BYTES,
    Facts,
    News,
    StreamBound,
    StreamChunk,
    StreamClosed,
    StreamGap,
    StreamHalfClosed,
    StreamOpened,
    StreamOrphaned,
    Streams,
    Tally,
)

PROCESS = events.Process(started=5, execution=1, tgid=77, capture=1)


def head(kind: Kind, stream: int = 1, time: int = 10) -> events.Head:
    return events.Head(kind=kind, tid=77, time=time, stream=stream, process=PROCESS)


def socket_facts(
    inode: int = 9, method: int = 1, family: int = 2, local: bytes = b"\x7f\0\0\1", remote: bytes = b"\x0a\0\0\2"
) -> events.SocketFacts:
    packed = [(ctypes.c_uint8 * 16)(*address) for address in (local, remote)]
    return events.SocketFacts(
        inode=inode, local=packed[0], remote=packed[1], family=family, local_port=4000, remote_port=443, role=1, method=method
    )


def opened(source: Source, stream: int = 1, facts: events.SocketFacts | None = None, known: bool = True) -> bytes:
    return bytes(
        events.Opened(
            head=head(Kind.OPENED, stream),
            key=0xABC,
            socket=facts or events.SocketFacts(),
            command=b"curl",
            source=source,
            start_known=known,
        )
    )


def chunk(offset: int, data: bytes, *, lost: int = 0, direction: int = 1, source: Source = Source.TLS, stream: int = 1) -> bytes:
    event = events.Chunk(
        head=head(Kind.CHUNK, stream), offset=offset, lost=lost, length=len(data), direction=direction, source=source
    )
    return bytes(event) + data + b"\0" * 7  # a record is as long as its class, not as its bytes


def closed(seen: tuple[int, int] = (0, 0), lost: tuple[int, int] = (0, 0), stream: int = 1, opaque: int = 0) -> bytes:
    tally = (events.Tally * 2)(*(events.Tally(seen=s, lost=missing, opaque=opaque) for s, missing in zip(seen, lost, strict=True)))
    return bytes(events.Closed(head=head(Kind.CLOSED, stream), tally=tally))


def process_news(kind: Kind, execution: int = 1) -> bytes:
    event = events.ProcessNews(head=head(kind, 0))
    event.head.process.execution = execution
    return bytes(event)


def news(streams: Streams, records: Iterable[bytes]) -> list[News | StreamOrphaned]:
    return [item for record in records for item in streams.take(record)]


def bytes_of(items: Iterable[News | StreamOrphaned], direction: int = 1) -> bytes:
    return b"".join(item.data for item in items if isinstance(item, StreamChunk) and item.direction == direction)


def test_a_stream_from_beginning_to_end() -> None:
    streams = Streams()
    got = news(streams, [opened(Source.TLS), chunk(0, b"hello"), chunk(5, b"!"), closed((0, 6))])
    assert [type(item) for item in got] == [StreamOpened, StreamChunk, StreamChunk, StreamClosed]
    assert bytes_of(got) == b"hello!"
    account = streams.account(1)
    assert (account.seen, account.delivered, account.lost) == (6, 6, 0)
    assert len(streams) == 0


def test_lost_bytes_are_a_gap_in_their_place() -> None:
    got = news(Streams(), [opened(Source.TLS), chunk(0, b"ab"), chunk(10, b"yz", lost=8), closed((0, 12), (0, 8))])
    assert [item for item in got if isinstance(item, StreamGap)] == [StreamGap(1, 10, 1, 2, 8)]
    assert isinstance(got[-1], StreamClosed)


def test_bytes_lost_at_the_end_show_when_the_stream_closes() -> None:
    streams = Streams()
    got = news(streams, [opened(Source.TLS), chunk(0, b"ab"), closed((0, 7), (0, 5))])
    assert StreamGap(1, 10, 1, 2, 5) in got
    account = streams.account(1)
    assert account.seen == account.delivered + account.lost == 7


def test_a_chunk_that_overtook_another_waits() -> None:
    got = news(Streams(), [opened(Source.TLS), chunk(2, b"cd"), chunk(0, b"ab"), closed((0, 4))])
    assert bytes_of(got) == b"abcd"
    assert not [item for item in got if isinstance(item, StreamGap)]


def test_a_chunk_that_never_came_is_a_gap_when_the_stream_closes() -> None:
    got = news(Streams(), [opened(Source.TLS), chunk(2, b"cd"), closed((0, 4), (0, 2))])
    assert [type(item) for item in got] == [StreamOpened, StreamGap, StreamChunk, StreamClosed]


@given(
    st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=12),
    st.data(),
)
def test_order_and_loss(parts: list[bytes], data: st.DataObject) -> None:
    """Whatever is lost and however neighbours swap: what comes out is in order, and adds up to the byte."""
    records, offset, lost_bytes, kept = [], 0, 0, []
    for part in parts:
        if data.draw(st.booleans(), label="lost"):
            lost_bytes += len(part)
        else:
            records.append(chunk(offset, part, lost=lost_bytes))
            kept.append(part)
        offset += len(part)
    for index in range(len(records) - 1):
        if data.draw(st.booleans(), label="swap"):
            records[index], records[index + 1] = records[index + 1], records[index]
    got = news(Streams(), [opened(Source.TLS), *records, closed((0, offset), (0, lost_bytes))])
    position = 0
    for item in got:
        if isinstance(item, StreamChunk | StreamGap):
            assert item.offset == position
            position += len(item.data) if isinstance(item, StreamChunk) else item.length
    assert position == offset
    delivered = len(bytes_of(got))
    assert delivered <= sum(map(len, kept))
    if not lost_bytes:
        assert bytes_of(got) == b"".join(parts)


def test_a_socket_with_tls_yields_facts_and_no_bytes() -> None:
    hello = client_hello(b"api.example.com")
    got = news(
        Streams(),
        [
            opened(Source.SOCKET, 1, socket_facts()),
            opened(Source.TLS, 2),
            chunk(0, hello, source=Source.OPAQUE, stream=1),
            bytes(events.Bound(head=head(Kind.BOUND, 2), socket=socket_facts(method=2))),
            chunk(0, b"GET", stream=2),
            closed((0, 3), stream=2),
            closed((0, 0), stream=1, opaque=900),
        ],
    )
    assert [item.stream for item in got] == [2] * len(got)
    bound = next(item for item in got if isinstance(item, StreamBound))
    assert (bound.facts.server_name, bound.facts.remote, bound.facts.method) == ("api.example.com", ("10.0.0.2", 443), 2)


def test_hellos_seen_after_the_binding_follow() -> None:
    got = news(
        Streams(),
        [
            opened(Source.SOCKET, 1, socket_facts()),
            opened(Source.TLS, 2, socket_facts(method=3)),
            chunk(0, client_hello(b"late.example")[:20], source=Source.OPAQUE, stream=1),
            chunk(20, client_hello(b"late.example")[20:], source=Source.OPAQUE, stream=1),
        ],
    )
    assert [item.facts.server_name for item in got if isinstance(item, StreamBound)] == ["", "late.example"]


def test_tls_that_nobody_sees_shows_as_an_opaque_stream() -> None:
    hello = chunk(0, client_hello(b"jsse.example"), source=Source.OPAQUE)
    got = news(Streams(), [opened(Source.SOCKET, 1, socket_facts()), hello, closed(opaque=900)])
    assert [type(item) for item in got] == [StreamOpened, StreamBound, StreamClosed]
    assert isinstance(got[0], StreamOpened)
    assert got[0].source is Source.OPAQUE
    assert isinstance(got[1], StreamBound)
    assert got[1].facts.server_name == "jsse.example"


def test_tls_that_nobody_sees_on_a_socket_that_was_plain_shows_as_an_opaque_stream_beside_it() -> None:
    streams = Streams()
    got = news(
        streams,
        [
            opened(Source.SOCKET, 1, socket_facts()),
            chunk(0, b"CONNECT", source=Source.SOCKET),
            chunk(0, client_hello(b"jsse.example"), source=Source.OPAQUE),
            closed((0, 7), opaque=900),
        ],
    )
    plain, opaque = [[item for item in got if item.stream == stream] for stream in (1, 1 + OPAQUE_REST)]
    assert [type(item) for item in plain] == [StreamOpened, StreamBound, StreamChunk, StreamClosed]
    first, bound, last = opaque
    assert isinstance(first, StreamOpened)
    assert (first.source, first.process.pid, first.command) == (Source.OPAQUE, 77, "curl")
    assert isinstance(bound, StreamBound)
    assert (bound.facts.server_name, bound.facts.remote) == ("jsse.example", ("10.0.0.2", 443))
    assert isinstance(last, StreamClosed)
    assert last.tally == (Tally(opaque=900), Tally(opaque=900))
    account = streams.account(1)
    assert (account.seen, account.delivered, account.opaque) == (7, 7, 1800)


def test_tls_that_is_seen_on_a_socket_that_was_plain_is_no_opaque_stream() -> None:
    got = news(
        Streams(),
        [
            opened(Source.SOCKET, 1, socket_facts()),
            chunk(0, b"CONNECT", source=Source.SOCKET),
            opened(Source.TLS, 2, socket_facts(method=2)),
            closed((0, 7), opaque=900),
        ],
    )
    assert {item.stream for item in got} == {1, 2}


def test_an_end_of_process_orphans_its_tls_streams() -> None:
    streams = Streams()
    got = news(streams, [opened(Source.TLS), chunk(0, b"a"), process_news(Kind.EXITED)])
    orphan = got[-1]
    assert isinstance(orphan, StreamOrphaned)
    assert (orphan.key.ssl, orphan.key.tgid, orphan.key.started) == (0xABC, 77, 5)
    entry = events.StreamEntry(id=1, tally=(events.Tally * 2)(events.Tally(), events.Tally(seen=1)), source=Source.TLS, epoch=3)
    assert list(streams.settle(entry, 20, 3)) == [StreamClosed(1, 20, (Tally(), Tally(1)))]


@pytest.mark.parametrize(("source", "cut"), [(Source.TLS, True), (Source.SOCKET, False)])
def test_what_may_have_gone_on_unseen_is_cut(source: Source, cut: bool) -> None:
    """Of a socket the kernel counts all."""
    streams = Streams()
    news(streams, [chunk(0, b"a", source=source)])
    entry = events.StreamEntry(id=1, tally=(events.Tally * 2)(events.Tally(), events.Tally(seen=1)), source=source, epoch=3)
    assert list(streams.settle(entry, 20, 4)) == [StreamClosed(1, 20, (Tally(), Tally(1)), cut)]


def test_what_the_probes_have_cut_is_cut() -> None:
    told = events.Closed.from_buffer_copy(closed((0, 1)))
    told.cut = 1
    assert news(Streams(), [chunk(0, b"a"), bytes(told)])[-1] == StreamClosed(1, 10, (Tally(), Tally(1)), cut=True)


def test_an_execution_orphans_only_what_was_before_it() -> None:
    assert not news(Streams(), [opened(Source.TLS), process_news(Kind.EXECUTED, execution=1)])[1:]
    streams = Streams()
    assert isinstance(news(streams, [opened(Source.TLS), process_news(Kind.EXECUTED, execution=2)])[-1], StreamOrphaned)


def test_processes_that_are_gone_are_noted_until_somebody_has_looked_for_what_they_left() -> None:
    """What a process had in earlier programs is gone with its execution, and all with its end."""
    streams = Streams()
    news(streams, [process_news(Kind.EXECUTED, execution=2)])
    assert streams.gone == {(77, 5): 2}
    news(streams, [process_news(Kind.EXITED, execution=2)])
    assert streams.gone == {(77, 5): 3}


def test_an_unknown_start_is_told_and_counted() -> None:
    streams = Streams()
    got = news(streams, [opened(Source.TLS, known=False)])
    assert isinstance(got[0], StreamOpened)
    assert not got[0].start_known
    assert streams.account(1).unknown_starts == 1


def test_an_empty_connection_is_no_news() -> None:
    assert news(Streams(), [opened(Source.SOCKET, 1, socket_facts()), closed()]) == []


def test_a_half_close_and_an_unreadable_stretch() -> None:
    half = bytes(events.HalfClosed(head=head(Kind.HALF_CLOSED), offset=0, direction=0))
    gap = bytes(events.Gap(head=head(Kind.GAP), offset=0, lost=0, length=50, direction=1))
    got = news(Streams(), [opened(Source.SOCKET, 1, socket_facts()), gap, half, closed((0, 50))])
    assert got[-3:-1] == [StreamGap(1, 10, 1, 0, 50, lost=False), StreamHalfClosed(1, 10, 0)]


@pytest.mark.parametrize("offset", [0, 4, 5, 6])
def test_an_end_is_told_only_where_nothing_follows_it(offset: int) -> None:
    """Of two threads that read, one may meet the end before the other's bytes are told, or those may be lost."""
    half = bytes(events.HalfClosed(head=head(Kind.HALF_CLOSED), offset=offset, direction=0))
    got = news(
        Streams(),
        [opened(Source.SOCKET, 1, socket_facts()), half, chunk(0, b"12345", direction=0, source=Source.SOCKET), closed((5, 0))],
    )
    assert any(isinstance(item, StreamHalfClosed) for item in got) == (offset == 5)


def test_addresses() -> None:
    mapped = socket_facts(family=10, local=bytes(15) + b"\1", remote=bytes(10) + b"\xff\xff\xc0\0\2\7")
    got = news(Streams(), [opened(Source.TLS, 1, mapped)])
    assert isinstance(got[-1], StreamBound)
    assert got[-1].facts == Facts(9, ("::1", 4000), ("192.0.2.7", 443), 1, 1)


def client_hello(name: bytes) -> bytes:
    """A ClientHello as OpenSSL makes it, in one record."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=name.decode()).do_handshake()
    return outgoing.read()


def test_an_opening_that_comes_late_changes_no_bytes() -> None:
    """It found no room in the ring at first, and the kernel told it again with the next bytes."""
    streams = Streams()
    got = news(streams, [chunk(0, b"GET / "), opened(Source.TLS), chunk(6, b"HTTP/1.1\r\n"), process_news(Kind.EXITED)])
    assert [type(item) for item in got] == [StreamOpened, StreamChunk, StreamChunk, StreamOrphaned]
    assert bytes_of(got) == b"GET / HTTP/1.1\r\n"
    assert isinstance(got[-1], StreamOrphaned)
    assert got[-1].key.ssl == 0xABC
    assert [type(item) for item in news(streams, [closed((0, 16))])] == [StreamClosed]
    assert (streams.account(1).seen, streams.account(1).delivered) == (16, 16)


def test_a_stream_whose_end_was_lost_ends_with_its_capture() -> None:
    streams = Streams()
    news(streams, [opened(Source.TLS), chunk(0, b"ab"), chunk(5, b"yz", direction=0), opened(Source.SOCKET, 2, socket_facts())])
    got = list(streams.end(1, 20))
    assert got == [
        StreamGap(1, 20, 0, 0, 5),
        StreamChunk(1, 10, 0, 5, b"yz"),
        StreamClosed(1, 20, (Tally(7, 5), Tally(2, 0)), cut=True),
    ]
    assert len(streams) == 0
    account = streams.account(1)
    assert account.seen == account.delivered + account.lost == 9


def test_a_stream_whose_end_was_lost_can_be_abandoned() -> None:
    streams = Streams()
    news(streams, [opened(Source.TLS), chunk(0, b"a")])
    assert list(streams.abandon(1, 20)) == [StreamClosed(1, 20, (Tally(), Tally(1)), cut=True)]
    assert not list(streams.abandon(1, 30))


def test_more_streams_than_the_kernel_holds_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each end found no room in the ring."""
    monkeypatch.setattr("agent.streams.STREAMS_LIMIT", 100)
    streams = Streams()
    got = news(streams, [chunk(0, b"a", stream=number) for number in range(300)])
    assert len(streams) == 101
    assert [item.stream for item in got if isinstance(item, StreamClosed)] == list(range(199))
    assert sum(item.tally[1].seen for item in got if isinstance(item, StreamClosed)) == 199


def test_what_waits_for_earlier_bytes_is_bounded_over_all_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.streams.PENDING_BYTES", 10 * (1000 + PENDING_ITEM_BYTES))
    streams = Streams()
    got = news(streams, [chunk(1, b"x" * 1000, stream=number) for number in range(50)])
    waiting = 50_000 - sum(len(item.data) for item in got if isinstance(item, StreamChunk))
    assert waiting == 10_000
    got += list(streams.end(1, 20))
    assert sum(len(item.data) for item in got if isinstance(item, StreamChunk)) == 50_000
    assert sum(item.length for item in got if isinstance(item, StreamGap)) == 50


def test_what_waits_counts_though_it_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that come one by one take far more room than they say."""
    monkeypatch.setattr("agent.streams.PENDING_BYTES", 10 * (1 + PENDING_ITEM_BYTES))
    streams = Streams()
    got = news(streams, [chunk(1, b"x", stream=number) for number in range(50)])
    assert sum(len(item.data) for item in got if isinstance(item, StreamChunk)) == 40
