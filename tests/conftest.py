"""What several folders of tests share: fixtures, what needs root, and how Hypothesis searches."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from tests.e2e.conftest import authority

__all__ = ["authority"]

# How long an example takes says nothing on a machine that others use too.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked `kernel` need root; `make test` runs them by sudo where it can."""
    if item.get_closest_marker("kernel") and os.geteuid() != 0:
        pytest.skip("needs root: run it with sudo")
