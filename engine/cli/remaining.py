"""Processes that a command has left behind when it ended."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from engine.cli.text import clean

NAMED = 5
"""Processes that are named: a line's worth."""


def remaining(cgroup: Path) -> list[tuple[int, str]]:
    """Number and name of each process in a cgroup and below."""
    found: list[tuple[int, str]] = []
    for folder, _, _ in os.walk(cgroup):  # passes over what is removed meanwhile
        with contextlib.suppress(OSError):
            for pid in map(int, Path(folder, "cgroup.procs").read_text().split()):
                with contextlib.suppress(OSError):  # it has ended meanwhile
                    found.append((pid, Path(f"/proc/{pid}/comm").read_text(errors="replace").rstrip("\n")))
    return found


def left_behind(program: str, processes: list[tuple[int, str]], fate: str) -> str:
    """Say which processes a program left behind, and what becomes of them."""
    named = ", ".join(f"{clean(name)} ({pid})" for pid, name in processes[:NAMED])
    more = f" and {len(processes) - NAMED} more" if len(processes) > NAMED else ""
    return f"{program} has ended and left processes behind: {named}{more}; {fate}"
