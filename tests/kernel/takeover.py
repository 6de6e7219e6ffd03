"""A takeover for tests: an agent, a responder and commands, each a process as it is, in a network of choice."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from understudy.v1 import agent_pb2 as pb
from understudy.v1 import agent_pb2_grpc, backend_pb2

from agent.takeover import network
from engine.cli.caller import Caller
from engine.cli.launcher import Launcher
from tests.e2e.programs import environment
from tests.kernel import world

TIMEOUT = 60.0


class Place:
    """Where processes are started: the machine's own network, or that of a process."""

    def __init__(self, pid: int | None = None) -> None:
        self._inside = ThreadPoolExecutor(1)
        if pid:
            self.run(network.enter, pid)

    def start(self, *command: str | Path, **options: Any) -> subprocess.Popen[str]:
        """Start a process there."""
        started: subprocess.Popen[str] = self.run(subprocess.Popen, command, env=environment(), **_PIPES, **options)
        return started

    def run(self, act: Any, *arguments: Any, **options: Any) -> Any:
        """Call something there."""
        return self._inside.submit(act, *arguments, **options).result(TIMEOUT)

    def close(self) -> None:
        """No more."""
        self._inside.shutdown()


class Responder:
    """A process of tests/kernel/answering.py, and what it says it was asked."""

    def __init__(self, place: Place, ca: Path) -> None:
        self.process = place.start(sys.executable, "-m", "tests.kernel.answering", ca)
        assert self.process.stdout
        self.port4, self.port6 = json.loads(self.process.stdout.readline())
        self.ca = ca.read_text()
        self._requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self._requests.put(json.loads(line))

    def next(self) -> dict[str, Any]:
        """The next request."""
        return self._requests.get(timeout=TIMEOUT)

    @property
    def silent(self) -> bool:
        """Whether there was no other."""
        return self._requests.empty()

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()

    def message(self) -> pb.ResponderEndpoint:
        """For the agent."""
        return pb.ResponderEndpoint(pid=self.process.pid, ipv4_port=self.port4, ipv6_port=self.port6)


@dataclass(slots=True)
class Running:
    """A command that was taken over."""

    launcher: Launcher
    ready: pb.RedirectReady
    call: Any
    output: Path
    news: list[pb.RedirectResponse] = field(default_factory=list)
    _hearer: threading.Thread | None = None

    def hear(self) -> None:
        """Take the news until they end."""

        def take() -> None:
            with contextlib.suppress(grpc.RpcError):
                for each in self.call:
                    self.news.append(each)

        self._hearer = threading.Thread(target=take, daemon=True)
        self._hearer.start()

    def said(self) -> Any:
        """What it has printed by its end, and everything that the agent has told."""
        assert self.launcher.process.wait(TIMEOUT) == 0, self.output.read_text()
        self.end()
        return json.loads(self.output.read_text().splitlines()[-1])

    def end(self) -> None:
        """Wait for the end of the news: the agent ends them with the last process."""
        assert self._hearer
        self._hearer.join(TIMEOUT)
        assert not self._hearer.is_alive()

    def told(self, kind: str) -> list[tuple[str, str, int, int]]:
        """News of a kind: name, address, port, protocol."""
        calls = [getattr(each, kind) for each in self.news if each.WhichOneof("news") == kind]
        return [(call.host, call.address, call.port, call.protocol) for call in calls]


