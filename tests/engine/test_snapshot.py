from __future__ import annotations

import contextlib
import gzip
import os
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
import zstandard

from engine.matching.signature import signature
from engine.redaction import Redactor
from engine.rrpair import UNREAD, Connection, Direction, Flow, Message, Role, RRPair
from engine.snapshot import HANDED_OUT, Finished, Snapshot, SnapshotError, SnapshotWriter
from engine.store import Heads, Progress
from engine.store import sqlite as sqlite_module
from tests.engine.making import Exchange, pairs_of

CONNECTION = Connection("a:1", tls=True, role=Role.CLIENT, remote_address="192.0.2.1", remote_port=443)
SAMPLE = Path(__file__).parent.parent / "corpus" / "snapshot-v1.snapshot"


def pair(n: int, body: bytes = b"", connection: Connection = CONNECTION) -> RRPair:
    line = b"POST /%d?a=b&c HTTP/1.1" % n
    return RRPair(
        f"{n:016x}",
        1000 - n,
        Direction.OUT,
        "shop",
        "http/1.1",
        "h",
        443,
        "POST",
        f"/{n}",
        (("a", "b"), ("c", "")),
        f"POST /{n}",
        Message(line, ((b"Host", b"h"), (b"X", b"\xff: y")), body, ((b"T", b"1"),)),
        connection,
        200,
        Message(b"HTTP/1.1 200 OK", ((b"A", b""),), body * 2),
        (Message(b"HTTP/1.1 103 Early", ((b"L", b"x"),)),),
        1,
        2,
        3,
        ("HTTP", "JSON"),
        (),
        (),
        {},
    )


def writer(path: Path, capture: str = "c", *, resume: bool = False) -> SnapshotWriter:
    return SnapshotWriter.create(path, service="shop", capture_id=capture, created=5, tool_version="0", resume=resume)


def position(writer: SnapshotWriter) -> Progress:
    """Of stream 1."""
    progress = writer.progress("a", 1)
    assert progress
    return progress


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    path = tmp_path / "a.snapshot"
    pairs = [pair(n, body) for n, body in enumerate((b"", b"x", b"compressible " * 100, os.urandom(3000)))]
    pairs.append(replace(pair(9), response=None, status=0, missing=("response",), interim=(), signature={"a": "b"}))
    flow = Flow(CONNECTION, 1, "h2", "why", 3, 4)
    w = writer(path)
    w.add([*pairs, flow])
    w.set_ledger({"seen": 3})
    assert (w.pairs, w.complete_pairs) == (5, 4)
    w.finish()
    assert list(tmp_path.iterdir()) == [path]
    with Snapshot(path) as s:
        assert list(s.pairs()) == sorted(pairs, key=lambda p: p.time)
        assert list(s.flows()) == [flow]
        assert s.counts() == (5, 4)
        assert (s.info.service, s.info.capture_id, s.info.ledger, s.info.finished) == ("shop", "c", {"seen": 3}, True)
        assert [(r.ordinal, r.operation, r.request_size) for r in s.rows(2)] == [
            (1, "POST /9", 0),
            (2, "POST /3", 3000),
        ]


def test_one_pair_by_ordinal_or_id(tmp_path: Path) -> None:
    w = writer(tmp_path / "a.snapshot")
    w.add([replace(pair(n), id=identity) for n, identity in enumerate(("a" * 16, "ab" * 8, "12" * 8))])
    w.finish()
    with Snapshot(tmp_path / "a.snapshot") as s:
        found = {reference: s.pair(reference) for reference in ("1", "3", "4", "0", "aa", "a", "abab", "x", "12" * 8, "")}
    assert {reference: p.id[:4] if p else None for reference, p in found.items()} == {
        "1": "1212",
        "3": "aaaa",
        "4": None,
        "0": None,
        "aa": "aaaa",
        "a": None,
        "abab": "abab",
        "x": None,
        "12" * 8: "1212",
        "": None,
    }


def test_what_becomes_known_late(tmp_path: Path) -> None:
    w = writer(tmp_path / "a.snapshot")
    early = Connection("a:1", tls=True)
    w.add([replace(pair(1, connection=early), host="", port=443)])
    late = replace(
        early,
        role=Role.CLIENT,
        remote_address="192.0.2.1",
        remote_port=8443,
        server_name="late.example",
        tls_version="TLS 1.2",
    )
    w.add([], connections=[late])
    w.finish()
    with Snapshot(tmp_path / "a.snapshot") as s:
        [found] = s.pairs()
        [row] = s.rows()
        [edge] = s.service_map().backends
    assert (found.host, found.port, found.connection, found.technology) == (
        "late.example",
        8443,
        late,
        ("HTTP", "JSON", "TLS 1.2"),
    )
    assert (row.host, row.port, edge.host, edge.port) == ("late.example", 8443, "late.example", 8443)


