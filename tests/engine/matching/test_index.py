from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.matching import index as index_module
from engine.matching.explain import Difference, explain
from engine.matching.index import Index, NotAccepted, Request, Sequence, Undecided
from engine.matching.signature import signature
from engine.pairing import Conversation
from engine.reassembly import LOST
from engine.redaction.tokens import luhn_digit
from engine.rrpair import Connection, Message, Role, RRPair, Way
from engine.snapshot import Snapshot, SnapshotWriter
from engine.store import Entry, Heads
from tests.engine.making import Exchange, Headers, pairs_of, write_snapshot

JSON: Headers = (("Content-Type", "application/json"),)


def index_of(snapshot: Snapshot) -> Index:
    return Index(snapshot.asked, snapshot.heads)


class Asked:
    """An index over a snapshot of these exchanges, and how to ask it."""

    def __init__(self, folder: Path, *exchanges: Exchange) -> None:
        path = folder / "a.snapshot"
        path.unlink(missing_ok=True)
        self.snapshot = Snapshot(write_snapshot(path, *exchanges))
        self.redactor = self.snapshot.redactor()
        self.index = index_of(self.snapshot)
        for entry in self.snapshot.entries():
            self.index.add(entry)
        self.index.settle()

    def request(self, exchange: Exchange) -> Request:
        [pair] = pairs_of(exchange)
        secrets = self.redactor.request(pair.request)[1]
        pair = self.redactor.pair(pair)
        return Request.of(pair.method, pair.path, pair.query, pair.request, secrets)

    def ask(self, exchange: Exchange, key: bytes = b"") -> str:
        found = self.index.find(self.request(exchange))
        if isinstance(found, Sequence):
            response = self.snapshot.at(found.next(key)).response
            assert response
            return response.body.decode()
        return "none" if found is None else "undecided" if isinstance(found, Undecided) else "not accepted"

    def explain(self, exchange: Exchange) -> tuple[str, tuple[Difference, ...]]:
        request = self.request(exchange)
        found = self.index.find(request)
        assert not isinstance(found, Sequence)
        explanation = explain(self.index, request, found)
        return explanation.operation, explanation.differences


def get(answer: str, *headers: tuple[str, str], target: str = "/job", status: str = "200 OK") -> Exchange:
    return Exchange(f"GET {target}", answer.encode(), headers, status=status)


def post(answer: str, body: str, *headers: tuple[str, str], target: str = "/v1/charges") -> Exchange:
    return Exchange(f"POST {target}", answer.encode(), (*JSON, *headers), body.encode())


def test_each_request_gets_its_own_answer(tmp_path: Path) -> None:
    asked = Asked(tmp_path, *[post(f"answer {n}", f'{{"n":{n}}}') for n in range(50)])
    assert [asked.ask(post("", f'{{ "n" : {n} }}')) for n in (7, 49, 0)] == ["answer 7", "answer 49", "answer 0"]
    assert asked.ask(post("", '{"n":50}')) == "none"
    assert asked.ask(post("", '{"n":"7"}')) == "none"


def test_equal_requests_are_a_sequence_whose_last_answer_sticks(tmp_path: Path) -> None:
    asked = Asked(tmp_path, get("queued"), get("queued"), get("running"), get("done"))
    assert [asked.ask(get("")) for _ in range(6)] == ["queued", "queued", "running", "done", "done", "done"]


def test_equal_answers_are_one(tmp_path: Path) -> None:
    asked = Asked(tmp_path, *[get("same", ("User-Agent", str(n))) for n in range(5)])
    assert asked.ask(get("", ("User-Agent", "unknown"))) == "same"


def test_what_is_new_in_each_request_does_not_select(tmp_path: Path) -> None:
    def headers(n: int) -> Headers:
        signed = f"AWS4-HMAC-SHA256 Credential=AKIA{n:016d}/20260101/r/s/aws4_request, SignedHeaders=host, Signature={n:064x}"
        return (
            ("X-Amz-Date", f"2026010{n}"),
            ("traceparent", f"00-{n:032x}"),
            ("amz-sdk-invocation-id", str(n)),
            ("Authorization", signed.replace(f"AKIA{n:016d}", "AKIA" + "0" * 16)),
        )

    asked = Asked(tmp_path, get("one", *headers(1)), get("two", *headers(2)))
    assert [asked.ask(get("", *headers(n))) for n in (3, 4, 5)] == ["one", "two", "two"]


