"""Which processes run copies of code: a probe in the original ends them, for where the copy is the kernel knows of no probe."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from agent import workloads

_TRANSLATORS = ("/valgrind/", "/libdynamorio.so", "/pinbin", "frida-agent", "frida-gadget")
"""In the paths of what such programs have mapped: they run translations of other code, or move the beginnings of functions."""


def processes() -> Iterator[tuple[int, str]]:
    """Those that show it, with their names; one that hooks functions by itself does not."""
    for pid in sorted(workloads.pids()):
        with contextlib.suppress(OSError):  # gone, or not ours to look at
            if runs_copies(os.fsdecode((workloads.PROC / str(pid) / "maps").read_bytes())):
                yield pid, workloads.look_up(pid).command


def runs_copies(maps: str) -> bool:
    """Whether a process with these mappings (proc(5)) translates code, or has other memory in the midst of a file's code.

    So have node with large pages and ClickHouse, which copy their own code there. What a runtime makes up (JIT) lies elsewhere.
    """
    lines = [fields for line in maps.split("\n") if len(fields := line.split(maxsplit=5)) >= 5]
    if any("x" in fields[1] and name in fields[5] for fields in lines if len(fields) > 5 for name in _TRANSLATORS):
        return True
    between = zip(lines, lines[1:], lines[2:], strict=False)
    return any("x" in this[1] and this[4] == "0" and _adjoins(before, this, after) for before, this, after in between)


def _adjoins(before: list[str], this: list[str], after: list[str]) -> bool:
    """Whether a mapping has parts of one and the same file on either side, without a gap."""
    start, _, end = this[0].partition("-")
    return before[0].endswith(f"-{start}") and after[0].startswith(f"{end}-") and before[3:5] == after[3:5] and before[4] != "0"
