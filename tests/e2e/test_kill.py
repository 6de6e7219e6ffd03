"""Whoever of ours is killed, in whatever order: a recorded command goes on unharmed, a mocked one reaches nobody, nothing stays.

The keepers are two, and each is one victim: whoever are the two or three that are killed, one that tidies up is left.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.e2e.machine import eventually
from tests.e2e.programs import ROOT, environment
from tests.e2e.recording import UNDERSTUDY, part, record
from tests.e2e.truth.server import TruthServer

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left_behind")]

TIMEOUT = 60.0
PARTS = ("cli", "engine", "agent", "keeper")
ORDERS = [order for number in (2, 3) for order in itertools.permutations(PARTS, number)]
MOMENTS = int(os.environ.get("UNDERSTUDY_KILLS", "6"))
"""Random moments in one run: `make kill` takes 100."""

LOOP = """
import os, sys, urllib.request
url, told, end = sys.argv[1:]
with open(told, "w", buffering=1) as file:
    while not os.path.exists(end):
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers={"X-Marker": "m"}), timeout=20) as answer:
                print(answer.status, len(answer.read()), file=file)
        except OSError as error:
            print(type(error).__name__, getattr(error, "code", ""), file=file)
    print("end", file=file)
"""


class Running:
    """A command that calls a server again and again, recorded or mocked, and those of ours that serve it."""

    def __init__(self, folder: Path, mode: str, url: str) -> None:
        folder.mkdir()
        self._told, self._end = folder / "told", folder / "end"
        ours = ["record", "-o", str(folder / "snapshot")] if mode == "record" else ["mock", str(folder.parent / "snapshot")]
        whole = [UNDERSTUDY, *ours, "--", sys.executable, "-c", LOOP, f"{url}/length/5/m", str(self._told), str(self._end)]
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(whole, env=environment(), cwd=ROOT, stdin=quiet, stdout=quiet, stderr=quiet)

    def told(self) -> list[str]:
        """What came of its calls so far."""
        return self._told.read_text().splitlines() if self._told.exists() else []

    def victims(self) -> dict[str, list[psutil.Process]]:
        """The processes of each part."""
        agent = part(self.process.pid, "agent")
        keepers = [each for each in agent.children(recursive=True) if "agent.takeover." in " ".join(each.cmdline())]
        engine = part(self.process.pid, "engine")
        return {"cli": [psutil.Process(self.process.pid)], "engine": [engine], "agent": [agent], "keeper": keepers}

    def ready(self, keepers: int) -> bool:
        """Whether calls are made and all parts are there."""
        with contextlib.suppress(LookupError, psutil.Error):
            return len(self.told()) > 2 and len(self.victims()["keeper"]) >= keepers
        return False

    def goes_on(self, calls: int = 3) -> bool:
        """Whether so many calls are made from now on."""
        before = len(self.told())
        return eventually(lambda: len(self.told()) >= before + calls, TIMEOUT)

    def finish(self) -> list[str]:
        """Have it end; what came of all its calls."""
        self._end.touch()
        assert eventually(lambda: "end" in self.told(), TIMEOUT)
        self.process.wait(TIMEOUT)
        return self.told()[:-1]


@pytest.fixture
def server(plain_server: TruthServer, tmp_path: Path) -> TruthServer:
    """A server, and a snapshot of one call to it in which the loop's is a miss."""
    ask = (sys.executable, "-c", f"import urllib.request as u; u.urlopen('{plain_server.url}/length/5/other').read()")
    assert record(tmp_path / "snapshot", *ask).status == 0
    return plain_server


def check(mode: str, told: Sequence[str]) -> None:
    if mode == "record":
        assert set(told) == {"200 5"}
    else:  # refused by the responder, or, when that is gone, by the hooks; never answered for real
        assert {line.split()[0] for line in told} <= {"HTTPError", "URLError", "ConnectionResetError", "RemoteDisconnected"}


KEEPERS = {"record": 2, "mock": 4}


@pytest.mark.parametrize("first", PARTS)
@pytest.mark.parametrize("mode", ["record", "mock"])
def test_every_order_of_two_and_three(mode: str, first: str, server: TruthServer, tmp_path: Path) -> None:
    """All at a time that begin with one victim."""
    before = len(server.exchanges)
    orders = [order for order in ORDERS if order[0] == first]
    running = [Running(tmp_path / "-".join(order), mode, server.url) for order in orders]
    for each, order in zip(running, orders, strict=True):
        assert eventually(partial(each.ready, KEEPERS[mode]), TIMEOUT), each.told()
        victims = each.victims()
        for name in order:
            victims[name][-1].kill()
    for each, order in zip(running, orders, strict=True):
        assert each.goes_on(), order
        check(mode, each.finish())
    assert mode == "record" or len(server.exchanges) == before


@pytest.mark.parametrize("mode", ["record", "mock"])
def test_random_moments_under_load(mode: str, server: TruthServer, tmp_path: Path) -> None:
    """One to three parts, at any moment after the first call."""
    before = len(server.exchanges)
    for number in range(MOMENTS // 2):
        chance = random.Random(f"{mode}-{number}")
        running = Running(tmp_path / str(number), mode, server.url)
        assert eventually(partial(running.ready, KEEPERS[mode]), TIMEOUT)
        running.goes_on(chance.randrange(200))
        victims = running.victims()
        try:
            for name in chance.sample(PARTS, chance.randint(1, 3)):
                with contextlib.suppress(psutil.NoSuchProcess):  # it has ended, because another one was killed
                    chance.choice(victims[name]).kill()
                if chance.random() < 0.5:
                    running.goes_on(chance.randrange(20))
        finally:
            told = running.finish()
        check(mode, told)
    assert mode == "record" or len(server.exchanges) == before
