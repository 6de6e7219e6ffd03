"""Who called the service, and whom it called: counted, never guessed. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from engine.rrpair import Connection, Direction, Flow, Role
from engine.store import Group

ANY_HOST = "*"


@dataclass(frozen=True, slots=True)
class Edge:
    """Calls of one kind: those that came in at a port (host "*"), or those to one backend.

    `share` is the percentage of all outbound requests, rounded down; 0 for inbound ones.
    """

    direction: Direction
    protocol: str
    tls: bool
    host: str
    port: int
    technology: tuple[str, ...]
    requests: int
    complete: int
    share: int = 0


@dataclass(frozen=True, slots=True)
class FlowEdge:
    """Streams to (or from) one place that were not turned into pairs, and why. Sizes are bytes."""

    direction: Direction | None
    protocol: str
    tls: bool
    host: str
    port: int
    reason: str
    streams: int
    read: int
    written: int


@dataclass(frozen=True, slots=True)
class ServiceMap:
    """Inbound edges by port, backends by requests (most first), flows by bytes (most first)."""

    service: str
    inbound: tuple[Edge, ...]
    backends: tuple[Edge, ...]
    flows: tuple[FlowEdge, ...]

    @property
    def requests(self) -> int:
        """All requests, both ways."""
        return sum(edge.requests for edge in (*self.inbound, *self.backends))

    @property
    def complete(self) -> int:
        """Those of them of which every byte was seen, answer included."""
        return sum(edge.complete for edge in (*self.inbound, *self.backends))


def service_map(service: str, groups: Iterable[Group], flows: Iterable[Flow] = ()) -> ServiceMap:
    """Put counted pairs and flows together."""
    edges: dict[tuple[object, ...], list[Group]] = {}
    for group in groups:
        host = ANY_HOST if group.direction is Direction.IN else group.host
        edges.setdefault((group.direction, group.protocol, group.tls, host, group.port), []).append(group)
    total = sum(g.requests for key, found in edges.items() if key[0] is Direction.OUT for g in found)
    made = [_edge(found, total) for found in edges.values()]
    return ServiceMap(
        service,
        tuple(sorted((e for e in made if e.direction is Direction.IN), key=lambda e: (e.port, e.protocol, e.tls))),
        tuple(sorted((e for e in made if e.direction is Direction.OUT), key=lambda e: (-e.requests, e.host, e.port))),
        _flow_edges(flows),
    )


def _edge(groups: list[Group], total: int) -> Edge:
    first = groups[0]
    requests = sum(group.requests for group in groups)
    names = {name for group in groups for name in group.technology}
    outbound = first.direction is Direction.OUT
    return Edge(
        first.direction,
        first.protocol,
        first.tls,
        first.host if outbound else ANY_HOST,
        first.port,
        tuple(sorted(names, key=str.lower)),
        requests,
        sum(group.complete for group in groups),
        requests * 100 // total if outbound else 0,
    )


def _flow_edges(flows: Iterable[Flow]) -> tuple[FlowEdge, ...]:
    counted: dict[tuple[Direction | None, str, bool, str, int, str], tuple[int, int, int]] = {}
    for flow in flows:
        direction, host, port = _place(flow.connection)
        key = (direction, flow.protocol, flow.connection.tls, host, port, flow.reason)
        streams, read, written = counted.get(key, (0, 0, 0))
        counted[key] = (streams + 1, read + flow.read, written + flow.written)
    edges = [FlowEdge(*key, *numbers) for key, numbers in counted.items()]
    return tuple(sorted(edges, key=lambda edge: (-(edge.read + edge.written), edge.host, edge.port)))


def _place(connection: Connection) -> tuple[Direction | None, str, int]:
    """Direction, host and port of the server; the direction is None where the role is not known."""
    if connection.role is Role.SERVER:
        return Direction.IN, ANY_HOST, connection.local_port
    direction = Direction.OUT if connection.role is Role.CLIENT else None
    return direction, connection.server_name or connection.remote_address, connection.remote_port