@pytest.mark.parametrize(
    ("name", "first", "second", "unknown"),
    [
        ("Authorization", "Bearer alice-token-1", "Bearer bob-token-2", "Bearer eve-token-3"),
        ("Cookie", "session=alice", "session=bob", "session=eve"),
        ("Accept-Language", "de", "fr", "it"),
        ("X-Api-Key", "a-key", "b-key", "e-key"),
    ],
)
def test_headers_that_alone_tell_answers_apart_select(tmp_path: Path, name: str, first: str, second: str, unknown: str) -> None:
    asked = Asked(tmp_path, get("for one", (name, first)), get("for two", (name, second)), get("more for one", (name, first)))
    assert [asked.ask(get("", (name, second))) for _ in range(2)] == ["for two", "for two"]
    assert [asked.ask(get("", (name, first))) for _ in range(3)] == ["for one", "more for one", "more for one"]
    assert asked.ask(get("", (name, unknown))) == "undecided"
    assert asked.ask(get("")) == "undecided"
    operation, [difference] = asked.explain(get("", (name, unknown)))
    assert (operation, difference.field) == ("GET /job", f"header.{name.lower()}")
    assert unknown.split()[-1].split("=")[-1] not in str(difference) or name == "Accept-Language"


def test_a_header_that_was_sent_only_once_selects(tmp_path: Path) -> None:
    asked = Asked(tmp_path, get("whole"), get("", ("If-None-Match", '"v1"'), status="304 Not Modified"))
    assert asked.ask(get("")) == "whole"
    found = asked.index.find(asked.request(get("", ("If-None-Match", '"v1"'))))
    assert isinstance(found, Sequence)
    assert asked.snapshot.at(found.next()).status == 304


@pytest.mark.parametrize(
    ("name", "recorded", "live"),
    [
        ("Range", "bytes=0-4", "bytes=5-9"),
        ("If-None-Match", '"v1"', '"v2"'),
        ("If-Modified-Since", "Sun, 22 Nov 2026 10:00:00 GMT", "Mon, 23 Nov 2026 10:00:00 GMT"),
        ("X-HTTP-Method-Override", "DELETE", "PATCH"),
        ("Prefer", "return=minimal", "return=representation"),
        ("Stripe-Version", "2024-06-20", "2025-01-27"),
        ("X-Tenant-Id", "a", "b"),
        ("SOAPAction", '"urn:Get"', '"urn:Delete"'),
        ("x-amz-copy-source-range", "bytes=0-9", "bytes=10-19"),
        ("Dropbox-API-Arg", '{"path":"/a"}', '{"path":"/b"}'),
        ("x-ms-documentdb-partitionkeyrangeid", "0", "1"),
        ("x-ms-continuation", "-RID:~abc1#RT:1", "-RID:~abc1#RT:2"),
        ("X-Amz-Invocation-Type", "Event", "RequestResponse"),
    ],
)
def test_a_header_that_says_what_is_asked_counts_in_a_lone_recording(tmp_path: Path, name: str, recorded: str, live: str) -> None:
    asked = Asked(tmp_path, get("answer", (name, recorded)))
    assert asked.ask(get("", (name.upper(), recorded))) == "answer"
    assert [asked.ask(get("", (name, live))), asked.ask(get(""))] == ["none", "none"]
    assert asked.explain(get("", (name, live)))[1] == (Difference(f"header.{name.lower()}", recorded, live),)
    assert Asked(tmp_path, get("plain")).ask(get("", (name, live))) == "none"


def csv(answer: str, accept: str) -> Exchange:
    return Exchange(
        "GET /job", answer.encode(), (("Accept", accept),), answer_headers=(("Content-Type", "text/csv; charset=utf-8"),)
    )