def test_pairs_of_a_connection_whose_order_was_refuted_are_complete_no_longer(tmp_path: Path) -> None:
    """Those through a proxy have ids of their own that begin with the connection's; "a-1" is not "a-10"."""
    w = writer(tmp_path / "s")
    names = ["a-1", "a-1>api.example:443", "a-10", "a-1"]
    w.add([pair(n, connection=replace(CONNECTION, id=name)) for n, name in enumerate(names, 1)])
    since = pair(4).time  # the first of them: times fall
    w.add([replace(pair(0, connection=replace(CONNECTION, id="a-1")), missing=(UNREAD,))])
    w.add([pair(5, connection=replace(CONNECTION, id="a-1"))], refuted={"a-1": since})
    assert (w.pairs, w.complete_pairs) == (6, 2)
    w.close()
    w = writer(tmp_path / "s", resume=True)
    assert (w.pairs, w.complete_pairs) == (6, 2)
    w.finish()
    with Snapshot(tmp_path / "s") as snapshot:
        found = {(each.connection.id, each.path): each.missing for each in snapshot.pairs()}
        assert {connection for (connection, _), missing in found.items() if not missing} == {"a-1", "a-10"}
        assert sorted(found.values()) == [(), (), ("pairing",), ("pairing",), ("pairing",), (UNREAD, "pairing")]
        assert len(list(snapshot.entries())) == 2
        assert not list(snapshot.unread_entries())


def test_progress_is_kept_until_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.snapshot"
    w = writer(path)
    w.add([pair(1)], [Progress("a", 1, 10, 20), Progress("b", 1, 1, 2, finished=True)])
    w.add([], [Progress("a", 1, 30, 40)])
    w.close()
    again = writer(path, resume=True)
    assert [again.progress("a", 1), again.progress("b", 1)] == [Progress("a", 1, 30, 40), Progress("b", 1, 1, 2, finished=True)]
    assert again.progress("a", 2) is None
    assert (again.pairs, again.complete_pairs) == (1, 1)
    secret = Message(b"GET / HTTP/1.1", ((b"X-Api-Key", b"s3cret"),))
    token = again._redactor.message(secret, set())
    again.finish()
    with Snapshot(path) as s:
        assert isinstance(s.redactor(), Redactor)
        assert s.redactor().message(secret, set()) == token != secret
    assert sqlite3.connect(path).execute("SELECT name FROM sqlite_master WHERE name = 'progress'").fetchall() == []


def test_a_partial_of_another_capture_is_kept_aside(tmp_path: Path) -> None:
    path = tmp_path / "a.snapshot"
    for capture in ("c", "d"):
        w = writer(path, capture, resume=True)
        w.add([pair(1)])
        w.close()
    with Snapshot(tmp_path / "a.snapshot.partial") as s:
        assert s.info.capture_id == "d"
        assert not s.info.finished
    with Snapshot(tmp_path / "a.snapshot.partial.old") as s:
        assert s.info.capture_id == "c"


def test_runs_that_are_killed_lose_nothing_of_those_before(tmp_path: Path) -> None:
    """Whatever the third one kept: what was committed stays, and one without pairs takes the place of none that has some."""
    path = tmp_path / "a.snapshot"
    for capture, numbers in (("a", [1, 2]), ("b", []), ("c", [3]), ("d", []), ("e", [4]), ("f", [])):
        w = writer(path, capture)
        w.add([pair(n) for n in numbers])
        w.close()
    kept = {}
    for each in tmp_path.iterdir():
        with Snapshot(each) as s:
            kept[each.name] = sorted(p.path for p in s.pairs())
    assert kept == {
        "a.snapshot.partial": [],
        "a.snapshot.partial.old": ["/1", "/2"],
        "a.snapshot.partial.2.old": ["/3"],
        "a.snapshot.partial.3.old": ["/4"],
    }


def test_a_file_that_is_there_becomes_old(tmp_path: Path) -> None:
    path = tmp_path / "a.snapshot"
    for n in (1, 2):
        w = writer(path)
        w.add([pair(n)])
        w.finish()
    for name, n in (("a.snapshot", 2), ("a.snapshot.old", 1)):
        with Snapshot(tmp_path / name) as s:
            assert [p.path for p in s.pairs()] == [f"/{n}"]


def test_what_was_left_unfinished_keeps_what_was_committed(tmp_path: Path) -> None:
    """Its writer was killed: the last pairs are in the log only."""
    path = tmp_path / "a.snapshot"
    subprocess.run([sys.executable, "-c", KILLED, path], env={"PYTHONPATH": os.pathsep.join(sys.path)}, check=False)
    assert (tmp_path / "a.snapshot.partial-wal").stat().st_size
    writer(path, "d").close()
    with Snapshot(tmp_path / "a.snapshot.partial.old") as s:
        assert {p.path for p in s.pairs()} == {"/1", "/2"}


