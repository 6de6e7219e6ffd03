from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from engine.cli import main
from engine.cli.render import render_map, render_pairs
from engine.cli.text import body_text, clean, indent_json
from engine.formats.rrpair import from_json
from engine.rrpair import Connection, Direction, Flow, Message, Role, RRPair
from engine.servicemap import service_map
from engine.snapshot import Snapshot, SnapshotWriter
from engine.store import Group, Row

CONNECTION = Connection("c", True, Role.CLIENT, "10.0.0.1", 40000, "192.0.2.1", 443, tls_version="TLS 1.3")


def pair(n: int) -> RRPair:
    return RRPair(
        f"{n:016x}",
        1_767_225_600_000_000_000 + n,
        Direction.OUT,
        "shop",
        "http/1.1",
        "api.example",
        443,
        "POST",
        f"/{n}",
        (),
        f"POST /{n}",
        Message(b"POST /%d HTTP/1.1" % n, ((b"Content-Type", b"application/json"),), b'{"a":[1.10,2]}'),
        CONNECTION,
        201,
        Message(b"HTTP/1.1 201 Created", (), b"\x89PNG\x00\x01"),
        duration=2_500_000,
        technology=("HTTP", "JSON"),
    )


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    path = tmp_path / "shop.snapshot"
    writer = SnapshotWriter.create(path, service="shop", capture_id="c", created=0, tool_version="0")
    writer.add([*(pair(n) for n in range(60)), replace(pair(99), missing=("response body",))])
    writer.add(
        [
            Flow(
                Connection("d", role=Role.CLIENT, remote_address="192.0.2.7", remote_port=5432),
                1,
                "postgres",
                "not parsed yet",
                5,
                6,
            )
        ]
    )
    writer.set_ledger({"seen": 1000, "delivered": 990, "lost": 10, "unknown_starts": 2, "missed_runs": 3})
    writer.finish()
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["inspect", *map(str, arguments)])


def test_the_overview(snapshot: Path) -> None:
    result = run(snapshot)
    assert result.exit_code == 0
    for text in (
        "[ shop ]",
        "api.example :443 requests: 61 (100%)",
        "60 of 61",
        "HTTP, JSON, TLS 1.3",
        "postgres",
        "not parsed yet",
        "60 of 61 pairs complete; besides them 1 stream could not be read",
        "bytes seen 1,000 = delivered 990 + lost 10",
        "streams whose start was not seen: 2",
        "calls, events, processes and files that the probes missed: 3",
        "POST /49",
        "11 more: --all lists them",
    ):
        assert text in result.output, result.output
    assert "POST /50" not in result.output
    assert "\x1b" not in result.output
    assert "POST /99  api.example  incomplete: response body" in run(snapshot, "--all").output


def test_one_pair(snapshot: Path) -> None:
    result = run(snapshot, "3")
    for text in (
        "POST /2 HTTP/1.1",
        "    1.10,\n",
        "HTTP/1.1 201 Created",
        "00000000  89 50 4e 47",
        "2.500 ms",
        "TLS 1.3",
    ):
        assert text in result.output, result.output
    assert run(snapshot, f"{2:016x}").output == result.output


def test_json_is_the_pairs(snapshot: Path) -> None:
    lines = run(snapshot, "--json").output.splitlines()
    with Snapshot(snapshot) as opened:
        assert [from_json(json.loads(line)) for line in lines] == list(opened.pairs())
        assert [from_json(json.loads(line)) for line in run(snapshot, "7", "--json").output.splitlines()] == [opened.pair("7")]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("missing.snapshot",), "does not exist"),
        ((".",), "cannot be read: Is a directory"),
        (("{snapshot}", "999"), "has no pair '999'"),
        (("{snapshot}", "0"), "has no pair '0'"),
    ],
)
def test_failures_are_one_line(snapshot: Path, arguments: tuple[str, ...], text: str) -> None:
    result = run(*(argument.format(snapshot=snapshot) for argument in arguments))
    assert result.exit_code == 125
    assert result.stdout == ""
    assert text in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_unfinished_recording_says_so(tmp_path: Path) -> None:
    SnapshotWriter.create(tmp_path / "a.snapshot", service="s", capture_id="c", created=0, tool_version="0").close()
    result = run(tmp_path / "a.snapshot.partial")
    assert "did not end in good order" in result.output
    assert "No requests were recorded" in result.output


