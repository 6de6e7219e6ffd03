"""What the takeover's hooks share with the agent: the mirror of probes/takeover.h and probes/departures.h.

A test compares every structure with the C side, field by field. Pure.
"""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Sequence
from ctypes import Structure, c_char, c_uint8, c_uint16, c_uint32, c_uint64
from dataclasses import dataclass
from typing import Self

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Action(enum.IntEnum):
    """enum action."""

    RESPOND = 1
    PASS = 2
    REFUSE = 3


SERVERS_MAX = 4
"""SERVERS_MAX: servers of names that a socket can ask at a time."""


class News(enum.IntEnum):
    """enum takeover_news."""

    REFUSED = 1
    PASSED = 2
    LOCAL = 3


class Whereabouts(enum.IntEnum):
    """enum whereabouts."""

    INSIDE = 1
    DEPARTED = 2


class Destination(Structure):
    """struct destination: a map's key."""

    address: bytes
    port: int
    _fields_ = [("address", c_uint32 * 4), ("port", c_uint16), ("padding", c_uint16)]

    @classmethod
    def of(cls, address: Address, port: int) -> Self:
        """IPv4 addresses become ::ffff:a.b.c.d."""
        return cls.from_buffer_copy(_mapped(address) + port.to_bytes(2, "big") + bytes(2))


class Rule(Structure):
    """struct rule: a map's value."""

    _fields_ = [
        ("action", c_uint8),
        ("told", c_uint8),
        ("translated", c_uint8),
        ("padding", c_uint8),
        ("real", c_uint32 * 4),
    ]

    @classmethod
    def of(cls, action: Action, real: Address | None = None) -> Self:
        """`real`: what the address of the rule stands for."""
        return cls.from_buffer_copy(bytes((action, 0, real is not None, 0)) + (_mapped(real) if real else bytes(16)))


def _mapped(address: Address) -> bytes:
    """IPv4 addresses become ::ffff:a.b.c.d."""
    return address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed


class Settings(Structure):
    """struct takeover_settings. Ports are in network order: see `network_order`."""

    responder4: int
    responder6: int
    dns_udp4: Sequence[int]
    dns_udp6: Sequence[int]
    dns_tcp4: int
    dns_tcp6: int
    closed: int
    pass_unrecorded: int
    _fields_ = [
        ("responder4", c_uint16),
        ("responder6", c_uint16),
        ("dns_udp4", c_uint16 * SERVERS_MAX),
        ("dns_udp6", c_uint16 * SERVERS_MAX),
        ("dns_tcp4", c_uint16),
        ("dns_tcp6", c_uint16),
        ("closed", c_uint8),
        ("pass_unrecorded", c_uint8),
        ("padding", c_uint8 * 2),
    ]


class Event(Structure):
    """struct takeover_event."""

    kind: int
    tgid: int
    destination: Destination
    protocol: int
    command: bytes
    _fields_ = [
        ("kind", c_uint32),
        ("tgid", c_uint32),
        ("destination", Destination),
        ("protocol", c_uint32),
        ("command", c_char * 16),
    ]


class DeparturesSettings(Structure):
    """struct departures_settings."""

    _fields_ = [("cgroup", c_uint64)]


class DepartureEvent(Structure):
    """struct departure_event."""

    started: int
    tgid: int
    command: bytes
    _fields_ = [("started", c_uint64), ("tgid", c_uint32), ("padding", c_uint32), ("command", c_char * 16)]


@dataclass(frozen=True, slots=True)
class Departure:
    """A process that is no longer in the cgroup in which it was started. `started`: ns since boot."""

    pid: int
    started: int
    command: str


@dataclass(frozen=True, slots=True)
class Call:
    """A call that was refused, the first that was passed through to its destination, or the first to a port of this machine that
    was not recorded. `protocol` is an IPPROTO_*."""

    news: News
    address: Address
    port: int
    protocol: int
    pid: int
    command: str


def network_order(port: int) -> int:
    """A port as the hooks keep it."""
    return int.from_bytes(port.to_bytes(2, "big"), "little")


def unmapped(address: ipaddress.IPv6Address) -> Address:
    """An address as people write it: IPv4 where it is IPv4 in IPv6's form."""
    return address.ipv4_mapped or address


def decode(record: bytes) -> Call:
    """Decode one record of the ring. ValueError where it is none of ours: the object and this file differ."""
    event = Event.from_buffer_copy(record)
    place = Event.destination.offset
    address = ipaddress.IPv6Address(record[place : place + 16])
    port = int.from_bytes(record[place + 16 : place + 18], "big")
    command = event.command.decode(errors="replace")
    return Call(News(event.kind), unmapped(address), port, event.protocol, event.tgid, command)


def decode_departure(record: bytes) -> Departure:
    """Decode one record of the ring of departures."""
    event = DepartureEvent.from_buffer_copy(record)
    return Departure(event.tgid, event.started, event.command.decode(errors="replace"))
