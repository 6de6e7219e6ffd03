"""The fields of a text with structure, as its reader finds them: what is called how, where it is, and how it is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from engine.redaction import rules
from engine.redaction.content import NotInspected, Reason

FIELDS_LIMIT = 200_000
"""Fields and brackets of a message that are read. Only texts that may hold a secret are read at all: a second of work."""
FOUND_COST = 4
"""Fields that something found in a text without structure counts for, and a text within a text: what they take of time."""
TEXTS_LIMIT = 16
"""Texts within texts that are gone into: JSON in a string of JSON in a field of a form."""
ANCESTORS_LIMIT = 4
"""Levels up that are asked for a name: {"name": "password", "value": {"stringValue": "…"}}."""

Found = TypeVar("Found")


class Budget:
    """What may still be done for a message."""

    def __init__(self) -> None:
        self.fields = FIELDS_LIMIT

    def spend(self, count: int = 1) -> None:
        """Count one field, or so many. Raises NotInspected when there were too many."""
        self.fields -= count
        if self.fields < 0:
            raise NotInspected(Reason.FIELDS)

    def each(self, found: Iterable[Found]) -> Iterator[Found]:
        """Pass on what was found in a text without structure, and count it. Raises NotInspected."""
        for one in found:
            self.spend(FOUND_COST)
            yield one


class Group:
    """What fields stand in: an object, a list, an element. `named`: names of fields that another one says are secret."""

    __slots__ = ("kind", "name", "named", "parent")

    def __init__(self, name: bytes, parent: Group | None, kind: str | None) -> None:
        self.name, self.parent, self.kind = name, parent, kind
        self.named: frozenset[bytes] = frozenset()

    @classmethod
    def below(cls, parent: Group | None, name: bytes) -> Group:
        """One that stands in another. What is below a secret name is secret: {"password": {"S": "…"}}."""
        return cls(name, parent, (parent.kind if parent else None) or (rules.kind_of(name, container=True) if name else None))


@dataclass(frozen=True, slots=True)
class Codec:
    """How a value is written: `decode` and `encode`, which is told how the value was written before."""

    decode: Callable[[bytes], bytes]
    encode: Callable[[bytes, bytes], bytes]


@dataclass(slots=True)
class Field:
    """A value by its span. Not frozen: there are many, and one that is frozen takes three times as long to make.

    `number`: it has no quotes and must stay a number. `inner`: it is the text of the element that `group` is.
    """

    start: int
    end: int
    name: bytes
    group: Group
    codec: Codec
    number: bool = False
    inner: bool = False

    def note(self, value: bytes) -> bool:
        """Whether this says that another field of its group is secret; the group then knows."""
        group = self.group.parent if self.inner else self.group
        if not group or not rules.kind_of(value):
            return False
        group.named |= rules.values_of(self.name)
        return True

    def in_cards(self) -> bool:
        """Whether it stands where card numbers do."""
        return rules.is_about_cards(self.name) or rules.is_about_cards(self.group.name)

    def named(self) -> str | None:
        """Which kind of secret it is by what another field says of it."""
        if self.inner and self.group.named:
            return "token"
        name = self.name
        group: Group | None = self.group
        for _ in range(ANCESTORS_LIMIT):
            if group is None:
                return None
            if name.lower() in group.named:
                return "token"
            name, group = group.name, group.parent
        return None


def _same(value: bytes) -> bytes:
    return value


def _as_is(value: bytes, _: bytes) -> bytes:
    return value


PLAIN = Codec(_same, _as_is)
"""For values that are written as they are."""
