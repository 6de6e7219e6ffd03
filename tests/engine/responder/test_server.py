"""What clients may cost a responder, and how connections end."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import select
import socket
import ssl
import termios
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from engine.responder import server
from engine.responder.answering import Plan
from engine.responder.server import Responder
from tests.e2e.machine import eventually
from tests.engine.making import Exchange
from tests.engine.responder.conftest import Serve


def open_tls(responder: Responder) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=str(responder.authority.certificate_file))
    found = socket.create_connection((responder.address, responder.port), timeout=20)
    return context.wrap_socket(found, server_hostname="api.example.com")


ASKED = b"GET /a HTTP/1.1\r\nHost: api.example.com\r\n\r\n"


def test_close_notify_is_answered(serve: Serve) -> None:
    """SSLSocket.unwrap waits for ours without an end of its own; the socket's timeout would end it here."""
    with open_tls(serve(Exchange("GET /a", b"answer"))) as client:
        client.sendall(ASKED)
        assert client.recv(1000).endswith(b"answer")
        under = client.unwrap()
        assert under.recv(1) == b""
        under.close()


def test_close_notify_is_answered_before_the_first_request(serve: Serve) -> None:
    with open_tls(serve(Exchange("GET /a"))) as client:
        client.unwrap().close()


def test_what_was_asked_before_close_notify_is_answered(serve: Serve) -> None:
    responder = serve(Exchange("GET /a", b"answer"), speed=0.2)
    context = ssl.create_default_context(cafile=str(responder.authority.certificate_file))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="api.example.com")
    with socket.create_connection((responder.address, responder.port), timeout=20) as raw:

        def exchange(step: Callable[[], Any]) -> Any:
            while True:
                try:
                    return step()
                except ssl.SSLWantReadError:
                    raw.sendall(outgoing.read())
                    incoming.write(raw.recv(65536))

        exchange(tls.do_handshake)
        tls.write(ASKED)
        with contextlib.suppress(ssl.SSLError):
            tls.unwrap()  # writes close_notify, then wants to read
        raw.sendall(outgoing.read())
        got = b""
        while data := raw.recv(65536):
            incoming.write(data)
        with contextlib.suppress(ssl.SSLError):
            while part := tls.read(1000):
                got += part
        assert got.endswith(b"answer")


async def _close_with_asyncio(responder: Responder) -> None:
    context = ssl.create_default_context(cafile=str(responder.authority.certificate_file))
    reader, writer = await asyncio.open_connection(
        responder.address, responder.port, ssl=context, server_hostname="api.example.com", ssl_shutdown_timeout=20.0
    )
    writer.write(ASKED)
    await reader.read(1000)
    writer.close()
    await writer.wait_closed()  # TimeoutError where nobody answers


def test_asyncio_closes_in_good_order(serve: Serve) -> None:
    asyncio.run(_close_with_asyncio(serve(Exchange("GET /a", b"answer"))))


def asked(responder: Responder, data: bytes) -> bytes:
    """All that is answered to these bytes."""
    with socket.create_connection((responder.address, responder.port), timeout=20) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        return client.makefile("rb").read()


def troubles(responder: Responder) -> str:
    return str(responder.run.report().troubles)


STREAMED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\ndata: 1\n\r\n"
UNREAD = Exchange("GET /a", raw_answer=STREAMED, unread=True)


def test_where_a_takeover_vouches_for_nobody_everybody_is_reset(serve: Serve) -> None:
    """As where the kernel does not tell who called: nobody is answered, and that shows."""
    responder = serve(Exchange("GET /a", b"answer"), taken_over_only=True)
    with pytest.raises(ConnectionResetError), socket.create_connection((responder.address, responder.port), timeout=20) as client:
        client.recv(1)
    assert "none of the command's" in troubles(responder)
    assert responder.run.report().requests == 0


def test_an_answer_goes_as_far_as_the_recorded_client_read_it(serve: Serve) -> None:
    responder = serve(UNREAD, speed=0)
    with open_tls(responder) as client:
        client.sendall(ASKED)
        assert client.recv(1000) == STREAMED
    assert responder.run.report().matches == 1
    assert troubles(responder) == "()"


