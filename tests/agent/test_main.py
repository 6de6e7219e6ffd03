"""The agent's process: what it refuses, and what it makes sure of before anything else."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.e2e.programs import ROOT


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=60)


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::]:7071", "localhost:0", ""])
def test_a_port_is_no_place_to_listen(address: str) -> None:
    """Everybody on the machine could ask for captures there."""
    done = run("-m", "agent", "--listen", address)
    assert done.returncode == 2
    assert "a unix socket only" in done.stderr


def test_no_core_is_dumped_and_no_thread_dies_unnoticed() -> None:
    """A core would hold what workloads said in the clear."""
    done = run(
        "-c",
        "import ctypes, sys, threading\n"
        "import agent.__main__ as main\n"
        "def build(*_):\n"
        "    print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), flush=True)\n"  # PR_GET_DUMPABLE
        "    threading.Thread(target=lambda: 1 / 0, name='events').start()\n"
        "    threading.Event().wait()\n"
        "main.build = build\n"
        "main.main(['--listen', 'unix:/nowhere'])\n",
    )
    assert done.stdout == "0\n"
    assert done.returncode == 70
    assert "thread 'events' died" in done.stderr
