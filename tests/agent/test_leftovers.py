"""What is looked for in the kernel's map, and when; by probes that are in no kernel."""

from __future__ import annotations

import pytest

from agent import leftovers
from agent.events import TlsKey
from agent.leftovers import Leftovers
from agent.streams import Streams
from tests.agent.probing import FakeProbes


class Looking:
    """Leftovers, and what they look at."""

    def __init__(self) -> None:
        self.probes, self.streams = FakeProbes(), Streams()
        self.leftovers = Leftovers(self.probes, self.streams)

    def fill(self, count: int, pid: int, execution: int = 1) -> None:
        """A process makes objects."""
        self.probes.tls_streams += [TlsKey(ssl=each, started=pid, execution=execution, tgid=pid) for each in range(count)]
        self.probes.made += count

    def found(self, steps: int = 100) -> list[tuple[int, int]]:
        """Process and execution of what is found in so many steps, which is removed."""
        keys = [key for _ in range(steps) for key in self.leftovers.some()]
        gone = set(map(bytes, keys))
        self.probes.tls_streams = [key for key in self.probes.tls_streams if bytes(key) not in gone]
        assert len(gone) == len(keys)
        return sorted({(key.tgid, key.execution) for key in keys})


def test_what_ended_or_executed_is_looked_for_when_half_may_be_full() -> None:
    looking = Looking()
    looking.fill(30_000, 1)
    looking.fill(30_000, 2)
    looking.fill(1, 2, execution=2)
    looking.fill(1, 3)
    looking.streams.gone = {(1, 1): 2, (2, 2): 2, (3, 4): 9}  # the third is another process with that number
    assert looking.found() == []
    looking.fill(leftovers.ROOM // 2 - 60_002, 4)
    assert looking.found() == [(1, 1), (2, 1)]
    assert looking.streams.gone == {}
    assert {(key.tgid, key.execution) for key in looking.probes.tls_streams} == {(2, 2), (3, 1), (4, 1)}


def test_nothing_is_looked_for_while_nobody_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    looking = Looking()
    monkeypatch.setattr(FakeProbes, "tls_keys", lambda _: pytest.fail("looked"))
    looking.fill(leftovers.ROOM, 1)
    assert looking.found() == []


def test_many_that_are_gone_are_forgotten_by_a_search() -> None:
    looking = Looking()
    looking.fill(10, 1)
    looking.streams.gone = {(pid, pid): 2 for pid in range(leftovers.GONE_MAX)}
    assert looking.found() == [(1, 1)]
    assert looking.streams.gone == {}


def test_the_fuller_the_map_the_sooner_is_the_next_search_but_not_at_once() -> None:
    """Each looks at the whole map: there must be something that paid for it."""
    looking = Looking()
    looking.fill(leftovers.ROOM - 10, 1)
    looking.streams.gone = {(2, 2): 2}
    assert looking.found() == []
    looking.fill(leftovers.STREAMS_LEAST - 1, 2)
    looking.streams.gone = {(2, 2): 2}
    assert looking.found() == []
    looking.fill(1, 3)
    assert looking.found() == [(2, 1)]


def test_a_step_is_bounded_and_so_is_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the walk begins anew, again and again, when the key that it has come to is removed."""
    looking, looked = Looking(), 0

    def endless(_: FakeProbes) -> object:
        nonlocal looked
        while True:
            looked += 1
            yield TlsKey(ssl=looked, started=5, execution=1, tgid=5)

    monkeypatch.setattr(FakeProbes, "tls_keys", endless)
    looking.probes.made, looking.streams.gone = leftovers.ROOM, {(1, 1): 2}
    for step in range(1, 10):
        assert looking.leftovers.some() == []
        assert looked == step * leftovers.AT_ONCE
    for _ in range(100):
        looking.leftovers.some()
    assert looked == leftovers.KEYS_MAX
