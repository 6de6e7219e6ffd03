from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from engine.protocols import HTTP2, POSTGRES, TUNNEL
from engine.responder.answering import Answering, Plan
from engine.responder.backends import Backends, Scope
from engine.responder.misses import Missed, miss_reply
from engine.responder.replies import Replies
from engine.responder.requests import RequestReader
from engine.responder.run import Run
from engine.rrpair import Connection, Flow, Role
from engine.snapshot import Snapshot, SnapshotWriter
from tests.engine.making import Exchange, pairs_of, write_snapshot


@pytest.mark.parametrize("name", ["Authorization", "Accept"])
def test_a_miss_names_its_own_values_though_an_equal_request_was_missed_before(tmp_path: Path, name: str) -> None:
    """Equal but for these headers, for each of which it is another miss."""
    exchanges = [Exchange("GET /a", value.encode(), ((name, value),)) for value in ("application/json", "text/plain")]
    path = write_snapshot(tmp_path / "s", *exchanges[: 1 if name == "Accept" else 2])
    with Snapshot(path) as snapshot:
        backends = Backends(snapshot)
        run = Run("test", backends.indexes)
        answering = Answering(backends, snapshot.redactor(), Replies(snapshot.answer), run)
        shown = []
        for value in ("text/one", "text/two"):
            [asked] = RequestReader().feed(
                b"GET /a HTTP/1.1\r\nHost: api.example.com\r\n%b: %b\r\n\r\n" % (name.encode(), value.encode())
            )
            missed = answering.answer(Scope(True, "api.example.com", ("api.example.com", 443), 1), asked)
            assert isinstance(missed, Missed)
            run.missed(missed, passed=False)
            shown.append(missed.why.differences)
    assert shown[0] != shown[1]
    assert [len(each) for each in shown] == [1, 1]


@pytest.mark.parametrize(
    ("host", "protocol", "said"),
    [
        ("grpc.example", HTTP2, "nothing was recorded of grpc.example:443; HTTP/2 was seen at this backend and not recorded"),
        ("api.example.com", HTTP2, "GET /b was not recorded; HTTP/2 was seen at this backend and not recorded"),
        ("db.example", POSTGRES, "nothing was recorded of db.example:443; postgres was seen at this backend and not recorded"),
        ("db.example", TUNNEL, "nothing was recorded of db.example:443"),
        ("other.example", HTTP2, "GET /b was not recorded"),
    ],
)
def test_a_miss_says_that_its_backend_spoke_what_is_not_recorded(tmp_path: Path, host: str, protocol: str, said: str) -> None:
    connection = Connection("a:1", role=Role.CLIENT, remote_address="192.0.2.7", remote_port=443, server_name=host)
    writer = SnapshotWriter.create(tmp_path / "s", service="test", capture_id="c", created=0, tool_version="0")
    writer.add([*pairs_of(Exchange("GET /a")), Flow(connection, 0, protocol, f"{protocol} is not parsed yet", 10, 10)])
    writer.finish()
    asked_of = host if host != "other.example" else "api.example.com"
    with Snapshot(tmp_path / "s") as snapshot:
        backends = Backends(snapshot)
        answering = Answering(backends, snapshot.redactor(), Replies(snapshot.answer), Run("test", backends.indexes))
        [asked] = RequestReader().feed(b"GET /b HTTP/1.1\r\nHost: %b\r\n\r\n" % asked_of.encode())
        missed = answering.answer(Scope(True, asked_of, (asked_of, 443), 1), asked)
        assert isinstance(missed, Missed)
        assert missed.why.reason == said


SITE_KEY = "Zk3vT9qLm2xR7bNc"
PROJECTS = Exchange("GET /v1/projects", b'{"projects":[{"id":1,"access_key":"%b"}]}' % SITE_KEY.encode())
"""What the program has in its configuration, too."""


def ingest(key: str, path: str = "items") -> Exchange:
    return Exchange(f"GET /v1/ingest/{key}/{path}", b'{"items":[1,2]}')


def unfinished(path: Path, *exchanges: Exchange) -> Path:
    """What is left of a recording that was killed."""
    writer = SnapshotWriter.create(path, service="test", capture_id="c", created=0, tool_version="0")
    writer.add(pairs_of(*exchanges))
    writer.close()
    return writer.partial


def asked_of(path: Path, *exchanges: Exchange) -> tuple[list[Plan | Missed], Run]:
    with Snapshot(path) as snapshot:
        backends = Backends(snapshot)
        run = Run("test", backends.indexes)
        answering = Answering(backends, snapshot.redactor(), Replies(snapshot.answer), run)
        found = []
        for exchange in exchanges:
            [asked] = RequestReader().feed(exchange.request_bytes())
            found.append(answering.answer(Scope(True, exchange.host, (exchange.host, 443), 1), asked))
            if isinstance(found[-1], Missed):
                run.missed(found[-1], passed=False)
        return found, run


@pytest.mark.parametrize("first", [PROJECTS, ingest(SITE_KEY)])
@pytest.mark.parametrize("finished", [True, False])
def test_a_client_that_brings_what_an_answer_told_is_answered(tmp_path: Path, first: Exchange, finished: bool) -> None:
    """Whether the answer came before the request or after, and without having been asked for it in this run.

    Also where the recording was not finished, so that nothing was changed in what came before.
    """
    second = ingest(SITE_KEY) if first is PROJECTS else PROJECTS
    path = write_snapshot(tmp_path / "s", first, second) if finished else unfinished(tmp_path / "s", first, second)
    with Snapshot(path) as snapshot:
        told = next(pair.response for pair in snapshot.pairs() if pair.path == "/v1/projects")
        assert told
    sent_back = told.body.split(b'"')[-2].decode()
    found, _ = asked_of(path, ingest(SITE_KEY), ingest(sent_back), PROJECTS)
    assert [type(each) for each in found] == [Plan] * 3, found


@pytest.mark.parametrize("write", [write_snapshot, unfinished])
def test_a_miss_shows_no_secret_that_a_recorded_answer_told(tmp_path: Path, write: Callable[..., Path]) -> None:
    path = write(tmp_path / "s", ingest(SITE_KEY), PROJECTS)
    [missed], run = asked_of(path, ingest(SITE_KEY, "others"))
    assert isinstance(missed, Missed)
    shown = repr(miss_reply(missed, close=False)) + repr(run.report())
    assert "/others" in shown
    assert SITE_KEY not in shown
