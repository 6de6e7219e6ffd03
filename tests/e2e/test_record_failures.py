"""Our own failures: exit status 125, one line that says what is wrong, nothing half-written."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.recording import Done, record, understudy

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left_behind")]


def assert_refused(done: Done, *words: str) -> None:
    """One line on stderr with these words, nothing on stdout, 125."""
    assert (done.status, done.stdout) == (125, b"")
    assert done.stderr.endswith("\n")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert [word for word in words if word.lower() not in done.stderr.lower()] == []


def test_a_command_that_does_not_exist(tmp_path: Path) -> None:
    assert_refused(record(tmp_path / "snapshot", "no-such-command-here"), "no-such-command-here")
    assert list(tmp_path.iterdir()) == []


def test_a_command_that_may_not_be_executed(tmp_path: Path) -> None:
    command = tmp_path / "command"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o644)
    assert_refused(record(tmp_path / "snapshot", str(command)), f"{command} is not executable", f"chmod +x {command}")
    assert list(tmp_path.iterdir()) == [command]


def test_a_command_that_is_a_folder(tmp_path: Path) -> None:
    assert_refused(record(tmp_path / "snapshot", str(tmp_path)), f"{tmp_path} is a folder")
    assert list(tmp_path.iterdir()) == []


def test_a_command_that_is_no_program(tmp_path: Path) -> None:
    command = tmp_path / "command"
    command.write_bytes(b"\0 nothing that a kernel can run")
    command.chmod(0o755)
    assert_refused(record(tmp_path / "snapshot", str(command)), str(command))
    assert list(tmp_path.iterdir()) == [command]


@pytest.mark.parametrize("number", ["0", "-5", "x"])
def test_a_process_number_that_is_none(number: str, tmp_path: Path) -> None:
    done = understudy("record", "-o", tmp_path / "snapshot", "--pid", number)
    assert (done.status, done.stdout) == (125, b"")
    assert "--pid" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_name_with_a_slash(tmp_path: Path) -> None:
    assert understudy("record", "--name", "a/b", "--", "true", cwd=tmp_path).status == 0
    assert [path.name for path in tmp_path.iterdir()] == ["a-b.snapshot"]


def test_a_snapshot_in_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    assert_refused(record(tmp_path / "no-such-folder" / "snapshot", "touch", str(ran)), "no-such-folder")
    assert list(tmp_path.iterdir()) == []


def test_no_root(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    # Somebody who may read everything, wherever this interpreter lives, and nothing else.
    read = "dac_read_search"
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", f"--inh-caps=-all,+{read}"]
    done = understudy(
        *("record", "-o", tmp_path / "snapshot", "--", "touch", tmp_path / "ran"),
        before=[*nobody, f"--ambient-caps=-all,+{read}", f"--bounding-set=-all,+{read}"],
    )
    assert_refused(done, "root")
    assert list(tmp_path.iterdir()) == []


NO_BTF = "mount -t tmpfs none /sys/kernel/btf"
NO_CGROUP2 = "findmnt --noheadings --output TARGET --types cgroup2 | xargs --no-run-if-empty umount --lazy"


@pytest.mark.parametrize(("hide", "word"), [(NO_BTF, "BTF"), (NO_CGROUP2, "cgroup")])
def test_a_kernel_that_lacks_something(hide: str, word: str, tmp_path: Path) -> None:
    hidden = ["unshare", "--mount", "sh", "-c", f'{hide} && exec "$@"', "sh"]
    done = understudy("record", "-o", tmp_path / "snapshot", "--", "touch", tmp_path / "ran", before=hidden)
    assert_refused(done, word)
    assert list(tmp_path.iterdir()) == []


def test_a_snapshot_that_does_not_exist(tmp_path: Path) -> None:
    assert_refused(understudy("inspect", tmp_path / "missing.snapshot"), "missing.snapshot")


def garbage(path: Path) -> None:
    path.write_bytes(b"this is no snapshot " * 1000)


def nothing(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1500])


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def other_database(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE pairs (id TEXT)")
    connection.close()


@pytest.mark.parametrize("spoil", [garbage, nothing, cut, folder, other_database])
def test_what_is_no_snapshot(spoil: Callable[[Path], None], tmp_path: Path) -> None:
    snapshot = tmp_path / "spoilt.snapshot"
    assert record(snapshot, "true").status == 0
    spoil(snapshot)
    assert_refused(understudy("inspect", snapshot), "spoilt.snapshot")
    assert list(tmp_path.iterdir()) == [snapshot]


def test_a_snapshot_from_a_future_version(tmp_path: Path) -> None:
    snapshot = tmp_path / "future.snapshot"
    assert record(snapshot, "true").status == 0
    with sqlite3.connect(snapshot) as connection:
        connection.execute("PRAGMA user_version = 9999")
    connection.close()
    before = snapshot.read_bytes()
    assert_refused(understudy("inspect", snapshot), "future.snapshot", "9999")
    assert snapshot.read_bytes() == before


def test_a_pair_that_is_not_there(tmp_path: Path) -> None:
    assert record(tmp_path / "snapshot", "true").status == 0
    assert_refused(understudy("inspect", tmp_path / "snapshot", "no-such-pair"), "no-such-pair")
