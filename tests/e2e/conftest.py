"""Servers, certificates and folders for the end-to-end tests."""

from __future__ import annotations

import contextlib
import signal
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from tests.e2e.machine import Machine
from tests.e2e.proxy import Proxy
from tests.e2e.truth.server import TruthServer


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority for tests: the file to trust, and contexts for servers."""

    ca: Path
    context: ssl.SSLContext


@pytest.fixture(scope="session", autouse=True)
def _signals_as_by_default() -> None:
    """Under nohup SIGHUP is ignored, in a background job SIGINT, and everything that the tests start inherits that."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """One authority with a certificate for localhost. The file to trust may be read by every user."""
    issuer = trustme.CA()
    path = tmp_path_factory.mktemp("trust") / "ca.pem"
    issuer.cert_pem.write_to_path(str(path))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issuer.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    return Authority(path, context)


@pytest.fixture
def tls_server(authority: Authority) -> Iterator[TruthServer]:
    """A truth server that speaks TLS."""
    with TruthServer(authority.context) as server:
        yield server


@pytest.fixture
def plain_server() -> Iterator[TruthServer]:
    """A truth server without TLS."""
    with TruthServer() as server:
        yield server


@pytest.fixture
def nothing_left_behind() -> Iterator[None]:
    """Fails the test after which something is on this machine that was not there before."""
    before = Machine.now()
    yield
    assert before.left_since() == set()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with contextlib.closing(Proxy()) as made:
        yield made
