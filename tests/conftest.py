"""Fixtures that several folders of tests share."""

from __future__ import annotations

from tests.e2e.conftest import authority

__all__ = ["authority"]
