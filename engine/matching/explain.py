"""Why a request gets no answer: the nearest recording, and the fields in which the request differs from it. Pure.

Nothing is ever served by nearness; it is for people to see what to mend.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice

from engine.matching.fields import Canonical, canonical, leaves
from engine.matching.headers import may_select
from engine.matching.index import Index, Request, Undecided
from engine.matching.shape import shape
from engine.rrpair import Message, RRPair

COMPARED = 100
"""Recordings that are compared with a request: some 5 ms of work, and misses may come in floods."""
DIFFERENCES_SHOWN = 20
"""Fields that are named: with more, it is another request altogether."""
LEXEME_SHOWN = 200
"""Characters of a value that are shown."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A field that is not equal. None stands for a field that is not there."""

    field: str
    recorded: str | None
    live: str | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """A reason in words; id and operation of the nearest recorded pair ("" where there is none), and what differs."""

    reason: str
    nearest: str = ""
    operation: str = ""
    differences: tuple[Difference, ...] = ()


def explain(index: Index, request: Request, undecided: Undecided | None = None) -> Explanation:
    """Say why no pair of the backend answers a request."""
    if undecided:
        return _explain_headers(index.load(undecided.row), request, undecided.names)
    operation = request.operation
    alike = index.rows_by_shape.get(shape(request.method, request.path, operation))
    reason = "no recorded request is equal to it" if alike else f"{operation} was not recorded"
    rows = alike or chain.from_iterable(index.rows_by_shape.values())
    candidates = [index.load(row) for row in islice(rows, COMPARED)]
    ranked = sorted(((_differences(pair, request.form), pair) for pair in candidates), key=lambda found: len(found[0]))
    if not ranked:
        return Explanation(reason)
    differences, pair = ranked[0]
    return Explanation(reason, pair.id, pair.operation, tuple(map(_cut, differences[:DIFFERENCES_SHOWN])))


def _explain_headers(pair: RRPair, request: Request, names: tuple[bytes, ...]) -> Explanation:
    recorded, live = _headers(pair.request, names), _headers(request.message, names)
    differences = tuple(_cut(each) for each in _compare(recorded, live))
    reason = "recorded requests that differ in these headers only have different answers, and its values were not recorded"
    return Explanation(reason, pair.id, pair.operation, differences)


def _headers(message: Message, names: tuple[bytes, ...]) -> Iterator[tuple[str, str]]:
    for name, value in may_select(message.headers):
        if name in names:
            yield f"header.{name.decode('latin-1')}", value.decode("latin-1")


def _differences(pair: RRPair, live: Canonical) -> list[Difference]:
    return _compare(leaves(canonical(pair.method, pair.path, pair.query, pair.request)), leaves(live))


def _compare(recorded: Iterable[tuple[str, str]], live: Iterable[tuple[str, str]]) -> list[Difference]:
    was, now = dict(recorded), dict(live)
    places = list(dict.fromkeys((*was, *now)))
    return [Difference(place, was.get(place), now.get(place)) for place in places if was.get(place) != now.get(place)]


def _cut(difference: Difference) -> Difference:
    """Leave of long values the part where they begin to differ."""
    recorded, live = difference.recorded, difference.live
    long = max(len(recorded or ""), len(live or "")) > LEXEME_SHOWN
    start = max(_equal_until(recorded or "", live or "") - LEXEME_SHOWN // 4, 0) if long else 0
    return Difference(difference.field[:LEXEME_SHOWN], _window(recorded, start), _window(live, start))


def _equal_until(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def _window(text: str | None, start: int) -> str | None:
    if text is None:
        return None
    return "…" * (start > 0) + text[start : start + LEXEME_SHOWN] + "…" * (start + LEXEME_SHOWN < len(text))
