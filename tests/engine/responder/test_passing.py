"""What was not recorded is asked of a real server: what it hears and says, to the byte, and how it fails."""

from __future__ import annotations

import gzip
import json
import random
import socket
import ssl
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from engine.responder.backends import Scope
from engine.responder.passing import _End, _target
from engine.responder.server import Responder
from engine.rrpair import Flow, RRPair
from tests.engine.making import Exchange
from tests.engine.responder.conftest import Serve

TIMEOUT = 10.0
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nreal"


class Real:
    """A server that gives each connection the next of its answers, and keeps what it heard until it answered."""

    def __init__(self, *answers: bytes, context: ssl.SSLContext | None = None, hold: threading.Event | None = None) -> None:
        self.heard: list[bytes] = []
        self._answers, self._context, self._hold = answers, context, hold
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.place: tuple[str, int] = self._listening.getsockname()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        for answer in self._answers:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            with client:
                try:
                    with self._context.wrap_socket(client, server_side=True) if self._context else client as talking:
                        self._talk(talking, answer)
                except OSError:
                    self.heard.append(b"")

    def _talk(self, client: socket.socket, answer: bytes) -> None:
        client.settimeout(TIMEOUT)
        heard = b""
        while not _whole(heard):
            piece = client.recv(65536)
            if not piece:
                break
            heard += piece
        self.heard.append(heard)
        if self._hold:
            self._hold.wait(TIMEOUT)
        client.sendall(answer)

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(TIMEOUT)


def _whole(request: bytes) -> bool:
    head, end, body = request.partition(b"\r\n\r\n")
    if b"chunked" in head:
        return body.endswith(b"\r\n\r\n") or body == b"0\r\n\r\n"
    length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    return bool(end) and len(body) >= int(length or 0)


@contextmanager
def real(*answers: bytes, **options: object) -> Iterator[Real]:
    server = Real(*answers, **options)  # type: ignore[arg-type]
    try:
        yield server
    finally:
        server.close()


def passing(serve: Serve, place: tuple[str, int], **options: object) -> Responder:
    recorded = Exchange("GET /recorded", b"from the recording", tls=False, port=place[1])
    return serve(recorded, pass_on=True, original_destination=lambda _: place, **options)


def say(responder: Responder, *requests: bytes) -> bytes:
    """All that comes back until the end."""
    with socket.create_connection(("127.0.0.1", responder.port), timeout=TIMEOUT) as client:
        for request in requests:
            client.sendall(request)
        with suppress(OSError):  # it may have been reset by now: reading says so
            client.shutdown(socket.SHUT_WR)
        return client.makefile("rb").read()


def get(path: str, *fields: str) -> bytes:
    return "\r\n".join((f"GET {path} HTTP/1.1", "Host: api.example.com", *fields, "", "")).encode()


