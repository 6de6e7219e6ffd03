"""How a request without an answer is told so: in the form of its protocol, in words that name what to mend."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, replace
from xml.sax.saxutils import escape

from engine.matching.explain import Explanation
from engine.matching.index import Request
from engine.responder.backends import Place
from engine.responder.replies import Reply
from engine.rrpair import Message

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
OUTCOME = b"Understudy-Outcome: NO_MATCH\r\n"
STATUS = b"418 No Recorded Answer"
"""Reserved as unused (RFC 9110 section 15.5.19), so no API answers with it and no client acts upon it. A 404 would be the backend's
own answer that a thing is not there; a 5xx, 409 or 429 is tried again by SDKs, a 421 by fetch, a 400 to HEAD by boto3's S3."""
_KEPT_BACK = "it was not passed on"
AWS_ERROR = "UnderstudyNoMatch"
"""Error code that AWS SDKs show; with status 400 none of them tries again."""


@dataclass(frozen=True, slots=True)
class Missed:
    """A request that was not recorded, redacted, and why. `tls`: whether its backend speaks it."""

    place: Place
    tls: bool
    request: Request
    why: Explanation


def kept_back(missed: Missed, token: str) -> Missed:
    """Say why a request goes to no real backend though misses are passed on: it holds what was handed out in place of a secret."""
    if _KEPT_BACK in missed.why.reason:
        return missed  # an equal request was missed before
    reason = (
        f"{missed.why.reason}; {_KEPT_BACK}: the recording has {token} in place of a secret, which no real backend knows: record"
        " again, or let the backend that hands it out answer itself (--except HOST)"
    )
    return replace(missed, why=replace(missed.why, reason=reason))


def miss_reply(missed: Missed, close: bool, trouble: str = "") -> Reply:
    """Write the answer to a request that was not recorded. `trouble`: why the real backend could not be asked either."""
    request, why = missed.request.message, missed.why
    reason = f"{why.reason}; and it could not be passed on: {trouble}" if trouble else why.reason
    if request.header(b"x-amz-target") is not None:
        return _aws(missed, reason, close)
    if request.header(b"x-amz-date") is not None or request.header(b"x-amz-content-sha256") is not None:
        return _aws_xml(missed, reason, close)
    explained = {
        "outcome": "NO_MATCH",
        "host": missed.place[0],
        "port": missed.place[1],
        "operation": missed.request.operation,
        "reason": reason,
        "nearest": {"id": why.nearest, "operation": why.operation} if why.nearest else None,
        "differs": [asdict(difference) for difference in why.differences],
    }
    body = json.dumps({"understudy": explained}, indent=1).encode()
    return _reply(STATUS, b"Content-Type: application/json\r\n" + OUTCOME, body, request, close)


def _aws(missed: Missed, reason: str, close: bool) -> Reply:
    """AWS JSON 1.0 and 1.1 (Smithy, "AWS JSON protocols", error serialization)."""
    request = missed.request.message
    media = request.header(b"content-type") or b"application/x-amz-json-1.0"
    body = json.dumps({"__type": AWS_ERROR, "message": _sentence(missed, reason)}).encode()
    headers = b"Content-Type: %b\r\nx-amzn-ErrorType: %b\r\n%b" % (media, AWS_ERROR.encode(), OUTCOME)
    return _reply(b"400 Bad Request", headers, body, request, close)


def _aws_xml(missed: Missed, reason: str, close: bool) -> Reply:
    """Any other protocol of AWS: S3 and REST-XML read the element, the query protocol reads it in another, REST-JSON the header."""
    message = escape(_NOT_XML.sub("\ufffd", _sentence(missed, reason)))
    body = f"<Error><Code>{AWS_ERROR}</Code><Message>{message}</Message></Error>"
    if (missed.request.message.header(b"content-type") or b"").startswith(b"application/x-www-form-urlencoded"):
        body = f"<ErrorResponse>{body}</ErrorResponse>"
    headers = b"Content-Type: application/xml\r\nx-amzn-ErrorType: %b\r\n%b" % (AWS_ERROR.encode(), OUTCOME)
    return _reply(STATUS, headers, body.encode(), missed.request.message, close)


def _sentence(missed: Missed, reason: str) -> str:
    """Say it in one line."""
    why = missed.why
    parts = [f"understudy: {missed.request.operation} to {missed.place[0]}:{missed.place[1]}: {reason}"]
    if why.nearest:
        parts.append(f"the nearest recording is {why.operation} ({why.nearest})")
    for difference in why.differences:
        recorded, live = ("nothing" if text is None else repr(text) for text in (difference.recorded, difference.live))
        parts.append(f"{difference.field} was {recorded}, is {live}")
    return "; ".join(parts)


def error_reply(status: int, reason: str) -> Reply:
    """Refuse a request that cannot be taken."""
    body = json.dumps({"understudy": {"outcome": "ERROR", "reason": reason}}).encode()
    head = b"Content-Type: application/json\r\n"
    return _reply(b"%d Refused" % status, head, body, Message(b"GET "), close=True)


def _reply(status: bytes, headers: bytes, body: bytes, request: Message, close: bool) -> Reply:
    connection = b"Connection: close\r\n" if close else b""
    head = b"HTTP/1.1 %b\r\n%b%bContent-Length: %d\r\n\r\n" % (status, headers, connection, len(body))
    return Reply(head, b"", False, b"" if request.start_line.startswith(b"HEAD ") else body, close, 0.0)
