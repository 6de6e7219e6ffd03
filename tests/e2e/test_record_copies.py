"""Programs that run a copy of a library's code: a probe in it would end them, for the kernel knows of none where the copy is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agent.attach import system_libraries
from tests.e2e.programs import ROOT, environment
from tests.e2e.recording import TIMEOUT, UNDERSTUDY

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left_behind"), pytest.mark.timeout(120)]

COPIES = """
import ctypes, mmap, sys
free = ctypes.cast(ctypes.CDLL(sys.argv[1]).SSL_free, ctypes.c_void_p).value
copy = mmap.mmap(-1, 8192, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
copy.write(ctypes.string_at(free, 4096))
ctypes.CFUNCTYPE(None, ctypes.c_void_p)(ctypes.addressof(ctypes.c_char.from_buffer(copy)))(None)
"""
"""Calls a copy of SSL_free, with nothing to be freed, as node does with large pages and valgrind with each program."""

AS_SYSTEM = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'


def test_a_library_of_the_system_that_nothing_recorded_loads_is_left_alone(tmp_path: Path) -> None:
    """A copy stands for it, for others record on this machine, too."""
    library = next(os.path.realpath(path) for path in system_libraries() if path.endswith("libssl.so.3"))
    copy = shutil.copy(library, tmp_path)
    recorded = [UNDERSTUDY, "record", "-o", str(tmp_path / "snapshot"), "--", "sh", "-c", "echo recorded; read line"]
    command = ["unshare", "--mount", "sh", "-c", AS_SYSTEM, "sh", copy, library, *recorded]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(), cwd=ROOT) as recorder:
        assert recorder.stdout
        assert recorder.stdout.readline() == b"recorded\n"
        bystander = subprocess.run([sys.executable, "-c", COPIES, copy], timeout=TIMEOUT)
        recorder.communicate(b"\n", TIMEOUT)
    assert bystander.returncode == 0
    assert recorder.returncode == 0
