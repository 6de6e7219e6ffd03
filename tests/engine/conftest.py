from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.test_control import Engine


@pytest.fixture
def engine() -> Iterator[Engine]:
    """An engine on a unix socket."""
    with tempfile.TemporaryDirectory(prefix="us-") as folder:
        made = Engine(Path(folder))
        yield made
        made.channel.close()
        made.server.stop(0).wait()