def test_an_answer_of_a_type_that_is_not_asked_for_is_none(tmp_path: Path) -> None:
    asked = Asked(tmp_path, get("json", ("Accept", "application/json")))
    for accept in ("*/*", "application/json, text/plain, */*", "application/JSON", "application/*;q=0.5"):
        assert asked.ask(get("", ("Accept", accept))) == "json"
    assert asked.ask(get("")) == "json"
    assert asked.ask(get("", ("Accept", "text/csv"))) == "not accepted"
    assert asked.explain(get("", ("Accept", "text/csv"))) == (
        "GET /job",
        (Difference("header.accept", "application/json", "text/csv"),),
    )
    request = asked.request(get("", ("Accept", "text/csv")))
    assert "does not ask for the recorded answer, which is application/json" in explain(asked.index, request, NotAccepted(1)).reason


def test_an_accept_field_that_was_recorded_gets_its_answer_whatever_the_type(tmp_path: Path) -> None:
    """Servers may not heed it. That of any equal request counts, not just the first one's."""
    asked = Asked(tmp_path, get("json", ("Accept", "*/*")), get("json", ("Accept", "text/csv")))
    assert [asked.ask(get("", ("Accept", accept))) for accept in ("text/csv", "TEXT/csv ", "text/xml")] == [
        "json",
        "json",
        "not accepted",
    ]


def test_recorded_types_are_chosen_by_accept(tmp_path: Path) -> None:
    asked = Asked(tmp_path, get("json", ("Accept", "application/json")), csv("csv", "text/csv"))
    assert [asked.ask(get("", ("Accept", accept))) for accept in ("text/csv", "application/json", "*/*")] == [
        "csv",
        "json",
        "undecided",
    ]


def test_that_nothing_is_acceptable_is_said_to_the_recorded_field_only(tmp_path: Path) -> None:
    asked = Asked(tmp_path, get("nothing", ("Accept", "image/png"), status="406 Not Acceptable"))
    assert [asked.ask(get("", ("Accept", accept))) for accept in ("image/png", "*/*")] == ["nothing", "not accepted"]


def test_of_an_accept_field_that_was_not_recorded_an_answer_is_read_once(tmp_path: Path) -> None:
    asked = Asked(tmp_path, get("json", ("Accept", "application/json")))
    loaded: list[int] = []

    def heads(row: int) -> Heads:
        loaded.append(row)
        return asked.snapshot.heads(row)

    asked.index.heads = heads
    requests = [asked.request(get("", ("Accept", accept))) for accept in ("application/json", "*/*", "text/csv") for _ in range(5)]
    found = [isinstance(asked.index.find(request), Sequence) for request in requests]
    assert (found, len(loaded)) == ([True] * 10 + [False] * 5, 2)


def test_a_lone_recording_answers_whatever_the_credentials(tmp_path: Path) -> None:
    """A mock is asked with dummy keys: see the README."""
    asked = Asked(tmp_path, get("answer", ("Authorization", "Bearer real-token-1"), ("X-Api-Key", "real"), ("Accept", "a/b")))
    assert asked.ask(get("", ("Authorization", "Bearer dummy"), ("Accept", "*/*"))) == "answer"
    assert asked.ask(get("")) == "answer"


@pytest.mark.parametrize("recorded", ["AABB", "ABAB", "ABBA"])
def test_each_client_has_a_sequence_of_its_own_where_all_were_answered_alike(tmp_path: Path, recorded: str) -> None:
    said = [get(("wait", "done")[recorded[:n].count(who)], client(who)) for n, who in enumerate(recorded)]
    live = "ABCCABDA"
    asked = Asked(tmp_path, *said)
    assert [asked.ask(get("", client(who))) for who in live] == [
        ("wait", "done")[min(live[:n].count(who), 1)] for n, who in enumerate(live)
    ]


