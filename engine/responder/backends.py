"""Whose answers a responder has, and which of them a request is for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address

from engine.matching.index import Index
from engine.pairing.description import host_and_port, host_name
from engine.protocols import HTTP1, HTTP2, TUNNEL, UNKNOWN
from engine.responder.destination import Destination
from engine.rrpair import Flow, Role
from engine.snapshot import Snapshot
from engine.store import Entry

Place = tuple[str, int]
"""A backend: host in lower case, and port."""

_PROTOCOLS = {HTTP2: "HTTP/2", HTTP1: "HTTP/1.1 that could not be read", UNKNOWN: "a protocol that is not known"}
"""What people call them."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What a connection says of whom it was meant for.

    `destination` is where it was redirected from, or the target of its CONNECT. `port` is the responder's own.
    """

    tls: bool
    server_name: str
    destination: Destination | None
    port: int


class Backends:
    """The backends of a snapshot that are stood in for."""

    def __init__(self, snapshot: Snapshot, only: Iterable[str] = (), excluded: Iterable[str] = ()) -> None:
        """Read the snapshot. `only` and `excluded` name backends by HOST or HOST:PORT.

        Raises SnapshotError, and ValueError where a name is no backend's, or `only` leaves nobody to stand in for.
        """
        self._only, self._left_out = set(only), {*excluded, *snapshot.unchecked}
        self._served = snapshot.served()
        """Addresses and ports at which the recorded workload itself was asked."""
        self._served_ports = {port for _, port in self._served}
        self.indexes: dict[Place, Index] = {}
        self.off: set[Place] = set()
        """Not stood in for by choice."""
        self.unservable: set[Place] = set()
        """Recorded, but in a protocol that is not spoken, or not understood."""
        self.addresses: dict[Place, set[str]] = {}
        """Where they were reached when they were recorded."""
        self.unread: dict[Place, str] = {}
        """In what protocol they said something that could not be read, so was not recorded."""
        self._tls: dict[Place, bool] = {}
        self.own: dict[Place, set[str]] = {}
        """The recorded workload itself, and where a part of it reached it, as a test does that starts its service: it is there
        again, perhaps at another address, so it is neither stood in for nor let through unless it is named."""
        for entry in snapshot.entries():
            if self._take(entry, snapshot):
                self.indexes[entry.host, entry.port].add(entry)
        for entry in snapshot.unread_entries():
            if self._take(entry, snapshot):
                self.indexes[entry.host, entry.port].add_unread(entry)
        for entry in snapshot.partial_entries():
            if entry.host and self._take(entry, snapshot):
                self.indexes[entry.host, entry.port].add_partial(entry)
        for index in self.indexes.values():
            index.settle()
        self._take_flows(snapshot.flows())
        self.own = {place: addresses for place, addresses in self.own.items() if place not in self.addresses}
        self.off = {place for place in self.addresses if not self._is_wanted(place)}
        self.unservable = self.addresses.keys() - self.indexes.keys() - self.off
        self._check_names(set(only), set(excluded), snapshot)
        self._ports: dict[str, list[int]] = {}
        for host, port in self.indexes:
            self._ports.setdefault(host, []).append(port)

    def _take(self, entry: Entry, snapshot: Snapshot) -> bool:
        """Note a pair's backend; return whether it is stood in for."""
        place = (entry.host, entry.port)
        if entry.method == "CONNECT":  # what went through the tunnel is recorded by itself, of the server that it led to
            return False
        if not self._see(place, entry.address):
            return False
        if entry.protocol != HTTP1 or 0 < entry.status < 200:
            return False
        self._tls[place] = entry.tls
        if place not in self.indexes and self._is_wanted(place):
            self.indexes[place] = Index(snapshot.asked, snapshot.heads)
        return place in self.indexes

    def _see(self, place: Place, address: str) -> bool:
        """Note where somebody was reached; return whether that is a backend."""
        is_own = self._is_own(address, place[1]) and not named_by(place, (*self._only, *self._left_out))
        addresses = (self.own if is_own else self.addresses).setdefault(place, set())
        if address:
            addresses.add(address)
        return not is_own

    def _is_own(self, address: str, port: int) -> bool:
        """Whether the recorded workload answered there. Of the loopback the port tells: it is nobody else's machine."""
        if not address or port not in self._served_ports:
            return False
        return (address, port) in self._served or _is_loopback(address)

    def _take_flows(self, flows: Iterable[Flow]) -> None:
        """What was never parsed cannot be served."""
        for flow in flows:
            connection = flow.connection
            host = host_name(connection.server_name) or connection.remote_address
            is_tunnel = flow.protocol == TUNNEL  # what went through it is recorded by itself, of the server that it led to
            if connection.role is Role.CLIENT and host and not is_tunnel:
                place = (host, connection.remote_port)
                if self._see(place, connection.remote_address) and (place not in self.unread or flow.protocol != HTTP1):
                    self.unread[place] = _PROTOCOLS.get(flow.protocol, flow.protocol)

    def _is_wanted(self, place: Place) -> bool:
        if named_by(place, self._left_out):
            return False
        return not self._only or named_by(place, self._only)

    def _check_names(self, only: set[str], excluded: set[str], snapshot: Snapshot) -> None:
        for name in sorted(only | excluded):
            if any(named_by(place, [name]) for place in self.addresses):
                continue
            host, port = host_and_port(name)
            if name not in excluded or not host or not port or (":" in host and not name.startswith("[")):
                found = sorted({*self.addresses, *self.own})
                places = [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in found]
                known = ", ".join(places) or "none"
                hint = f"; one that was not recorded needs its port: {name}:443" if name in excluded and host and not port else ""
                raise ValueError(f"{name} is no backend of {snapshot.path.name}: it has {known}{hint}")
            self._see((host, port), "")  # a real connection to somebody who was not recorded
            self.off.add((host, port))
        if only and not self.indexes:
            raise ValueError(f"nothing of {', '.join(sorted(only))} is left to stand in for: it is excluded, or cannot be served")

    def place(self, scope: Scope, authority: str) -> Place:
        """Whom a request is for. `authority`: that of its target, else its Host header."""
        host, port = host_and_port(authority)
        found = self._known(scope, host, port)
        if found or not _says_nothing(host):
            return found or (host, self._port(scope, port)[0])
        server_name = host_name(scope.server_name)
        for name in (server_name, scope.destination[0] if scope.destination else ""):
            if name and (found := self._known(scope, name, port)):
                return found
        if port == scope.port and not scope.destination and len(self.indexes) == 1:  # it names the responder itself
            return next(iter(self.indexes))
        if host and port == scope.port and not scope.destination:
            return host, port
        name = host or server_name or (scope.destination[0] if scope.destination else "")
        return name, self._port(scope, port)[0]

    def speaks_tls(self, place: Place, scope: Scope) -> bool:
        """Whether a backend would be asked by TLS; of a client that only knows the responder, the recording tells."""
        return scope.tls if scope.destination else self._tls.get(place, scope.tls)

    def _known(self, scope: Scope, host: str, port: int) -> Place | None:
        ports = self._ports.get(host)
        if not ports:
            return None
        port, certain = self._port(scope, port)
        if port in ports:
            return host, port
        return None if certain or len(ports) > 1 else (host, ports[0])

    @staticmethod
    def _port(scope: Scope, port: int) -> tuple[int, bool]:
        """Port that is meant, and whether that is certain: a name that leads to the responder may come with any port."""
        if scope.destination:
            return scope.destination[1], True
        if port and port != scope.port:
            return port, True
        return 443 if scope.tls else 80, False


def named_by(place: Place, names: Iterable[str]) -> bool:
    """Whether one of these names (HOST or HOST:PORT; an IPv6 address may be in brackets) means the backend."""
    host, port = place
    return any(name.lower().replace("[", "").replace("]", "") in (host, f"{host}:{port}") for name in names)


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False


def _says_nothing(host: str) -> bool:
    """Whether a host's name is none, or an address."""
    try:
        return not host or bool(ip_address(host))
    except ValueError:
        return False
