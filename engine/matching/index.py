"""Which recorded pair answers a request: the exact tier. Pure; a run's state (cursors, keys) lives in its index.

1. Requests of one backend with equal canonical forms and the same secrets are one *group*. Nothing outside of it is ever served.
   The secrets are compared as well, for two may have one token (`engine.redaction.originals`).
2. Where the pairs of a group have one answer, that is it.
3. Where they differ in headers and in answers, the headers that tell them apart select. An unknown value is a miss, unless all
   recorded ones were answered alike.
4. What then still has several answers is a sequence: recorded order, the last one sticks. Each value of the headers that select
   has its own, also one that was not recorded. A retry under the same idempotency key is not a new request, neither when recorded
   nor live: it gets what its own retries got, and then the last of these again.
5. An answer of a type that the request's Accept does not ask for is none, unless it was recorded with the same Accept.

An index keeps a digest and a number for a pair, whatever its size, and the headers that select; the rest stays in the snapshot
until it is asked for. What takes time that grows with the snapshot is done before the first request: see `Index.settle`.
"""

from __future__ import annotations

import struct
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

from engine.matching.accept import takes
from engine.matching.fields import Canonical, Query, canonical
from engine.matching.headers import accept_digest, accept_of, may_select, short_digest
from engine.matching.shape import shape
from engine.protocols.operations import operation
from engine.redaction.originals import fits
from engine.rrpair import Fields, Message, RRPair
from engine.store import Entry, Heads

PARTIAL_LIMIT = 100
"""Pairs that were recorded incompletely and are looked through for a request that has no answer: what was asked is read, once."""
PARTIAL_BYTES = 64 * 1024 * 1024
"""Of their requests' bodies: after so many no further one is looked at. It is the longest that is recorded."""
SETTLED_LATE = 1000
"""Pairs of a group that may be put in order when it is asked for first, which takes a millisecond or two."""
KEYS_LIMIT = 10_000
"""Idempotency keys of a sequence that a run remembers, the latest: services keep theirs for a day."""
CLIENTS_LIMIT = 10_000
"""Clients that were not recorded whose place in a sequence a run remembers, those that asked last: some 3 MB for one request."""
ACCEPTS_LIMIT = 10_000
"""Accept fields, by row, whose verdict is remembered: each took reading a pair."""
NOT_ACCEPTABLE = 406
"""What a server says to an Accept field that it has nothing for."""

Load = Callable[[int], RRPair]
"""Reads the pair of a row; the body of its answer is not needed."""
Values = tuple[tuple[bytes, bytes], ...]
"""The selecting headers that are sent, each as often as it is."""


@dataclass(frozen=True, slots=True)
class Request:
    """A live request, redacted as the recording is. Path undecoded."""

    method: str
    path: str
    query: Query
    message: Message
    form: Canonical
    secrets: bytes

    @classmethod
    def of(cls, method: str, path: str, query: Query, message: Message, secrets: bytes = b"") -> Request:
        """Bring it into canonical form. `secrets`: what its tokens stand for, see `engine.redaction.originals`."""
        return cls(method, path, query, message, canonical(method, path, query, message), secrets)

    @property
    def operation(self) -> str:
        """What a person would call it."""
        index = {name.lower(): value for name, value in self.message.headers}
        return operation(self.method, self.path, index, self.message.body)


Span = tuple[int, int]
"""Of a request and its retries, where in a sequence the next answer is, and where the last."""


