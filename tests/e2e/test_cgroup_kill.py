"""Who kills the cgroup in which understudy was started, as a service manager does, kills the command with it; nothing stays."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from agent import workloads
from tests.e2e.machine import eventually
from tests.e2e.programs import ROOT, environment
from tests.e2e.recording import UNDERSTUDY, record
from tests.engine.making import Exchange, write_snapshot

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left_behind"), pytest.mark.timeout(120)]

TIMEOUT = 20.0

WAIT = """
import os, sys, time
with open(sys.argv[1] + ".new", "w") as told:
    told.write(str(os.getpid()))
os.rename(sys.argv[1] + ".new", sys.argv[1])
time.sleep(600)
"""


@pytest.fixture
def unit() -> Iterator[Path]:
    """A cgroup, as a service manager makes one for a service."""
    mount = workloads.cgroup_mount()
    assert mount is not None
    made = mount / f"test-unit-{os.getpid()}"
    made.mkdir()
    try:
        yield made
    finally:
        (made / "cgroup.kill").write_text("1")
        assert eventually(lambda: workloads.remove_cgroup(made), TIMEOUT)


def started_in(unit: Path, *command: str) -> subprocess.Popen[bytes]:
    entered = ["sh", "-c", f'echo $$ > {unit}/cgroup.procs && exec "$@"', "sh", *command]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(entered, env=environment(), cwd=ROOT, stdin=quiet, stdout=quiet, stderr=quiet)


@contextlib.contextmanager
def killed(unit: Path) -> Iterator[None]:
    """Kills what is left, so that a test that fails does not wait for it."""
    try:
        yield
    finally:
        (unit / "cgroup.kill").write_text("1")


def lives(process: psutil.Process) -> bool:
    """Whether it runs: one that has ended may wait for its parent."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


@pytest.mark.parametrize("mode", ["record", "mock"])
def test_the_command_ends_with_the_cgroup_of_its_launcher(mode: str, unit: Path, tmp_path: Path) -> None:
    snapshot, told = tmp_path / "snapshot", tmp_path / "told"
    write_snapshot(snapshot, Exchange("GET /a"))
    ours = ["record", "-o", str(tmp_path / "made")] if mode == "record" else ["mock", str(snapshot)]
    with started_in(unit, UNDERSTUDY, *ours, "--", sys.executable, "-c", WAIT, str(told)) as process, killed(unit):
        assert eventually(told.exists, TIMEOUT)
        pid = told.read_text()
        command = psutil.Process(int(pid))
        assert lives(command)
        (unit / "cgroup.kill").write_text("1")
        assert process.wait(TIMEOUT) < 0
        ended = eventually(lambda: not lives(command), TIMEOUT)
        with contextlib.suppress(psutil.NoSuchProcess):
            command.kill()  # it lives where the test fails
        assert ended
    assert eventually(lambda: "populated 0" in (unit / "cgroup.events").read_text(), TIMEOUT)
    # The next one removes what nobody was left to remove.
    assert record(tmp_path / "next", "true").status == 0
