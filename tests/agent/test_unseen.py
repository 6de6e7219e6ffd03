"""TLS that is not captured is told of where there is some."""

from __future__ import annotations

from agent import unseen
from agent.kernel.planner import Plan
from agent.unseen import Unseen, UnseenTls
from agent.workloads import Workload


def library(pid: int, path: str = "/lib/libgnutls.so") -> Unseen:
    return Unseen(Workload(pid, 1, "curl"), path, Plan("GnuTLS", reason="GnuTLS cannot be read yet, OpenSSL can"))


def test_a_library_that_is_not_used_is_not_told() -> None:
    assert UnseenTls().mapped(library(1)) == []


def test_a_connection_without_such_a_library_is_not_told() -> None:
    assert UnseenTls().connected(1) == []


def test_both_are_told_once_whichever_comes_first() -> None:
    joined = UnseenTls()
    joined.mapped(library(1))
    assert joined.connected(1) == [library(1)]
    assert joined.connected(1) == []
    assert joined.mapped(library(1)) == []
    assert joined.mapped(library(1, "/lib/other.so")) == [library(1, "/lib/other.so")]
    assert joined.connected(2) == []
    assert joined.mapped(library(2)) == [library(2)]


def test_a_connection_of_another_process_does_not_count() -> None:
    joined = UnseenTls()
    joined.mapped(library(1))
    assert joined.connected(2) == []


def test_it_is_bounded() -> None:
    joined = UnseenTls()
    for pid in range(3 * unseen.PROCESSES_MAX):
        joined.mapped(library(pid))
        joined.connected(pid)
    assert len(joined._libraries) == len(joined._connected) == unseen.PROCESSES_MAX
    told = [joined.mapped(library(pid, f"/{number}")) for number in range(100)]
    assert len([each for each in told if each]) == unseen.LIBRARIES_MAX - 1
