"""AgentService over captures and redirections that are not there: what keeps a call waiting, and what is refused."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from understudy.v1 import agent_pb2 as pb
from understudy.v1 import agent_pb2_grpc

import agent.__main__ as process
from agent.capture import Capture, Captures
from agent.examiner import Examiner
from agent.kernel.probes import RING_BYTES
from agent.takeover.redirect import Redirect, Redirects
from tests.e2e.machine import eventually

TIMEOUT = 60.0


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[agent_pb2_grpc.AgentServiceStub]:
    """That of an agent whose captures and redirections start and end at once."""
    numbers = itertools.count(1)
    monkeypatch.setattr(Captures, "start", lambda _self, name, _targets: Capture(next(numbers), name))
    monkeypatch.setattr(Captures, "stop", lambda _self, capture, *_: capture)
    monkeypatch.setattr(Redirects, "start", lambda _self, wanted: started(wanted))
    monkeypatch.setattr(Redirects, "stop", lambda _self, redirect: redirect._undo.close())
    with tempfile.TemporaryDirectory(prefix="us-") as folder, closing(Examiner()) as examiner:
        monkeypatch.setattr(process, "Examiner", lambda: examiner)
        address = f"unix:{folder}/a.sock"
        server, *_ = process.build(address, "", RING_BYTES, False)
        server.start()
        with grpc.insecure_channel(address) as channel:
            yield agent_pb2_grpc.AgentServiceStub(channel)
        server.stop(0).wait(TIMEOUT)


def started(wanted: Any) -> Redirect:
    redirect = Redirect(1, wanted)
    redirect._cgroup = type("Cgroup", (), {"path": Path("/none")})  # type: ignore[assignment]
    return redirect


def capture(service: agent_pb2_grpc.AgentServiceStub) -> Any:
    return service.Capture(pb.CaptureRequest(capture_id="a", targets=[pb.Target(pid=1)]))


def redirect(service: agent_pb2_grpc.AgentServiceStub) -> Any:
    request = pb.RedirectRequest(redirect_id="a", launched_pid=os.getpid(), responder=pb.ResponderEndpoint(pid=1, ipv4_port=1))
    return service.Redirect(request)


@pytest.mark.parametrize("open_call", [capture, redirect])
def test_calls_that_last_do_not_keep_others_out(service: agent_pb2_grpc.AgentServiceStub, open_call: Callable[..., Any]) -> None:
    """They are refused before they have taken every thread."""
    lasting = [open_call(service) for _ in range(process.CAPTURES_AT_ONCE)]
    for each in lasting:
        assert next(each).WhichOneof("news") == "ready"
    assert service.Describe(pb.DescribeRequest(pids=[os.getpid()]), timeout=TIMEOUT).checks
    with pytest.raises(grpc.RpcError) as stopping:
        service.StopCapture(pb.StopCaptureRequest(capture_id="none"), timeout=TIMEOUT)
    assert stopping.value.code() is grpc.StatusCode.NOT_FOUND
    for refused in (capture(service), redirect(service)):
        with pytest.raises(grpc.RpcError, match=f"{process.CAPTURES_AT_ONCE} captures and redirections are open") as caught:
            next(refused)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    lasting.pop().cancel()

    def is_taken() -> bool:
        lasting.append(open_call(service))
        try:
            return bool(next(lasting[-1]))
        except grpc.RpcError:
            return False

    assert eventually(is_taken, TIMEOUT)
    for each in lasting:
        each.cancel()
