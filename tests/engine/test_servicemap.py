from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from engine.rrpair import Connection, Direction, Flow, Role
from engine.servicemap import service_map
from engine.store import Group


def group(host: str, requests: int, complete: int, *names: str, direction: Direction = Direction.OUT, port: int = 443) -> Group:
    return Group(direction, "http/1.1", direction is Direction.OUT, host, port, names, requests, complete)


def test_the_picture_of_the_guide() -> None:
    groups = [
        group("payment", 100, 100, "HTTP", "JSON", direction=Direction.IN, port=8080),
        group("payment.local", 92, 92, "HTTP", "Basic", direction=Direction.IN, port=8080),
        group("api.stripe.com", 73, 73, "Stripe"),
        group("dynamodb.us-east-1.amazonaws.com", 140, 139, "DynamoDB", "HTTP"),
        group("dynamodb.us-east-1.amazonaws.com", 7, 7, "DynamoDB", "gzip"),
        group("api.hubapi.com", 35, 35),
        group("sandbox.plaid.com", 15, 15),
        group("discovery.googleapis.com", 15, 15),
    ]
    found = service_map("payment", groups)
    [inbound] = found.inbound
    assert (inbound.host, inbound.port, inbound.requests, inbound.technology) == (
        "*",
        8080,
        192,
        ("Basic", "HTTP", "JSON"),
    )
    assert [(edge.host.split(".")[1], edge.requests, edge.share) for edge in found.backends] == [
        ("us-east-1", 147, 51),
        ("stripe", 73, 25),
        ("hubapi", 35, 12),
        ("googleapis", 15, 5),
        ("plaid", 15, 5),
    ]
    assert found.backends[0].complete == 146
    assert (found.requests, found.complete) == (477, 476)


def test_flows_are_rows_of_their_own() -> None:
    out = Connection("a", role=Role.CLIENT, remote_address="192.0.2.1", remote_port=5432)
    into = Connection("b", role=Role.SERVER, local_port=9090)
    flows = [
        Flow(out, 1, "postgres", "why", 1, 2),
        Flow(out, 2, "postgres", "why", 3, 4),
        Flow(into, 1, "h2", "x", 100, 0),
    ]
    found = service_map("s", [], flows)
    assert [(f.direction, f.host, f.port, f.streams, f.read, f.written) for f in found.flows] == [
        (Direction.IN, "*", 9090, 1, 100, 0),
        (Direction.OUT, "192.0.2.1", 5432, 2, 4, 6),
    ]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([80, 443]), st.integers(1, 50)), max_size=12))
def test_numbers_counted_another_way(calls: list[tuple[str, int, int]]) -> None:
    counted: Counter[tuple[str, int]] = Counter()
    for host, port, requests in calls:
        counted[host, port] += requests
    found = service_map("s", [group(host, n, n, port=port) for host, port, n in calls])
    assert {(e.host, e.port): e.requests for e in found.backends} == dict(counted)
    assert all(e.share == int(100 * e.requests / counted.total()) for e in found.backends)
    ordered = [e.requests for e in found.backends]
    assert ordered == sorted(ordered, reverse=True)
