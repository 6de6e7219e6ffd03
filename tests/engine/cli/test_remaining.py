from __future__ import annotations

import os
from pathlib import Path

from engine.cli.remaining import NAMED, left_behind, remaining


def test_a_cgroup_that_is_gone_has_no_processes(tmp_path: Path) -> None:
    assert remaining(tmp_path / "gone") == []


def test_processes_below_count_and_those_that_have_ended_do_not(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "cgroup.procs").write_text("")
    (tmp_path / "inner" / "cgroup.procs").write_text(f"{os.getpid()}\n{2**22 + 1}\n")  # beyond pid_max
    assert [pid for pid, _ in remaining(tmp_path)] == [os.getpid()]


def test_only_a_line_s_worth_is_named() -> None:
    text = left_behind("make", [(pid, "cc\x1b") for pid in range(1, NAMED + 3)], "they go on")
    assert (
        text
        == r"make has ended and left processes behind: "
        + ", ".join(rf"cc\x1b ({pid})" for pid in range(1, NAMED + 1))
        + " and 2 more; they go on"
    )
