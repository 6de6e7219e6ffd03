"""A capture, as this command line asks the agent for it: see AgentService.Capture."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import grpc
from understudy.v1 import agent_pb2

from engine.cli import Failure
from engine.cli.parts import Parts
from engine.cli.remaining import remaining
from engine.cli.text import clean

Answer = TypeVar("Answer")

SETTLE_SECONDS = 60.0
"""How long the agent may take to hand over what is left."""

LOOK_SECONDS = 0.1
"""How often is looked at what may be to be done while the agent does so."""

LINES_SHOWN = 20
"""Processes that are told of: a command may start as many as it likes."""

LAST_NEWS_SECONDS = 5.0
"""How long the last news of a capture that has ended may take: they are on their way already."""


class Capturing:
    """What the agent captures, for as long as this lives."""

    def __init__(self, parts: Parts, capture_id: str, target: agent_pb2.Target, say: Callable[[str], None]) -> None:
        """Start, and wait until a launched process may go on; Failure where nothing can be captured. `say` tells of what cannot."""
        self._parts, self._capture_id, self._say = parts, capture_id, say
        self._told = self._untold = 0
        self._trouble = ""
        news = parts.agent_service.Capture(agent_pb2.CaptureRequest(capture_id=capture_id, targets=[target]))
        try:
            ready = next(news).ready
        except grpc.RpcError as error:
            raise Failure(f"nothing can be captured: {error.details()}") from error
        self._cgroup = Path(ready.cgroup) if ready.cgroup else None
        if ready.not_held:
            say(f"what is loaded later may be seen from its second request on only: {ready.not_held}")
        self._thread = threading.Thread(target=self._hear, args=(news,), name="captured", daemon=True)
        self._thread.start()

    def _hear(self, news: Iterator[agent_pb2.CaptureResponse]) -> None:
        """Tell what cannot be captured, as it shows."""
        try:
            for each in news:
                kind = each.WhichOneof("news")
                if kind == "departed":
                    self._tell(_departure(each.departed))
                elif kind == "not_capturable":
                    self._tell(_not_capturable(each.not_capturable))
                elif kind == "stopped":
                    self._untold += each.stopped.untold
        except grpc.RpcError as error:
            self._trouble = error.details() or str(error)

    def _tell(self, text: str) -> None:
        if self._told < LINES_SHOWN:
            self._told += 1
            self._say(clean(text))
        else:
            self._untold += 1

    def settle(self, meanwhile: Callable[[], None] = lambda: None) -> str:
        """Have everything handed over that was seen; says what went wrong. `meanwhile` is called while it lasts."""
        if not self._parts.agent.alive:
            return ""
        request = agent_pb2.StopCaptureRequest(capture_id=self._capture_id)
        stopping = self._parts.agent_service.StopCapture.future(request, timeout=SETTLE_SECONDS)
        try:
            stopped = awaited(stopping, meanwhile)
        except grpc.RpcError as error:
            return f"the agent could not settle its account: {self._trouble or error.details()}"
        self._thread.join(LAST_NEWS_SECONDS)
        if self._untold:
            self._say(f"{self._untold:,} more times a process left the capture, or its TLS was not captured")
        return "" if stopped.delivered else "the engine did not take everything in time"

    def remaining(self) -> list[tuple[int, str]]:
        """The launched processes that still run, by number and name."""
        return remaining(self._cgroup) if self._cgroup else []

    def remove_cgroup(self) -> None:
        """The agent does so; where it was killed, it falls to us."""
        if self._cgroup is None:
            return
        with contextlib.suppress(OSError):
            for inner in sorted((each for each in self._cgroup.rglob("*") if each.is_dir()), reverse=True):
                inner.rmdir()
            self._cgroup.rmdir()


def _departure(departed: agent_pb2.Departure) -> str:
    who, where = departed.workload, departed.cgroup or "of another"
    return (
        f"{who.command} (process {who.pid}) left the capture for the cgroup {where}: what it says is not recorded; systemd and"
        " container runtimes do so with what they start: record it with --cgroup or --container"
    )


def _not_capturable(told: agent_pb2.NotCapturable) -> str:
    process, library = told.workload, told.library
    return f"{process.command} (process {process.pid}): its TLS is not captured: {library.kind}: {library.reason}"


def awaited(call: grpc.Future[Answer], meanwhile: Callable[[], None]) -> Answer:
    """Give the answer to a call. `meanwhile` is called while it lasts, and may raise. Raises grpc.RpcError."""
    while True:
        meanwhile()
        with contextlib.suppress(grpc.FutureTimeoutError):
            return call.result(timeout=LOOK_SECONDS)
