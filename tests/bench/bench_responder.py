"""The responder beside nginx's static answer and mitmdump's replay: requests per CPU-second of the server, in one run.

Run `make bench`, which installs them, or `python -m tests.bench.bench_responder`. All are asked by wrk over 32 connections, for
the same answers. They get a copy of libssl: probes that a recorder has on the system's one would cost more than what is measured.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from engine.responder.authority import Authority
from engine.snapshot import SnapshotWriter
from tests.engine.making import Exchange, pairs_of

SECONDS = 4
COLD_SECONDS = 2
WARM_SECONDS = 20
"""Long enough to ask for each of 100,000 pairs on a quiet machine; on others it is doubled."""
CONNECTIONS = 32
BATCH = 1000
START_WITHIN = 30.0
HOST = "bench.example"
HEADERS = {"Host": HOST, "Content-Type": "application/json"}
PAD = "y" * 340
ROOT = Path(__file__).parents[2]
MITMDUMP = ROOT / "build" / "mitmproxy" / "bin" / "mitmdump"

LUA = """
local n, i, asked = %d, 0, {}
local head = "POST /v1/orders HTTP/1.1\\r\\nHost: %s\\r\\nContent-Type: application/json\\r\\nContent-Length: %d\\r\\n\\r\\n"
init = function()
  for k = 0, n - 1 do asked[k] = head .. string.format('{"customer":"cus_%%08d","pad":"%s"}', k) end
end
request = function() i = (i + 1) %% n; return asked[i] end
"""
"""wrk's own way of writing a request puts the headers in another order in each run."""
NGINX = """
daemon off; worker_processes 1; pid %(folder)s/nginx.pid; error_log stderr crit;
events { worker_connections 1024; }
http { access_log off; keepalive_requests 1000000000; client_body_temp_path %(folder)s/t;
  server { listen 127.0.0.1:%(plain)d; listen 127.0.0.1:%(tls)d ssl; ssl_certificate %(folder)s/leaf.pem;
    ssl_certificate_key %(folder)s/leaf.pem; default_type application/json; location / { return 200 '%(answer)s'; } } }
"""


def request_body(n: int) -> bytes:
    return b'{"customer":"cus_%08d","pad":"%s"}' % (n, PAD.encode())


def answer_body(n: int) -> bytes:
    return b'{"id":"or_%08d","status":"created","lines":"%s"}' % (n, b"x" * 740)


@dataclass(frozen=True, slots=True)
class Rate:
    """What came of one run of wrk: requests a second, and per CPU-second of the server."""

    wall: float
    cpu: float


def make_snapshot(path: Path, pairs: int) -> Path:
    """Write pairs that differ in body and answer."""
    headers = (("Content-Type", "application/json"),)
    [first] = pairs_of(Exchange("POST /v1/orders", answer_body(0), headers, request_body(0), host=HOST, port=80, tls=False))
    assert first.response
    writer = SnapshotWriter.create(path, service="bench", capture_id="c", created=0, tool_version="0")
    for start in range(0, pairs, BATCH):
        writer.add(
            replace(
                first,
                id=f"{n:016x}",
                time=first.time + n,
                request=replace(first.request, body=request_body(n)),
                response=replace(first.response, body=answer_body(n)),
                signature={},
            )
            for n in range(start, min(start + BATCH, pairs))
        )
    writer.finish()
    return path


def private_libraries(folder: Path) -> dict[str, str]:
    """Environment with a libssl of our own."""
    listed = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=True, env={"PATH": "/sbin:/usr/sbin:/bin"})
    library = next(line.split()[-1] for line in listed.stdout.splitlines() if "libssl.so.3" in line)
    (folder / "lib").mkdir()
    shutil.copy(library, folder / "lib" / "libssl.so.3")
    paths = os.pathsep.join([str(ROOT), str(ROOT / "proto")])
    return {**os.environ, "LD_LIBRARY_PATH": str(folder / "lib"), "PYTHONPATH": paths}


def wrk(server: psutil.Process, url: str, pairs: int, folder: Path, seconds: int = SECONDS) -> Rate:
    """Ask for so long."""
    script = folder / f"{pairs}.lua"
    script.write_text(LUA % (pairs, HOST, len(request_body(0)), PAD))
    before = cpu_seconds(server)
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(script), url]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    spent = cpu_seconds(server) - before
    if "Non-2xx" in told or "Socket errors" in told:
        print(told)
    requests = int(told.split(" requests in")[0].split()[-1])
    return Rate(requests / seconds, requests / max(spent, 0.01))


def cpu_seconds(process: psutil.Process) -> float:
    """Of a process and its children."""
    times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(port: int) -> None:
    deadline = time.monotonic() + START_WITHIN
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.005)
    raise TimeoutError(f"nobody listens on port {port}")