def client(name: str) -> tuple[str, str]:
    return ("Authorization", f"Bearer token-of-client-{name}")


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_each_client_hears_what_it_was_recorded_to_hear(tmp_path: Path, data: st.DataObject) -> None:
    """The model: a list for each client, played to it until its last answer, whoever else asks in between."""
    heard: dict[str, list[str]] = data.draw(
        st.one_of(
            st.dictionaries(st.sampled_from("ABC"), st.lists(st.sampled_from("xyz"), min_size=1, max_size=4), min_size=2),
            st.lists(st.sampled_from("xyz"), min_size=1, max_size=4).map(lambda same: {who: list(same) for who in "ABC"}),
        )
    )
    order = data.draw(st.permutations([who for who, answers in heard.items() for _ in answers]))
    said = [get(heard[who][order[:n].count(who)], client(who)) for n, who in enumerate(order)]
    alike = len(set(map(tuple, heard.values()))) == 1
    one_answer = {answer for answers in heard.values() for answer in answers}
    live = data.draw(st.lists(st.sampled_from([*heard, "unknown", "other"]), max_size=12))
    asked = Asked(tmp_path, *said)
    for n, who in enumerate(live):
        if len(one_answer) == 1:
            expected = next(iter(one_answer))
        elif who in heard or alike:
            answers = heard.get(who, next(iter(heard.values())))
            expected = answers[min(live[:n].count(who), len(answers) - 1)]
        else:
            expected = "undecided"
        assert asked.ask(get("", client(who))) == expected


def test_clients_that_were_not_recorded_are_remembered_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "CLIENTS_LIMIT", 2)
    asked = Asked(tmp_path, *[get(answer, client(who)) for who in "AB" for answer in ("wait", "done")])
    assert [asked.ask(get("", client(who))) for who in "cdcecd"] == ["wait", "wait", "done", "wait", "done", "wait"]


def test_an_idempotency_key_gets_its_answer_again(tmp_path: Path) -> None:
    recorded = [post(f"charge {n}", "{}", ("Idempotency-Key", f"key-{n}")) for n in (1, 1, 2)]
    asked = Asked(tmp_path, *recorded)
    heard = [asked.ask(post("", "{}"), key) for key in (b"x", b"x", b"y", b"x", b"z", b"y")]
    assert heard == ["charge 1", "charge 1", "charge 2", "charge 1", "charge 2", "charge 2"]


def test_a_retry_gets_what_recorded_retries_got_and_then_the_last_answer(tmp_path: Path) -> None:
    recorded = [post("try again", "{}", ("Idempotency-Key", "k")), post("done", "{}", ("Idempotency-Key", "k"))]
    asked = Asked(tmp_path, *recorded)
    assert [asked.ask(post("", "{}"), b"live") for _ in range(4)] == ["try again", "done", "done", "done"]
    assert [asked.ask(post("", "{}"), b"other") for _ in range(2)] == ["done", "done"]


def test_retries_of_requests_side_by_side_stay_apart(tmp_path: Path) -> None:
    said = [("1", "busy 1"), ("2", "busy 2"), ("1", "busy 1"), ("2", "done 2"), ("1", "done 1")]
    asked = Asked(tmp_path, *[post(answer, "{}", ("Idempotency-Key", f"key-{key}")) for key, answer in said])
    heard = [asked.ask(post("", "{}"), key) for key in (b"x", b"y", b"y", b"x", b"y", b"z")]
    assert heard == ["busy 1", "busy 2", "done 2", "done 1", "done 2", "done 2"]


def test_a_client_without_keys_gets_recorded_retries_in_order(tmp_path: Path) -> None:
    asked = Asked(
        tmp_path, *[post(answer, "{}", ("Idempotency-Key", key)) for key, answer in (("k", "503"), ("k", "200"), ("l", "1"))]
    )
    assert [asked.ask(post("", "{}")) for _ in range(4)] == ["503", "200", "1", "1"]


def test_how_often_a_client_retried_does_not_tell_clients_apart(tmp_path: Path) -> None:
    def said(agent: str, *answers: str) -> list[Exchange]:
        return [post(answer, "{}", ("User-Agent", agent), ("Idempotency-Key", agent)) for answer in answers]

    asked = Asked(tmp_path, *said("a", "busy", "done"), *said("b", "busy", "busy", "done"))
    assert [asked.ask(post("", "{}", ("User-Agent", "c")), b"c") for _ in range(3)] == ["busy", "done", "done"]


