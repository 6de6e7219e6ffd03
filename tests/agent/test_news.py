"""What waits for a client: in order, and bounded."""

from __future__ import annotations

from agent.news import Outbox


def test_all_is_told_in_order() -> None:
    outbox = Outbox[str]()
    outbox.put("a")
    outbox.put("b")
    outbox.end()
    assert list(outbox) == ["a", "b"]
    assert outbox.untold == 0


def test_what_nobody_takes_is_counted() -> None:
    outbox = Outbox[int](2)
    for number in range(5):
        outbox.put(number, count=10)
    outbox.put(99, always=True)
    outbox.end()
    assert list(outbox) == [0, 1, 99]
    assert outbox.untold == 30
