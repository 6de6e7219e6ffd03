"""Programs, folders and arguments whose names are no text: they run, are recorded and mocked as any other."""

from __future__ import annotations

import os
import shutil
import sys
import uuid
from pathlib import Path

import pytest

from agent.workloads import cgroup_mount
from tests.e2e.conftest import Authority
from tests.e2e.recording import pairs, understudy
from tests.e2e.truth.server import TruthServer

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left_behind"), pytest.mark.timeout(120)]

NO_TEXT = os.fsdecode(b"\xff\xfe")


def test_a_command_that_is_no_text(tls_server: TruthServer, authority: Authority, tmp_path: Path) -> None:
    folder = tmp_path / NO_TEXT
    folder.mkdir()
    curl = shutil.which("curl")
    assert curl
    program = shutil.copy(curl, folder / NO_TEXT)
    options = ["-fsS", "-o", "/dev/../dev/null", "-A", NO_TEXT, "--cacert", str(authority.ca), f"{tls_server.url}/length/1000/m"]
    done = understudy("record", "--", program, *options, cwd=folder)
    assert done.status == 0, done.stderr
    snapshot = folder / "��.snapshot"
    shutil.copy(snapshot, tmp_path / "snapshot")
    assert [pair["complete"] for pair in pairs(tmp_path / "snapshot")] == [True]
    options[options.index("--cacert") : options.index("--cacert") + 2] = []
    done = understudy("mock", tmp_path / "snapshot", "--fail-on-miss", "--", program, *options, cwd=folder)
    assert done.status == 0, done.stderr


def test_a_snapshot_cannot_have_such_a_name(tmp_path: Path) -> None:
    done = understudy("record", "-o", tmp_path / NO_TEXT, "--", "true")
    assert done.status == 125
    assert done.stderr.count("\n") == 1
    assert "choose another with -o" in done.stderr


ASK_AROUND = """
import os, sys, time, urllib.request
url, cgroup = sys.argv[1], os.fsencode(sys.argv[2])
def ask(what):
    urllib.request.urlopen(f"{url}/length/5/{what}", timeout=20).read()
ask("before")
os.mkdir(cgroup)
stays, ends = os.pipe()
child = os.fork()
if not child:
    os.close(ends)
    with open(cgroup + b"/cgroup.procs", "wb") as procs:
        procs.write(b"0")
    os.read(stays, 1)
    os._exit(0)
for number in range(20):
    ask(number)
os.close(ends)
os.waitpid(child, 0)
os.rmdir(cgroup)
ask("after")
"""


def test_a_cgroup_whose_name_is_no_text_ends_nothing(plain_server: TruthServer, tmp_path: Path) -> None:
    mount = cgroup_mount()
    assert mount
    cgroup = mount / f"us-{uuid.uuid4().hex}-{NO_TEXT}"
    command = [sys.executable, "-c", ASK_AROUND, plain_server.url, str(cgroup)]
    done = understudy("record", "-o", tmp_path / "snapshot", "--", *command)
    assert done.status == 0, done.stderr
    assert "left the capture for the cgroup" in done.stderr
    assert [pair["complete"] for pair in pairs(tmp_path / "snapshot")] == [True] * 22
