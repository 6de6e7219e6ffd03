"""Where a redirected connection was meant to go, and whose it is."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

ORIGINAL_DST = 80
"""SO_ORIGINAL_DST of linux/netfilter_ipv4.h, and IP6T_SO_ORIGINAL_DST."""

CALLER = 0x5553
"""TAKEOVER_CALLER of probes/takeover.bpf.c."""

_CALLER = struct.Struct("=I16s")

Destination = tuple[str, int]
OriginalDestination = Callable[[asyncio.BaseTransport], Destination | None]

_IPV4, _IPV6 = struct.Struct("!2xH4s8x"), struct.Struct("!2xHI16sI")


def original_destination(transport: asyncio.BaseTransport) -> Destination | None:
    """Ask the kernel; None where the connection was not redirected. Where netfilter tracks it, that is told by our own address."""
    sock = transport.get_extra_info("socket")
    if sock is None:
        return None
    for level in (socket.SOL_IP, socket.IPPROTO_IPV6):
        try:
            found = _destination(sock.getsockopt(level, ORIGINAL_DST, _IPV6.size))
            return None if found == transport.get_extra_info("sockname")[:2] else found
        except (OSError, struct.error):
            continue  # a level is refused where the socket, or the call, is not of its family
    return None


def _destination(answer: bytes) -> Destination:
    """From struct sockaddr_in or sockaddr_in6: a takeover tells of a call by IPv6 also on a socket of IPv4."""
    if int.from_bytes(answer[:2], sys.byteorder) == socket.AF_INET6:
        port, _, packed, _ = _IPV6.unpack(answer)
        found = IPv6Address(packed)
        return str(found.ipv4_mapped or found), port
    port, packed = _IPV4.unpack(answer)
    return str(IPv4Address(packed)), port


def is_taken_over(transport: asyncio.BaseTransport) -> bool:
    """Whether a takeover vouches for a connection: that of its command. Nobody else can have one that it knows."""
    return _caller(transport) is not None


def calling_program(transport: asyncio.BaseTransport) -> str:
    """The name of the program whose connection was redirected; "" where it was not."""
    return _caller(transport) or ""


def _caller(transport: asyncio.BaseTransport) -> str | None:
    sock = transport.get_extra_info("socket")
    try:
        _, name = _CALLER.unpack(sock.getsockopt(socket.SOL_IP, CALLER, _CALLER.size))
    except (AttributeError, OSError, struct.error):
        return None
    return str(name.partition(b"\0")[0].decode(errors="replace"))
