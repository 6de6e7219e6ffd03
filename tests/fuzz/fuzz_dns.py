"""DNS messages, of anybody: nothing raises but ValueError, what is made can be read, and dnspython agrees."""

from __future__ import annotations

import contextlib
import ipaddress
import struct

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rdataclass
import dns.rdatatype

from agent.takeover import message
from agent.takeover.message import AAAA, A, Query
from agent.takeover.names import Names

OWN = (ipaddress.IPv4Address("198.18.0.1"), ipaddress.IPv6Address("2001:2::1"))


def one(data: bytes) -> None:
    """Read it as a question and as an answer."""
    refusal = message.refuse(data)
    assert refusal is None or len(refusal) == 12
    with contextlib.suppress(ValueError):
        _check_query(data, message.read_query(data))
    with contextlib.suppress(ValueError):
        _check_response(data, message.read_response(data))


def _check_query(data: bytes, query: Query) -> None:
    Names({}, ("search.test",)).way(query.name)
    for addresses in ((), OWN):
        answered = message.read_response(message.answer(query, addresses=addresses, seconds=5))
        assert (answered.id, answered.question, answered.addresses) == (query.id, query.question, addresses)
    for type_ in (A, AAAA):
        other = message.read_query(message.asking_for(data, query, type_))
        assert (other.name, other.type, other.id) == (query.name, type_, query.id)
    readdressed = message.readdressed(message.answer(query), query)
    assert message.read_response(readdressed).question == query.question
    theirs = _theirs(data)
    if theirs is None or len(theirs.question) != 1 or theirs.opcode() != dns.opcode.QUERY:
        return
    question = theirs.question[0]
    assert (query.type, query.class_) == (question.rdtype, question.rdclass)
    assert query.name == _name(question.name)
    assert query.id == theirs.id


def _check_response(data: bytes, response: message.Response) -> None:
    theirs = _theirs(data)
    if theirs is None or len(theirs.question) != 1 or theirs.opcode() != dns.opcode.QUERY:
        return
    assert (response.id, response.truncated) == (theirs.id, bool(theirs.flags & dns.flags.TC))
    found = {
        item.address
        for record in theirs.answer
        if record.rdclass == dns.rdataclass.IN and record.rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA)
        for item in record
    }
    assert set(map(str, response.addresses)) == {str(ipaddress.ip_address(address)) for address in found}


def _theirs(data: bytes) -> dns.message.Message | None:
    """As dnspython reads it; None where it does not."""
    with contextlib.suppress(dns.exception.DNSException, struct.error, ValueError, IndexError):
        return dns.message.from_wire(data, ignore_trailing=True)
    return None


def _name(name: dns.name.Name) -> str:
    """In our words: in lower case, dots and backslashes within labels escaped."""
    labels = [label.lower().replace(b"\\", b"\\\\").replace(b".", b"\\.") for label in name.labels if label]
    return b".".join(labels).decode("latin-1")
