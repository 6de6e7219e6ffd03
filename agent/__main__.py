"""The agent's process: `understudy-agent`."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import shutil
import signal
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import click
import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry, start_http_server
from understudy.v1 import agent_pb2_grpc, capture_pb2

from agent import describe, streams, window, wire, workloads
from agent.capture import Captures, Ledger
from agent.coredumps import forbid_core_dumps
from agent.examiner import Examiner
from agent.failures import Failures, end_when_a_thread_dies
from agent.kernel.probes import RING_BYTES, CoreProbes
from agent.metrics import AgentCollector
from agent.service import AgentService, ledger_message
from agent.takeover import helper
from agent.takeover.redirect import Redirects
from agent.uplink import Uplink

CAPTURES_AT_ONCE = 32
"""Captures and redirections: each keeps a thread for as long as it is open."""

CALLS_AT_ONCE = CAPTURES_AT_ONCE + 16
"""Threads, made as they are needed. However many captures are open, some are left for calls that end by themselves."""


def _listen(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if not value.startswith("unix:"):
        raise click.BadParameter("a unix socket only, as unix:PATH: by a port, everybody on this machine could ask for captures")
    return value


def _ring_bytes(_context: click.Context, _parameter: click.Parameter, value: int) -> int:
    if value < 65536 or value & (value - 1):
        raise click.BadParameter("a power of two, at least 65536")
    return value


@click.command()
@click.option(
    "--listen",
    default="unix:/run/understudy/agent.sock",
    show_default=True,
    callback=_listen,
    help="Where AgentService is served: unix:PATH.",
)
@click.option("--engine", default="", help="Address of the engine; without one nothing can be captured.")
@click.option("--metrics", default="", help="ADDRESS:PORT of /metrics; not served unless given.")
@click.option(
    "--ring-bytes", default=RING_BYTES, show_default=True, callback=_ring_bytes, help="Size of the ring of events: kernel memory."
)
@click.option(
    "--probe-filtered",
    is_flag=True,
    help="Probe libraries that processes under a seccomp filter use, too, on kernels (6.11 to 6.13) on which that may end them.",
)
@click.option("--lease", default="", help="End when standard input ends, and remove this folder: for a parent that may die.")
def main(listen: str, engine: str, metrics: str, ring_bytes: int, probe_filtered: bool, lease: str) -> None:
    """Capture what workloads of this node say, send it to an engine, and take over what they call."""
    end_when_a_thread_dies()
    forbid_core_dumps()
    # Each file that is probed takes descriptors, and each opening that is held.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    for check in (describe.pid_namespace_check(), describe.seccomp_check(platform.release())):
        if not check.ok:
            click.echo(f"{check.name}: {check.detail}; {check.remedy}", err=True)
    server, captures, redirects, uplink = build(listen, engine, ring_bytes, probe_filtered)
    if metrics:
        host, _, port = metrics.rpartition(":")
        registry = CollectorRegistry()
        registry.register(AgentCollector(captures, uplink))
        start_http_server(int(port), host.strip("[]") or "127.0.0.1", registry)
    server.start()
    if lease:
        threading.Thread(target=_guard, args=(lease,), name="guard", daemon=True).start()
        threading.Thread(target=_wait_for_end_of_input, args=(stop,), daemon=True).start()
    stop.wait()
    captures.stop_all()
    redirects.stop_all()
    server.stop(1).wait()
    if uplink:
        uplink.stop()
    if lease:  # the guard removes the cgroups of what still runs, once it has ended
        shutil.rmtree(lease, ignore_errors=True)
    else:
        captures.wait_for_cgroups()


def build(
    listen: str, engine: str, ring_bytes: int, probe_filtered: bool
) -> tuple[grpc.Server, Captures, Redirects, Uplink | None]:
    """Put the agent together; nothing is in the kernel before its first capture or takeover."""
    known: dict[streams.Process, workloads.Workload] = {}

    def look_up(process: streams.Process, command: str) -> workloads.Workload:
        if process not in known:
            if len(known) > 4096:  # processes that opened streams; asked for again when they come back
                known.clear()
            known[process] = workloads.look_up(process.pid, process.started, command)
        return known[process]

    def encode(item: window.Item) -> capture_pb2.CaptureEvent:
        if isinstance(item, window.Marker) and isinstance(item.ended, Ledger):
            item = window.Marker(item.capture, ledger_message(item.ended))
        return encoder.event(item)

    failures, examiner = Failures(), Examiner()
    uplink = Uplink(engine, uuid.uuid4().hex, encode, failures) if engine else None
    captures = Captures(lambda: CoreProbes(ring_bytes, probe_filtered=probe_filtered), uplink, examiner, failures)
    redirects = Redirects()
    encoder = wire.Encoder(time.time_ns() - time.monotonic_ns(), platform.node(), look_up, captures.name_of)
    server = grpc.server(ThreadPoolExecutor(CALLS_AT_ONCE, thread_name_prefix="rpc"))
    service = AgentService(captures, redirects, examiner, CAPTURES_AT_ONCE)
    agent_pb2_grpc.add_AgentServiceServicer_to_server(service, server)
    state = health.HealthServicer()
    state.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(state, server)
    old_mask = os.umask(0o177)  # a unix socket is for its owner alone
    try:
        if not server.add_insecure_port(listen):
            raise click.ClickException(f"cannot listen on {listen}")
    except RuntimeError as error:
        raise click.ClickException(f"cannot listen on {listen}: {error}") from error
    finally:
        os.umask(old_mask)
    if uplink:
        uplink.start()
    return server, captures, redirects, uplink


def _guard(folder: str) -> None:
    """Have somebody who tidies up should this process and its client be killed, and another where they are killed first."""
    mount = workloads.cgroup_mount()
    process = os.pidfd_open(os.getpid())
    arguments = (str(process), str(sys.stdin.fileno()), folder, str(mount or ""), f"{workloads.CGROUP_PREFIX}{os.getpid()}-")
    for _ in range(helper.STARTS_MAX):
        helper.start("guard", *arguments, keep=[process, sys.stdin.fileno()]).wait()


def _wait_for_end_of_input(stop: threading.Event) -> None:
    with contextlib.suppress(OSError):
        while os.read(sys.stdin.fileno(), 4096):
            pass
    stop.set()


if __name__ == "__main__":
    main()