class Sequence:
    """The answers to requests that are equal, in recorded order; the last one sticks.

    It is made of *turns*: the answers that one request got, the first of them and those of its retries.
    """

    __slots__ = ("_begun", "_ends", "_given", "_turn", "accepts", "rows")

    def __init__(self, turns: Iterable[Iterable[int]], accepts: frozenset[bytes] = frozenset()) -> None:
        """`accepts`: digests of the Accept fields that it was recorded with."""
        self.accepts = accepts
        self.rows = array("q")
        self._ends = array("q")
        for turn in turns:
            self.rows.extend(turn)
            self._ends.append(len(self.rows) - 1)
        self._turn = 0
        """Turns that have begun."""
        self._begun: Span | None = None
        """What is left of the turn of a request without a key."""
        self._given: OrderedDict[bytes, Span] | None = None
        """The same by idempotency key."""

    def next(self, key: bytes = b"") -> int:
        """Row of the next answer to a request, or to the one that was made before under the same idempotency key."""
        if len(self.rows) == 1:
            return self.rows[0]
        if not key:
            at, last = self._begun or self._begin()
            self._begun = (at + 1, last) if at < last else None
            return self.rows[at]
        given = self._given = OrderedDict() if self._given is None else self._given
        at, last = given.pop(key) if key in given else self._begin()
        given[key] = (min(at + 1, last), last)
        if len(given) > KEYS_LIMIT:
            given.popitem(last=False)
        return self.rows[at]

    def fresh(self) -> Sequence:
        """Give the same answers from the first one on, for another client."""
        other = Sequence((), self.accepts)
        other.rows, other._ends = self.rows, self._ends
        return other

    def _begin(self) -> Span:
        ends, turn = self._ends, self._turn
        if turn == len(ends):
            return ends[-1], ends[-1]
        self._turn += 1
        return (ends[turn - 1] + 1 if turn else 0), ends[turn]


class Choice:
    """Sequences that headers choose from. `alike`: all of them give the same answers, so that any other client gets these."""

    def __init__(self, names: frozenset[bytes], parts: dict[Values, Sequence], alike: bool) -> None:
        self.names = names
        self.first = next(iter(parts.values()))
        self._parts, self._alike = parts, alike
        self._others: OrderedDict[str, Sequence] = OrderedDict()

    def get(self, headers: Fields) -> Sequence | None:
        """Give the sequence of a client; None where its values were not recorded, and those that were decide."""
        values = _values(may_select(headers), self.names)
        return self._parts.get(values) or (self._other(values) if self._alike else None)

    def _other(self, values: Values) -> Sequence:
        client = short_digest(values)
        sequence = self._others.pop(client, None) or self.first.fresh()
        self._others[client] = sequence
        if len(self._others) > CLIENTS_LIMIT:
            self._others.popitem(last=False)
        return sequence


@dataclass(frozen=True, slots=True)
class Undecided:
    """No answer, for the request's values of these headers were never recorded. `row` is a pair that is equal but for them."""

    names: frozenset[bytes]
    row: int


@dataclass(frozen=True, slots=True)
class NotAccepted:
    """No answer, for the request's Accept field does not ask for that of `row`, a pair that is equal otherwise."""

    row: int


Refused = Undecided | NotAccepted

_Member = tuple[int, bytes, bytes, bytes, bytes]
"""A pair of a group by what its signature says: row, headers, answer, idempotency key, Accept field."""
_MEMBER = struct.Struct("<q8s8s8s8s")
_NO_KEY = _NO_ACCEPT = bytes(8)


