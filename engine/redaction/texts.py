"""Replaces the secrets of a text: fields by their names, wherever they are nested, and what is known by its form.

Only the bytes of a secret change. Each text is first searched for hints, once; only those with one are read further.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar
from urllib.parse import unquote_to_bytes

from engine.redaction import rules
from engine.redaction.content import NotInspected, Reason
from engine.redaction.csv_text import csv_fields
from engine.redaction.echoes import Echoes
from engine.redaction.edits import Edit, apply
from engine.redaction.fields import FOUND_COST, TEXTS_LIMIT, Budget, Codec, Field, Group
from engine.redaction.form_text import FORM, form_fields, looks_like_form, looks_like_url, quote, unquote, url_fields
from engine.redaction.json_text import STRING, json_fields
from engine.redaction.managers import BASE64, managed, manifests
from engine.redaction.originals import Originals
from engine.redaction.plain import Assignment, assignments, is_padding, keys, named_values, parameter_end, private_keys
from engine.redaction.refit import Allowance
from engine.redaction.tokens import Tokens, begins_with_token, is_jwt, is_luhn_valid, is_text, is_token
from engine.redaction.words import is_opaque, is_word
from engine.redaction.xml_text import XML, xml_fields

__all__ = ["Search", "Texts", "apply", "settled"]

Reader = Callable[[bytes, Budget], Iterator[Field]]
Redacted = TypeVar("Redacted")

SHORTEST = 5
"""Bytes of the shortest text with something secret in it: `pin=1`."""

NESTED_LENGTH, NESTED_LIMIT = 4096, 1000
"""Bytes of the longest text within another that is remembered while its message is searched, and how many are."""

ROUNDS_LIMIT = 8
"""Times that something is gone through until nothing changes any more: two, but for garbage in which a token makes one form of
another."""

_FIRST = re.compile(rb"(?:\xef\xbb\xbf)?\s*+(.)", re.DOTALL)
_PROGRAM = re.compile(rb"(?i)[^;]*(?:html|javascript|ecmascript|css|graphql)")
_QUERIES = frozenset((b"query", b"mutation"))
_SIGV4 = re.compile(rb"Credential=([^/,\s]+)|Signature=([0-9a-fA-F]+)")
_STRUCTURED = re.compile(rb"[\\%<&=?+:]")
"""One of these is in every value with something in it that the search through the whole text does not see."""
_AROUND = b" \t\r\n=\\\"'`"
"""What may stand around a token that was put into a text that is not well-formed."""
_BLANKS = re.compile(rb"\s|\\[nrt]")
_PRINTABLE = frozenset(range(0x21, 0x7F))
_NUMBER = re.compile(rb"-?[0-9][0-9.eE+\-]*")
_CONNECTION = re.compile(rb"[A-Za-z][^=;]*+=[^;]++(?:;[A-Za-z][^=;]*+=[^;]*+)++;?+")
_PART = re.compile(rb"([^=;]++)=([^;]*+)")
_ESCAPES = {b"&quot;": XML, b"&#34;": XML, b"&#39;": XML}


class Search:
    """What came of looking through a message so far. `echoes`: the secrets of the request that it answers, or none yet.

    `target`: of the request. `placed`: it may tell by itself that something in the bodies is secret.
    """

    def __init__(self, echoes: Echoes, target: bytes = b"") -> None:
        self.target, self.placed = target, rules.PLACE.found(target)
        self.kinds: set[str] = set()
        self.budget = Budget()
        self.checksums = Allowance()
        self.originals = Originals()
        self.echoes = Echoes(echoes)
        self.nested: dict[tuple[bytes, bool], bytes] = {}
        """Short texts that were found within others, and what became of them."""

    def echoed(self, text: bytes) -> bytes:
        """Give a text without the secrets that were recognised so far."""
        return self.echoes.replaced(text, self.originals)


class Texts:
    """Replaces secrets in texts of all kinds."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def text(self, text: bytes, search: Search, *, media: bytes = b"", depth: int = 0, bare: bool = True) -> bytes:
        """Give a text without its secrets; the same object where it has none. Raises NotInspected.

        `bare`: whether words without quotes may be values. In programs and queries they are expressions.
        """
        if len(text) < SHORTEST or not ((search.placed and not depth) or rules.HINT.found(text)):
            return text
        if depth > TEXTS_LIMIT:
            raise NotInspected(Reason.TEXTS)
        if not depth or media or len(text) > NESTED_LENGTH:
            return self._searched(text, search, media, depth, bare)
        # A field that holds a query is a part of a query, too: gone into by both ways, each level would double the work.
        found = search.nested.get((text, bare))
        if found is None:
            found = self._searched(text, search, media, depth, bare)
            if len(search.nested) < NESTED_LIMIT:
                search.nested[text, bare] = found
        return found

    def _searched(self, text: bytes, search: Search, media: bytes, depth: int, bare: bool) -> bytes:
        if depth:
            search.budget.spend(FOUND_COST)
        bare = bare and not _PROGRAM.match(media[:256])
        reader = _reader(text, media)
        changed = self._fields(text, list(reader(text, search.budget)), search, depth, bare) if reader else text
        return self._plain(changed, search, depth, bare, read=reader is not None)

    def query(self, query: bytes, search: Search) -> bytes:
        """The same of a URL's query."""
        fields = list(form_fields(query, search.budget))
        return self._fields(query, fields, search, 0, bare=True, parameters=True)

    def secret(self, name: bytes, value: bytes, kind: str, search: Search, *, echoes: bool = True, base64: bool = False) -> bytes:
        """Give what stands in for a value that is secret by its name; of one without a name nothing is kept but a token.

        `echoes`: whether the value is secret wherever else it stands. `base64`: whether clients decode it whatever it looks like.
        """
        bare = value.strip(_AROUND)
        if not bare.strip(b"*") or begins_with_token(bare):
            return value
        if name[-13:].lower() in (b"authorization", b"authorisation"):
            new = self.credentials(value, search)
        elif name and bare.startswith(b"-----BEGIN") and b"-----END" in bare[-80:] and bare.count(b"-----BEGIN") == 1:
            new = self._private_keys(value, search)
        elif name and bare[:1] in (b"{", b"[") and _is_json(value):
            new = self._json(value, kind, search)
        elif rules.is_connection(name) and _CONNECTION.fullmatch(value):
            new = self._connection(value, search)
        else:
            new = self._token(value, search, echoes=echoes, base64=base64)
        if new != value:
            search.kinds.add(kind)
            return new
        return value

    def _token(self, secret: bytes, search: Search, *, echoes: bool = True, base64: bool = False) -> bytes:
        token = self._tokens.value(secret, search.originals, base64=base64)
        if echoes:
            search.echoes.add(secret, token)
            if rules.CARD_WHOLE.fullmatch(secret):
                search.echoes.add(secret.translate(None, b" -"), token.translate(None, b" -"))
        return token

    def _json(self, value: bytes, kind: str, search: Search) -> bytes:
        """Of JSON all texts but those whose names describe them. JSON within doubles its escapes each time, so it is never deep."""
        search.budget.spend(FOUND_COST)
        fields = list(json_fields(value, search.budget, group=Group(b"password", is_secret=True)))
        return self._fields(value, fields, search, 0, bare=True, within=kind)

    def _connection(self, value: bytes, search: Search) -> bytes:
        """Of a connection string the parts that are secret by their name or look so."""
        edits: list[Edit] = []
        for part in search.budget.each(_PART.finditer(value)):
            name, secret = part[1].strip(), part[2].strip()
            opaque = (is_opaque(secret) or name.lower().endswith(b"signature")) and not rules.describes(name)
            if secret and (opaque or rules.kind_of(name)):
                edits.append((*part.span(2), self._token(secret, search), ""))
        return apply(value, edits) if edits else self._token(value, search)

    def originals(self, search: Search) -> bytes:
        """Give what tells the secrets that were found from others with the same tokens: see `engine.redaction.originals`."""
        return self._tokens.digest(search.originals)

    def credentials(self, value: bytes, search: Search) -> bytes:
        """RFC 9110 section 11.6.2: a known scheme stays; of SigV4 all that is not secret stays."""
        scheme, blank, credentials = value.partition(b" ")
        lower = scheme.lower()
        if lower.startswith(b"aws4-"):
            edits = []
            for part in _SIGV4.finditer(credentials):
                group = 1 if part[1] else 2
                edits.append((*part.span(group), self._token(part[group], search), ""))
            if edits:
                return scheme + blank + apply(credentials, edits)
        if not credentials.strip():
            return self._token(value, search)
        if lower == b"basic":
            return scheme + blank + self.basic(credentials, search)
        if lower in rules.SCHEMES:
            return scheme + blank + self._token(credentials, search)
        search.echoes.add(credentials, self._tokens.value(credentials, Originals()))
        return self._token(value, search)

    def basic(self, credentials: bytes, search: Search) -> bytes:
        """RFC 7617: user and password each become a token, and the whole stays valid base64.

        A user's name is no secret where it stands elsewhere; without a password it is a key.
        """
        try:
            user, colon, password = b64decode(credentials, validate=True).partition(b":")
        except ValueError:
            return self._token(credentials, search)
        if not colon:
            return self._token(credentials, search)
        made = [user and self._token(user, search, echoes=not password), password and self._token(password, search)]
        new = b64encode(colon.join(made))
        search.echoes.add(credentials, new)
        return new

    # -- fields ------------------------------------------------------------------------------------------------------------

    def _fields(
        self,
        text: bytes,
        fields: list[Field],
        search: Search,
        depth: int,
        bare: bool,
        *,
        parameters: bool = False,
        within: str | None = None,
    ) -> bytes:
        """`within`: the kind of the secret whose fields these are: texts are secret whose names do not describe them."""
        edits: list[Edit] = []
        named = granted = False
        for field in fields:
            if field.name in rules.NAMING_AS_SPELT and not field.number:
                named = field.note(text[field.start : field.end]) or named
            granted = granted or field.name == b"grant_type"
        beside = managed(text, fields, b"" if depth else search.target)
        for at, field in enumerate(fields):
            raw = text[field.start : field.end]
            if beside.get(at) == BASE64:
                if (new := self._coded(field.name, raw, search)) != raw:
                    edits.append((field.start, field.end, new, ""))
                continue
            kind = beside.get(at) or self._kind(text, field, raw, field.named() if named else None, parameter=parameters)
            if granted and field.name == b"code":
                kind = "token"  # RFC 6749 section 4.1.3
            if not kind and rules.CARD_WHOLE.fullmatch(raw) and self._is_card(raw) and field.in_cards():
                kind = "card"
            if within and not kind and not field.number and field.group.secret and not rules.describes(field.name):
                kind = within
            new = self._number(raw, kind, search) if field.number else self._value(field, raw, kind, search, depth, bare)
            if new != raw:
                edits.append((field.start, field.end, new, ""))
        return apply(text, edits) if edits else text

    def _coded(self, name: bytes, raw: bytes, search: Search) -> bytes:
        """What is written in base64 stays so, whatever its length."""
        try:
            secret = b64decode(raw.replace(b"\\/", b"/"), validate=True)
        except ValueError:
            return self.secret(b"", raw, "token", search)
        if not is_text(secret) or not (b"-----BEGIN" in secret or _is_json(secret)):
            return self.secret(b"", raw, "token", search, base64=True)
        new = self.secret(name, secret, "token", search)
        if new == secret:
            return raw
        search.echoes.add(raw, b64encode(new))
        return b64encode(new)

    @staticmethod
    def _kind(text: bytes, field: Field, raw: bytes, naming: bytes | None, *, parameter: bool = False) -> str | None:
        kind = field.kind(raw, naming, parameter=parameter)
        if kind and field.codec is STRING and is_word(text, field.name, field.start, field.end, STRING.decode(raw)):
            return None
        return kind

    def _number(self, raw: bytes, kind: str | None, search: Search) -> bytes:
        new = self._tokens.number(raw, search.originals) if kind else raw
        if kind and new != raw:
            search.kinds.add(kind)
            search.echoes.add(raw, new)
        return new

    def _value(self, field: Field, raw: bytes, kind: str | None, search: Search, depth: int, bare: bool) -> bytes:
        if not kind and not _STRUCTURED.search(raw):
            return raw
        value = field.codec.decode(raw)
        if not kind and value != raw and self._is_card(value) and field.in_cards():
            kind = "card"
        if kind:
            new = self.secret(field.name, value, kind, search, base64=field.is_base64())
        else:
            bare = bare and field.name.lower() not in _QUERIES
            new = self.text(value, search, depth=depth + 1, bare=bare)
        return raw if new == value else field.codec.encode(new, raw)

    @staticmethod
    def _is_card(value: bytes) -> bool:
        return rules.CARD_WHOLE.fullmatch(value) is not None and is_luhn_valid(value.translate(None, b" -"))

    # -- texts without structure -------------------------------------------------------------------------------------------

    def _plain(self, text: bytes, search: Search, depth: int, bare: bool, *, read: bool) -> bytes:
        """One pass for each kind of thing, each over what the one before left. `read`: whether its fields were read before."""
        text = self._private_keys(text, search)
        text = self._edited(text, self._parameters(text, search, depth), search)
        for find in (assignments, named_values):
            text = self._edited(text, self._assigned(text, find(text, bare, search.budget), search, bare, read), search)
        text = self._edited(text, self._manifests(text, search), search)
        text = self._edited(text, self._commands(text, search), search)
        text = self._edited(text, self._statements(text, search), search)
        text = self._edited(text, self._serialized(text, search), search)
        text = self._edited(text, self._encoded(text, search, depth), search)
        text = self._edited(text, self._users(text, search), search)
        text = self._edited(text, self._jwts(text, search), search)
        if rules.FORMS.found(text):
            found = ((*span, self._token(text[slice(*span)], search), "key") for span in keys(text, search.budget))
            text = self._edited(text, found, search)
            text = self._edited(text, self._cards(text, search), search)
        return text

    @staticmethod
    def _edited(text: bytes, edits: Iterable[Edit], search: Search) -> bytes:
        changes = [edit for edit in edits if text[edit[0] : edit[1]] != edit[2]]
        search.kinds.update(edit[3] for edit in changes)
        return apply(text, changes) if changes else text

    def _parameters(self, text: bytes, search: Search, depth: int) -> Iterator[Edit]:
        if b"=" not in text:
            return
        for name, (start, end) in search.budget.each(rules.PARAMETER.spans(text, 1, 2)):
            if is_padding(text, name[1]):
                continue
            value = start, parameter_end(text, start, end)
            raw = text[slice(*value)]
            kind = rules.kind_of(unquote(text[slice(*name)]), parameter=True)
            if kind and raw and not rules.is_count(text[slice(*name)], raw):
                decoded = unquote(raw)
                new = self.secret(b"", decoded, kind, search)
                if new != decoded:
                    yield (*value, FORM.encode(new, raw), kind)
            elif b"%" in raw:
                decoded = unquote(raw)
                new = self.text(decoded, search, depth=depth + 1)
                if new != decoded:
                    yield (*value, FORM.encode(new, raw), "token")

    def _assigned(self, text: bytes, values: Iterable[Assignment], search: Search, bare: bool, was_read: bool) -> Iterator[Edit]:
        read = 0
        for found in values:
            container = found.quote in (b"{", b"[")
            kind = rules.kind_of(found.name, container=found.quote == b"{")
            if not kind or (container and found.start < read):
                continue
            if container and was_read and found.escaped:
                continue  # a text within, which was gone into
            if container:
                top = Group(found.name, is_secret=rules.kind_of(found.name, container=True) is not None)
                for field in json_fields(text, search.budget, found.start, top):
                    read = field.end
                    raw = text[field.start : field.end]
                    kind = self._kind(text, field, raw, None)
                    if kind:
                        new = self._number(raw, kind, search) if field.number else self._value(field, raw, kind, search, 0, bare)
                        yield field.start, field.end, new, kind
                continue
            raw = text[found.start : found.end]
            if not raw or rules.is_count(found.name, raw):
                continue
            if found.json and not found.quote and _NUMBER.fullmatch(raw):
                word = is_word(text, found.name, found.start, found.end, raw)
                if rules.is_secret_number(found.name, kind, raw) and not word:
                    yield found.start, found.end, self._number(raw, kind, search), kind
                continue
            codec = _codec(found.quote)
            value = _decoded(raw, found.quote)
            if found.json and is_word(text, found.name, found.start, found.end, value):
                continue
            new = self.secret(found.name, value, kind, search)
            if new != value and b'"' in new and found.quote != b'"':
                new = self._token(value, search)  # there is no saying how JSON is to be escaped there
            if new != value:
                yield found.start, found.end, codec.encode(new, raw), kind

    def _manifests(self, text: bytes, search: Search) -> Iterator[Edit]:
        """Of Kubernetes' Secrets in YAML."""
        for span, kind in search.budget.each(manifests(text)):
            raw = text[slice(*span)]
            yield (*span, self._coded(b"data", raw, search) if kind == BASE64 else self.secret(b"data", raw, kind, search), "token")

    def _commands(self, text: bytes, search: Search) -> Iterator[Edit]:
        for word, *others in search.budget.each(rules.COMMAND.spans(text, 1, 2, 3)):
            span = max(word, *others)
            raw = text[slice(*span)]
            if span != word or any(48 <= byte <= 57 for byte in raw):
                yield (*span, self.secret(b"", raw, "password", search), "password")

    def _statements(self, text: bytes, search: Search) -> Iterator[Edit]:
        if b"'" in text:
            for (span,) in search.budget.each(rules.SQL.spans(text, 1)):
                raw = text[slice(*span)]
                yield (*span, self.secret(b"", raw, "password", search), "password")

    def _serialized(self, text: bytes, search: Search) -> Iterator[Edit]:
        """What PHP's serialize and Python's pickle (protocol 0) make of a name and a value."""
        read = 0
        if b'";' in text:
            for name, length, number in search.budget.each(rules.PHP.spans(text, 1, 2, 3)):
                kind = rules.kind_of(text[slice(*name)]) if name[0] >= read else None
                if kind and number[0] >= 0:
                    if rules.is_secret_number(text[slice(*name)], kind, text[slice(*number)]):
                        yield (*number, self._number(text[slice(*number)], kind, search), kind)
                elif kind:
                    read = length[1] + int(text[length[0] : length[1] - 2])
                    if text[read : read + 1] != b'"':  # what was changed before, or is cut
                        read = text.find(b'"', length[1])
                        read = len(text) if read < 0 else read
                    new = self.secret(b"", text[length[1] : read], kind, search)
                    yield length[0], read, b'%d:"%b' % (len(new), new), kind
        if b"\np" in text:
            for name, value in search.budget.each(rules.PICKLE.spans(text, 1, 2)):
                kind = rules.kind_of(text[slice(*name)])
                raw = text[slice(*value)].strip(b"'")
                if kind and raw:
                    yield (*value, text[slice(*value)].replace(raw, self.secret(b"", raw, kind, search)), kind)

    def _encoded(self, text: bytes, search: Search, depth: int) -> Iterator[Edit]:
        """Queries in percent-encoding that are no parameter of another one."""
        if b"%" in text and (b"3D" in text or b"3d" in text):
            for (span,) in search.budget.each(rules.QUOTED_RUN.spans(text, 1)):
                raw = text[slice(*span)]
                decoded = unquote_to_bytes(raw)
                new = self.text(decoded, search, depth=depth + 1)
                if new != decoded:
                    yield (*span, quote(new, raw, plus=False), "token")

    def _private_keys(self, text: bytes, search: Search) -> bytes:
        if b"PRIVATE KEY" not in text:
            return text
        edits: list[Edit] = []
        for start, end in private_keys(text, search.budget):
            body = _BLANKS.sub(b"", text[start:end])
            if body and not is_token(body):
                blanks = text[start:end][: len(text[start:end]) - len(text[start:end].lstrip())]
                line = blanks or (b"\\n" if text.startswith(b"\\n", start) else b"\n")
                token = self._tokens.token("key", body)
                search.echoes.add(body, token)
                edits.append((start, end, line + token + line, "key"))
        return self._edited(text, edits, search)

    def has_form(self, text: bytes, search: Search) -> Iterator[Edit]:
        """What of a text that cannot be changed would be replaced for its form."""
        if rules.PRIVATE_KEY.found(text):
            yield (0, 0, b"", "key")
        for span in keys(text, search.budget):
            if not is_token(text[slice(*span)]):
                yield (*span, b"", "key")
        yield from self._jwts(text, search)
        # In random bytes `://` and `@` stand near each other once in some ten megabytes, with what no URL has between them.
        yield from (edit for edit in self._users(text, search) if _PRINTABLE.issuperset(text[edit[0] : edit[1]]))

    def _users(self, text: bytes, search: Search) -> Iterator[Edit]:
        if b"@" in text:
            for password, user in search.budget.each(rules.USERINFO.spans(text, 1, 2)):
                span = password if password[0] >= 0 else user
                yield (*span, self._token(unquote(text[slice(*span)]), search), "password")

    def _jwts(self, text: bytes, search: Search) -> Iterator[Edit]:
        if b"eyJ" in text:
            for header, signature in search.budget.each(rules.JWT.spans(text, 1, 2)):
                if is_jwt(text[slice(*header)]):
                    yield (*signature, self._tokens.jwt(text[header[0] : signature[1]], text[slice(*signature)]), "jwt")

    def _cards(self, text: bytes, search: Search) -> Iterator[Edit]:
        for pattern in (rules.CARD_GROUPED, rules.CARD_NAMED):
            for (span,) in search.budget.each(pattern.spans(text, 1)):
                card = text[slice(*span)]
                if self._is_card(card):
                    yield (*span, self._token(card, search), "card")


