"""DNS messages (RFC 1035 section 4), as far as a resolver of addresses needs them. Bytes in, values out; no I/O.

Messages come from programs and from other people's servers: ValueError is the only thing that a bad one raises.
"""

from __future__ import annotations

import enum
import ipaddress
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from agent.takeover.events import Address

A, AAAA = 1, 28
IN = 1
_OPT = 41
_QR, _OPCODE, _TC, _RD, _RA = 0x8000, 0x7800, 0x0200, 0x0100, 0x0080
_HEAD = struct.Struct("!6H")
_RECORD = struct.Struct("!HHIH")
_QUESTION = 12
"""Where the first question begins, and so what a compressed name points to."""

_POINTERS_MAX = 64
"""A name has at most 127 labels; RFC 1035 section 4.1.4 sets no number of jumps, but that each leads to what came before."""


class Code(enum.IntEnum):
    """RCODE (RFC 1035 section 4.1.1)."""

    NO_ERROR = 0
    FORMAT_ERROR = 1
    SERVER_FAILURE = 2
    NO_SUCH_NAME = 3
    NOT_IMPLEMENTED = 4
    REFUSED = 5


@dataclass(frozen=True, slots=True)
class Query:
    """A question. `name` is in lower case and without the last dot; `question` is as it was asked, in its own case."""

    id: int
    flags: int
    name: str
    type: int
    class_: int
    question: bytes
    extended: bool


@dataclass(frozen=True, slots=True)
class Response:
    """What an answer says. `addresses` are those of its A and AAAA records, under whatever name: the server follows aliases."""

    id: int
    code: int
    truncated: bool
    question: bytes
    addresses: tuple[Address, ...]


def read_query(data: bytes) -> Query:
    """Read a query of one question. ValueError where it is none."""
    id_, flags, questions, _, _, additional = _head(data)
    if flags & (_QR | _OPCODE) or questions != 1:
        raise ValueError("no standard query of one question")
    name, end = _name(data, _QUESTION)
    if end + 4 > len(data):
        raise ValueError("the question is cut off")
    type_, class_ = struct.unpack_from("!HH", data, end)
    end += 4
    # The OPT record (RFC 6891 section 6.1.2): root name, type 41. Where there is one it comes first, but for signatures.
    extended = bool(additional) and data[end : end + 3] == b"\0" + _OPT.to_bytes(2, "big")
    return Query(id_, flags, name, type_, class_, data[_QUESTION:end], extended)


def read_response(data: bytes) -> Response:
    """Read an answer. ValueError where it is none."""
    id_, flags, questions, answers, _, _ = _head(data)
    if not flags & _QR or questions != 1:
        raise ValueError("no answer to one question")
    place = _name(data, _QUESTION)[1] + 4
    question, addresses = data[_QUESTION:place], []
    for _ in range(answers):
        place = _name(data, place)[1]
        if place + _RECORD.size > len(data):
            break  # truncated: what there is counts
        type_, class_, _, length = _RECORD.unpack_from(data, place)
        place += _RECORD.size
        address = _address(type_, data[place : place + length]) if class_ == IN else None
        if address is not None:
            addresses.append(address)
        place += length
    return Response(id_, flags & 0xF, bool(flags & _TC), question, tuple(addresses))


def answer(query: Query, code: Code = Code.NO_ERROR, addresses: Iterable[Address] = (), seconds: int = 0) -> bytes:
    """Answer a query; `seconds` is how long programs may remember the addresses."""
    records = [
        struct.pack("!H", 0xC000 | _QUESTION)
        + _RECORD.pack(A if address.version == 4 else AAAA, IN, seconds, len(address.packed))
        + address.packed
        for address in addresses
    ]
    flags = _QR | _RA | query.flags & _RD | code
    # RFC 6891 section 6.1.1: an OPT record is answered by one. 1232 bytes fit everywhere unfragmented.
    extension = b"\0" + _RECORD.pack(_OPT, 1232, 0, 0) if query.extended else b""
    head = _HEAD.pack(query.id, flags, 1, len(records), 0, bool(extension))
    return head + query.question + b"".join(records) + extension


def asking_for(data: bytes, query: Query, type_: int) -> bytes:
    """The message of a query, asking for records of another type."""
    place = _QUESTION + len(query.question) - 4
    return data[:place] + type_.to_bytes(2, "big") + data[place + 2 :]


def readdressed(reply: bytes, query: Query) -> bytes:
    """The answer to an equal question as an answer to this one: with its number, and the name in its letters' case."""
    return query.id.to_bytes(2, "big") + reply[2:_QUESTION] + query.question + reply[_QUESTION + len(query.question) :]


def refuse(data: bytes) -> bytes | None:
    """An answer to what could not be read; None where it has no head, or is itself an answer."""
    if len(data) < _HEAD.size or data[2] & 0x80:
        return None
    id_, flags = struct.unpack_from("!HH", data)
    code = Code.NOT_IMPLEMENTED if flags & _OPCODE else Code.FORMAT_ERROR
    return _HEAD.pack(id_, _QR | flags & (_OPCODE | _RD) | code, 0, 0, 0, 0)


def _head(data: bytes) -> tuple[int, ...]:
    if len(data) < _HEAD.size:
        raise ValueError("shorter than a head")
    return _HEAD.unpack_from(data)


def _address(type_: int, data: bytes) -> Address | None:
    if type_ == A and len(data) == 4:
        return ipaddress.IPv4Address(data)
    if type_ == AAAA and len(data) == 16:
        return ipaddress.IPv6Address(data)
    return None


def _name(data: bytes, place: int) -> tuple[str, int]:
    """A name (RFC 1035 section 4.1.4) and the place after it. Dots within labels are escaped (RFC 4343 section 2.1)."""
    labels: list[bytes] = []
    after = -1
    jumps, begin = 0, place
    while True:
        if place >= len(data):
            raise ValueError("a name is cut off")
        length = data[place]
        if length == 0:
            break
        if length & 0xC0 == 0xC0 and place + 1 < len(data):
            after = after if after >= 0 else place + 2
            place = (length & 0x3F) << 8 | data[place + 1]
            jumps += 1
            if not _QUESTION <= place < begin or jumps > _POINTERS_MAX:
                raise ValueError("a name that points to no name before it, or too often")
            begin = place
        elif length & 0xC0 or place + 1 + length > len(data):
            raise ValueError("a label that is none")
        else:
            labels.append(data[place + 1 : place + 1 + length].replace(b"\\", b"\\\\").replace(b".", b"\\."))
            place += 1 + length
            if len(labels) > 127:
                raise ValueError("too many labels")
    return b".".join(labels).lower().decode("latin-1"), after if after >= 0 else place + 1
