"""What goes wrong is counted and told, and a thread that dies ends the agent."""

from __future__ import annotations

import subprocess
import sys

import pytest

from agent import failures
from agent.failures import Failures
from tests.e2e.programs import ROOT


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=60)


def test_a_thread_that_dies_ends_the_process_with_one_line() -> None:
    done = run(
        "import threading, time\n"
        "from agent.failures import end_when_a_thread_dies\n"
        "end_when_a_thread_dies()\n"
        "def events(): raise ValueError('a map\\n is full')\n"
        "threading.Thread(target=events, name='events').start()\n"
        "threading.Event().wait()\n"
    )
    assert done.returncode == failures.THREAD_DIED
    assert done.stderr.count("\n") == 1
    assert "thread 'events' died" in done.stderr
    assert "ValueError: a map is full (<string>:4)" in done.stderr


def test_a_thread_that_ends_by_itself_does_not() -> None:
    done = run(
        "import sys, threading\n"
        "from agent.failures import end_when_a_thread_dies\n"
        "end_when_a_thread_dies()\n"
        "thread = threading.Thread(target=sys.exit); thread.start(); thread.join()\n"
        "print('went on')\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "went on\n", "")


def test_all_are_counted_and_the_first_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    noted = Failures()
    for number in range(1000):
        noted.note("a file could not be probed", OSError(f"number {number} \udcff"))
    said = capsys.readouterr().err.splitlines()
    assert noted.count == 1000
    assert len(said) == failures.LINES_SHOWN + 1
    assert said[0] == "understudy-agent: a file could not be probed: OSError: number 0 ?"