KILLED = """
import os, sys
from pathlib import Path
from tests.engine.test_snapshot import pair, writer
w = writer(Path(sys.argv[1]))
w.add([pair(1)])
w.add([pair(2)])
os.kill(os.getpid(), 9)
"""


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "a.snapshot"
    first = writer(path)
    first.add([pair(1)])
    with pytest.raises(SnapshotError, match="is being written by another run"):
        writer(path, "d")
    first.finish()
    with Snapshot(path) as s:
        assert [p.path for p in s.pairs()] == ["/1"]


def test_garbage_in_the_way_is_kept_aside(tmp_path: Path) -> None:
    (tmp_path / "a.snapshot.partial").write_bytes(b"garbage" * 100)
    writer(tmp_path / "a.snapshot").finish()
    assert (tmp_path / "a.snapshot.partial.old").read_bytes() == b"garbage" * 100


def test_a_snapshot_is_added_to(tmp_path: Path) -> None:
    path = tmp_path / "a.snapshot"
    w = writer(path)
    w.add([pair(1)])
    w.set_ledger({"seen": 3})
    w.finish()
    path.chmod(0o640)
    for n in (2, 3):
        more = SnapshotWriter.extend(path)
        more.add([pair(n)])
        more.note_added(1)
        assert (more.pairs, more.complete_pairs) == (n, n)
        more.finish()
    with Snapshot(path) as s:
        assert sorted(p.path for p in s.pairs()) == ["/1", "/2", "/3"]
        assert (s.info.ledger, s.info.added_pairs, s.info.capture_id) == ({"seen": 3}, 2, "c")
        assert s.pair("3") is not None
    assert path.stat().st_mode & 0o777 == 0o640
    with pytest.raises(SnapshotError, match="does not exist"):
        SnapshotWriter.extend(tmp_path / "none.snapshot")


def test_abandon_leaves_nothing(tmp_path: Path) -> None:
    w = writer(tmp_path / "a.snapshot")
    w.add([pair(1)])
    w.abandon()
    assert list(tmp_path.iterdir()) == []


# -- what cannot be opened ---------------------------------------------------------------------------------------------


def finished(path: Path) -> bytes:
    w = writer(path)
    w.add([pair(n, b"some text " * 80) for n in range(50)])
    w.finish()
    return path.read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _: b"", "is not a snapshot"),
        (lambda data: b"PK" + data[2:], "is not a snapshot"),
        (lambda data: data[:68] + b"\0\0\0\0" + data[72:], "is not a snapshot"),
        (lambda data: data[:60] + struct.pack(">I", 3) + data[64:], "has format 3, this understudy reads up to 2"),
        (lambda data: data[: len(data) // 2], "is truncated"),
        (lambda data: data[:4096] + b"\xff" * (len(data) - 4096), "is damaged"),
    ],
)
def test_one_clear_error(tmp_path: Path, change: object, message: str) -> None:
    path = tmp_path / "a.snapshot"
    data = finished(path)
    path.write_bytes(change(data))  # type: ignore[operator]
    with pytest.raises(SnapshotError, match=message) as caught, Snapshot(path) as s:
        list(s.pairs())
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_its_partial(tmp_path: Path) -> None:
    path = tmp_path / "a.snapshot"
    with pytest.raises(SnapshotError, match="does not exist: `understudy record"):
        Snapshot(path)
    writer(path).close()
    with pytest.raises(SnapshotError, match="was not finished"):
        Snapshot(path)
    with pytest.raises(SnapshotError, match="cannot be read"):
        Snapshot(tmp_path)


