"""What clients hear under `mock` is what they heard when they were recorded, with nothing changed in them and nobody there."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.conftest import Authority
from tests.e2e.programs import CLIENTS, ROOT, client, environment
from tests.e2e.recording import UNDERSTUDY, Done, part, record, understudy
from tests.e2e.truth.log import read_told
from tests.e2e.truth.server import TruthServer

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left_behind")]

SIZE = ("--exchanges", "150", "--connections", "15")
TIMEOUT = 60.0


def mock(snapshot: Path, *command: str | Path, options: tuple[str | Path, ...] = ()) -> Done:
    """Runs a command with its backends mocked."""
    return understudy("mock", snapshot, *options, "--", *command)


def report_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@pytest.fixture
def recorded(tls_server: TruthServer, authority: Authority, tmp_path: Path) -> Callable[[str], list[str]]:
    """Records a client to `snapshot` and returns its command line; the server is gone afterwards."""

    def make(name: str) -> list[str]:
        command = client(name, tls_server.url, tmp_path / "log", *SIZE, ca=authority.ca)
        assert record(tmp_path / "snapshot", *command).status == 0
        tls_server.__exit__(None, None, None)
        with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", tls_server.port)):
            pass
        return command

    return make


@pytest.mark.parametrize("name", CLIENTS)
def test_clients_hear_the_same(name: str, recorded: Callable[[str], list[str]], tmp_path: Path) -> None:
    command = recorded(name)
    heard = sorted(map(str, read_told(tmp_path / "log")))
    (tmp_path / "log").unlink()
    done = mock(tmp_path / "snapshot", *command, options=("--fail-on-miss", "--report", tmp_path / "report"))
    assert done.status == 0, done.stderr
    assert sorted(map(str, read_told(tmp_path / "log"))) == heard
    report = report_of(tmp_path / "report")
    assert (report["responder_rate"], report["requests"], report["refused"]) == (1, 150, [])
    assert "Responder rate 100 %: 150 of 150 requests" in done.stderr


ASK = """
import json, sys, urllib.request, urllib.error
for url in sys.argv[1:]:
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            print(answer.status, len(answer.read()))
    except urllib.error.HTTPError as error:
        print(error.code, json.loads(error.read()))
    except urllib.error.URLError as error:
        print(type(error.reason).__name__)
