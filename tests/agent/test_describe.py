"""What a node is told of itself."""

from __future__ import annotations

import platform

import pytest

from agent import describe


@pytest.mark.parametrize(("release", "ok"), [("6.12.13-generic", False), ("6.12.14-generic", True)])
def test_a_kernel_that_ends_filtered_processes_is_named(monkeypatch: pytest.MonkeyPatch, release: str, ok: bool) -> None:
    monkeypatch.setattr(platform, "release", lambda: release)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    (check,) = (check for check in describe.checks() if check.name == "seccomp")
    assert check.ok == ok
    assert not check.required
    assert bool(check.remedy) != ok
    assert ok or release in check.detail
