"""Openings are held until they are probed: with a process in a mount namespace of its own, against the kernel."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agent import files, opens
from agent.failures import Failures
from agent.kernel.fanotify import Group, Opening
from agent.opens import Opens

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(os.geteuid() != 0, reason="needs root"), pytest.mark.timeout(60)]

READER = """
import sys
print("ready", flush=True)
for line in sys.stdin:
    open(line.rstrip("\\n"), "rb").close()
    print("opened", flush=True)
"""


class Elsewhere:
    """A process in a mount namespace of its own that opens what it is told to."""

    def __init__(self) -> None:
        command = ["unshare", "--mount", "--propagation", "slave", sys.executable, "-c", READER]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._said() == "ready\n"

    def _said(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline()

    def open(self, path: Path) -> None:
        """Have it open a file; returns when it has."""
        assert self.process.stdin
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()
        assert self._said() == "opened\n"

    def run(self, *command: object) -> str:
        """Run a command in its mount namespace; what it says."""
        enter = ["nsenter", f"--mount=/proc/{self.process.pid}/ns/mnt"]
        return subprocess.run([*enter, *map(str, command)], check=True, capture_output=True, text=True).stdout

    def close(self) -> None:
        """End it."""
        self.process.communicate()


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    with closing(Elsewhere()) as made:
        yield made


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """An executable that has not been changed for long."""
    path = Path(shutil.copy("/bin/true", tmp_path / "library.so"))
    os.utime(path, (1e9, 1e9))
    return path


class Probing:
    """Stands for probing: notes which files it is asked for."""

    def __init__(self, act: Callable[[int], object] = lambda _: None) -> None:
        self.seen: list[str] = []
        self.pids: list[int] = []
        self._act = act

    def __call__(self, fd: int, pid: int) -> bool:
        self._act(fd)
        self.seen.append(os.readlink(f"/proc/self/fd/{fd}"))
        self.pids.append(pid)
        return True


def holding(elsewhere: Elsewhere, probing: Probing, failures: Failures | None = None) -> closing[Opens]:
    return closing(Opens(elsewhere.process.pid, probing, failures or Failures()))


def test_a_file_is_probed_before_its_opening_returns(elsewhere: Elsewhere, library: Path) -> None:
    probing = Probing()
    with holding(elsewhere, probing):
        elsewhere.open(library)
        assert probing.seen == [str(library)]
        assert probing.pids == [elsewhere.process.pid]


def test_a_file_is_closed_before_its_opening_returns(
    elsewhere: Elsewhere, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its mount would be busy for who unmounts it at once."""
    (tmp_path / "text").write_text("text")
    allow, had = Group.allow, list[str]()

    def look(group: Group, opening: Opening) -> None:
        had.extend(os.readlink(each.path) for each in os.scandir("/proc/self/fd") if os.path.lexists(each.path))
        allow(group, opening)

    monkeypatch.setattr(Group, "allow", look)
    with holding(elsewhere, Probing()):
        elsewhere.open(library)
        elsewhere.open(tmp_path / "text")
    assert len(had) > 1
    assert {str(library), str(tmp_path / "text")}.isdisjoint(had)


