"""A pair's signature: what an index needs of it, made when it is recorded, so that a start reads no body again."""

from __future__ import annotations

from engine.matching.codings import chosen, without
from engine.matching.fields import canonical
from engine.matching.headers import accept_digest, accept_of, answer_headers, idempotency_key, may_select, short_digest
from engine.rrpair import Message, RRPair

SIGNATURE_VERSION = "5"
"""Rises whenever the same pair would get another signature: older ones are then made again from the pairs."""


def signature(pair: RRPair) -> dict[str, str]:
    """Sign a redacted pair; hexadecimal digests, equal where these are equal.

    `request`: its canonical form. `headers`: those that might select. `answer`: what makes it another answer. `accept`: its
    Accept field, and `idempotency`: its key, where it has them. `secrets`: what its tokens stand for, where they do not tell: it
    was made when the pair was redacted, and is kept.
    """
    request = pair.request
    signed = {
        "request": canonical(pair.method, pair.path, pair.query, request).digest.hex(),
        "headers": short_digest(may_select(request.headers)),
        "answer": _answer(pair.status, request, pair.response) if pair.response else "",
    }
    key, accept = idempotency_key(request.headers), accept_of(request.headers)
    if pair.signature.get("secrets"):
        signed["secrets"] = pair.signature["secrets"]
    if accept:
        signed["accept"] = accept_digest(accept).hex()
    if key:
        signed["idempotency"] = key.hex()
    return signed


def _answer(status: int, request: Message, response: Message) -> str:
    """The same content is the same answer, whichever coding the server chose for it."""
    if response.body and chosen(request.headers, response):
        response = without(response)
    headers, trailers = answer_headers(response.headers, response.body), answer_headers(response.trailers, response.body)
    return short_digest(status, headers, response.body, trailers)