# -- what the real server hears ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "heard"),
    [
        (get("/x?b=2&a", "X-One: 1", "x-one: 2"), None),
        (
            get("/x", "Connection: keep-alive, X-Hop", "Keep-Alive: timeout=5", "TE: trailers", "X-Hop: 1", "A: b"),
            get("/x", "A: b"),
        ),
        (get("/x", "A: b", "Connection: close, Host"), get("/x", "A: b")),
        (
            b"PUT /x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n"
            b"Connection: Transfer-Encoding\r\n\r\n2\r\nab\r\n0\r\n\r\n",
            b"PUT /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
        ),
        (
            b"PUT /x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nA: b\r\ncontent-length: 2, 2\r\n\r\nab",
            b"PUT /x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nA: b\r\n\r\nab",
        ),
        (b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n\x00\xffz", None),
        (
            b"PUT /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\nT: 1\r\n\r\n",
            b"PUT /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nT: 1\r\n\r\n",
        ),
        (
            b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            b"GET http://other.example/x?y HTTP/1.1\r\nHost: h\r\nProxy-Authorization: Basic x\r\n"
            b"Proxy-Connection: close\r\nA: b\r\n\r\n",
            b"GET /x?y HTTP/1.1\r\nHost: other.example\r\nA: b\r\n\r\n",
        ),
        (get("/x", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AA"), get("/x")),
        (
            b"POST /x HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nz",
            b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nz",
        ),
        (b"GET /x HTTP/1.0\r\n\r\n", None),
    ],
)
def test_requests_arrive_as_they_were(serve: Serve, asked: bytes, heard: bytes | None) -> None:
    with real(OK) as server:
        answer = say(passing(serve, server.place), asked)
        assert answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n") == OK
        assert server.heard == [heard or asked]


# -- what the client hears ---------------------------------------------------------------------------------------------

ANSWERS = {
    "length": OK,
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n4\r\nreal\r\n0\r\nX: 1\r\n\r\n",
    "nothing": b"HTTP/1.1 204 No Content\r\nSet-Cookie: a\r\nset-cookie: b\r\n\r\n",
    "early": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK,
    "error": b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nRetry-After: 9\r\n\r\n",
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_answers_come_as_they_are_and_the_connection_goes_on(serve: Serve, answer: bytes) -> None:
    with real(answer) as server:
        responder = passing(serve, server.place)
        heard = say(responder, get("/recorded"), get("/real"), get("/recorded"))
    first, middle, last = heard.partition(answer)
    assert middle == answer
    assert first.endswith(b"from the recording")
    assert last.endswith(b"from the recording")
    [count] = responder.stop().backends
    assert (count.requests, count.matches, count.passed, count.misses) == (3, 2, 1, 0)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
        b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nreal",
    ],
)
def test_an_answer_that_ends_the_connection_ends_it(serve: Serve, answer: bytes) -> None:
    with real(answer) as server:
        assert say(passing(serve, server.place), get("/real"), get("/recorded")) == answer


def test_head_has_no_body(serve: Serve) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
    with real(head) as server:
        heard = say(passing(serve, server.place), get("/real").replace(b"GET", b"HEAD"), get("/recorded"))
    assert heard.startswith(head + b"HTTP/1.1 200 OK\r\n")


EXTRA = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL"


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize("extra", [EXTRA, b"\r\n", b"x" * 70_000])
def test_what_comes_after_an_answer_goes_no_further(serve: Serve, answer: bytes, extra: bytes) -> None:
    """It would be taken for the answer to the next request."""
    with real(answer + extra) as server:
        heard = say(passing(serve, server.place), get("/real"), get("/recorded"))
    assert heard.startswith(answer + b"HTTP/1.1 200 OK\r\n")
    assert heard.endswith(b"from the recording")
    assert b"EVIL" not in heard
    assert len(heard) < 1000


def test_what_comes_after_the_head_that_was_asked_for_goes_no_further(serve: Serve) -> None:
    with real(OK) as server:
        heard = say(passing(serve, server.place), get("/real").replace(b"GET", b"HEAD"), get("/recorded"))
    assert heard.startswith(OK.removesuffix(b"real") + b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_where_an_answer_ends_does_not_depend_on_how_it_comes(answer: bytes) -> None:
    for size in range(1, len(answer) + 1):
        end = _End(bodiless=False)
        pieces = [(answer + EXTRA)[at : at + size] for at in range(0, len(answer + EXTRA), size)]
        assert sum([end.feed(piece) for piece in pieces]) == len(answer)
        assert (end.shown, end.keep_alive) == (True, True)


def test_a_large_answer_reaches_a_slow_reader_whole(serve: Serve) -> None:
    body = random.Random(1).randbytes(16 * 1024 * 1024)
    with real(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body) as server:
        responder = passing(serve, server.place)
        with socket.create_connection(("127.0.0.1", responder.port), timeout=TIMEOUT) as client:
            client.sendall(get("/real"))
            head = client.recv(1)
            assert server.heard  # it has begun to answer, and we have not read on
            client.shutdown(socket.SHUT_WR)
            assert (head + client.makefile("rb").read()).partition(b"\r\n\r\n")[2] == body


def test_continue_is_said_after_an_answer_that_is_passed_on(serve: Serve) -> None:
    expecting = b"PUT /real HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n"
    with (
        real(OK, OK) as server,
        socket.create_connection(("127.0.0.1", passing(serve, server.place).port), timeout=TIMEOUT) as client,
    ):
        client.sendall(get("/real") + expecting)
        heard = b""
        while not heard.endswith(b"HTTP/1.1 100 Continue\r\n\r\n"):
            heard += client.recv(1000) or pytest.fail("it ended")
        client.sendall(b"z")
        client.shutdown(socket.SHUT_WR)
        assert heard + client.makefile("rb").read() == OK + b"HTTP/1.1 100 Continue\r\n\r\n" + OK


# -- TLS ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def issuer() -> trustme.CA:
    return trustme.CA()


def server_context(issuer: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issuer.issue_cert(name).configure_cert(context)
    return context


def say_by_tls(responder: Responder, name: str, request: bytes) -> bytes:
    context = ssl.create_default_context(cafile=str(responder.authority.certificate_file))
    with (
        socket.create_connection(("127.0.0.1", responder.port), timeout=TIMEOUT) as client,
        context.wrap_socket(client, server_hostname=name) as secured,
    ):
        secured.sendall(request)
        return secured.recv(65536)


def test_tls_is_spoken_with_who_is_trusted(serve: Serve, issuer: trustme.CA) -> None:
    authorities = "# Größe\n".encode() + issuer.cert_pem.bytes() + b"\ntext between\n"
    with real(OK, context=server_context(issuer, "real.example")) as server:
        responder = passing(serve, server.place, real_authorities=authorities)
        assert say_by_tls(responder, "real.example", get("/real")) == OK
        assert server.heard == [get("/real")]


def test_leave_is_taken_in_good_order(serve: Serve, issuer: trustme.CA) -> None:
    """By close_notify (RFC 8446 section 6.1), where the answer left the connection open."""
    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as pool:

        def talk() -> bytes:
            client, _ = listening.accept()
            client.settimeout(TIMEOUT)
            with server_context(issuer, "real.example").wrap_socket(
                client, server_side=True, suppress_ragged_eofs=False
            ) as secured:
                secured.recv(65536)
                secured.sendall(OK)
                return secured.recv(1)

        said = pool.submit(talk)
        responder = passing(serve, listening.getsockname(), real_authorities=issuer.cert_pem.bytes())
        assert say_by_tls(responder, "real.example", get("/real")) == OK
        assert said.result(TIMEOUT) == b""


@pytest.mark.parametrize("name", ["real.example", "other.example"])
def test_who_is_not_trusted_hears_nothing(serve: Serve, issuer: trustme.CA, name: str) -> None:
    """Its authority is unknown, or it has another name."""
    authorities = b"" if name == "real.example" else issuer.cert_pem.bytes()
    with real(OK, context=server_context(issuer, "real.example")) as server:
        responder = passing(serve, server.place, real_authorities=authorities)
        answer = say_by_tls(responder, name, get("/secret"))
    assert answer.startswith(b"HTTP/1.1 418")
    assert b"is not trusted" in answer
    assert server.heard == [b""]
    assert [(miss.path, miss.passed) for miss in responder.stop().misses] == [("/secret", 0)]


def test_authorities_that_are_none_are_refused(serve: Serve) -> None:
    garbage = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    with pytest.raises(ValueError, match="no certificate"):
        serve(Exchange("GET /"), pass_on=True, real_authorities=garbage)


def test_tls_is_told_by_the_recording_where_the_client_names_the_responder(serve: Serve, issuer: trustme.CA) -> None:
    """Its base URL is http://127.0.0.1:PORT/, and the only backend speaks TLS."""
    with real(OK, context=server_context(issuer, "localhost")) as server:
        port = server.place[1]
        responder = serve(Exchange("GET /", host="localhost", port=port), pass_on=True, real_authorities=issuer.cert_pem.bytes())
        request = f"GET /real HTTP/1.1\r\nHost: 127.0.0.1:{responder.port}\r\n\r\n".encode()
        assert say(responder, request) == OK


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_nobody_there_is_an_explained_miss(serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        place = unused.getsockname()
    responder = passing(serve, place)
    head, _, rest = say(responder, get("/real"), get("/recorded")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 418")
    body = json.JSONDecoder().raw_decode(rest.decode())[0]["understudy"]
    assert "it could not be passed on" in body["reason"]
    assert str(place[1]) in body["reason"]
    assert rest.endswith(b"from the recording")
    [count] = responder.stop().backends
    assert (count.requests, count.matches, count.passed, count.misses) == (2, 1, 0, 1)


def test_an_aws_client_is_told_in_its_own_form(serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        place = unused.getsockname()
    answer = say(passing(serve, place), get("/", "X-Amz-Target: DynamoDB_20120810.Scan"))
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"could not be passed on" in answer


@pytest.mark.parametrize("answer", [OK[:-1], OK[:20], ANSWERS["chunks"][:-5]])
def test_an_answer_that_breaks_off_is_not_taken_for_whole(serve: Serve, answer: bytes) -> None:
    with real(answer) as server:
        responder = passing(serve, server.place)
        with pytest.raises(ConnectionResetError):
            say(responder, get("/real"))
    [(reason, _)] = responder.stop().troubles
    assert "before the answer was whole" in reason


def test_an_empty_answer_is_an_explained_miss(serve: Serve) -> None:
    with real(b"") as server:
        assert b"closed before the answer was whole" in say(passing(serve, server.place), get("/real"))


def test_it_does_not_ask_itself(serve: Serve) -> None:
    responder = serve(Exchange("GET /"), Exchange("GET /", host="other.example"), pass_on=True)
    answer = say(responder, f"GET /real HTTP/1.1\r\nHost: 127.0.0.1:{responder.port}\r\n\r\n".encode())
    assert b"is this responder itself" in answer
    assert responder.stop().requests == 1


def test_a_client_that_leaves_ends_the_call(serve: Serve) -> None:
    hold = threading.Event()
    with real(OK, hold=hold) as server:
        responder = passing(serve, server.place)
        with socket.create_connection(("127.0.0.1", responder.port), timeout=TIMEOUT) as client:
            client.sendall(get("/real"))
            _until(lambda: bool(server.heard))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        _until(lambda: responder.run.report().requests == 1)
        hold.set()
    [count] = responder.stop().backends
    assert (count.requests, count.passed, count.misses) == (1, 0, 1)


def test_stop_ends_the_calls(serve: Serve) -> None:
    hold = threading.Event()
    with real(OK, hold=hold) as server:
        responder = passing(serve, server.place)
        with socket.create_connection(("127.0.0.1", responder.port), timeout=TIMEOUT) as client:
            client.sendall(get("/real"))
            _until(lambda: bool(server.heard))
            assert responder.stop().requests == 1
            hold.set()


def _until(true: Callable[[], bool]) -> None:
    """Wait for what comes by itself."""
    waiting = threading.Event()
    for _ in range(int(TIMEOUT * 100)):
        if true():
            return
        waiting.wait(0.01)
    raise AssertionError("it never came")


# -- where it goes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("destination", "target"),
    [
        (None, ("api.example.com", 443)),
        (("198.18.0.1", 443), ("api.example.com", 443)),  # the agent's, for a recorded name
        (("2001:2::1", 443), ("api.example.com", 443)),
        (("192.0.2.7", 8443), ("192.0.2.7", 8443)),  # the client's own choice
        (("2001:db8::7", 443), ("2001:db8::7", 443)),
        (("tunnel.example", 443), ("tunnel.example", 443)),
    ],
)
def test_whom_it_asks(destination: tuple[str, int] | None, target: tuple[str, int]) -> None:
    assert _target(("api.example.com", 443), Scope(True, "api.example.com", destination, 1)) == target


# -- what is kept ------------------------------------------------------------------------------------------------------


def kept_of(serve: Serve, answers: Sequence[bytes], *requests: bytes) -> list[RRPair | Flow]:
    kept: list[RRPair | Flow] = []
    with real(*answers) as server:
        responder = passing(serve, server.place, keep=kept.extend)
        with suppress(ConnectionResetError):
            say(responder, *requests)
        responder.stop()
    return kept


def test_what_was_passed_on_is_kept_as_pairs(serve: Serve, tmp_path: Path) -> None:
    answers = [OK, ANSWERS["chunks"], ANSWERS["early"], b"HTTP/1.1 200 OK\r\n\r\nuntil the end"]
    kept = kept_of(serve, answers, *[get(f"/real/{n}") for n in range(4)])
    pairs = [pair for pair in kept if isinstance(pair, RRPair)]
    assert [(p.path, p.host, p.direction, p.service, p.complete) for p in pairs] == [
        (f"/real/{n}", "api.example.com", "OUT", "test", True) for n in range(4)
    ]
    assert [p.response.body for p in pairs if p.response] == [b"real", b"real", b"real", b"until the end"]
    assert len({p.id for p in pairs}) == len(kept) == 4
    assert all(p.port == p.connection.remote_port for p in pairs)


def test_what_comes_after_an_answer_is_not_kept(serve: Serve) -> None:
    [pair] = kept_of(serve, [OK + EXTRA], get("/real"))
    assert isinstance(pair, RRPair)
    assert pair.complete
    assert pair.response
    assert pair.response.body == b"real"


def test_what_broke_off_is_kept_as_incomplete(serve: Serve) -> None:
    [pair] = kept_of(serve, [OK[:-1]], get("/real"))
    assert isinstance(pair, RRPair)
    assert not pair.complete


def test_what_is_kept_while_it_is_heard_is_bounded_and_the_client_gets_all_of_it(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.responder.server.HELD_LIMIT", 100_000)
    body = random.Random(4).randbytes(300_000)
    kept: list[RRPair | Flow] = []
    with real(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body, OK) as server:
        responder = passing(serve, server.place, keep=kept.extend)
        got = say(responder, get("/large"), get("/small"))
        responder.stop()
    assert body in got
    assert got.endswith(b"real")
    large, small = kept
    assert isinstance(large, RRPair)
    assert isinstance(small, RRPair)
    assert large.missing == ("response body", "room for it in memory")
    assert large.body_bytes == 0
    assert small.complete
    assert responder._held == 0


# -- what the mock handed out ------------------------------------------------------------------------------------------

LOGIN = Exchange("POST /login", b'{"access_token":"real-token-0123456789"}', tls=False)


def logged_in(serve: Serve, place: tuple[str, int], **options: object) -> tuple[Responder, str]:
    """A responder, and the token that its login gave."""
    recorded = replace(LOGIN, port=place[1])
    responder = serve(recorded, pass_on=True, original_destination=lambda _: place, **options)
    answer = say(responder, recorded.request_bytes())
    token = json.loads(answer.partition(b"\r\n\r\n")[2])["access_token"]
    assert token.startswith("REDACTED-")
    return responder, token


def post(body: bytes, *fields: str) -> bytes:
    return get("/items", f"Content-Length: {len(body)}", *fields).replace(b"GET", b"POST") + body


@pytest.mark.parametrize(
    "asking",
    [
        lambda token: get("/items", f"Authorization: Bearer {token}"),
        lambda token: get("/items", f"Authorization: Basic {b64encode(f'{token}:'.encode()).decode()}"),
        lambda token: get("/items", f"Authorization: Bearer eyJhbGciOiJub25lIn0.eyJhIjoxfQ.{token.replace('secret', 'jwt')}"),
        lambda token: get("/items", f"Cookie: __cf_bm=1; sid={token}"),
        lambda token: get(f"/items/{token}/1?x=y"),
        lambda token: post(f'{{"ticket":"{token}"}}'.encode()),
        lambda token: post(gzip.compress(f'{{"ticket":"{token}"}}'.encode()), "Content-Encoding: gzip"),
    ],
    ids=["bearer", "basic", "jwt", "cookie", "path", "body", "gzip"],
)
def test_what_the_mock_handed_out_in_place_of_a_secret_reaches_no_real_server(serve: Serve, asking: Callable[[str], bytes]) -> None:
    """It would refuse it, and its refusal would be recorded as its answer."""
    kept: list[RRPair | Flow] = []
    with real(OK) as server:
        responder, token = logged_in(serve, server.place, keep=kept.extend)
        answers = say(responder, asking(token), asking(token))
        report = responder.stop()
    assert server.heard == []
    assert kept == []
    assert answers.count(b"HTTP/1.1 418") == answers.count(b"it was not passed on: the recording has REDACTED-") == 2
    assert b"--except HOST" in answers
    [miss] = report.misses
    assert (miss.times, miss.passed) == (2, 0)
    assert miss.reason.count("it was not passed on") == 1


@pytest.mark.parametrize(
    "asked",
    [
        get("/items", "Authorization: Bearer real-token-0123456789"),
        get("/items", "Cookie: __cf_bm=REDACTED-secret-0123456789abcde; AWSALBCORS=REDACTED-secret-0123456789abcde"),
        get("/items", "Cookie: BIGipServerpool_a=REDACTED-secret-0123456789abcde"),
        get("/items", "Authorization: Basic aaaaaaaaa", "X-A: REDACTED-secret-0123"),
        post(b"\x1f\x8b no gzip", "Content-Encoding: gzip"),
    ],
    ids=["real", "gateways", "balancer", "no token", "no coding"],
)
def test_what_holds_no_secret_of_a_recording_is_passed_on_as_it_is(serve: Serve, asked: bytes) -> None:
    with real(OK) as server:
        responder, _ = logged_in(serve, server.place)
        assert say(responder, asked).endswith(b"real")
    assert server.heard == [asked]


def test_what_is_passed_on_after_what_was_not_is_no_worse_for_it(serve: Serve) -> None:
    """The two requests are equal but for who asks."""
    with real(OK) as server:
        responder, token = logged_in(serve, server.place)
        answers = say(responder, get("/items", f"Authorization: Bearer {token}"), get("/items", "Authorization: Bearer real"))
        report = responder.stop()
    assert answers.endswith(b"real")
    [miss] = report.misses
    assert (miss.times, miss.passed) == (2, 1)
