"""`understudy record`: a command's traffic, or that of what runs already, into a snapshot."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import grpc
from rich.console import Console
from understudy.v1 import agent_pb2, capture_pb2, control_pb2

from engine.cli import OWN_FAILURE, Failure, launch
from engine.cli.caller import Caller, caller, name_of
from engine.cli.parts import Parts
from engine.cli.render import render_snapshot
from engine.snapshot import Snapshot, SnapshotError

PROGRESS_SECONDS = 0.5
SETTLE_SECONDS = 60.0
"""How long the agent may take to hand over what is left."""

ENGINE_RESTARTS = 3
"""An engine that dies oftener will not live."""


@dataclass(frozen=True, slots=True)
class Aim:
    """What to record: exactly one of these."""

    command: tuple[str, ...] = ()
    pid: int = 0
    container: str = ""
    cgroup: str = ""

    def __post_init__(self) -> None:
        if sum(map(bool, (self.command, self.pid, self.container, self.cgroup))) != 1:
            raise Failure("say what to record: a command after --, or one of --pid, --container and --cgroup")

    def target(self, launched: int) -> agent_pb2.Target:
        """As the agent takes it."""
        if self.command:
            return agent_pb2.Target(launched_pid=launched)
        if self.pid:
            return agent_pb2.Target(pid=self.pid)
        if self.container:
            return agent_pb2.Target(container_id=self.container)
        return agent_pb2.Target(cgroup=self.cgroup)

    def default_name(self) -> str:
        """What people would call it."""
        if self.command:
            return name_of(self.command)
        if self.pid:
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{self.pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
                return name_of([os.fsdecode(word) for word in words])
            return str(self.pid)
        return self.container[:12] or Path(self.cgroup).name


@click.command(name="record")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="The snapshot.  [default: ./NAME.snapshot]")
@click.option("--name", help="Name of the service.  [default: that of CMD]")
@click.option("--pid", type=int, default=0, help="Record a running process, and what it starts, until Ctrl-C.")
@click.option("--container", default="", help="Record a running container, by its id, until Ctrl-C.")
@click.option("--cgroup", default="", help="Record what runs in a cgroup, until Ctrl-C.")
@click.argument("cmd", nargs=-1, type=click.UNPROCESSED, metavar="[-- CMD...]")
def command(output: Path | None, name: str | None, pid: int, container: str, cgroup: str, cmd: tuple[str, ...]) -> None:
    """Capture the traffic of CMD, from its first request until it ends, into a snapshot.

    TLS is read where the program encrypts and decrypts: no proxy, no certificate, no change to the program. CMD runs as you, also
    under sudo. Exit status is that of CMD; 125 where recording failed.
    """
    aim = Aim(cmd, pid, container, cgroup)
    if os.geteuid() != 0:
        raise Failure(f"recording needs root: run `sudo {_as_typed()}`")
    service = name or aim.default_name()
    path = (output or Path(f"{service}.snapshot")).absolute()
    sys.exit(Recorder(aim, service, path, caller()).run())


def _as_typed() -> str:
    """The command line, with the program's full path: sudo looks elsewhere."""
    return " ".join([str(Path(sys.argv[0]).absolute()), *sys.argv[1:]])


def _show_nothing() -> None:
    """Where there is no terminal to show progress on."""


class Launcher:
    """The command, waiting to start: see engine/cli/launch.py."""

    def __init__(self, program: str, command: Sequence[str], who: Caller, *, own_mounts: bool = False) -> None:
        """With `own_mounts`, in a mount namespace of its own; Failure where that is not possible."""
        go_read, self._go = os.pipe()
        self._error, error_write = os.pipe()
        arguments = [str(go_read), str(error_write), str(who.uid), str(who.gid), ",".join(map(str, who.groups))]
        self._program = program
        self._environment = who.environment
        options = [launch.OWN_MOUNTS] if own_mounts else []
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", launch.__file__, *options, *arguments, program, *command],
            pass_fds=(go_read, error_write),
        )
        os.close(go_read)
        os.close(error_write)
        if own_mounts and (code := os.read(self._error, 16)) != launch.MOUNTS_READY:
            self.abandon()
            raise Failure(f"no mounts of its own for {program}: {os.strerror(int(code or 0))}")

    def go(self, variables: Mapping[str, str] | None = None) -> None:
        """Let it start, with these variables over its own; Failure where it cannot."""
        environment = self._environment | {os.fsencode(key): os.fsencode(value) for key, value in (variables or {}).items()}
        os.write(self._go, b"\0".join(key + b"=" + value for key, value in environment.items()) or b"\0")
        os.close(self._go)
        code = os.read(self._error, 16)  # ends when the command has taken over
        os.close(self._error)
        if code:
            self.process.wait()
            raise Failure(f"{self._program} cannot be started: {os.strerror(int(code))}")

    def abandon(self) -> None:
        """End it before it has started."""
        with contextlib.suppress(OSError):
            os.close(self._go)
        self.process.wait()


