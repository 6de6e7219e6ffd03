from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.pairing import Conversation, exchange, order
from engine.reassembly import LOST
from engine.rrpair import Connection, Direction, Flow, Role, RRPair, Way

CLIENT = Connection("a:1", tls=True, role=Role.CLIENT, remote_address="192.0.2.1", remote_port=8443, tls_version="TLS 1.3")
SERVER = Connection("a:2", role=Role.SERVER, local_address="192.0.2.9", local_port=8080, remote_port=50000)
READ, WRITE = Way.READ, Way.WRITE


def request(n: int, body: bytes = b"", method: bytes = b"POST", extra: bytes = b"") -> bytes:
    return b"%b /%d HTTP/1.1\r\nHost: Shop.Example:8443\r\n%bContent-Length: %d\r\n\r\n%b" % (
        method,
        n,
        extra,
        len(body),
        body,
    )


def response(n: int, body: bytes = b"ok", status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\nX-N: %d\r\nContent-Length: %d\r\n\r\n%b" % (status, n, len(body), body)


class Talk:
    """Drives a conversation; offsets count themselves."""

    def __init__(self, connection: Connection = CLIENT, *, start_known: bool = True) -> None:
        self.conversation = Conversation(connection, "shop", start_known)
        self.offsets = {READ: 0, WRITE: 0}
        self.time = 0
        self.found: list[RRPair | Flow] = []

    def say(self, way: Way, data: bytes, time: int | None = None) -> Talk:
        self.time = self.time + 1 if time is None else time
        self.found += self.conversation.data(way, self.offsets[way], data, self.time)
        self.offsets[way] += len(data)
        return self

    def lose(self, way: Way, length: int) -> Talk:
        self.found += self.conversation.gap(way, self.offsets[way], length, LOST)
        self.offsets[way] += length
        return self

    def close(self) -> Talk:
        self.found += self.conversation.close(self.time + 1)
        return self

    @property
    def pairs(self) -> list[RRPair]:
        return [item for item in self.found if isinstance(item, RRPair)]

    @property
    def flows(self) -> list[Flow]:
        return [item for item in self.found if isinstance(item, Flow)]

    @property
    def short(self) -> list[tuple[str, str, tuple[str, ...]]]:
        """Request number, number of the response, what is missing."""
        return [
            (p.path[1:], (p.response.header(b"x-n") or b"").decode("latin-1") if p.response else "", p.missing) for p in self.pairs
        ]


def test_a_pair() -> None:
    talk = Talk().say(WRITE, request(1, b"hello"), 100).say(READ, response(1), 350)
    [pair] = talk.pairs
    assert (pair.method, pair.path, pair.status, pair.operation) == ("POST", "/1", 200, "POST /1")
    assert (pair.host, pair.port, pair.direction, pair.service) == ("shop.example", 8443, Direction.OUT, "shop")
    assert (pair.time, pair.request_ended, pair.response_started, pair.duration) == (100, 0, 250, 250)
    assert pair.request.body == b"hello"
    assert pair.complete
    assert "TLS 1.3" in pair.technology
    assert len(pair.id) == 16
    assert talk.conversation.progress == (talk.offsets[READ], talk.offsets[WRITE])
    assert talk.close().flows == []


def test_a_server_pair_and_roles_told_by_the_bytes() -> None:
    for connection in (SERVER, replace(SERVER, role=Role.UNKNOWN)):
        [pair] = Talk(connection).say(READ, request(1)).say(WRITE, response(1)).pairs
        assert pair.direction is Direction.IN
        assert pair.port == 8080
    [pair] = Talk(replace(CLIENT, role=Role.UNKNOWN)).say(WRITE, request(1)).say(READ, response(1)).pairs
    assert pair.direction is Direction.OUT


def test_keep_alive_and_pipelining() -> None:
    talk = Talk().say(WRITE, request(1) + request(2)).say(WRITE, request(3))
    talk.say(READ, response(1) + response(2)[:20]).say(READ, response(2)[20:] + response(3))
    assert talk.short == [("1", "1", ()), ("2", "2", ()), ("3", "3", ())]
    assert len({pair.id for pair in talk.pairs}) == 3


def test_a_response_delivered_before_its_request_waits() -> None:
    talk = Talk().say(READ, response(1), 20)
    assert talk.pairs == []
    assert talk.conversation.progress == (0, 0)
    talk.say(WRITE, request(1), 10).say(WRITE, request(2), 30).say(READ, response(2), 40)
    assert talk.short == [("1", "1", ()), ("2", "2", ())]


def test_a_head_answer_delivered_before_its_request() -> None:
    head = b"HTTP/1.1 200 OK\r\nX-N: 1\r\nContent-Length: 99\r\n\r\n"
    talk = Talk().say(READ, head, 20).say(READ, response(2), 40)
    talk.say(WRITE, request(1, method=b"HEAD"), 10).say(WRITE, request(2), 30)
    assert talk.short == [("1", "1", ()), ("2", "2", ())]


@pytest.mark.parametrize("line", [b"HEAD\t/1 HTTP/1.1", b"HEAD /1\tHTTP/1.1", b"HEAD\t /1 HTTP/1.1"])
def test_the_method_of_a_request_line_with_other_blanks_frames_its_answer(line: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\nX-N: 1\r\nContent-Length: 90\r\n\r\n"
    talk = Talk().say(WRITE, request(0)).say(READ, response(0))
    talk.say(WRITE, line + b"\r\nHost: h\r\n\r\n" + request(2)).say(READ, head + response(2)).close()
    assert talk.short == [("0", "0", ()), ("1", "1", ()), ("2", "2", ())]


def test_a_tunnel_is_opened_by_a_request_line_with_other_blanks() -> None:
    talk = Talk().say(WRITE, request(0)).say(READ, response(0))
    talk.say(WRITE, b"CONNECT\tapi.example:443 HTTP/1.1\r\nHost: h\r\n\r\n")
    talk.say(READ, b"HTTP/1.1 200 OK\r\nX-N: 1\r\n\r\n").say(WRITE, b"\x16\x03\x01")
    assert talk.conversation.tunnel == "api.example:443"


def test_a_request_with_two_hosts_is_no_pair() -> None:
    """RFC 9112 section 3.2."""
    talk = Talk().say(WRITE, b"GET /1 HTTP/1.1\r\nHost: a.example\r\nhost: b.example\r\n\r\n").say(READ, response(1)).close()
    assert talk.pairs == []
    assert [(flow.protocol, flow.reason) for flow in talk.found if isinstance(flow, Flow)] == [
        ("http/1.1", "request: more than one Host at byte 0")
    ]


def test_a_response_nobody_asked_for() -> None:
    timeout = response(0, status=b"408 Request Timeout")
    talk = Talk().say(WRITE, request(1), 10).say(READ, response(1), 20).say(READ, timeout, 30).say(WRITE, request(2), 40).close()
    assert talk.short == [("1", "1", ()), ("", "0", ("request",)), ("2", "", ("response",))]


def test_a_request_without_an_answer() -> None:
    talk = Talk().say(WRITE, request(1)).close()
    assert talk.short == [("1", "", ("response",))]
    assert talk.pairs[0].status == 0


def test_interim_responses_are_kept() -> None:
    talk = Talk().say(WRITE, request(1, b"x", extra=b"Expect: 100-continue\r\n"))
    talk.say(READ, b"HTTP/1.1 100 Continue\r\n\r\n")
    assert talk.conversation.progress == (0, 0)
    talk.say(READ, response(1))
    [pair] = talk.pairs
    assert [message.start_line for message in pair.interim] == [b"HTTP/1.1 100 Continue"]


def test_a_body_until_the_end_and_a_half_close() -> None:
    talk = Talk().say(WRITE, request(1)).say(READ, b"HTTP/1.0 200 OK\r\n\r\nall")
    assert talk.pairs == []
    talk.found += talk.conversation.half_close(READ, 9)
    assert [(p.response.body if p.response else b"", p.complete) for p in talk.pairs] == [(b"all", True)]


def test_upgrade_makes_the_rest_a_flow() -> None:
    asked = b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    talk = Talk().say(WRITE, asked + b"\x81\x01", 10).say(WRITE, b"\x82", 15)
    talk.say(READ, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x81\x02\x03", 12).say(READ, b"\x01", 16).close()
    assert [(pair.status, pair.complete) for pair in talk.pairs] == [(101, True)]
    assert [(f.protocol, f.read, f.written) for f in talk.flows] == [("websocket", 4, 3)]


def test_an_upgrade_that_is_not_taken() -> None:
    asked = request(1, extra=b"Upgrade: h2c\r\nConnection: Upgrade\r\n")
    talk = Talk().say(WRITE, asked + request(2)).say(READ, response(1) + response(2)).close()
    assert talk.short == [("1", "1", ()), ("2", "2", ())]


def test_connect_makes_the_rest_a_tunnel() -> None:
    talk = Talk().say(WRITE, b"CONNECT api.example:443 HTTP/1.1\r\n\r\n").say(READ, b"HTTP/1.1 200 OK\r\n\r\n")
    talk.say(WRITE, b"\x16\x03\x01").close()
    assert [(p.host, p.operation, p.complete) for p in talk.pairs] == [("api.example", "CONNECT api.example:443", True)]
    assert [(f.protocol, f.written) for f in talk.flows] == [("tunnel", 3)]


@pytest.mark.parametrize(
    ("data", "protocol", "reason"),
    [
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "h2", "h2 is not parsed yet"),
        (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", "postgres", "postgres is not parsed yet"),
        (b"SSH-2.0-x\r\n", "unknown", "protocol not recognised"),
    ],
)
def test_other_protocols_become_flows(data: bytes, protocol: str, reason: str) -> None:
    talk = Talk().say(WRITE, data, 7).say(READ, b"??").close()
    assert [(f.protocol, f.reason, f.read, f.written) for f in talk.flows] == [(protocol, reason, 2, len(data))]
    assert talk.conversation.progress == (2, len(data))


def test_an_end_before_the_protocol_is_known() -> None:
    talk = Talk().say(WRITE, b"G").close()
    assert [(f.reason, f.written) for f in talk.flows] == [("ended before its protocol was recognised", 1)]


def test_nothing_said_is_no_flow() -> None:
    assert Talk().close().found == []


def test_malformed_bytes_make_the_rest_a_flow() -> None:
    talk = Talk().say(WRITE, request(1)).say(READ, response(1)).say(WRITE, request(2)).say(READ, b"garbage\r\n\r\n").close()
    assert talk.short == [("1", "1", ()), ("2", "", ("response",))]
    [flow] = talk.flows
    assert "malformed status line" in flow.reason
    assert flow.read == 11


# -- starts that were not seen -----------------------------------------------------------------------------------------


def test_joining_in_the_middle_of_a_response() -> None:
    talk = Talk(start_known=False).say(READ, b"rest of a body", 1).say(WRITE, request(1), 2).say(READ, response(1), 3)
    talk.say(WRITE, request(2), 4).say(READ, response(2), 5)
    assert talk.short == [("1", "1", ("start", "pairing")), ("2", "2", ())]


def test_joining_between_a_request_and_its_response() -> None:
    talk = Talk(start_known=False).say(READ, response(0), 1).say(WRITE, request(1), 2).say(READ, response(1), 3).close()
    assert talk.short == [("", "0", ("start", "request")), ("1", "1", ())]


def test_joining_a_stream_that_is_never_recognised() -> None:
    talk = Talk(start_known=False).say(READ, b"abc").say(WRITE, b"defg").close()
    assert [(f.reason, f.read, f.written) for f in talk.flows] == [("start not seen", 3, 4)]


# -- gaps --------------------------------------------------------------------------------------------------------------


def test_a_gap_in_a_response_body_touches_one_pair() -> None:
    talk = Talk()
    for n in (1, 2, 3):
        talk.say(WRITE, request(n))
        if n == 2:
            talk.say(READ, response(n, b"x" * 100)[:-50]).lose(READ, 40).say(READ, b"x" * 10)
        else:
            talk.say(READ, response(n))
    assert talk.short == [("1", "1", ()), ("2", "2", ("response body",)), ("3", "3", ())]


def test_a_whole_response_lost() -> None:
    talk = Talk().say(WRITE, request(1)).lose(READ, 50).say(WRITE, request(2)).say(READ, response(2))
    talk.say(WRITE, request(3)).say(READ, response(3)).close()
    assert talk.short == [("1", "", ("response",)), ("2", "2", ("pairing",)), ("3", "3", ())]


def test_a_whole_request_lost() -> None:
    talk = Talk().say(WRITE, request(1)).say(READ, response(1)).lose(WRITE, 50).say(READ, response(2))
    talk.say(WRITE, request(3)).say(READ, response(3)).say(WRITE, request(4)).say(READ, response(4)).close()
    # That what was lost ended with a request, and the third is not a part of its body, is known when the fourth is asked.
    assert talk.short == [("1", "1", ()), ("", "2", ("request",)), ("3", "3", ("pairing",)), ("4", "4", ())]


def test_a_client_that_pipelines_is_never_sure_again_after_a_gap() -> None:
    talk = Talk().say(WRITE, request(1) + request(2)).say(READ, response(1) + response(2))
    talk.say(WRITE, request(3) + request(4)).lose(READ, 40).say(READ, response(4)).say(WRITE, request(5)).say(READ, response(5))
    assert all("pairing" in missing or "response" in missing for _, _, missing in talk.short[2:])


def test_a_gap_before_anything_is_an_unknown_start() -> None:
    talk = Talk().lose(WRITE, 10).say(WRITE, request(1)).say(READ, response(1)).close()
    assert talk.short == [("1", "1", ("start", "pairing"))]


# -- bounds ------------------------------------------------------------------------------------------------------------


def test_requests_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "PENDING_LIMIT", 3)
    talk = Talk().say(WRITE, b"".join(request(n) for n in range(5)))
    assert [short[0] for short in talk.short] == ["0", "1"]


def test_a_response_waits_for_so_many_bytes_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "HELD_LIMIT", 200)
    talk = Talk()
    for n in range(6):
        talk.say(READ, response(n))
    assert talk.short
    assert all(missing == ("request",) for _, _, missing in talk.short)


def test_a_response_waits_for_so_many_segments_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """However little is in them: each takes memory."""
    monkeypatch.setattr(exchange, "HELD_LIMIT", 10_000)
    talk = Talk()
    for byte in b"".join(map(response, range(6))):
        talk.say(READ, bytes((byte,)))
    assert talk.short
    assert all(missing == ("request",) for _, _, missing in talk.short)


# -- sent again, resumed, late -----------------------------------------------------------------------------------------


def test_what_is_sent_again_makes_no_second_pair() -> None:
    talk = Talk()
    for _ in range(2):
        talk.found += talk.conversation.data(WRITE, 0, request(1), 1)
        talk.found += talk.conversation.data(READ, 0, response(1), 2)
    assert talk.short == [("1", "1", ())]


def test_a_new_conversation_goes_on_where_an_old_one_was_committed() -> None:
    whole = Talk()
    for n in range(4):
        whole.say(WRITE, request(n)).say(READ, response(n))
    old = Talk().say(WRITE, request(0)).say(READ, response(0)).say(WRITE, request(1)).say(READ, response(1)[:9])
    read, write = old.conversation.progress
    resumed = Conversation(CLIENT, "shop", True, read, write)
    asked = b"".join(request(n) for n in range(4))
    answered = b"".join(response(n) for n in range(4))
    found = resumed.data(WRITE, 0, asked, 9) + resumed.data(READ, 0, answered, 10)
    ids = [pair.id for pair in [*old.found, *found] if isinstance(pair, RRPair)]
    assert ids == [pair.id for pair in whole.pairs]


def test_what_becomes_known_late_is_in_later_pairs() -> None:
    unbound = Connection("a:1", tls=True)
    talk = Talk(unbound).say(WRITE, b"GET / HTTP/1.0\r\n\r\n").say(READ, response(1))
    talk.conversation.update(replace(unbound, role=Role.CLIENT, remote_port=444, server_name="late.example"))
    talk.say(WRITE, b"GET / HTTP/1.0\r\n\r\n").say(READ, response(1))
    assert [(p.host, p.port) for p in talk.pairs] == [("", 443), ("late.example", 444)]


# -- whatever happens --------------------------------------------------------------------------------------------------

_steps = st.lists(
    st.tuples(st.sampled_from([READ, WRITE]), st.integers(1, 80), st.sampled_from(["data"] * 6 + ["gap", "garbage"])),
    max_size=60,
)


@given(_steps, st.booleans(), st.sampled_from(list(Role)))
def test_garbled_bytes_raise_nothing(steps: list[tuple[Way, int, str]], start_known: bool, role: Role) -> None:
    """That complete pairs are true is tested in tests/engine/pairing/test_order.py: bytes that are wrong cannot be told there."""
    streams = {
        WRITE: b"".join(request(n, b"q" * (n % 7)) for n in range(30)),
        READ: b"".join(response(n, b"a" * (n % 11)) for n in range(30)),
    }
    talk = Talk(replace(CLIENT, role=role), start_known=start_known)
    for way, length, kind in steps:
        piece = streams[way][talk.offsets[way] :][:length]
        if kind == "gap":
            talk.lose(way, len(piece))
        elif piece:
            talk.say(way, piece if kind == "data" else b"\xff" * len(piece))
        read, written = talk.conversation.progress
        assert read <= talk.offsets[READ]
        assert written <= talk.offsets[WRITE]
    talk.close()
    assert len({pair.id for pair in talk.pairs}) == len(talk.pairs)


UNTIL_END = b"HTTP/1.1 200 OK\r\n\r\npart"


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n"
COUNTED = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart"
CUT = (UNTIL_END, CHUNKED, CHUNKED + b"0\r\n", COUNTED)


@pytest.mark.parametrize("answer", CUT)
def test_an_answer_that_the_workload_turned_away_from_is_all_that_it_read(answer: bytes) -> None:
    talk = Talk().say(WRITE, request(1)).say(READ, answer).close()
    assert [(pair.unread, pair.complete, pair.response and pair.response.body) for pair in talk.pairs] == [(True, False, b"part")]


@pytest.mark.parametrize("answer", CUT)
def test_a_loss_before_the_workload_turned_away_shows(answer: bytes) -> None:
    talk = Talk().say(WRITE, request(1)).say(READ, answer[:-2]).lose(READ, 1).say(READ, answer[-1:]).close()
    assert [pair.unread for pair in talk.pairs if pair.method] == [False]


@pytest.mark.parametrize("answer", CUT[1:])
def test_an_answer_that_its_server_broke_off_is_incomplete(answer: bytes) -> None:
    talk = Talk().say(WRITE, request(1)).say(READ, answer)
    talk.found += talk.conversation.half_close(READ, 5)
    assert [pair.missing for pair in talk.close().pairs] == [("response body",)]


def test_a_request_that_a_server_turned_away_from_is_incomplete() -> None:
    talk = Talk(SERVER).say(READ, request(1, b"body")[:-2]).close()
    assert [pair.missing for pair in talk.pairs] == [("request body", "response")]


def test_a_server_ends_its_own_body_by_closing() -> None:
    talk = Talk(SERVER).say(READ, request(1)).say(WRITE, UNTIL_END).close()
    assert [(pair.complete, pair.response and pair.response.body) for pair in talk.pairs] == [(True, b"part")]


def test_nothing_is_whole_that_the_watching_ended_in() -> None:
    talk = Talk(SERVER).say(READ, request(1)).say(WRITE, UNTIL_END)
    talk.found += talk.conversation.close(9, ended=False)
    assert [pair.missing for pair in talk.pairs] == [("response body",)]


def test_what_was_whole_stays_whole_when_the_watching_ends() -> None:
    talk = Talk().say(WRITE, request(1)).say(READ, response(1))
    talk.found += talk.conversation.close(9, ended=False)
    assert [pair.complete for pair in talk.pairs] == [True]


# -- bounds of what waits ----------------------------------------------------------------------------------------------


def test_what_follows_a_101_that_nobody_asked_for_is_a_flow() -> None:
    talk = Talk().say(WRITE, request(1)).say(READ, b"HTTP/1.1 101 Switching\r\n\r\n")
    for _ in range(100):
        talk.say(READ, b"z" * 1000)
        assert talk.conversation.progress == (talk.offsets[READ], talk.offsets[WRITE])
    [flow] = talk.close().flows
    assert (flow.reason, flow.read) == ("upgraded to unknown", 100_000)


def test_interim_responses_without_end_are_a_flow() -> None:
    talk = Talk().say(WRITE, request(1))
    for _ in range(exchange.INTERIM_LIMIT + 10):
        talk.say(READ, b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
    [flow] = talk.close().flows
    assert f"more than {exchange.INTERIM_LIMIT} interim responses" in flow.reason
    assert talk.short == [("1", "", ("response",))]


def test_empty_lines_before_the_first_message_are_not_kept() -> None:
    talk = Talk()
    for _ in range(1000):
        talk.say(WRITE, b"\r\n")
        assert talk.conversation.progress == (0, talk.offsets[WRITE])
    talk.say(WRITE, request(1)).say(READ, response(1))
    assert talk.short == [("1", "1", ())]


@pytest.mark.parametrize(("offset", "time"), [(0, 2**63), (0, 2**64 - 1), (2**63 - 5, 1), (2**64 - 10, 1)])
def test_offsets_and_times_that_cannot_be_stored_end_the_pairs_of_a_stream(offset: int, time: int) -> None:
    talk = Talk().say(WRITE, request(1)).say(READ, response(1))
    found = talk.conversation.data(WRITE, max(offset, talk.offsets[WRITE]), request(2), time)
    found += talk.conversation.gap(READ, 2**63 - 2, 2**63, LOST) + talk.conversation.half_close(READ, 2**64 - 1)
    [flow] = found + talk.conversation.close(2**64 - 1)
    assert isinstance(flow, Flow)
    assert flow.reason == "offsets or times out of range"
    assert max(flow.time, flow.read, flow.written, *talk.conversation.progress) < 2**63


# -- names and proxies -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "host", "port"),
    [
        ("http://api.example/a?b=c", "api.example", 80),
        ("http://API.example.:8080/a?b=c", "api.example", 8080),
        ("https://api.example/a?b=c", "api.example", 443),
    ],
)
def test_a_request_to_a_proxy_is_one_to_the_server_that_it_names(target: str, host: str, port: int) -> None:
    to_proxy = replace(CLIENT, tls=False, remote_address="192.0.2.5", remote_port=3128)
    asked = b"GET %b HTTP/1.1\r\nHost: ignored.example\r\n\r\n" % target.encode()
    other = b"GET http://other.example/ HTTP/1.1\r\nHost: other.example\r\n\r\n"
    first, second = Talk(to_proxy).say(WRITE, asked).say(READ, response(1)).say(WRITE, other).say(READ, response(2)).pairs
    assert (first.host, first.port, first.path, first.query) == (host, port, "/a", (("b", "c"),))
    assert (first.connection.proxy, first.connection.remote_address) == ("192.0.2.5:3128", "")
    assert (second.host, second.port) == ("other.example", 80)
    assert first.connection.id != second.connection.id


def test_a_proxy_that_is_recorded_itself_is_asked_on_its_own_port() -> None:
    asked = b"GET http://api.example/ HTTP/1.1\r\nHost: api.example\r\n\r\n"
    [pair] = Talk(SERVER).say(READ, asked).say(WRITE, response(1)).pairs
    assert (pair.port, pair.connection) == (8080, SERVER)


def test_names_are_one_however_they_are_spelt() -> None:
    """RFC 4343: case says nothing; nor does the dot at the end of a name that is whole."""
    hosts = set()
    for server_name, host in (("", b"API.Example"), ("", b"api.example."), ("Api.Example", b""), ("api.example.", b"")):
        asked = b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % host
        [pair] = Talk(replace(CLIENT, server_name=server_name)).say(WRITE, asked).say(READ, response(1)).pairs
        hosts.add(pair.host)
    assert hosts == {"api.example"}
