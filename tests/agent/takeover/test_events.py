"""Destinations and news of the hooks, as Python reads them."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.takeover.events import Call, Destination, Event, News, decode, network_order

ADDRESSES = st.ip_addresses()
PORTS = st.integers(0, 65535)


@given(ADDRESSES, PORTS, st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_an_event_names_what_was_called(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int, kind: int, pid: int
) -> None:
    record = struct.pack("=II", kind, pid) + bytes(Destination.of(address, port)) + struct.pack("=I16s", 6, b"curl")
    mapped = address.version == 6 and address.ipv4_mapped
    assert decode(record) == Call(News(kind), mapped or address, port, 6, pid, "curl")


@pytest.mark.parametrize("record", [b"", bytes(48), b"\xff" * 48])
def test_what_is_no_event_is_refused(record: bytes) -> None:
    with pytest.raises(ValueError, match=r"Buffer size|is not a valid"):
        decode(record)


def test_a_short_record_is_refused() -> None:
    with pytest.raises(ValueError, match="Buffer size"):
        decode(bytes(Event())[:-1])


@given(PORTS)
def test_network_order(port: int) -> None:
    assert struct.pack("<H", network_order(port)) == struct.pack(">H", port)
