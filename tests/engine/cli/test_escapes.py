"""Nothing that was captured is interpreted by a terminal, whoever shows it."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from understudy.v1 import backend_pb2, control_pb2

from engine.cli import Failure, main
from engine.cli.render import render_map, render_pair, render_pairs
from engine.cli.render_mock import render_call, render_miss, render_not_mocked, render_summary, usage
from engine.matching.explain import Difference
from engine.report import BackendCount, Call, Departed, FailedHandshake, Miss, MockReport
from engine.rrpair import Connection, Direction, Flow, Message, Role
from engine.servicemap import service_map
from engine.store import Group, Row
from engine.store.encoding import well_formed
from tests.engine.making import Exchange, pairs_of, write_snapshot

EVIL = "\x1b]0;owned\x07[bold]x[/bold]\r\x9b31m\u202e\x1b[5m"
Show = Callable[[Console, str], None]


def pair(console: Console, text: str) -> None:
    raw = text.encode("utf-8", "surrogatepass")
    [made] = pairs_of(Exchange("GET /a"))
    message = Message(b"GET /" + raw + b" HTTP/1.1", ((raw, raw),), raw + b"\n\t", ((raw, raw),))
    connection = replace(made.connection, remote_address=text, local_address=text, tls_version=text)
    render_pair(
        console,
        replace(
            made, host=text, operation=text, service=text, technology=(text,), missing=(text,), redacted=(text,), id=text,
            request=message, response=message, interim=(message,), connection=connection,
        ),
    )  # fmt: skip


def pairs(console: Console, text: str) -> None:
    row = Row(1, text, 1, 2, Direction.OUT, text, text, 443, text, 200, 1, 2, (text,), True)
    render_pairs(console, [row, replace(row, ordinal=2, missing=())], 2)


def the_map(console: Console, text: str) -> None:
    group = Group(Direction.OUT, text, True, text, 443, (text,), 3, 2)
    flow = Flow(Connection(text, role=Role.CLIENT, remote_address=text, server_name=text), 1, text, text, 1, 2)
    render_map(console, service_map(text, [group, replace(group, direction=Direction.IN)], [flow]), [text])


def miss(console: Console, text: str) -> None:
    differences = (Difference(text, text, None), Difference(text, None, text))
    render_miss(console, Miss(1, 1, 0, text, 443, text, text, text, text, text, text, differences))


def summary(console: Console, text: str) -> None:
    call = Call(text, text, 443, text, text, 2, text)
    failed = [FailedHandshake(text, 443, text, why, 1, (text,)) for why in (text, "UNKNOWN_CA")]
    counts = (BackendCount(text, 443, True, 3, 1, 1), BackendCount(text, 80, False, 3, 0))
    report = MockReport(text, 0, 1, counts, (), 0, ((text, 3),), 0, tuple(failed), (call,), (call,), (call,), (call,))
    render_summary(console, replace(report, departed=(Departed(text, 1, text, ended=True),)))
    render_call(console, call, "called")


def left_out(console: Console, text: str) -> None:
    backend = backend_pb2.Backend(host=well_formed(text), port=443)
    render_not_mocked(console, control_pb2.Responder(left_out=[backend], unservable=[backend]), passes=False)
    console.print(usage(control_pb2.Responder(address="127.0.0.1", port=1, ca_file="/ca.pem", backends=[backend])), markup=False)


def failure(console: Console, text: str) -> None:
    with redirect_stderr(console.file):
        Failure(f"there is no {text}").show()


@pytest.mark.parametrize("show", [pair, pairs, the_map, miss, summary, left_out, failure])
@given(st.text(max_size=20))
def test_captured_text_is_never_interpreted(show: Show, text: str) -> None:
    for width, terminal in ((80, False), (100, True)):
        file = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True, newline="")
        show(Console(file=file, width=width, force_terminal=terminal, highlight=False), text + EVIL)
        file.seek(0)
        output = file.read()
        for harmful in ("\x1b]", "\x07", "\x9b", "\x1b[5m", "\r", "\u202e"):
            assert harmful not in output
        assert terminal or "\x1b" not in output


def test_a_failure_shows_names_out_of_a_snapshot(tmp_path: Path) -> None:
    path = write_snapshot(tmp_path / "a.snapshot", Exchange("GET /a", host="evil\x1b]0;owned\x07"))
    for arguments in (["backends", str(path), "--off", "nobody"], ["mock", str(path), "--only", "nobody"]):
        done = CliRunner(env={"XDG_DATA_HOME": str(tmp_path)}).invoke(main, arguments)
        assert done.exit_code == 125
        assert "\\x1b]0;owned" in done.stderr
        assert "\x1b" not in done.output
