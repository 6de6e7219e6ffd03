from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType

import pytest

from engine.matching import index as index_module
from engine.matching.explain import explain
from engine.matching.index import Request, Sequence, Undecided
from engine.protocols import UNKNOWN
from engine.responder.backends import Backends, Scope, named_by
from engine.rrpair import Connection, Flow, Role
from engine.snapshot import Snapshot, SnapshotWriter, uncheck
from engine.store import rows
from engine.store.rows import CONNECTIONS_KEPT, connection_of
from engine.store.sqlite import SqliteStore
from tests.engine.making import Exchange, pairs_of, write_own_service, write_snapshot

OWN = 40000
EXCHANGES = (
    Exchange("GET /", host="api.example.com"),
    Exchange("GET /", host="odd.example", port=8443),
    Exchange("GET /", host="two.example", port=8001, tls=False),
    Exchange("GET /", host="two.example", port=8002, tls=False),
    Exchange("GET /", host="192.0.2.9", port=80, tls=False),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_snapshot(tmp_path / "a.snapshot", *EXCHANGES)


def backends(path: Path, **options: tuple[str, ...]) -> Backends:
    with Snapshot(path) as snapshot:
        return Backends(snapshot, **options)


@pytest.mark.parametrize(
    ("scope", "authority", "place"),
    [
        (Scope(True, "api.example.com", None, OWN), "api.example.com", ("api.example.com", 443)),
        (Scope(True, "", None, OWN), "API.example.com:443", ("api.example.com", 443)),
        (Scope(True, "api.example.com", None, OWN), "", ("api.example.com", 443)),
        (Scope(True, "API.example.com.", None, OWN), "", ("api.example.com", 443)),
        (Scope(True, "", None, OWN), "api.example.com.", ("api.example.com", 443)),
        (Scope(True, "api.example.com", None, OWN), f"api.example.com:{OWN}", ("api.example.com", 443)),
        (Scope(False, "", None, OWN), "api.example.com", ("api.example.com", 443)),
        (Scope(True, "", ("api.example.com", 444), OWN), "api.example.com", ("api.example.com", 444)),
        (Scope(True, "", None, OWN), "odd.example", ("odd.example", 8443)),
        (Scope(True, "", None, OWN), "odd.example:9443", ("odd.example", 9443)),
        (Scope(False, "", ("198.51.100.1", 8002), OWN), "two.example", ("two.example", 8002)),
        (Scope(False, "", None, OWN), "two.example:8001", ("two.example", 8001)),
        (Scope(False, "", None, OWN), "two.example", ("two.example", 80)),
        (Scope(False, "", ("192.0.2.9", 80), OWN), "", ("192.0.2.9", 80)),
        (Scope(True, "api.example.com", ("198.51.100.1", 443), OWN), "198.51.100.1", ("api.example.com", 443)),
        (Scope(False, "", ("192.0.2.9", 80), OWN), "10.0.0.1", ("192.0.2.9", 80)),
        (Scope(True, "api.example.com", None, OWN), "unknown.example", ("unknown.example", 443)),
        (Scope(False, "", ("203.0.113.1", 81), OWN), "", ("203.0.113.1", 81)),
    ],
)
def test_whom_a_request_is_for(path: Path, scope: Scope, authority: str, place: tuple[str, int]) -> None:
    assert backends(path).place(scope, authority) == place


def test_the_responders_own_address_means_the_only_backend(path: Path) -> None:
    scope = Scope(False, "", None, OWN)
    assert backends(path, only=("api.example.com",)).place(scope, f"127.0.0.1:{OWN}") == ("api.example.com", 443)
    assert backends(path).place(scope, f"127.0.0.1:{OWN}") == ("127.0.0.1", OWN)


def test_only_and_excluded(path: Path) -> None:
    assert set(backends(path, only=("two.example",)).indexes) == {("two.example", 8001), ("two.example", 8002)}
    assert set(backends(path, only=("two.example:8001",)).indexes) == {("two.example", 8001)}
    left = backends(path, excluded=("TWO.example", "192.0.2.9"))
    assert set(left.indexes) == {("api.example.com", 443), ("odd.example", 8443)}
    assert left.off == {("two.example", 8001), ("two.example", 8002), ("192.0.2.9", 80)}
    assert left.addresses["api.example.com", 443] == {"192.0.2.1"}
    assert named_by(("2001:db8::7", 80), ["[2001:DB8::7]:80"])
    assert named_by(("2001:db8::7", 80), ["2001:db8::7"])
    assert not named_by(("2001:db8::7", 80), ["[2001:db8::7]:81"])
    with pytest.raises(ValueError, match=r"nobody is no backend of .*: it has .*two.example:8001, two.example:8002"):
        backends(path, only=("nobody",))


def test_unchecked_backends_stay_off(path: Path) -> None:
    uncheck(path, ["api.example.com:443"])
    assert ("api.example.com", 443) in backends(path).off
    uncheck(path, [])
    assert ("api.example.com", 443) in backends(path).indexes


def flow(host: str, port: int, address: str = "192.0.2.7") -> Flow:
    """A connection of which nothing was understood."""
    connection = Connection(f"flow:{host}:{port}", role=Role.CLIENT, remote_address=address, remote_port=port, server_name=host)
    return Flow(connection, 0, UNKNOWN, "unknown protocol", 10, 10)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A snapshot with a backend that is understood, one that is not, and one of which both were seen."""
    writer = SnapshotWriter.create(tmp_path / "m.snapshot", service="test", capture_id="c", created=0, tool_version="0")
    writer.add(pairs_of(EXCHANGES[0]))
    writer.add([flow("db.example", 5432), flow("api.example.com", 443), flow("", 6379, "192.0.2.8")])
    writer.set_ledger({"seen": 1, "delivered": 1, "lost": 0})
    writer.finish()
    return tmp_path / "m.snapshot"


def test_what_cannot_be_served_is_not_left_out_by_choice(mixed: Path) -> None:
    found = backends(mixed)
    assert set(found.indexes) == {("api.example.com", 443)}
    assert (found.off, found.unservable) == (set(), {("db.example", 5432), ("192.0.2.8", 6379)})
    assert found.addresses["db.example", 5432] == {"192.0.2.7"}


@pytest.mark.parametrize("name", ["db.example", "db.example:5432"])
def test_it_is_left_out_where_that_is_chosen(mixed: Path, name: str) -> None:
    found = backends(mixed, excluded=(name,))
    assert (found.off, found.unservable) == ({("db.example", 5432)}, {("192.0.2.8", 6379)})
    uncheck(mixed, ["db.example:5432"])
    assert backends(mixed).off == {("db.example", 5432)}
    assert backends(mixed, only=("api.example.com",)).off == {("db.example", 5432), ("192.0.2.8", 6379)}


def test_who_was_not_recorded_may_be_let_through_by_host_and_port(mixed: Path) -> None:
    found = backends(mixed, excluded=("Other.example:8080",))
    assert found.off == {("other.example", 8080)}
    assert found.addresses["other.example", 8080] == set()
    assert backends(mixed, excluded=("[2001:DB8::7]:80",)).off == {("2001:db8::7", 80)}
    for odd in ("other.example:", "2001:db8::7", ":80", "other.example:0"):
        with pytest.raises(ValueError, match="is no backend"):
            backends(mixed, excluded=(odd,))
    with pytest.raises(ValueError, match=r"other.example is no backend"):
        backends(mixed, excluded=("other.example",))
    with pytest.raises(ValueError, match=r"other.example:8080 is no backend"):
        backends(mixed, only=("other.example:8080",))


@pytest.mark.parametrize(
    "options", [{"only": ("api.example.com",), "excluded": ("api.example.com",)}, {"only": ("db.example",)}], ids=["both", "flow"]
)
def test_nothing_left_to_stand_in_for_is_told(mixed: Path, options: dict[str, tuple[str, ...]]) -> None:
    with pytest.raises(ValueError, match="left to stand in for"):
        backends(mixed, **options)


LOCAL, BOX, OTHER = "127.0.0.1", "10.66.7.2", "10.66.7.3"


@pytest.mark.parametrize(
    ("called", "asked_at"),
    [(LOCAL, LOCAL), (LOCAL, BOX), (BOX, BOX), ("fd66::2", "fd66::2")],
    ids=["loopback", "any", "own", "IPv6"],
)
@pytest.mark.parametrize("host", ["box", LOCAL])
def test_the_recorded_service_itself_is_not_stood_in_for(tmp_path: Path, called: str, asked_at: str, host: str) -> None:
    """Else the old answers would hide what a test is there to find. Nor is it let through: it may be elsewhere by now."""
    found = backends(write_own_service(tmp_path / "own.snapshot", called, asked_at=asked_at, host=host))
    assert set(found.indexes) == {("a.example", 443)}
    assert (found.own, found.off, found.unservable) == ({(host, 8099): {called}}, set(), set())


def test_the_recorded_service_itself_is_stood_in_for_where_it_is_named(tmp_path: Path) -> None:
    assert set(backends(write_own_service(tmp_path / "own.snapshot", LOCAL), only=("127.0.0.1:8099",)).indexes) == {
        ("127.0.0.1", 8099)
    }
    found = backends(write_own_service(tmp_path / "own.snapshot", BOX, asked_at=BOX, host="box"), only=("box",))
    assert (found.own, found.addresses["box", 8099]) == ({}, {BOX})


def test_the_recorded_service_itself_is_let_through_only_where_it_is_named(tmp_path: Path) -> None:
    path = write_own_service(tmp_path / "own.snapshot", BOX, asked_at=BOX, host="box")
    assert backends(path, excluded=("box:8099",)).off == {("box", 8099)}
    assert backends(path, only=("a.example",)).off == set()
    with pytest.raises(ValueError, match=r"it has a.example:443, box:8099"):
        backends(path, only=("nobody",))


def test_another_machine_may_have_the_same_port(tmp_path: Path) -> None:
    assert (LOCAL, 8099) in backends(write_own_service(tmp_path / "own.snapshot", "192.0.2.1")).indexes
    found = backends(write_own_service(tmp_path / "own.snapshot", OTHER, asked_at=BOX, host="other"))
    assert (("other", 8099) in found.indexes, found.own) == (True, {})


def test_a_name_of_several_machines_is_stood_in_for_but_for_this_one(tmp_path: Path) -> None:
    """One of a cluster: what the others answered was recorded, and is asked for at their addresses."""
    for called in ((BOX, OTHER), (OTHER, BOX)):
        found = backends(write_own_service(tmp_path / "own.snapshot", *called, asked_at=BOX, host="cluster"))
        assert (found.addresses["cluster", 8099], found.own) == ({OTHER}, {})


def test_where_nothing_is_known_of_either_end_it_is_a_backend(tmp_path: Path) -> None:
    assert ("box", 8099) in backends(write_own_service(tmp_path / "own.snapshot", "", asked_at="", host="box")).indexes


def test_the_recorded_service_itself_may_speak_what_is_not_understood(tmp_path: Path) -> None:
    writer = SnapshotWriter.create(tmp_path / "own.snapshot", service="s", capture_id="c", created=0, tool_version="0")
    call, other = flow("", 6379, BOX), flow("db.example", 6379, OTHER)
    end = Connection("end", role=Role.SERVER, local_address=BOX, local_port=6379, remote_address=BOX, remote_port=40000)
    writer.add([*pairs_of(EXCHANGES[0]), call, other, replace(call, connection=end)])
    writer.finish()
    found = backends(tmp_path / "own.snapshot")
    assert (set(found.own), found.unservable, set(found.unread)) == (
        {(BOX, 6379)},
        {("db.example", 6379)},
        {("db.example", 6379)},
    )


def test_what_is_known_of_a_connection_is_read_once(tmp_path: Path) -> None:
    """Also where there are more connections than are remembered."""
    connections = CONNECTIONS_KEPT + 100
    [pair] = pairs_of(Exchange("GET /"))
    writer = SnapshotWriter.create(tmp_path / "s", service="test", capture_id="c", created=0, tool_version="0")
    writer.add([replace(pair, id=f"{n:016x}", connection=replace(pair.connection, id=f"c{n}", pid=n)) for n in range(connections)])
    writer.finish()
    connection_of.cache_clear()
    assert list(backends(tmp_path / "s").indexes) == [("api.example.com", 443)]
    assert connection_of.cache_info().misses <= connections


# -- what a request costs ----------------------------------------------------------------------------------------------

PLACE = ("api.example.com", 443)


def poll(n: int, *headers: tuple[str, str], size: int = 0) -> Exchange:
    """Of a client of its own, with an answer of its own, which can be compressed."""
    return Exchange("GET /poll", b"%d " % n + b"x" * size, (("Authorization", f"Bearer {n:030}"), *headers))


def asked(snapshot: Snapshot, exchange: Exchange) -> Request:
    [pair] = pairs_of(exchange)
    message, secrets = snapshot.redactor().request(pair.request)
    return Request.of(pair.method, pair.path, pair.query, message, secrets)


@contextmanager
def noted(monkeypatch: pytest.MonkeyPatch, where: object, name: str) -> Iterator[list[object]]:
    """The first argument of every call."""
    calls: list[object] = []
    original: Callable[..., object] = getattr(where, name)

    def note(*arguments: object) -> object:
        calls.append(arguments[0])
        return original(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(where, name, note)
        yield calls


def test_no_request_waits_for_recordings_of_others_to_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of whom an answer is for is read when the responder starts, and no body for it."""
    path = write_snapshot(tmp_path / "a.snapshot", *[poll(n, size=5000) for n in range(40)])
    with Snapshot(path) as snapshot:
        requests = [asked(snapshot, poll(n)) for n in range(42)]
        with noted(monkeypatch, rows, "decompress") as bodies:
            index = Backends(snapshot).indexes[PLACE]
            with noted(monkeypatch, SqliteStore, "_rows") as reads:
                found = [index.find(request) for request in requests]
        assert (bodies, reads) == ([], [])
        answers = [snapshot.answer(each.next()).response.body.split()[0] for each in found if isinstance(each, Sequence)]
    assert answers == [b"%d" % n for n in range(40)]
    assert [type(each) for each in found[40:]] == [Undecided, Undecided]


def test_a_long_sequence_is_put_in_order_before_the_first_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "SETTLED_LATE", 10, raising=False)
    polls = [Exchange("GET /poll", b"%d" % n) for n in range(20)]
    with Snapshot(write_snapshot(tmp_path / "a.snapshot", *polls)) as snapshot:
        request = asked(snapshot, polls[0])
        index = Backends(snapshot).indexes[PLACE]
        with noted(monkeypatch, index_module, "_turns") as ordered:
            found = index.find(request)
        assert isinstance(found, Sequence)
        assert ([snapshot.answer(found.next()).response.body for _ in polls], ordered) == ([each.answer for each in polls], [])


