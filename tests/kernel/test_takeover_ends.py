"""Takeovers that end, well or by a blow: nothing gets at its real backends meanwhile, and nothing stays afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
import pytest
from understudy.v1 import agent_pb2 as pb

from agent.takeover.sockets import listening
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

    def go_on_to_next(self) -> None:
        """Until it waits again."""
        os.write(self._word, b"go\n")
        assert eventually(lambda: self.running.output.read_text().count("waiting") == 2, TIMEOUT)

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
    assert resolver_is_open(taking, waiting)
    waiting.running.call.cancel()
    waiting.running.end()
    assert eventually(lambda: not resolver_is_open(taking, waiting), TIMEOUT)  # it is closed after everything is refused
    world.packets()
    by_name, *others = errors(waiting.go_on())
    assert by_name in ("gaierror", "ConnectionRefusedError")
    assert others == ["ConnectionRefusedError"] * 2
    assert world.packets() == []


def resolver_is_open(taking: Taking, waiting: Waiting) -> bool:
    """Whether the agent has a UDP socket in the network that the command is in."""
    lines = Path(f"/proc/{waiting.running.launcher.process.pid}/net/udp").read_text().splitlines()[1:]
    there = {f"socket:[{line.split()[9]}]" for line in lines}
    return any(os.path.realpath(fd).rpartition("/")[2] in there for fd in Path(f"/proc/{taking.agent.pid}/fd").iterdir())


def keepers(waiting: Waiting) -> list[psutil.Process]:
    """The processes that keep its takeover: two, so that one is left whoever is killed."""
    found = [each for each in psutil.process_iter() if f'"{waiting.running.ready.cgroup}"' in " ".join(arguments_of(each))]
    return [each for each in found if each.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("number", [1, 2])
def test_keepers_that_are_killed(joined: Joined, number: int) -> None:
    """The agent starts others, and the takeover is as it was."""
    taking, _ = joined
    waiting = Waiting(taking, *CALLS)
    assert eventually(lambda: len(keepers(waiting)) == 2, TIMEOUT)
    killed = keepers(waiting)[:number]
    for keeper in killed:
        keeper.kill()
    assert eventually(lambda: len(set(keepers(waiting)) - set(killed)) >= (1 if number == 1 else 2), TIMEOUT)
    assert errors(waiting.go_on()) == [None, None, "ConnectionRefusedError"]
    waiting.running.end()


def test_the_hooks_stay_though_everybody_is_killed(joined: Joined) -> None:
    """They belong to the cgroup: nobody has to hold them."""
    taking, world = joined
    waiting = Waiting(taking, *CALLS)
    assert eventually(lambda: len(keepers(waiting)) == 2, TIMEOUT)
    for each in [psutil.Process(taking.agent.pid), *keepers(waiting)]:
        each.kill()
    taking.agent.wait()
    world.packets()
    assert errors(waiting.go_on()) == ["gaierror", None, "ConnectionRefusedError"]
    assert world.packets() == []
    assert eventually(lambda: remove_cgroup(Path(waiting.running.ready.cgroup)), TIMEOUT)  # as the command's starter does


def listening_places(pid: int) -> list[tuple[str, int]]:
    """Where a process takes TCP connections on the loopback of its network."""
    found = []
    for table, host in (("tcp", "127.0.0.1"), ("tcp6", "::1")):
        lines = Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
        ports = {int(line.split()[1].rpartition(":")[2], 16) for line in lines if line.split()[3] == "0A"}
        found += [(host, port) for port in ports if any(listening(pid, port))]
    return found


def can_be_had(taking: Taking, host: str, port: int) -> bool:
    """Whether somebody could take connections there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with taking.place.run(socket.socket, family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            probe.bind((host, port))
            return True
    return False


@pytest.mark.parametrize("victim", ["agent", "responder"])
def test_nobody_else_gets_the_ports_of_who_was_killed(joined: Joined, victim: str) -> None:
    """As long as the hooks lead there, somebody holds them: also in the moment before the keepers notice."""
    taking, world = joined
    waiting = Waiting(taking, *CALLS)
    assert eventually(lambda: len(keepers(waiting)) == 2, TIMEOUT)
    killed = taking.agent if victim == "agent" else taking.responder.process
    places = set(listening_places(killed.pid))
    if victim == "agent":  # which holds those of the responder, too
        places -= set(listening_places(taking.responder.process.pid))
    assert {host for host, _ in places} == {"127.0.0.1", "::1"}
    blind = [*keepers(waiting), *([psutil.Process(taking.agent.pid)] if victim == "responder" else [])]
    for each in blind:
        each.suspend()
    killed.kill()
    killed.wait()
    assert [can_be_had(taking, *place) for place in places] == [False] * len(places)
    for each in blind:
        each.resume()
    assert eventually(lambda: all(can_be_had(taking, *place) for place in places), TIMEOUT)
    world.packets()
    by_name, by_address, other = errors(waiting.go_on())
    assert by_name == ("gaierror" if victim == "agent" else "ConnectionRefusedError")
    assert (by_address, other) == (None if victim == "agent" else "ConnectionRefusedError", "ConnectionRefusedError")
    assert world.packets() == []


def arguments_of(process: psutil.Process) -> list[str]:
    """Its command line; empty where it is gone."""
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
