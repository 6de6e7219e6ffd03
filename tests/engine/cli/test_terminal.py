from __future__ import annotations

import io

from rich.console import Console
from rich.text import Text

from engine.cli.render_mock import render_summary
from engine.cli.terminal import Column, print_table
from engine.report import BackendCount, Call, MockReport

COLUMNS = (Column("Process", key=True), Column("Library"))
ROWS = ([Text("1"), Text("short")], [Text("2"), Text("x" * 60)])


def printed(*, terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_no_line_of_a_table_ends_with_blanks_where_nobody_looks_at_a_screen() -> None:
    console = printed()
    print_table(console, COLUMNS, ROWS)
    assert text_of(console).splitlines() == ["Process  Library", "1        short", "2        " + "x" * 60]


def test_on_a_terminal_a_table_says_the_same() -> None:
    console = printed(terminal=True)
    print_table(console, COLUMNS, ROWS)
    assert [line.rstrip() for line in text_of(console).splitlines()][1:] == ["1        short", "2        " + "x" * 60]


def test_the_responder_rate_does_not_hide_what_was_refused() -> None:
    refused = Call("real.example", "192.0.2.1", 443, "TCP", "curl", 3)
    report = MockReport(
        "shop", 0, 1, (BackendCount("api.example", 443, recorded=True, requests=2, matches=2),), (), 0, (), refused=(refused,)
    )
    console = printed()
    render_summary(console, report)
    assert text_of(console).splitlines()[-1] == "Responder rate 100 %: 2 of 2 requests; 3 refused calls besides"
