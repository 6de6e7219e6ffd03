"""The agent as a process: its service, its metrics, its leases."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from understudy.v1 import agent_pb2

from agent import workloads
from tests.e2e.conftest import Authority
from tests.e2e.recording import understudy
from tests.kernel.conftest import TIMEOUT, Capturing
from tests.kernel.counting import Client, CountingServer

pytestmark = pytest.mark.kernel


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def scrape(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_metrics_agree_with_the_server(capturing: Callable[..., Capturing], authority: Authority) -> None:
    port = free_port()
    with CountingServer(authority.context) as server:
        capture, client = capturing("--metrics", f"127.0.0.1:{port}"), Client(server.port, authority.ca)
        assert scrape(port)["understudy_agent_captures"] == 0
        capture.start(agent_pb2.Target(launched_pid=client.process.pid))
        client.say("")
        client.hear()
        client.say("5 70000")
        assert client.hear() == "2"
        found = scrape(port)
        assert found["understudy_agent_captures"] == 1
        assert found["understudy_agent_seen_bytes_total"] == found["understudy_agent_captured_bytes_total"] == server.bytes
        assert found['understudy_agent_lost_bytes_total{reason="ring_full"}'] == 0
        client.end()
        capture.stop()
        assert scrape(port)["understudy_agent_captures"] == 0


def test_a_capture_ends_with_its_client(capturing: Callable[..., Capturing]) -> None:
    capture = capturing()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        news = capture.service.Capture(
            agent_pb2.CaptureRequest(capture_id="leased", targets=[agent_pb2.Target(launched_pid=process.pid)])
        )
        cgroup = Path(next(news).ready.cgroup)
        assert workloads.cgroup_of(process.pid).endswith(cgroup.name)
        news.cancel()

        def ended() -> bool:
            try:
                capture.service.StopCapture(agent_pb2.StopCaptureRequest(capture_id="leased"))
            except grpc.RpcError as error:
                return bool(error.code() is grpc.StatusCode.NOT_FOUND)
            return False

        eventually(ended)
        assert process.poll() is None
        assert process.stdin
        process.stdin.close()
    eventually(lambda: not cgroup.exists())


@pytest.mark.parametrize(
    ("target", "code"),
    [
        (agent_pb2.Target(pid=2**22 + 5), grpc.StatusCode.NOT_FOUND),
        (agent_pb2.Target(cgroup="/no/such/cgroup"), grpc.StatusCode.NOT_FOUND),
        (agent_pb2.Target(container_id="f" * 64), grpc.StatusCode.NOT_FOUND),
        (agent_pb2.Target(container_id="by-name"), grpc.StatusCode.INVALID_ARGUMENT),
        (agent_pb2.Target(), grpc.StatusCode.INVALID_ARGUMENT),
        (agent_pb2.Target(cgroup="/"), grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
def test_what_is_not_there_cannot_be_captured(
    capturing: Callable[..., Capturing], target: agent_pb2.Target, code: grpc.StatusCode
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        capturing().start(target)
    assert caught.value.code() is code


def test_a_capture_by_cgroup(capturing: Callable[..., Capturing], authority: Authority) -> None:
    mount = workloads.cgroup_mount()
    assert mount is not None
    cgroup = workloads.Cgroup.for_launched(mount, f"by-cgroup-{id(authority)}", os.getpid())
    try:
        with CountingServer(authority.context) as server:
            capture, client = capturing(), Client(server.port, authority.ca)
            cgroup.adopt(client.process.pid)
            client.say("")
            client.hear()
            client.say("5 6")
            client.hear()
            before = server.bytes
            capture.start(agent_pb2.Target(cgroup=cgroup.path.name))
            client.say("1000")
            client.end()
            ledger = capture.stop()
            assert server.bytes - before == ledger.seen == ledger.delivered
    finally:
        eventually(cgroup.remove)


def test_a_second_capture_does_not_take_from_the_first(capturing: Callable[..., Capturing], authority: Authority) -> None:
    """Neither by its cgroup nor by its process; and the first has everything."""
    with CountingServer(authority.context) as server:
        capture, client = capturing(), Client(server.port, authority.ca)
        cgroup = capture.start(agent_pb2.Target(launched_pid=client.process.pid)).cgroup
        client.say("")
        client.hear()
        for name, target in (
            ("by-cgroup", agent_pb2.Target(cgroup=cgroup)),
            ("by-number", agent_pb2.Target(pid=client.process.pid)),
            ("launched", agent_pb2.Target(launched_pid=client.process.pid)),
        ):
            capture.record(name)
            request = agent_pb2.CaptureRequest(capture_id=name, targets=[target])
            with pytest.raises(grpc.RpcError, match=f"capture '{capture.name}' takes") as caught:
                next(capture.service.Capture(request))
            assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        client.say("1000")
        client.hear()
        client.end()
        ledger = capture.stop()
        assert ledger.seen == ledger.delivered == server.bytes


def test_a_process_whose_name_is_no_text_is_captured_as_any_other(
    capturing: Callable[..., Capturing], authority: Authority, tmp_path: Path
) -> None:
    """It has the name of the link by which it is executed."""
    python = tmp_path / os.fsdecode(b"\xff\xfe")
    python.symlink_to(os.path.realpath(sys.executable))
    with CountingServer(authority.context) as server:
        capture, client = capturing(), Client(server.port, authority.ca, str(python))
        capture.start(agent_pb2.Target(pid=client.process.pid))
        client.say("")
        client.hear()
        client.say("1000")
        client.hear()
        ledger = capture.stop()  # while it runs: of one that is gone the name is not asked for
        client.end()
        assert ledger.delivered == server.bytes
        with capture.snapshot() as snapshot:
            assert [(pair.path, pair.complete) for pair in snapshot.pairs()] == [("/1", True)]


@pytest.mark.timeout(60)
def test_an_agent_without_its_engine_ends(capturing: Callable[..., Capturing], authority: Authority, tmp_path: Path) -> None:
    """With more said than it may keep, and more in the ring."""
    capture = capturing("--engine", f"unix:{tmp_path}/nobody.sock")
    with CountingServer(authority.context) as server:
        client = Client(server.port, authority.ca)
        capture.start(agent_pb2.Target(launched_pid=client.process.pid))
        client.say("")
        client.hear()
        client.say(" ".join(["1000000"] * 60))
        client.hear()
        capture.agent.terminate()
        client.end()
        assert capture.agent.wait(30) == 0


def test_doctor_names_what_it_can_see_and_what_not(authority: Authority) -> None:
    """A process with OpenSSL is capturable; one with a BoringSSL without symbols is listed with the reason."""
    program = "import ssl, grpc; print('ready', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        done = understudy("doctor", "--json")
        process.communicate("\n")
    assert done.status == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["ready"]
    assert {check["name"] for check in said["checks"]} >= {"BTF", "cgroup v2", "libbpf", "privilege"}
    found = next(each for each in said["processes"] if each["workload"]["pid"] == process.pid)
    assert {library["kind"]: library["capturable"] for library in found["libraries"]} == {
        "OpenSSL family": True,
        "BoringSSL": False,
    }


def test_doctor_without_root_tells_what_is_missing() -> None:
    # One capability stays: this clone may lie in a folder that only its owner may enter.
    done = understudy("doctor", before=["setpriv", "--bounding-set=-all,+dac_read_search", "--inh-caps=-all"])
    assert done.status == 1
    assert b"CAP_BPF" in done.stdout
    assert b"run as root" in done.stdout
