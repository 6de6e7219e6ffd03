"""Files that are opened for the person who called."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from engine.cli.caller import Caller

NOBODY = 65534


@pytest.fixture(params=["themselves", "root for another"])
def who(request: pytest.FixtureRequest, tmp_path: Path) -> Caller:
    """Somebody whose the folder is."""
    if request.param == "themselves":
        return Caller(os.getuid(), os.getgid(), tuple(os.getgroups()), {})
    if os.geteuid() != 0:
        pytest.skip("needs root")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.is_relative_to("/tmp") and folder != Path("/tmp"):
            folder.chmod(0o755)
    os.chown(tmp_path, NOBODY, NOBODY)
    return Caller(NOBODY, NOBODY, (), {})


def test_a_file_is_made_and_read(who: Caller, tmp_path: Path) -> None:
    fd = who.open(tmp_path / "new", os.O_WRONLY | os.O_CREAT)
    assert not os.get_inheritable(fd)
    os.write(fd, b"text")
    os.close(fd)
    assert (tmp_path / "new").stat().st_uid == who.uid
    assert who.read(tmp_path / "new", 4) == b"text"
    with pytest.raises(OSError, match="too large") as raised:
        who.read(tmp_path / "new", 3)
    assert raised.value.errno == errno.EFBIG


@pytest.mark.parametrize(("name", "code"), [("nothing", errno.ENOENT), ("folder", errno.EINVAL), ("fifo", errno.EINVAL)])
def test_what_cannot_be_read(who: Caller, tmp_path: Path, name: str, code: int) -> None:
    """A FIFO that nobody writes to does not hold us up."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder").chmod(0o755)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "fifo").chmod(0o644)
    with pytest.raises(OSError) as raised:  # noqa: PT011
        who.read(tmp_path / name, 100)
    assert raised.value.errno == code


def test_root_s_files_are_not_theirs(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.is_relative_to("/tmp") and folder != Path("/tmp"):
            folder.chmod(0o755)
    (tmp_path / "root").write_text("x")
    (tmp_path / "root").chmod(0o600)
    for flags in (os.O_RDONLY, os.O_WRONLY):
        with pytest.raises(PermissionError):
            Caller(NOBODY, NOBODY, (), {}).open(tmp_path / "root", flags)
