"""An exchange in the words of the domain: who asked whom for what."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import blake2b

from engine.pairing.exchange import Exchange
from engine.protocols import HTTP1
from engine.protocols.heads import Index
from engine.protocols.http1 import request_line, split_query, split_target
from engine.protocols.operations import operation
from engine.rrpair import Connection, Direction, Message, RRPair
from engine.technologies import technologies, with_tls

HOSTS_LIMIT = 4096
"""Distinct Host values whose reading is remembered."""
HOST_LENGTH = 512
"""Characters of an authority that are looked at: a name has 253, and user information is deprecated."""


@dataclass(frozen=True, slots=True)
class Place:
    """What a pair says of its server."""

    host: str
    port: int
    technology: tuple[str, ...]


_NOTHING: Index = {}


def describe(connection: Connection, service: str, direction: Direction, exchange: Exchange, missing: tuple[str, ...]) -> RRPair:
    """Make the pair of an exchange."""
    request, response = exchange.request, exchange.response
    first = request or response
    assert first is not None
    index = request.index if request else _NOTHING
    method, target = request_line(request.message.start_line) if request else ("", "")
    authority, path, query = split_target(method, target)
    name, port = _host_and_port((authority or index.get(b"host", b"").decode("latin-1"))[:HOST_LENGTH])
    if authority and direction is Direction.OUT:
        connection = _behind_proxy(connection, name, port or default_port(target))
    host = name or host_name(connection.server_name) or server_address(connection, direction)
    body = request.message.body if request else b""
    answer = response.index if response else _NOTHING
    time = first.time
    return RRPair(
        pair_id(connection.id, "request" if request else "response", first.offset),
        time,
        direction,
        service,
        HTTP1,
        host,
        server_port(connection, direction) or port or (443 if connection.tls else 80),
        method,
        path,
        split_query(query) if query else (),
        operation(method, path or target, index, body) if request else "",
        request.message if request else Message(b""),
        connection,
        response.status if response else 0,
        response.message if response else None,
        tuple([received.message for received in exchange.interim]),
        request.ended - time if request else 0,
        response.time - time if response else 0,
        response.ended - time if response else 0,
        technologies(HTTP1, host, index, answer, query, connection.tls_version),
        missing,
    )


def _behind_proxy(connection: Connection, name: str, port: int) -> Connection:
    """Absolute and authority form are for proxies (RFC 9112 sections 3.2.2 and 3.2.3).

    One such connection leads to many servers, so the way to each counts as a connection of its own.
    """
    if connection.proxy:
        return connection
    return replace(connection.behind_proxy(port), id=f"{connection.id}>{name[:HOST_LENGTH]}:{port}")


def default_port(target: str) -> int:
    """Port of a target in absolute form that names none (RFC 9110 section 4.2)."""
    return 443 if target[:6].lower() == "https:" else 80


def placed(place: Place, direction: Direction, connection: Connection) -> Place:
    """The place of a pair's server with what became known of its connection since the pair was made."""
    address = server_address(connection, direction)
    host = place.host if place.host not in ("", address) else host_name(connection.server_name) or address
    port = server_port(connection, direction) or place.port
    return Place(host, port, with_tls(place.technology, connection.tls_version))


def pair_id(connection: str, part: str, offset: int) -> str:
    """16 hexadecimal digits, the same whenever the same bytes are taken in again.

    The offset of the first byte serves as the index of the pair: it is still known after a restart.
    """
    return blake2b(f"{connection} {part} {offset}".encode(), digest_size=8).hexdigest()


def server_port(connection: Connection, direction: Direction) -> int:
    """Port of the server's end; 0 where the stream is not bound."""
    return connection.remote_port if direction is Direction.OUT else connection.local_port


def server_address(connection: Connection, direction: Direction) -> str:
    """Address of the server's end; "" where the stream is not bound."""
    return connection.remote_address if direction is Direction.OUT else connection.local_address


def host_and_port(authority: str) -> tuple[str, int]:
    """Split an authority, perhaps with user information: name as `host_name` writes it, without brackets; port or 0."""
    return _host_and_port(authority[:HOST_LENGTH])


@lru_cache(HOSTS_LIMIT)
def _host_and_port(authority: str) -> tuple[str, int]:
    authority = authority.rpartition("@")[2]
    name, colon, port = authority.rpartition(":")
    if not colon or not port.isdecimal() or len(port) > 5:
        name, port = authority, "0"
    return host_name(name.strip("[]")), int(port)


def host_name(name: str) -> str:
    """Write a name as all spellings of it are: case and a dot at the end say nothing (RFC 4343; RFC 1034 section 3.1)."""
    return name.lower().removesuffix(".")
