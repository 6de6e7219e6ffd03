"""Fixtures that several folders of tests share, and how Hypothesis searches."""

from __future__ import annotations

from hypothesis import settings

from tests.e2e.conftest import authority

__all__ = ["authority"]

# How long an example takes says nothing on a machine that others use too.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