def test_a_client_that_reads_on_is_told_so(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets no end that was not recorded, and shows in the report."""
    monkeypatch.setattr("engine.responder.connection.READ_ON_SECONDS", 0.05)
    responder = serve(replace(UNREAD, tls=False, port=80))
    with socket.create_connection((responder.address, responder.port), timeout=20) as client:
        client.sendall(ASKED)
        assert client.recv(1000) == STREAMED
        with pytest.raises(ConnectionResetError):
            client.recv(1000)
    assert "read on where the recorded one had stopped" in troubles(responder)


def test_an_answer_that_was_read_to_its_end_is_preferred(serve: Serve) -> None:
    whole = Exchange("GET /a", b"answer")
    responder = serve(UNREAD, whole, UNREAD)
    for _ in range(3):
        with open_tls(responder) as client:
            client.sendall(ASKED)
            assert client.recv(1000).endswith(b"answer")


@pytest.mark.parametrize(("length", "told"), [(b"100", b"100"), (b"5", b"5")])
def test_a_length_stays_longer_than_what_was_read(serve: Serve, length: bytes, told: bytes) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %b\r\n\r\npart" % length
    with open_tls(serve(Exchange("GET /a", raw_answer=answer, unread=True))) as client:
        client.sendall(ASKED)
        assert client.recv(1000) == b"HTTP/1.1 200 OK\r\nContent-Length: %b\r\n\r\npart" % told


def test_a_client_that_says_nothing_is_let_go(serve: Serve) -> None:
    responder = serve(Exchange("GET /a", b"answer"), idle_seconds=0.05)
    with socket.create_connection((responder.address, responder.port), timeout=20) as client:
        client.sendall(ASKED)
        assert client.recv(1000).endswith(b"answer")
        assert client.recv(1) == b""
    assert troubles(responder) == "()"


def test_a_client_that_stops_in_the_middle_is_let_go_and_counted(serve: Serve) -> None:
    responder = serve(Exchange("GET /a"), idle_seconds=0.05)
    with socket.create_connection((responder.address, responder.port), timeout=20) as client:
        client.sendall(ASKED[:-2])
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""
    assert "stopped in the middle" in troubles(responder)


def test_an_answer_that_takes_its_time_is_waited_for(serve: Serve) -> None:
    responder = serve(Exchange("GET /a", b"answer"), idle_seconds=0.02, speed=0.02)  # 4 ms become 200
    with socket.create_connection((responder.address, responder.port), timeout=20) as client:
        client.sendall(ASKED)
        assert client.recv(1000).endswith(b"answer")


def test_bodies_of_all_clients_have_one_limit(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is far below the limit of a body; the client that goes over the sum is refused, the others are not."""
    monkeypatch.setattr("engine.responder.server.HELD_LIMIT", 1_000_000)
    responder = serve(Exchange("POST /a", b"answer", body=b"x" * 400_000))
    head = b"POST /a HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 400000\r\n\r\n"
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection((responder.address, responder.port), timeout=20)) for _ in range(3)]
        for client in clients:
            client.sendall(head + b"x" * 399_999)
        [refused], *_ = select.select(clients, [], [], 20)
        assert b" 503 " in refused.recv(1000).split(b"\r\n")[0]
        assert "MiB of requests" in troubles(responder)
        for client in clients:
            if client is not refused:
                client.sendall(b"x")
                assert client.recv(1000).endswith(b"answer")
    assert responder._held == 0


def test_requests_that_wait_have_a_limit(serve: Serve) -> None:
    """They come at once, while the loop is held: it stops reading long before where they come one by one."""
    responder = serve(Exchange("GET /a", b"answer"), speed=0.00001)  # the first is answered in minutes
    go_on = threading.Event()
    with socket.create_connection((responder.address, responder.port), timeout=20) as client:
        responder._loop.call_soon_threadsafe(go_on.wait, 20)
        client.sendall(ASKED * 1400)
        client.shutdown(socket.SHUT_WR)
        assert eventually(lambda: not fcntl.ioctl(client, termios.TIOCOUTQ, b"\0" * 4).strip(b"\0"), 20)
        go_on.set()
        with contextlib.suppress(ConnectionResetError):
            assert b" 503 " in client.recv(1000).split(b"\r\n")[0]
    assert "requests at a time on one connection" in troubles(responder)


