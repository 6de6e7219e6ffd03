"""The private agent and engine of one command: started on unix sockets in a folder of their own, and ended with it.

They are driven by the same services that a cluster uses. The agent runs as root, the engine as the caller.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import grpc
from understudy.v1 import agent_pb2_grpc, control_pb2_grpc

from engine.cli import Failure, folder
from engine.cli.caller import Caller
from engine.state import state_folder

START_SECONDS = 30.0
STOP_SECONDS = 10.0
LAST_SECONDS = 1.0
"""How long a process may take to end after its connections broke."""
HURRIED_STOP_SECONDS = 2.0
"""The same of an engine where somebody waits for nothing but the end; its files can be gone on with."""
_SOON = [(f"grpc.{name}_reconnect_backoff_ms", 50) for name in ("initial", "min", "max")]
"""The first try comes before the part listens; by default the second is a second later."""


class Part:
    """A process of ours. It ends when its standard input ends, so that it outlives this process by no more than a moment."""

    def __init__(self, name: str, module: str, arguments: list[str], place: Path, keep: int, caller: Caller | None) -> None:
        """Start it, with its socket in the folder `place`; it has `keep` open for as long as it lives."""
        self.name = name
        self.address = f"unix:{place / name}.sock"
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 closed by stop()
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-m", module, "--listen", self.address, *arguments],
                stdin=subprocess.PIPE,
                stdout=self._log,
                stderr=self._log,
                pass_fds=(keep,),
                start_new_session=True,  # Ctrl-C is for the command
                env={"PATH": os.defpath, "GRPC_VERBOSITY": "NONE", "MALLOC_ARENA_MAX": "2"},  # few arenas: less memory
                user=caller.uid if caller else None,
                group=caller.gid if caller else None,
                extra_groups=caller.groups if caller else None,
            )
        except PermissionError as error:
            self._log.close()
            who = caller.name if caller else "root"
            raise Failure(
                f"{who} cannot run {sys.executable}, but the engine runs as {who}: install understudy where every user may go, "
                "such as /opt"
            ) from error
        self.channel = grpc.insecure_channel(self.address, _SOON)

    def wait_until_ready(self) -> None:
        """Wait until it serves; Failure where it does not."""
        ready = grpc.channel_ready_future(self.channel)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                ready.result(timeout=0.1)
                return
            except grpc.FutureTimeoutError:
                if self.process.poll() is not None:
                    break
        raise Failure(f"the {self.name} did not start: {self.last_words()}")

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.process.poll() is None

    def last_words(self) -> str:
        """The last line that it printed, once it has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(LAST_SECONDS)
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"it ended with status {self.process.poll()}"

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """End it in good order, or after so many seconds by force."""
        self.channel.close()
        if self.process.stdin:
            self.process.stdin.close()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._log.close()


class Parts:
    """The engine of one command and, unless it needs none, the agent."""

    def __init__(self, caller: Caller, store: Path, *, with_agent: bool = True) -> None:
        self._caller = caller
        self._store = store
        self._cgroups: list[Path] = []
        folder.remove_abandoned()
        self.folder, self._kept = folder.make()
        try:
            self.folder.chmod(0o711)
            self._engine_folder = self.folder / "engine"
            self._engine_folder.mkdir(mode=0o700)
            os.chown(self._engine_folder, caller.uid, caller.gid)
            self.engine = self._start_engine()
            if with_agent:
                arguments = ["--engine", self.engine.address, "--lease", str(self.folder)]
                self.agent = Part("agent", "agent", arguments, self.folder, self._kept, None)
            self.engine.wait_until_ready()
            if with_agent:
                self.agent.wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def _start_engine(self) -> Part:
        person = self._caller if self._caller.uid != os.geteuid() else None
        environment = {os.fsdecode(key): os.fsdecode(value) for key, value in self._caller.environment.items()}
        arguments = ["--store", str(self._store), "--state", str(state_folder(environment)), "--lease-stdin"]
        return Part("engine", "engine", arguments, self._engine_folder, self._kept, person)

    def restart_engine(self) -> None:
        """Start another engine in the place of one that has ended."""
        self.engine.stop()
        (self._engine_folder / "engine.sock").unlink(missing_ok=True)
        self.engine = self._start_engine()
        self.engine.wait_until_ready()

    @property
    def agent_service(self) -> agent_pb2_grpc.AgentServiceStub:
        """The agent's service."""
        return agent_pb2_grpc.AgentServiceStub(self.agent.channel)

    @property
    def control_service(self) -> control_pb2_grpc.ControlServiceStub:
        """The engine's service."""
        return control_pb2_grpc.ControlServiceStub(self.engine.channel)

    def look_after(self, cgroup: Path) -> None:
        """Remove a cgroup at the end: the agent does so, and its keepers; where all of them were killed, it falls to us."""
        self._cgroups.append(cgroup)

    def stop(self, *, hurried: bool = False) -> None:
        """End both and remove their folder, and cgroups that are empty."""
        for name, seconds in (("agent", STOP_SECONDS), ("engine", HURRIED_STOP_SECONDS if hurried else STOP_SECONDS)):
            if part := getattr(self, name, None):
                part.stop(seconds)
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._kept)
        for cgroup in self._cgroups:
            for below, _, _ in os.walk(cgroup, topdown=False):
                with contextlib.suppress(OSError):  # in use, or removed by another
                    os.rmdir(below)
