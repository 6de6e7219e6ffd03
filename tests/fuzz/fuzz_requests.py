"""Bytes of a client of the responder: requests or an error, the same ones however they are cut, and no more kept than is allowed.

An input is the size of the pieces (1 byte, 0 for one byte at a time), then what the client sends.
"""

from __future__ import annotations

from engine.protocols.http1 import BODY_LIMIT, HEAD_LIMIT
from engine.responder.requests import Asked, RequestError, RequestReader, encode


def one(data: bytes) -> None:
    """Read it whole and in pieces."""
    piece, data = max(data[0], 1) if data else 1, data[1:]
    whole, error = _read([data])
    cut, cut_error = _read([data[at : at + piece] for at in range(0, len(data), piece)])
    if not error:
        assert not cut_error
        assert cut == whole
    assert {error, cut_error} <= {0, 400, 413, 431}
    for asked in (*whole, *cut):
        assert asked.size < HEAD_LIMIT * 4 + BODY_LIMIT
        encode(asked)


def _read(pieces: list[bytes]) -> tuple[list[Asked], int]:
    """Requests, and the status of an error or 0."""
    reader, found = RequestReader(), []
    for piece in pieces:
        try:
            found += reader.feed(piece)
        except RequestError as error:
            return found, error.status
        assert reader.size <= HEAD_LIMIT * 2 + BODY_LIMIT
        if reader.rest or (found and found[-1].method == "CONNECT"):
            break
    return found, 0
