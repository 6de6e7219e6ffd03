"""What is sent to the engine: names of any bytes."""

from __future__ import annotations

import os

import pytest

from agent import wire
from agent.workloads import Workload


@pytest.mark.parametrize(
    ("name", "sent"),
    [(b"curl", "curl"), ("naïve".encode(), "naïve"), (b"\xff\xfe", "��"), (b"a\xffb", "a�b"), (b"", "")],
)
def test_names(name: bytes, sent: str) -> None:
    known = os.fsdecode(name)
    message = wire.workload(Workload(1, 2, known, known, known, "c"))
    assert (message.command, message.executable, message.cgroup) == (sent, sent, sent)
    assert type(message).FromString(message.SerializeToString()) == message
