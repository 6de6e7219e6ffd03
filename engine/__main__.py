"""The engine's process: `understudy-engine`. It never needs privilege."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from pathlib import Path

import click
import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry, start_http_server
from understudy.v1 import capture_pb2, capture_pb2_grpc, control_pb2, control_pb2_grpc

from engine.calls import OpenCalls
from engine.control import ControlService
from engine.coredumps import forbid_core_dumps
from engine.ingest.service import CaptureService, Recordings
from engine.metrics import EngineCollector
from engine.state import PRIVATE_LOCK, state_folder

UPLOADS_LIMIT = 256
"""Agents at a time: each keeps a thread for as long as it lives, some 100 KiB."""
STREAMS_LIMIT = 32
"""Other streaming calls of one method at a time, such as ListPairs: their clients may read as slowly as they like."""
STREAMING_METHODS = 8
"""Methods besides Upload that stream: ours, and those of health and reflection."""
CALLS_AT_ONCE = UPLOADS_LIMIT + STREAMS_LIMIT * STREAMING_METHODS + 32
"""Threads, made as they are needed. Whatever streams, some are left for calls that answer soon."""
MESSAGE_LIMIT = 16 * 1024 * 1024
"""Bytes of a message: an agent's batches have some 1 MiB."""

_FOLDER = click.Path(file_okay=False, exists=True, path_type=Path)


@click.command()
@click.option("--listen", default="unix:/run/understudy/engine.sock", show_default=True, help="Where the services are served.")
@click.option(
    "--store",
    default=".",
    show_default=True,
    type=_FOLDER,
    help="Folder of the snapshots.",
)
@click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of what belongs to this installation, such as its certificate authority.  [default: ~/.local/share/understudy]",
)
@click.option("--metrics", default="", help="ADDRESS:PORT of /metrics; not served unless given.")
@click.option("--lease-stdin", is_flag=True, help="End when standard input ends: for a parent that may die.")
def main(listen: str, store: Path, state: Path | None, metrics: str, lease_stdin: bool) -> None:
    """Turn captured bytes into snapshots, and stand in for backends."""
    forbid_core_dumps()
    stop, left_alone = threading.Event(), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    check_listen(listen)
    server, recordings = build(listen, store, state)
    if metrics:
        host, _, port = metrics.rpartition(":")
        registry = CollectorRegistry()
        registry.register(EngineCollector(recordings))
        start_http_server(int(port), host.strip("[]") or "127.0.0.1", registry)
    server.start()
    if lease_stdin:
        threading.Thread(target=_wait_for_end_of_input, args=(left_alone, stop), daemon=True).start()
    stop.wait()
    server.stop(1).wait()
    recordings.abandon()
    if left_alone.is_set() and listen.startswith("unix:"):
        _remove_empty_folders(Path(listen.removeprefix("unix:")))


def check_listen(listen: str) -> None:
    """Raise ClickException where others than people of this machine could connect: nothing asks yet who they are."""
    host, _, port = listen.rpartition(":")
    if listen.startswith("unix:") or (port.isdecimal() and _is_loopback(host)):
        return
    raise click.ClickException(
        f"--listen {listen}: there is no TLS yet, so the engine serves this machine only: give unix:PATH, or 127.0.0.1:PORT"
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def build(listen: str, store: Path, state: Path | None = None) -> tuple[grpc.Server, Recordings]:
    """Put the engine together."""
    recordings = Recordings()
    control = ControlService(store, recordings, state or state_folder(os.environ))
    options = [("grpc.max_receive_message_length", MESSAGE_LIMIT)]
    open_calls = OpenCalls({"/understudy.v1.CaptureService/Upload": UPLOADS_LIMIT}, STREAMS_LIMIT)
    threads = ThreadPoolExecutor(CALLS_AT_ONCE, thread_name_prefix="rpc")
    server = grpc.server(threads, options=options, interceptors=[open_calls])
    capture_pb2_grpc.add_CaptureServiceServicer_to_server(CaptureService(recordings), server)
    control_pb2_grpc.add_ControlServiceServicer_to_server(control, server)
    healthy = health.HealthServicer()
    healthy.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    services = [
        file.services_by_name[name].full_name
        for file, name in ((capture_pb2.DESCRIPTOR, "CaptureService"), (control_pb2.DESCRIPTOR, "ControlService"))
    ]
    reflection.enable_server_reflection([*services, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    old_mask = os.umask(0o177)  # a unix socket is for its owner alone
    try:
        if not server.add_insecure_port(listen):
            raise click.ClickException(f"cannot listen on {listen}")
    except RuntimeError as error:
        raise click.ClickException(f"cannot listen on {listen}: {error}") from error
    finally:
        os.umask(old_mask)
    return server, recordings


def _remove_empty_folders(socket: Path) -> None:
    """A parent that was killed cannot remove the private folders that it made for the socket."""
    with contextlib.suppress(OSError):
        socket.parent.rmdir()
        if os.listdir(private := socket.parent.parent) == [PRIVATE_LOCK]:
            (private / PRIVATE_LOCK).unlink()
            private.rmdir()


def _wait_for_end_of_input(*ended: threading.Event) -> None:
    with contextlib.suppress(OSError):
        while os.read(sys.stdin.fileno(), 4096):
            pass
    for event in ended:
        event.set()


if __name__ == "__main__":
    main()
