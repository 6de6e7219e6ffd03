"""Files that are opened for the person who called."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from engine.cli.caller import Caller
from tests.engine.cli.conftest import NOBODY


def test_a_file_is_made_and_read(who: Caller, place: Path) -> None:
    fd = who.open(place / "new", os.O_WRONLY | os.O_CREAT)
    assert not os.get_inheritable(fd)
    os.write(fd, b"text")
    os.close(fd)
    assert (place / "new").stat().st_uid == who.uid
    assert who.read(place / "new", 4) == b"text"
    with pytest.raises(OSError, match="too large") as raised:
        who.read(place / "new", 3)
    assert raised.value.errno == errno.EFBIG


@pytest.mark.parametrize(("name", "code"), [("nothing", errno.ENOENT), ("folder", errno.EINVAL), ("fifo", errno.EINVAL)])
def test_what_cannot_be_read(who: Caller, place: Path, name: str, code: int) -> None:
    """A FIFO that nobody writes to does not hold us up."""
    (place / "folder").mkdir()
    (place / "folder").chmod(0o755)
    os.mkfifo(place / "fifo")
    (place / "fifo").chmod(0o644)
    with pytest.raises(OSError) as raised:  # noqa: PT011
        who.read(place / name, 100)
    assert raised.value.errno == code


@pytest.mark.kernel
def test_root_s_files_are_not_theirs(place: Path) -> None:
    (place / "root").write_text("x")
    (place / "root").chmod(0o600)
    for flags in (os.O_RDONLY, os.O_WRONLY):
        with pytest.raises(PermissionError):
            Caller(NOBODY, NOBODY, (), {}).open(place / "root", flags)
