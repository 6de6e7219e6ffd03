"""Whom the responder of `mock -- CMD` answers: what CMD called, and nobody else on the machine."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.programs import ROOT, environment
from tests.e2e.recording import UNDERSTUDY, pairs, part, record
from tests.e2e.truth.server import TruthServer

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left_behind")]

TIMEOUT = 60.0
NOBODY = 65534
CURL = ("curl", "-sS", "--noproxy", "*", "--max-time", "20")
RESETS = (7, 55, 56)
"""What curl makes of a reset, by when it comes: could not connect, send, or receive."""


@contextlib.contextmanager
def mocking(folder: Path, script: str, *options: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """`sh -c SCRIPT` under `mock`, which has begun, and the responder's port."""
    command = [UNDERSTUDY, "mock", str(folder / "snapshot"), "--report", str(folder / "report"), *options, "--", "sh", "-c", script]
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, env=environment(), cwd=ROOT, text=True, **pipes) as process:
        assert process.stderr
        while "standing in for" not in (line := process.stderr.readline()):
            assert line, "mock has ended"
        listening = part(process.pid, "engine").net_connections("tcp")
        (port,) = [each.laddr.port for each in listening if each.status == psutil.CONN_LISTEN]
        yield process, port


def ended(process: subprocess.Popen[str], said: str, folder: Path) -> tuple[str, str, dict[str, Any]]:
    """What a command and `mock` printed after they were told something, and the report."""
    out, errors = process.communicate(said, timeout=TIMEOUT)
    return out, errors, json.loads((folder / "report").read_text())


@pytest.fixture
def url(plain_server: TruthServer, tmp_path: Path) -> str:
    """What was recorded of a server that goes on."""
    found = f"{plain_server.url}/length/5/secret"
    assert record(tmp_path / "snapshot", *CURL, "-H", "X-Marker: m", found).status == 0
    assert len(plain_server.exchanges) == 1
    return found


@pytest.mark.parametrize("on_miss", ["fail", "passthrough", "record"])
def test_nobody_else_is_answered(on_miss: str, url: str, plain_server: TruthServer, tmp_path: Path) -> None:
    """Neither from the snapshot nor from the real backend; nothing is counted as asked, and nothing is added."""
    place = url.split("/")[2]
    ask = f"read line; {' '.join(map(repr, CURL))} -o /dev/null -w '%{{http_code}}' -H 'X-Marker: m' {url}"
    with mocking(tmp_path, ask, "--on-miss", on_miss) as (process, port):
        for path in ("length/5/secret", "length/5/never"):
            asking = [*CURL, "-H", "X-Marker: m", "-H", f"Host: {place}", f"http://127.0.0.1:{port}/{path}"]
            stranger = subprocess.run(asking, user=NOBODY, capture_output=True, cwd="/", timeout=TIMEOUT)
            assert stranger.returncode in RESETS, stranger.stderr
            assert stranger.stdout == b""
        out, errors, report = ended(process, "go on\n", tmp_path)
    assert (process.returncode, out) == (0, "200"), errors
    assert (report["requests"], report["matches"], report["passed"], report["added_pairs"]) == (1, 1, 0, 0)
    assert list(report["troubles"].values()) == [2]
    assert "2 times: a connection that is none of the command's" in errors
    assert (len(plain_server.exchanges), len(pairs(tmp_path / "snapshot"))) == (1, 1)


def test_the_command_may_call_the_responder_itself(url: str, tmp_path: Path) -> None:
    """A program that has its address, from --listen say, is answered by what it names."""
    place = url.split("/")[2]
    ask = f"{' '.join(map(repr, CURL))} -H 'X-Marker: m' -H 'Host: {place}' -o /dev/null -w '%{{http_code}}'"
    script = f"read port; for host in 127.0.0.1 localhost; do {ask} http://$host:$port/length/5/secret; done"
    with mocking(tmp_path, script) as (process, port):
        out, errors, report = ended(process, f"{port}\n", tmp_path)
    assert out == "200200", errors
    assert (report["requests"], report["matches"], report["troubles"]) == (2, 2, {})


def test_what_asked_and_ended_before_it_was_accepted(url: str, tmp_path: Path) -> None:
    """A process that says what it has to say and ends is CMD's all the same, though nothing is left of it by then."""
    host, port = url.split("/")[2].split(":")
    head = f"GET /length/5/secret HTTP/1.1\\r\\nHost: {host}:{port}\\r\\nX-Marker: m\\r\\n\\r\\n"
    script = f"""read line; bash -c 'exec 3<>/dev/tcp/{host}/{port}; printf "{head}" >&3'; echo asked; read line"""
    with mocking(tmp_path, script) as (process, _):
        assert process.stdin
        assert process.stdout
        engine = part(process.pid, "engine")
        engine.send_signal(signal.SIGSTOP)
        process.stdin.write("go on\n")
        process.stdin.flush()
        assert process.stdout.readline() == "asked\n"
        engine.send_signal(signal.SIGCONT)
        _, _, report = ended(process, "go on\n", tmp_path)
    assert (report["requests"], report["matches"], report["troubles"]) == (1, 1, {})
