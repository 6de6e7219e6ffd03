"""What a program could leave behind on this machine, and how to see that it did not.

Another clone may run its tests on the same machine at the same time, and this one runs several at once, in a process each. What a
process holds that is neither below this one nor runs with the interpreter of this environment is not ours, nor is what was begun by
another one of these.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import psutil

PRODUCT = re.compile(r"-m (agent|engine)\b|\bunderstudy\b|\bagent\.\w+")
"""Command lines of the product's processes, whichever clone they belong to."""

FOLDER = re.compile(r"/.*?/understudy-[^/ ]+")
"""The private folder of one command: the command lines of its agent and engine name it."""

CGROUP_OF = re.compile(r"understudy-(\d+)-")
"""A cgroup of the product is named after the agent that made it."""

RUN = "UNDERSTUDY_TEST_PROCESS"
"""In the environment of whatever a process that runs tests has started: which one that was."""

SETTLE_WITHIN = 15.0
"""Seconds after which what is still there counts as left behind. Kernels free links and programs a little later."""


class Machine(frozenset[tuple[str, str]]):
    """What there is: (kind, name) of each BPF program and link, cgroup, mount, socket, folder and process of ours."""

    @classmethod
    def now(cls) -> Self:
        """Looks."""
        others = _Others()
        looks: dict[str, Callable[[], set[str]]] = {
            "bpf program": lambda: _bpf("prog", others),
            "bpf link": lambda: _bpf("link", others),
            "cgroup": lambda: {path for path in _cgroups() if not others.made(path)},
            "mount": _mounts,
            "unix socket": lambda: {path for path in _unix_sockets() if not others.name(path)},
            "temporary folder": lambda: {path for path in _temporary_folders() if not others.name(path)},
            "process": lambda: {f"{pid}: {line}" for pid, line in command_lines().items() if ours(pid, line)},
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


def ours(pid: int, line: str) -> bool:
    """Whether a process, by its command line, is one of the product's, and started from here."""
    return sys.prefix in line and PRODUCT.search(line) is not None and not _begun_elsewhere(pid)


def _begun_elsewhere(pid: int) -> bool:
    """Whether another process that runs tests began this one. Some environments are emptied: then its parent's tells."""
    try:
        while pid > 1:
            for variable in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                name, _, value = variable.partition(b"=")
                if name == RUN.encode():
                    return value != os.environ[RUN].encode()
            pid = psutil.Process(pid).ppid()
    except (OSError, psutil.Error):  # it has ended
        pass
    return False


class _Others:
    """Processes that are none of this test run, and what they hold."""

    def __init__(self) -> None:
        run = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
        not_below = {pid: line for pid, line in command_lines().items() if pid not in run}
        others = {pid: line for pid, line in not_below.items() if sys.prefix not in line or _begun_elsewhere(pid)}
        self._lines = {pid: line for pid, line in others.items() if PRODUCT.search(line)}
        self._held = {held for pid in others for held in _descriptors(pid)}

    def holds(self, kind: str, number: int) -> bool:
        """Whether one of them has a BPF object open."""
        return (kind, number) in self._held

    def made(self, cgroup: str) -> bool:
        """Whether one of them made a cgroup."""
        return any(int(pid) in self._lines for pid in CGROUP_OF.findall(cgroup))

    def name(self, path: str) -> bool:
        """Whether one of them names a path in its command line."""
        folder = FOLDER.match(path)
        return folder is not None and any(folder.group() in line for line in self._lines.values())


def _descriptors(pid: int) -> set[tuple[str, int]]:
    """The BPF programs and links that a process has open, by their numbers."""
    found: set[tuple[str, int]] = set()
    for path in Path(f"/proc/{pid}/fd").glob("*"):
        with contextlib.suppress(OSError):
            if os.readlink(path).startswith("anon_inode:bpf"):
                text = Path(f"/proc/{pid}/fdinfo/{path.name}").read_text()
                found |= {(kind, int(number)) for kind, number in _BPF_NUMBER.findall(text)}
    return found


LISTINGS = 20
"""Tries to list what others change meanwhile."""
_BPF_NUMBER = re.compile(r"^(prog|link)_id:\s*(\d+)$", re.MULTILINE)


def _bpf(kind: str, others: _Others) -> set[str]:
    """bpftool fails where one of them goes while it lists them, as others' do at any time: then it is asked again."""
    tries = (subprocess.run(["bpftool", "-j", kind], capture_output=True, check=False) for _ in range(LISTINGS))
    listed = next((each.stdout for each in tries if not each.returncode), None)
    assert listed is not None, f"bpftool {kind} failed {LISTINGS} times"
    entries: list[dict[str, Any]] = json.loads(listed or b"[]")
    return {
        f"{entry['id']} {entry.get('type')} {entry.get('name', '')}" for entry in entries if not others.holds(kind, entry["id"])
    }


def _cgroups() -> set[str]:
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    tops = [fields[4] for fields in mounts if fields[fields.index("-") + 1] == "cgroup2"]
    return {folder for top in tops for folder, _, _ in os.walk(top) if CGROUP_OF.search(folder)}


def _mounts() -> set[str]:
    """Without the names of network namespaces, and the folder of these: that is ip-netns(8), which others may use beside us."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return {line for line in lines if " - nsfs " not in line and line.split()[4] != "/run/netns"}


def _unix_sockets() -> set[str]:
    lines = Path("/proc/net/unix").read_text().splitlines()[1:]
    return {fields[7] for fields in map(str.split, lines) if len(fields) > 7 and FOLDER.match(fields[7])}


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
