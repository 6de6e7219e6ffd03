"""Hellos, as OpenSSL makes them."""

from __future__ import annotations

import ssl

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from agent.tls_hello import Hello, HelloReader, read_hello


def handshake(version: ssl.TLSVersion, name: str, client_protocols: list[str], server_protocols: list[str]) -> tuple[bytes, bytes]:
    """The first flights of client and server."""
    authority = trustme.CA()
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(server_context)
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(client_context)
    client_context.minimum_version = client_context.maximum_version = version
    if client_protocols:
        client_context.set_alpn_protocols(client_protocols)
        server_context.set_alpn_protocols(server_protocols)
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    client_flight = to_server.read()
    server_in = ssl.MemoryBIO()
    server_in.write(client_flight)
    with pytest.raises(ssl.SSLWantReadError):
        server_context.wrap_bio(server_in, to_client, server_side=True).do_handshake()
    return client_flight, to_client.read()


def hello_of(flight: bytes) -> Hello | None:
    return HelloReader().feed(0, flight)


@pytest.mark.parametrize(("version", "shown"), [(ssl.TLSVersion.TLSv1_3, "TLS 1.3"), (ssl.TLSVersion.TLSv1_2, "TLS 1.2")])
def test_both_sides(version: ssl.TLSVersion, shown: str) -> None:
    client, server = handshake(version, "api.example.com", ["h2", "http/1.1"], ["http/1.1"])
    assert hello_of(client) == Hello(server_name="api.example.com")
    answered = hello_of(server)
    assert answered is not None
    assert answered.version == shown
    # TLS 1.3 agrees on the protocol under encryption (RFC 8446 section 4.3.1).
    assert answered.application_protocol == ("http/1.1" if shown == "TLS 1.2" else "")


def test_a_single_offer_is_the_protocol() -> None:
    client, _ = handshake(ssl.TLSVersion.TLSv1_3, "x.example", ["h2"], ["h2"])
    assert hello_of(client) == Hello("x.example", "h2")


def test_byte_by_byte() -> None:
    client, _ = handshake(ssl.TLSVersion.TLSv1_3, "x.example", [], [])
    reader = HelloReader()
    found = [reader.feed(index, client[index : index + 1]) for index in range(len(client))]
    assert [hello for hello in found if hello] == [Hello("x.example")]


def test_bytes_out_of_order_end_the_reading() -> None:
    reader = HelloReader()
    assert reader.feed(5, b"x") is None
    assert reader.done


@given(st.binary(max_size=300))
def test_anything_is_read(data: bytes) -> None:
    HelloReader().feed(0, b"\x16\x03\x01" + data)
    read_hello(data)


@given(st.data())
def test_damaged_hellos_are_read(data: st.DataObject) -> None:
    flight = bytearray(CLIENT)
    for _ in range(data.draw(st.integers(1, 4))):
        flight[data.draw(st.integers(5, len(flight) - 1))] = data.draw(st.integers(0, 255))
    HelloReader().feed(0, bytes(flight))


CLIENT, _SERVER = handshake(ssl.TLSVersion.TLSv1_3, "fuzz.example", ["h2", "http/1.1"], ["h2"])