"""


def test_a_miss_is_explained_and_counts(recorded: Callable[[str], list[str]], tls_server: TruthServer, tmp_path: Path) -> None:
    recorded("with_requests")
    ask = (sys.executable, "-c", ASK, f"{tls_server.url}/never/asked")
    done = mock(tmp_path / "snapshot", *ask, options=("--fail-on-miss", "--report", tmp_path / "report"))
    assert done.status == 3
    assert done.stdout.startswith(b"418 ")
    assert "NO_MATCH" in done.stderr
    (miss,) = report_of(tmp_path / "report")["misses"]
    assert (miss["path"], miss["host"]) == ("/never/asked", "localhost")
    assert miss["nearest"]
    assert mock(tmp_path / "snapshot", *ask).status == 0
    done = mock(tmp_path / "snapshot", "sh", "-c", '"$@"; exit 9', "sh", *ask, options=("--fail-on-miss",))
    assert done.status == 3
    assert "the exit status is 3; that of sh was 9" in done.stderr


def test_quiet(recorded: Callable[[str], list[str]], tls_server: TruthServer, tmp_path: Path) -> None:
    """Nothing is said but what was missed where that makes the command fail."""
    command = recorded("with_requests")
    ask = (sys.executable, "-c", ASK, f"{tls_server.url}/never/asked")
    done = mock(tmp_path / "snapshot", *ask, options=("--quiet",))
    assert (done.status, done.stdout[:4], done.stderr) == (0, b"418 ", "")
    done = mock(tmp_path / "snapshot", *ask, options=("-q", "--fail-on-miss"))
    assert (done.status, "standing in for" in done.stderr) == (3, False)
    assert "NO_MATCH GET /never/asked" in done.stderr
    assert "0 of 1 requests" in done.stderr
    done = mock(tmp_path / "snapshot", *command, options=("-q", "--fail-on-miss"))
    assert (done.status, done.stderr) == (0, "150 exchanges over 15 connections\n")  # the command's own words


def test_processes_that_are_left_behind_are_named(recorded: Callable[[str], list[str]], tmp_path: Path) -> None:
    recorded("with_requests")
    ended = tmp_path / "ended"
    os.mkfifo(ended)
    leave = f"cat {ended} >/dev/null 2>&1 & until grep -q cat /proc/$!/comm; do :; done"
    done = mock(tmp_path / "snapshot", "sh", "-c", leave)
    ended.write_text("")
    assert done.status == 0
    assert "sh has ended and left processes behind: cat (" in done.stderr


def test_what_was_not_recorded_is_refused_at_once(recorded: Callable[[str], list[str]], tmp_path: Path) -> None:
    """By address, IPv4 and IPv6: nobody is asked, and the report names the destination."""
    recorded("with_requests")
    ask = (sys.executable, "-c", ASK, "http://192.0.2.7:8080/", "http://[2001:db8::7]:8080/")
    done = mock(tmp_path / "snapshot", *ask, options=("--report", tmp_path / "report"))
    assert done.stdout.split() == [b"ConnectionRefusedError"] * 2
    refused = {(call["address"], call["port"]) for call in report_of(tmp_path / "report")["refused"]}
    assert refused == {("192.0.2.7", 8080), ("2001:db8::7", 8080)}


def test_the_loopback_beside_is_left_alone(recorded: Callable[[str], list[str]], plain_server: TruthServer, tmp_path: Path) -> None:
    recorded("with_requests")
    ask = (sys.executable, "-c", ASK, f"{plain_server.url}/length/5/beside")
    done = mock(tmp_path / "snapshot", *ask)
    assert done.stdout.startswith(b"200 ")
    assert len(plain_server.exchanges) == 1


def test_an_unchecked_backend_is_asked_for_real(tls_server: TruthServer, authority: Authority, tmp_path: Path) -> None:
    command = client("with_requests", tls_server.url, tmp_path / "log", *SIZE, ca=authority.ca)
    assert record(tmp_path / "snapshot", *command).status == 0
    place = f"localhost:{tls_server.port}"
    assert understudy("backends", tmp_path / "snapshot", "--off", place).status == 0
    done = mock(tmp_path / "snapshot", *command)
    assert done.status == 0, done.stderr
    assert len(tls_server.exchanges) == 300
    assert place in done.stderr
    assert understudy("backends", tmp_path / "snapshot", "--on", place).status == 0
    assert mock(tmp_path / "snapshot", *command).status == 0
    assert len(tls_server.exchanges) == 300


@pytest.mark.parametrize(("script", "status"), [("exit 7", 7), ("kill -TERM $$", 143)])
def test_exit_status_is_that_of_the_command(recorded: Callable[[str], list[str]], tmp_path: Path, script: str, status: int) -> None:
    recorded("with_http_client")
    assert mock(tmp_path / "snapshot", "sh", "-c", script).status == status
    missing = mock(tmp_path / "snapshot", "no-such-command-anywhere")
    assert (missing.status, len(missing.stderr.splitlines())) == (125, 1)


LOOP = """
import http.client, ssl, sys
port, ca = int(sys.argv[1]), sys.argv[2]
def ask():
    connection = http.client.HTTPSConnection("localhost", port, timeout=20, context=ssl.create_default_context(cafile=ca))
    connection.request("GET", "/anything")
    return connection.getresponse().status
print(ask(), flush=True)
sys.stdin.readline()
try:
    print(ask(), flush=True)
except OSError as error:
    print(type(error).__name__, flush=True)