def test_what_is_no_executable_is_not_probed(elsewhere: Elsewhere, tmp_path: Path) -> None:
    contents = {"empty": b"", "text": b"#!/bin/sh\n", "object.o": b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x01\0" + bytes(100)}
    probing = Probing()
    with holding(elsewhere, probing):
        for name, content in contents.items():
            (tmp_path / name).write_bytes(content)
            elsewhere.open(tmp_path / name)
    assert probing.seen == []


def test_a_file_is_probed_again_only_when_it_was_changed(elsewhere: Elsewhere, library: Path) -> None:
    probing = Probing()
    with holding(elsewhere, probing):
        elsewhere.open(library)
        elsewhere.open(library)
        assert len(probing.seen) == 1
        with library.open("ab") as file:
            file.write(b"more")
        elsewhere.open(library)
        assert len(probing.seen) == 2


def test_a_file_that_was_just_made_is_asked_about_each_time(elsewhere: Elsewhere, library: Path) -> None:
    """It may still be written by way of a mapping, which fanotify does not see."""
    os.utime(library)
    probing = Probing()
    with holding(elsewhere, probing):
        elsewhere.open(library)
        elsewhere.open(library)
    assert len(probing.seen) == 2


def test_a_file_system_is_held_where_all_its_mounts_are(
    elsewhere: Elsewhere, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By way of another mount its files would be opened unheld."""
    device = library.stat().st_dev
    with holding(elsewhere, Probing()) as held:
        assert device in held.held
        assert Path("/proc").stat().st_dev not in held.held
    elsewhere.run("mount", "--bind", library.parent, library.parent)
    mark, refused = Group.mark_mount, list[int]()

    def refuse(group: Group, place: int) -> None:
        if os.readlink(f"/proc/self/fd/{place}") == str(library.parent):
            refused.append(place)
            raise OSError(errno.ENOMEM, "no room")
        mark(group, place)

    monkeypatch.setattr(Group, "mark_mount", refuse)
    with holding(elsewhere, Probing()) as held:
        assert device not in held.held
    assert refused


def test_others_are_not_held(elsewhere: Elsewhere, library: Path) -> None:
    probing = Probing()
    with holding(elsewhere, probing):
        library.open("rb").close()
        subprocess.run([str(library)], check=True)
    assert probing.seen == []


def test_the_agent_may_open_the_file_itself(elsewhere: Elsewhere, library: Path) -> None:
    """By way of the very mount that is watched, while it probes: it does not wait for itself."""

    def look(_fd: int) -> None:
        place = files.place_in(f"/proc/{elsewhere.process.pid}/root", os.fsencode(library))
        os.close(files.open_place(place, library.stat().st_ino))

    probing = Probing(look)
    with holding(elsewhere, probing):
        elsewhere.open(library)
    assert probing.seen == [str(library)]


def test_a_file_that_cannot_be_probed_is_opened_and_counted(elsewhere: Elsewhere, library: Path) -> None:
    def fail(_fd: int) -> None:
        raise ValueError("a file made for it")

    failures = Failures()
    with holding(elsewhere, Probing(fail), failures):
        elsewhere.open(library)
        elsewhere.open(library)
    assert failures.count == 2


def test_what_finds_no_room_goes_on(elsewhere: Elsewhere, library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one is probed and one waits, others are opened without."""
    monkeypatch.setattr(opens, "WAITING_MAX", 1)
    inside = ["nsenter", f"--mount=/proc/{elsewhere.process.pid}/ns/mnt", "cat", str(library)]
    done = threading.Event()
    with holding(elsewhere, Probing(lambda _: done.wait())) as held:
        with contextlib.ExitStack() as stack:
            readers = [stack.enter_context(subprocess.Popen(inside, stdout=subprocess.DEVNULL)) for _ in range(8)]
            while sum(reader.poll() is None for reader in readers) > 2:
                assert not done.is_set()
            done.set()
        assert [reader.returncode for reader in readers] == [0] * 8
        assert held.not_waited >= 6


def test_the_end_does_not_wait_for_all_that_waits(elsewhere: Elsewhere, library: Path) -> None:
    """What is being probed is waited for; what waits behind it goes on without."""
    inside = ["nsenter", f"--mount=/proc/{elsewhere.process.pid}/ns/mnt", "cat", str(library)]
    probing, ending = threading.Event(), threading.Event()

    def probe(_fd: int) -> None:
        probing.set()
        ending.wait()

    seen = Probing(probe)
    held = Opens(elsewhere.process.pid, seen, Failures())
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(subprocess.Popen(inside, stdout=subprocess.DEVNULL)) for _ in range(4)]
        probing.wait()
        while held._waiting.qsize() < 3:
            assert not seen.seen
        closing_thread = threading.Thread(target=held.close)
        closing_thread.start()
        while not held._closing:
            pass
        ending.set()
        closing_thread.join()
    assert [reader.returncode for reader in readers] == [0] * 4
    assert len(seen.seen) == 1


def test_nothing_is_held_for_longer_than_said(elsewhere: Elsewhere, library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither what is being probed nor what waits behind it, and each is probed nevertheless."""
    monkeypatch.setattr(opens, "HELD_SECONDS", 0.1)
    inside = ["nsenter", f"--mount=/proc/{elsewhere.process.pid}/ns/mnt", "cat", str(library)]
    done = threading.Event()
    probing = Probing(lambda _: done.wait())
    with holding(elsewhere, probing) as held:
        with contextlib.ExitStack() as stack:
            readers = [stack.enter_context(subprocess.Popen(inside, stdout=subprocess.DEVNULL)) for _ in range(3)]
        assert [reader.returncode for reader in readers] == [0] * 3
        not_waited = held.not_waited  # nsenter and cat, or only cat where their openings came together
        assert not probing.seen
        done.set()
    assert not_waited >= 3
    assert len(probing.seen) >= 1


def test_what_is_mounted_no_more_is_told_of(elsewhere: Elsewhere, tmp_path: Path) -> None:
    """But not while it has another mount, there or here."""
    told: queue.SimpleQueue[frozenset[int]] = queue.SimpleQueue()
    places = [tmp_path / name for name in ("first", "again", "second", "here")]
    for place in places:
        place.mkdir()
    elsewhere.run("mount", "-t", "tmpfs", "first", places[0])
    elsewhere.run("mount", "--bind", places[0], places[1])
    elsewhere.run("mount", "-t", "tmpfs", "second", places[2])
    elsewhere.run("mount", "--bind", "/dev/shm", places[3])
    first, second = (int(elsewhere.run("stat", "-c", "%d", place)) for place in (places[0], places[2]))
    with closing(Opens(elsewhere.process.pid, Probing(), Failures(), told.put)):
        elsewhere.run("umount", "--all-targets", "/dev/shm")
        elsewhere.run("umount", places[0])
        elsewhere.run("umount", places[2])
        assert told.get() == {second}
        elsewhere.run("umount", places[1])
        assert told.get() == {first}


def test_a_mount_point_may_have_any_name(elsewhere: Elsewhere, tmp_path: Path) -> None:
    place = tmp_path / "a b\\c\rd\ne\xe4"
    place.mkdir()
    elsewhere.run("mount", "-t", "tmpfs", "own", place)
    assert os.fsencode(place) in {mount.path for mount in opens.mounts(elsewhere.process.pid)}


def test_nothing_is_held_after_the_end(elsewhere: Elsewhere, library: Path) -> None:
    probing = Probing()
    holding(elsewhere, probing).__exit__()
    elsewhere.open(library)
    assert probing.seen == []


def test_a_process_without_mounts_of_its_own_is_told() -> None:
    assert not opens.own_mounts(os.getpid())


def test_whether_a_mount_namespace_is_another(elsewhere: Elsewhere) -> None:
    assert opens.own_mounts(elsewhere.process.pid)


@pytest.mark.parametrize(
    ("capabilities", "may"), [(0, False), (1 << 21, False), (1 << 21 | 1 << 2, True), (1 << 21 | 1 << 1, True), (1 << 2, False)]
)
def test_what_holding_takes(capabilities: int, may: bool) -> None:
    assert opens.may_hold(capabilities) is may


def test_an_opening_that_cannot_be_read_costs_no_other(
    elsewhere: Elsewhere, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a FIFO or a device without a driver, on kernels that hold their openings, too."""
    errors = [OSError(errno.ENXIO, "no such device"), OSError(errno.ETXTBSY, "busy"), OSError(errno.EIO, "failed")]
    read = os.read

    def fail(fd: int, length: int) -> bytes:
        if errors and os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:[fanotify]":
            raise errors.pop()
        return read(fd, length)

    monkeypatch.setattr(os, "read", fail)
    probing, failures = Probing(), Failures()
    with holding(elsewhere, probing, failures):
        elsewhere.open(library)
    assert probing.seen == [str(library)]
    assert (errors, failures.count) == ([], 3)


class Leased:
    """A file with a lease: the kernel opens it for the agent, which waits until the lease is given back."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(b"text")
        self.path, self._fd = path, os.open(path, os.O_RDWR)
        fcntl.fcntl(self._fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)

    @contextlib.contextmanager
    def waited_for(self, elsewhere: Elsewhere) -> Iterator[subprocess.Popen[bytes]]:
        """A process that opens it."""
        inside = ["nsenter", f"--mount=/proc/{elsewhere.process.pid}/ns/mnt", "cat", str(self.path)]
        with subprocess.Popen(inside, stdout=subprocess.PIPE) as waiting:
            while fcntl.fcntl(self._fd, fcntl.F_GETLEASE) == fcntl.F_WRLCK:  # until somebody waits for it
                assert waiting.poll() is None
            yield waiting

    def give_back(self) -> None:
        """Let the waiting go on."""
        fcntl.fcntl(self._fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)

    def close(self) -> None:
        """Forget it."""
        os.close(self._fd)


@pytest.fixture
def leased(tmp_path: Path) -> Iterator[Leased]:
    handler = signal.signal(signal.SIGIO, lambda *_: None)
    with closing(Leased(tmp_path / "leased")) as made:
        yield made
    signal.signal(signal.SIGIO, handler)


def went_on(waiting: subprocess.Popen[bytes]) -> bool:
    return waiting.communicate()[0] == b"text" and waiting.returncode == 0


def test_a_leased_file_holds_up_no_other(elsewhere: Elsewhere, library: Path, leased: Leased) -> None:
    with holding(elsewhere, Probing()), leased.waited_for(elsewhere) as waiting:
        elsewhere.open(library)
        assert waiting.poll() is None
        leased.give_back()
        assert went_on(waiting)


def test_the_end_does_not_wait_for_a_lease(elsewhere: Elsewhere, library: Path, leased: Leased) -> None:
    """Who waits for it goes on when it is given back, and others are held no more."""
    held = Opens(elsewhere.process.pid, probing := Probing(), Failures())
    with leased.waited_for(elsewhere) as waiting:
        held.close()
        elsewhere.open(library)
        assert waiting.poll() is None
        leased.give_back()
        assert went_on(waiting)
    assert library.name not in {Path(path).name for path in probing.seen}


def test_too_many_leased_files_end_the_holding(
    elsewhere: Elsewhere, library: Path, leased: Leased, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opens, "READERS_MAX", 1)
    failures = Failures()
    with holding(elsewhere, Probing(), failures), leased.waited_for(elsewhere) as waiting:
        while not failures.count:
            assert waiting.poll() is None
        elsewhere.open(library)  # is not held any more, with nobody there to let it go on
        leased.give_back()
        assert went_on(waiting)
