from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from engine.cli import OWN_FAILURE, main
from engine.rrpair import Connection, Flow, Role
from engine.snapshot import Snapshot, SnapshotError, SnapshotWriter, uncheck
from tests.engine.making import Exchange, write_snapshot


@pytest.fixture
def path(tmp_path: Path) -> Path:
    exchanges = (
        Exchange("GET /", host="a.example"),
        Exchange("GET /", host="b.example"),
        Exchange("GET /x", host="b.example", port=8443),
    )
    return write_snapshot(tmp_path / "a.snapshot", *exchanges)


def checked(path: Path) -> set[str]:
    done = CliRunner().invoke(main, ["backends", str(path)])
    return {line.split()[1] for line in done.output.splitlines() if line.startswith("[x]")}


def test_all_are_checked_at_first(path: Path) -> None:
    assert checked(path) == {"a.example:443", "b.example:443", "b.example:8443"}


def test_requests_are_counted_in_plain_english(path: Path) -> None:
    done = CliRunner().invoke(main, ["backends", str(path)])
    assert "[x] a.example:443  1 request  " in done.output


def test_a_stream_without_an_address_is_shown_as_such(tmp_path: Path) -> None:
    writer = SnapshotWriter.create(tmp_path / "a.snapshot", service="s", capture_id="c", created=0, tool_version="0")
    writer.add([Flow(Connection("d", role=Role.CLIENT), 1, "tls", "its plaintext cannot be captured", 5, 6)])
    writer.finish()
    done = CliRunner().invoke(main, ["backends", str(tmp_path / "a.snapshot")])
    assert " -  (unknown host):?  tls: cannot be mocked" in done.output


def test_what_is_unchecked_stays_so(path: Path) -> None:
    CliRunner().invoke(main, ["backends", str(path), "--off", "B.example", "--off", "a.example:443"])
    assert checked(path) == set()
    CliRunner().invoke(main, ["backends", str(path), "--on", "b.example:8443"])
    assert checked(path) == {"b.example:8443"}
    with Snapshot(path) as snapshot:
        assert snapshot.unchecked == {"a.example:443", "b.example:443"}
        assert snapshot.counts() == (3, 3)


def test_an_unknown_name_changes_nothing(path: Path) -> None:
    done = CliRunner().invoke(main, ["backends", str(path), "--off", "a.example", "--off", "nobody"])
    assert (done.exit_code, len(done.output.splitlines())) == (OWN_FAILURE, 1)
    assert "nobody is no backend" in done.output
    assert len(checked(path)) == 3


def test_a_file_that_is_none(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["backends", str(tmp_path / "no.snapshot"), "--off", "x"])
    assert done.exit_code == OWN_FAILURE
    with pytest.raises(SnapshotError, match="does not exist"):
        uncheck(tmp_path / "no.snapshot", [])
