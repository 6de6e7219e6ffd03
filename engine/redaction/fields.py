"""The fields of a text with structure, as its reader finds them: what is called how, where it is, and how it is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from engine.redaction import rules
from engine.redaction.content import NotInspected, Reason
from engine.redaction.words import is_opaque

FIELDS_LIMIT = 200_000
"""Fields and brackets of a message that are read. Only texts that may hold a secret are read at all: a second of work."""
FOUND_COST = 4
"""Fields that something found in a text without structure counts for, and a text within a text: what they take of time."""
TEXTS_LIMIT = 16
"""Texts within texts that are gone into: JSON in a string of JSON in a field of a form."""
BASE64_NAMES = frozenset(
    b"plaintext ciphertextblob secretbinary privatekeyplaintext privatekeyciphertextblob sharedsecret binaryvalue".split()
)
"""Fields that are base64 whatever they hold: of KMS and Secrets Manager, which clients decode unasked."""
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
    """What fields stand in: an object, a list, an element.

    `kind`: that of a secret whose name, `secret`, it has, or what it stands in itself. `named`: names of fields that are secret
    because another field says so, which calls them `naming`.
    """

    __slots__ = ("kind", "name", "named", "naming", "parent", "secret")

    def __init__(self, name: bytes, parent: Group | None = None, *, is_secret: bool = False) -> None:
        self.name, self.parent = name, parent
        self.secret: bytes = name if is_secret else parent.secret if parent and not rules.describes(name) else b""
        self.kind = rules.kind_of(self.secret, container=True) if self.secret else None
        self.named: frozenset[bytes] = frozenset()
        self.naming = b""

    @classmethod
    def below(cls, parent: Group | None, name: bytes) -> Group:
        """One that stands in another."""
        return cls(name, parent, is_secret=bool(name) and rules.kind_of(name, container=True) is not None)


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

    def kind(self, raw: bytes, naming: bytes | None, *, parameter: bool = False) -> str | None:
        """Which kind of secret it is by its name, by what it stands in, or by `naming`, what another field calls it.

        In an object of a secret name it may have a name that says nothing. Then it is one if it looks so, or is in a password.
        """
        name = self.name
        kind = rules.kind_of(name, parameter=parameter)
        if not kind and self.group.kind:
            name, kind = self.group.secret, self.group.kind
            if self.name.lower() not in rules.HOLDERS and (
                self.number or rules.describes(self.name) or not (kind == "password" or is_opaque(raw))
            ):
                kind = None
        if not kind and naming:
            name, kind = naming, rules.kind_of(naming)
        if kind and self.number:
            return kind if rules.is_secret_number(name, kind, raw) else None
        return None if kind and rules.is_count(name, raw) else kind

    def note(self, value: bytes) -> bool:
        """Whether this says that another field of its group is secret; the group then knows."""
        group = self.group.parent if self.inner else self.group
        if self.name == b"kty":
            named, value = rules.JWK_PRIVATE if value in rules.JWK_TYPES else frozenset(), b"private_key"
        else:
            named = rules.values_of(self.name) if rules.kind_of(value) else frozenset()
        if not group or not named:
            return False
        group.named |= named
        group.naming = value
        return True

    def is_base64(self) -> bool:
        """Whether clients decode it as base64 whatever it looks like: they fail where it is none."""
        if self.name.lower() in BASE64_NAMES or self.name in (b"B", b"BS"):  # DynamoDB
            return True
        return self.name == b"data" and self.group.name == b"payload"  # Google's Secret Manager

    def in_cards(self) -> bool:
        """Whether it stands where card numbers do."""
        return rules.is_about_cards(self.name) or rules.is_about_cards(self.group.name)

    def named(self) -> bytes | None:
        """What another field calls it, where that is the name of a secret."""
        if self.inner and self.group.named:
            return self.group.naming
        name = self.name
        group: Group | None = self.group
        for _ in range(ANCESTORS_LIMIT):
            if group is None:
                return None
            if name.lower() in group.named:
                return group.naming
            name, group = group.name, group.parent
        return None


def _same(value: bytes) -> bytes:
    return value


def _as_is(value: bytes, _: bytes) -> bytes:
    return value


PLAIN = Codec(_same, _as_is)
"""For values that are written as they are."""
