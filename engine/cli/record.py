"""`understudy record`: a command's traffic, or that of what runs already, into a snapshot."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import grpc
from understudy.v1 import agent_pb2, control_pb2

from engine.cli import OWN_FAILURE, Failure, as_typed
from engine.cli.caller import Caller, as_text, caller
from engine.cli.capturing import Capturing, awaited
from engine.cli.launcher import Launcher, find_program, on_signals
from engine.cli.naming import name_of, name_of_process
from engine.cli.parts import Parts
from engine.cli.remaining import left_behind
from engine.cli.terminal import console
from engine.cli.text import clean, counted

LOOK_SECONDS = 1.0
"""How soon it shows that a recording cannot be written."""
ENGINE_RESTARTS = 3
"""An engine that dies oftener will not live."""
PROGRESS_PAUSE = 2.0
"""Seconds to the first line of progress of a command; each pause is twice the one before, up to the limit."""
PROGRESS_PAUSE_LIMIT = 64.0


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
            return agent_pb2.Target(container_id=as_text(self.container))
        return agent_pb2.Target(cgroup=as_text(self.cgroup))

    def default_name(self) -> str:
        """What people would call it."""
        if self.command:
            return name_of(self.command)
        if self.pid:
            with contextlib.suppress(OSError):
                return name_of_process(Path(f"/proc/{self.pid}/cmdline").read_bytes()) or str(self.pid)
            return str(self.pid)
        return self.container[:12] or Path(self.cgroup).name


# What follows the first word of CMD is CMD's own, also without `--`.
@click.command(name="record", context_settings={"allow_interspersed_args": False})
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="The snapshot.  [default: ./NAME.snapshot]")
@click.option("--name", help="Name of the service.  [default: that of CMD]")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress while it runs.")
@click.option("--pid", type=click.IntRange(min=1), default=None, help="Record a running process, and what it starts, until Ctrl-C.")
@click.option("--container", default="", help="Record a running container, by its id, until Ctrl-C.")
@click.option("--cgroup", default="", help="Record what runs in a cgroup, until Ctrl-C.")
@click.argument("cmd", nargs=-1, type=click.UNPROCESSED, metavar="[-- CMD...]")
def command(
    output: Path | None, name: str | None, quiet: bool, pid: int | None, container: str, cgroup: str, cmd: tuple[str, ...]
) -> None:
    """Capture the traffic of CMD, from its first request until it ends, into a snapshot.

    TLS is read where the program encrypts and decrypts: no proxy, no certificate, no change to the program. CMD runs as you, also
    under sudo. Signals are for CMD, as long as it runs; then Ctrl-C leaves the recording as it is, unfinished. Exit status is that
    of CMD; 125 where recording failed.
    """
    aim = Aim(cmd, pid or 0, container, cgroup)
    if os.geteuid() != 0:
        raise Failure(f"recording needs root: run `sudo {as_typed()}`")
    service = as_text(name or aim.default_name())
    path = (output or Path(f"{service.replace('/', '-')}.snapshot")).absolute()
    if path.name != as_text(path.name):
        raise Failure(f"the name of the snapshot is no UTF-8 text: {as_text(path.name)}: choose another with -o")
    sys.exit(Recorder(aim, service, path, caller(), quiet=quiet).run())


def _show_nothing() -> None:
    """Where there is no terminal to show progress on."""


class Recorder:
    """One recording, from the first process to the summary."""

    def __init__(self, aim: Aim, service: str, path: Path, who: Caller, *, quiet: bool = False) -> None:
        self._aim, self._service, self._path, self._who, self._quiet = aim, service, path, who, quiet
        self._console = console(stderr=True)
        self._capture_id = uuid.uuid4().hex
        self._capturing: Capturing | None = None
        self._launcher: Launcher | None = None
        self._stop = threading.Event()
        self._concluding = self._interrupted = False
        self._troubles: list[str] = []
        self._engine_restarts = 0
        self._snapshot = control_pb2.Snapshot()
        self._next_look = 0.0
        self._shown: tuple[int, int] | None = None
        self._pause, self._next_line = PROGRESS_PAUSE, 0.0
        self._told_error = False

    def run(self) -> int:
        """Record; returns the exit status."""
        program = self._program()
        if not self._path.parent.is_dir():
            raise Failure(f"there is no folder {self._path.parent}: make it, or choose another with -o")
        parts = Parts(self._who, self._path.parent)
        try:
            return self._record(parts, program)
        finally:
            parts.stop(hurried=self._interrupted)
            if self._capturing:
                self._capturing.remove_cgroup()

    def _program(self) -> str:
        return find_program(self._who, self._aim.command) if self._aim.command else ""

    def _record(self, parts: Parts, program: str) -> int:
        self._create(parts, resume=False)
        self._launcher = launcher = Launcher(program, self._aim.command, self._who) if program else None
        try:
            target = self._aim.target(launcher.process.pid if launcher else 0)
            self._capturing = Capturing(parts, self._capture_id, target, self._say)
            on_signals(self.on_signal)
            if launcher:
                launcher.go()
            self._say(f"recording {self._service} to {self._path.name}")
        except BaseException:
            if launcher:
                launcher.abandon()
            with contextlib.suppress(grpc.RpcError):
                self._finish(parts, discard=True)
            raise
        status = self._watch(parts, launcher)
        self._concluding = True
        return self._conclude(parts, status)

    def on_signal(self, number: int) -> None:
        """Pass it on to the command; end the recording of what runs without us; or end what is left to do.

        Where a terminal is gone (SIGHUP) nobody waits, and what is left is done.
        """
        if self._concluding:
            self._interrupted = self._interrupted or number != signal.SIGHUP
        elif self._launcher:
            self._launcher.signal(number)
        else:
            self._stop.set()

    def _heed_interrupt(self) -> None:
        if self._interrupted:
            raise Failure(f"interrupted before the snapshot was finished: what arrived is in {self._path}.partial")

    def _create(self, parts: Parts, *, resume: bool) -> None:
        request = control_pb2.CreateSnapshotRequest(
            name=self._path.name, service=self._service, capture_id=self._capture_id, resume=resume
        )
        try:
            parts.control_service.CreateSnapshot(request)
        except grpc.RpcError as error:
            raise Failure(f"the snapshot cannot be written: {error.details()}") from error

    def _say(self, text: str) -> None:
        self._console.print(f"understudy: {text}", markup=False, soft_wrap=True)

    def _watch(self, parts: Parts, launcher: Launcher | None) -> int:
        """Wait for the end, with an eye on our own parts; returns the command's status."""
        agent_was_alive = True
        with self._progress() as show:
            while True:
                status = self._status(launcher)
                if status is not None:
                    return status
                if agent_was_alive and not parts.agent.alive:
                    agent_was_alive = False
                    self._trouble(f"the agent ended, and nothing more is captured: {parts.agent.last_words()}")
                    if launcher is None:
                        return 0
                self._keep_engine(parts)
                self._look(parts)
                show()

    def _look(self, parts: Parts) -> None:
        """Tell of it as soon as what arrives cannot be written: what CMD says from then on may be lost."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + LOOK_SECONDS
        with contextlib.suppress(grpc.RpcError):
            request = control_pb2.GetSnapshotRequest(name=self._path.name)
            self._snapshot = parts.control_service.GetSnapshot(request, timeout=LOOK_SECONDS).snapshot
            if self._snapshot.error and not self._told_error:
                self._say(self._snapshot.error)
            self._told_error = bool(self._snapshot.error)

    def _status(self, launcher: Launcher | None) -> int | None:
        """The exit status once everything has ended; waits a little."""
        if launcher is None:
            gone = self._stop.wait(0.1) or (self._aim.pid and not Path(f"/proc/{self._aim.pid}").exists())
            return 0 if gone else None
        return launcher.status(0.1)

    def _keep_engine(self, parts: Parts) -> None:
        """Start another engine where it has ended, and go on with the recording."""
        if parts.engine.alive or self._engine_restarts >= ENGINE_RESTARTS:
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
    def _progress(self) -> Iterator[Callable[[], None]]:
        """Show how far it is, on a terminal only: all the time, or where the terminal is the command's, a line now and then."""
        if self._quiet or not self._console.is_terminal:
            yield _show_nothing
        elif self._aim.command:
            yield self._now_and_then
        else:
            with self._console.status(f"recording {self._so_far()}") as line:
                yield lambda: line.update(f"recording {self._so_far()}")

    def _so_far(self) -> str:
        found = self._snapshot
        lost = f"{found.missing_bytes:,} bytes missing" if found.missing_bytes else "nothing lost"
        ends = "its end ends the recording" if self._aim.command else "Ctrl-C ends it"
        return f"{clean(self._service)}: {counted(found.pairs, 'pair')}, {counted(found.backends, 'backend')}, {lost}; {ends}"

    def _now_and_then(self) -> None:
        """A line where something has come since the last, ever more seldom: the output is the command's."""
        now, state = time.monotonic(), (self._snapshot.pairs, self._snapshot.missing_bytes)
        if now < self._next_line or state == self._shown:
            return
        if self._shown is not None:
            self._say(f"recording {self._so_far()}")
            self._pause = min(self._pause * 2, PROGRESS_PAUSE_LIMIT)
        self._shown, self._next_line = state, now + self._pause

    def _conclude(self, parts: Parts, status: int) -> int:
        """Settle the ledger, finish the snapshot, print the summary."""

        def meanwhile() -> None:
            self._heed_interrupt()
            self._keep_engine(parts)

        if self._capturing and (trouble := self._capturing.settle(meanwhile)):
            self._trouble(trouble)
        self._tell_of_remaining()
        self._keep_engine(parts)
        try:
            done = self._finish(parts)
        except grpc.RpcError as error:
            raise Failure(
                f"the snapshot could not be finished: {error.details()}; what arrived is in {self._path}.partial"
            ) from error
        self._summary(done)
        return OWN_FAILURE if self._troubles else status

    def _tell_of_remaining(self) -> None:
        """A recording ends with its command, also where that leaves processes behind: they go on, unrecorded."""
        processes = self._capturing.remaining() if self._capturing else []
        if processes:
            program = self._aim.command[0]
            fate = f"what they say from now on is not recorded: keep {program} running until they end, or record one with --pid"
            self._say(left_behind(program, processes, fate))

    def _finish(self, parts: Parts, *, discard: bool = False) -> control_pb2.FinishSnapshotResponse:
        request = control_pb2.FinishSnapshotRequest(name=self._path.name, discard=discard)
        return awaited(parts.control_service.FinishSnapshot.future(request), self._heed_interrupt)

    def _summary(self, done: control_pb2.FinishSnapshotResponse) -> None:
        path = self._path.with_name(done.snapshot.name)
        shown = self._who.run("engine.cli.summary", str(path))
        if shown.returncode:
            why = shown.stdout.decode(errors="replace").strip() or f"its status is {shown.returncode}"
            raise Failure(f"what was recorded cannot be shown: {why}")
        if path != self._path:
            self._say(f"no requests were recorded: {self._path} stays as it was, and this recording is in {path}")
            return
        before = f"; what it was before is in {done.previous_name}" if done.previous_name else ""
        self._say(f"wrote {path}; look into it with `understudy inspect {path.name}`{before}")
