"""Signals while `understudy record` runs: they are the command's, and once that has ended, ours."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import grpc
import pytest
from understudy.v1 import agent_pb2

from engine.cli import Failure
from engine.cli.caller import Caller
from engine.cli.capturing import Capturing
from engine.cli.launcher import Launcher, on_signals
from engine.cli.parts import Parts
from engine.cli.record import Aim, Recorder

READY = agent_pb2.CaptureResponse(ready=agent_pb2.CaptureReady())


class Endless:
    """A call that is never answered. At its second look the person has had enough; many more looks fail the test."""

    def __init__(self, lose_patience: Callable[[], None]) -> None:
        self._lose_patience = lose_patience
        self.looks = 0

    def result(self, timeout: float) -> agent_pb2.StopCaptureResponse:
        self.looks += 1
        assert timeout < 1
        assert self.looks < 10
        if self.looks == 2:
            self._lose_patience()
        raise grpc.FutureTimeoutError


def answered(answer: object) -> SimpleNamespace:
    return SimpleNamespace(result=lambda **_: answer)


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    made = Recorder(Aim(pid=os.getpid()), "shop", tmp_path / "a.snapshot", cast("Caller", None), quiet=True)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    on_signals(made.on_signal)
    yield made
    for number, handler in before.items():
        signal.signal(number, handler)


def parts_of(recorder: Recorder, stopping: object, finishing: object = None) -> Parts:
    agent_service = SimpleNamespace(Capture=lambda _: iter([READY]), StopCapture=SimpleNamespace(future=lambda *_, **__: stopping))
    control_service = SimpleNamespace(FinishSnapshot=SimpleNamespace(future=lambda _: finishing))
    alive = SimpleNamespace(alive=True)
    parts = cast("Parts", SimpleNamespace(agent_service=agent_service, control_service=control_service, agent=alive, engine=alive))
    recorder._capturing = Capturing(parts, "x", agent_pb2.Target(), lambda _: None)
    return parts


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("stage", ["settling", "finishing"])
def test_once_everything_has_ended_a_signal_ends_the_wait(recorder: Recorder, stage: str, sent: int) -> None:
    endless = Endless(lambda: os.kill(os.getpid(), sent))
    delivered = answered(agent_pb2.StopCaptureResponse(delivered=True))
    parts = parts_of(recorder, *((endless,) if stage == "settling" else (delivered, endless)))
    recorder._concluding = True
    with pytest.raises(Failure, match=r"interrupted .* what arrived is in .*/a\.snapshot\.partial"):
        recorder._conclude(parts, 0)
    assert endless.looks == 2


def test_a_terminal_that_is_gone_ends_no_wait(recorder: Recorder) -> None:
    endless = Endless(lambda: os.kill(os.getpid(), signal.SIGHUP))
    parts = parts_of(recorder, endless)
    recorder._concluding = True
    with pytest.raises(AssertionError):
        recorder._conclude(parts, 0)
    assert endless.looks == 10


def test_as_long_as_the_command_runs_signals_are_for_it(recorder: Recorder) -> None:
    got: list[int] = []
    recorder._launcher = cast("Launcher", SimpleNamespace(signal=got.append))
    for sent in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
        os.kill(os.getpid(), sent)
    assert got == [signal.SIGINT, signal.SIGINT, signal.SIGTERM]
    assert not recorder._interrupted


def test_the_first_ends_the_recording_of_what_runs_already(recorder: Recorder) -> None:
    os.kill(os.getpid(), signal.SIGINT)
    assert recorder._status(None) == 0
    assert not recorder._interrupted
