"""The ledger: what the peer counts is what was delivered, lost, or not observable, to the byte."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest
from understudy.v1 import agent_pb2

from engine.rrpair import RRPair
from tests.e2e.conftest import Authority
from tests.kernel.conftest import Capturing
from tests.kernel.counting import Client, CountingServer

pytestmark = pytest.mark.kernel

SIZES = [0, 10, 3000, 16384, 20000, 70000, 5, 100000, 1 << 20, 700]


def check_true(pair: RRPair, server: CountingServer) -> None:
    """What a complete pair says is what the server saw."""
    assert pair.response
    assert hashlib.sha256(pair.request.body).hexdigest() == server.bodies[pair.path]
    assert pair.response.body == pair.request.body


def test_nothing_is_lost(capturing: Callable[..., Capturing], authority: Authority) -> None:
    with CountingServer(authority.context) as server:
        capture, client = capturing(), Client(server.port, authority.ca)
        capture.start(agent_pb2.Target(launched_pid=client.process.pid))
        client.say("")
        assert client.hear() == "connected"
        client.say(" ".join(map(str, SIZES)))
        client.end()
        ledger = capture.stop()
        assert (ledger.seen, ledger.lost, ledger.unattributed) == (server.bytes, 0, 0)
        assert ledger.delivered == ledger.seen
        assert (ledger.missed_runs, ledger.unknown_starts) == (0, 0)
        with capture.snapshot() as snapshot:
            pairs = list(snapshot.pairs())
        assert [pair.path for pair in pairs] == [f"/{n + 1}" for n in range(len(SIZES))]
        for pair in pairs:
            assert pair.complete
            check_true(pair, server)


@pytest.mark.parametrize("rounds", [3])
def test_a_ring_that_overflows(capturing: Callable[..., Capturing], authority: Authority, rounds: int) -> None:
    """The reader is stopped while more is said than the ring holds, again and again."""
    with CountingServer(authority.context) as server:
        capture, client = capturing("--ring-bytes", "65536"), Client(server.port, authority.ca)
        capture.start(agent_pb2.Target(launched_pid=client.process.pid))
        client.say("")
        assert client.hear() == "connected"
        for _ in range(rounds):
            client.say("100 100")
            client.hear()
            os.kill(capture.agent.pid, signal.SIGSTOP)
            client.say(" ".join(map(str, SIZES)))
            client.hear()
            os.kill(capture.agent.pid, signal.SIGCONT)
        client.end()
        ledger = capture.stop()
        assert ledger.lost > 0
        assert server.bytes == ledger.seen == ledger.delivered + ledger.lost
        assert capture.recording.received_bytes == ledger.delivered
        assert (ledger.missed_runs, ledger.unknown_starts) == (0, 0)
        with capture.snapshot() as snapshot:
            pairs = list(snapshot.pairs())
        complete = [pair for pair in pairs if pair.complete]
        assert 0 < len(complete) < rounds * (len(SIZES) + 2)
        for pair in complete:
            check_true(pair, server)
        lost_within = [pair for pair in pairs if pair.missing]
        assert lost_within
        paths = {pair.path for pair in complete}
        assert len(paths) == len(complete)


def test_a_process_that_runs_already(capturing: Callable[..., Capturing], authority: Authority) -> None:
    """It is joined while it waits for an answer: that answer passes unseen, and no pair is made up for it."""
    with CountingServer(authority.context) as server:
        capture, client = capturing(), Client(server.port, authority.ca)
        client.say("")
        client.hear()
        client.say("5 5")
        client.hear()
        assert server.asked.acquire(timeout=60)
        assert server.asked.acquire(timeout=60)
        server.hold.clear()
        client.say("300")
        assert server.asked.acquire(timeout=60)  # the client waits in SSL_read
        capture.start(agent_pb2.Target(pid=client.process.pid))
        server.hold.set()
        assert client.hear() == "3"
        before = server.bytes
        client.say("10 20000")
        client.end()
        ledger = capture.stop()
        assert server.bytes - before <= ledger.seen == ledger.delivered
        assert ledger.lost == 0
        assert ledger.unknown_starts == 1
        with capture.snapshot() as snapshot:
            pairs = list(snapshot.pairs())
        complete = [pair for pair in pairs if pair.complete]
        assert [pair.path for pair in complete] in (["/5"], ["/4", "/5"])
        for pair in complete:
            check_true(pair, server)
        assert all("start" in pair.missing for pair in pairs if pair not in complete)


def test_other_processes_are_not_counted(capturing: Callable[..., Capturing], authority: Authority) -> None:
    with CountingServer(authority.context) as server:
        capture = capturing()
        mine, other = Client(server.port, authority.ca), Client(server.port, authority.ca)
        capture.start(agent_pb2.Target(launched_pid=mine.process.pid))
        for client in (mine, other):
            client.say("")
            client.hear()
        other.say("1000 1000")
        other.hear()
        unseen = server.bytes
        mine.say("1000")
        mine.end()
        other.end()
        assert capture.stop().seen == server.bytes - unseen


CROWD = """
import ctypes, os, sys
programs = int(sys.argv[2])
if len(sys.argv) < 4:
    sys.stdin.readline()
ctypes.CDLL("libcrypto.so.3", ctypes.RTLD_GLOBAL)
openssl = ctypes.CDLL("libssl.so.3")
for name in ("TLS_client_method", "SSL_CTX_new", "SSL_new"):
    getattr(openssl, name).restype = ctypes.c_void_p
context = ctypes.c_void_p(openssl.SSL_CTX_new(ctypes.c_void_p(openssl.TLS_client_method())))
def crowd():
    for _ in range(4000):
        openssl.SSL_new(context)
if sys.argv[1] == "forks":
    for _ in range(programs):
        if not (pid := os.fork()):
            crowd()
            os._exit(0)
        os.waitpid(pid, 0)
elif programs:
    crowd()
    os.execv(sys.executable, [sys.executable, "-c", sys.orig_argv[2], sys.argv[1], str(programs - 1), "again"])
print("done", flush=True)
sys.stdin.readline()
"""
"""Makes so many TLS objects that it never uses, in so many processes or programs of one process."""


@pytest.mark.parametrize("how", ["forks", "executes"])
def test_what_processes_leave_takes_no_room_from_another_capture(
    capturing: Callable[..., Capturing], authority: Authority, how: str
) -> None:
    """More than the kernel's map holds (131,072); nothing was ever said of them."""
    with CountingServer(authority.context) as server:
        capture = capturing()
        command = [sys.executable, "-c", CROWD, how, "34"]
        crowd = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert crowd.stdin
        assert crowd.stdout
        capture.record("crowd")
        request = agent_pb2.CaptureRequest(capture_id="crowd", targets=[agent_pb2.Target(pid=crowd.pid)])
        next(news := capture.service.Capture(request))
        client = Client(server.port, authority.ca)
        capture.start(agent_pb2.Target(pid=client.process.pid))
        crowd.stdin.write("\n")
        crowd.stdin.flush()
        assert crowd.stdout.readline() == "done\n"
        client.say("")
        client.hear()
        client.say("5 70000")
        client.end()
        ledger = capture.stop()
        crowd.communicate("\n", timeout=60)
        news.cancel()
        assert ledger.seen == ledger.delivered == server.bytes
        assert (ledger.lost, ledger.unattributed) == (0, 0)
        with capture.snapshot() as snapshot:
            assert [(pair.path, pair.complete) for pair in snapshot.pairs()] == [("/1", True), ("/2", True)]
