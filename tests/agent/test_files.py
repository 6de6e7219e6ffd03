"""Nothing but the regular file that is meant is opened, whatever stands in its place."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
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


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[tuple[int, Path, Callable[[], int]]]:
    """A process with a mount of its own, a file there as it is seen from here, and what unmounts it and returns how that went."""
    mount = f"mount -t tmpfs own {tmp_path} && echo text > {tmp_path}/file && echo ready"
    script = f"{mount}; while read _; do umount {tmp_path}; echo $?; done"
    command = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == "ready\n"

        def unmount() -> int:
            assert process.stdin
            assert process.stdout
            process.stdin.write("\n")
            process.stdin.flush()
            return int(process.stdout.readline())

        yield process.pid, Path(f"/proc/{process.pid}/root{tmp_path}/file"), unmount
        process.communicate()


@pytest.mark.kernel
def test_what_is_opened_by_no_mount_of_its_process_can_be_unmounted(mounted: tuple[int, Path, Callable[[], int]]) -> None:
    pid, path, unmount = mounted
    inode = path.stat().st_ino
    bound = os.open(path, os.O_RDONLY)
    with files.unbound(bound, pid) as place:
        again = os.open(f"/proc/self/fd/{place}", os.O_RDONLY)
    fd = files.open_place(files.place_of(str(path)), inode, pid=pid)
    assert unmount() != 0  # busy by `bound` alone
    os.close(bound)
    assert unmount() == 0
    assert content(fd) == content(again) == b"text\n"


@pytest.mark.kernel
def test_the_threads_of_this_process_stay_where_they_are(mounted: tuple[int, Path, Callable[[], int]]) -> None:
    pid, path, _ = mounted
    before = os.readlink("/proc/self/ns/mnt"), os.getcwd()
    os.close(files.open_place(files.place_of(str(path)), path.stat().st_ino, pid=pid))
    assert (os.readlink("/proc/self/ns/mnt"), os.getcwd()) == before


def test_where_there_is_no_other_way_it_is_the_file_itself(tmp_path: Path) -> None:
    """A process that is gone; a file system that must not outlive its mount."""
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", Path("/dev/shm")):
        fd = os.open(path, os.O_RDONLY)
        with files.unbound(fd, 2**22 + 5) as found:
            assert found == fd
        os.close(fd)
