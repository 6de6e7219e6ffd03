"""Openings are held by a process of its own: by itself it answers what is no executable, and it ends with the agent."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agent import holder, holding
from agent.failures import Failures
from agent.holder import Holder
from tests.agent.test_opens import Elsewhere, Leased, Probing, elsewhere, leased, library, went_on

__all__ = ["elsewhere", "leased", "library"]

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(os.geteuid() != 0, reason="needs root"), pytest.mark.timeout(60)]

POLL_MS = 10_000
"""For what does not come where the test fails."""


class _PollFd(ctypes.Structure):
    _fields_ = [("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short)]


def answered_without_this_interpreter(elsewhere: Elsewhere, path: Path) -> bool:
    """Have it open a file, and let no other thread of this process run Python until it says that it has."""
    assert elsewhere.process.stdin
    assert elsewhere.process.stdout
    libc, line = ctypes.PyDLL(None), b"%b\n" % os.fsencode(path)
    place = _PollFd(elsewhere.process.stdout.fileno(), select.POLLIN, 0)
    assert libc.write(elsewhere.process.stdin.fileno(), line, ctypes.c_size_t(len(line))) == len(line)
    answered: int = libc.poll(ctypes.byref(place), ctypes.c_ulong(1), POLL_MS)
    assert elsewhere.process.stdout.readline() == "opened\n"
    return answered == 1


@pytest.fixture
def failures() -> Failures:
    return Failures()


@pytest.fixture
def probing() -> Probing:
    return Probing()


@pytest.fixture
def holding_process(elsewhere: Elsewhere, probing: Probing, failures: Failures) -> Iterator[Holder]:
    with closing(Holder(elsewhere.process.pid, probing, failures)) as made:
        yield made


def test_what_is_no_executable_waits_for_no_thread_of_the_agent(
    elsewhere: Elsewhere, holding_process: Holder, probing: Probing, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("text")
    assert answered_without_this_interpreter(elsewhere, tmp_path / "text")
    assert probing.seen == []


def test_a_library_waits_until_the_agent_has_probed_it(
    elsewhere: Elsewhere, holding_process: Holder, probing: Probing, library: Path
) -> None:
    elsewhere.open(library)
    elsewhere.open(library)
    assert (probing.seen, probing.pids) == ([str(library)], [elsewhere.process.pid])


def test_what_the_agent_opens_is_not_held(elsewhere: Elsewhere, library: Path, failures: Failures) -> None:
    """By way of the very mount that is watched, while it probes: it does not wait for itself."""
    inside = f"/proc/{elsewhere.process.pid}/root{library}"
    probing = Probing(lambda _: open(inside, "rb").close())
    with closing(Holder(elsewhere.process.pid, probing, failures)):
        elsewhere.open(library)
    assert (probing.seen, failures.count) == ([str(library)], 0)


def test_a_file_that_cannot_be_probed_goes_on_and_is_counted(elsewhere: Elsewhere, library: Path, failures: Failures) -> None:
    def fail(_fd: int) -> None:
        raise ValueError("a file made for it")

    with closing(Holder(elsewhere.process.pid, Probing(fail), failures)):
        elsewhere.open(library)
        elsewhere.open(library)
    assert failures.count == 2


def test_nothing_is_held_after_the_end(elsewhere: Elsewhere, probing: Probing, library: Path, failures: Failures) -> None:
    held = Holder(elsewhere.process.pid, probing, failures)
    held.close()
    elsewhere.open(library)
    assert (probing.seen, failures.count) == ([], 0)


def test_a_process_that_is_killed_lets_all_go_on_and_is_told_of(elsewhere: Elsewhere, library: Path, failures: Failures) -> None:
    """Also what it holds just then; the agent goes on."""
    held = Holder(elsewhere.process.pid, Probing(lambda _: os.kill(held.pid, signal.SIGKILL)), failures)
    elsewhere.open(library)
    held.close()
    assert failures.count == 1


def test_it_ends_with_the_agent(elsewhere: Elsewhere, library: Path) -> None:
    """Which is killed while it probes: the opening goes on."""
    agent = f"""
import time
from agent.failures import Failures
from agent.holder import Holder
held = Holder({elsewhere.process.pid}, lambda fd, pid: print("probes", flush=True) or time.sleep(1000), Failures())
print(held.pid, flush=True)
time.sleep(1000)
"""
    with subprocess.Popen([sys.executable, "-c", agent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        holding = os.pidfd_open(int(process.stdout.readline()))
        opening = threading.Thread(target=elsewhere.open, args=(library,))
        opening.start()
        assert process.stdout.readline() == "probes\n"
        process.kill()
        opening.join()
    select.select([holding], [], [])
    os.close(holding)


def test_what_cannot_be_held_is_told_of(failures: Failures) -> None:
    with pytest.raises(OSError, match="No such file"):
        Holder(2**22 + 5, lambda *_: True, failures)


def test_what_went_on_unprobed_is_counted_at_the_end(
    elsewhere: Elsewhere, library: Path, failures: Failures, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held for as long as may be, for nobody answers."""
    monkeypatch.setattr(
        holder, "_START", holder._START.replace("main()", "from agent import opens; opens.HELD_SECONDS = 0.1; main()")
    )
    ended = threading.Event()
    held = Holder(elsewhere.process.pid, Probing(lambda _: ended.wait()), failures)
    elsewhere.open(library)
    ended.set()
    held.close()
    assert held.not_waited == 1


def test_who_answers_openings_waits_for_no_agent_that_is_behind() -> None:
    """What finds no room is counted."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        told, agent = 0, holding._Agent(theirs)
        while not agent.untold:
            agent.note("a file", OSError("failed"))
            told += 1
        for _ in range(told - 1):
            assert b"failed" in ours.recv(1000, socket.MSG_DONTWAIT)


def test_the_end_does_not_wait_for_a_lease(elsewhere: Elsewhere, holding_process: Holder, leased: Leased) -> None:
    """The process lives until it is given back, for what it reads would be refused to who opens it."""
    with leased.waited_for(elsewhere) as waiting:
        holding_process.close()
        assert waiting.poll() is None
        leased.give_back()
        assert went_on(waiting)


def test_what_is_mounted_no_more_is_told_of(elsewhere: Elsewhere, tmp_path: Path, probing: Probing, failures: Failures) -> None:
    told, devices = threading.Event(), set[int]()

    def note(gone: frozenset[int]) -> None:
        devices.update(gone)
        told.set()

    elsewhere.run("mount", "-t", "tmpfs", "own", tmp_path)
    device = int(elsewhere.run("stat", "-c", "%d", tmp_path))
    with closing(Holder(elsewhere.process.pid, probing, failures, note)):
        elsewhere.run("umount", tmp_path)
        told.wait()
    assert devices == {device}
