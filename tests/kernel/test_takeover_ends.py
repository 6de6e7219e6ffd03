"""Takeovers that end, well or by a blow: nothing gets at its real backends meanwhile, and nothing stays afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
import pytest
from understudy.v1 import agent_pb2 as pb

from agent.workloads import remove_cgroup
from tests.e2e.machine import eventually
from tests.kernel.takeover import TIMEOUT, Running, Taking, World, backend
from tests.kernel.world import BACKEND4, PORT

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left_behind")]

HOST = "api.real.test"
Joined = tuple[Taking, World]


class Waiting:
    """A command that calls once, waits, and goes on when it is told to."""

    def __init__(self, taking: Taking, *then: str) -> None:
        path = taking.folder / "word"
        os.mkfifo(path)
        self._word = os.open(path, os.O_RDWR)
        taking.keep(self._word)
        steps = [f"with_urllib https://{HOST}/", "wait", *then]
        recorded = [backend(HOST), backend(BACKEND4, PORT)]
        command = [sys.executable, "-m", "tests.kernel.calling", "several", *steps]
        self.running: Running = taking.start(*command, recorded=recorded, stdin=str(path))
        assert eventually(lambda: "waiting" in self.running.output.read_text(), TIMEOUT)

    def go_on(self) -> list[object]:
        """What it says of the calls that follow."""
        os.write(self._word, b"go\n")
        assert self.running.launcher.process.wait(TIMEOUT) == 0
        said = json.loads(self.running.output.read_text().splitlines()[-1])
        assert said[0]["from"] == "responder"
        return list(said[2:])


CALLS = (f"connect {HOST} 443", f"connect {BACKEND4} {PORT}", "connect_later 203.0.113.9 443")


def errors(said: list[object]) -> list[object]:
    return [each.get("error") for each in said if isinstance(each, dict)]


def test_a_responder_that_is_killed(joined: Joined) -> None:
    taking, world = joined
    waiting = Waiting(taking, *CALLS)
    taking.responder.process.kill()
    taking.responder.process.wait()
    assert errors(waiting.go_on()) == ["ConnectionRefusedError"] * 3
    assert world.packets() == []


def test_an_agent_that_is_killed(joined: Joined) -> None:
    taking, world = joined
    waiting = Waiting(taking, *CALLS)
    taking.agent.kill()
    taking.agent.wait()
    world.packets()
    said = errors(waiting.go_on())
    # By name nothing is found any more, by address the responder still answers, and all else is refused.
    assert said == ["gaierror", None, "ConnectionRefusedError"]
    assert world.packets() == []
    assert eventually(lambda: not Path(waiting.running.ready.cgroup).exists(), TIMEOUT)


def test_a_lease_that_ends_before_the_command(joined: Joined) -> None:
    taking, world = joined
    waiting = Waiting(taking, *CALLS)
    waiting.running.call.cancel()
    waiting.running.end()
    world.packets()
    by_name, *others = errors(waiting.go_on())
    assert by_name in ("gaierror", "ConnectionRefusedError")  # the agent may not have closed its resolver yet
    assert others == ["ConnectionRefusedError"] * 2
    assert world.packets() == []


@pytest.mark.parametrize("both", [False, True], ids=["keeper", "keeper and agent"])
def test_a_keeper_that_is_killed(joined: Joined, both: bool) -> None:
    """One holder of the hooks is enough; only where both are gone, so are the hooks."""
    taking, _ = joined
    waiting = Waiting(taking, *CALLS)
    if both:
        taking.agent.kill()
        taking.agent.wait()
    keepers = [each for each in psutil.process_iter() if waiting.running.ready.cgroup in _arguments(each)]
    assert len(keepers) == 1
    keepers[0].kill()
    if both:  # the command's starter has the cgroup to remove
        waiting.running.launcher.process.kill()
        waiting.running.launcher.process.wait()
        assert eventually(lambda: remove_cgroup(Path(waiting.running.ready.cgroup)), TIMEOUT)
        return
    assert errors(waiting.go_on()) == [None, None, "ConnectionRefusedError"]
    waiting.running.end()


def _arguments(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return list(process.cmdline())
    return []


def test_children_that_live_on_stay_taken_over(joined: Joined) -> None:
    taking, world = joined
    path = taking.folder / "word"
    os.mkfifo(path)
    word = os.open(path, os.O_RDWR)
    taking.keep(word)
    later = f"{sys.executable} -m tests.kernel.calling several wait 'connect {BACKEND4} {PORT}' <{path} &"
    running = taking.start("sh", "-c", f"setsid {later}", stdin=str(path))
    assert running.launcher.process.wait(TIMEOUT) == 0
    assert eventually(lambda: "waiting" in running.output.read_text(), TIMEOUT)
    assert all(each.WhichOneof("news") != "stopped" for each in running.news)
    os.write(word, b"go\n")
    running.end()
    assert running.told("refused") == [("", BACKEND4, PORT, 6)]
    assert running.news[-1].WhichOneof("news") == "stopped"
    assert world.packets() == []


@pytest.fixture
def bad_requests(lonely: Taking) -> Iterator[tuple[Taking, list[tuple[pb.RedirectRequest, grpc.StatusCode]]]]:
    """Requests that cannot be met."""
    with lonely.place.start("cat") as sleeper:
        responder, codes = lonely.responder.message(), grpc.StatusCode
        shared = pb.RedirectRequest(redirect_id="x", launched_pid=sleeper.pid, responder=responder, ca_pem=lonely.responder.ca)
        yield (
            lonely,
            [
                (pb.RedirectRequest(launched_pid=sleeper.pid, responder=responder), codes.INVALID_ARGUMENT),
                (pb.RedirectRequest(redirect_id="x", launched_pid=sleeper.pid), codes.INVALID_ARGUMENT),
                (pb.RedirectRequest(redirect_id="x", launched_pid=1 << 30, responder=responder), codes.NOT_FOUND),
                # It shares the machine's mounts: nothing may be laid over those.
                (shared, codes.FAILED_PRECONDITION),
            ],
        )
        sleeper.send_signal(signal.SIGTERM)


def test_what_cannot_be_is_refused_and_leaves_nothing(
    bad_requests: tuple[Taking, list[tuple[pb.RedirectRequest, grpc.StatusCode]]],
) -> None:
    taking, requests = bad_requests
    for request, code in requests:
        with pytest.raises(grpc.RpcError) as raised:
            next(taking.service.Redirect(request))
        assert raised.value.code() is code
