"""`record -- CMD` is CMD to the one who calls it: its input, its output, its end."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.machine import eventually
from tests.e2e.programs import ROOT, environment
from tests.e2e.recording import TIMEOUT, UNDERSTUDY, pairs, record, start_recording, understudy

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left_behind")]


@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 0", 0), ("exit 7", 7), ("exit 125", 125), ("kill -TERM $$", 128 + 15), ("kill -KILL $$", 128 + 9)],
)
def test_exit_status_is_that_of_the_command(script: str, status: int, tmp_path: Path) -> None:
    assert record(tmp_path / "snapshot", "sh", "-c", script).status == status
    assert pairs(tmp_path / "snapshot") == []


def test_input_and_output_are_those_of_the_command(tmp_path: Path) -> None:
    sent = bytes(range(256)) * 1000
    done = record(tmp_path / "snapshot", "cat", stdin=sent)
    assert (done.status, done.stdout) == (0, sent)


def test_arguments_and_environment_arrive_unchanged(tmp_path: Path) -> None:
    script = "import os, sys; print(sys.argv[1:], os.environ['A_WORD'], os.getcwd())"
    arguments = ["", "two words", "--help", "-o", "--", "ünï"]
    done = record(tmp_path / "snapshot", sys.executable, "-c", script, *arguments, variables={"A_WORD": "with spaces"})
    expected = f"{arguments} with spaces {ROOT}\n"
    assert (done.status, done.stdout.decode()) == (0, expected)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_record_reaches_the_command(sent: signal.Signals, tmp_path: Path) -> None:
    process = start_trap(tmp_path, sent)
    process.send_signal(sent)
    process.communicate(timeout=TIMEOUT)
    assert process.returncode == 5
    assert pairs(tmp_path / "snapshot") == []


@pytest.mark.parametrize("sent", ["TERM", "HUP"])
def test_a_signal_that_comes_at_the_very_start_reaches_the_command(sent: str, tmp_path: Path) -> None:
    script = f"trap 'exit 5' {sent}; kill -{sent} $PPID; while :; do sleep 0.05; done"
    assert record(tmp_path / "snapshot", "sh", "-c", script).status == 5


def test_ctrl_c_reaches_the_command_once(tmp_path: Path) -> None:
    ready, times = tmp_path / "ready", tmp_path / "times"
    script = f"trap 'echo . >> {times}' INT; : > {ready}; while [ ! -s {times} ]; do sleep 0.05; done; sleep 0.3; exit 5"
    ours, theirs = pty.openpty()
    # setsid makes the terminal that of a session of its own, of which record is the foreground.
    command = ["setsid", "--ctty", UNDERSTUDY, "record", "-o", str(tmp_path / "snapshot"), "--", "sh", "-c", script]
    with subprocess.Popen(command, env=environment(), cwd=ROOT, stdin=theirs, stderr=subprocess.DEVNULL) as process:
        os.close(theirs)
        assert eventually(ready.exists, TIMEOUT)
        os.write(ours, b"\x03")
        assert process.wait(TIMEOUT) == 5
    os.close(ours)
    assert times.read_text() == ".\n"
    assert pairs(tmp_path / "snapshot") == []


def start_trap(folder: Path, expected: signal.Signals) -> subprocess.Popen[bytes]:
    """Records a command that ends with 5 on the signal; returns once it waits for it."""
    ready = folder / "ready"
    # The shell answers a signal once its sleep is over, so it sleeps in small steps.
    script = f"trap 'exit 5' {expected.name[3:]}; : > {ready}; while :; do sleep 0.05; done"
    process = start_recording(folder / "snapshot", "sh", "-c", script)
    assert eventually(ready.exists, TIMEOUT)
    return process


@pytest.mark.parametrize(("options", "name"), [((), "true.snapshot"), (("--name", "till"), "till.snapshot")])
def test_the_snapshot_bears_the_name_of_the_service(options: tuple[str, ...], name: str, tmp_path: Path) -> None:
    assert understudy("record", *options, "--", "true", cwd=tmp_path).status == 0
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_options_after_the_command_are_its_own(tmp_path: Path) -> None:
    done = understudy("record", "printf", "%s ", "-o", "--pid", "1", cwd=tmp_path)
    assert (done.status, done.stdout) == (0, b"-o --pid 1 ")


def test_processes_that_are_left_behind_are_named(tmp_path: Path) -> None:
    ended = tmp_path / "ended"
    os.mkfifo(ended)
    # The one left behind waits for the other end of the pipe. It has none of the outputs, or record would be waited for.
    leave = f"cat {ended} >/dev/null 2>&1 & until grep -q cat /proc/$!/comm; do :; done"
    done = record(tmp_path / "snapshot", "sh", "-c", leave)
    ended.write_text("")
    assert done.status == 0
    assert "sh has ended and left processes behind: cat (" in done.stderr
    assert "left processes behind" not in record(tmp_path / "snapshot", "sh", "-c", "cat /dev/null & wait").stderr
