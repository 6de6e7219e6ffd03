"""Ctrl-C and signals, before and while a command runs."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.e2e.machine import eventually
from tests.e2e.programs import ROOT, environment
from tests.e2e.recording import UNDERSTUDY, part, understudy
from tests.engine.making import Exchange, write_snapshot

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left_behind")]

TIMEOUT = 60.0

WAIT = """
import sys, time
try:
    print("here", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    sys.exit(7)
"""


def start(mode: str, folder: Path, *command: str) -> subprocess.Popen[str]:
    snapshot = folder / "snapshot"
    if mode == "mock":
        write_snapshot(snapshot, Exchange("GET /a"))
    ours = ["record", "-o", str(snapshot)] if mode == "record" else ["mock", str(snapshot)]
    return subprocess.Popen(
        [UNDERSTUDY, *ours, "--", *command],
        env=environment(),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # without a terminal
    )


@pytest.mark.parametrize("mode", ["record", "mock"])
def test_an_interrupt_for_us_alone_reaches_the_command(mode: str, tmp_path: Path) -> None:
    with start(mode, tmp_path, sys.executable, "-c", WAIT) as process:
        assert process.stdout
        assert process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGINT)
        said, told = process.communicate(timeout=TIMEOUT)
    assert (said, process.returncode) == ("interrupted\n", 7), told


def test_an_interrupt_ends_the_wait_for_an_engine_that_takes_nothing(tmp_path: Path) -> None:
    with start("record", tmp_path, sys.executable, "-c", WAIT) as process:
        assert process.stdout
        assert process.stdout.readline() == "here\n"
        part(process.pid, "engine").suspend()
        (command,) = [each for each in psutil.Process(process.pid).children() if WAIT in each.cmdline()]
        process.send_signal(signal.SIGINT)
        assert eventually(lambda: not psutil.pid_exists(command.pid), TIMEOUT)
        for _ in range(2):  # one is lost that comes between the end of the command and the next line of ours
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(TIMEOUT / 2)
                break
        _, told = process.communicate(timeout=TIMEOUT)
    partial = tmp_path / "snapshot.partial"
    assert (process.returncode, told.splitlines()[1:]) == (
        125,
        [f"understudy: interrupted before the snapshot was finished: what arrived is in {partial}"],
    )
    assert understudy("inspect", partial).status == 0


@pytest.mark.parametrize("stage", ["engine", "agent"])
@pytest.mark.parametrize("mode", ["record", "mock"])
def test_an_interrupt_before_the_command_has_begun_is_one_line(mode: str, stage: str, tmp_path: Path) -> None:
    """As Ctrl-C does it: all of the terminal's foreground."""
    with start(mode, tmp_path, sys.executable, "-c", WAIT) as process:
        assert eventually(lambda: _has_come(process.pid, stage), TIMEOUT)
        os.killpg(process.pid, signal.SIGINT)
        said, told = process.communicate(timeout=TIMEOUT)
    if said:  # it had begun already
        assert process.returncode == 7
    else:
        assert (process.returncode, told) == (130, "understudy: interrupted\n")


def _has_come(pid: int, stage: str) -> bool:
    """How far it is: its engine is started, or its agent."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    lines = [Path(f"/proc/{child}/cmdline").read_bytes() for child in found if Path(f"/proc/{child}").exists()]
    return any(f"\0-m\0{stage}\0".encode() in line for line in lines)


@pytest.mark.parametrize("arguments", [("mock",), ("record", "--nonsense"), ("mock", "x", "--on-miss", "maybe"), ("nonsense",)])
def test_wrong_usage_is_a_failure_of_ours(arguments: tuple[str, ...]) -> None:
    """No command's own status is 2 by accident."""
    done = understudy(*arguments)
    assert (done.status, done.stdout) == (125, b"")
    assert "Usage: " in done.stderr
