"""An agent and an engine for tests: the agent a process, as it is; the engine in this process, so that its state can be read."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from understudy.v1 import agent_pb2, agent_pb2_grpc, capture_pb2

from engine.__main__ import build
from engine.ingest.recording import Recording
from engine.ingest.service import Recordings
from engine.snapshot import Snapshot
from tests.e2e.conftest import nothing_left_behind
from tests.kernel.takeover import Place, Taking, World, lonely_network
from tests.kernel.world import GATEWAY

TIMEOUT = 60.0
__all__ = ["nothing_left_behind"]


class Capturing:
    """One capture of one agent into one snapshot."""

    def __init__(self, folder: Path, recordings: Recordings, engine: str, *agent_options: str) -> None:
        self._folder = folder
        self._recordings = recordings
        self.name = uuid.uuid4().hex
        self.recording = self.record(self.name)
        lease, listen = folder / f"lease-{self.name}", f"unix:{folder}/{self.name}.sock"
        lease.mkdir()
        options = ["--listen", listen, "--engine", engine, "--lease", str(lease), *agent_options]
        self.agent = subprocess.Popen([sys.executable, "-m", "agent", *options], stdin=subprocess.PIPE)
        self._channel = grpc.insecure_channel(listen)
        grpc.channel_ready_future(self._channel).result(TIMEOUT)
        self.service = agent_pb2_grpc.AgentServiceStub(self._channel)
        self._news: Iterator[agent_pb2.CaptureResponse] | None = None

    def record(self, name: str) -> Recording:
        """Have the engine take what this agent sends of a capture; what it does not know it refuses."""
        return self._recordings.start(self._folder / f"{name}.snapshot", "tested", name, resume=False)

    def start(self, target: agent_pb2.Target) -> agent_pb2.CaptureReady:
        """Start to capture."""
        self._news = self.service.Capture(agent_pb2.CaptureRequest(capture_id=self.name, targets=[target]))
        return next(self._news).ready

    def stop(self) -> capture_pb2.Ledger:
        """Settle."""
        stopped = self.service.StopCapture(agent_pb2.StopCaptureRequest(capture_id=self.name), timeout=TIMEOUT)
        assert stopped.delivered
        return stopped.ledger

    def snapshot(self) -> Snapshot:
        """What was captured; the agent's account must have arrived."""
        assert self.recording.capture_ended
        self._recordings.finish(self.recording)
        return Snapshot(self.recording.writer.path)

    def close(self) -> None:
        """End the agent."""
        self._channel.close()
        if self.agent.stdin:
            self.agent.stdin.close()
        self.agent.wait(TIMEOUT)


@pytest.fixture
def capturing() -> Iterator[Callable[..., Capturing]]:
    """Makes captures; everything ends with the test."""
    with contextlib.ExitStack() as stack:
        # Short: a unix socket's path may have 107 bytes.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="us-")))
        engine = f"unix:{folder}/e.sock"
        server, recordings = build(engine, folder, folder)
        server.start()
        stack.callback(lambda: server.stop(0).wait())

        def make(*agent_options: str) -> Capturing:
            made = Capturing(folder, recordings, engine, *agent_options)
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """For unix sockets: their paths may have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="us-") as folder:
        yield Path(folder)


@pytest.fixture
def lonely(short_folder: Path) -> Iterator[Taking]:
    """Takes over commands in a network where there is nothing but the loopback."""
    with (
        lonely_network() as home,
        contextlib.closing(Place(home)) as place,
        contextlib.closing(Taking(short_folder, place)) as taking,
    ):
        yield taking


@pytest.fixture
def joined(short_folder: Path) -> Iterator[tuple[Taking, World]]:
    """Takes over commands in a network that is joined to a world."""
    with (
        lonely_network() as home,
        contextlib.closing(Place(home)) as place,
        contextlib.closing(World(home, place)) as outside,
        contextlib.closing(Taking(short_folder, place, f"nameserver {GATEWAY}\nsearch corp.test\n")) as taking,
    ):
        yield taking, outside
