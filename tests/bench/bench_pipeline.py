"""Chunk to stored pair: how many pairs of 1.5 KB a CPU-second takes, and what each stage costs.

Run `python -m tests.bench.bench_pipeline`. Process CPU time, the best of some rounds, for the machine may be shared.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httptools

from engine.pairing import Conversation
from engine.protocols.http1 import RequestParser, ResponseParser
from engine.redaction import Redactor
from engine.rrpair import Connection, Flow, Role, RRPair, Way
from engine.snapshot import SnapshotWriter
from engine.store import Progress

PAIRS = 5_000
ROUNDS = 5
BATCH = 250
"""Pairs a transaction: about what a batch of an agent brings."""
CONNECTIONS = 50

BODY = (
    b'{"customer":"cus_9s6XKzkNRiz8i3","items":[{"sku":"A-1","quantity":2,"price":1999},{"sku":"B-7","quantity":1,'
    b'"price":4950}],"note":"leave it at the door","address":{"street":"Main St %05d","city":"Springfield"}}'
)
ANSWER = b'{"id":"or_%08d","status":"created","lines":[' + b'{"sku":"A-1","quantity":2,"amount":3998},' * 16 + b'{}],"amount":8948}'
REQUEST = (
    b"POST /v1/orders?expand=customer HTTP/1.1\r\nHost: api.example.com\r\nUser-Agent: python-requests/2.32.3\r\n"
    b"Accept-Encoding: gzip, deflate\r\nAccept: */*\r\nConnection: keep-alive\r\nContent-Type: application/json\r\n"
    b"X-Request-Id: 5b7a3f0e-91c2-4d2e-a333-%012x\r\nContent-Length: %d\r\n\r\n%b"
)
RESPONSE = (
    b"HTTP/1.1 201 Created\r\nDate: Sun, 22 Nov 2026 10:00:00 GMT\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\nConnection: keep-alive\r\nServer: nginx\r\nCache-Control: no-store\r\n"
    b"X-Request-Id: 5b7a3f0e-91c2-4d2e-a333-%012x\r\nVary: Accept-Encoding\r\n\r\n%b"
)


def exchange(n: int) -> tuple[bytes, bytes]:
    """One request and its response, 1.5 KB together."""
    body, answer = BODY % (n % 100000), ANSWER % n
    return REQUEST % (n, len(body), body), RESPONSE % (len(answer), n, answer)


EXCHANGES = [exchange(n) for n in range(PAIRS)]


def converse(handle: Callable[[list[RRPair | Flow], list[Progress]], None]) -> None:
    """Put all exchanges through conversations, batch by batch."""
    conversations = [
        Conversation(
            Connection(f"agent:{n}", True, Role.CLIENT, "10.0.0.1", 40000 + n, "192.0.2.1", 443, tls_version="TLS 1.3"),
            "bench",
            True,
        )
        for n in range(CONNECTIONS)
    ]
    offsets = [[0, 0] for _ in conversations]
    batch: list[RRPair | Flow] = []
    for n, (request, response) in enumerate(EXCHANGES):
        stream = n % CONNECTIONS
        read, write = offsets[stream]
        conversation = conversations[stream]
        batch += conversation.data(Way.WRITE, write, request, n * 1000)
        batch += conversation.data(Way.READ, read, response, n * 1000 + 500)
        offsets[stream] = [read + len(response), write + len(request)]
        if (n + 1) % BATCH == 0:
            handle(batch, [Progress("agent", i, *each.progress) for i, each in enumerate(conversations)])
            batch = []


def parse_only() -> None:
    """Parse, with one parser a way."""
    requests, responses = RequestParser(), ResponseParser(lambda *_: b"POST")
    for request, response in EXCHANGES:
        requests.receive(request, 0)
        requests.next()
        responses.receive(response, 0)
        responses.next()


class _Sink:
    """Takes what httptools finds, as a parser's owner has to."""

    def on_message_begin(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.url = url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))

    def on_body(self, body: bytes) -> None:
        self.body = body


def httptools_only() -> None:
    """The same with llhttp."""
    requests, responses = httptools.HttpRequestParser(_Sink()), httptools.HttpResponseParser(_Sink())
    for request, response in EXCHANGES:
        requests.feed_data(request)
        responses.feed_data(response)


def pair_only() -> None:
    """Reassemble, parse and pair."""
    converse(lambda *_: None)


def redact_only(pairs: list[RRPair]) -> None:
    """Redact what was paired before."""
    redact = Redactor(b"k" * 32).pair
    for pair in pairs:
        redact(pair)


def whole_chain(folder: Path) -> None:
    """Everything up to the commit."""
    writer = SnapshotWriter.create(folder / "bench.snapshot", service="bench", capture_id="b", created=0, tool_version="0")
    converse(writer.add)
    writer.abandon()


def measure(name: str, stage: Callable[[], None]) -> float:
    """Print and return the CPU microseconds a pair of the best round."""
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.process_time()
        stage()
        best = min(best, time.process_time() - start)
    cost = best / PAIRS * 1e6
    print(f"{name:28}{cost:8.1f} µs a pair{1e6 / cost:12,.0f} pairs per CPU-second")
    return cost


def main() -> None:
    """Measure all stages."""
    size = sum(map(len, EXCHANGES[0]))
    print(f"{PAIRS:,} pairs of {size:,} bytes, two chunks each, {CONNECTIONS} connections, {BATCH} pairs a transaction")
    pairs: list[RRPair] = []
    converse(lambda batch, _: pairs.extend(item for item in batch if isinstance(item, RRPair)))
    oracle = measure("httptools", httptools_only)
    parsing = measure("parsing", parse_only)
    measure("chunk to pair", pair_only)
    measure("redaction", lambda: redact_only(pairs))
    with tempfile.TemporaryDirectory() as folder:
        measure("chunk to stored pair", lambda: whole_chain(Path(folder)))
    print(f"parsing costs {parsing / oracle:.1f} times what httptools does")


if __name__ == "__main__":
    main()
