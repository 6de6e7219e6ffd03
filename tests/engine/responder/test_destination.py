"""What is made of the kernel's answers about a connection."""

from __future__ import annotations

import socket
import struct
from asyncio import BaseTransport
from typing import cast

import pytest

from engine.responder.destination import original_destination

OWN, OTHER = ("127.0.0.1", 8443), ("192.0.2.5", 443)


class Connection:
    """A transport and its socket: the kernel says that it was meant for `original`."""

    def __init__(self, original: tuple[str, int]) -> None:
        self._original = original

    def get_extra_info(self, name: str) -> object:
        return {"socket": self, "sockname": OWN}[name]

    def getsockopt(self, _level: int, _name: int, _size: int) -> bytes:
        host, port = self._original
        return struct.pack("=H", socket.AF_INET) + port.to_bytes(2, "big") + socket.inet_aton(host) + bytes(8)


@pytest.mark.parametrize(("original", "found"), [(OTHER, OTHER), (OWN, None)])
def test_what_came_where_it_was_sent_was_not_redirected(original: tuple[str, int], found: tuple[str, int] | None) -> None:
    """netfilter tells of each connection that it tracks, not only of those that it has redirected."""
    assert original_destination(cast(BaseTransport, Connection(original))) == found