def settled(redact: Callable[[Redacted], Redacted], given: Redacted) -> Redacted:
    """Redact until nothing changes, so that what is redacted is never redacted again. Raises NotInspected."""
    for _ in range(ROUNDS_LIMIT):
        before, given = given, redact(given)
        if given == before:
            return before
    raise NotInspected(Reason.UNSETTLED)


def _is_json(text: bytes) -> bool:
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False


def _codec(quote: bytes) -> Codec:
    return _ESCAPES.get(quote, STRING)


def _decoded(raw: bytes, quote: bytes) -> bytes:
    """Take the escapes off a quoted value. The backslashes before its quote tell how deep in strings it lies."""
    if not quote:
        return unquote(raw) if b"%" in raw else raw
    value = raw
    for _ in range((quote.count(b"\\") // (3 if quote.count(b'"') == 3 else 1)).bit_length() + 1):
        value = _codec(quote).decode(value)
    return value


def _reader(text: bytes, media: bytes) -> Reader | None:
    """How a text is read: by its looks, else by its media type."""
    media = media.lower()
    first = _FIRST.match(text)
    begin = first[1] if first else b""
    if begin not in (b"{", b"[", b"<") and (b"csv" in media or b"tab-separated" in media):
        return csv_fields
    if begin in (b"{", b"[", b'"'):
        return json_fields
    if begin == b"<" or b"</" in text:
        return xml_fields
    if looks_like_form(text):
        return form_fields
    if b"json" in media or b"xml" in media:
        return json_fields if b"json" in media else xml_fields
    return form_fields if b"urlencoded" in media else url_fields if looks_like_url(text) else None