def test_inspect_needs_no_grpc(snapshot: Path) -> None:
    code = "import sys; from engine.cli import main\ntry: main()\nfinally: sys.exit('grpc' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, "inspect", str(snapshot)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def shown(width: int, encoding: str = "utf-8", terminal: bool = False) -> tuple[Console, io.TextIOWrapper]:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    return Console(file=file, width=width, force_terminal=terminal, highlight=False), file


GROUPS = [
    Group(Direction.IN, "http/1.1", False, "*", 8080, (), 192, 192),
    Group(Direction.OUT, "http/1.1", True, "dynamodb.us-east-1.amazonaws.com", 443, ("DynamoDB",), 147, 147),
    Group(Direction.OUT, "http/1.1", True, "a.example", 443, ("HTTP", "JSON", "TLS 1.3"), 73, 72),
]


def map_lines(width: int, encoding: str) -> list[str]:
    console, file = shown(width, encoding)
    render_map(console, service_map("payment", GROUPS))
    file.seek(0)
    return file.read().splitlines()


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_map_is_drawn_where_there_is_room(encoding: str) -> None:
    first, second = map_lines(120, encoding)[:2]
    assert first.startswith("* :8080 requests: 192 ")
    assert "[ payment ]" in first
    assert "dynamodb.us-east-1.amazonaws.com :443 requests: 147 (66%)" in first
    assert first.index("dynamodb") == second.index("a.example :443 requests: 73 (33%)")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_map_fits_80_columns_and_cuts_nothing(encoding: str) -> None:
    lines = map_lines(80, encoding)
    assert max(map(cell_len, lines)) <= 80
    for text in (
        "* :8080 requests: 192 ",
        "dynamodb.us-east-1.amazonaws.com :443 requests: 147 (66%)",
        "OUT https dynamodb.us-east-1.amazonaws.com 443",
        "    technology HTTP, JSON, TLS 1.3, requests 73, complete 72 of 73",
    ):
        assert any(text in line for line in lines), lines


def test_a_pipe_gets_lines_that_are_not_wrapped(tmp_path: Path) -> None:
    host, path = "h" * 200 + ".example", "/" + "p" * 500
    long = replace(pair(1), host=host, path=path, operation=f"POST {path}", request=Message(b"POST / HTTP/1.1", (), b"x" * 5000))
    writer = SnapshotWriter.create(tmp_path / "a.snapshot", service="s", capture_id="c", created=0, tool_version="0")
    writer.add([long])
    writer.finish()
    for arguments in ((), ("1",)):
        lines = run(tmp_path / "a.snapshot", *arguments).output.splitlines()
        assert any(host in line and path in line for line in lines)
    assert "x" * 5000 in lines


def test_pairs_are_listed_as_they_come() -> None:
    console, file = shown(80)
    row = Row(1, "a", 0, 1_000_000, Direction.OUT, "http/1.1", "a.example", 443, "GET /", 200, 5, 6, (), True)
    printed = []

    def rows() -> Iterator[Row]:
        for ordinal in range(1, 4):
            yield replace(row, ordinal=ordinal)
            printed.append(file.buffer.getvalue().count(b"GET /"))  # type: ignore[attr-defined]

    render_pairs(console, rows(), 3)
    assert printed == [1, 2, 3]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda i: st.lists(i, max_size=3) | st.dictionaries(st.text(max_size=3), i, max_size=3),
    )
)
def test_indented_json_is_the_same_json(value: object) -> None:
    for text in (json.dumps(value), json.dumps(value, separators=(",", ":"))):
        assert indent_json(text) == json.dumps(value, indent=2)


def test_json_is_shown_as_it_is() -> None:
    assert indent_json('{"a":1.10,"a":18446744073709551617}') == '{\n  "a": 1.10,\n  "a": 18446744073709551617\n}'
    assert indent_json("{broken") == "{broken"


@given(st.binary(max_size=100), st.sampled_from([b"gzip", b"deflate", b""]))
def test_any_body_is_shown(body: bytes, coding: bytes) -> None:
    clean(body_text(Message(b"", ((b"Content-Encoding", coding),), body)), lines=True)


@pytest.mark.parametrize("arguments", [["--help"], ["inspect"], ["inspect", "--json"], ["backends"]])
def test_an_output_that_takes_nothing_is_told_in_one_line(snapshot: Path, arguments: list[str]) -> None:
    files = [] if "--help" in arguments else [str(snapshot)]
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-c", "from engine.cli import main; main()", *arguments, *files]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (125, "understudy: the output: No space left on device\n")