def test_a_retry_count_does_not_select(tmp_path: Path) -> None:
    counted = [post(answer, "{}", ("X-Stainless-Retry-Count", str(n))) for n, answer in enumerate(("busy", "done"))]
    asked = Asked(tmp_path, *counted)
    assert [asked.ask(post("", "{}", ("X-Stainless-Retry-Count", str(n)))) for n in (0, 5)] == ["busy", "done"]


def test_another_partition_is_another_request(tmp_path: Path) -> None:
    """Cosmos DB, whose partition keys are redacted for their name."""
    asked = Asked(tmp_path, *[get(f"item of {n}", ("x-ms-documentdb-partitionkey", f"[{n}]")) for n in range(500)])
    assert [asked.ask(get("", ("x-ms-documentdb-partitionkey", f"[{n}]"))) for n in (3, 77, 500)] == [
        "item of 3",
        "item of 77",
        "none",
    ]


@pytest.mark.parametrize("name", ["elastic-apm-traceparent", "x-datadog-trace-id", "x-b3-spanid", "X-Goog-Gcs-Idempotency-Token"])
def test_a_job_that_is_polled_within_traces_is_a_sequence(tmp_path: Path, name: str) -> None:
    asked = Asked(tmp_path, *[get(answer, (name, f"00-{n:032x}")) for n, answer in enumerate(("wait", "wait", "done"))])
    assert [asked.ask(get("", (name, f"00-{n:032x}"))) for n in range(7, 11)] == ["wait", "wait", "done", "done"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((("X-Copy-Status", "pending"),), (("X-Copy-Status", "success"),)),
        ((("X-Job-State", "running"),), ()),
        ((("Link", "a"), ("Link", "b")), (("Link", "b"), ("Link", "a"))),
        ((("Last-Modified", "Sun, 22 Nov 2026 10:00:00 GMT"),), (("Last-Modified", "Mon, 23 Nov 2026 10:00:00 GMT"),)),
    ],
)
def test_answers_that_differ_in_a_header_only_are_a_sequence(tmp_path: Path, first: Headers, second: Headers) -> None:
    asked = Asked(tmp_path, *[Exchange("GET /job", b"ok", answer_headers=headers) for headers in (first, second)])
    request = asked.request(get(""))
    found = asked.index.find(request)
    assert isinstance(found, Sequence)
    rows = [found.next() for _ in range(3)]
    assert rows[0] != rows[1] == rows[2]


def test_the_operation_selects_where_bodies_are_equal(tmp_path: Path) -> None:
    def call(operation: str, answer: str = "") -> Exchange:
        headers = (("X-Amz-Target", f"DynamoDB_20120810.{operation}"), ("Content-Type", "application/x-amz-json-1.0"))
        return Exchange("POST /", answer.encode(), headers, b'{"TableName":"T"}')

    asked = Asked(tmp_path, call("Scan", "items"), call("DeleteTable", "deleted"))
    assert [asked.ask(call(name)) for name in ("DeleteTable", "Scan", "DescribeTable")] == ["deleted", "items", "none"]
    _, differences = asked.explain(call("DescribeTable"))
    assert Difference("header.x-amz-target", "DynamoDB_20120810.Scan", "DynamoDB_20120810.DescribeTable") in differences


def test_secrets_are_tokens_on_both_sides(tmp_path: Path) -> None:
    asked = Asked(tmp_path, post("in", '{"user":"a","password":"hunter2-8c1f"}'), post("out", '{"user":"a","password":"other"}'))
    assert asked.ask(post("", '{"password":"hunter2-8c1f","user":"a"}')) == "in"
    _, [difference] = asked.explain(post("", '{"user":"a","password":"guess"}'))
    assert difference.field == "body/password"
    assert "guess" not in str(difference)
    assert "REDACTED-secret-" in str(difference.live)


