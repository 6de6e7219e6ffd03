"""What a node is told of itself."""

from __future__ import annotations

import platform

import pytest

from agent import describe
from agent.kernel import seccomp


def test_what_is_never_captured_is_named() -> None:
    (check,) = (check for check in describe.checks() if check.name == "unix sockets")
    assert (check.ok, check.required) == (False, False)
    assert check.remedy


@pytest.mark.parametrize(("release", "ok"), [("6.12.13", False), ("6.12.14", True)])
def test_a_kernel_that_ends_filtered_processes_is_named(monkeypatch: pytest.MonkeyPatch, release: str, ok: bool) -> None:
    monkeypatch.setattr(platform, "release", lambda: release)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(seccomp, "filters_are_asked", lambda: True)
    seccomp.returns_are_dangerous.cache_clear()
    (check,) = (check for check in describe.checks() if check.name == "seccomp")
    assert check.ok == ok
    assert not check.required
    assert bool(check.remedy) != ok
    assert ok or release in check.detail
    seccomp.returns_are_dangerous.cache_clear()
