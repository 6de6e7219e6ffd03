"""What record shows at its end is read with the rights of the person who called, whoever runs it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from understudy.v1 import control_pb2

from engine.cli import OWN_FAILURE, Failure
from engine.cli.caller import Caller
from engine.cli.record import Aim, Recorder
from tests.engine.making import Exchange, write_snapshot


def summarise(who: Caller, path: Path) -> None:
    done = control_pb2.FinishSnapshotResponse(snapshot=control_pb2.Snapshot(name=path.name))
    Recorder(Aim(("shop",)), "shop", path, who)._summary(done)


def test_what_was_recorded_is_shown(who: Caller, place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_snapshot(place / "a.snapshot", Exchange("GET /job"))
    os.chown(path, who.uid, who.gid)
    summarise(who, path)
    told = capfd.readouterr()
    assert "api.example.com" in told.err
    assert "look into it with" in told.err
    assert told.out == ""


def test_a_file_that_cannot_be_shown_is_one_line(who: Caller, place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Failure) as raised:
        summarise(who, place / "none.snapshot")
    assert raised.value.exit_code == OWN_FAILURE
    raised.value.show()
    assert capfd.readouterr().err.count("\n") == 1


@pytest.mark.kernel
def test_a_file_that_they_may_not_read_is_not_shown(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It may have become a link to somebody else's since it was written: the folder is theirs."""
    path = write_snapshot(place / "root.snapshot", Exchange("GET /job"))
    path.chmod(0o600)
    with pytest.raises(Failure):
        summarise(Caller(65534, 65534, (), {}), path)
    assert "api.example.com" not in capfd.readouterr().err