@contextmanager
def responder(snapshot: Path, folder: Path, environment: dict[str, str]) -> Iterator[tuple[psutil.Process, int]]:
    command = [sys.executable, "-m", "tests.bench._responder", str(snapshot), str(folder / "state")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stdout
        assert process.stdin
        yield psutil.Process(process.pid), int(process.stdout.readline())
        process.stdin.close()


@contextmanager
def running(command: list[str], port: int, environment: dict[str, str]) -> Iterator[psutil.Process]:
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            wait_for(port)
            yield psutil.Process(process.pid)
        finally:
            process.terminate()


@contextmanager
def nginx(folder: Path, environment: dict[str, str]) -> Iterator[tuple[psutil.Process, int, int]]:
    plain, tls = free_port(), free_port()
    (folder / "leaf.pem").write_bytes(Authority(folder / "state").leaf(HOST))
    values = {"folder": folder, "plain": plain, "tls": tls, "answer": answer_body(0).decode()}
    (folder / "nginx.conf").write_text(NGINX % values)
    program = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin") or "nginx"
    with running([program, "-c", str(folder / "nginx.conf"), "-p", str(folder)], plain, environment) as process:
        yield process, plain, tls


@contextmanager
def mitmdump(program: str, pairs: int, folder: Path, environment: dict[str, str]) -> Iterator[tuple[psutil.Process, int]]:
    """mitmproxy's replay of the same pairs, set to answer each as often as it is asked."""
    flows = folder / "flows"
    lines = "".join(
        json.dumps([f"http://{HOST}/v1/orders", HEADERS, request_body(n).decode(), answer_body(n).decode()]) + "\n"
        for n in range(pairs)
    )
    python = str(Path(program).with_name("python"))
    subprocess.run([python, str(Path(__file__).with_name("_flows.py")), str(flows)], input=lines, text=True, check=True)
    port = free_port()
    options = ["server_replay_reuse=true", "server_replay_extra=404", "connection_strategy=lazy", f"confdir={folder / 'mitm'}"]
    command = [program, "-q", "--mode", f"reverse:http://{HOST}", "--listen-host", "127.0.0.1", "--listen-port", str(port)]
    command += ["--server-replay", str(flows), *[part for option in options for part in ("--set", option)]]
    with running(command, port, {**environment, "PYTHONPATH": ""}) as process:
        yield process, port


def start_to_first_answer(snapshot: Path, folder: Path, environment: dict[str, str]) -> float:
    """Seconds from `understudy mock` to an answer: processes, services, index and all."""
    port = free_port()
    command = [sys.executable, "-c", "from engine.cli import main; main()", "mock", str(snapshot), "--listen", f"127.0.0.1:{port}"]
    started = time.monotonic()
    with subprocess.Popen(command, env={**environment, "XDG_DATA_HOME": str(folder)}, stderr=subprocess.DEVNULL) as process:
        wait_for(port)
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("POST", "/v1/orders", request_body(7), HEADERS)
        answer = connection.getresponse()
        took = time.monotonic() - started
        assert (answer.status, answer.read()) == (200, answer_body(7))
        connection.close()
        process.terminate()
    return took


def show(name: str, rate: Rate, beside: Rate | None = None, aim: str = "") -> None:
    ratio = f"{rate.cpu / beside.cpu:10.2f}  {aim}" if beside else ""
    print(f"{name:44}{rate.wall:10,.0f} a second{rate.cpu:10,.0f} a CPU-second{ratio}", flush=True)


def compare_servers(program: str | None, folder: Path, environment: dict[str, str]) -> None:
    """Plain and TLS, with 1,000 pairs."""
    with nginx(folder, environment) as (process, plain_port, tls_port):
        static = wrk(process, f"http://127.0.0.1:{plain_port}", 1000, folder)
        static_tls = wrk(process, f"https://127.0.0.1:{tls_port}", 1000, folder)
    show("nginx, one static answer", static)
    show("nginx, one static answer, TLS", static_tls)
    replayed = None
    if program:
        with mitmdump(program, 1000, folder, environment) as (process, port):
            replayed = wrk(process, f"http://127.0.0.1:{port}", 1000, folder)
        show("mitmdump --server-replay, 1,000 pairs", replayed)
    snapshot = make_snapshot(folder / "1000.snapshot", 1000)
    with responder(snapshot, folder, environment) as (process, port):
        cold = wrk(process, f"http://127.0.0.1:{port}", 1000, folder, COLD_SECONDS)
        warm = wrk(process, f"http://127.0.0.1:{port}", 1000, folder)
        warm_tls = wrk(process, f"https://127.0.0.1:{port}", 1000, folder)
    show("responder, 1,000 pairs, from the first request", cold)
    show("responder, 1,000 pairs, beside nginx", warm, static, "aim 0.4")
    if replayed:
        show("the same, beside mitmdump", warm, replayed, "aim 40")
    show("responder, 1,000 pairs, TLS, beside nginx", warm_tls, static_tls, "aim 0.25")


def compare_sizes(folder: Path, environment: dict[str, str]) -> None:
    """10 pairs and 100,000, each after every pair was asked for."""
    rates: list[Rate] = []
    for pairs, warm_up in ((10, COLD_SECONDS), (100_000, WARM_SECONDS)):
        with responder(make_snapshot(folder / f"{pairs}.snapshot", pairs), folder, environment) as (process, port):
            url = f"http://127.0.0.1:{port}"
            first = wrk(process, url, pairs, folder, warm_up)
            asked = first.wall * warm_up
            while asked < pairs * 1.1:  # each run of wrk begins with the first pair
                warm_up *= 2
                asked = wrk(process, url, pairs, folder, warm_up).wall * warm_up
            rates.append(wrk(process, url, pairs, folder))
            memory = process.memory_info().rss // 1024**2
        show(f"responder, {pairs:,} pairs, at first", first)
        show(f"responder, {pairs:,} pairs, {memory} MiB", rates[-1], rates[0], "aim 0.9")


def main() -> None:
    """Measure everything."""
    program = str(MITMDUMP) if MITMDUMP.exists() else None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = private_libraries(folder)
        compare_servers(program, folder, environment)
        compare_sizes(folder, environment)
        took = min(
            start_to_first_answer(make_snapshot(folder / f"start{n}.snapshot", 10_000), folder, environment) for n in range(3)
        )
        print(f"start to first answer, 10,000 pairs: {took:.2f} s  (aim 1)")


if __name__ == "__main__":
    main()
