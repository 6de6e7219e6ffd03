"""Replaces secrets before a pair is stored or shown.

Only the bytes of a secret change; whatever depends on them (lengths, content coding, checksums) is made to fit again. What
cannot be searched (a coding that is unknown or damaged, too much of it) is not kept: the body becomes a note of its length
and the reason, and the pair is incomplete for that reason.

Most pairs hold no secret, so each is searched once for hints, which costs a tenth of looking.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from urllib.parse import unquote_to_bytes

from engine.protocols.heads import request_words
from engine.protocols.http1 import request_line, split_query, split_target
from engine.redaction import rules
from engine.redaction.bodies import Bodies, NotInspected
from engine.redaction.content import Reason, codings_of, decode_content
from engine.redaction.echoes import Echoes
from engine.redaction.learned import Digest, Learned
from engine.redaction.originals import Originals
from engine.redaction.randomness import looks_random
from engine.redaction.refit import Refit
from engine.redaction.texts import Search, Texts, settled
from engine.redaction.tokens import Tokens
from engine.rrpair import Fields, Message, RRPair

__all__ = ["Digest", "Redactor", "codings_of", "decode_content"]

JOINED_LIMIT = 64 * 1024
"""Longer bodies are searched by themselves: to put texts together copies them."""

_NOTE = re.compile(rb"\[[0-9]{1,12} bytes not stored: (?:" + "|".join(Reason).encode() + rb")\]")
"""What was redacted before, to the letter: nothing else may pass for it."""

LONG_COOKIE = 16
"""Bytes of a random value that is a secret whatever its cookie is called. Shorter ones, and numbers, are ids of things as well
(`user_id=10482213`, `last_viewed=B08N5WRWNW`), which answers have in any field.
"""
_SESSION = re.compile(rb"(?i)(?<![a-z]s)sess|sid$|auth(?!or)|identity|remember|aspnetcore|wordpress")
"""Names of cookies that tell who asks, besides those that any secret has: `PHPSESSID`, `connect.sid`, but not `assessment`."""
_FRAMING = frozenset(b"content-length content-type content-encoding transfer-encoding connection host".split())
"""Header fields by which a message is read: no secret of another place is looked for in them."""
_Head = tuple[bytes, Fields, Fields]
"""Start line, header fields, trailers."""


class Redactor:
    """Redacts pairs under one key (32 random bytes, one for each snapshot). `learned`: what the snapshot has of `take_learned`."""

    def __init__(self, key: bytes, learned: Iterable[Digest] = ()) -> None:
        self._texts = Texts(Tokens(key))
        self._bodies = Bodies(self._texts)
        self._learned = Learned(key, learned)

    def pair(self, pair: RRPair) -> RRPair:
        """Give the pair without its secrets; the very same object where it has none."""
        if _is_clean(pair, self._learned):
            return pair
        kinds: set[str] = set()
        lost: list[str] = []
        asked = Search(Echoes(learned=self._learned), request_words(pair.request.start_line)[1])
        request = self._message(pair.request, "request", asked, lost)
        kinds |= asked.kinds
        told, target = asked.echoes, request_words(pair.request.start_line)[1]
        interim = []
        for part in pair.interim:
            answer, told = self._answer(part, "interim response", told, kinds, lost, target)
            interim.append(answer)
        response = None
        if pair.response:
            response, told = self._answer(pair.response, "response", told, kinds, lost, target)
            interim = [self._answer(part, "interim response", told, kinds, lost, target)[0] for part in interim]
        if (request, response, tuple(interim)) != (pair.request, pair.response, pair.interim):
            kinds = kinds or {"repeated"}
        if not kinds and not lost:
            return pair
        self._learned.learn(told.told_since(asked.echoes))
        names = tuple(sorted({*pair.redacted, *kinds}))
        pair = self._retarget(pair, request)
        missing = (*pair.missing, *lost)
        originals = self._texts.originals(asked)
        signed = {**pair.signature, "secrets": originals.hex()} if originals else pair.signature
        return replace(
            pair, request=request, response=response, interim=tuple(interim), redacted=names, missing=missing, signature=signed
        )

    def message(self, message: Message, kinds: set[str]) -> Message:
        """Redact one message and add what was found to `kinds`. A body that cannot be searched becomes a note that says so."""
        return self._answer(message, "message", Echoes(), kinds, [])[0]

    def request(self, message: Message) -> tuple[Message, bytes]:
        """Redact a request, and give what tells its secrets from others: see `engine.redaction.originals`."""
        search = Search(Echoes(learned=self._learned), request_words(message.start_line)[1])
        redacted = self._message(message, "request", search, [])
        return redacted, self._texts.originals(search)

    def take_learned(self) -> list[Digest]:
        """Give digests of the secrets that answers told since the last time: a redactor that has them knows these secrets, too."""
        return self._learned.take_new()

    def repeats(self, pair: RRPair) -> bool:
        """Whether a redacted pair may hold a secret that was learned after it: far less work than to redact it again."""
        messages = (pair.request, *((pair.response,) if pair.response else ()), *pair.interim)
        return any(self._repeats(message) for message in messages)

    def _repeats(self, message: Message) -> bool:
        body = message.body
        if coding := message.header(b"content-encoding"):
            body = decode_content(body, coding) or body
        media = message.header(b"content-type") or b""
        if rules.BINARY.found(body) or b"multipart" in media.lower():
            return True  # what lies below these is found by redacting alone
        values = [value for fields in (message.headers, message.trailers) for _, value in fields]
        return self._learned.found(b"\n".join((message.start_line, *values, body)))

    def _answer(
        self, message: Message, part: str, told: Echoes, kinds: set[str], lost: list[str], target: bytes = b""
    ) -> tuple[Message, Echoes]:
        """Redact a message that may repeat secrets that others told, and give these and its own. `target`: of its request."""
        search = Search(told, target)
        redacted = self._message(message, part, search, lost)
        kinds |= search.kinds
        return redacted, search.echoes

    def _message(self, message: Message, part: str, search: Search, lost: list[str]) -> Message:
        try:
            head = self._head((message.start_line, message.headers, message.trailers), search)
            body, contents, reason = self._body(message, search)
            echoed = self._echoed(head, search)
            if echoed != head:
                head = settled(lambda each: self._echoed(self._head(each, search), search), echoed)
        except NotInspected as error:
            lost.append(f"{part} headers: not stored, {error}")
            return Message(_anonymous(message.start_line), (), _note(message.body, str(error)))
        line, headers, trailers = head
        if reason:
            lost.append(f"{part} body: {len(message.body)} bytes not stored, {reason}")
        elif body != message.body:
            fit = Refit(contents, search.checksums)
            headers, trailers = fit.fields(headers), fit.fields(trailers)
        changed = Message(line, headers, body, trailers)
        return message if changed == message else changed

    def _body(self, message: Message, search: Search) -> tuple[bytes, list[tuple[bytes, bytes]], str]:
        """Give the body, what it and what lies below its codings was before and is now, and why it is not stored."""
        body = message.body
        if not body or _NOTE.fullmatch(body):
            return body, [], ""
        try:
            body, before, after = self._bodies.body(message.headers, body, search)
        except NotInspected as error:
            return _note(message.body, str(error)), [], str(error)
        return body, [(message.body, body), (before, after)], ""

    # -- headers -----------------------------------------------------------------------------------------------------------

    def _head(self, head: _Head, search: Search) -> _Head:
        line, headers, trailers = head
        kept, search.originals = search.originals, Originals()  # headers are no part of what makes two requests equal
        headers, trailers = self._headers(headers, search), self._headers(trailers, search) if trailers else trailers
        search.originals = kept
        return self._line(line, search), headers, trailers

    @staticmethod
    def _echoed(head: _Head, search: Search) -> _Head:
        """Give start line and header fields without the secrets that were recognised in any part of the message."""
        line, *fields = head
        if not search.echoes.found(b"\n".join([line, *[value for each in fields for _, value in each]])):
            return head
        apart = Originals()  # as in _head
        headers, trailers = [
            tuple([(name, value if name.lower() in _FRAMING else search.echoes.replaced(value, apart)) for name, value in each])
            for each in fields
        ]
        return _in_line(line, lambda _, text: search.echoed(text)), headers, trailers

    def _line(self, line: bytes, search: Search) -> bytes:
        if not rules.HINT.found(line):
            return line
        return _in_line(line, lambda method, text: self._target(method, text, search))

    def _target(self, method: bytes, target: bytes, search: Search) -> bytes:
        """Of a request line the target, of a status line the reason, which has no method."""
        if not method:
            return settled(lambda reason: self._texts.text(reason, search), target)
        if method == b"CONNECT":
            return self._authority(target, search)
        return settled(lambda each: self._uri(each, search), target)

    def _uri(self, target: bytes, search: Search) -> bytes:
        path, mark, query = target.partition(b"?")
        return self._texts.text(path + mark + self._texts.query(query, search), search)

    def _headers(self, fields: Fields, search: Search) -> Fields:
        notes = [rules.HEADERS[name] for name, _ in fields]
        hinted = rules.HINT.found(b"\n".join([value for _, value in fields]))
        if not hinted and not any(notes):
            return fields
        return tuple([(name, self._header(name, value, note, search)) for (name, value), note in zip(fields, notes, strict=True)])

    def _header(self, name: bytes, value: bytes, note: int, search: Search) -> bytes:
        if note == rules.PLAIN_HEADER or not value:
            return settled(lambda text: self._texts.text(text, search), value)
        if note == rules.SECRET_HEADER:
            new = self._texts.credentials(value, search)
            if new != value:
                search.kinds.add("authorization" if b"auth" in name.lower() else "key")
            return new
        if note == rules.HOST_HEADER:
            return self._authority(value, search)
        if note == rules.SET_COOKIE_HEADER:
            first, semicolon, attributes = value.partition(b";")
            return self._cookies(first, search) + semicolon + attributes
        return self._cookies(value, search)

    def _authority(self, value: bytes, search: Search) -> bytes:
        """RFC 3986 section 3.2: the password in the user information."""
        user, at, host = value.rpartition(b"@")
        name, colon, password = user.partition(b":")
        return name + colon + self._texts.secret(b"", password, "password", search) + at + host

    def _cookies(self, value: bytes, search: Search) -> bytes:
        """RFC 6265 sections 4.1 and 4.2: names stay; a cookie without one is replaced whole."""
        return b";".join([self._cookie(cookie, search) for cookie in search.budget.each(value.split(b";"))])

    def _cookie(self, cookie: bytes, search: Search) -> bytes:
        name, equals, value = cookie.partition(b"=")
        if not equals:
            name, value = b"", cookie
        secret = value.strip(b' \t"')
        at = value.find(secret)
        if not secret:
            return cookie
        plain = unquote_to_bytes(secret) if b"%" in secret else secret
        named = name.strip()
        is_long = len(plain) >= LONG_COOKIE and not plain.isdigit() and looks_random(plain)
        echoes = rules.kind_of(named) is not None or _SESSION.search(named) is not None or is_long
        new = self._texts.secret(b"", plain, "cookie", search, echoes=echoes)
        return cookie if new == plain else name + equals + value[:at] + new + value[at + len(secret) :]

    # -- what follows from it ----------------------------------------------------------------------------------------------

    @staticmethod
    def _retarget(pair: RRPair, request: Message) -> RRPair:
        """Make path, query and operation those of the redacted start line."""
        if request.start_line == pair.request.start_line:
            return pair
        method, target = request_line(request.start_line)
        _, path, query = split_target(method, target)
        operation = pair.operation.replace(pair.path, path) if pair.path else f"{method} {target}"
        return replace(pair, path=path, query=split_query(query), operation=operation)


def _in_line(line: bytes, change: Callable[[bytes, bytes], bytes]) -> bytes:
    """RFC 9112 sections 3 and 4: change the target of a request line, given its method, or the reason of a status line."""
    if line.startswith(b"HTTP/"):
        return line[:13] + change(b"", line[13:])
    spaced = b" ".join(request_words(line)) if b"\t" in line else line  # a blank to the parser (section 3), so to us as well
    method, blank, rest = spaced.partition(b" ")
    target, last, version = rest.rpartition(b" ")
    new = change(method or b"?", target)
    return line if new == target else method + blank + new + last + version


def _note(body: bytes, reason: str) -> bytes:
    """What is kept of a body that is not. It equals no recorded body, so a live request that has it is never answered."""
    return f"[{len(body)} bytes not stored: {reason}]".encode()


def _anonymous(line: bytes) -> bytes:
    """A start line of which nothing but its kind is kept."""
    first, _, rest = line.replace(b"\t", b" ").partition(b" ")
    return line[:12] if line.startswith(b"HTTP/") else first + b" /REDACTED " + rest.rpartition(b" ")[2]


def _is_clean(pair: RRPair, learned: Learned) -> bool:
    """Whether nothing in a pair hints at a secret, by a search or two through all its texts; False where that takes more."""
    texts: list[bytes] = []
    for message in (pair.request, *((pair.response,) if pair.response else ()), *pair.interim):
        body = message.body
        if message.trailers or len(body) > JOINED_LIMIT:
            return False
        for name, value in message.headers:
            if rules.NOTES[name] and not rules.is_no_coding(name, value):
                return False
            texts.append(value)
        texts += (message.start_line, body)
    text = b"\n".join(texts)
    return not rules.HINT_OR_BINARY.found(text) and not learned.found(text)