def test_a_miss_reads_the_body_of_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exchanges = [replace(poll(n, ("Accept", "text/csv"), size=5000), request=f"GET /{n}") for n in range(20)]
    with Snapshot(write_snapshot(tmp_path / "a.snapshot", *exchanges)) as snapshot:
        index = Backends(snapshot).indexes[PLACE]
        missed = [asked(snapshot, Exchange("GET /none")), asked(snapshot, replace(exchanges[0], headers=(("Accept", "text/xml"),)))]
        with noted(monkeypatch, rows, "decompress") as bodies:
            refused = [index.find(request) for request in missed]
            explained = [
                explain(index, request, why) for request, why in zip(missed, refused, strict=True) if not isinstance(why, Sequence)
            ]
    assert ["was not recorded" in explained[0].reason, "does not ask for" in explained[1].reason] == [True, True]
    assert bodies == []


def test_headers_of_whatever_names_are_told_apart_in_linear_time(tmp_path: Path) -> None:
    """Counted in calls of functions: each recording has names that no other one has."""

    def work(count: int) -> int:
        named = [[(f"X-{n}-{each}", "1") for each in range(20)] for n in range(count)]
        path = write_snapshot(tmp_path / f"{count}.snapshot", *[poll(n, *headers) for n, headers in enumerate(named)])
        calls = 0

        def note(frame: FrameType, event: str, arg: object) -> None:
            nonlocal calls
            calls += 1

        with Snapshot(path) as snapshot:
            requests = [asked(snapshot, poll(n, *headers)) for n, headers in enumerate(named)]
            before = sys.getprofile()
            sys.setprofile(note)
            try:
                index = Backends(snapshot).indexes[PLACE]
                found = [index.find(request) for request in requests]
            finally:
                sys.setprofile(before)
            answers = [snapshot.answer(each.next()).response.body.strip() for each in found if isinstance(each, Sequence)]
        assert answers == [b"%d" % n for n in range(count)]
        return calls

    assert work(80) < 3 * work(40)
