"""Who runs copies of code, by what the kernel shows of processes that do and that do not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from agent import copies

PROGRAM = """
import ctypes, mmap, os, sys
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
FIXED, PAGE, ALL = 0x10, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_EXEC
how, path = sys.argv[1:]
whole = libc.mmap(None, 8 * PAGE, ALL, mmap.MAP_PRIVATE, os.open(path, os.O_RDONLY), 0)
if how != "nothing":
    place, pages, protection = {
        "copy": (whole + 2 * PAGE, 2, ALL),
        "end": (whole + 6 * PAGE, 2, ALL),
        "begin": (whole, 2, ALL),
        "data": (whole + 2 * PAGE, 2, mmap.PROT_READ | mmap.PROT_WRITE),
    }[how]
    assert libc.mmap(place, pages * PAGE, protection, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | FIXED, -1, 0) == place
print("mapped", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize(("how", "runs"), [("nothing", False), ("copy", True), ("end", False), ("begin", False), ("data", False)])
def test_a_copy_in_the_midst_of_a_file(how: str, runs: bool, tmp_path: Path) -> None:
    path = tmp_path / "code"
    path.write_bytes(bytes(1 << 20))
    command = [sys.executable, "-c", PROGRAM, how, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "mapped\n"
        assert (process.pid in dict(copies.processes())) is runs
        process.communicate("\n")


MAPPED = "58000000-58201000 r-xp 00001000 fe:00 5334 "


@pytest.mark.parametrize(
    ("path", "runs"),
    [
        ("/usr/libexec/valgrind/memcheck-amd64-linux", True),
        ("/opt/dynamorio/lib64/release/libdynamorio.so", True),
        ("/opt/pin/intel64/bin/pinbin", True),
        ("/memfd:frida-agent-64.so (deleted)", True),
        ("/usr/bin/cat", False),
    ],
)
def test_programs_that_translate_code(path: str, runs: bool) -> None:
    assert copies.runs_copies(f"{MAPPED}{path}\n") is runs
    assert not copies.runs_copies(f"{MAPPED.replace('x', '-')}{path}\n")


@pytest.mark.parametrize("maps", ["", "\n", "what\never", "1 2 3 4 0\n" * 3])
def test_what_is_no_table_of_mappings(maps: str) -> None:
    assert not copies.runs_copies(maps)