class Taking:
    """One agent and one responder, and the commands that are taken over."""

    python = sys.executable

    def __init__(self, folder: Path, place: Place, resolver: str = "") -> None:
        """`resolver` replaces /etc/resolv.conf for the commands."""
        self.folder, self.place, self._resolver = folder, place, resolver
        self._stack = contextlib.ExitStack()
        self.name = uuid.uuid4().hex[:8]
        listen = f"unix:{folder}/{self.name}.sock"
        lease = folder / f"lease-{self.name}"
        lease.mkdir()
        self.agent = place.start(sys.executable, "-m", "agent", "--listen", listen, "--lease", str(lease))
        self._stack.callback(self._end_agent)
        self.responder = Responder(place, folder / f"{self.name}.pem")
        self._stack.callback(self.responder.close)
        self._channel = grpc.insecure_channel(listen)
        grpc.channel_ready_future(self._channel).result(TIMEOUT)
        self.service = agent_pb2_grpc.AgentServiceStub(self._channel)
        self._stack.callback(self._channel.close)

    def _end_agent(self) -> None:
        for pipe in (self.agent.stdin, self.agent.stdout):
            if pipe:
                pipe.close()
        self.agent.wait(TIMEOUT)

    def keep(self, fd: int) -> None:
        """Close this with the rest."""
        self._stack.callback(os.close, fd)

    def close(self) -> None:
        """End everything."""
        self._stack.close()

    def start(
        self,
        *command: str,
        recorded: Sequence[backend_pb2.Backend] = (),
        passed: Sequence[backend_pb2.Backend] = (),
        refused: Sequence[backend_pb2.Backend] = (),
        pass_unrecorded: bool = False,
        keep_departed: bool = False,
        variables: dict[str, str] | None = None,
        stdin: str = "",
        trust_files: Sequence[str] = (),
    ) -> Running:
        """Start a command under takeover. `stdin` is the path of what it reads."""
        number = uuid.uuid4().hex[:8]
        output, errors = self.folder / f"{number}.out", self.folder / f"{number}.err"
        output.touch()
        surroundings = environment(**(variables or {}))
        who = Caller(os.getuid(), os.getgid(), (), {os.fsencode(k): os.fsencode(v) for k, v in surroundings.items()})
        whole = ["sh", "-c", f'exec "$@" >{output} 2>{errors} <{stdin or "/dev/null"}', "sh", *command]
        launcher = self.place.run(Launcher, "/bin/sh", whole, who, own_mounts=True)
        self._stack.callback(launcher.process.wait)
        self._stack.callback(launcher.process.kill)
        if self._resolver:
            self._mount_resolver(launcher.process.pid, number)
        call = self.service.Redirect(
            pb.RedirectRequest(
                redirect_id=number,
                launched_pid=launcher.process.pid,
                responder=self.responder.message(),
                recorded=recorded,
                passed_through=passed,
                refused=refused,
                pass_unrecorded=pass_unrecorded,
                keep_departed=keep_departed,
                ca_pem=self.responder.ca,
                command=pb.Command(arguments=command, folder=os.getcwd(), environment=surroundings, trust_files=trust_files),
            )
        )
        self._stack.callback(call.cancel)
        ready = next(call).ready
        running = Running(launcher, ready, call, output)
        launcher.go(dict(ready.environment))
        running.hear()
        return running

    def _mount_resolver(self, pid: int, number: str) -> None:
        path = self.folder / f"{number}.resolv.conf"
        path.write_text(self._resolver)
        subprocess.run(["nsenter", "-t", str(pid), "-m", "mount", "--bind", path, "/etc/resolv.conf"], check=True)

    def said(self, *arguments: str, **options: Any) -> tuple[Any, Running]:
        """Run `python -m tests.kernel.calling ARGUMENT...` to its end; what it printed."""
        running = self.start(sys.executable, "-m", "tests.kernel.calling", *arguments, **options)
        return running.said(), running


def backend(host: str, port: int = 443, *addresses: str) -> backend_pb2.Backend:
    """A backend."""
    return backend_pb2.Backend(host=host, port=port, addresses=addresses)


_PIPES: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}


@contextlib.contextmanager
def lonely_network() -> Iterator[int]:
    """A network with nothing but the loopback; a process in it."""
    with subprocess.Popen(["unshare", "-n", "sh", "-c", "ip link set lo up && echo && exec cat"], **_PIPES) as holder:
        assert holder.stdin
        assert holder.stdout
        holder.stdout.readline()
        yield holder.pid
        holder.stdin.close()


class World:
    """The process of tests/kernel/world.py, joined to the network of a process."""

    def __init__(self, home: int, place: Place) -> None:
        self._place = place
        whole = ["unshare", "-n", sys.executable, "-m", "tests.kernel.world", str(home)]
        self._process = subprocess.Popen(whole, env=environment(), **_PIPES)
        assert self._process.stdout
        assert self._process.stdout.readline() == "ready\n"

    def ask(self, address: str, port: int) -> bytes:
        """What a server in the network of the process answers to a caller from the world, as soon as it listens."""

        def call() -> bytes:
            deadline = time.monotonic() + TIMEOUT
            while True:
                try:
                    with socket.create_connection((address, port), TIMEOUT) as connection, connection.makefile("rb") as answer:
                        connection.sendall(b"asked")
                        connection.shutdown(socket.SHUT_WR)
                        return answer.read()
                except ConnectionRefusedError:
                    assert time.monotonic() < deadline
                    time.sleep(0.02)

        with contextlib.closing(Place(self._process.pid)) as outside:
            answered: bytes = outside.run(call)
        return answered

    def packets(self) -> list[dict[str, Any]]:
        """What has come by the cable since the last time."""
        self._place.run(_send_marker)
        assert self._process.stdout
        found = []
        while (packet := json.loads(self._process.stdout.readline())) != MARKER:
            found.append(packet)
        return found

    def close(self) -> None:
        """It ends, and the cable with it."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(TIMEOUT)
        self._process.stdout.close()


MARKER = {"protocol": 17, "address": world.GATEWAY, "port": 9}


def _send_marker() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"", (world.GATEWAY, 9))
