"""In a PID namespace of its own, where processes have other numbers than in the kernel, nothing is done, and why is said."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.programs import ROOT
from tests.e2e.recording import Done, record, understudy

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left_behind")]

INSIDE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
BESIDE_ANOTHER = (*INSIDE, "sh", "-c", 'sleep 10 & exec "$@" --pid $!', "sh")
"""The same, with the number of a process that runs in there as the last argument."""

REMEDIES = ("hostPID: true", "--pid=host")


def assert_refused(done: Done) -> None:
    """One line that says what, why and how to mend it; 125."""
    assert (done.status, done.stdout) == (125, b"")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert [words for words in ("PID namespace", *REMEDIES) if words not in done.stderr] == []


def test_a_command_is_not_recorded(tmp_path: Path) -> None:
    assert_refused(understudy("record", "-o", tmp_path / "snapshot", "--", "touch", tmp_path / "ran", before=INSIDE))
    assert list(tmp_path.iterdir()) == []


def test_a_process_is_not_recorded_by_its_number(tmp_path: Path) -> None:
    """Outside of the namespace the number may be anybody's."""
    assert_refused(understudy("record", "-o", tmp_path / "snapshot", before=BESIDE_ANOTHER))
    assert list(tmp_path.iterdir()) == []


def test_a_command_is_not_taken_over(tmp_path: Path) -> None:
    """A process outside whose number is that of one inside would be taken for it, and cut off."""
    assert record(tmp_path / "snapshot", "true").status == 0
    assert_refused(understudy("mock", tmp_path / "snapshot", "--", "touch", tmp_path / "ran", before=INSIDE))
    assert [path.name for path in tmp_path.iterdir()] == ["snapshot"]


def test_the_agent_says_so_when_it_starts(tmp_path: Path) -> None:
    (tmp_path / "lease").mkdir()
    command = [*INSIDE, sys.executable, "-m", "agent", "--listen", f"unix:{tmp_path}/a.sock", "--lease", str(tmp_path / "lease")]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0
    assert [words for words in ("PID namespace", *REMEDIES) if words not in done.stderr] == []


def test_doctor_says_so() -> None:
    shown = understudy("doctor", before=INSIDE)
    assert shown.status == 1, shown.stderr
    assert "Recording does not work here yet." in shown.stdout.decode()
    assert [words for words in ("PID namespace", *REMEDIES) if words not in shown.stdout.decode()] == []
    told = understudy("doctor", "--json", before=INSIDE)
    assert told.status == 1, told.stderr
    said = json.loads(told.stdout)
    assert not said["ready"]
    (check,) = (check for check in said["checks"] if not check["ok"] and check["required"])
    assert check["name"] == "PID namespace"
    assert [words for words in REMEDIES if words not in check["remedy"]] == []


def test_doctor_has_nothing_to_say_of_it_elsewhere() -> None:
    checks = json.loads(understudy("doctor", "--json").stdout)["checks"]
    assert [check["ok"] for check in checks if check["name"] == "PID namespace"] == [True]
