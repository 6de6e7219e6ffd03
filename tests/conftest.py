"""What several folders of tests share: fixtures, what needs root, and how Hypothesis searches."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from tests.e2e.conftest import authority
from tests.e2e.machine import RUN

__all__ = ["authority"]

# By this every process that tests start is known to be of this one: there may be several side by side.
os.environ[RUN] = str(os.getpid())

# How long an example takes says nothing on a machine that others use too.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked `kernel` need root; `make test` runs them by sudo where it can."""
    if item.get_closest_marker("kernel") and os.geteuid() != 0:
        pytest.skip("needs root: run it with sudo")
