"""Which kernels end filtered processes at return probes, and who is filtered."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from agent import workloads
from agent.kernel import seccomp

FILTERED = """
import ctypes, struct, sys
program = struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000)  # SECCOMP_RET_ALLOW
buffer = ctypes.create_string_buffer(program, len(program))
prog = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, ctypes.create_string_buffer(prog, len(prog)), 0, 0) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
print("filtered", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize(
    ("release", "broken"),
    [
        ("5.15.0-130-generic", False),
        ("6.1.0-28-amd64", False),
        ("6.1-foo2", False),
        ("6.10.14", False),
        ("6.11.0-rc1", True),
        ("6.11.0-29-generic", True),
        ("6.11.11", True),
        ("6.12.0", True),
        ("6.12.12+bpo-amd64", True),
        ("6.12.13", True),
        ("6.12.14", False),
        ("6.12.43+deb13-amd64", False),
        ("6.13", True),
        ("6.13.2-arch1-1", True),
        ("6.13.3", False),
        ("6.14.0-rc1", True),
        ("6.14.0-rc10", False),
        ("6.14.0-15-generic", False),
        ("6.18.44-fc-v782", False),
        ("7.0.0", False),
        ("unknown", False),
    ],
)
def test_which_kernels_are_concerned(release: str, broken: bool) -> None:
    assert seccomp.filters_break_returns(release, "x86_64") == broken
    assert not seccomp.filters_break_returns(release, "aarch64")


def test_whether_filters_are_asked_is_tried() -> None:
    """They are asked about a call that nobody has, and on kernels with the mend not about that of return probes."""
    assert seccomp.filters_are_asked(400)
    if seccomp.filters_break_returns(platform.release(), platform.machine()) or platform.machine() != "x86_64":
        return
    has_call = tuple(map(int, platform.release().split(".")[:2])) >= seccomp.FIRST
    assert seccomp.filters_are_asked() != has_call


def test_a_filtered_process_is_found_by_what_it_maps() -> None:
    inode = Path(sys.executable).stat().st_ino
    command = [sys.executable, "-c", FILTERED]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "filtered\n"
        assert process.pid in seccomp.filtered_processes()
        mapped = {mapping.inode for mapping in workloads.executable_mappings(process.pid)}
        assert inode in mapped
        assert seccomp.filtered_user(inode)
        assert seccomp.filtered_user(max(mapped) * 2) == 0
        process.communicate("\n")