def test_a_miss_names_the_nearest_and_what_differs(tmp_path: Path) -> None:
    asked = Asked(
        tmp_path,
        post("", '{"amount":100,"currency":"usd","customer":"cus_1"}'),
        post("", '{"amount":200,"currency":"eur","customer":"cus_2"}'),
        get("", target="/v1/customers/cus_1?limit=3"),
    )
    assert asked.explain(post("", '{"amount":200,"currency":"eur","customer":"cus_2","capture":true}')) == (
        "POST /v1/charges",
        (Difference("body/capture", None, "true"),),
    )
    assert asked.explain(get("", target="/v1/customers/cus_9?limit=3"))[1] == (Difference("path.3", "cus_1", "cus_9"),)
    request = asked.request(Exchange("DELETE /v1/customers/cus_1"))
    assert explain(asked.index, request).reason == "DELETE /v1/customers/cus_1 was not recorded"


def test_long_values_are_cut_where_they_begin_to_differ(tmp_path: Path) -> None:
    asked = Asked(tmp_path, post("", '{"a":"' + "x" * 5000 + 'A"}'))
    [difference] = asked.explain(post("", '{"a":"' + "x" * 5000 + 'B"}'))[1]
    assert (difference.recorded or "").endswith('xA"')
    assert (difference.live or "").endswith('xB"')
    assert len(difference.live or "") < 300


def test_only_outbound_and_complete_pairs_are_entries(tmp_path: Path) -> None:
    asked = Asked(tmp_path, get("yes"))
    [entry] = asked.snapshot.entries()
    assert (entry.host, entry.port, entry.address, entry.operation) == ("api.example.com", 443, "192.0.2.1", "GET /job")
    assert set(entry.signature) == {"request", "headers", "answer"}


def test_a_snapshot_without_signatures_is_signed_when_it_is_read() -> None:
    """Of format 1, before signatures were made."""
    path = Path(__file__).parents[2] / "corpus" / "snapshot-v1.snapshot"
    with Snapshot(path) as snapshot:
        index = index_of(snapshot)
        for entry in snapshot.entries():
            index.add(entry)
        pairs: list[RRPair] = list(snapshot.pairs())
        found = [index.find(Request.of(pair.method, pair.path, pair.query, pair.request)) for pair in pairs]
        assert [isinstance(each, Sequence) for each in found] == [True, True]
        assert not isinstance(index.find(Request.of("GET", "/", (), Message(b""))), (Sequence, Undecided))


# -- misses ------------------------------------------------------------------------------------------------------------


def test_the_nearest_recording_has_the_parameter_that_is_new_each_time(tmp_path: Path) -> None:
    asked = Asked(tmp_path, get("a", target="/t"), get("b", target="/t?ts=1767225600"), get("c", target="/t?page=2"))
    request = asked.request(get("", target="/t?ts=1767229999"))
    found = explain(asked.index, request)
    assert found.differences == (Difference("query.ts", "1767225600", "1767229999"),)
    assert found.reason == (
        "no recorded request is equal to it (query.ts looks like a time that the client makes anew: matching is exact)"
    )


@pytest.mark.parametrize(
    ("recorded", "live", "form"),
    [
        ("2026-01-01T00:00:00Z", "2026-01-02T10:00:00.123+01:00", "a time"),
        ("1767225600.25", "1767225601", "a time"),
        ("0b1f6c2e-3d14-4a77-9f0e-6f1c57a4ab10", "7a9d7e1c-8a55-4f0b-8b77-5d4f90b1c2de", "an id"),
        ("01ARZ3NDEKTSV4RRFFQ69G5FAV", "01BX5ZZKBKACTAV9WEVGEMMVRZ", "an id"),
        ("507f1f77bcf86cd799439011", "507f191e810c19729de860ea", "an id"),
        ("alice", "bob", ""),
        ("12", "1767225601", ""),
    ],
)
def test_a_miss_hints_at_what_a_client_makes_anew(tmp_path: Path, recorded: str, live: str, form: str) -> None:
    asked = Asked(tmp_path, post("", f'{{"a":"{recorded}"}}'))
    found = explain(asked.index, asked.request(post("", f'{{"a":"{live}"}}')))
    assert ("looks like" in found.reason) is bool(form)
    assert form in found.reason


