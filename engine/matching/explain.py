"""Why a request gets no answer: the nearest recording, and the fields in which the request differs from it. Pure.

Nothing is ever served by nearness; it is for people to see what to mend.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice

from engine.matching.fields import canonical, leaves
from engine.matching.forms import form_of
from engine.matching.headers import accept_of, may_select
from engine.matching.index import Index, Refused, Request, Undecided
from engine.matching.shape import shape
from engine.rrpair import Message, RRPair

COMPARED = 100
"""Recordings that are compared with a request: some 5 ms of work where they are small, and misses may come in floods."""
COMPARED_CHARACTERS = 4 * 1024 * 1024
"""Characters of fields after which no further recording is compared: what the largest body costs, once or twice."""
FIELD_COST = 64
"""Characters that a field counts for by itself."""
DIFFERENCES_SHOWN = 20
"""Fields that are named: with more, it is another request altogether."""
LEXEME_SHOWN = 200
"""Characters of a value that are shown."""
HINTS_SHOWN = 3
"""Fields that are said to look like a time or an id."""


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


def explain(index: Index, request: Request, refused: Refused | None = None) -> Explanation:
    """Say why no pair of the backend answers a request."""
    if isinstance(refused, Undecided):
        return _explain_headers(index.load(refused.row), request, refused.names)
    if refused:
        return _explain_accept(index.load(refused.row), request)
    operation = request.operation
    partial = index.find_partial(request)
    if partial:
        return _explain_partial(partial)
    alike = index.rows_by_shape.get(shape(request.method, request.path, operation))
    reason = "no recorded request is equal to it" if alike else f"{operation} was not recorded"
    found = _nearest(index, request, alike or chain.from_iterable(index.rows_by_shape.values()))
    if not found:
        return Explanation(reason)
    pair, differences = found
    if not differences and request.secrets:
        reason = "it holds another secret number than the recorded requests that are equal to it otherwise"
    shown = differences[:DIFFERENCES_SHOWN]
    hints = _hints(shown) if alike else ""
    return Explanation(reason + hints, pair.id, pair.operation, tuple(map(_cut, shown)))


def _explain_partial(pair: RRPair) -> Explanation:
    missing = ", ".join(pair.missing)
    reason = f"it was recorded incompletely as pair {pair.id} (missing {missing})"
    if "request body" in pair.missing:
        reason = f"a request that is equal but for its body was recorded incompletely as pair {pair.id} (missing {missing})"
    return Explanation(reason, pair.id, pair.operation)


def _nearest(index: Index, request: Request, rows: Iterable[int]) -> tuple[RRPair, list[Difference]] | None:
    """Find the recording that differs least, among as many as there is time for."""
    live = dict(leaves(request.form))
    best: tuple[int, RRPair, list[Difference]] | None = None
    left = COMPARED_CHARACTERS
    for row in islice(rows, COMPARED):
        pair = index.load(row)
        recorded = dict(leaves(canonical(pair.method, pair.path, pair.query, pair.request)))
        differences = _compare(recorded, live)
        distance = sum(map(_weight, differences))
        if best is None or distance < best[0]:
            best = distance, pair, differences
        left -= sum(FIELD_COST + len(place) + len(lexeme) for place, lexeme in recorded.items())
        if left < 0:
            break
    return best and best[1:]


def _weight(difference: Difference) -> int:
    """How far two requests are apart by a field: least where it has a new value each time, most where one has no such field."""
    if difference.recorded is None or difference.live is None:
        return 3
    return 1 if _form(difference) else 2


def _form(difference: Difference) -> str:
    form = form_of(difference.live)
    return form if form and form == form_of(difference.recorded) else ""


def _hints(differences: list[Difference]) -> str:
    """Name the fields that are likely to have a new value each time."""
    forms = [(difference.field, form) for difference in differences if (form := _form(difference))]
    named = "; ".join(f"{field[:LEXEME_SHOWN]} looks like {form}" for field, form in forms[:HINTS_SHOWN])
    return f" ({named} that the client makes anew: matching is exact)" if named else ""


def _explain_headers(pair: RRPair, request: Request, names: frozenset[bytes]) -> Explanation:
    recorded, live = dict(_headers(pair.request, names)), dict(_headers(request.message, names))
    differences = tuple(_cut(each) for each in _compare(recorded, live)[:DIFFERENCES_SHOWN])
    reason = "recorded requests that differ in these headers only have different answers, and its values were not recorded"
    return Explanation(reason, pair.id, pair.operation, differences)


def _explain_accept(pair: RRPair, request: Request) -> Explanation:
    media = (pair.response and pair.response.header(b"content-type")) or b""
    reason = f"its Accept field does not ask for the recorded answer, which is {media[:LEXEME_SHOWN].decode('latin-1')}"
    sent = [accept_of(message.headers).decode("latin-1") or None for message in (pair.request, request.message)]
    return Explanation(reason, pair.id, pair.operation, (_cut(Difference("header.accept", *sent)),))


def _headers(message: Message, names: frozenset[bytes]) -> Iterator[tuple[str, str]]:
    for name, value in may_select(message.headers):
        if name in names:
            yield f"header.{name.decode('latin-1')}", value.decode("latin-1")


def _compare(was: dict[str, str], now: dict[str, str]) -> list[Difference]:
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
