"""Files that are probed and then modified: what runs afterwards, and what is left in the memory of what runs already."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from mmap import MAP_PRIVATE, PROT_EXEC, PROT_READ, mmap
from pathlib import Path

import pytest

from agent.attach import Attacher
from agent.examiner import Examiner
from agent.failures import Failures
from agent.kernel.planner import Plan
from agent.kernel.probes import CoreProbes
from tests.kernel.overwriting import SAYS, programs

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(60)]


BREAKPOINT = 0xCC
"""int3 of x86_64."""


@pytest.fixture(params=[True, False], ids=["multi", "perf events"])
def attacher(request: pytest.FixtureRequest) -> Iterator[Attacher]:
    with contextlib.ExitStack() as stack:
        probes = stack.enter_context(closing(CoreProbes(1 << 20, multi=request.param)))
        examiner = stack.enter_context(closing(Examiner()))
        yield stack.enter_context(closing(Attacher(probes, examiner, lambda *_: None, Failures())))


def examine(attacher: Attacher, path: Path) -> Plan:
    with path.open("rb") as file:
        return attacher.examine(file.fileno(), str(path), os.getpid()).plan


def run(program: Path) -> str:
    return subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout


def test_what_nobody_records_runs_when_it_was_overwritten(attacher: Attacher, tmp_path: Path) -> None:
    """Probes go by inode, whoever runs it."""
    first, second = programs(tmp_path)
    app = Path(shutil.copy(first, tmp_path / "app"))
    assert examine(attacher, app).capturable
    assert run(app) == SAYS
    shutil.copy(second, app)
    attacher.wait_for_modifications(10)
    attacher.modified()
    assert run(app) == SAYS
    assert examine(attacher, app).capturable
    assert run(app) == SAYS


def test_nothing_is_left_in_memory_that_it_is_mapped_to(attacher: Attacher, tmp_path: Path) -> None:
    """By whoever has it loaded: here by this process."""
    app = programs(tmp_path)[0]
    plain = app.read_bytes()
    with app.open("rb+", buffering=0) as file, mmap(file.fileno(), 0, MAP_PRIVATE, PROT_READ | PROT_EXEC) as memory:
        places = [site.offset for site in examine(attacher, app).sites]
        assert {memory[place] for place in places} == {BREAKPOINT}
        file.write(plain[:1])
        attacher.modified()
        assert attacher.probed == 0
        assert memory[:] == plain
