"""Finds secrets by what stands beside them: what secret managers hand out and take, numbers of cards, codes, positional passwords.

The names of these fields say nothing (`value`, `data`, `raw`, names that people gave). What an object says of itself decides, and
where that is not enough, the path of the request.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from engine.redaction import rules
from engine.redaction.fields import Field, Group
from engine.redaction.tokens import is_luhn_valid
from engine.redaction.words import is_opaque

BASE64 = "base64"
"""The kind of a secret that is written in base64 and must stay so."""
PLACE_LIMIT = 512
"""Bytes of a request's target that are looked at, for every outermost object of a body is."""
Span = tuple[int, int]

_VALUE_AT = re.compile(
    rb"[^?]*/(?:secrets/[^/?]+(?:/[^/?]+)?|(?:keys|certificates)/(?:restore|[^/?]+/(?:backup|import)"
    rb"|[^/?]+/[^/?]+/(?:de|en|wrap|unwrap)(?:crypt|key)))(?:\?|$)"
)
"""Azure Key Vault: `value` is the secret itself, or a key, also as a backup."""
_AZURE_ID = re.compile(rb"https?://[^/]+/secrets/[^/]+")
_KEYS_AT = re.compile(rb"(?i)[^?]*/(?:list|regenerate)(?:admin|query)?keys?(?:\?|$)")
_KEY_NAMES = frozenset(b"key key1 key2 primaryKey secondaryKey value".split())
_GOOGLE_NAME = re.compile(rb"projects/[^/]+/(?:locations/[^/]+/)?secrets/[^/]+/versions/")
_GOOGLE_ADD = re.compile(rb"[^?]*/secrets/[^/?]+:addVersion")
_VAULT_ADMIN = re.compile(rb"/v1/(?:sys/(?!wrapping/)|auth/|identity/)")
_VAULT_DATA = re.compile(rb"/v1/(?:[^/?]+/){1,4}data/")
_VAULT_FLAT = re.compile(rb"/v1/(?:secret|kv|cubbyhole)/(?!(?:data|metadata|delete|undelete|destroy|config)(?:/|$))")
_DOPPLER_AT = re.compile(rb"/v3/configs/config/secrets?(?:[/?]|$)")
_DOPPLER_ALL = re.compile(rb"/v3/configs/config/secrets/download")
_KUBERNETES_AT = re.compile(rb"[^?]*/namespaces/[^/?]+/secrets(?:[/?]|$)")
_CONCEALED = frozenset((b"CONCEALED", b"OTP"))
_EXPIRY = re.compile(rb"(?i)(?:card)?exp(?:iry|iration)?[_\-]?(?:month|mm|date|year|yy)?")
_CARD = re.compile(rb"[2-6][0-9]{12,18}|[56][0-9]{11}")
_BOUND = re.compile(rb"([A-Za-z_]\w{0,63})\s*:\s*\$(\w{1,64})")
"""GraphQL: an argument that is a variable."""


def managed(text: bytes, fields: list[Field], place: bytes) -> dict[int, str]:
    """Give which of the fields are secrets, with their kinds. `place`: the target of the request, where the text is a body."""
    place = place[:PLACE_LIMIT]
    return _Objects(text, fields).secrets(place) if rules.PLACE.found(place) or rules.MANAGED.found(text) else {}


