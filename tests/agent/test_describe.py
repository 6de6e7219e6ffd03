"""What `doctor` says of this machine, and of files that were made to harm whoever looks at them."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from agent import copies, describe
from agent.examiner import Examiner
from agent.kernel import seccomp
from agent.kernel.fanotify import Group
from tests.agent.kernel.test_planner import elf, libssl


def test_what_is_never_captured_is_named() -> None:
    (check,) = (check for check in describe.checks() if check.name == "unix sockets")
    assert (check.ok, check.required) == (False, False)
    assert check.remedy


@pytest.mark.parametrize(("release", "ok"), [("6.12.13", False), ("6.12.14", True)])
def test_a_kernel_that_ends_filtered_processes_is_named(monkeypatch: pytest.MonkeyPatch, release: str, ok: bool) -> None:
    monkeypatch.setattr(platform, "release", lambda: release)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(seccomp, "filters_are_asked", lambda: True)
    seccomp.returns_are_dangerous.cache_clear()
    (check,) = (check for check in describe.checks() if check.name == "seccomp")
    assert check.ok == ok
    assert not check.required
    assert bool(check.remedy) != ok
    assert ok or release in check.detail
    seccomp.returns_are_dangerous.cache_clear()


@pytest.mark.parametrize(("release", "ok"), [("6.12.14", False), ("6.13.0", True)])
def test_whether_bystanders_are_spared_is_told(monkeypatch: pytest.MonkeyPatch, release: str, ok: bool) -> None:
    monkeypatch.setattr(platform, "release", lambda: release)
    (check,) = (check for check in describe.checks() if check.name == "bystanders")
    assert (check.ok, check.required, bool(check.remedy)) == (ok, False, not ok)


def test_who_would_be_ended_by_probes_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "processes", lambda: iter([(number, "node") for number in range(100, 120)]))
    (check,) = (check for check in describe.checks() if check.name == "copied code")
    assert (check.ok, check.required) == (False, False)
    assert check.detail.endswith("running now: " + ", ".join(f"node ({number})" for number in range(100, 110)) + ", others")


def hold_check() -> describe.Check:
    return next(check for check in describe.checks() if check.name == "hold")


def test_holding_takes_capabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(describe, "effective_capabilities", lambda: 0)
    check = hold_check()
    assert (check.ok, check.required, check.remedy) == (False, False, "run as root")


def test_holding_takes_a_kernel_that_can(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_self: Group) -> None:
        raise OSError(22, "fanotify_init: Invalid argument")

    monkeypatch.setattr(describe, "effective_capabilities", lambda: (1 << 41) - 1)
    monkeypatch.setattr(Group, "__init__", fail)
    check = hold_check()
    assert (check.ok, check.required) == (False, False)
    assert "CONFIG_FANOTIFY_ACCESS_PERMISSIONS" in check.remedy


@pytest.mark.kernel
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_this_machine_can_hold() -> None:
    assert hold_check().ok


MAPPED = """
import mmap, ssl, sys
with open(sys.argv[1], "rb") as file:
    image = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ | mmap.PROT_EXEC)
print("mapped", flush=True)
input()
"""


def test_a_process_with_a_file_that_was_made_to_harm(tmp_path: Path) -> None:
    """Its other libraries are described, and of the file it says what is wrong with it."""
    header, table = elf([(0, 0, 0, 0), (11, 4096 + (400 << 20), 24, 2), (3, 4096, 400 << 20, 0)], 8192 + (400 << 20))
    with open(tmp_path / "sparse.so", "wb") as file:
        os.pwrite(file.fileno(), header, 0)
        os.pwrite(file.fileno(), table, 8192 + (400 << 20))
    command = [sys.executable, "-c", MAPPED, str(tmp_path / "sparse.so")]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process,
        closing(Examiner()) as examiner,
    ):
        assert process.stdout
        assert process.stdout.readline() == "mapped\n"
        found = next(describe.processes(examiner, [process.pid]))
        process.communicate("\n")
    libraries = dict(found.libraries)
    assert libraries[str(tmp_path / "sparse.so")].reason.startswith("its string table claims 400 MiB")
    assert libraries[libssl()].capturable
