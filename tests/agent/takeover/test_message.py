"""DNS messages, compared with dnspython's reading and writing of them."""

from __future__ import annotations

import contextlib
import ipaddress

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.takeover.message import AAAA, A, Code, answer, read_query, read_response, refuse

LABELS = st.from_regex(r"[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,30}[a-zA-Z0-9])?", fullmatch=True)
NAMES = st.lists(LABELS, min_size=1, max_size=6).map(".".join)
TYPES = st.sampled_from(["A", "AAAA", "PTR", "HTTPS", "SRV", "TXT", "MX"])
ADDRESSES = st.lists(st.ip_addresses(), max_size=8)


def asked(name: str, kind: str, *, extended: bool) -> bytes:
    return dns.message.make_query(name, kind, use_edns=0 if extended else None).to_wire()


@given(NAMES, TYPES, st.booleans())
def test_queries_are_read_as_they_were_written(name: str, kind: str, extended: bool) -> None:
    theirs = dns.message.make_query(name, kind, use_edns=0 if extended else None)
    ours = read_query(theirs.to_wire())
    assert (ours.id, ours.name, ours.type, ours.class_) == (theirs.id, name.lower(), dns.rdatatype.from_text(kind), 1)
    assert ours.extended is extended


@given(NAMES, st.sampled_from(["A", "AAAA"]), st.booleans(), ADDRESSES, st.sampled_from(list(Code)))
def test_answers_are_read_as_they_were_meant(
    name: str, kind: str, extended: bool, addresses: list[ipaddress.IPv4Address | ipaddress.IPv6Address], code: Code
) -> None:
    data = asked(name, kind, extended=extended)
    reply = answer(read_query(data), code, addresses, 60)
    theirs = dns.message.from_wire(reply)
    assert dns.message.from_wire(data).is_response(theirs)
    assert (int(theirs.rcode()), theirs.edns >= 0) == (int(code), extended)
    assert theirs.flags & dns.flags.RD
    found = [(record.ttl, ipaddress.ip_address(item.address)) for record in theirs.answer for item in record]
    assert set(found) == {(60, address) for address in addresses}
    assert read_response(reply).addresses == tuple(addresses)


@given(NAMES, NAMES, ADDRESSES, st.booleans())
def test_answers_of_servers_are_read_through_aliases(
    name: str, alias: str, addresses: list[ipaddress.IPv4Address | ipaddress.IPv6Address], truncated: bool
) -> None:
    query = dns.message.make_query(name, "A")
    response = dns.message.make_response(query)
    if truncated:
        response.flags |= dns.flags.TC
    response.answer.append(dns.rrset.from_text(f"{name}.", 60, "IN", "CNAME", f"{alias}."))
    for address in dict.fromkeys(addresses):
        kind = "A" if address.version == 4 else "AAAA"
        response.answer.append(dns.rrset.from_text(f"{alias}.", 60, "IN", kind, str(address)))
    ours = read_response(response.to_wire())
    assert ours.addresses == tuple(dict.fromkeys(addresses))
    assert (ours.id, ours.code, ours.truncated) == (query.id, 0, truncated)
    assert ours.question == read_query(query.to_wire()).question


@given(NAMES)
def test_a_failed_answer_says_so(name: str) -> None:
    response = dns.message.make_response(dns.message.make_query(name, "A"))
    response.set_rcode(dns.rcode.NXDOMAIN)
    assert read_response(response.to_wire()).code == Code.NO_SUCH_NAME


@given(st.binary(max_size=600))
@example(b"\0\1\1\0\0\1\0\0\0\0\0\0\xc0\x0c\0\1\0\1")  # a name that points at itself
@example(b"\0\1\x81\x80\0\1\0\1\0\0\0\0\1a\0\0\1\0\1\xc0\x0c\0\1")
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    for read in (read_query, read_response):
        with contextlib.suppress(ValueError):
            read(data)
    refuse(data)


@given(NAMES, st.data())
def test_no_cut_or_change_of_a_message_raises_anything_else(name: str, data: st.DataObject) -> None:
    whole = bytearray(answer(read_query(asked(name, "A", extended=True)), addresses=[ipaddress.IPv4Address("198.18.0.1")]))
    for _ in range(data.draw(st.integers(0, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ValueError):
        read_response(bytes(whole[: data.draw(st.integers(0, len(whole)))]))


@pytest.mark.parametrize(("label", "read"), [(b"a.b", "a\\.b.test"), (b"a\\", "a\\\\.test"), (b"\xe9", "\xe9.test")])
def test_a_label_with_a_dot_is_another_name(label: bytes, read: str) -> None:
    name = dns.name.Name([label, b"test", b""])
    assert read_query(dns.message.make_query(name, "A").to_wire()).name == read


def test_what_is_no_query_is_refused() -> None:
    query = dns.message.make_query("a.test", "A")
    query.set_opcode(dns.opcode.NOTIFY)
    reply = refuse(query.to_wire())
    assert reply is not None
    assert dns.message.from_wire(reply).rcode() == dns.rcode.NOTIMP
    assert refuse(answer(read_query(asked("a.test", "A", extended=False)))) is None
    with pytest.raises(ValueError, match="no standard query"):
        read_query(query.to_wire())


def test_types() -> None:
    assert (A, AAAA) == (dns.rdatatype.A, dns.rdatatype.AAAA)
