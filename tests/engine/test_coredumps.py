from __future__ import annotations

import subprocess
import sys

import pytest
from click.testing import CliRunner

import engine.__main__ as process

PROGRAM = """
import ctypes, os, resource, sys
from engine.coredumps import forbid_core_dumps
resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2) if os.geteuid() == 0 else None
forbid_core_dumps()
print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
sys.stdout.flush()
os.abort()
"""
"""PR_GET_DUMPABLE is 3."""


def test_no_core_is_dumped() -> None:
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert ended.stdout == "0\n", ended.stderr
    assert ended.returncode == -6


class Forbidden(Exception):
    pass


def test_the_process_forbids_it_before_it_takes_anything_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid() -> None:
        raise Forbidden

    monkeypatch.setattr(process, "forbid_core_dumps", forbid)
    monkeypatch.setattr(process, "build", None)
    assert isinstance(CliRunner().invoke(process.main, []).exception, Forbidden)
