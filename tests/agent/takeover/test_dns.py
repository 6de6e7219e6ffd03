"""The resolver, asked by dnspython over real sockets."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence

import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rrset
import pytest

from agent.takeover import dns as ours
from agent.takeover.dns import Resolver, Server
from agent.takeover.events import Action, Address
from agent.takeover.names import Names

TIMEOUT = 20.0
REAL = ipaddress.ip_address("203.0.113.5")
Ask = Callable[..., dns.message.Message]


class Upstream:
    """The machine's own server: knows real.test, lets silent.test wait, fails for broken.test, and says of half.test by IPv6 what
    `half` says."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.half = dns.rcode.NXDOMAIN
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.server = Server(*self._socket.getsockname())
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while len(data_and_peer := self._socket.recvfrom(4096)) and data_and_peer[0]:
            query = dns.message.from_wire(data_and_peer[0])
            response = dns.message.make_response(query)
            name = query.question[0].name.to_text().lower()
            self.asked.append(name)
            if name in ("real.test.", "half.test.", "passed.test.", "both.test.") and query.question[0].rdtype == 1:
                response.answer.append(dns.rrset.from_text(name, 60, "IN", "A", str(REAL)))
            elif name == "half.test.":
                response.set_rcode(self.half)
            elif name == "broken.test.":
                response.set_rcode(dns.rcode.SERVFAIL)
            elif name not in ("real.test.", "passed.test.", "both.test."):
                response.set_rcode(dns.rcode.NXDOMAIN)
            if name != "silent.test.":
                self._socket.sendto(response.to_wire(), data_and_peer[1])

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"", (self.server.host, self.server.port))
        self._thread.join()
        self._socket.close()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with contextlib.closing(Upstream()) as made:
        yield made


@contextlib.contextmanager
def resolving(servers: Sequence[Server], *, pass_unrecorded: bool = False) -> Iterator[tuple[Ask, list[tuple[str, list[Address]]]]]:
    """A way to ask a resolver, and the names whose addresses stand for real ones, with these."""
    learned: list[tuple[str, list[Address]]] = []
    ports = {
        "recorded.test": {443: Action.RESPOND},
        "passed.test": {1: Action.PASS},
        "nowhere.test": {1: Action.PASS},
        "both.test": {1: Action.PASS, 443: Action.RESPOND},
    }
    names = Names(ports, ("corp.test",), pass_unrecorded)
    resolver = Resolver(names, servers, lambda name, _, real: learned.append((name, list(real))))
    resolver.start(os.getpid())

    def ask(name: str, kind: str = "A", *, tcp: bool = False, family: int = 4) -> dns.message.Message:
        host = {4: "127.0.0.1", 6: "::1"}[family]
        ports = resolver.ports
        port = {(4, False): ports.udp4[0], (4, True): ports.tcp4, (6, False): ports.udp6[0], (6, True): ports.tcp6}[family, tcp]
        query = dns.message.make_query(name, kind)
        return (dns.query.tcp if tcp else dns.query.udp)(query, host, timeout=TIMEOUT, port=port)

    try:
        yield ask, learned
    finally:
        resolver.stop()


def addresses(message: dns.message.Message) -> list[str]:
    return [item.address for record in message.answer for item in record if record.rdtype in (1, 28)]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("tcp", [False, True])
def test_recorded_names(upstream: Upstream, tcp: bool, family: int) -> None:
    with resolving([upstream.server]) as (ask, _):
        for name in ("recorded.test", "Recorded.TEST.", "recorded.test.corp.test"):
            assert addresses(ask(name, "A", tcp=tcp, family=family)) == ["198.18.0.1"]
            assert addresses(ask(name, "AAAA", tcp=tcp, family=family)) == ["2001:2::1"]
            empty = ask(name, "HTTPS", tcp=tcp, family=family)
            assert (empty.rcode(), empty.answer) == (dns.rcode.NOERROR, [])
    assert upstream.asked == []


def test_other_names_are_asked_for(upstream: Upstream) -> None:
    with resolving([upstream.server]) as (ask, learned):
        assert addresses(ask("real.test")) == [str(REAL)]
        empty = ask("real.test", "AAAA")
        assert (empty.rcode(), empty.answer) == (dns.rcode.NOERROR, [])
    assert learned == []


@pytest.mark.parametrize("code", [dns.rcode.NXDOMAIN, dns.rcode.REFUSED, dns.rcode.SERVFAIL])
@pytest.mark.parametrize("order", [("A", "AAAA"), ("AAAA", "A")])
def test_a_name_is_there_where_it_has_addresses_of_one_family(upstream: Upstream, order: tuple[str, str], code: int) -> None:
    """Servers that know nothing of IPv6 say NXDOMAIN or REFUSED to AAAA: the name has its IPv4 address all the same."""
    upstream.half = dns.rcode.Rcode(code)
    with resolving([upstream.server]) as (ask, _):
        for kind in (*order, *order):
            found = ask("half.test", kind)
            assert (found.rcode(), addresses(found)) == (dns.rcode.NOERROR, [str(REAL)] if kind == "A" else [])


def test_equal_questions_are_asked_once_for_a_moment(upstream: Upstream) -> None:
    with resolving([upstream.server]) as (ask, _):
        for name in ("real.test", "Real.TEST", "real.test"):
            found = ask(name)
            assert found.question[0].name.to_text(omit_final_dot=True) == name
            assert addresses(found) == [str(REAL)]
    assert upstream.asked == ["real.test."]


