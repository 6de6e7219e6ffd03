from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.cli.caller import Caller

NOBODY = 65534


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that everybody may enter: pytest's own are for their owner."""
    with tempfile.TemporaryDirectory(prefix="us-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(params=["themselves", pytest.param("root for another", marks=pytest.mark.kernel)])
def who(request: pytest.FixtureRequest, place: Path) -> Caller:
    """Somebody whose the folder is."""
    if request.param == "themselves":
        return Caller(os.getuid(), os.getgid(), tuple(os.getgroups()), {})
    os.chown(place, NOBODY, NOBODY)
    return Caller(NOBODY, NOBODY, (), {})