"""


@pytest.mark.parametrize("victim", ["engine", "agent"])
def test_calls_fail_at_once_when_a_part_is_gone(
    victim: str, recorded: Callable[[str], list[str]], tls_server: TruthServer, authority: Authority, tmp_path: Path
) -> None:
    """The responder killed: refused at once. The agent killed: answered or refused, but never by the real backend."""
    recorded("with_requests")
    command = [UNDERSTUDY, "mock", str(tmp_path / "snapshot"), "--", sys.executable, "-c", LOOP]
    command += [str(tls_server.port), str(authority.ca)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment(), cwd=ROOT, text=True, **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout.readline() == "418\n"
        killed = part(process.pid, victim)
        killed.kill()
        psutil.wait_procs([killed], TIMEOUT)
        said, errors = process.communicate("\n", timeout=TIMEOUT)
    assert said in (("ConnectionRefusedError\n",) if victim == "engine" else ("418\n", "ConnectionRefusedError\n"))
    assert process.returncode == 125
    assert f"the {victim} ended" in errors


READ_BETWEEN = """
import http.client, ssl, sys
port, ca = int(sys.argv[1]), sys.argv[2]
def ask():
    connection = http.client.HTTPSConnection("localhost", port, timeout=20, context=ssl.create_default_context(cafile=ca))
    connection.request("GET", "/anything")
    return connection.getresponse().status
print(ask())
open(sys.argv[3], "rb").read()
print(*{ask() for _ in range(20)})
"""


def test_a_list_of_certificates_whose_name_is_no_text_ends_nothing(
    recorded: Callable[[str], list[str]], tls_server: TruthServer, authority: Authority, tmp_path: Path
) -> None:
    recorded("with_requests")
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    read = shutil.copy(authority.ca, folder / "cacert.pem")
    command = (sys.executable, "-c", READ_BETWEEN, str(tls_server.port), authority.ca, read)
    done = mock(tmp_path / "snapshot", *command, options=("--report", tmp_path / "report"))
    assert (done.status, done.stdout.split()) == (0, [b"418", b"418"]), done.stderr
    report = report_of(tmp_path / "report")
    assert (report["requests"], report["news_ended"]) == (21, "")


SCATTER = """
import socket, sys
caller = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number in range(int(sys.argv[1])):
    try:
        caller.sendto(b"x", (f"192.0.{2 + (number >> 8)}.{number & 255}", 9))
    except OSError:
        pass
"""


def test_calls_to_many_places_are_counted_and_not_all_shown(recorded: Callable[[str], list[str]], tmp_path: Path) -> None:
    recorded("with_requests")
    command = (sys.executable, "-c", SCATTER, "3000")
    done = mock(tmp_path / "snapshot", *command, options=("--fail-on-miss", "--report", tmp_path / "report"))
    assert done.status == 3
    report = report_of(tmp_path / "report")
    kept, more = report["refused"], report["more"]
    assert len(kept) == 1000
    assert sum(call["times"] for call in kept) + more["refused"] + more["untold"] == 3000
    lines = [line for line in done.stderr.splitlines() if "refused" in line]
    assert len(lines) == 21
    assert lines[-1].startswith("and ")


def test_two_at_once_do_not_see_each_other(tls_server: TruthServer, authority: Authority, tmp_path: Path) -> None:
    for number in (1, 2):
        command = client("with_requests", tls_server.url, tmp_path / f"log{number}", *SIZE, ca=authority.ca)
        assert record(tmp_path / f"snapshot{number}", *command).status == 0
    tls_server.__exit__(None, None, None)
    running = []
    for number in (1, 2):
        command = client("with_requests", tls_server.url, tmp_path / f"again{number}", *SIZE, ca=authority.ca)
        options = ["--fail-on-miss", "--report", str(tmp_path / f"report{number}")]
        whole = [UNDERSTUDY, "mock", str(tmp_path / f"snapshot{number}"), *options, "--", *command]
        running.append(subprocess.Popen(whole, env=environment(), cwd=ROOT, stderr=subprocess.PIPE, text=True))
    for number, process in zip((1, 2), running, strict=True):
        _, errors = process.communicate(timeout=2 * TIMEOUT)
        assert process.returncode == 0, errors
        assert report_of(tmp_path / f"report{number}")["requests"] == 150
        heard = [sorted(map(str, read_told(tmp_path / f"{log}{number}"))) for log in ("log", "again")]
        assert heard[0] == heard[1]