def test_what_is_kept_is_bounded(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "REPLIES_MAX", 1)
    with resolving([upstream.server]) as (ask, _):
        for name in ("real.test", "half.test", "real.test"):
            assert addresses(ask(name)) == [str(REAL)]
    assert upstream.asked == ["real.test.", "half.test.", "real.test."]


def test_long_answers_are_not_kept(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many of 64 KiB as there may be of usual ones would be 256 MiB."""
    monkeypatch.setattr(ours, "REPLY_BYTES_MAX", 30)
    with resolving([upstream.server]) as (ask, _):
        for _ in range(2):
            assert addresses(ask("real.test")) == [str(REAL)]
    assert upstream.asked == ["real.test."] * 2


def test_what_is_kept_does_not_stay(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is there a moment later is found."""
    monkeypatch.setattr(ours, "DECISION_SECONDS", 0)
    with resolving([upstream.server]) as (ask, _):
        for _ in range(2):
            assert addresses(ask("real.test")) == [str(REAL)]
    assert upstream.asked == ["real.test."] * 2


@pytest.mark.parametrize("name", ["unknown.test", "broken.test", "silent.test"])
def test_names_without_an_answer_get_one(upstream: Upstream, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "FORWARD_SECONDS", 0.1)
    with resolving([upstream.server]) as (ask, _):
        assert addresses(ask(name)) == ["198.18.0.1"]
        asked = len(upstream.asked)
        assert addresses(ask(name, "AAAA")) == ["2001:2::1"]  # it stays as it is
        assert len(upstream.asked) == asked


def test_what_the_search_list_made_is_not_there(upstream: Upstream) -> None:
    with resolving([upstream.server]) as (ask, _):
        assert ask("some.name.corp.test").rcode() == dns.rcode.NXDOMAIN
        assert addresses(ask("name.corp.test")) == ["198.18.0.1"]


def test_names_passed_through_have_addresses_that_stand_for_the_real_ones(upstream: Upstream) -> None:
    with resolving([upstream.server]) as (ask, learned):
        assert addresses(ask("passed.test")) == ["198.18.0.1"]
        empty = ask("passed.test", "AAAA")
        assert (empty.rcode(), empty.answer) == (dns.rcode.NOERROR, [])
        assert learned == [("passed.test", [REAL])]
        assert ask("nowhere.test").rcode() == dns.rcode.NXDOMAIN


def test_a_name_with_recorded_ports_too_has_both_families(upstream: Upstream) -> None:
    with resolving([upstream.server]) as (ask, learned):
        assert addresses(ask("both.test")) == ["198.18.0.1"]
        assert addresses(ask("both.test", "AAAA")) == ["2001:2::1"]
    assert learned == [("both.test", [REAL]), ("both.test", [])]


def test_names_are_what_they_are_where_everything_passes(upstream: Upstream) -> None:
    with resolving([upstream.server], pass_unrecorded=True) as (ask, _):
        assert ask("unknown.test").rcode() == dns.rcode.NXDOMAIN


def test_the_next_server_is_asked(upstream: Upstream) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nobody:
        nobody.bind(("127.0.0.1", 0))
        dead = Server(*nobody.getsockname())
    with resolving([dead, Server("203.0.113.1%nowhere"), upstream.server]) as (ask, _):
        assert addresses(ask("real.test")) == [str(REAL)]


def test_no_server_at_all() -> None:
    with resolving([]) as (ask, _):
        assert addresses(ask("unknown.test")) == ["198.18.0.1"]
        assert ask("passed.test").rcode() == dns.rcode.SERVFAIL
        assert addresses(ask("localhost")) == ["127.0.0.1"]
        assert addresses(ask("a.localhost", "AAAA")) == ["::1"]


def test_answers_of_somebody_else_do_not_count(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    forged = dns.message.make_response(dns.message.make_query("other.test", "A")).to_wire()

    async def other(_server: Server, _data: bytes) -> bytes:
        return forged

    monkeypatch.setattr(ours, "_ask_by_udp", other)
    with resolving([upstream.server]) as (ask, _):
        assert addresses(ask("real.test")) == ["198.18.0.1"]


def test_more_at_once_than_there_is_room_for(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "FORWARDS_MAX", 0)
    with resolving([upstream.server]) as (ask, _):
        assert addresses(ask("real.test", tcp=True)) == ["198.18.0.1"]
    assert upstream.asked == []


def test_nonsense_gets_an_error_or_nothing() -> None:
    resolver = Resolver(Names({}), [], lambda *_: None)
    resolver.start(os.getpid())
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as loose:
            loose.settimeout(TIMEOUT)
            loose.connect(("127.0.0.1", resolver.ports.udp4[0]))
            loose.send(b"x")
            loose.send(b"\0\7\x01\0\0\1\0\0\0\0\0\0\xc0\x0c")
            assert dns.message.from_wire(loose.recv(512)).rcode() == dns.rcode.FORMERR
        with socket.create_connection(("127.0.0.1", resolver.ports.tcp4), TIMEOUT) as stream:
            stream.sendall(b"\0\1x")
            assert stream.recv(1) == b""
    finally:
        resolver.stop()