def test_secrets_that_were_replaced_do_not_look_like_ids(tmp_path: Path) -> None:
    asked = Asked(tmp_path, post("", '{"password":"hunter2-8c1f"}'))
    found = explain(asked.index, asked.request(post("", '{"password":"other-secret-1"}')))
    assert "REDACTED-secret-" in str(found.differences)
    assert found.reason == "no recorded request is equal to it"


def partial(folder: Path, request: bytes, *, request_lost: int = 0, response_lost: int = 10) -> Asked:
    """An index of one pair that was recorded incompletely."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b"x" * 100
    conversation = Conversation(Connection("c:1", role=Role.CLIENT, remote_port=443, tls=True), "test", True)
    at = len(request) - request_lost
    found = conversation.data(Way.WRITE, 0, request[:at], 1)
    if request_lost:
        found += conversation.gap(Way.WRITE, at, request_lost, LOST)
    found += conversation.data(Way.READ, 0, answer[: len(answer) - response_lost], 2)
    if response_lost:
        found += conversation.gap(Way.READ, len(answer) - response_lost, response_lost, LOST)
    writer = SnapshotWriter.create(folder / "p", service="test", capture_id="c", created=0, tool_version="0")
    writer.add([*found, *conversation.close(9)])
    writer.finish()
    asked = Asked(folder)
    asked.snapshot = Snapshot(folder / "p")
    asked.redactor, asked.index = asked.snapshot.redactor(), index_of(asked.snapshot)
    assert not list(asked.snapshot.entries())
    for entry in asked.snapshot.partial_entries():
        asked.index.add_partial(entry)
    return asked


def test_a_miss_says_that_its_answer_was_recorded_incompletely(tmp_path: Path) -> None:
    asked = partial(tmp_path, b"GET /job?a=1 HTTP/1.1\r\nHost: api.example.com\r\n\r\n")
    [pair] = asked.snapshot.pairs()
    found = explain(asked.index, asked.request(get("", target="/job?a=1")))
    assert found.reason == f"it was recorded incompletely as pair {pair.id} (missing response body)"
    assert found.nearest == pair.id
    other = explain(asked.index, asked.request(get("", target="/job?a=2")))
    assert "incompletely" not in other.reason


def test_a_miss_says_that_its_request_was_recorded_incompletely(tmp_path: Path) -> None:
    head = b"POST /v1/charges HTTP/1.1\r\nHost: api.example.com\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"
    asked = partial(tmp_path, head + b'{"a":123}', request_lost=5, response_lost=0)
    [pair] = asked.snapshot.pairs()
    found = explain(asked.index, asked.request(post("", '{"a":123}')))
    assert found.reason == (
        f"a request that is equal but for its body was recorded incompletely as pair {pair.id} (missing request body)"
    )
    assert "incompletely" not in explain(asked.index, asked.request(post("", '{"a":123}', target="/v2"))).reason


# -- bounds ------------------------------------------------------------------------------------------------------------


def test_what_a_miss_costs_is_bounded(tmp_path: Path) -> None:
    """A hundred recordings of large bodies, and each miss would read and part them all."""
    rows = [f"[{n},{','.join('1' * 20_000)}]" for n in range(30)]
    asked = Asked(tmp_path, *[post("", row) for row in rows])
    loaded = 0

    def load(row: int) -> RRPair:
        nonlocal loaded
        loaded += 1
        return asked.snapshot.asked(row)

    asked.index.load = load
    found = explain(asked.index, asked.request(post("", "[" + ",".join("2" * 20_000) + "]")))
    assert 0 < loaded < 10
    assert len(found.differences) <= 20
    assert all(len(each.field) <= 200 and len(each.live or "") <= 210 for each in found.differences)


def test_incomplete_recordings_that_a_miss_is_compared_with_are_bounded_in_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_module, "PARTIAL_BYTES", 250, raising=False)
    asked = Asked(tmp_path, *[post("", f'["{n}{"x" * 100}"]') for n in range(10)])
    index, loaded = index_of(asked.snapshot), []

    def load(row: int) -> RRPair:
        loaded.append(row)
        return asked.snapshot.asked(row)

    index.load = load
    for entry in asked.snapshot.entries():
        index.add_partial(entry)
    found = [index.find_partial(asked.request(post("", f'["{n}{"x" * 100}"]'))) for n in range(10)]
    assert [pair is not None for pair in found] == [True] * 3 + [False] * 7
    assert len(loaded) == 3 + 3


def test_what_a_miss_names_can_be_sent(tmp_path: Path) -> None:
    """Half a surrogate pair is JSON, but no text."""
    asked = Asked(tmp_path, post("", '{"a":1}'))
    found = explain(asked.index, asked.request(post("", '{"a":"\\ud83d","\\udc00b":"\\ud83d"}')))
    for difference in found.differences:
        f"{difference.field}{difference.live}{difference.recorded}".encode()


def card(n: int) -> str:
    digits = b"42424242%07d" % n
    return (digits + luhn_digit(digits)).decode()


@pytest.mark.parametrize(
    "secret_of",
    [lambda n: f'{{"pin":{n}}}', lambda n: f'{{"card":{{"number":"{card(n)}"}}}}', lambda n: f'{{"card_number":{card(n)}}}'],
)
def test_a_secret_that_was_not_recorded_is_never_answered(tmp_path: Path, secret_of: Callable[[int], str]) -> None:
    recorded = range(1000, 4000, 3)
    asked = Asked(tmp_path, *[post(f"answer {n}", secret_of(n)) for n in recorded])
    for n in recorded[::10]:
        assert asked.ask(post("", secret_of(n))) == f"answer {n}"
    answered = [n for n in range(4000, 6000) if asked.ask(post("", secret_of(n))) != "none"]
    assert answered == []


def colliding_cards(asked: Asked) -> tuple[str, str]:
    """Two cards with one token, by the birthday of some thousand among 100,000."""
    seen: dict[bytes, str] = {}
    for n in range(10_000):
        token = asked.redactor.request(Message(b"POST / HTTP/1.1", (), f'{{"card_number":"{card(n)}"}}'.encode()))[0].body
        if token in seen:
            return seen[token], card(n)
        seen[token] = card(n)
    raise AssertionError("no two cards have one token")


def test_two_cards_with_one_token_are_two_requests(tmp_path: Path) -> None:
    asked = Asked(tmp_path, get("x"))
    one, other = colliding_cards(asked)
    key = asked.redactor
    pairs = [key.pair(pair) for pair in pairs_of(post("one", f'{{"card":"{one}"}}'), post("other", f'{{"card":"{other}"}}'))]
    assert pairs[0].request.body == pairs[1].request.body
    assert pairs[0].signature["secrets"] != pairs[1].signature["secrets"]
    index = Index(lambda row: pairs[row], lambda row: Heads(pairs[row].status, pairs[row].request, pairs[row].response))
    for row, pair in enumerate(pairs):
        index.add(Entry(row, "http/1.1", "h", 443, "", True, "POST", pair.path, pair.operation, 200, signature(pair)))

    def found(secret: str) -> int | None:
        [pair] = pairs_of(post("", f'{{"card":"{secret}"}}'))
        message, secrets = key.request(pair.request)
        sequence = index.find(Request.of(pair.method, pair.path, pair.query, message, secrets))
        return sequence.next() if isinstance(sequence, Sequence) else None

    token = json.loads(pairs[0].request.body)["card"]
    assert (found(one), found(other)) == (0, 1)
    assert found(token) is None, "what the token stands for is not known, and no answer is better than a wrong one"


@pytest.mark.parametrize("body", ['{"pin":%s}', '{"pin":%s,"new":{"pin":1}}', '{"card":"%s"}'])
def test_a_token_that_is_sent_back_is_answered(tmp_path: Path, body: str) -> None:
    secret = card(7) if '"%s"' in body else "4711"
    asked = Asked(tmp_path, post("answer", body % secret), post("other", body % (card(8) if '"%s"' in body else "4712")))
    token = asked.request(post("", body % secret)).message.body.decode()
    assert secret not in token
    assert asked.ask(post("", token)) == "answer"