class _Objects:
    """The fields of a text by the objects that they stand in."""

    def __init__(self, text: bytes, fields: list[Field]) -> None:
        self._text, self._fields = text, fields
        self._names: dict[Group, dict[bytes, int]] = {}
        self._parts: dict[Group, dict[bytes, Group]] = {}
        self._items: dict[Group, list[int]] = {}
        self._whole: dict[Group, str] = {}
        for at, field in enumerate(fields):
            group = (field.group.parent or field.group) if field.inner else field.group
            self._note(group)
            self._names[group][field.name] = at
            self._items.setdefault(group, []).append(at)

    def _note(self, group: Group) -> None:
        while group not in self._names:
            self._names[group] = {}
            if group.parent is None:
                return
            self._parts.setdefault(group.parent, {}).setdefault(group.name, group)
            group = group.parent

    def _value(self, at: int) -> bytes:
        field = self._fields[at]
        return field.codec.decode(self._text[field.start : field.end])

    def _says(self, group: Group | None, name: bytes) -> bytes:
        """What the field of that name in an object is; empty where there is none."""
        at = self._names[group].get(name) if group else None
        return b"" if at is None else self._value(at)

    def secrets(self, place: bytes) -> dict[int, str]:
        found: dict[int, str] = {}
        for group, names in self._names.items():
            for name, kind in self._in(group, names, place):
                found[names[name]] = kind
            found.update(self._bound(group, names))
            self._note_wholes(group, place)
        if place:
            for group in self._names:
                if group.parent and not group.parent.parent:
                    found.update(self._at(group, place))
        if self._whole:
            found.update(self._within())
        return found

    def _in(self, group: Group, names: dict[bytes, int], place: bytes) -> Iterator[tuple[bytes, str]]:
        """The secrets of an object: their names and kinds."""
        if b"value" in names:
            azure = _AZURE_ID.match(self._says(group, b"id"))
            storage = b"keyName" in names and is_opaque(self._says(group, b"value"))
            onepassword = self._says(group, b"type") in _CONCEALED or self._says(group, b"purpose") == b"PASSWORD"
            if azure or storage or onepassword:
                yield b"value", "token"
        if b"primaryKey" in names and b"secondaryKey" in names:
            yield from ((name, "token") for name in (b"primaryKey", b"secondaryKey") if is_opaque(self._says(group, name)))
        if b"op" in names and b"value" in names and _KUBERNETES_AT.match(place):
            yield b"value", BASE64
        if b"raw" in names and b"computed" in names and self._is_doppler(group, place):
            yield from ((name, "token") for name in (b"raw", b"computed"))
        if b"data" in names and group.name == b"payload" and _GOOGLE_NAME.match(self._says(group.parent, b"name")):
            yield b"data", BASE64
        if b"accessor" in names and (b"client_token" in names or b"policies" in self._parts.get(group, ())):
            yield b"accessor", "token"
        if b"code" in names and b"redirect_uri" in names:
            yield b"code", "token"  # RFC 6749 section 4.1.3
        if self._is_card(group, names):
            for name in names:
                digits = self._value(names[name]).translate(None, b" -")
                if _CARD.fullmatch(digits) and is_luhn_valid(digits) and not rules.describes(name):
                    yield name, "card"

    def _is_doppler(self, group: Group, place: bytes) -> bool:
        above = group.parent.name if group.parent else b""
        return above == b"secrets" or b"rawVisibility" in self._names[group] or _DOPPLER_AT.match(place) is not None

    def _is_card(self, group: Group, names: dict[bytes, int]) -> bool:
        return any(_EXPIRY.fullmatch(name) or rules.kind_of(name) == "card" for name in (*names, *self._parts.get(group, ())))

    def _bound(self, group: Group, names: dict[bytes, int]) -> Iterator[tuple[int, str]]:
        """Secrets by their place: variables that GraphQL binds to a secret name, the third argument of Odoo's calls."""
        parts = self._parts.get(group, {})
        if b"query" in names and b"variables" in parts:
            variables = self._names[parts[b"variables"]]
            for name, variable in _BOUND.findall(self._value(names[b"query"])):
                kind = rules.kind_of(name)
                if kind and variable in variables:
                    yield variables[variable], kind
        if b"args" in parts and (self._says(group, b"service"), self._says(group, b"method")) in _POSITIONAL:
            yield from ((at, "password") for at in self._items.get(parts[b"args"], [])[2:3])

    # -- objects of which everything is secret -----------------------------------------------------------------------------

    def _note_wholes(self, group: Group, place: bytes) -> None:
        names, parts = self._names[group], self._parts.get(group, {})
        if b"lease_id" in names and b"data" in parts and not _VAULT_ADMIN.match(place):
            self._note_vault(parts[b"data"])
        listed = group.parent.parent if group.parent and group.parent.name == b"items" else None
        if self._says(group, b"kind") == b"Secret" or self._says(listed, b"kind") == b"SecretList":
            self._note_kubernetes(parts)

    def _note_kubernetes(self, parts: dict[bytes, Group]) -> None:
        self._whole.update((parts[name], kind) for name, kind in ((b"data", BASE64), (b"stringData", "token")) if name in parts)

    def _note_vault(self, data: Group) -> None:
        """KV v2 has its data beside their metadata, KV v1 and other engines have nothing else."""
        names, parts = self._names[data], self._parts.get(data, {})
        metadata = parts.get(b"metadata")
        if metadata and b"created_time" in self._names[metadata]:
            self._whole.update({parts[b"data"]: "token"} if b"data" in parts else {})
            return
        is_metadata = b"created_time" in names and (b"deletion_time" in names or b"versions" in parts)
        is_metadata = is_metadata or b"current_version" in names
        is_list = not names and list(parts) == [b"keys"] and self._names[parts[b"keys"]].keys() <= {b"keys"}
        is_certificate = b"certificate" in names and b"serial_number" in names
        if not (is_metadata or is_list or is_certificate):
            self._whole[data] = "token"

    def _at(self, top: Group, place: bytes) -> Iterator[tuple[int, str]]:
        """The secrets of an outermost object by the path alone."""
        names, parts = self._names[top], self._parts.get(top, {})
        if b"value" in names and _VALUE_AT.match(place):
            yield names[b"value"], "token"
        if _KEYS_AT.match(place):
            yield from ((at, "token") for name, at in names.items() if name in _KEY_NAMES and is_opaque(self._value(at)))
        if _GOOGLE_ADD.match(place) and b"payload" in parts:
            payload = self._names[parts[b"payload"]]
            yield from ((at, BASE64) for name, at in payload.items() if name == b"data")
        if _DOPPLER_ALL.match(place):
            self._whole[top] = "token"
        elif _DOPPLER_AT.match(place) and b"secrets" in parts:
            self._whole[parts[b"secrets"]] = "token"
        if _KUBERNETES_AT.match(place):
            self._note_kubernetes(parts)
        data = parts.get(b"data")
        if data and _VAULT_DATA.match(place) and not names and parts.keys() <= {b"data", b"options"}:
            inner = self._parts.get(data, {})
            if b"data" in inner and not self._names[data]:
                self._whole[inner[b"data"]] = "token"  # an answer
            elif b"attributes" not in inner:
                self._whole[data] = "token"
        elif _VAULT_FLAT.match(place) and b"lease_id" not in names and b"errors" not in parts:
            self._whole[top] = "token"

    def _within(self) -> Iterator[tuple[int, str]]:
        """All texts and long numbers in the objects that are secret as a whole, but for what was made by encrypting."""
        kinds: dict[Group | None, str] = {None: ""}
        for at, field in enumerate(self._fields):
            chain: list[Group] = []
            group: Group | None = field.group
            while group is not None and group not in kinds:
                chain.append(group)
                group = group.parent
            for each in reversed(chain):
                kinds[each] = self._whole.get(each) or kinds[each.parent]
            kind = kinds[field.group]
            raw = self._text[field.start : field.end]
            if kind and not raw.startswith(b"vault:v") and (not field.number or rules.is_secret_number(b"", "token", raw)):
                yield at, kind


