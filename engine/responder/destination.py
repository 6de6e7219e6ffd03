"""Where a redirected connection was meant to go."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

ORIGINAL_DST = 80
"""SO_ORIGINAL_DST of linux/netfilter_ipv4.h, and IP6T_SO_ORIGINAL_DST."""

Destination = tuple[str, int]
OriginalDestination = Callable[[asyncio.BaseTransport], Destination | None]

_IPV4, _IPV6 = struct.Struct("!2xH4s8x"), struct.Struct("!2xHI16sI")


def original_destination(transport: asyncio.BaseTransport) -> Destination | None:
    """Ask the kernel; None where the connection was not redirected."""
    sock = transport.get_extra_info("socket")
    if sock is None:
        return None
    try:
        return _ipv4(sock) or _ipv6(sock)
    except (OSError, struct.error):
        return None


def _ipv4(sock: socket.socket) -> Destination | None:
    """By struct sockaddr_in; a socket of IPv6 may hold a connection by IPv4, too."""
    try:
        port, address = _IPV4.unpack(sock.getsockopt(socket.SOL_IP, ORIGINAL_DST, _IPV4.size))
    except OSError:
        return None
    return str(IPv4Address(address)), port


def _ipv6(sock: socket.socket) -> Destination | None:
    """By struct sockaddr_in6."""
    if sock.family != socket.AF_INET6:
        return None
    port, _, address, _ = _IPV6.unpack(sock.getsockopt(socket.IPPROTO_IPV6, ORIGINAL_DST, _IPV6.size))
    found = IPv6Address(address)
    return str(found.ipv4_mapped or found), port
