"""Processes, cgroups and containers: against this process and against paths as they are seen in the field."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent import workloads

ID = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    "path",
    [
        f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-containerd-{ID}.scope",
        f"/kubepods/besteffort/pod1/{ID}",
        f"/../../kubepods/pod1/{ID}",
        f"/kubepods.slice/kubepods-pod1.slice/crio-{ID}.scope",
        f"/system.slice/docker-{ID}.scope",
        f"/docker/{ID}",
        f"/machine.slice/libpod-{ID}.scope/container",
        f"/system.slice/containerd.service/kubepods-pod1.slice:cri-containerd:{ID}",
    ],
)
def test_containers(path: str) -> None:
    assert workloads.container_of(path) == ID


@pytest.mark.parametrize("path", ["", "/", "/user.slice/user-1000.slice", f"/kubepods/crio-conmon-{ID}.scope", "/docker/abc"])
def test_no_containers(path: str) -> None:
    assert workloads.container_of(path) == ""


def test_this_process() -> None:
    known = workloads.look_up(os.getpid())
    assert known.executable == os.readlink("/proc/self/exe")
    assert known.command == Path("/proc/self/comm").read_text().strip()
    assert known.started == workloads.started(os.getpid()) > 0


def test_a_process_that_is_gone_keeps_what_was_known() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert workloads.look_up(process.pid, 5, "gone") == workloads.Workload(process.pid, 5, "gone")
    assert workloads.started(process.pid) == 0


def test_who_has_the_number_now_is_not_ended() -> None:
    process = subprocess.Popen(["sleep", "60"])
    start = workloads.started(process.pid)
    assert not workloads.end(process.pid, start - workloads.TICK)
    assert process.poll() is None
    assert workloads.end(process.pid, start + workloads.TICK - 1)  # the kernel knows it to the nanosecond
    assert process.wait() == -signal.SIGKILL
    assert not workloads.end(process.pid, start)


def test_descendants() -> None:
    process = subprocess.Popen(["sh", "-c", "sleep 60 & wait"], process_group=0)
    try:
        while len(workloads.descendants(process.pid)) < 2:
            assert process.poll() is None
        assert process.pid in workloads.descendants(os.getpid())
    finally:
        os.killpg(process.pid, 9)
        process.communicate()


def test_mappings_can_be_opened_after_the_file_is_gone(tmp_path: Path) -> None:
    copy = tmp_path / "cat"
    shutil.copy("/bin/cat", copy)
    with subprocess.Popen([str(copy)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(b"x")
        process.stdin.flush()
        assert process.stdout.read(1) == b"x"  # it runs, so it is mapped
        mapping = next(each for each in workloads.executable_mappings(process.pid) if each.path == str(copy))
        copy.unlink()
        if os.geteuid() == 0:
            fd = workloads.open_mapping(process.pid, mapping)
            with os.fdopen(fd, "rb") as file:
                assert file.read(4) == b"\x7fELF"
        process.stdin.close()


@pytest.fixture
def by_path_only(tmp_path: Path) -> workloads.Mapping:
    """A mapping of this process as it is seen without CAP_CHECKPOINT_RESTORE: its place in memory leads nowhere."""
    path = tmp_path / "library.so"
    path.write_bytes(b"the one that is mapped")
    return workloads.Mapping("0-0", str(path), path.stat().st_dev, path.stat().st_ino)


def test_a_mapping_can_be_opened_by_its_path(by_path_only: workloads.Mapping) -> None:
    with os.fdopen(workloads.open_mapping(os.getpid(), by_path_only), "rb") as file:
        assert file.read() == b"the one that is mapped"


def test_a_path_at_which_there_is_another_file_now_is_refused(by_path_only: workloads.Mapping) -> None:
    path = Path(by_path_only.path)
    path.rename(path.with_suffix(".old"))
    path.write_bytes(b"another")
    with pytest.raises(FileNotFoundError):
        workloads.open_mapping(os.getpid(), by_path_only)


@pytest.mark.timeout(60)
def test_a_path_at_which_there_is_a_fifo_now_does_not_block(by_path_only: workloads.Mapping) -> None:
    Path(by_path_only.path).unlink()
    os.mkfifo(by_path_only.path)
    with pytest.raises(OSError, match="no regular file"):
        workloads.open_mapping(os.getpid(), by_path_only)


def test_names_that_are_no_text(tmp_path: Path) -> None:
    """Of a process and of what it executes: the first is shown with replacements, the second must still be found by its path."""
    copy = tmp_path / os.fsdecode(b"\xff\xfe")
    shutil.copy("/bin/cat", copy)
    with subprocess.Popen([copy], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(b"x")
        process.stdin.flush()
        assert process.stdout.read(1) == b"x"
        known = workloads.look_up(process.pid)
        assert known.command == "\ufffd\ufffd"
        assert known.executable == str(copy)
        mapping = next(each for each in workloads.executable_mappings(process.pid) if each.path == str(copy))
        by_path = workloads.Mapping("0-0", mapping.path, mapping.device, mapping.inode)
        os.close(workloads.open_mapping(process.pid, by_path))
        process.stdin.close()


@pytest.mark.kernel
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_cgroup_of_its_own() -> None:
    mount = workloads.cgroup_mount()
    assert mount is not None
    cgroup = workloads.Cgroup.for_launched(mount, f"test-{os.getpid()}", os.getpid())
    try:
        assert not cgroup.populated
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
            cgroup.adopt(process.pid)
            assert cgroup.populated
            assert workloads.cgroup_of(process.pid).endswith(cgroup.path.name)
            assert workloads.Cgroup.for_launched(mount, "another", process.pid).path == cgroup.path
            assert not cgroup.remove()
            process.communicate()
    finally:
        while not cgroup.remove():
            pass
    assert not cgroup.path.exists()


@pytest.mark.kernel
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_the_cgroup_of_another_agent_is_not_taken_over() -> None:
    """As of a command within a recorded command: it gets one of its own, below the other, which so sees all that is its."""
    mount = workloads.cgroup_mount()
    assert mount is not None
    other = mount / f"{workloads.CGROUP_PREFIX}0-{os.getpid()}"
    other.mkdir()
    try:
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
            (other / "cgroup.procs").write_text(str(process.pid))
            own = workloads.Cgroup.for_launched(mount, f"inner-{os.getpid()}", process.pid)
            assert own.path == other / f"{workloads.CGROUP_PREFIX}inner-{os.getpid()}"
            own.adopt(process.pid)
            assert workloads.Cgroup.for_launched(mount, "another", process.pid).path == own.path
            process.communicate()
        while not own.remove():
            pass
        assert other.exists()
    finally:
        workloads.remove_cgroup(other)
