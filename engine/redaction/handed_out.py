"""Which requests hold what was handed out in place of a secret: under mock, answers have tokens, and clients send them on.

A real backend does not know them. It would refuse such a request, or answer it as if from somebody else, which is no answer to the
request that a client makes with its real secret. Tokens of numbers have no mark, so they are not seen here.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterator
from contextlib import suppress

from engine.redaction import rules
from engine.redaction.content import decode_content
from engine.redaction.pattern import Pattern
from engine.rrpair import Message

_TOKEN = Pattern(rb"(" + rules.TOKEN + rb"|REDACTED\x00|(?:UkVEQUNURUQ[At]|JFREFDVEVEL|SRURBQ1RFRC)[A-Za-z0-9+/_\-]{0,64})")
"""A token in any form, in base64 and behind other things in base64, and what is in the base64 of a token of bytes."""
_BASIC = re.compile(rb"(?i)basic +([A-Za-z0-9+/]{8,}={0,2})")
_GATEWAYS = re.compile(
    rb"(?i)__cf_?\w+|_cfuvid|cf_\w+|aws(?:alb|elb)\w*|gc?i?lb|arraffinity\w*|applicationgatewayaffinity\w*|bigipserver.*"
    rb"|incap_ses_\w+|visid_incap_\w+|nlbi_\w+|reese84|ak_bmsc|bm_\w+|_abck|datadome|serverid"
)
"""Cookies of load balancers and of gateways that look for robots. They tell no user, and who sends an unknown one gets another."""


def handed_out(request: Message) -> str:
    """Give the first token in a request that no real backend knows; "" where it has none."""
    for text in _texts(request):
        for ((start, end),) in _TOKEN.spans(text, 1):
            return text[start:end].decode()
    return ""


def _texts(request: Message) -> Iterator[bytes]:
    yield request.start_line
    for name, value in (*request.headers, *request.trailers):
        if basic := _BASIC.fullmatch(value):
            with suppress(ValueError):
                yield b64decode(basic[1])
        yield _own(value) if name.lower() == b"cookie" else value
    coding = request.header(b"content-encoding")
    yield (decode_content(request.body, coding) if coding else None) or request.body


def _own(cookies: bytes) -> bytes:
    """Cookies without those of gateways."""
    return b";".join([each for each in cookies.split(b";") if not _GATEWAYS.fullmatch(each.partition(b"=")[0].strip())])
