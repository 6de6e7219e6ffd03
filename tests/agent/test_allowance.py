"""How long files may be examined."""

from __future__ import annotations

import time

import pytest

from agent import allowance
from agent.allowance import CAPTURE_SECONDS, PROCESS_SECONDS, PROCESS_SHARE, Allowances
from agent.examiner import EXAMINE_SECONDS
from agent.opens import HELD_SECONDS


class Clock:
    """Stands still unless it is moved."""

    now = 50.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "monotonic", made)
    return made


def test_the_bounds_fit_together() -> None:
    """What is held waits for all that another capture may take at once, and for its own examination."""
    assert PROCESS_SECONDS < CAPTURE_SECONDS
    assert CAPTURE_SECONDS + EXAMINE_SECONDS < HELD_SECONDS


def test_what_a_process_has_used_up_comes_back(clock: Clock) -> None:
    allowances = Allowances()
    assert allowances.left(1, 10)
    allowances.spend(1, 10, PROCESS_SECONDS)
    assert not allowances.left(1, 10)
    assert allowances.left(1, 11)
    assert allowances.left(2, 10)
    clock.now += 1 / PROCESS_SHARE
    assert allowances.left(1, 10)
    allowances.spend(1, 10, 1.0)
    assert not allowances.left(1, 10)


def test_nothing_comes_back_while_it_is_used(clock: Clock) -> None:
    allowances, started = Allowances(), clock.now
    while allowances.left(1, 10):
        clock.now += 1.0
        allowances.spend(1, 10, 1.0)
    assert clock.now - started == PROCESS_SECONDS


def test_what_a_capture_has_used_up_none_of_its_processes_has(clock: Clock) -> None:
    allowances = Allowances()
    for pid in range(9):
        allowances.spend(1, pid, CAPTURE_SECONDS / 9)
    assert not allowances.left(1, 100)
    assert allowances.left(2, 100)


def test_allowances_that_are_whole_again_are_forgotten(clock: Clock) -> None:
    allowances = Allowances()
    for pid in range(10 * allowance.KEPT_MAX):
        clock.now += 0.001
        allowances.spend(1, pid, 0.001)
    assert len(allowances._whole_at) <= allowance.KEPT_MAX + 1
