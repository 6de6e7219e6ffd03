"""Certificates, compared with OpenSSL's and cryptography's reading of them."""

from __future__ import annotations

import contextlib
import datetime
import ssl
import subprocess
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.name import _ASN1Type
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.takeover.certificates import first_der, is_bundle, joined, subject_hash

KEY = ec.generate_private_key(ec.SECP256R1())
KINDS = [_ASN1Type.UTF8String, _ASN1Type.PrintableString, _ASN1Type.BMPString, _ASN1Type.T61String, _ASN1Type.IA5String]


def certificate(*attributes: x509.NameAttribute[str], together: bool = False) -> x509.Certificate:
    name = x509.Name([x509.RelativeDistinguishedName(attributes)]) if together else x509.Name(attributes)
    start = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(KEY.public_key()).serial_number(1)
    return builder.not_valid_before(start).not_valid_after(start.replace(year=2040)).sign(KEY, hashes.SHA256())


def openssl_hash(made: x509.Certificate) -> str:
    pem = made.public_bytes(serialization.Encoding.PEM)
    return subprocess.check_output(["openssl", "x509", "-noout", "-subject_hash"], input=pem).decode().strip()


def der(made: x509.Certificate) -> bytes:
    return made.public_bytes(serialization.Encoding.DER)


VALUES = st.tuples(st.from_regex(r"[ A-Za-z0-9.-]{1,200}", fullmatch=True), st.sampled_from(KINDS))
OIDS = [x509.NameOID.COMMON_NAME, x509.NameOID.ORGANIZATION_NAME, x509.NameOID.LOCALITY_NAME]


@settings(max_examples=25, deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=3), st.booleans())
def test_hashes_are_those_of_openssl(values: list[tuple[str, _ASN1Type]], together: bool) -> None:
    attributes = [x509.NameAttribute(oid, text, kind) for oid, (text, kind) in zip(OIDS, values, strict=False)]
    made = certificate(*attributes, together=together)
    assert subject_hash(der(made)) == openssl_hash(made)


@pytest.mark.parametrize("text", ["Müller  AG", "\u3053\u3093", " spaced \t out "])
def test_hashes_of_names_from_elsewhere(text: str) -> None:
    made = certificate(x509.NameAttribute(x509.NameOID.COMMON_NAME, text))
    assert subject_hash(der(made)) == openssl_hash(made)


def test_the_system_s_own() -> None:
    links = [path for path in Path("/etc/ssl/certs").glob("*.0") if path.is_file()]
    for path in links[:200]:
        assert subject_hash(first_der(path.read_bytes())) == path.stem


@given(st.binary(max_size=400))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        subject_hash(data)


ONE = der(certificate(x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")))


@given(st.data())
def test_no_change_of_a_certificate_raises_anything_else(data: st.DataObject) -> None:
    changed = bytearray(ONE)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, 120))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ValueError):
        subject_hash(bytes(changed[: data.draw(st.integers(0, len(changed)))]))


def test_a_joined_bundle_trusts_all() -> None:
    authorities = [trustme.CA().cert_pem.bytes() for _ in range(3)]
    for bundle in (authorities[0] + authorities[1], (authorities[0] + authorities[1]).rstrip(b"\n"), b""):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=joined(bundle, authorities[2]).decode())
        assert len(context.get_ca_certs()) == 1 + 2 * bool(bundle)


def test_what_a_bundle_is() -> None:
    authority = trustme.CA()
    leaf = authority.issue_cert("a.test")
    assert is_bundle(authority.cert_pem.bytes())
    assert not is_bundle(leaf.private_key_and_cert_chain_pem.bytes())
    assert not is_bundle(b"nothing")


def test_no_certificate() -> None:
    with pytest.raises(ValueError, match="no certificate"):
        first_der(b"nothing")