_POSITIONAL = {(b"common", b"login"), (b"common", b"authenticate"), (b"object", b"execute"), (b"object", b"execute_kw")}
"""Odoo: a database, a user, and a password come first."""

# -- manifests of Kubernetes in YAML -------------------------------------------------------------------------------------

_NEXT = re.compile(rb"^(?:---|- )", re.MULTILINE)
_IS_SECRET = re.compile(rb"^(?:- |  )?kind:[ \t]*[\"']?Secret[\"']?[ \t]*\r?$", re.MULTILINE)
_DATA = re.compile(rb"^(- |  )?(data|stringData):[ \t]*\r?\n", re.MULTILINE)
_ENTRY = re.compile(rb"([ ]*)[\"']?[A-Za-z0-9._\-]+[\"']?:[ \t]+([^\r\n]*)")
_BLOCK = re.compile(rb"[|>][+\-0-9]{0,2}[ \t]*")


def manifests(text: bytes) -> Iterator[tuple[Span, str]]:
    """The values in `data` and `stringData` of each Secret, and their kinds."""
    if not _IS_SECRET.search(text):
        return
    starts = [0, *[found.start() for found in _NEXT.finditer(text)], len(text)]
    for start, end in pairwise(starts):
        if _IS_SECRET.search(text, start, end):
            for data in _DATA.finditer(text, start, end):
                kind = BASE64 if data[2] == b"data" else "token"
                yield from ((span, kind) for span in _entries(text, data.end(), end, len(data[1] or b"")))


def _entries(text: bytes, at: int, end: int, column: int) -> Iterator[Span]:
    """The values of a mapping whose key is in that column. Of a block scalar the lines are one value."""
    block: tuple[int, int, int] | None = None
    while at < end:
        stop = text.find(b"\n", at, end)
        stop = end if stop < 0 else stop
        line = text[at:stop]
        indent = len(line) - len(line.lstrip(b" "))
        if block and (not line.strip() or indent > block[0]):
            first = block[1] if block[1] >= 0 else at + indent
            block = block if not line.strip() else (block[0], first, at + len(line.rstrip()))
        else:
            if block and block[1] >= 0:
                yield block[1:]
            block = None
            if line.strip() and indent <= column:
                return
            entry = _ENTRY.match(text, at, stop)
            if entry and _BLOCK.fullmatch(entry[2]):
                block = (indent, -1, -1)
            elif entry:
                value = entry[2].strip()
                quoted = len(value) > 1 and value[:1] in (b'"', b"'") and value[-1:] == value[:1]
                yield entry.start(2) + quoted, entry.start(2) + len(entry[2].rstrip()) - quoted
        at = stop + 1
    if block and block[1] >= 0:
        yield block[1:]