def test_a_fault_of_ours_costs_one_connection_and_is_told_of(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    responder = serve(Exchange("GET /a", b"answer"))
    answer = responder.answering.answer

    def failing(scope: Any, asked: Any) -> Any:
        if asked.target == "/fault":
            raise RecursionError("too deep")
        return answer(scope, asked)

    monkeypatch.setattr(responder.answering, "answer", failing)
    assert asked(responder, ASKED.replace(b"/a", b"/fault")) == b""
    assert asked(responder, ASKED).endswith(b"answer")
    assert "understudy failed: RecursionError" in troubles(responder)


def test_localhost_is_both_addresses(serve: Serve) -> None:
    responder = serve(Exchange("GET /a", b"answer"), listen="localhost")
    assert responder.addresses == ("127.0.0.1", "::1")
    for address in responder.addresses:
        with socket.create_connection((address, responder.port), timeout=20) as client:
            client.sendall(ASKED)
            assert client.recv(1000).endswith(b"answer")


def test_what_is_known_by_its_bytes_has_one_limit(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many names and destinations there are, also of connections that stay open."""
    monkeypatch.setattr(server, "KNOWN_LIMIT", 3)
    monkeypatch.setattr(server, "SCOPES_LIMIT", 1, raising=False)
    places = iter([("192.0.2.1", 443), ("192.0.2.2", 443)])
    exchanges = [Exchange(f"GET /{n}", b"%d" % n) for n in range(8)]
    responder = serve(*exchanges, original_destination=lambda _: next(places))
    with contextlib.ExitStack() as stack:
        place = (responder.address, responder.port)
        clients = [stack.enter_context(socket.create_connection(place, timeout=20)) for _ in range(2)]
        for n in (0, 1, 2, 3, 3, 0, 4, 5, 6, 7, 7, 1):
            client = clients[n % 2]
            client.sendall(ASKED.replace(b"/a", b"/%d" % n))
            assert client.recv(1000).endswith(b"\r\n\r\n%d" % n)
        plans = [each for each in gc.get_objects() if isinstance(each, Plan) and each._replies is responder.answering._replies]
        assert 0 < len(plans) <= 3


def test_equal_bytes_for_another_server_are_another_request(serve: Serve) -> None:
    places = iter([("192.0.2.1", 8001), ("192.0.2.1", 8002), ("192.0.2.1", 8001)])
    exchanges = [Exchange("GET /a", b"%d" % port, host="h.example", port=port, tls=False) for port in (8001, 8002)]
    responder = serve(*exchanges, original_destination=lambda _: next(places))
    said = [asked(responder, b"GET /a HTTP/1.1\r\nHost: h.example\r\n\r\n")[-4:] for _ in range(3)]
    assert said == [b"8001", b"8002", b"8001"]


def test_requests_out_of_recorded_order_get_their_own_answers(serve: Serve) -> None:
    """On one connection and on several, sequences among them."""
    recorded = [f"/{n}" for n in range(5)] + ["/job", "/job"]
    responder = serve(*[Exchange(f"GET {path}", f"{at} {path}".encode()) for at, path in enumerate(recorded)])
    order = ["/4", "/job", "/0", "/3", "/job", "/4", "/job", "/1"]
    expected = ["4 /4", "5 /job", "0 /0", "3 /3", "6 /job", "4 /4", "6 /job", "1 /1"]
    found = [asked(responder, ASKED.replace(b"/a", path.encode())).rpartition(b"\r\n\r\n")[2].decode() for path in order]
    assert found == expected
    together = asked(responder, b"".join(ASKED.replace(b"/a", path.encode()) for path in ("/4", "/2", "/0")))
    assert [line for line in together.decode().replace("HTTP/1.1", "\n").split("\n") if " /" in line] == ["4 /4", "2 /2", "0 /0"]


def test_a_responder_that_does_not_stop_is_told_of_and_reports(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    responder = serve(Exchange("GET /a", b"answer"))
    assert asked(responder, ASKED).endswith(b"answer")
    monkeypatch.setattr(server, "STOP_SECONDS", 0.01)
    go_on = threading.Event()
    responder._loop.call_soon_threadsafe(go_on.wait)
    try:
        report = responder.stop()
    finally:
        go_on.set()
        responder._thread.join(20)
    assert [count.requests for count in report.backends] == [1]
    [(trouble, times)] = report.troubles
    assert ("did not stop within" in trouble, times) == (True, 1)
