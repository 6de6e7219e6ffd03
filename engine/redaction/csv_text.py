"""Reads the fields of CSV with a line of names at its begin (RFC 4180), whatever of the usual marks is between its columns."""

from __future__ import annotations

import re
from collections.abc import Iterator

from engine.redaction.fields import Budget, Codec, Field, Group

_MARKS = (b"\t", b";", b"|", b",")
_CELLS = {
    mark: re.compile(rb"(?:\"((?:[^\"]++|\"\")*+)\"?[^%b\r\n]*+|([^%b\r\n]*+))(%b|\r\n|\r|\n|\Z)" % ((re.escape(mark),) * 3))
    for mark in _MARKS
}


def csv_fields(text: bytes, budget: Budget) -> Iterator[Field]:
    """Every value, named by its column."""
    head = text[: text.find(b"\n") + 1 or len(text)]
    mark = max(_MARKS, key=head.count)
    names: list[bytes] = []
    in_head, column = True, 0
    row = Group(b"")
    for cell in _CELLS[mark].finditer(text):
        budget.spend()
        value = 1 if cell.start(1) >= 0 else 2
        if in_head:
            names.append(_unquoted(cell[value]).strip())
        elif column < len(names):
            yield Field(*cell.span(value), names[column], row, CELL)
        column += 1
        if cell[3] != mark:
            in_head, column, row = False, 0, Group(b"")


def _unquoted(text: bytes) -> bytes:
    return text.replace(b'""', b'"')


def _quoted(text: bytes, _: bytes) -> bytes:
    return text.replace(b'"', b'""')


CELL = Codec(_unquoted, _quoted)
