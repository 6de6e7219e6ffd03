"""The command that a person gave: started as them when everything is ready, waited for, and told of signals."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

from engine.cli import Failure, launch
from engine.cli.caller import Caller


class Launcher:
    """A command, waiting to start: see engine/cli/launch.py."""

    def __init__(self, program: str, command: Sequence[str], who: Caller, *, own_mounts: bool = False) -> None:
        """Prepare it, in a mount namespace of its own. Failure where that cannot be had and `own_mounts` says that it must."""
        go_read, self._go = os.pipe()
        self._error, error_write = os.pipe()
        self._program = program
        self._environment = dict(who.environment)
        arguments = [str(go_read), str(error_write), str(who.uid), str(who.gid), ",".join(map(str, who.groups))]
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", launch.__file__, *arguments, program, *command],
            pass_fds=(go_read, error_write),
        )
        os.close(go_read)
        os.close(error_write)
        said = os.read(self._error, 16)
        if said != launch.MOUNTS_READY and own_mounts:
            self.abandon()
            raise Failure(f"no mount namespace for the command: {os.strerror(int(said or b'1'))}")

    def go(self, variables: Mapping[str, str] | None = None) -> None:
        """Let it start, with these variables over its own; Failure where it cannot."""
        environment = self._environment | {os.fsencode(key): os.fsencode(value) for key, value in (variables or {}).items()}
        with contextlib.suppress(BrokenPipeError):  # a signal that was passed on has ended it: its status says so
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

    def status(self, seconds: float) -> int | None:
        """Its exit status, 128 + n for a signal, once it has ended; waits so long for that."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        return code if code >= 0 else 128 - code

    def signal(self, number: int) -> None:
        """Pass a signal on. Ctrl-C reaches the command by itself, for it is of the terminal's foreground."""
        if number != signal.SIGINT or not _is_foreground():
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)


def _is_foreground() -> bool:
    """Whether this process is of the foreground of its terminal, where Ctrl-C is for all."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:  # there is none
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def on_signals(act: Callable[[int], None]) -> None:
    """Act on what asks a command line to end, from now on."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _frame: act(received))


def find_program(who: Caller, command: Sequence[str]) -> str:
    """The path of the program that a command starts; Failure where there is none."""
    program = who.find(command[0])
    if program is not None:
        return program
    path = who.find_file(command[0])
    if path is not None:
        raise Failure(
            f"{path} is not executable: make it so with `chmod +x {shlex.quote(path)}`, or name its interpreter before it"
        )
    if os.path.isdir(command[0]):
        raise Failure(f"{command[0]} is a folder, not a program")
    raise Failure(f"{command[0]}: command not found in {who.search_path}")
