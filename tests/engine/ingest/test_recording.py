"""Recording: what is committed is committed once, whoever dies in between."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, KeysView, Mapping
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from engine.ingest.recording import Recording
from engine.protocols import http1
from engine.rrpair import Connection, Role, Way
from engine.snapshot import Snapshot, SnapshotError, SnapshotWriter
from tests.engine.dialogue import Choices, Dialogue, Seen, check, dialogue

EXAMPLES = int(os.environ.get("UNDERSTUDY_EXAMPLES", "100"))
KEY = ("agent", 7)
CONNECTION = Connection("agent-7", tls=True, role=Role.CLIENT)
PROXIED = Connection(
    "", role=Role.CLIENT, local_address="192.0.2.9", local_port=40000, remote_address="192.0.2.5", remote_port=3128
)


def recording(path: Path, *, resume: bool = False) -> Recording:
    writer = SnapshotWriter.create(path, service="shop", capture_id="c", created=1, tool_version="0", resume=resume)
    return Recording(writer, "shop", "c")


def exchange(n: int) -> tuple[bytes, bytes]:
    return (
        b"GET /%d HTTP/1.1\r\nHost: api.example\r\n\r\n" % n,
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n%03d" % n,
    )


def paths(path: Path) -> list[str]:
    with Snapshot(path) as snapshot:
        return [pair.path for pair in snapshot.pairs()]


def test_streams_become_pairs(tmp_path: Path) -> None:
    got = recording(tmp_path / "s")
    got.opened(KEY, CONNECTION, 1, start_known=True, opaque=False)
    asked, answered = exchange(1)
    got.data(KEY, Way.WRITE, 0, asked, 2)
    got.data(KEY, Way.READ, 0, answered, 3)
    (progress,) = got.commit()
    assert (progress.write_offset, progress.read_offset, progress.finished) == (len(asked), len(answered), False)
    got.closed(KEY, 4)
    assert got.commit()[0].finished
    got.capture_over("agent", {"seen": 5})
    got.finish(9)
    with Snapshot(tmp_path / "s") as snapshot:
        assert snapshot.info.ledger == {"seen": 5}
        assert snapshot.counts() == (1, 1)


def test_streams_that_are_over_cost_no_memory_and_are_not_taken_in_again(tmp_path: Path) -> None:
    got = recording(tmp_path / "s")
    for _ in range(2):  # the second time as from an agent that has seen no acknowledgement
        for stream in range(10):
            key = ("agent", stream)
            got.opened(key, replace(CONNECTION, id=f"agent-{stream}"), 1, start_known=True, opaque=False)
            for way, data in zip((Way.WRITE, Way.READ), exchange(stream), strict=True):
                got.data(key, way, 0, data, 2)
            got.closed(key, 3)
        assert all(progress.finished for progress in got.commit())
        assert not got._progress
    got.finish(9)
    assert len(paths(tmp_path / "s")) == 10


def test_what_becomes_known_late_reaches_the_pairs_before(tmp_path: Path) -> None:
    got = recording(tmp_path / "s")
    got.opened(KEY, CONNECTION, 1, start_known=True, opaque=False)
    for way, data in zip((Way.WRITE, Way.READ), exchange(1), strict=True):
        got.data(KEY, way, 0, data, 2)
    got.commit()
    facts = Connection("", remote_address="192.0.2.1", remote_port=8443, server_name="api.example", tls_version="TLS 1.3")
    got.located(KEY, facts)
    got.finish(9)
    with Snapshot(tmp_path / "s") as snapshot:
        (pair,) = snapshot.pairs()
    assert (pair.port, pair.connection.tls_version, pair.connection.role) == (8443, "TLS 1.3", Role.CLIENT)


def test_an_opaque_stream_is_a_flow_with_its_reason(tmp_path: Path) -> None:
    got = recording(tmp_path / "s")
    got.opened(KEY, CONNECTION, 1, start_known=True, opaque=True)
    got.located(KEY, Connection("", server_name="jsse.example", remote_port=443))
    got.closed(KEY, 5, opaque=(900, 80))
    got.finish(9)
    with Snapshot(tmp_path / "s") as snapshot:
        (flow,) = snapshot.flows()
    assert (flow.protocol, flow.read, flow.written, flow.connection.server_name) == ("tls", 900, 80, "jsse.example")


def test_what_nobody_recorded_is_no_error(tmp_path: Path) -> None:
    got = recording(tmp_path / "s")
    got.data(KEY, Way.READ, 0, b"x", 1)
    got.gap(KEY, Way.READ, 0, 5, "lost")
    got.half_closed(KEY, Way.READ, 1)
    got.located(KEY, Connection(""))
    got.finish(9)
    assert paths(tmp_path / "s") == []


@given(st.integers(1, 6), st.data())
def test_an_engine_that_dies_and_goes_on_loses_and_doubles_nothing(
    tmp_path_factory: pytest.TempPathFactory, count: int, data: st.DataObject
) -> None:
    """The agent keeps what is not committed and sends it again, in chunks of any size, to an engine that may die at any commit."""
    folder = tmp_path_factory.mktemp("resume")
    streams = {Way.WRITE: b"", Way.READ: b""}
    events: list[tuple[Way, int, bytes]] = []
    for n in range(count):
        for way, message in zip((Way.WRITE, Way.READ), exchange(n), strict=True):
            cut = data.draw(st.integers(0, len(message)), label="cut")
            for part in (message[:cut], message[cut:]):
                if part:
                    events.append((way, len(streams[way]), part))
                    streams[way] += part
    got = recording(folder / "s")
    got.opened(KEY, CONNECTION, 1, start_known=True, opaque=False)
    position = 0
    while position < len(events):
        step = data.draw(st.integers(1, len(events) - position), label="step")
        for way, offset, part in events[position : position + step]:
            got.data(KEY, way, offset, part, offset)
        position += step
        acknowledged = {Way.READ: 0, Way.WRITE: 0}
        for progress in got.commit():
            acknowledged = {Way.READ: progress.read_offset, Way.WRITE: progress.write_offset}
        if data.draw(st.booleans(), label="dies"):
            got.abandon()
            got = recording(folder / "s", resume=True)
            got.opened(KEY, CONNECTION, 1, start_known=True, opaque=False)
            known = data.draw(st.booleans(), label="the acknowledgement arrived")
            for way, offset, part in events[:position]:
                if not known or offset + len(part) > acknowledged[way]:
                    got.data(KEY, way, offset, part, offset)
    got.closed(KEY, 99)
    got.finish(100)
    assert paths(folder / "s") == [f"/{n}" for n in range(count)]
    with Snapshot(folder / "s") as snapshot:
        assert all(pair.complete for pair in snapshot.pairs())


def test_what_goes_through_a_tunnel_is_of_the_server_behind_the_proxy(tmp_path: Path) -> None:
    """The plain stream says where it leads; the TLS in it is a stream of its own on the same socket."""
    got = recording(tmp_path / "s")
    plain, inner = ("agent", 1), ("agent", 2)
    got.opened(plain, Connection("agent-1"), 1, start_known=True, opaque=False)
    got.located(plain, PROXIED)
    got.data(plain, Way.WRITE, 0, b"CONNECT api.example:8443 HTTP/1.1\r\nHost: api.example:8443\r\n\r\n", 2)
    got.data(plain, Way.READ, 0, b"HTTP/1.1 200 Connection established\r\n\r\n", 3)
    got.opened(inner, Connection("agent-2", tls=True), 4, start_known=True, opaque=False)
    got.data(inner, Way.WRITE, 0, b"GET /1 HTTP/1.1\r\nHost: api.example:8443\r\n\r\n", 5)
    got.located(inner, PROXIED)
    got.data(inner, Way.READ, 0, exchange(1)[1], 6)
    got.located(inner, Connection("", remote_address="192.0.2.5", remote_port=3128, server_name="api.example"))
    got.closed(inner, 7)
    got.closed(plain, 8)
    got.finish(9)
    with Snapshot(tmp_path / "s") as snapshot:
        found = {pair.method: pair for pair in snapshot.pairs()}
        [entry] = [entry for entry in snapshot.entries() if entry.method == "GET"]
    assert (found["GET"].host, found["GET"].port) == ("api.example", 8443)
    assert (found["CONNECT"].host, found["CONNECT"].port) == ("api.example", 8443)
    assert {pair.connection.proxy for pair in found.values()} == {"192.0.2.5:3128"}
    assert (entry.host, entry.port, entry.address) == ("api.example", 8443, "")


def test_another_connection_to_a_proxy_is_not_taken_for_the_tunnel(tmp_path: Path) -> None:
    got = recording(tmp_path / "s")
    got.opened(("agent", 1), Connection("agent-1"), 1, start_known=True, opaque=False)
    got.located(("agent", 1), PROXIED)
    got.data(("agent", 1), Way.WRITE, 0, b"CONNECT api.example:443 HTTP/1.1\r\n\r\n", 2)
    got.data(("agent", 1), Way.READ, 0, b"HTTP/1.1 200 OK\r\n\r\n", 3)
    got.closed(("agent", 1), 4)
    got.opened(KEY, CONNECTION, 5, start_known=True, opaque=False)
    got.located(KEY, PROXIED)
    for way, data in zip((Way.WRITE, Way.READ), exchange(1), strict=True):
        got.data(KEY, way, 0, data, 6)
    got.finish(9)
    with Snapshot(tmp_path / "s") as snapshot:
        [pair] = [pair for pair in snapshot.pairs() if pair.method == "GET"]
    assert (pair.port, pair.connection.proxy) == (3128, "")


def test_an_engine_that_goes_on_knows_what_the_one_before_was_in_doubt_of(tmp_path: Path) -> None:
    """Its offsets say what is committed; that a response was lost, so the next may answer another request, they do not."""
    asked = [exchange(n)[0] for n in range(3)]
    answered = [exchange(n)[1] for n in range(3)]
    got = recording(tmp_path / "s")
    got.opened(KEY, CONNECTION, 1, start_known=True, opaque=False)
    got.data(KEY, Way.WRITE, 0, asked[0] + asked[1], 2)
    got.gap(KEY, Way.READ, 0, len(answered[0]), "lost")
    [progress] = got.commit()
    got.abandon()
    got = recording(tmp_path / "s", resume=True)
    got.opened(KEY, CONNECTION, 1, start_known=True, opaque=False)
    got.data(KEY, Way.WRITE, 0, asked[0] + asked[1], 2)
    assert progress.read_offset == len(answered[0])
    got.data(KEY, Way.READ, progress.read_offset, answered[1], 3)
    got.closed(KEY, 4)
    got.finish(5)
    with Snapshot(tmp_path / "s") as snapshot:
        pairs = list(snapshot.pairs())
    assert not any(pair.complete for pair in pairs)


def test_it_tells_how_far_it_is(tmp_path: Path) -> None:
    taking = recording(tmp_path / "a.snapshot")
    taking.opened(KEY, CONNECTION, 1, start_known=True, opaque=False)
    request, response = exchange(1)
    taking.data(KEY, Way.WRITE, 0, request, 1)
    taking.data(KEY, Way.READ, 0, response, 2)
    taking.commit()
    assert (taking.writer.pairs, taking.backends, taking.missing_bytes) == (1, 1, 0)
    taking.gap(KEY, Way.READ, len(response), 70, "lost")
    assert (taking.backends, taking.missing_bytes) == (1, 70)
    taking.finish(3)


def test_a_body_longer_than_is_kept_is_lost_with_the_engine_that_took_it_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What follows of it looks like a response: that it begins where the engine goes on proves nothing."""
    monkeypatch.setattr(http1, "BODY_LIMIT", 64)
    look_alike = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nFAKE"
    asked = b"GET /big HTTP/1.1\r\nHost: api.example\r\n\r\n"
    answered = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (65 + len(look_alike)) + b"x" * 65
    got = recording(tmp_path / "s")
    got.opened(KEY, CONNECTION, 1, start_known=True, opaque=False)
    got.data(KEY, Way.WRITE, 0, asked, 2)
    got.data(KEY, Way.READ, 0, answered, 3)
    [progress] = got.commit()
    assert (progress.read_offset, progress.read_unstored) == (len(answered), len(answered))
    got.abandon()
    got = recording(tmp_path / "s", resume=True)
    got.opened(KEY, CONNECTION, 1, start_known=True, opaque=False)
    got.data(KEY, Way.WRITE, 0, asked, 2)
    got.data(KEY, Way.READ, len(answered), look_alike, 4)
    got.closed(KEY, 5)
    got.finish(6)
    with Snapshot(tmp_path / "s") as snapshot:
        pairs = list(snapshot.pairs())
    assert [(pair.path, "start" in pair.missing) for pair in pairs] == [("/big", True)]