class Index:
    """The pairs of one backend."""

    def __init__(self, load: Load, heads: Callable[[int], Heads]) -> None:
        self.load, self.heads = load, heads
        self.rows_by_shape: dict[str, array[int]] = {}
        """Pairs that look alike: where to look for the nearest."""
        self._groups: dict[bytes, bytes | bytearray | Sequence | Choice] = {}
        """By digest and secrets: packed members until somebody asks, see `settle`."""
        self._secrets: dict[bytes, list[bytes]] = {}
        """The secrets of the groups of a digest, where they have any."""
        self._complete: frozenset[bytes] | None = None
        """The groups with answers that were read to their end; made when others come."""
        self._partial_rows = array("q")
        self._partial: dict[bytes, int] | None = None
        self._taken: dict[tuple[int, bytes], bool] = {}
        """Whether the answer of a row is one for an Accept field that it was not recorded with."""

    def add(self, entry: Entry) -> None:
        """Take in a pair; in recorded order, and before the first request."""
        signed = {name: bytes.fromhex(value) for name, value in entry.signature.items()}
        key, accept = signed.get("idempotency", _NO_KEY), signed.get("accept", _NO_ACCEPT)
        member = _MEMBER.pack(entry.row, signed["headers"], signed["answer"], key, accept)
        secrets = signed.get("secrets", b"")
        name = signed["request"] + secrets
        if secrets and name not in self._groups:
            self._secrets.setdefault(signed["request"], []).append(secrets)
        group = self._groups.setdefault(name, member)
        if isinstance(group, bytearray):
            group += member
        elif group is not member:
            assert isinstance(group, bytes)
            self._groups[name] = bytearray(group + member)
        look = shape(entry.method, entry.path, entry.operation)
        self.rows_by_shape.setdefault(look, array("q")).append(entry.row)

    def add_unread(self, entry: Entry) -> None:
        """Take in a pair whose client did not read the answer to its end; after all others. It answers where no other does."""
        if self._complete is None:
            self._complete = frozenset(self._groups)
        signed = {name: bytes.fromhex(value) for name, value in entry.signature.items()}
        if signed["request"] + signed.get("secrets", b"") not in self._complete:
            self.add(entry)

    def add_partial(self, entry: Entry) -> None:
        """Take in a pair that was recorded incompletely: it answers nothing, but tells why."""
        if len(self._partial_rows) < PARTIAL_LIMIT:
            self._partial_rows.append(entry.row)

    def settle(self) -> None:
        """After all pairs and before the first request: put in order what would keep that one, and all others, waiting.

        These are groups with many members, and those of which the heads have to be read.
        """
        for name, group in self._groups.items():
            if isinstance(group, bytearray):
                members = list(_MEMBER.iter_unpack(group))
                if len(members) > SETTLED_LATE or _is_chosen_from(members):
                    self._groups[name] = self._settled(members)

    def find_partial(self, request: Request) -> RRPair | None:
        """Find an incomplete recording of a request; where its body was cut, of one that is equal but for the body."""
        if self._partial is None:
            self._partial = {}
            left = PARTIAL_BYTES
            for each in self._partial_rows:
                pair = self.load(each)
                self._partial.setdefault(_partial_digest(pair), each)
                left -= len(pair.request.body)
                if left < 0:
                    break
        bodiless = canonical(request.method, request.path, request.query, _bodiless(request.message)).digest
        row = self._partial.get(request.form.digest, self._partial.get(_CUT + bodiless))
        return None if row is None else self.load(row)

    def find(self, request: Request) -> Sequence | Refused | None:
        """Give what answers a request; None where no recorded one is equal to it."""
        name = self._name(request)
        group = self._groups.get(name)
        if group is None:
            return None
        if isinstance(group, (bytes, bytearray)):
            group = self._groups[name] = self._settled(list(_MEMBER.iter_unpack(group)))
        headers = request.message.headers
        found = group if isinstance(group, Sequence) else group.get(headers)
        if not found:
            assert isinstance(group, Choice)
            return Undecided(group.names, group.first.rows[0])
        accept = accept_of(headers)
        if accept and not self._takes(accept, found):
            return NotAccepted(found.rows[0])
        return found

    def _takes(self, accept: bytes, sequence: Sequence) -> bool:
        digest = accept_digest(accept)
        if digest in sequence.accepts:
            return True
        place = sequence.rows[0], digest
        if place not in self._taken:
            if len(self._taken) >= ACCEPTS_LIMIT:
                self._taken.clear()
            self._taken[place] = _is_taken(accept, self.heads(place[0]))
        return self._taken[place]

    def _name(self, request: Request) -> bytes:
        """The group of a request. With tokens that were sent back it is the one that they fit, unless they fit several."""
        digest = request.form.digest
        name = digest + request.secrets
        if name in self._groups or digest not in self._secrets:
            return name
        fitting = [secrets for secrets in self._secrets[digest] if fits(request.secrets, secrets)]
        return digest + fitting[0] if len(fitting) == 1 else name

    def _settled(self, members: list[_Member]) -> Sequence | Choice:
        """Put a group in order."""
        return self._choice(members) if _is_chosen_from(members) else _sequence(members)

    def _choice(self, members: list[_Member]) -> Choice:
        """Part a group by the headers that differ."""
        first = {headers: row for row, headers, *_ in reversed(members)}
        sent = {headers: may_select(self.heads(row).request.headers) for headers, row in first.items()}
        names = _varying(sent.values())
        parts: dict[Values, list[_Member]] = {}
        for member in members:
            parts.setdefault(_values(sent[member[1]], names), []).append(member)
        said = {tuple(tuple(answer for _, _, answer, *_ in turn) for turn in _turns(part)) for part in parts.values()}
        return Choice(names, {values: _sequence(part) for values, part in parts.items()}, alike=len(said) == 1)


