"""Whether a recorded answer is what a client asks for by its Accept field (RFC 9110 section 12.5.1). Pure.

Programs that ask for the same thing write it in different ways: `*/*`, `application/json`, `application/json, text/plain, */*`.
So a field that is not as recorded is judged by the type of the recorded answer.
"""

from __future__ import annotations

RANGES_LIMIT = 100
"""Media ranges of a field that are looked at: browsers send ten, container tools twenty."""

_NOT_WANTED = frozenset((b"q=0", b"q=0.0", b"q=0.00", b"q=0.000"))
_Parameters = tuple[bytes, ...]


def takes(live: bytes, recorded: bytes, media: bytes) -> bool:
    """Whether who sends the Accept field `live` asks for an answer of type `media`, which who sent `recorded` got.

    That the type is named is not enough: in Kubernetes `application/json;as=Table` gets another answer of the same type. So the
    parameters that it is named with must be the same.
    """
    media = media.partition(b";")[0].strip().lower()
    named = _named(live, media)
    return named is not None and named == (_named(recorded, media) or {()})


def normal(accept: bytes) -> bytes:
    """Leave out what says nothing."""
    return accept.translate(None, b" \t").lower()


def _named(accept: bytes, media: bytes) -> set[_Parameters] | None:
    """The parameters with which the most precise ranges name a type; None where none does, or it is not wanted."""
    ranks = {b"*": 0, b"*/*": 0, media.partition(b"/")[0] + b"/*": 1, media: 2}
    best, found = -1, set[_Parameters]()
    for piece in normal(accept or b"*/*").split(b",", RANGES_LIMIT)[:RANGES_LIMIT]:
        name, *parameters = piece.split(b";")
        rank = ranks.get(name, -1)
        if rank < best or rank < 0:
            continue
        if rank > best:
            best, found = rank, set()
        if _NOT_WANTED.isdisjoint(parameters):
            found.add(tuple(sorted(each for each in parameters if each and not each.startswith((b"q=", b"charset=")))))
    return found or None
