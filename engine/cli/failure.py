"""How commands fail: one line that says what, where and how to mend it, and exit status 125."""

from __future__ import annotations

import click

FAILURE = 125
"""Exit status of our own failures; everything else is the command's own."""


class Failure(click.ClickException):
    """One of our own."""

    exit_code = FAILURE

    def show(self, file: object = None) -> None:  # noqa: ARG002
        """Print the line."""
        click.echo(f"understudy: {self.message}", err=True)