def test_every_byte_flipped_is_an_error_or_another_value(tmp_path: Path) -> None:
    path = tmp_path / "a.snapshot"
    data = finished(path)
    for at in range(100, len(data), len(data) // 200):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
        try:
            with Snapshot(path) as s:
                list(s.pairs())
                s.service_map()
        except SnapshotError:
            pass


# -- SIGKILL -----------------------------------------------------------------------------------------------------------

ENDLESS = """
import sys
from pathlib import Path
from tests.engine.test_snapshot import pair, writer
from engine.store import Progress
w = writer(Path(sys.argv[1]))
n = 0
while True:
    w.add([pair(k, b"body " * 300) for k in range(n, n + 10)], [Progress("a", 1, n + 10, n + 10)])
    n += 10
    print(n, flush=True)
"""


@pytest.mark.parametrize("transactions", [1, 7, 40])
def test_what_was_committed_survives_sigkill(tmp_path: Path, transactions: int) -> None:
    path = tmp_path / "a.snapshot"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["", *sys.path])}
    with subprocess.Popen([sys.executable, "-c", ENDLESS, str(path)], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout
        for _ in range(transactions):
            line = process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        committed = int(line)
    with Snapshot(tmp_path / "a.snapshot.partial") as s:
        ids = [p.id for p in s.pairs()]
        assert len(ids) == len(set(ids)) >= committed
    w = writer(path, resume=True)
    assert position(w).read_offset == len(ids)
    w.finish()
    with Snapshot(path) as s:
        assert s.counts() == (len(ids), len(ids))


# -- secrets -----------------------------------------------------------------------------------------------------------


def test_no_secret_is_in_the_file(tmp_path: Path) -> None:
    secret = b"hunter2-8c1f"
    path = tmp_path / "a.snapshot"
    request = Message(
        b"POST /x?access_token=" + secret + b" HTTP/1.1",
        ((b"Authorization", b"Bearer " + secret), (b"Cookie", b"a=" + secret), (b"Content-Type", b"application/json")),
        b'{"password":"' + secret + b'","pad":"' + b"p" * 900 + b'"}',
    )
    response = Message(
        b"HTTP/1.1 200 OK",
        ((b"Set-Cookie", b"s=" + secret), (b"Content-Type", b"text/xml")),
        b"<Token>" + secret + b"</Token>",
    )
    secretive = replace(pair(1), request=request, response=response, query=(("access_token", secret.decode()),))
    w = writer(path)
    w.add([secretive])
    log = path.with_name(path.name + ".partial-wal").read_bytes()
    w.finish()
    raw = path.read_bytes() + log
    database = sqlite3.connect(path)
    bodies = [body for row in database.execute("SELECT request_body, response_body FROM pairs") for body in row]
    raw += b"".join(zstandard.decompress(body) if body.startswith(b"\x28\xb5\x2f\xfd") else body for body in bodies)
    assert secret not in raw
    with Snapshot(path) as s:
        [found] = s.pairs()
        assert found.redacted == ("authorization", "cookie", "password", "token")
        assert s.redactor().pair(secretive).request == found.request


TOLD = "9f8e7d6c5b4a39281716"
EVENTS = Exchange(
    "GET /events", b'data: {"session_id":"%b"}' % TOLD.encode(), answer_headers=(("Content-Type", "text/event-stream"),)
)


def uses(session: str) -> list[Exchange]:
    """Requests that name a session where no name gives it away, or where redaction has to decode something to find it."""
    text = f"of {session}\n".encode()
    coded = (("Content-Encoding", "gzip"),)
    parts = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + text + b"\r\n--x--"
    return [
        Exchange(f"POST /rpc/{session}"),
        Exchange("GET /a", answer=gzip.compress(text), answer_headers=coded),
        Exchange("POST /b", body=text.decode().encode("utf-16"), headers=(("Content-Type", "text/plain"),)),
        Exchange("POST /c", body=parts, headers=(("Content-Type", "multipart/form-data; boundary=x"),)),
    ]


def written(path: Path, *batches: list[RRPair]) -> Path:
    w = writer(path)
    for batch in batches:
        w.add(batch)
    w.finish()
    return path


def plain(pair: RRPair) -> bytes:
    """All texts of a pair, without their codings."""
    texts = [pair.path.encode(), pair.operation.encode()]
    for message in (pair.request, *((pair.response,) if pair.response else ())):
        body = gzip.decompress(message.body) if message.body.startswith(b"\x1f\x8b") else message.body
        texts += (message.start_line, *(value for _, value in message.headers), body, body.replace(b"\0", b""))
    return b"\n".join(texts)


@pytest.mark.parametrize("late", [True, False])
@pytest.mark.parametrize("together", [True, False])
def test_what_is_told_late_is_replaced_in_what_was_kept_before(tmp_path: Path, late: bool, together: bool) -> None:
    """A stream of events ends after the requests that use its session. Both ways come to the same snapshot."""
    told, *using = pairs_of(EVENTS, *uses(TOLD))
    batches = [[*using], [told]] if late else [[told], [*using]]
    path = written(tmp_path / "a.snapshot", *([[*chain(*batches)]] if together else batches))
    assert TOLD.encode() not in path.read_bytes()
    with Snapshot(path) as s:
        [first, *rest] = s.pairs()
        assert first.response
        standing_in = first.response.body.split(b'"')[3]
        for each in rest:
            assert each.complete, each.missing
            assert TOLD.encode() not in plain(each)
            assert standing_in in plain(each)
            assert each.redacted == ("repeated",)
        assert [each.signature for each in rest] == [entry.signature for entry in s.entries()][1:]
        assert {each.path: each.signature for each in rest} == {each.path: signature(each) for each in rest}


def test_only_what_was_kept_before_a_secret_was_told_is_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[str] = []
    monkeypatch.setattr(Redactor, "repeats", lambda _, pair: looked_at.append(pair.path))
    one, told, again, another = pairs_of(Exchange("GET /1"), EVENTS, EVENTS, Exchange("GET /2"))
    written(tmp_path / "none", [one], [another])
    assert looked_at == []
    written(tmp_path / "some", [one], [told], [again], [another])
    assert looked_at == ["/1", "/events"]


def heads(found: Heads) -> tuple[object, ...]:
    """All of them but the length of the body, which is not read for them."""
    response = found.response
    assert response
    fields = [field for field in response.headers if field[0] != b"Content-Length"]
    return found.status, found.request.start_line, found.request.headers, response.start_line, fields


def test_what_is_left_of_a_recording_is_served_as_it_is_when_that_is_finished(tmp_path: Path) -> None:
    """Whatever was kept in the clear before its secret was told. What cannot be redacted any more is not served."""
    headers = (("X-Of", TOLD),)
    using = Exchange(f"POST /s/{TOLD}", b'{"of":"%b"}' % TOLD.encode(), headers, body=TOLD.encode(), answer_headers=headers)
    binary = Exchange("GET /b", b"\0\1\2" + TOLD.encode(), answer_headers=(("Content-Type", "application/octet-stream"),))
    pairs = pairs_of(using, binary, Exchange("GET /plain"), EVENTS)
    path = tmp_path / "a.snapshot"
    w = writer(path)
    for pair in pairs:
        w.add([pair])
    w.close()
    left = tmp_path / "left.snapshot.partial"
    with contextlib.closing(sqlite3.connect(w.partial)) as database, contextlib.closing(sqlite3.connect(left)) as copy:
        database.backup(copy)
    w = writer(path, resume=True)
    w.finish()
    with Snapshot(left) as partial, Snapshot(path) as finished:
        assert TOLD.encode() in plain(next(partial.pairs())), "it is in the clear there"
        assert [entry.path[:3] for entry in finished.entries()] == ["/s/", "/pl", "/ev"]
        both = list(zip(partial.entries(), finished.entries(), strict=True))
        assert [(e.row, e.path, e.operation, e.signature) for e, _ in both] == [
            (e.row, e.path, e.operation, e.signature) for _, e in both
        ]
        for entry, _ in both:
            assert heads(partial.heads(entry.row)) == heads(finished.heads(entry.row))
            assert partial.answer(entry.row) == finished.answer(entry.row)
            assert partial.asked(entry.row).request == finished.asked(entry.row).request


@pytest.mark.parametrize("died_between", [True, False])
def test_a_recording_that_is_gone_on_with_knows_what_was_told(tmp_path: Path, died_between: bool) -> None:
    """And what was kept before it was told, also where the engine that heard it is gone."""
    before, told, after = pairs_of(Exchange(f"GET /s/{TOLD}/1"), EVENTS, Exchange(f"GET /s/{TOLD}/2"))
    path = tmp_path / "a.snapshot"
    w = writer(path)
    for each in (before, told, after):
        if each is after or died_between:
            w.close()
            w = writer(path, resume=True)
        w.add([each])
    w.finish()
    assert TOLD.encode() not in path.read_bytes()
    with Snapshot(path) as s:
        paths = [each.path.split("/") for each in s.pairs() if each.path.startswith("/s/")]
    assert [number for *_, number in paths] == ["1", "2"]
    assert paths[0][2] == paths[1][2] == s_token(path)


def s_token(path: Path) -> str:
    with Snapshot(path) as s:
        told = next(each.response for each in s.pairs() if each.path == "/events")
        assert told
        return told.body.split(b'"')[3].decode()


def test_what_is_added_to_a_snapshot_knows_its_secrets_and_tells_it_new_ones(tmp_path: Path) -> None:
    path = tmp_path / "a.snapshot"
    other = "b7c6d5e4f3a29180b7c6"
    log_in = Exchange("POST /login", b'{"access_token":"%b"}' % other.encode())
    told, before, after, later = pairs_of(EVENTS, Exchange(f"GET /o/{other}"), Exchange(f"GET /s/{TOLD}"), log_in)
    written(path, [told, before])
    more = SnapshotWriter.extend(path)
    more.add([after])
    more.add([later])
    done = more.finish()
    assert TOLD.encode() not in path.read_bytes()
    assert other.encode() not in path.read_bytes()
    assert done.kept
    assert other.encode() in done.kept.read_bytes(), "the one before stays as it was"
    with Snapshot(path) as s:
        assert [each.path.split("/")[2][:9] for each in s.pairs() if len(each.path) > 10] == ["REDACTED-", "REDACTED-"]


@pytest.mark.parametrize("under_mock", [True, False])
def test_what_was_asked_with_a_token_of_the_mock_is_no_answer_to_the_real_secret(tmp_path: Path, under_mock: bool) -> None:
    """A backend that is not mocked refuses it. Without a mock, whoever sends something like a token means it."""
    path = tmp_path / "a.snapshot"
    with_token = Exchange("GET /items", b"{}", (("Authorization", "Bearer REDACTED-secret-0123456789abcde"),), status="401 No")
    first, *others = pairs_of(Exchange("GET /a"), with_token, Exchange("GET /b", headers=(("Authorization", "Bearer real"),)))
    if under_mock:
        written(path, [first])
    more = SnapshotWriter.extend(path) if under_mock else writer(path)
    more.add(others)
    assert (more.pairs, more.complete_pairs) == ((3, 2) if under_mock else (2, 2))
    more.finish()
    with Snapshot(path) as s:
        assert [each.missing for each in s.pairs() if each.path == "/items"] == [(HANDED_OUT,) if under_mock else ()]
        assert [entry.path for entry in s.partial_entries()] == ["/items"] * under_mock


def test_what_is_settled_lacks_nothing_for_it(tmp_path: Path) -> None:
    """What is stored has tokens where it was heard with secrets, in every request with a key."""
    path = tmp_path / "a.snapshot"
    key = (("X-Api-Key", "sk_live_abcdefgh12345678"), ("Authorization", "Bearer real-secret-of-a-client-1"))
    binary = Exchange("GET /logo.png", b"\x89PNG\x00\x01", key, answer_headers=(("Content-Type", "image/png"),))
    before, after, other = (Exchange(f"GET /{path}", headers=key) for path in (f"s/{TOLD}", f"t/{TOLD}", "z"))
    first, image, *more = pairs_of(before, binary, EVENTS, after, other)
    written(path, [first, image])
    for pair in more:
        w = SnapshotWriter.extend(path)
        w.add([pair])
        w.finish()
        assert w.complete_pairs == w.pairs
    assert TOLD.encode() not in path.read_bytes()
    with Snapshot(path) as s:
        assert [each.missing for each in s.pairs()] == [()] * 5
        assert len(list(s.entries())) == 5


def test_what_was_told_is_in_the_transaction_of_its_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where that cannot be written, both go with the next."""
    told, after = pairs_of(EVENTS, Exchange(f"GET /s/{TOLD}"))
    w = writer(tmp_path / "a.snapshot")
    w._store._database.execute("PRAGMA query_only = ON")  # type: ignore[attr-defined]
    with pytest.raises(SnapshotError):
        w.add([told])
    w._store._database.execute("PRAGMA query_only = OFF")  # type: ignore[attr-defined]
    assert list(w._store.learned()) == []
    w.add([])
    w.close()
    w = writer(tmp_path / "a.snapshot", resume=True)
    w.add([after])
    w.finish()
    assert TOLD.encode() not in (tmp_path / "a.snapshot").read_bytes()


def test_what_is_kept_of_secrets_is_bounded_and_none_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_module, "SECRETS_LIMIT", 3)
    secrets = [f"{n}{TOLD}" for n in range(10, 16)]
    w = writer(tmp_path / "a.snapshot")
    for n, each in enumerate(pairs_of(*[Exchange("POST /login", b'{"access_token":"%b"}' % s.encode()) for s in secrets])):
        w.add([each])
        assert len(list(w._store.learned())) == min(n + 1, 3)
    w.finish()
    with contextlib.closing(sqlite3.connect(tmp_path / "a.snapshot")) as database:
        assert database.execute("SELECT COUNT(*) FROM learned").fetchone() == (3,)
    with Snapshot(tmp_path / "a.snapshot") as s:
        known = [each.response.body.split(b'"')[3] for each in s.pairs() if each.response][3:]
        assert [digest.token for digest in s._store.learned()] == known


def test_a_pair_that_cannot_be_redacted_in_the_end_costs_itself_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, told = pairs_of(Exchange(f"GET /s/{TOLD}"), EVENTS)
    w = writer(tmp_path / "a.snapshot")
    w.add([before])
    w.add([told])
    monkeypatch.setattr(Redactor, "pair", lambda *_: 1 / 0)
    w.finish()
    assert (w.pairs, w.complete_pairs, w.lost_pairs) == (1, 1, 1)
    assert TOLD.encode() not in (tmp_path / "a.snapshot").read_bytes()
    with Snapshot(tmp_path / "a.snapshot") as s:
        assert [each.path for each in s.pairs()] == ["/events"]
        assert [flow.reason for flow in s.flows()] == ["a pair that could not be stored: ZeroDivisionError while it was redacted"]
        assert s.info.lost_pairs == 1


# -- old formats -------------------------------------------------------------------------------------------------------


def test_the_sample_of_format_1_opens() -> None:
    """Made by `python -m tests.corpus.make_snapshot`, with the version that wrote the format."""
    with Snapshot(SAMPLE) as s:
        assert [p.operation for p in s.pairs()] == ["DynamoDB.GetItem Orders", "POST /v1/charges"]
        assert all(p.complete for p in s.pairs())
        assert [f.protocol for f in s.flows()] == ["postgres"]
        assert list(s._store.learned()) == []


def test_the_sample_of_format_1_is_added_to(tmp_path: Path) -> None:
    path = tmp_path / "a.snapshot"
    shutil.copyfile(SAMPLE, path)
    told, using = pairs_of(EVENTS, Exchange(f"GET /s/{TOLD}"))
    for each in (told, using):
        more = SnapshotWriter.extend(path)
        more.add([each])
        more.finish()
    assert TOLD.encode() not in path.read_bytes()
    assert struct.unpack(">I", path.read_bytes()[60:64]) == (2,)
    with Snapshot(path) as s:
        assert s.counts() == (4, 4)


# -- what cannot be stored ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [{"time": 2**63}, {"duration": 2**70}, {"status": 2**63}, {"request_ended": -(2**64)}],
)
def test_a_pair_that_cannot_be_stored_costs_itself_only(tmp_path: Path, change: dict[str, int]) -> None:
    path = tmp_path / "a.snapshot"
    w = writer(path)
    w.add([pair(1), replace(pair(2), **change), pair(3)], [Progress("a", 1, 10, 20)])  # type: ignore[arg-type]
    assert (w.pairs, w.complete_pairs, w.lost_pairs) == (2, 2, 1)
    assert position(w).read_offset == 10
    w.finish()
    with Snapshot(path) as s:
        assert sorted(p.path for p in s.pairs()) == ["/1", "/3"]
        [flow] = s.flows()
        assert s.info.lost_pairs == 1
    assert "could not be stored" in flow.reason
    assert flow.connection == CONNECTION


def test_pairs_that_were_lost_are_counted_though_their_writer_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the transaction that moves on from them: nobody sends them again. Until then they are not lost, for they come again."""
    monkeypatch.setattr("engine.snapshot.HELD_ITEMS", 2)
    path = tmp_path / "a.snapshot"
    w = writer(path)
    database = w._store._database  # type: ignore[attr-defined]
    database.execute("PRAGMA query_only = 1")
    for n in range(3):
        with pytest.raises(SnapshotError):
            w.add([pair(n)])
    assert (w.lost_pairs, w._store.held) == (3, 0)
    database.execute("PRAGMA query_only = 0")
    with Snapshot(path.with_name("a.snapshot.partial")) as s:
        assert s.info.lost_pairs == 0
    w.add([replace(pair(3), time=2**70)], [Progress("a", 1, 10, 20)])
    with Snapshot(path.with_name("a.snapshot.partial")) as s:
        assert s.info.lost_pairs == 4
    w.close()
    w = writer(path, resume=True)
    assert w.lost_pairs == 4
    w.add([replace(pair(4), time=2**70)])
    w.finish()
    with Snapshot(path) as s:
        assert (s.info.lost_pairs, len(list(s.flows()))) == (5, 2)
    more = SnapshotWriter.extend(path)
    more.add([replace(pair(5), time=2**70)])
    more.finish()
    with Snapshot(path) as s:
        assert s.info.lost_pairs == 6


def heavy(n: int, where: str, size: int) -> RRPair:
    """A pair that is large in one place only, and cannot be made smaller."""
    large = pair(n)
    field = ((b"X", os.urandom(size)),)
    if where == "header":
        return replace(large, request=replace(large.request, headers=field))
    if where == "trailer":
        return replace(large, response=Message(b"HTTP/1.1 200 OK", (), b"", field))
    if where == "interim":
        return replace(large, interim=(Message(b"HTTP/1.1 103 Early", field),))
    return replace(large, response=Message(b"HTTP/1.1 200 OK", (), os.urandom(size)))


@pytest.mark.parametrize("where", ["header", "trailer", "interim", "body"])
def test_whatever_waits_for_a_disk_is_bounded_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    monkeypatch.setattr("engine.snapshot.HELD_BYTES", 100_000)
    w = writer(tmp_path / "a.snapshot")
    w._store._database.execute("PRAGMA query_only = 1")  # type: ignore[attr-defined]
    lost = []
    for n in range(6):
        with pytest.raises(SnapshotError):
            w.add([heavy(n, where, 40_000)])
        lost.append(w.lost_pairs)
    assert lost == [0, 0, 3, 3, 3, 6]
    w._store._database.execute("PRAGMA query_only = 0")  # type: ignore[attr-defined]
    w.add([])
    w.finish()
    with Snapshot(tmp_path / "a.snapshot") as s:
        assert (s.counts(), s.info.lost_pairs) == ((0, 0), 6)


def test_text_that_is_no_utf_8_is_stored(tmp_path: Path) -> None:
    path = tmp_path / "a.snapshot"
    named = replace(CONNECTION, command="\udcff", server_name="\ud83d")
    w = writer(path)
    w.add([replace(pair(1, connection=named), operation="Get \ud83d", host="h\udcff"), Flow(named, 1, "x", "\ud83d", 1, 2)])
    w.finish()
    with Snapshot(path) as s:
        [found] = s.pairs()
        [flow] = s.flows()
    assert (found.operation, found.host, flow.reason) == ("Get \ufffd", "h\ufffd", "\ufffd")
    assert (found.connection.command, found.connection.server_name) == ("\ufffd", "\ufffd")


def test_a_pair_that_cannot_be_redacted_costs_itself_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.snapshot"
    w = writer(path)
    redact = w._redactor.pair

    def failing(item: RRPair) -> RRPair:
        if item.path == "/2":
            raise RecursionError("too deep")
        return redact(item)

    monkeypatch.setattr(w._redactor, "pair", failing)
    w.add([pair(1), pair(2, b"secret"), pair(3)])
    w.finish()
    assert b"secret" not in path.read_bytes()
    with Snapshot(path) as s:
        assert s.counts() == (2, 2)
        assert [flow.reason for flow in s.flows()] == ["a pair that could not be stored: RecursionError while it was redacted"]


def test_what_was_taken_in_twice_is_there_once(tmp_path: Path) -> None:
    path = tmp_path / "a.snapshot"
    w = writer(path)
    w.add([pair(1)])
    w.add([pair(1), pair(2)])
    w.finish()
    with Snapshot(path) as s:
        assert sorted(p.path for p in s.pairs()) == ["/1", "/2"]
        assert s.info.repeated_pairs == 1


# -- what is never replaced --------------------------------------------------------------------------------------------


def record(path: Path, *numbers: int) -> Finished:
    w = writer(path)
    w.add([pair(n) for n in numbers])
    return w.finish()


def recorded(path: Path) -> list[str]:
    with Snapshot(path) as s:
        return [p.path for p in s.pairs()]


def test_an_empty_recording_replaces_none_with_pairs(tmp_path: Path) -> None:
    path, empty, old = (tmp_path / f"a.snapshot{suffix}" for suffix in ("", ".empty", ".old"))
    record(path, 1)
    assert [record(path) for _ in range(2)] == [Finished(empty, None)] * 2
    assert (recorded(path), recorded(empty), old.exists()) == (["/1"], [], False)
    assert record(path, 2) == Finished(path, old)
    assert (recorded(path), recorded(old)) == (["/2"], ["/1"])


def test_an_empty_one_does_not_take_the_place_of_an_old_one(tmp_path: Path) -> None:
    path, old = tmp_path / "a.snapshot", tmp_path / "a.snapshot.old"
    record(old, 1)
    record(path)
    assert record(path, 2) == Finished(path, None)
    assert (recorded(path), recorded(old)) == (["/2"], ["/1"])


def test_what_is_no_snapshot_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("precious")
    with pytest.raises(SnapshotError, match=r"notes\.txt is not a snapshot, and is not replaced"):
        writer(path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(SnapshotError, match="folder is no file"):
        writer(tmp_path / "folder")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["folder", "notes.txt"]


def test_an_empty_file_has_nothing_to_lose(tmp_path: Path) -> None:
    path = tmp_path / "made-by-mktemp"
    path.touch()
    record(path, 1)
    assert recorded(path) == ["/1"]


def test_finishing_can_be_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "a.snapshot"
    w = writer(path)
    w.add([pair(1)])
    path.write_text("came in between")
    with pytest.raises(SnapshotError, match="is not a snapshot"):
        w.finish()
    path.unlink()
    w._store._database.execute("PRAGMA query_only = 1")  # type: ignore[attr-defined]
    with pytest.raises(SnapshotError, match="cannot be written"):
        w.finish()
    w._store._database.execute("PRAGMA query_only = 0")  # type: ignore[attr-defined]
    assert w.finish() == Finished(path, None)
    assert recorded(path) == ["/1"]


def test_pairs_added_to_one_that_was_edited_do_not_vouch_for_the_others(tmp_path: Path) -> None:
    path = tmp_path / "a.snapshot"
    record(path, 1)
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE pairs SET path = '/edited'")
        database.commit()
    more = SnapshotWriter.extend(path)
    more.add([pair(2)])
    more.finish()
    with Snapshot(path) as s:
        for entry in s.entries():
            assert entry.signature == signature(s.at(entry.row))


def test_what_was_edited_is_read_within_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file may hold bodies of any size: zeros."""
    path = tmp_path / "a.snapshot"
    w = writer(path)
    w.add([pair(n, bytes(1_000_000)) for n in range(20)])
    w.finish()
    with Snapshot(path) as snapshot:
        assert len(list(snapshot.entries())) == 20, "its signatures are taken as they are"
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE pairs SET path = '/edited'")
    with Snapshot(path) as snapshot:
        assert len(list(snapshot.entries())) == 20
    monkeypatch.setattr("engine.snapshot.SIGNED_AT_LEAST", 3_000_000)
    monkeypatch.setattr("engine.snapshot.SIGNED_PER_BYTE", 0)
    read = 0
    with Snapshot(path) as snapshot:

        def at(row: int, original: Callable[[int], RRPair] = snapshot._store.at) -> RRPair:
            nonlocal read
            read += 1
            return original(row)

        monkeypatch.setattr(snapshot._store, "at", at)
        with pytest.raises(SnapshotError, match=r"a\.snapshot .* more than 2 MiB .*record again"):
            list(snapshot.entries())
    assert read <= 4