class Recorder:
    """One recording, from the first process to the summary."""

    def __init__(self, aim: Aim, service: str, path: Path, who: Caller) -> None:
        self._aim, self._service, self._path, self._who = aim, service, path, who
        self._console = Console(stderr=True, highlight=False)
        self._capture_id = uuid.uuid4().hex
        self._cgroup = ""
        self._stop = threading.Event()
        self._troubles: list[str] = []
        self._engine_restarts = 0

    def run(self) -> int:
        """Record; returns the exit status."""
        program = self._program()
        if not self._path.parent.is_dir():
            raise Failure(f"there is no folder {self._path.parent}: make it, or choose another with -o")
        parts = Parts(self._who, self._path.parent)
        try:
            return self._record(parts, program)
        finally:
            parts.stop()
            self._remove_cgroup()

    def _program(self) -> str:
        if not self._aim.command:
            return ""
        program = self._who.find(self._aim.command[0])
        if program is None:
            raise Failure(f"{self._aim.command[0]}: command not found")
        return program

    def _record(self, parts: Parts, program: str) -> int:
        self._create(parts, resume=False)
        launcher = Launcher(program, self._aim.command, self._who) if program else None
        try:
            news = parts.agent_service.Capture(
                agent_pb2.CaptureRequest(
                    capture_id=self._capture_id,
                    targets=[self._aim.target(launcher.process.pid if launcher else 0)],
                )
            )
            self._wait_until_ready(news)
            parts.agent.when_it_ends(self._let_go_on)
            threading.Thread(target=self._hear, args=(news,), name="news", daemon=True).start()
            if launcher:
                launcher.go()
            self._say(f"recording {self._service} to {self._path.name}")
        except BaseException:
            if launcher:
                launcher.abandon()
            with contextlib.suppress(grpc.RpcError, Failure):
                self._finish(parts)
                self._path.unlink(missing_ok=True)
            raise
        status = self._watch(parts, launcher)
        return self._conclude(parts, status)

    def _create(self, parts: Parts, *, resume: bool) -> None:
        request = control_pb2.CreateSnapshotRequest(
            name=self._path.name, service=self._service, capture_id=self._capture_id, resume=resume
        )
        try:
            parts.control_service.CreateSnapshot(request)
        except grpc.RpcError as error:
            raise Failure(f"the snapshot cannot be written: {error.details()}") from error

    def _wait_until_ready(self, news: Iterator[agent_pb2.CaptureResponse]) -> None:
        try:
            ready = next(news).ready
        except grpc.RpcError as error:
            raise Failure(f"nothing can be captured: {error.details()}") from error
        self._cgroup = ready.cgroup

    def _hear(self, news: Iterator[agent_pb2.CaptureResponse]) -> None:
        """Tell what cannot be captured, as it shows."""
        with contextlib.suppress(grpc.RpcError):
            for each in news:
                if each.WhichOneof("news") == "not_capturable":
                    process, library = each.not_capturable.workload, each.not_capturable.library
                    self._say(
                        f"{process.command} (process {process.pid}): its TLS is not captured: {library.kind}: {library.reason}"
                    )

    def _say(self, text: str) -> None:
        self._console.print(f"understudy: {text}", markup=False, soft_wrap=True)

    def _let_go_on(self) -> None:
        """The agent is gone, and with it the probes; whatever it held goes on."""
        folder = Path(self._cgroup) if self._cgroup else None
        for _ in range(3):
            if folder:
                for procs in folder.rglob("cgroup.procs"):
                    with contextlib.suppress(OSError):
                        for pid in procs.read_text().split():
                            os.kill(int(pid), signal.SIGCONT)
            time.sleep(0.05)

    def _watch(self, parts: Parts, launcher: Launcher | None) -> int:
        """Wait for the end, with an eye on our own parts; returns the command's status."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda received, _frame: self._on_signal(received, launcher))
        agent_was_alive = True
        with self._progress(parts) as show:
            while True:
                status = self._status(launcher)
                if status is not None:
                    return status
                if agent_was_alive and not parts.agent.alive:
                    agent_was_alive = False
                    self._trouble("the agent ended: nothing more is captured")
                    if launcher is None:
                        return 0
                if not parts.engine.alive:
                    self._restart_engine(parts)
                show()

    def _on_signal(self, number: int, launcher: Launcher | None) -> None:
        """Ctrl-C reaches the command by itself, for it is of the terminal's foreground; other signals are passed on."""
        if launcher is None:
            self._stop.set()
        elif number != signal.SIGINT:
            with contextlib.suppress(ProcessLookupError):
                launcher.process.send_signal(number)

    def _status(self, launcher: Launcher | None) -> int | None:
        """The exit status once everything has ended; waits a little."""
        if launcher is None:
            gone = self._stop.wait(0.1) or (self._aim.pid and not Path(f"/proc/{self._aim.pid}").exists())
            return 0 if gone else None
        try:
            code = launcher.process.wait(0.1)
        except subprocess.TimeoutExpired:
            return None
        return code if code >= 0 else 128 - code

    def _restart_engine(self, parts: Parts) -> None:
        if self._engine_restarts >= ENGINE_RESTARTS:
            return
        self._engine_restarts += 1
        try:
            parts.restart_engine()
            self._create(parts, resume=True)
            self._say("the engine ended and was started again; the agent sends again what was not kept")
        except Failure as failure:
            self._trouble(f"the engine ended: {failure.message}")

    def _trouble(self, text: str) -> None:
        self._troubles.append(text)
        self._say(text)

    @contextlib.contextmanager
    def _progress(self, parts: Parts) -> Iterator[Callable[[], None]]:
        """Show how far it is, on a terminal only."""
        if not self._console.is_terminal or self._aim.command:  # the terminal is the command's
            yield _show_nothing
            return
        last = 0.0
        with self._console.status("recording; Ctrl-C ends it") as line:

            def show() -> None:
                nonlocal last
                if time.monotonic() - last < PROGRESS_SECONDS:
                    return
                last = time.monotonic()
                with contextlib.suppress(grpc.RpcError):
                    got = parts.control_service.GetSnapshot(control_pb2.GetSnapshotRequest(name=self._path.name), timeout=1)
                    line.update(f"recording; {got.snapshot.pairs} pairs; Ctrl-C ends it")

            yield show

    def _conclude(self, parts: Parts, status: int) -> int:
        """Settle the ledger, finish the snapshot, print the summary."""
        self._settle(parts)
        if not parts.engine.alive:
            self._restart_engine(parts)
        try:
            self._finish(parts)
        except grpc.RpcError as error:
            raise Failure(
                f"the snapshot could not be finished: {error.details()}; what arrived is in {self._path}.partial"
            ) from error
        self._summary()
        return OWN_FAILURE if self._troubles else status

    def _settle(self, parts: Parts) -> capture_pb2.Ledger | None:
        if not parts.agent.alive:
            return None
        request = agent_pb2.StopCaptureRequest(capture_id=self._capture_id)
        try:
            stopped = parts.agent_service.StopCapture(request, timeout=SETTLE_SECONDS)
        except grpc.RpcError as error:
            self._trouble(f"the agent could not settle its account: {error.details()}")
            return None
        if not stopped.delivered:
            self._trouble("the engine did not take everything in time")
        return stopped.ledger

    def _finish(self, parts: Parts) -> None:
        parts.control_service.FinishSnapshot(control_pb2.FinishSnapshotRequest(name=self._path.name))

    def _summary(self) -> None:
        try:
            with Snapshot(self._path) as snapshot:
                render_snapshot(self._console, snapshot)
        except SnapshotError as error:
            raise Failure(str(error)) from error
        self._say(f"wrote {self._path}; look into it with `understudy inspect {self._path.name}`")

    def _remove_cgroup(self) -> None:
        """The agent does so; where it was killed, it falls to us."""
        if not self._cgroup:
            return
        folder = Path(self._cgroup)
        with contextlib.suppress(OSError):
            for inner in sorted((each for each in folder.rglob("*") if each.is_dir()), reverse=True):
                inner.rmdir()
            folder.rmdir()
