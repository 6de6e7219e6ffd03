"""While it runs, `record` shows on a terminal how far it is and how to end it; elsewhere it does not."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Authority
from tests.e2e.programs import ROOT, client, environment
from tests.e2e.recording import TIMEOUT, UNDERSTUDY, record
from tests.e2e.truth.server import TruthServer

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left_behind")]

CONTROLS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """Both ends of a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    yield ours, theirs
    os.close(ours)


def read_until(ours: int, wanted: str) -> str:
    """What is printed, until something wanted is: a test that waits in vain is ended by its timeout."""
    said = ""
    while wanted not in said:
        said = CONTROLS.sub("", said + os.read(ours, 4096).decode())
    return said


def test_a_running_process(terminal: tuple[int, int], tls_server: TruthServer, authority: Authority, tmp_path: Path) -> None:
    ours, theirs = terminal
    script = "import subprocess, sys; input(); subprocess.run(sys.argv[1:], check=True); input()"
    asking = client("with_requests", tls_server.url, tmp_path / "log", "--exchanges", "20", ca=authority.ca)
    with subprocess.Popen([sys.executable, "-c", script, *asking], stdin=subprocess.PIPE, env=environment()) as program:
        assert program.stdin
        command = [UNDERSTUDY, "record", "-o", str(tmp_path / "a.snapshot"), "--name", "shop", "--pid", str(program.pid)]
        with subprocess.Popen(command, env=environment(TERM="xterm"), cwd=ROOT, stderr=theirs) as recorder:
            os.close(theirs)
            read_until(ours, "recording shop: 0 pairs, 0 backends, nothing lost; Ctrl-C ends it")
            program.stdin.write(b"\n")
            program.stdin.flush()
            read_until(ours, "recording shop: 20 pairs, 1 backend, nothing lost; Ctrl-C ends it")
            recorder.send_signal(signal.SIGINT)
            read_until(ours, "20 of 20 pairs complete")
            assert recorder.wait(TIMEOUT) == 0
        program.communicate(b"\n", timeout=TIMEOUT)


def test_a_command(terminal: tuple[int, int], tls_server: TruthServer, authority: Authority, tmp_path: Path) -> None:
    ours, theirs = terminal
    asking = client("with_requests", tls_server.url, tmp_path / "log", "--exchanges", "20", ca=authority.ca)
    command = [UNDERSTUDY, "record", "-o", str(tmp_path / "a.snapshot"), "--name", "shop", "--"]
    command += ["sh", "-c", '"$@"; read line', "sh", *asking]
    with subprocess.Popen(command, env=environment(TERM="xterm"), cwd=ROOT, stdin=subprocess.PIPE, stderr=theirs) as recorder:
        os.close(theirs)
        read_until(ours, "recording shop: 20 pairs, 1 backend, nothing lost; its end ends the recording")
        recorder.communicate(b"\n", timeout=TIMEOUT)
        assert recorder.returncode == 0


def test_quiet(terminal: tuple[int, int], tls_server: TruthServer, authority: Authority, tmp_path: Path) -> None:
    ours, theirs = terminal
    asking = client("with_requests", tls_server.url, tmp_path / "log", "--exchanges", "20", ca=authority.ca)
    command = [
        UNDERSTUDY,
        "record",
        "--quiet",
        "-o",
        str(tmp_path / "a.snapshot"),
        "--",
        "sh",
        "-c",
        '"$@"; sleep 3',
        "sh",
        *asking,
    ]
    with subprocess.Popen(command, env=environment(TERM="xterm"), cwd=ROOT, stderr=theirs) as recorder:
        os.close(theirs)
        said = read_until(ours, "20 of 20 pairs complete")
        assert "its end ends the recording" not in said
        assert recorder.wait(TIMEOUT) == 0


def test_no_terminal(tls_server: TruthServer, authority: Authority, tmp_path: Path) -> None:
    asking = client("with_requests", tls_server.url, tmp_path / "log", "--exchanges", "20", ca=authority.ca)
    done = record(tmp_path / "a.snapshot", *asking)
    assert done.status == 0
    assert "ends the recording" not in done.stderr
    assert "\x1b" not in done.stderr
