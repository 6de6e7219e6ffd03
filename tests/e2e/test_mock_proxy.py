"""Proxies do not lead past the responder: neither one that the environment names, nor unseen one on the loopback."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Authority
from tests.e2e.programs import client
from tests.e2e.proxy import Proxy
from tests.e2e.recording import Done, record, understudy
from tests.e2e.truth.server import TruthServer

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left_behind")]

COUNT = 20
SIZE = ("--exchanges", str(COUNT), "--connections", "2")


@pytest.fixture
def command(tls_server: TruthServer, authority: Authority, tmp_path: Path) -> list[str]:
    """What was recorded, without a proxy. The server goes on."""
    words = client("with_requests", tls_server.url, tmp_path / "log", *SIZE, ca=authority.ca)
    assert record(tmp_path / "snapshot", *words).status == 0
    assert len(tls_server.exchanges) == COUNT
    return words


def mock(folder: Path, *command: str, **variables: str) -> tuple[Done, dict[str, Any]]:
    options = ("--fail-on-miss", "--report", folder / "report")
    done = understudy("mock", folder / "snapshot", *options, "--", *command, variables=variables)
    return done, json.loads((folder / "report").read_text())


BY_ENVIRONMENT = """
import hashlib, ssl, sys, urllib.request
handlers = [urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=sys.argv[2]))]  # proxies: by the environment
for number in range(int(sys.argv[3])):
    asked = urllib.request.Request(f"{sys.argv[1]}/length/{100 + number}/m{number}", headers={"X-Marker": f"m{number}"})
    with urllib.request.build_opener(*handlers).open(asked, timeout=20) as answer:
        print(answer.status, hashlib.sha256(answer.read()).hexdigest())
"""


@pytest.mark.parametrize("scheme", ["https", "http"])
@pytest.mark.parametrize("recorded_by_proxy", [False, True], ids=["directly", "by the proxy"])
def test_a_proxy_that_the_environment_names_is_not_asked(
    scheme: str,
    recorded_by_proxy: bool,
    proxy: Proxy,
    tls_server: TruthServer,
    plain_server: TruthServer,
    authority: Authority,
    tmp_path: Path,
) -> None:
    """The program calls its backends by name then, and gets all that it got, whether it was recorded by way of a proxy (CONNECT, or
    the absolute form) or without one."""
    server = tls_server if scheme == "https" else plain_server
    words = (sys.executable, "-c", BY_ENVIRONMENT, server.url, str(authority.ca), "8")
    variables = {f"{scheme}_proxy": proxy.url}
    recorded = record(tmp_path / "snapshot", *words, variables=variables if recorded_by_proxy else None)
    assert (recorded.status, len(server.exchanges)) == (0, 8), recorded.stderr
    asked = 8 if recorded_by_proxy else 0
    assert len(proxy.asked) == asked
    done, report = mock(tmp_path, *words, **variables)
    assert (done.status, report["responder_rate"], report["requests"], report["missed"]) == (0, 1, 8, False), done.stderr
    assert done.stdout == recorded.stdout
    assert (len(server.exchanges), len(proxy.asked)) == (8, asked)


BY_PROXY = """
import ssl, sys, urllib.request
proxy = urllib.request.ProxyHandler({"https": sys.argv[1]})
opener = urllib.request.build_opener(proxy, urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=sys.argv[3])))
try:
    with opener.open(sys.argv[2], timeout=20) as answer:
        print(answer.status)
except OSError as error:
    print(type(error).__name__)
"""


def test_one_that_the_program_names_too_is_refused(
    command: list[str], proxy: Proxy, tls_server: TruthServer, authority: Authority, tmp_path: Path
) -> None:
    assert command
    ask = (sys.executable, "-c", BY_PROXY, proxy.url, f"{tls_server.url}/length/5/x", str(authority.ca))
    done, report = mock(tmp_path, *ask, HTTPS_PROXY=proxy.url)
    assert (done.status, done.stdout) == (3, b"URLError\n"), done.stderr
    assert [(call["address"], call["port"]) for call in report["refused"]] == [("127.0.0.1", proxy.port)]
    assert "the environment names it as a proxy" in done.stderr
    assert (proxy.asked, len(tls_server.exchanges)) == ([], COUNT)


def test_one_that_only_the_program_names_is_seen(
    command: list[str], proxy: Proxy, tls_server: TruthServer, authority: Authority, tmp_path: Path
) -> None:
    """The loopback is left alone; but it is listed."""
    assert command
    ask = (sys.executable, "-c", BY_PROXY, proxy.url, f"{tls_server.url}/length/5/x", str(authority.ca))
    done, report = mock(tmp_path, *ask)
    assert (done.status, done.stdout) == (0, b"200\n"), done.stderr
    assert [(call["address"], call["port"]) for call in report["local"]] == [("127.0.0.1", proxy.port)]
    assert f"went to a program on this machine, not mocked: TCP 127.0.0.1:{proxy.port}" in done.stderr
