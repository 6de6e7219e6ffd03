"""What becomes of names."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.takeover import names
from agent.takeover.events import Action
from agent.takeover.names import Backend, Names, Way, actions_of, parse_address, read_hosts, read_resolver_configuration

RECORDED = [Backend("api.example.com", 443), Backend("both.test", 443), Backend("payments", 80), Backend("10.0.0.1", 80)]
PASSED = [Backend("DB.internal.", 5432), Backend("both.test", 5432), Backend("twice.test", 1)]
PORTS = actions_of([*RECORDED, Backend("twice.test", 1)], PASSED)


def known(*, pass_unrecorded: bool = False) -> Names:
    return Names(PORTS, ("default.svc.cluster.local", "svc.cluster.local"), pass_unrecorded)


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("api.example.com", Way.OWN),
        ("api.example.com.svc.cluster.local", Way.OWN),  # as a search list makes it
        ("payments.default.svc.cluster.local", Way.OWN),
        ("db.internal", Way.STAND_IN),
        ("both.test", Way.STAND_IN_OR_OWN),
        ("twice.test", Way.STAND_IN),
        ("other.example.com", Way.REAL_OR_OWN),
        ("other.example.com.svc.cluster.local", Way.REAL_OR_NONE),
        ("other.default.svc.cluster.local", Way.REAL_OR_OWN),
        ("localhost", Way.LOOPBACK),
        ("db.localhost", Way.LOOPBACK),
    ],
)
def test_ways(name: str, way: Way) -> None:
    assert known().way(name) is way


def test_everything_real_where_unrecorded_calls_pass() -> None:
    assert known(pass_unrecorded=True).way("other.example.com") is Way.REAL
    assert known(pass_unrecorded=True).way("api.example.com") is Way.OWN


def test_actions_are_by_name_and_port() -> None:
    assert PORTS["both.test"] == {443: Action.RESPOND, 5432: Action.PASS}
    assert PORTS["twice.test"] == {1: Action.PASS}
    assert "10.0.0.1" not in PORTS


@given(st.lists(st.text("abc", min_size=1, max_size=4), max_size=50))
def test_each_name_has_addresses_of_its_own(asked: list[str]) -> None:
    table = known()
    own = {name: table.own(name) for name in asked}
    assert len(set(own.values())) == len(own)
    for name, pair in own.items():
        assert pair is not None
        assert pair == table.own(name)
        assert [table.name_of(address) for address in pair] == [name, name]
        assert pair[0] in ipaddress.IPv4Network("198.18.0.0/15")
        assert pair[1] in ipaddress.IPv6Network("2001:2::/48")
    assert table.owned() == {address: name for name, pair in own.items() for address in pair or ()}


def test_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "NAMES_MAX", 2)
    monkeypatch.setattr(names, "SEEN_MAX", 2)
    table = known()
    assert [table.own(name) is None for name in ("a", "b", "c", "a")] == [False, False, True, False]
    addresses = [ipaddress.IPv4Address(f"10.0.0.{number}") for number in range(3)]
    for address in addresses:
        table.saw(str(address), [address])
    assert [table.name_of(address) for address in addresses] == ["", "10.0.0.1", "10.0.0.2"]


def test_hosts_file() -> None:
    lines = ["127.0.0.1 localhost", "# 1.2.3.4 no", "10.0.0.1\tApi.Example.com api # x", "::1 localhost", "fe80::1%eth0 link"]
    found = read_hosts("\n".join([*lines, "nonsense a", "", "10.0.0.9"]))
    assert found["api.example.com"] == found["api"] == (ipaddress.ip_address("10.0.0.1"),)
    assert list(map(str, found["localhost"])) == ["127.0.0.1", "::1"]
    assert set(found) == {"localhost", "api.example.com", "api", "link"}


def test_resolver_configuration() -> None:
    servers = [f"nameserver {server}" for server in ("10.0.0.1", "fe80::1%eth0", "bad", "10.0.0.2", "10.0.0.3")]
    found = read_resolver_configuration("\n".join(["domain old.test", *servers, "search A.test. . b.test", "options ndots:5"]))
    assert found.servers == ("10.0.0.1", "fe80::1%eth0", "10.0.0.2")
    assert found.suffixes == ("a.test", "b.test")


@given(st.text())
def test_no_text_raises(text: str) -> None:
    read_hosts(text)
    read_resolver_configuration(text)
    parse_address(text)
