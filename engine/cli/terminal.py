"""The terminal, or what is there instead of one.

Nothing that identifies a thing is cut. On a terminal, a table that is too wide is shown as a list; elsewhere there is no width.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

UNLIMITED = 1 << 20
"""Cells of a line where nobody looks at a screen: programs and files get lines as they are."""


def console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """Colours and a width on a terminal only. What its encoding lacks is shown as an escape. `quiet` shows nothing."""
    stream = sys.stderr if stderr else sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    made = Console(stderr=stderr, highlight=False, quiet=quiet)
    return made if made.is_terminal else Console(stderr=stderr, highlight=False, quiet=quiet, width=UNLIMITED)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. The `key` columns together say which thing a row is about."""

    heading: str
    right: bool = False
    key: bool = False


def _print_unpadded(target: Console, table: Table) -> None:
    """Without the blanks behind the last cell of a row, where nobody looks at a screen."""
    if target.is_terminal:
        target.print(table)
        return
    with target.capture() as printed:
        target.print(table)
    for line in printed.get().splitlines():
        target.print(Text(line.rstrip()), soft_wrap=True)


def print_table(target: Console, columns: Sequence[Column], rows: Sequence[Sequence[Text]]) -> None:
    """Print rows as a table where that fits, else as a list: a line with what the row is about, below it the rest."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(Text(column.heading), justify="right" if column.right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    wide = target.measure(table, options=target.options.update(width=UNLIMITED)).maximum
    if wide <= target.width:
        _print_unpadded(target, table)
        return
    for row in rows:
        cells = list(zip(columns, row, strict=True))
        target.print(Text(" ").join(cell for column, cell in cells if column.key and cell), soft_wrap=True)
        rest = [Text.assemble((f"{column.heading.lower()} ", "dim"), cell) for column, cell in cells if not column.key and cell]
        target.print(Text("    ") + Text(", ").join(rest), soft_wrap=True)
