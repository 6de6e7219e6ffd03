"""What becomes of a miss, by choice: the real backend answers, and what it said may be added to the snapshot."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.conftest import Authority
from tests.e2e.programs import ROOT, client, environment
from tests.e2e.recording import UNDERSTUDY, Done, as_exchanges, differences, pairs, part, record, understudy
from tests.e2e.truth.log import read_told
from tests.e2e.truth.server import TruthServer

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left_behind")]

COUNT = 60
TIMEOUT = 60.0
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
    assert "418" in done.stderr
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
    shown = understudy("inspect", tmp_path / "snapshot").stdout
    assert b"2 pairs were added later, by a mock" in shown
    added = [pair for pair in pairs(tmp_path / "snapshot") if pair["port"] == plain_server.port]
    assert differences(as_exchanges(added), plain_server.exchanges) == []
    plain_server.__exit__(None, None, None)
    again, report = mock(tmp_path, "fail", *asking)
    assert (again.status, again.stdout, report["responder_rate"]) == (0, b"20000\n5\n", 1), again.stderr


LOOP = """
import sys, urllib.request
for line in sys.stdin:
    try:
        with urllib.request.urlopen(line.strip(), timeout=20) as answer:
            print(answer.status, flush=True)
    except OSError as error:
        print(type(error).__name__, flush=True)
"""


@pytest.mark.parametrize("victim", ["engine", "agent", "mock"])
def test_nothing_is_left_where_a_part_is_killed(
    victim: str, tls_server: TruthServer, plain_server: TruthServer, authority: Authority, tmp_path: Path
) -> None:
    """Capture and takeover share the command's cgroup. The snapshot stays what it was; the command goes on to its end."""
    assert (
        record(tmp_path / "snapshot", *client("with_requests", tls_server.url, tmp_path / "log", *SIZE, ca=authority.ca)).status
        == 0
    )
    command = [UNDERSTUDY, "mock", str(tmp_path / "snapshot"), "--on-miss", "record", "--", sys.executable, "-c", LOOP]
    environ = environment(SSL_CERT_FILE=str(authority.ca))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environ, cwd=ROOT, text=True, **pipes) as process:  # type: ignore[call-overload]

        def ask(url: str) -> str:
            process.stdin.write(f"{url}\n")
            process.stdin.flush()
            return str(process.stdout.readline())

        assert ask(f"{tls_server.url}/length/5/new") == "200\n"
        assert ask(f"{plain_server.url}/length/5/new") == "200\n"
        children = psutil.Process(process.pid).children(recursive=True)
        killed = psutil.Process(process.pid) if victim == "mock" else part(process.pid, victim)
        killed.kill()
        if victim != "mock":
            psutil.wait_procs([killed], TIMEOUT)
            assert ask(f"{tls_server.url}/length/5/newer") in ("200\n", "ConnectionRefusedError\n", "URLError\n")
        process.stdin.close()
        assert process.wait(TIMEOUT) == (-signal.SIGKILL if victim == "mock" else 125)
        psutil.wait_procs(children, TIMEOUT)
    # The responder heard two; the agent may have handed over a third before the blow.
    assert len(pairs(tmp_path / "snapshot")) - COUNT in ((2, 3) if victim == "agent" else (0,))
