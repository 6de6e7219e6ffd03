"""Programs that are probed and then overwritten where they are, as `cp` and `rsync --inplace` do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.recording import record
from tests.kernel.overwriting import SAYS, programs

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left_behind"), pytest.mark.timeout(120)]


@pytest.mark.parametrize("copy", ["cp {} {}", "dd conv=notrunc status=none if={} of={}", "cp --preserve=timestamps {} {}"])
def test_a_program_that_what_is_recorded_overwrites(copy: str, tmp_path: Path) -> None:
    first, second = programs(tmp_path)
    app = tmp_path / "app"
    app.touch(0o755)
    runs = [f"{copy.format(program, app)} && {app}" for program in (first, second, first)]
    done = record(tmp_path / "snapshot", "sh", "-c", " && ".join(runs))
    assert done.stdout.decode() == SAYS * 3
    assert done.status == 0, done.stderr
