"""What becomes of a miss, by choice: the real backend answers, and what it said may be added to the snapshot."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Authority
from tests.e2e.programs import client
from tests.e2e.recording import Done, as_exchanges, differences, pairs, record, understudy
from tests.e2e.truth.log import read_told
from tests.e2e.truth.server import TruthServer

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left_behind")]

COUNT = 60
SIZE = ("--exchanges", str(COUNT), "--connections", "6")


def mock(folder: Path, on_miss: str, *command: str, ca: Path | None = None) -> tuple[Done, dict[str, Any]]:
    """Runs a command with its backends mocked; `ca` is whom the person trusts."""
    options = ("--on-miss", on_miss, "--fail-on-miss", "--report", folder / "report")
    variables = {"SSL_CERT_FILE": str(ca)} if ca else {}
    done = understudy("mock", folder / "snapshot", *options, "--", *command, variables=variables)
    return done, json.loads((folder / "report").read_text()) if done.status != 125 else {}


@pytest.mark.parametrize("name", ["with_requests", "with_curl", "with_aiohttp"])
def test_what_was_not_recorded_is_real_then_recorded(
    name: str, tls_server: TruthServer, authority: Authority, tmp_path: Path
) -> None:
    def asking(marker: str) -> list[str]:
        return client(name, tls_server.url, tmp_path / marker, *SIZE, "--name", marker, ca=authority.ca)

    assert record(tmp_path / "snapshot", *asking("m")).status == 0
    assert mock(tmp_path, "fail", *asking("n"))[0].status != 0
    assert len(tls_server.exchanges) == COUNT

    done, report = mock(tmp_path, "passthrough", *asking("n"), ca=authority.ca)
    assert (done.status, report["matches"], report["passed"], report["added_pairs"]) == (3, 0, COUNT, 0), done.stderr
    assert len(tls_server.exchanges) == 2 * COUNT
    assert len(pairs(tmp_path / "snapshot")) == COUNT

    done, report = mock(tmp_path, "record", *asking("n"), ca=authority.ca)
    assert (done.status, report["matches"], report["passed"], report["added_pairs"]) == (3, 0, COUNT, COUNT), done.stderr
    real = tls_server.exchanges[2 * COUNT :]
    assert differences([each for each in as_exchanges(pairs(tmp_path / "snapshot")) if each.marker.startswith("n")], real) == []
    heard = sorted(map(str, read_told(tmp_path / "n")))

    tls_server.__exit__(None, None, None)
    for marker in ("m", "n"):
        done, report = mock(tmp_path, "fail", *asking(marker))
        assert (done.status, report["responder_rate"], report["passed"]) == (0, 1, 0), done.stderr
    assert sorted(map(str, read_told(tmp_path / "n"))) == heard


def test_a_backend_that_is_not_trusted_is_not_asked(tls_server: TruthServer, authority: Authority, tmp_path: Path) -> None:
    ask = (sys.executable, "-c", ASK, f"{tls_server.url}/length/5/new")
    assert (
        record(tmp_path / "snapshot", *client("with_requests", tls_server.url, tmp_path / "log", *SIZE, ca=authority.ca)).status
        == 0
    )
    done, report = mock(tmp_path, "passthrough", *ask)
    assert "404" in done.stderr
    assert [(miss["path"], miss["passed"]) for miss in report["misses"]] == [("/length/5/new", 0)]
    assert len(tls_server.exchanges) == COUNT


ASK = """
import sys, urllib.request
for url in sys.argv[1:]:
    asked = urllib.request.Request(url, headers={"X-Marker": url.rpartition("/")[2]})
    with urllib.request.urlopen(asked, timeout=20) as answer:
        print(len(answer.read()))
"""


def test_calls_to_who_was_never_recorded_are_added(
    tls_server: TruthServer, plain_server: TruthServer, authority: Authority, tmp_path: Path
) -> None:
    """They do not go by the responder: the agent captures them. What was left out on purpose is real, and is not added."""
    left_out = f"{tls_server.url}/length/7/left-out"
    assert (
        record(tmp_path / "snapshot", *client("with_requests", tls_server.url, tmp_path / "log", *SIZE, ca=authority.ca)).status
        == 0
    )
    assert understudy("backends", tmp_path / "snapshot", "--off", "localhost").status == 0
    asking = (sys.executable, "-c", ASK, f"{plain_server.url}/chunked/20000/new", f"{plain_server.url}/length/5/newer")
    done, report = mock(tmp_path, "record", *asking, left_out, ca=authority.ca)
    assert done.stdout.split() == [b"20000", b"5", b"7"], done.stderr
    assert (report["requests"], report["added_pairs"]) == (0, 2)
    assert "added 2 pairs to" in done.stderr
    added = [pair for pair in pairs(tmp_path / "snapshot") if pair["port"] == plain_server.port]
    assert differences(as_exchanges(added), plain_server.exchanges) == []
    plain_server.__exit__(None, None, None)
    again, report = mock(tmp_path, "fail", *asking)
    assert (again.status, again.stdout, report["responder_rate"]) == (0, b"20000\n5\n", 1), again.stderr
