"""Nothing but the regular file that is meant is opened, whatever stands in its place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent import files

FILE = b"the file that is meant"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a file in it, and a decoy at the same path outside of it."""
    inside = tmp_path / "root"
    (inside / "lib").mkdir(parents=True)
    (inside / "lib" / "real").write_bytes(FILE)
    return inside


def content(fd: int) -> bytes:
    with os.fdopen(fd, "rb") as file:
        return file.read()


def test_links_are_resolved_below_the_root(root: Path) -> None:
    (root / "absolute").symlink_to("/lib/real")
    (root / "upwards").symlink_to("../../../lib/real")
    inode = (root / "lib" / "real").stat().st_ino
    for name in (b"/absolute", b"/upwards", b"/lib/real", b"/../lib/real"):
        assert content(files.open_place(files.place_in(str(root), name), inode)) == FILE


def test_a_link_of_proc_leads_nowhere(root: Path) -> None:
    (root / "magic").symlink_to(f"/proc/{os.getpid()}/root/etc/passwd")
    with pytest.raises(OSError, match=r".*"):
        files.place_in(str(root), b"/magic")


def test_a_fifo_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="no regular file"):
        files.open_place(files.place_of(str(tmp_path / "fifo")), (tmp_path / "fifo").stat().st_ino)


def test_a_device_is_not_opened() -> None:
    with pytest.raises(OSError, match="no regular file"):
        files.open_place(files.place_of("/dev/null"), os.stat("/dev/null").st_ino)


def test_another_file_is_refused(root: Path) -> None:
    path = root / "lib" / "real"
    inode, device = path.stat().st_ino, path.stat().st_dev
    assert content(files.open_place(files.place_of(str(path)), inode, device)) == FILE
    with pytest.raises(FileNotFoundError):
        files.open_place(files.place_of(str(path)), inode + 1)
    if os.major(device):
        with pytest.raises(FileNotFoundError):
            files.open_place(files.place_of(str(path)), inode, os.makedev(os.major(device), os.minor(device) + 1))


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    os.mkfifo(tmp_path / "fifo")
    for _ in range(3):
        with pytest.raises(OSError, match="no regular file"):
            files.open_place(files.place_of(str(tmp_path / "fifo")), 1)
        with pytest.raises(FileNotFoundError):
            files.place_in(str(tmp_path), b"/gone")
    assert len(os.listdir("/proc/self/fd")) == before
