"""Files are examined by a process that may die of them; the agent does not."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from agent import examiner, examining
from agent.examiner import Examiner
from agent.kernel.planner import UNKNOWN, Plan, plan
from tests.agent.kernel.test_planner import libssl, sparse


@pytest.fixture
def examining_process() -> Iterator[Examiner]:
    with closing(Examiner()) as made:
        yield made


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        yield fd
    finally:
        os.close(fd)


def test_the_plan_is_the_same(examining_process: Examiner) -> None:
    with opened(libssl()) as fd:
        found = examining_process.plan(fd)
        assert found == plan(fd)
        assert found.capturable


def test_it_is_one_process_for_all_files(examining_process: Examiner) -> None:
    with opened("/bin/true") as fd:
        examining_process.plan(fd)
        first = examining_process.pid
        examining_process.plan(fd)
    assert examining_process.pid == first > 0


def test_a_file_that_was_made_to_harm(examining_process: Examiner, tmp_path: Path) -> None:
    fd = sparse(tmp_path, 400 << 20, 24)
    try:
        assert "400 MiB" in examining_process.plan(fd).reason
    finally:
        os.close(fd)
    os.mkfifo(tmp_path / "fifo")
    with opened(tmp_path / "fifo") as fifo:
        assert examining_process.plan(fifo) == Plan(UNKNOWN, reason="it is not a regular file")


def test_a_process_that_was_killed_is_replaced(examining_process: Examiner) -> None:
    with opened(libssl()) as fd:
        examining_process.plan(fd)
        process = psutil.Process(examining_process.pid)
        process.kill()
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            pass
        assert examining_process.plan(fd).capturable


def test_one_that_takes_too_long_is_ended_and_the_next_file_is_examined(
    examining_process: Examiner, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(libssl()) as fd:
        examining_process.plan(fd)
        os.kill(examining_process.pid, signal.SIGSTOP)
        with monkeypatch.context() as patch:
            patch.setattr(examiner, "EXAMINE_SECONDS", 0.01)
            found = examining_process.plan(fd)
        assert found.kind == UNKNOWN
        assert "takes more than" in found.reason
        assert examining_process.plan(fd).capturable


def sites(*site: object) -> bytes:
    return json.dumps({"kind": "", "reason": "", "sites": [site]}).encode()


@pytest.mark.parametrize(
    "answer",
    [
        *(b"", b"not json", b"[]", b'{"kind": ""}', sites(1)),
        sites("no_program", "SSL_read", 1, 1, False),
        sites("tls_enter", "SSL_read", -1, 1, False),
        sites("tls_enter", "SSL_read", 1, 99, False),
        sites("tls_enter", "SSL_read", 1 << 64, 1, False),
    ],
)
def test_an_answer_that_is_no_plan_is_not_believed(
    examining_process: Examiner, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    """A file may have taken over the process that read it."""
    monkeypatch.setattr(Examiner, "_ask", lambda *_: answer)
    with opened("/bin/true") as fd:
        assert examining_process.plan(fd).kind == UNKNOWN


def test_memory_that_is_not_to_be_had_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process: what the other one does where its limit is met."""

    def fail(fd: int) -> Plan:
        raise MemoryError

    monkeypatch.setattr(examining, "plan", fail)
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    with opened("/bin/true") as fd:
        assert b"memory" in examining.answer(fd)


def test_what_it_may(examining_process: Examiner) -> None:
    with opened("/bin/true") as fd:
        examining_process.plan(fd)
    folder = Path(f"/proc/{examining_process.pid}")
    status = dict(line.split(":\t", 1) for line in (folder / "status").read_text().splitlines())
    assert status["NoNewPrivs"] == "1"
    limits = {line[:26].strip(): line[26:].split()[:2] for line in (folder / "limits").read_text().splitlines()}
    assert limits["Max address space"] == [str(examining.MEMORY_BYTES)] * 2
    assert limits["Max file size"] == ["0", "0"]
    assert int(limits["Max cpu time"][0]) < 60
    if os.geteuid() == 0:
        assert status["CapEff"] == status["CapPrm"] == "0" * 16
        assert set(status["Uid"].split()) == {str(examining.USER)}
        links = {os.readlink(link) for link in (folder / "fd").iterdir()}
        assert {link.partition(":")[0] for link in links} <= {"/dev/null", "socket"}


def test_it_ends_with_the_agent() -> None:
    made = Examiner()
    with opened("/bin/true") as fd:
        made.plan(fd)
    process = psutil.Process(made.pid)
    assert isinstance(made._channel, socket.socket)
    made._channel.close()  # as when the agent is gone
    assert process.wait(60) == 0
    made._channel = None
    made.close()


def test_a_file_whose_examination_was_killed_by_others_is_examined_again(
    examining_process: Examiner, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, asked = Examiner._ask, 0

    def killed(self: Examiner, fd: int) -> bytes:
        nonlocal asked
        asked += 1
        answer = ask(self, fd)
        if asked == 1:
            os.kill(self.pid, signal.SIGKILL)
            raise ConnectionError
        return answer

    monkeypatch.setattr(Examiner, "_ask", killed)
    with opened(libssl()) as fd:
        assert examining_process.plan(fd).capturable
    assert asked == 2
