"""The private folder of a command goes with those who keep it, or with the next command."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from engine.cli import folder


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_one_that_is_kept_stays() -> None:
    made, kept = folder.make()
    folder.remove_abandoned()
    assert made.is_dir()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=(kept,)) as heir:
        os.close(kept)
        folder.remove_abandoned()
        assert made.is_dir()
        heir.communicate()
    folder.remove_abandoned()
    assert not made.exists()


def test_one_that_nobody_keeps_is_removed_and_nothing_that_it_points_to(place: Path) -> None:
    (place / "outside").mkdir()
    (place / "outside/file").touch()
    made, kept = folder.make()
    (made / "below").mkdir()
    (made / "below/file").touch()
    (made / "below/link").symlink_to(place / "outside")
    (made / "link").symlink_to(place / "outside")
    os.close(kept)
    folder.remove_abandoned()
    assert sorted(path.name for path in place.rglob("*")) == ["file", "outside"]


def test_what_is_none_of_these_stays(place: Path) -> None:
    """Folders without a lock, of another name, of somebody else, and links to one that is abandoned elsewhere."""
    (place / "understudy-new").mkdir()
    made, kept = folder.make()
    os.close(kept)
    made.rename(place / "elsewhere")
    (place / "understudy-link").symlink_to(place / "elsewhere")
    before = {"understudy-new", "elsewhere", "understudy-link"}
    if os.geteuid() == 0:
        theirs, kept = folder.make()
        os.close(kept)
        os.chown(theirs, 65534, 65534)
        before.add(theirs.name)
    folder.remove_abandoned()
    assert set(os.listdir(place)) == before
