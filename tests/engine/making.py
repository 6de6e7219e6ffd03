"""Snapshots made for tests: pairs without a recorder."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from engine.pairing import Conversation
from engine.rrpair import Connection, Direction, Role, RRPair, Way
from engine.snapshot import SnapshotWriter

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Exchange:
    """A request and its answer, as a test writes them. Lengths are added where no framing is given."""

    request: str
    answer: bytes = b"{}"
    headers: Headers = ()
    body: bytes = b""
    status: str = "200 OK"
    answer_headers: Headers = (("Content-Type", "application/json"),)
    host: str = "api.example.com"
    port: int = 443
    tls: bool = True
    raw_answer: bytes = b""
    unread: bool = False
    """Whether the client turned away when it had read this much."""

    def request_bytes(self) -> bytes:
        default = {("https", 443): "", ("http", 80): ""}.get(("https" if self.tls else "http", self.port), f":{self.port}")
        headers = [("Host", self.host + default), *self.headers]
        if self.body:
            headers.append(("Content-Length", str(len(self.body))))
        return _head(f"{self.request} HTTP/1.1", headers) + self.body

    def answer_bytes(self) -> bytes:
        if self.raw_answer:
            return self.raw_answer
        headers = list(self.answer_headers)
        if not {"content-length", "transfer-encoding"} & {name.lower() for name, _ in headers}:
            headers.append(("Content-Length", str(len(self.answer))))
        return _head(f"HTTP/1.1 {self.status}", headers) + self.answer


def _head(line: str, headers: list[tuple[str, str]]) -> bytes:
    return "".join([f"{line}\r\n", *[f"{name}: {value}\r\n" for name, value in headers], "\r\n"]).encode("latin-1")


@dataclass
class Maker:
    """Turns exchanges into pairs, in order, a connection each; 10 ms apart, answered after 4 ms."""

    made: int = 0
    pairs: list[RRPair] = field(default_factory=list)

    def add(self, exchange: Exchange) -> RRPair:
        start = 1_767_225_600_000_000_000 + self.made * 10_000_000
        connection = Connection(
            f"test:{self.made}",
            tls=exchange.tls,
            role=Role.CLIENT,
            remote_address="192.0.2.1",
            remote_port=exchange.port,
            server_name=exchange.host if exchange.tls else "",
        )
        self.made += 1
        conversation = Conversation(connection, "test", True)
        found = conversation.data(Way.WRITE, 0, exchange.request_bytes(), start)
        found += conversation.data(Way.READ, 0, exchange.answer_bytes(), start + 4_000_000)
        if not exchange.unread:
            found += conversation.half_close(Way.READ, start + 4_000_000)
        found += conversation.close(start + 4_000_000)
        [pair] = found
        assert isinstance(pair, RRPair)
        assert pair.unread if exchange.unread else pair.complete, pair.missing
        self.pairs.append(pair)
        return pair


def pairs_of(*exchanges: Exchange) -> list[RRPair]:
    maker = Maker()
    return [maker.add(exchange) for exchange in exchanges]


def write_snapshot(path: Path, *exchanges: Exchange) -> Path:
    """Write a finished snapshot of these."""
    writer = SnapshotWriter.create(path, service="test", capture_id="c", created=0, tool_version="0")
    writer.add(pairs_of(*exchanges))
    writer.set_ledger({"seen": 1, "delivered": 1, "lost": 0})
    writer.finish()
    return path


def write_own_service(path: Path, *called: str, asked_at: str = "127.0.0.1", host: str = "127.0.0.1") -> Path:
    """Write one in which one process asked another at port 8099 by some addresses, and was recorded at one; and a backend."""
    calls = [Exchange("GET /own", host=host, port=8099, tls=False) for _ in called]
    *asked, backend = pairs_of(*calls, Exchange("GET /", host="a.example"))
    asked = [replace(pair, connection=replace(pair.connection, remote_address=to)) for pair, to in zip(asked, called, strict=True)]
    end = replace(asked[0].connection, id="end", role=Role.SERVER, local_address=asked_at, local_port=8099)
    answered = replace(asked[0], id=f"{1:016x}", direction=Direction.IN, connection=end)
    writer = SnapshotWriter.create(path, service="s", capture_id="c", created=0, tool_version="0")
    writer.add([*asked, answered, backend])
    writer.finish()
    return path
