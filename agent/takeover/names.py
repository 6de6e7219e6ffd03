"""What becomes of a name: an address of its own, or the real ones. Pure.

Names of backends get an address each, from ranges kept for tests of networks (RFC 2544, RFC 5180): nobody has them, so none of
them is reached by mistake. That of a backend which keeps its real connection stands for the real one, so that two names at one
address stay apart. Other names are asked for real; where there is no answer they get an address too, so that the call that
follows can be refused under its name.
"""

from __future__ import annotations

import enum
import ipaddress
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from agent.takeover.events import Action, Address

_FIRST4 = int(ipaddress.IPv4Address("198.18.0.0"))
_FIRST6 = int(ipaddress.IPv6Address("2001:2::"))

NAMES_MAX = 65535
"""Names that get an address: half of 198.18.0.0/15, and more than a program asks for in its life."""

SEEN_MAX = 16384
"""Real addresses whose names are remembered, to tell of a refused call by its name."""


@dataclass(frozen=True, slots=True)
class Backend:
    """A backend: its name or address, its port, and the addresses at which it was seen."""

    host: str
    port: int
    addresses: tuple[Address, ...] = ()

    @property
    def literal(self) -> Address | None:
        """The address that the host is; None where it is a name."""
        return parse_address(self.host)


class Way(enum.Enum):
    """How a name is answered."""

    LOOPBACK = "the loopback's addresses"
    OWN = "an address of its own"
    STAND_IN = "an address of its own that stands for the real one, where there is one"
    STAND_IN_OR_OWN = "the same; an address of its own where there is none"
    REAL = "the real addresses, or that there are none"
    REAL_OR_OWN = "the real addresses; one of its own where there are none"
    REAL_OR_NONE = "the real addresses; else, that there is no such name"


@dataclass(slots=True)
class Names:
    """The names of one takeover. `ports` says for each known name what happens to which of its ports; `suffixes` is the search list
    of resolv.conf(5)."""

    ports: Mapping[str, Mapping[int, Action]]
    suffixes: tuple[str, ...] = ()
    pass_unrecorded: bool = False
    _numbers: dict[str, int] = field(default_factory=dict)
    _owners: list[str] = field(default_factory=list)
    _seen: OrderedDict[Address, str] = field(default_factory=OrderedDict)

    def canonical(self, asked: str) -> str:
        """The known name that is meant, or the one that was asked for: resolvers append what is in their search list."""
        return next((name for name in (asked, *self._shortened(asked)) if name in self.ports), asked)

    def _shortened(self, asked: str) -> list[str]:
        """What a program may have meant, the shortest first."""
        return sorted((asked.removesuffix(f".{suffix}") for suffix in self.suffixes if asked.endswith(f".{suffix}")), key=len)

    def way(self, asked: str) -> Way:
        """How to answer for a name."""
        if asked == "localhost" or asked.endswith(".localhost"):  # RFC 6761 section 6.3
            return Way.LOOPBACK
        actions = self.ports.get(self.canonical(asked))
        if actions is not None:
            return self._way_of_known(actions)
        if self.pass_unrecorded:
            return Way.REAL
        # x.example.com.search.list was not meant: the resolver goes on to x.example.com when told so.
        meant = next(iter(self._shortened(asked)), "")
        return Way.REAL_OR_NONE if "." in meant else Way.REAL_OR_OWN

    @staticmethod
    def _way_of_known(actions: Mapping[int, Action]) -> Way:
        if Action.PASS not in actions.values():
            return Way.OWN
        return Way.STAND_IN_OR_OWN if Action.RESPOND in actions.values() else Way.STAND_IN

    def own(self, name: str) -> tuple[ipaddress.IPv4Address, ipaddress.IPv6Address] | None:
        """The addresses of its own that a name has, from now on; None where there are none left."""
        number = self._numbers.get(name)
        if number is None:
            if len(self._owners) >= NAMES_MAX:
                return None
            self._owners.append(name)
            number = self._numbers[name] = len(self._owners)  # x.0 is no host's address
        return ipaddress.IPv4Address(_FIRST4 + number), ipaddress.IPv6Address(_FIRST6 + number)

    def is_own(self, address: Address) -> bool:
        """Whether an address was given to a name."""
        return 0 < self._number(address) <= len(self._owners)

    def owned(self) -> dict[Address, str]:
        """The names by the addresses that they were given."""
        return {address: name for name in list(self._owners) for address in self.own(name) or ()}

    @staticmethod
    def _number(address: Address) -> int:
        return int(address) - (_FIRST4 if address.version == 4 else _FIRST6)

    def saw(self, name: str, addresses: Iterable[Address]) -> None:
        """Remember whose addresses these are; those of the loopback are everybody's."""
        for address in addresses:
            if address.is_loopback:
                continue
            self._seen[address] = name
            self._seen.move_to_end(address)
        while len(self._seen) > SEEN_MAX:
            self._seen.popitem(last=False)

    def name_of(self, address: Address) -> str:
        """Whose address this is; "" where that is not known."""
        if self.is_own(address):
            return self._owners[self._number(address) - 1]
        return self._seen.get(address, "")


def parse_address(text: str) -> Address | None:
    """An address, where it is one; without brackets and zone."""
    try:
        return ipaddress.ip_address(text.strip("[]").partition("%")[0])
    except ValueError:
        return None


def actions_of(recorded: Iterable[Backend], passed: Iterable[Backend]) -> dict[str, dict[int, Action]]:
    """What happens to which ports of which names. A backend that is in both keeps its real connection."""
    found: dict[str, dict[int, Action]] = {}
    for action, backends in ((Action.RESPOND, recorded), (Action.PASS, passed)):
        for backend in backends:
            if backend.literal is None:
                found.setdefault(normal(backend.host), {})[backend.port] = action
    return found


def normal(name: str) -> str:
    """A name as it is compared."""
    return name.rstrip(".").lower()


def read_hosts(text: str) -> dict[str, tuple[Address, ...]]:
    """The names in a hosts(5) file."""
    found: dict[str, list[Address]] = {}
    for line in text.splitlines():
        first, *rest = line.partition("#")[0].split() or [""]
        address = parse_address(first)
        if address is not None:
            for name in map(normal, rest):
                found.setdefault(name, []).append(address)
    return {name: tuple(addresses) for name, addresses in found.items()}


@dataclass(frozen=True, slots=True)
class ResolverConfiguration:
    """What resolv.conf(5) says: servers, in the words of the file, and the search list."""

    servers: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()


SERVERS_MAX = 3
"""MAXNS of resolv.h: more are ignored by everybody."""


def read_resolver_configuration(text: str) -> ResolverConfiguration:
    """Read a resolv.conf(5); the last of several search lists counts."""
    servers: list[str] = []
    suffixes: tuple[str, ...] = ()
    for line in text.splitlines():
        word, *rest = line.split() or [""]
        if word == "nameserver" and rest and parse_address(rest[0]):
            servers.append(rest[0])
        elif word in ("search", "domain"):
            suffixes = tuple(name for name in map(normal, rest) if name)
    return ResolverConfiguration(tuple(servers[:SERVERS_MAX]), suffixes)
