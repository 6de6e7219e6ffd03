"""A process's network namespace: to open sockets in it, and to make it fit for looking up names."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import ipaddress
import os
import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from agent.takeover.events import Address

CLONE_NEWNET = 0x40000000
"""<sched.h>."""

LEASE_SECONDS = 60
RENEW_SECONDS = 20.0
"""Addresses on the loopback end by themselves when the agent no longer renews them."""

ADDRESSES_MAX = 2048
"""Addresses of a family that are read. Few machines have more than some; a node of a cluster has one for each of its services."""

_SIOCGIFCONF = 0x8912
_RTM_NEWADDR, _RTM_DELADDR = 20, 21
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_REPLACE, _NLM_F_CREATE = 1, 4, 0x100, 0x400
_IFA_ADDRESS, _IFA_LOCAL, _IFA_CACHEINFO = 1, 2, 6
_IFA_F_NODAD = 0x02
_SCOPE_HOST = 254
_LOOPBACK = 1
"""Index of the loopback in every network, whatever it is called (LOOPBACK_IFINDEX, include/net/flow.h)."""


def enter(pid: int) -> None:
    """Move this thread, and only this, into the network of a process. Sockets stay where they were opened."""
    theirs = Path(f"/proc/{pid}/ns/net")
    if theirs.stat().st_ino == Path("/proc/thread-self/ns/net").stat().st_ino:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(theirs, os.O_RDONLY)
    try:
        if libc.setns(fd, CLONE_NEWNET):
            code = ctypes.get_errno()
            raise OSError(code, f"the network of process {pid}: {os.strerror(code)}")
    finally:
        os.close(fd)


def is_own(pid: int) -> bool:
    """Whether a process surely has another network than the machine: than process 1, or than the kernel's threads where 1 is out of
    reach."""
    theirs = Path(f"/proc/{pid}/ns/net").stat().st_ino
    for reference in (1, 2):
        with contextlib.suppress(OSError):
            return theirs != Path(f"/proc/{reference}/ns/net").stat().st_ino
    return False


def addresses(pid: int) -> list[Address]:
    """The machine's addresses in the network of a process, the first ones of each family."""
    with ThreadPoolExecutor(1) as inside:
        inside.submit(enter, pid).result()
        return inside.submit(lambda: _addresses(4) + _addresses(6)).result()


class Loopback:
    """Where a network of the workload's own has nothing but the loopback, gives this one more address of each family.

    getaddrinfo with AI_ADDRCONFIG answers only for families of which there is an address other than 127.0.0.1 and ::1
    (getaddrinfo(3)). Nothing is reached through these: IPv4's is one of the loopback's network anyway.
    """

    def __init__(self, pid: int, number: int) -> None:
        """`number` keeps those of several takeovers apart."""
        self._pid = pid
        self._addresses: tuple[Address, ...] = (
            ipaddress.IPv4Address("127.18.0.0") + (number & 0xFFFF),
            ipaddress.IPv6Address("2001:2:0:ffff::") + (number & 0xFFFF),
        )
        self._stopping, self._ready = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="loopback", daemon=True)

    def start(self) -> None:
        """Returns when the addresses are there, or are not needed."""
        self._thread.start()
        self._ready.wait()

    def stop(self) -> None:
        """Take them back."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._keep(self._missing())
        finally:
            self._ready.set()

    def _missing(self) -> list[Address]:
        try:
            if not is_own(self._pid):
                return []
            enter(self._pid)
            return [address for address in self._addresses if not _has_another(address.version)]
        except OSError:  # the process is gone
            return []

    def _keep(self, addresses: list[Address]) -> None:
        while addresses:
            for address in addresses:
                _change(_RTM_NEWADDR, address)
            self._ready.set()
            if self._stopping.wait(RENEW_SECONDS):
                break
        for address in addresses:
            _change(_RTM_DELADDR, address)


def _has_another(version: int) -> bool:
    """Whether this thread's network has an address of a family other than 127.0.0.1 or ::1."""
    return any(str(address) not in ("127.0.0.1", "::1") for address in _addresses(version))


def _addresses(version: int) -> list[Address]:
    """Of a family, in this thread's network; where it has more than ADDRESSES_MAX, the first ones."""
    if version == 6:
        table = Path("/proc/thread-self/net/if_inet6")  # not there where IPv6 is switched off
        lines = table.read_text().splitlines() if table.exists() else []
        return [ipaddress.IPv6Address(bytes.fromhex(line.split()[0])) for line in lines[:ADDRESSES_MAX]]
    # struct ifconf and struct ifreq (netdevice(7)): 40 bytes each, with an IPv4 address at 20.
    buffer = bytearray(40 * ADDRESSES_MAX)
    place = (ctypes.c_char * len(buffer)).from_buffer(buffer)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        filled = fcntl.ioctl(probe, _SIOCGIFCONF, struct.pack("iP", len(buffer), ctypes.addressof(place)))
    length = struct.unpack("iP", filled)[0]
    return [ipaddress.IPv4Address(bytes(buffer[start + 20 : start + 24])) for start in range(0, length, 40)]


def _change(kind: int, address: Address) -> None:
    """Add or remove an address of the loopback (rtnetlink(7)); where the family is switched off, nothing happens."""
    seconds = struct.pack("IIII", LEASE_SECONDS, LEASE_SECONDS, 0, 0)  # struct ifa_cacheinfo: preferred, valid
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    body = struct.pack("BBBBI", family, address.max_prefixlen, _IFA_F_NODAD, _SCOPE_HOST, _LOOPBACK)
    for name, value in ((_IFA_LOCAL, address.packed), (_IFA_ADDRESS, address.packed), (_IFA_CACHEINFO, seconds)):
        body += struct.pack("HH", 4 + len(value), name) + value
    flags = _NLM_F_REQUEST | _NLM_F_ACK | (_NLM_F_CREATE | _NLM_F_REPLACE if kind == _RTM_NEWADDR else 0)
    with contextlib.suppress(OSError), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as link:
        link.send(struct.pack("IHHII", 16 + len(body), kind, flags, 1, 0) + body)
        link.recv(4096)  # the kernel answers when it is done
