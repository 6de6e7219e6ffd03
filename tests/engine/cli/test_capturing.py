"""What is said of a capture while it goes on: bounded, and not silent where it ends early."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import grpc
from understudy.v1 import agent_pb2, capture_pb2

from engine.cli.capturing import LINES_SHOWN, Capturing
from engine.cli.parts import Parts

READY = agent_pb2.CaptureResponse(ready=agent_pb2.CaptureReady())


class Broken(grpc.RpcError):
    def __init__(self, details: str) -> None:
        self._details = details

    def details(self) -> str:
        return self._details


def departed(command: str) -> agent_pb2.CaptureResponse:
    workload = capture_pb2.Workload(pid=7, command=command)
    return agent_pb2.CaptureResponse(departed=agent_pb2.Departure(workload=workload, cgroup="/d"))


def capturing(news: Iterator[agent_pb2.CaptureResponse], said: list[str], *, there: bool = True) -> Capturing:
    def stop(_request: agent_pb2.StopCaptureRequest, timeout: float) -> SimpleNamespace:
        def result(timeout: float) -> agent_pb2.StopCaptureResponse:
            if not there:
                raise Broken("there is no capture 'x'")
            return agent_pb2.StopCaptureResponse(delivered=True)

        return SimpleNamespace(result=result)

    service = SimpleNamespace(Capture=lambda _: news, StopCapture=SimpleNamespace(future=stop))
    parts = SimpleNamespace(agent_service=service, agent=SimpleNamespace(alive=True))
    made = Capturing(cast("Parts", parts), "x", agent_pb2.Target(), said.append)
    made._thread.join()
    return made


def test_what_happens_often_is_counted() -> None:
    stopped = agent_pb2.CaptureResponse(stopped=agent_pb2.CaptureStopped(untold=3))
    said: list[str] = []
    made = capturing(iter([READY, *([departed("su")] * (LINES_SHOWN + 4)), stopped]), said)
    assert made.settle() == ""
    assert len(said) == LINES_SHOWN + 1
    assert said[-1].startswith("7 more times ")


def test_names_are_shown_as_they_are_written() -> None:
    said: list[str] = []
    capturing(iter([READY, departed("\x1b[31mred")]), said)
    assert "\x1b" not in said[0]


def test_why_it_ended_early_is_said() -> None:
    def news() -> Iterator[agent_pb2.CaptureResponse]:
        yield READY
        raise Broken("something of it could not be sent")

    made = capturing(news(), [], there=False)
    assert made.settle() == "the agent could not settle its account: something of it could not be sent"