def _is_chosen_from(members: list[_Member]) -> bool:
    """Whether the pairs of a group differ in headers and in answers."""
    if len({answer for _, _, answer, *_ in members}) == 1:
        return False
    return len({headers for _, headers, *_ in members}) > 1


_CUT = b"cut"


def _bodiless(message: Message) -> Message:
    return Message(message.start_line, message.headers)


def _partial_digest(pair: RRPair) -> bytes:
    cut = "request body" in pair.missing
    message = _bodiless(pair.request) if cut else pair.request
    return _CUT * cut + canonical(pair.method, pair.path, pair.query, message).digest


def _sequence(members: list[_Member]) -> Sequence:
    """Put the answers of equal requests in order."""
    accepts = _shared(frozenset([accept for *_, accept in members]))
    if len({answer for _, _, answer, *_ in members}) == 1:
        return Sequence([[members[0][0]]], accepts)
    return Sequence([[row for row, *_ in turn] for turn in _turns(members)], accepts)


@lru_cache(ACCEPTS_LIMIT)
def _shared(accepts: frozenset[bytes]) -> frozenset[bytes]:
    """One for all that are equal: a service has few Accept fields."""
    return accepts


def _is_taken(accept: bytes, heads: Heads) -> bool:
    media = heads.response.header(b"content-type") if heads.response else None
    return not media or (heads.status != NOT_ACCEPTABLE and takes(accept, accept_of(heads.request.headers), media))


def _turns(members: list[_Member]) -> list[list[_Member]]:
    """Put retries under one idempotency key to the request that they repeat; an answer that was given again is one."""
    turns: list[list[_Member]] = []
    by_key: dict[bytes, list[_Member]] = {}
    for member in members:
        _, _, answer, key, _ = member
        turn = by_key.get(key)
        if turn is None:
            turn = [member]
            turns.append(turn)
            if key != _NO_KEY:
                by_key[key] = turn
        elif answer != turn[-1][2]:
            turn.append(member)
    return turns


def _varying(sent: Iterable[list[tuple[bytes, bytes]]]) -> frozenset[bytes]:
    """Names of the headers that are not the same in all of these; in time that is linear in them, for they may be anybody's."""
    alike: dict[bytes, list[bytes]] | None = None
    names: set[bytes] = set()
    for fields in sent:
        values: dict[bytes, list[bytes]] = {}
        for name, value in fields:
            values.setdefault(name, []).append(value)
        if alike is None:
            alike = values
            continue
        others = [name for name in alike if alike[name] != values.get(name)]
        names.update(others, values.keys() - alike.keys())
        for name in others:
            del alike[name]
    return frozenset(names)


def _values(fields: list[tuple[bytes, bytes]], names: frozenset[bytes]) -> Values:
    return tuple([field for field in fields if field[0] in names])
