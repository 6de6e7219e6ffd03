"""The certificate authority of this installation: its key is made here, is readable by its owner only, and never leaves.

Keys are EC P-256, because an RSA key takes 60 ms to make. A leaf is made for a name when somebody asks for it.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import ssl
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

KEY_FILE, CERTIFICATE_FILE = "ca-key.pem", "ca.pem"
AUTHORITY_DAYS = 3650
LEAF_DAYS = 397
"""The longest that clients take (CA/Browser Forum, ballot SC22); a leaf lives as long as its responder at most."""
SKEW = timedelta(days=1)
"""Clocks of containers and their hosts differ."""
LEAVES_LIMIT = 1024
"""Names whose context is kept, the latest used; one takes some 100 KiB."""
NAME_LIMIT = 64
"""Longest common name (RFC 5280, ub-common-name); the alternative name has it whole."""


class Authority:
    """Signs leaves. `certificate_file` is what clients have to trust."""

    def __init__(self, folder: Path) -> None:
        """Open the authority of a folder, or make it. Raises OSError, or ValueError where its files are damaged."""
        self.certificate_file = folder / CERTIFICATE_FILE
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(folder):
            if not (folder / KEY_FILE).exists() or not self.certificate_file.exists():
                _make(folder)
        key = serialization.load_pem_private_key((folder / KEY_FILE).read_bytes(), None)
        self._certificate = x509.load_pem_x509_certificate(self.certificate_file.read_bytes())
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != self._certificate.public_key():
            raise ValueError(f"{folder / KEY_FILE} is not the key of {CERTIFICATE_FILE}: remove both, they are made again")
        self._key = key
        self._leaf_key = ec.generate_private_key(ec.SECP256R1())

    def leaf(self, name: str) -> bytes:
        """Make a certificate for a DNS name or an address; PEM, with its key."""
        public = self._leaf_key.public_key()
        issuer = self._certificate.subject
        builder = _builder(_subject(name), issuer, public, timedelta(days=LEAF_DAYS))
        certificate = (
            builder.add_extension(x509.SubjectAlternativeName([_alternative(name)]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return _pem(self._leaf_key) + _encoded(certificate)


class Contexts:
    """TLS contexts of a responder, one a name."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority
        self._made: OrderedDict[str, ssl.SSLContext] = OrderedDict()

    def named(self, name: str) -> ssl.SSLContext:
        """Context with a leaf for a name. Raises ValueError where it cannot be a host's."""
        context = self._made.get(name)
        if context is None:
            context = self._made[name] = self._make(name)
            if len(self._made) > LEAVES_LIMIT:
                self._made.popitem(last=False)
        else:
            self._made.move_to_end(name)
        return context

    def _make(self, name: str) -> ssl.SSLContext:
        context = bare_context()
        with tempfile.NamedTemporaryFile() as file:  # the module ssl takes files only; mode 0600
            file.write(self._authority.leaf(name))
            file.flush()
            context.load_cert_chain(file.name)
        return context


def bare_context() -> ssl.SSLContext:
    """Context without a certificate: TLS 1.2 and later, HTTP/1.1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process at a time make an authority."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _make(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, f"Understudy on {os.uname().nodename}"[:NAME_LIMIT]),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Understudy"),
        ]
    )
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    certificate = (
        _builder(name, name, key.public_key(), timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(folder / KEY_FILE, _pem(key), 0o600)
    _write(folder / CERTIFICATE_FILE, _encoded(certificate), 0o644)


def _write(path: Path, data: bytes, mode: int) -> None:
    path.unlink(missing_ok=True)  # half of a pair that was never finished
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, lifetime: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + lifetime - SKEW)
    )


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:NAME_LIMIT] or "unknown")])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _encoded(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
