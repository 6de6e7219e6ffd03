"""What a program could leave behind on this machine, and how to see that it did not."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

OURS = re.compile(r"-m (agent|engine)\b|\bunderstudy\b")
"""Command lines of our own processes."""

SETTLE_WITHIN = 15.0
"""Seconds after which what is still there counts as left behind. Kernels free links and programs a little later."""


class Machine(frozenset[tuple[str, str]]):
    """What there is: (kind, name) of each BPF program and link, cgroup, mount, socket, folder and process of ours."""

    @classmethod
    def now(cls) -> Self:
        """Looks."""
        looks: dict[str, Callable[[], set[str]]] = {
            "bpf program": lambda: _bpf("prog"),
            "bpf link": lambda: _bpf("link"),
            "cgroup": _cgroups,
            "mount": lambda: set(Path("/proc/self/mountinfo").read_text().splitlines()),
            "unix socket": _unix_sockets,
            "temporary folder": _temporary_folders,
            "process": lambda: {f"{pid}: {line}" for pid, line in command_lines().items() if OURS.search(line)},
        }
        return cls((kind, name) for kind, look in looks.items() for name in look())

    def left_since(self) -> set[tuple[str, str]]:
        """What has come since this look and does not go away by itself within SETTLE_WITHIN seconds."""
        left = set(Machine.now() - self)
        deadline = time.monotonic() + SETTLE_WITHIN
        while left and time.monotonic() < deadline:
            time.sleep(0.1)
            left &= Machine.now()
        return left


def _bpf(kind: str) -> set[str]:
    entries: list[dict[str, Any]] = json.loads(subprocess.check_output(["bpftool", "-j", kind]) or b"[]")
    return {f"{entry['id']} {entry.get('type')} {entry.get('name', '')}" for entry in entries}


def _cgroups() -> set[str]:
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    tops = [fields[4] for fields in mounts if fields[fields.index("-") + 1] == "cgroup2"]
    return {folder for top in tops for folder, _, _ in os.walk(top)}


def _unix_sockets() -> set[str]:
    lines = Path("/proc/net/unix").read_text().splitlines()[1:]
    return {fields[7] for fields in map(str.split, lines) if len(fields) > 7}


def _temporary_folders() -> set[str]:
    places = [Path(tempfile.gettempdir()), Path("/run"), *Path("/run/user").glob("*")]
    return {str(path) for place in places for path in place.glob("*understudy*")}


def command_lines() -> dict[int, str]:
    """Command line of every process, arguments separated by spaces."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("latin-1").strip()
        except OSError:
            continue
    return found


def eventually(look: Callable[[], bool], seconds: float) -> bool:
    """Whether something comes true within a time, looking again and again."""
    deadline = time.monotonic() + seconds
    while not (there := look()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return there
