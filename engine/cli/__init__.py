"""The command `understudy`. Commands are imported when they are called: `inspect` needs no gRPC."""

from __future__ import annotations

import contextlib
import importlib
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import click

from engine.cli.text import clean

COMMANDS = {
    "doctor": "Tell what this machine can capture, and what not and why.",
    "record": "Capture a command's traffic into a snapshot.",
    "mock": "Stand in for the backends of a snapshot.",
    "backends": "Show which backends of a snapshot are mocked, and choose.",
    "inspect": "Show what a snapshot holds: service map, backends, pairs.",
}
"""Name of each command, which is also that of its module here, and what the list of commands says of it."""

OWN_FAILURE = 125
"""Exit status where understudy itself fails, as with `timeout` and `env`: no command's own status is hidden by it."""


click.UsageError.exit_code = OWN_FAILURE


class Failure(click.ClickException):
    """Something that understudy cannot do: one line that says what, and how to mend it."""

    exit_code = OWN_FAILURE

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the line. It may name what was captured, such as a host: that is shown, never interpreted."""
        click.echo(f"understudy: {clean(self.format_message())}", file=file, err=True)


def as_typed() -> str:
    """The command line, with the program's full path: sudo looks elsewhere."""
    return shlex.join([str(Path(sys.argv[0]).absolute()), *sys.argv[1:]])


_GRPC = {"GRPC_ENABLE_FORK_SUPPORT": "0", "GRPC_VERBOSITY": "NONE"}


@contextlib.contextmanager
def grpc_of_a_starter() -> Iterator[None]:
    """Import gRPC herein where this process starts others while calls are under way.

    Its handlers of fork(2) run in the child too, before it has become another program, with locks that threads of the parent hold:
    they abort it. gRPC reads its settings as it is imported; the environment itself is the command's.
    """
    before = dict(os.environ)
    os.environ.update(_GRPC)
    try:
        yield
    finally:
        for name in _GRPC:
            del os.environ[name]
            if name in before:
                os.environ[name] = before[name]


class _LazyGroup(click.Group):
    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().main(*args, **kwargs)
        except OSError as error:  # commands tell of the files that they read and write: this is the output, or a folder of ours
            where = "the output" if error.filename is None else error.filename
            Failure(f"{where}: {error.strerror or error}").show()
            sys.exit(OWN_FAILURE)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # before a command has begun to handle it
            click.echo("understudy: interrupted", err=True)
            ctx.exit(128 + signal.SIGINT)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        with grpc_of_a_starter():
            command: click.Command = importlib.import_module(f"engine.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="understudy", prog_name="understudy")
def main() -> None:
    """Watch a service talk to the outside world, and stand in for that world."""