@pytest.mark.parametrize("rest", [b"x" * 30, b"GET /666 HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_an_upload_longer_than_is_kept_is_told_of_though_its_engine_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rest: bytes
) -> None:
    monkeypatch.setattr(http1, "BODY_LIMIT", 64)
    asked = b"POST /big HTTP/1.1\r\nHost: api.example\r\nContent-Length: 200\r\n\r\n" + b"x" * 65
    got = recording(tmp_path / "s")
    got.opened(KEY, CONNECTION, 1, start_known=True, opaque=False)
    got.data(KEY, Way.WRITE, 0, asked, 2)
    got.commit()
    got.abandon()
    got = recording(tmp_path / "s", resume=True)
    got.opened(KEY, CONNECTION, 1, start_known=True, opaque=False)
    got.data(KEY, Way.WRITE, len(asked), rest, 4)
    got.closed(KEY, 5)
    got.finish(6)
    with Snapshot(tmp_path / "s") as snapshot:
        told = [pair.missing for pair in snapshot.pairs()] + [(flow.reason, flow.written) for flow in snapshot.flows()]
    assert told == [("start", "response") if rest.startswith(b"GET") else ("start not seen", len(asked + rest))]


def test_what_was_no_http_before_the_engine_was_lost_is_in_the_flow(tmp_path: Path) -> None:
    """And what follows it is not taken for the start of a connection."""
    got = recording(tmp_path / "s")
    got.opened(KEY, CONNECTION, 1, start_known=True, opaque=False)
    got.data(KEY, Way.WRITE, 0, b"a line protocol\n", 2)
    got.data(KEY, Way.READ, 0, b"yes\n", 3)
    got.commit()
    got.abandon()
    got = recording(tmp_path / "s", resume=True)
    got.opened(KEY, CONNECTION, 1, start_known=True, opaque=False)
    got.data(KEY, Way.WRITE, 16, b"more\n", 4)
    got.closed(KEY, 5)
    got.finish(6)
    with Snapshot(tmp_path / "s") as snapshot:
        assert [(flow.read, flow.written) for flow in snapshot.flows()] == [(4, 21)]


@settings(max_examples=EXAMPLES)
@given(st.binary(min_size=60, max_size=60) | st.binary(min_size=200, max_size=200))
def test_engines_that_die_within_long_bodies_make_no_wrong_pair_and_lose_track_of_nothing(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    """Bodies longer than is kept, of which some look like messages; engines die at any commit, acknowledged or not.

    Of a client that pipelines, and is joined in the middle, no body is that long: with a response that is lost, what proves it a
    pipeline may be lost as well.
    """
    choices = Choices(data)
    path = tmp_path_factory.mktemp("killed") / "s"
    with pytest.MonkeyPatch.context() as patch:
        limit = choices.below(40)
        said = dialogue(choices)
        assume(not said.pipelined or (said.plain and said.headless))
        if said.pipelined:
            said.calls = said.calls[choices.below(len(said.calls)) :]
        else:
            patch.setattr(http1, "BODY_LIMIT", limit)
        record_with_kills(path, said, choices)
    with Snapshot(path) as snapshot:
        pairs, flows = list(snapshot.pairs()), list(snapshot.flows())
        assert snapshot.info.repeated_pairs == 0
    check(Seen(said, [*pairs, *flows], range(0)))
    if said.plain and said.headless and not said.pipelined and not flows:
        told = {pair.path[1:] for pair in pairs}
        told |= {(pair.response.header(b"x-n") or b"").decode() for pair in pairs if pair.response}
        untold = {str(n) for n in range(len(said.truths))} - told
        assert not untold or any("start" in pair.missing for pair in pairs)


def record_with_kills(path: Path, said: Dialogue, choices: Choices) -> None:
    """Record a dialogue by engines that die. Its agent keeps what was not acknowledged; of a pipeline it has not seen the start."""
    offsets = {Way.READ: 0, Way.WRITE: 0}
    acknowledged = dict(offsets)
    kept: list[tuple[Way, int, bytes, int]] = []
    connection = replace(CONNECTION, role=said.role)
    got = recording(path)
    got.opened(KEY, connection, 1, start_known=not said.pipelined, opaque=False)
    for time, call in enumerate(said.calls, 2):
        kept.append((call.way, offsets[call.way], call.data, time))
        got.data(KEY, *kept[-1])
        offsets[call.way] += len(call.data)
        if choices.once_in(2):
            [progress] = got.commit()
            assert all(each >= 0 for each in (progress.read_unstored, progress.write_unstored))
            if choices.below(3):
                acknowledged[Way.READ] = max(acknowledged[Way.READ], progress.read_offset)
                acknowledged[Way.WRITE] = max(acknowledged[Way.WRITE], progress.write_offset)
        kept = [each for each in kept if each[1] + len(each[2]) > acknowledged[each[0]]]
        if choices.once_in(4):
            got.abandon()
            got = recording(path, resume=True)
            got.opened(KEY, connection, 1, start_known=not said.pipelined, opaque=False)
            for event in kept:
                got.data(KEY, *event)
    got.closed(KEY, len(said.calls) + 2)
    got.finish(len(said.calls) + 3)


def test_what_goes_on_within_a_body_after_a_finish_that_failed_is_in_doubt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "BODY_LIMIT", 64)
    asked = b"POST /big HTTP/1.1\r\nHost: api.example\r\nContent-Length: 200\r\n\r\n" + b"x" * 65
    got = recording(tmp_path / "s")
    got.opened(KEY, CONNECTION, 1, start_known=True, opaque=False)
    got.data(KEY, Way.WRITE, 0, asked, 2)
    with monkeypatch.context() as patch:
        patch.setattr(got.writer, "finish", Mock(side_effect=SnapshotError("no room")))
        with pytest.raises(SnapshotError):
            got.finish(3)
    got.data(KEY, Way.WRITE, len(asked), exchange(666)[0], 4)
    got.data(KEY, Way.READ, 0, exchange(666)[1], 5)
    got.finish(6)
    with Snapshot(tmp_path / "s") as snapshot:
        assert [(pair.path, pair.complete) for pair in snapshot.pairs()] == [("/big", False), ("/666", False)]


@pytest.mark.parametrize("died", [False, True])
def test_pairs_of_a_client_that_proves_to_pipeline_are_complete_no_longer(tmp_path: Path, died: bool) -> None:
    """It is joined where two of its requests are always under way, and read each answer just before it asked again."""
    got = recording(tmp_path / "s")
    other = ("agent", 8)
    got.opened(other, replace(CONNECTION, id="agent-8"), 1, start_known=True, opaque=False)
    got.opened(KEY, CONNECTION, 1, start_known=False, opaque=False)
    asked = answered = 0
    for n in range(1, 6):
        request, response = exchange(n + 1)[0], exchange(n)[1]
        got.data(KEY, Way.WRITE, asked, request, 10 * n)
        got.data(KEY, Way.READ, answered, response, 10 * n + 1)
        asked, answered = asked + len(request), answered + len(response)
    for way, data in zip((Way.WRITE, Way.READ), exchange(9), strict=True):
        got.data(other, way, 0, data, 30)
    got.commit()
    assert (got.writer.pairs, got.writer.complete_pairs) == (6, 5)
    if died:
        got.abandon()
        got = recording(tmp_path / "s", resume=True)
        got.opened(KEY, CONNECTION, 1, start_known=False, opaque=False)
    got.data(KEY, Way.READ, answered, exchange(6)[1], 90)
    got.closed(KEY, 91)
    got.commit()
    assert (got.writer.pairs, got.writer.complete_pairs) == (7, 1)
    got.finish(92)
    with Snapshot(tmp_path / "s") as snapshot:
        assert [pair.path for pair in snapshot.pairs() if pair.complete] == ["/9"]
        assert [entry.path for entry in snapshot.entries()] == ["/9"]


def test_what_was_told_by_turns_is_so_for_the_engine_that_goes_on(tmp_path: Path) -> None:
    got = recording(tmp_path / "s")
    got.opened(KEY, CONNECTION, 1, start_known=False, opaque=False)
    offsets = {Way.WRITE: 0, Way.READ: 0}
    for n in range(4):
        if n == 2:
            got.commit()
            got.abandon()
            got = recording(tmp_path / "s", resume=True)
            got.opened(KEY, CONNECTION, 1, start_known=False, opaque=False)
        for way, data in zip((Way.WRITE, Way.READ), exchange(n), strict=True):
            got.data(KEY, way, offsets[way], data, 10 * n + (way is Way.READ))
            offsets[way] += len(data)
    got.finish(99)
    with Snapshot(tmp_path / "s") as snapshot:
        assert [pair.complete for pair in snapshot.pairs()] == [False, True, True, True]


class Interrupted(dict[str, Mapping[str, int]]):
    """Accounts in whose reading another thread comes between, where it may."""

    def __init__(self, accounts: Mapping[str, Mapping[str, int]], between: Callable[[], None]) -> None:
        super().__init__(accounts)
        self._between = between

    def _come_between(self) -> None:
        thread = threading.Thread(target=self._between)
        thread.start()
        thread.join()

    def keys(self) -> KeysView[str]:  # type: ignore[override]
        self._come_between()
        return super().keys()

    def values(self) -> Iterator[Mapping[str, int]]:  # type: ignore[override]
        for account in super().values():
            yield account
            self._come_between()


def test_the_account_is_asked_for_by_others_while_agents_begin_and_end(tmp_path: Path) -> None:
    got = recording(tmp_path / "s")

    def begin_and_end() -> None:
        if got.lock.acquire(blocking=False):
            got.capture_started("another")
            got.capture_over("a third", {"seen": 7})
            got.lock.release()

    got.capture_started("agent")
    got._ledgers = Interrupted({"agent": {"seen": 5}}, begin_and_end)
    assert got.capture_ended
    assert got.ledger == {"seen": 5}
    begin_and_end()
    assert not got.capture_ended
    assert got.ledger == {"seen": 12}


def flows(path: Path) -> list[tuple[str, int, int]]:
    with Snapshot(path) as snapshot:
        return [(flow.connection.id, flow.read, flow.written) for flow in snapshot.flows()]


def say(got: Recording, key: tuple[str, int], numbers: range, offsets: dict[Way, int] | None = None) -> dict[Way, int]:
    """Have a stream go on with these exchanges, from the offsets; gives those of its ends."""
    offsets = dict(offsets or {Way.WRITE: 0, Way.READ: 0})
    for n in numbers:
        for way, data in zip((Way.WRITE, Way.READ), exchange(n), strict=True):
            got.data(key, way, offsets[way], data, 10 * n + 2)
            offsets[way] += len(data)
    return offsets


OTHER = ("agent", 8)


def test_what_streams_say_that_are_too_many_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.ingest.recording.STREAMS_LIMIT", 1)
    got = recording(tmp_path / "s")
    got.opened(KEY, CONNECTION, 1, start_known=True, opaque=False)
    got.opened(OTHER, replace(CONNECTION, id="agent-8"), 1, start_known=True, opaque=False)
    got.located(OTHER, Connection("", server_name="late.example"))
    ends = say(got, OTHER, range(1))
    again = say(got, OTHER, range(2))  # the first of them once more, as after a reconnection
    said = sum(again.values())
    assert (got.missing_bytes, got.received_bytes) == (said, 0)
    [progress] = got.commit()
    assert (progress.read_offset, progress.write_offset, progress.finished) == (again[Way.READ], again[Way.WRITE], False)
    got.gap(OTHER, Way.READ, again[Way.READ], 1000, "lost")
    got.opened(OTHER, replace(CONNECTION, id="agent-8"), 1, start_known=True, opaque=False)
    got.half_closed(OTHER, Way.READ, 8)
    got.closed(OTHER, 9)
    assert got.commit()[0].finished
    say(got, OTHER, range(3))  # what comes again of one that has ended counts no more
    assert (got.missing_bytes, ends[Way.READ] > 0) == (said + 1000, True)
    got.finish(10)
    assert flows(tmp_path / "s") == [("agent-8", again[Way.READ] + 1000, again[Way.WRITE])]
    with Snapshot(tmp_path / "s") as snapshot:
        assert [(flow.reason, flow.connection.server_name) for flow in snapshot.flows()] == [
            ("more than 1 streams at a time", "late.example")
        ]


def test_an_opaque_stream_that_is_one_too_many_is_counted_as_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.ingest.recording.STREAMS_LIMIT", 0)
    got = recording(tmp_path / "s")
    got.opened(KEY, CONNECTION, 1, start_known=True, opaque=True)
    got.closed(KEY, 5, opaque=(900, 80))
    got.finish(9)
    assert (flows(tmp_path / "s"), got.missing_bytes) == ([("agent-7", 900, 80)], 980)


def test_what_a_stream_says_after_it_failed_is_counted_and_what_is_in_pairs_is_not(tmp_path: Path) -> None:
    got = recording(tmp_path / "s")
    got.opened(KEY, CONNECTION, 1, start_known=True, opaque=False)
    before = say(got, KEY, range(2))
    asked = exchange(2)[0]
    got.data(KEY, Way.WRITE, before[Way.WRITE], asked, 30)
    held = got._conversations[KEY].held
    got.fail(KEY, 31, ValueError("as told"))
    assert got.missing_bytes == held > 0
    after = say(got, KEY, range(3, 5), {**before, Way.WRITE: before[Way.WRITE] + len(asked)})
    got.fail(KEY, 32, ValueError("once more"))
    got.closed(KEY, 90)
    got.finish(99)
    lost = {way: after[way] - before[way] for way in Way}
    assert flows(tmp_path / "s") == [("agent-7", lost[Way.READ], lost[Way.WRITE])]
    assert got.missing_bytes == held + lost[Way.READ] + lost[Way.WRITE] - len(asked)
    with Snapshot(tmp_path / "s") as snapshot:
        assert snapshot.counts() == (2, 2)
        assert [flow.reason for flow in snapshot.flows()] == ["understudy failed to read it (ValueError: as told)"]


def test_what_was_counted_of_a_stream_is_not_lost_with_the_engine_that_counted_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine that goes on joins it in the middle, and takes what was counted for lost."""
    monkeypatch.setattr("engine.ingest.recording.STREAMS_LIMIT", 0)
    got = recording(tmp_path / "s")
    got.opened(KEY, CONNECTION, 1, start_known=True, opaque=False)
    ends = say(got, KEY, range(3))
    [progress] = got.commit()
    assert (progress.read_unstored, progress.write_unstored, progress.in_step) == (ends[Way.READ], ends[Way.WRITE], False)
    got.abandon()
    monkeypatch.undo()
    got = recording(tmp_path / "s", resume=True)
    got.opened(KEY, CONNECTION, 1, start_known=True, opaque=False)
    got.closed(KEY, 90)
    got.finish(99)
    assert flows(tmp_path / "s") == [("agent-7", ends[Way.READ], ends[Way.WRITE])]


@pytest.mark.parametrize("died", [False, True])
def test_what_is_counted_goes_on_though_a_snapshot_could_not_be_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, died: bool
) -> None:
    monkeypatch.setattr("engine.ingest.recording.STREAMS_LIMIT", 0)
    got = recording(tmp_path / "s")
    got.opened(KEY, CONNECTION, 1, start_known=True, opaque=False)
    first = say(got, KEY, range(2))
    with monkeypatch.context() as patch:
        patch.setattr(got.writer, "finish", Mock(side_effect=SnapshotError("no room")))
        with pytest.raises(SnapshotError):
            got.finish(50)
    if died:
        got.abandon()
        got = recording(tmp_path / "s", resume=True)
        got.opened(KEY, CONNECTION, 1, start_known=True, opaque=False)
    last = say(got, KEY, range(2, 5), first)
    got.finish(60)
    told = flows(tmp_path / "s")
    assert sum(read for _, read, _ in told) == last[Way.READ]
    assert sum(written for *_, written in told) == last[Way.WRITE]
    assert got.missing_bytes == sum(last.values()) - died * sum(first.values())


def test_a_stream_whose_end_cannot_be_read_is_told_of_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    got = recording(tmp_path / "s")
    got.opened(KEY, CONNECTION, 1, start_known=True, opaque=False)
    say(got, KEY, range(1))
    asked = exchange(1)[0]
    got.data(KEY, Way.WRITE, len(exchange(0)[0]), asked, 5)
    monkeypatch.setattr(got._conversations[KEY], "close", Mock(side_effect=RecursionError))
    got.closed(KEY, 6)
    assert got.commit()[0].finished
    assert not got._counted
    got.finish(9)
    assert flows(tmp_path / "s") == [("agent-7", 0, len(asked))]


def test_streams_that_are_counted_have_a_bound_and_those_beyond_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.ingest.recording.STREAMS_LIMIT", 0)
    monkeypatch.setattr("engine.ingest.recording.COUNTED_LIMIT", 2)
    got = recording(tmp_path / "s")
    for stream in range(4):
        got.opened(("agent", stream), replace(CONNECTION, id=f"agent-{stream}"), 1, start_known=True, opaque=False)
        say(got, ("agent", stream), range(1))
    assert len(got._counted) == 2
    got.finish(9)
    with Snapshot(tmp_path / "s") as snapshot:
        found = [
            (flow.connection.id, flow.written > 0, "; what it says is not counted" in flow.reason) for flow in snapshot.flows()
        ]
    assert sorted(found) == [(f"agent-{n}", n < 2, n >= 2) for n in range(4)]
