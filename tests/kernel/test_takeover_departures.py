"""Processes that leave the cgroup in which they were started: they reach nobody, end, and are told of."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.takeover import TIMEOUT, Running, Taking, World, backend
from tests.kernel.test_takeover_ends import Waiting
from tests.kernel.test_takeover_network import without_dns
from tests.kernel.world import BACKEND4, BACKEND6, PORT

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left_behind")]

Joined = tuple[Taking, World]
CALLS = f"until_refused {BACKEND4} {PORT}"


def departed(running: Running) -> list[tuple[str, bool]]:
    """Who left, and whether they were ended."""
    return [(each.departed.workload.command, each.departed.ended) for each in running.news if each.WhichOneof("news") == "departed"]


def start(taking: Taking, *steps: str, **options: Any) -> Running:
    return taking.start(taking.python, "-m", "tests.kernel.calling", "several", *steps, **options)


@pytest.mark.parametrize("host", [BACKEND4, BACKEND6])
def test_a_process_that_moves_away_reaches_nobody_and_ends(joined: Joined, host: str) -> None:
    taking, world = joined
    running = start(taking, "leave", f"until_refused {host} {PORT}", recorded=[backend(host, PORT)])
    assert running.launcher.process.wait(TIMEOUT) == -signal.SIGKILL
    running.end()
    assert departed(running) == [("python", True)]
    assert without_dns(world.packets()) == []
    assert not Path(running.ready.cgroup).exists()


def test_a_process_that_is_started_elsewhere_ends(joined: Joined) -> None:
    taking, world = joined
    said, running = taking.said(
        "several", f"fork_elsewhere {CALLS}", f"connect {BACKEND4} {PORT}", recorded=[backend(BACKEND4, PORT)]
    )
    assert (said[0], said[1]["peer"]) == (-signal.SIGKILL, [BACKEND4, PORT])
    assert departed(running) == [("python", True)]
    assert world.packets() == []


def test_what_it_started_meanwhile_ends_too(joined: Joined) -> None:
    taking, world = joined
    script = f"{taking.python} -m tests.kernel.calling several {{}} '{CALLS}' & wait"
    running = taking.start(
        "sh", "-c", "echo $$ > $(awk '$3 == \"cgroup2\" { print $2; exit }' /proc/mounts)/cgroup.procs; " + script
    )
    assert running.launcher.process.wait(TIMEOUT) == -signal.SIGKILL
    running.end()
    assert departed(running)[0] == ("sh", True)
    assert without_dns(world.packets()) == []


def test_one_that_may_go_on_is_told_of(joined: Joined) -> None:
    taking, _ = joined
    said, running = taking.said("several", "leave", f"read {BACKEND4} {PORT}", keep_departed=True)
    assert said[1] == "real"
    assert departed(running) == [("python", False)]


def test_a_number_that_is_another_s_by_now(lonely: Taking) -> None:
    """The process that left has ended before the agent comes to it, and somebody else's has its number: it goes on."""
    waiting = Waiting(lonely, "leave")
    left = waiting.running.launcher.process
    lonely.agent.send_signal(signal.SIGSTOP)
    waiting.go_on()
    with lonely.place.start(lonely.python, "-m", "tests.kernel.calling", "with_number", str(left.pid)) as other:
        assert other.stdout
        assert other.stdout.readline() == "waiting\n"
        lonely.agent.send_signal(signal.SIGCONT)
        waiting.running.end()
        assert departed(waiting.running) == [("python", False)]
        assert other.communicate("go on\n")[0] == "true\n"


def test_below_is_not_away(joined: Joined) -> None:
    taking, _ = joined
    said, running = taking.said("several", "leave below", f"connect {BACKEND4} {PORT}", recorded=[backend(BACKEND4, PORT)])
    assert (said[0], said[1]["peer"]) == (f"{running.ready.cgroup}/below", [BACKEND4, PORT])
    assert departed(running) == []


def test_others_may_move_as_they_like(joined: Joined) -> None:
    taking, _ = joined
    with taking.place.start(taking.python, "-m", "tests.kernel.calling", "leave") as outside:
        running = start(taking, f"connect {BACKEND4} {PORT}", recorded=[backend(BACKEND4, PORT)])
        running.said()
        outside.communicate()
    assert departed(running) == []
