"""What is kept of messages that have not ended has one bound, whoever sends what."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest

from engine.ingest.recording import Recording
from engine.ingest.unfinished import Unfinished
from engine.protocols.http1 import HEAD_LIMIT
from engine.rrpair import Connection, Role, RRPair, Way
from engine.snapshot import Snapshot, SnapshotWriter

KIB = 1024
LIMIT = 1024 * KIB
PIECE = b"x" * (4 * KIB)
REQUEST = b"GET /after HTTP/1.1\r\nHost: api.example\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def upload(size: int) -> bytes:
    return b"POST /up HTTP/1.1\r\nHost: api.example\r\nContent-Length: %d\r\n\r\n" % size


class Sender:
    """One stream of a recording; the bytes of each way one after the other."""

    def __init__(self, recording: Recording, number: int) -> None:
        self.key = ("agent", number)
        self.recording = recording
        self.at = {Way.READ: 0, Way.WRITE: 0}
        self.time = number
        recording.opened(self.key, Connection(f"agent-{number}", role=Role.CLIENT), 1, start_known=True, opaque=False)

    def say(self, way: Way, data: bytes) -> None:
        self.time += 1000
        self.recording.data(self.key, way, self.at[way], data, self.time)
        self.at[way] += len(data)

    def send(self, data: bytes) -> None:
        self.say(Way.WRITE, data)
        self.recording.commit()

    def answer(self, data: bytes) -> None:
        self.say(Way.READ, data)
        self.recording.commit()


def recording(path: Path, unfinished: Unfinished) -> Recording:
    writer = SnapshotWriter.create(path, service="shop", capture_id=path.name, created=1, tool_version="0")
    return Recording(writer, "shop", path.name, unfinished=unfinished)


def pairs(path: Path) -> list[RRPair]:
    with Snapshot(path) as snapshot:
        return list(snapshot.pairs())


def test_bodies_of_all_streams_together_have_a_bound(tmp_path: Path) -> None:
    unfinished = Unfinished(LIMIT)
    got = recording(tmp_path / "s", unfinished)
    senders = [Sender(got, number) for number in range(40)]
    for sender in senders:
        sender.send(upload(30 * len(PIECE)))
    for _ in range(29):
        for sender in senders:
            sender.send(PIECE)
            assert unfinished.size <= LIMIT
    assert got.missing_bytes > LIMIT
    got.finish(9)
    assert unfinished.size == 0
    assert not any(pair.complete for pair in pairs(tmp_path / "s"))


def test_the_largest_is_cut_and_its_connection_is_read_on(tmp_path: Path) -> None:
    got = recording(tmp_path / "s", Unfinished(LIMIT))
    large, small = Sender(got, 1), Sender(got, 2)
    small.send(upload(len(PIECE) + 1) + PIECE)
    size = 2 * LIMIT
    large.send(upload(size))
    for _ in range(size // len(PIECE)):
        large.send(PIECE)
    for sender, rest in ((large, b""), (small, b"y")):
        sender.send(rest)
        sender.answer(ANSWER)
        sender.send(REQUEST)
        sender.answer(ANSWER)
    got.finish(9)
    found = {(pair.connection.id, pair.path): pair for pair in pairs(tmp_path / "s")}
    cut = found.pop(("agent-1", "/up"))
    assert cut.missing == ("request body", "room for it in memory")
    assert cut.response is not None
    assert cut.response.body == b"ok"
    assert [pair.complete for pair in found.values()] == [True] * 3


def test_whole_requests_that_wait_for_their_answers_are_bounded_too(tmp_path: Path) -> None:
    unfinished = Unfinished(LIMIT)
    got = recording(tmp_path / "s", unfinished)
    senders = [Sender(got, number) for number in range(20)]
    for sender in senders:
        sender.send(upload(100 * KIB) + b"x" * 100 * KIB)
        assert unfinished.size <= LIMIT
    for sender in senders:
        sender.answer(ANSWER)
    got.finish(9)
    found = pairs(tmp_path / "s")
    assert [pair.response.body for pair in found if pair.response] == [b"ok"] * 20
    whole = [pair for pair in found if pair.complete]
    assert all(len(pair.request.body) == 100 * KIB for pair in whole)
    assert 0 < len(whole) <= 10
    assert {pair.missing for pair in found if not pair.complete} == {("request body", "room for it in memory")}


def test_where_heads_alone_are_too_many_streams_are_given_up(tmp_path: Path) -> None:
    unfinished = Unfinished(LIMIT)
    got = recording(tmp_path / "s", unfinished)
    senders = [Sender(got, number) for number in range(20)]
    head = b"GET / HTTP/1.1\r\nX-Long: " + b"x" * (HEAD_LIMIT - KIB) + b"\r\n\r\n"
    for sender in senders:
        sender.send(head)
        assert unfinished.size <= LIMIT
    lost = got.missing_bytes
    for sender in senders:
        sender.answer(ANSWER)  # of those that were given up, this is lost as well
    given_up = (got.missing_bytes - lost) // len(ANSWER)
    assert 0 < given_up < len(senders)
    assert lost == given_up * len(head)
    got.finish(9)
    with Snapshot(tmp_path / "s") as snapshot:
        told = [(flow.read, flow.written) for flow in snapshot.flows() if "had not ended" in flow.reason]
        assert told == [(len(ANSWER), len(head))] * given_up
        assert snapshot.counts()[0] == len(senders) - given_up


def test_the_recording_that_keeps_the_most_lets_go(tmp_path: Path) -> None:
    unfinished = Unfinished(LIMIT)
    one, other = (recording(tmp_path / name, unfinished) for name in "ab")
    large, small = Sender(one, 1), Sender(other, 1)
    large.send(upload(LIMIT) + b"x" * (LIMIT - 200 * KIB))
    small.send(upload(300 * KIB) + b"x" * 299 * KIB)
    assert unfinished.size <= 300 * KIB
    small.send(b"x" * KIB)
    small.answer(ANSWER)
    for each in (one, other):
        each.finish(9)
    assert [pair.complete for name in "ab" for pair in pairs(tmp_path / name)] == [False, True]


def test_a_recording_that_is_busy_is_not_waited_for(tmp_path: Path) -> None:
    unfinished = Unfinished(LIMIT)
    one, other = (recording(tmp_path / name, unfinished) for name in "ab")
    large, small = Sender(one, 1), Sender(other, 1)
    large.send(upload(LIMIT) + b"x" * (LIMIT - 200 * KIB))
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with one.lock:
            held.set()
            go_on.wait(30)

    busy = threading.Thread(target=hold)
    busy.start()
    held.wait(30)
    small.send(upload(300 * KIB) + b"x" * 299 * KIB)
    go_on.set()
    busy.join()
    assert unfinished.size <= LIMIT
    for each in (one, other):
        each.discard()
    assert unfinished.size == 0


@pytest.mark.parametrize("seed", range(20))
def test_the_account_is_what_streams_keep(tmp_path: Path, seed: int) -> None:
    """Whatever is sent in whatever pieces: nothing is left in it once all streams are over, and it is never exceeded."""
    choose = random.Random(seed)
    unfinished = Unfinished(64 * KIB)
    got = recording(tmp_path / "s", unfinished)
    senders = [Sender(got, number) for number in range(8)]
    for _ in range(200):
        sender = choose.choice(senders)
        piece = choose.choice([REQUEST, upload(20 * KIB), PIECE, PIECE[:100], ANSWER, REQUEST[:10], ANSWER[:30], b"\r\n\r\n"])
        choose.choice([sender.send, sender.answer])(piece)
        if choose.random() < 0.05:
            got.gap(sender.key, Way.WRITE, sender.at[Way.WRITE], 10, "lost")
            sender.at[Way.WRITE] += 10
            got.commit()
        assert unfinished.size == sum(conversation.held for conversation in got._conversations.values()) <= 64 * KIB
    for sender in senders:
        got.closed(sender.key, sender.time + 1)
    got.commit()
    assert unfinished.size == 0
