"""What `record` says of TLS that it does not capture."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import Authority
from tests.e2e.proxy import Proxy
from tests.e2e.recording import pairs, record
from tests.e2e.truth.server import TruthServer

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left_behind")]


def test_a_library_that_is_mapped_and_not_used_is_not_told_of(
    tls_server: TruthServer, authority: Authority, tmp_path: Path
) -> None:
    """Debian's curl speaks TLS by OpenSSL, and has GnuTLS by way of another library."""
    curl = shutil.which("curl")
    assert curl
    assert b"libgnutls" in subprocess.check_output(["ldd", curl])
    url = f"{tls_server.url}/length/1000/m"
    done = record(tmp_path / "snapshot", curl, "-fsS", "--cacert", str(authority.ca), "-o", "/dev/null", url)
    assert done.status == 0
    assert "is not captured" not in done.stderr


CONNECT = """
import grpc, sys
with grpc.secure_channel(sys.argv[1], grpc.ssl_channel_credentials(open(sys.argv[2], "rb").read())) as channel:
    try:
        grpc.channel_ready_future(channel).result(0.1)
    except grpc.FutureTimeoutError:
        pass  # the server speaks no HTTP/2
"""


def test_tls_that_no_probe_saw_is_told_of_with_its_library(tls_server: TruthServer, authority: Authority, tmp_path: Path) -> None:
    command = [sys.executable, "-c", CONNECT, f"localhost:{tls_server.port}", str(authority.ca)]
    done = record(tmp_path / "snapshot", "sh", "-c", '"$@"; "$@"', "sh", *command)
    assert done.status == 0
    said = [line for line in done.stderr.splitlines() if "its TLS is not captured: BoringSSL" in line]
    assert len(said) == 2  # once a process


@pytest.mark.parametrize("by_proxy", [False, True], ids=["directly", "by a proxy"])
def test_tls_of_gnutls_is_told_of(
    by_proxy: bool, tls_server: TruthServer, authority: Authority, proxy: Proxy, tmp_path: Path
) -> None:
    """A tunnel through a proxy begins in the clear: its pair is whole, and what goes through it shows as what it is."""
    words = ("wget", "-q", "-O", "/dev/null", f"--ca-certificate={authority.ca}", f"{tls_server.url}/length/1000/m")
    done = record(tmp_path / "snapshot", *words, variables={"https_proxy": proxy.url} if by_proxy else {})
    assert done.status == 0
    assert len(tls_server.exchanges) == 1
    assert sum("its TLS is not captured: GnuTLS" in line for line in done.stderr.splitlines()) == 1
    assert "its plaintext cannot be captured" in done.stderr
    captured = pairs(tmp_path / "snapshot")
    assert [(pair["method"], pair["complete"]) for pair in captured] == [("CONNECT", True)] * by_proxy
