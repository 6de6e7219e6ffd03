"""What is examined and probed, over probes that are in no kernel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from mmap import MAP_PRIVATE, PROT_EXEC, PROT_READ, mmap
from pathlib import Path
from typing import IO

import pytest

from agent import attach, files, opens
from agent.attach import Attacher
from agent.events import FileKey, Kind, Mapped
from agent.examiner import EXAMINE_SECONDS, Examiner
from agent.failures import Failures
from agent.kernel.inotify import LOST, Watches
from agent.kernel.planner import UNKNOWN, Plan
from agent.workloads import Workload
from tests.agent.kernel.test_planner import libssl
from tests.agent.probing import FakeProbes


class Attaching:
    """An attacher and what it stands on."""

    def __init__(self) -> None:
        self.probes, self.examiner, self.failures = FakeProbes(), Examiner(), Failures()
        self.notices: list[tuple[int, Workload, str, Plan]] = []
        self.attacher = Attacher(self.probes, self.examiner, lambda *notice: self.notices.append(notice), self.failures)

    def examine(self, path: Path) -> Plan:
        fd = os.open(path, os.O_RDONLY)
        try:
            return self.attacher.examine(fd, str(path), os.getpid()).plan
        finally:
            os.close(fd)

    def close(self) -> None:
        self.attacher.close()
        self.examiner.close()


@pytest.fixture
def attaching() -> Iterator[Attaching]:
    with closing(Attaching()) as made:
        yield made


@pytest.fixture
def library(tmp_path: Path) -> Path:
    return Path(shutil.copy(libssl(), tmp_path / "libssl.so"))


def mapped(fd: int, pid: int = 0, as_fd: int | None = None, capture: int = 0) -> bytes:
    """The event of this process, or another one, that mapped what it has open; `as_fd` is what it has closed since."""
    status = os.stat(f"/proc/{pid or os.getpid()}/fd/{fd}")
    event = Mapped(file=FileKey(inode=status.st_ino, size=status.st_size), fd=fd if as_fd is None else as_fd)
    event.head.kind, event.head.process.tgid, event.head.process.capture = Kind.MAPPED, pid or os.getpid(), capture
    return bytes(event)


def test_a_file_is_probed_once(attaching: Attaching, library: Path) -> None:
    assert attaching.examine(library).capturable
    assert attaching.examine(library).capturable
    assert len(attaching.probes.attached) == attaching.attacher.probed == 1


@pytest.mark.parametrize(
    "touch",
    [
        lambda library: os.utime(library, (1e9, 1e9)),
        lambda library: library.chmod(0o700),
        lambda library: os.link(library, library.with_name("other")),
    ],
    ids=["touch", "chmod", "link"],
)
def test_a_file_that_was_only_touched_stays_probed(
    attaching: Attaching, library: Path, monkeypatch: pytest.MonkeyPatch, touch: Callable[[Path], object]
) -> None:
    """What is said while it is not probed would be missed; and two probes at one place would tell everything twice."""
    attaching.examine(library)
    monkeypatch.setattr(Examiner, "plan", None)  # nor examined
    for _ in range(2):
        touch(library)
        attaching.attacher.modified()
        assert attaching.examine(library).capturable
        with library.open("rb") as file:
            attaching.attacher.mapped([mapped(file.fileno())])
        library.with_name("other").unlink(missing_ok=True)
    assert [attached.closed for attached in attaching.probes.attached] == [False]
    assert attaching.failures.count == 0


def test_a_file_that_was_overwritten_by_a_mapping_is_probed_anew(attaching: Attaching, library: Path) -> None:
    """Which no watch tells of."""
    attaching.examine(library)
    with library.open("rb+") as file, mmap(file.fileno(), 0) as mapping:
        mapping[:] = bytes(len(mapping))
        mapping.flush()
    attaching.attacher.modified()
    assert attaching.attacher.probed == 1
    assert not attaching.examine(library).sites
    assert attaching.attacher.probed == 0


def test_a_file_that_was_overwritten_with_the_same_is_probed_anew(attaching: Attaching, library: Path) -> None:
    """Its watch tells of that only, and not of what it was meanwhile."""
    attaching.examine(library)
    with library.open("rb+", buffering=0) as file:
        os.pwrite(file.fileno(), os.pread(file.fileno(), 100, 0), 0)
    assert attaching.examine(library).capturable
    assert [attached.closed for attached in attaching.probes.attached] == [True, False]


@pytest.mark.parametrize("keep_time", [False, True])
def test_a_file_with_other_content_is_probed_anew(attaching: Attaching, library: Path, keep_time: bool) -> None:
    """Its probes would be in the midst of other instructions; rsync gives it any time that its source has, this one too."""
    attaching.examine(library)
    status = library.stat()
    library.write_bytes(bytes(status.st_size))
    if keep_time:
        os.utime(library, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert not attaching.examine(library).sites
    assert [attached.closed for attached in attaching.probes.attached] == [True]
    assert attaching.attacher.probed == 0
    shutil.copy(libssl(), library)
    assert attaching.examine(library).capturable
    assert attaching.attacher.probed == 1


def test_the_probes_are_off_before_other_content_is_examined(
    attaching: Attaching, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attaching.examine(library)
    with library.open("rb+") as file:
        file.write(b"\x7f")
    closed: list[bool] = []

    def plan(_: Examiner, fd: int) -> Plan:
        closed.append(attaching.probes.attached[0].closed)
        return Plan()

    monkeypatch.setattr(Examiner, "plan", plan)
    attaching.examine(library)
    assert closed == [True]


@pytest.mark.parametrize("modify", [lambda file: file.write(b"x"), lambda file: file.truncate(0)])
def test_a_file_that_is_modified_is_probed_no_more(
    attaching: Attaching, library: Path, tmp_path: Path, modify: Callable[[IO[bytes]], object]
) -> None:
    """Though nobody looks at it."""
    other = Path(shutil.copy(libssl(), tmp_path / "other.so"))
    attaching.examine(library)
    attaching.examine(other)
    with library.open("rb+", buffering=0) as file:
        attaching.attacher.modified()
        assert attaching.attacher.probed == 2
        modify(file)
        attaching.attacher.modified()
    assert [attached.closed for attached in attaching.probes.attached] == [True, False]


def test_a_file_that_is_modified_is_taken_off_while_another_is_examined(
    attaching: Attaching, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which may take seconds."""
    attaching.examine(library)

    def plan(_: Examiner, fd: int) -> Plan:
        with library.open("ab") as file:
            file.write(b"x")
        attaching.attacher.modified()
        return Plan()

    monkeypatch.setattr(Examiner, "plan", plan)
    (tmp_path / "other").touch()
    attaching.examine(tmp_path / "other")
    assert attaching.probes.attached[0].closed


def test_a_file_that_is_written_to_while_it_is_examined_is_not_probed(
    attaching: Attaching, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examine = Examiner.plan

    def plan(examiner: Examiner, fd: int) -> Plan:
        found = examine(examiner, fd)
        with library.open("ab") as file:
            file.write(b"x")
        return found

    monkeypatch.setattr(Examiner, "plan", plan)
    assert attaching.examine(library).reason == "it is being written to"
    assert attaching.probes.attached == []
    monkeypatch.undo()
    assert attaching.examine(library).capturable


def test_where_news_of_modifications_were_lost_nothing_stays_probed(
    attaching: Attaching, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attaching.examine(library)
    monkeypatch.setattr(Watches, "modified", lambda _: {LOST})
    attaching.attacher.modified()
    assert attaching.attacher.probed == 0


def test_a_file_that_cannot_be_watched_is_not_probed(attaching: Attaching, library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError("no room for watches")

    monkeypatch.setattr(Watches, "add", refuse)
    assert attaching.examine(library).reason == "no room for watches"
    assert attaching.probes.attached == []


def test_a_file_that_was_modified_is_told_of_again(attaching: Attaching, library: Path) -> None:
    """It may be as long as it was before."""
    with library.open("rb+", buffering=0) as file:
        attaching.attacher.mapped([mapped(file.fileno())])
        assert len(attaching.probes.files) == 1
        file.write(b"\x7f")
        attaching.attacher.modified()
        assert attaching.probes.files == []
        attaching.attacher.mapped([mapped(file.fileno())])
    assert [attached.closed for attached in attaching.probes.attached] == [True, False]


def test_a_file_that_could_not_be_probed_is_tried_again(attaching: Attaching, library: Path) -> None:
    attaching.probes.attach_errors = [OSError("no memory")] * 2
    assert attaching.examine(library) == Plan("OpenSSL family", reason="no memory")
    assert attaching.attacher.probed == 0
    attaching.examine(library)
    assert attaching.examine(library).capturable
    assert attaching.attacher.probed == 1


def test_but_not_for_ever(attaching: Attaching, library: Path) -> None:
    attaching.probes.attach_errors = [OSError("refused")] * 100
    for _ in range(10):
        attaching.examine(library)
    assert attaching.failures.count == attach.ATTACH_TRIES


def test_a_file_that_cannot_be_examined_is_examined_once(
    attaching: Attaching, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be made to take as long as it can, and others wait."""
    asked: list[int] = []

    def take_too_long(_: Examiner, fd: int) -> Plan:
        asked.append(fd)
        return Plan(UNKNOWN, reason="it takes too long")

    monkeypatch.setattr(Examiner, "plan", take_too_long)
    for _ in range(5):
        assert attaching.examine(library).kind == UNKNOWN
    assert len(asked) == 1


class Slow:
    """A clock that the examination of a file named slow moves on by 2 s, of others by 2 ms, and nothing else does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.now, self.examined, self._folder, self._made = 1000.0, 0, folder, 0
        examine = Examiner.plan

        def plan(examiner: Examiner, fd: int) -> Plan:
            slow = os.path.basename(os.readlink(f"/proc/self/fd/{fd}")).startswith("slow")
            self.examined += slow
            self.now += 2.0 if slow else 0.002
            return Plan() if slow else examine(examiner, fd)

        monkeypatch.setattr(Examiner, "plan", plan)
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def have_mapped(self, attaching: Attaching, count: int, capture: int) -> None:
        for _ in range(count):
            self._made += 1
            path = self._folder / f"slow{self._made}"
            path.touch()
            with path.open("rb") as file:
                attaching.attacher.mapped([mapped(file.fileno(), capture=capture)])

    def have_opened(self, attaching: Attaching, count: int, capture: int, pid: int) -> list[bool]:
        settled = []
        for _ in range(count):
            self._made += 1
            path = self._folder / f"slow{self._made}"
            path.touch()
            with path.open("rb") as file:
                settled.append(attaching.attacher.opened(file.fileno(), pid, capture))
        return settled


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Slow:
    return Slow(monkeypatch, tmp_path)


LONGEST = opens.HELD_SECONDS - EXAMINE_SECONDS
"""What may be examined before something that is held, and waits for its own examination as well, is let go unprobed."""


def test_slow_files_of_one_capture_do_not_hold_up_another(attaching: Attaching, slow: Slow, library: Path) -> None:
    started = slow.now
    slow.have_mapped(attaching, 40, capture=1)
    with library.open("rb") as file:
        attaching.attacher.mapped([mapped(file.fileno(), capture=2)])
    assert slow.now - started < LONGEST
    assert attaching.attacher.probed == 1


def test_nor_do_those_of_many_processes(attaching: Attaching, slow: Slow, library: Path) -> None:
    started = slow.now
    for pid in range(40):
        slow.have_opened(attaching, 1, capture=1, pid=1000 + pid)
    with library.open("rb") as file:
        assert attaching.attacher.opened(file.fileno(), 5, 2)
    assert slow.now - started < LONGEST
    assert attaching.attacher.probed == 1


def test_slow_files_of_one_process_do_not_hold_up_another(attaching: Attaching, slow: Slow, library: Path) -> None:
    """Of the same capture: what that one opens is still probed."""
    started = slow.now
    settled = slow.have_opened(attaching, 40, capture=1, pid=1000)
    with library.open("rb") as file:
        assert attaching.attacher.opened(file.fileno(), 1001, 1)
    assert slow.now - started < LONGEST
    assert attaching.attacher.probed == 1
    assert settled.count(True) == slow.examined  # the others are asked about again


def test_what_is_not_examined_is_told_and_looked_at_again(attaching: Attaching, slow: Slow, library: Path) -> None:
    slow.have_mapped(attaching, 40, capture=1)
    assert slow.examined + len(attaching.notices) == 40
    with library.open("rb") as file:
        attaching.attacher.mapped([mapped(file.fileno(), capture=1)])
        assert "too many slow files" in attaching.notices[-1][3].reason
        assert attaching.attacher.probed == 0
        slow.now += 60
        attaching.attacher.mapped([mapped(file.fileno(), capture=1)])
    assert attaching.attacher.probed == 1


def test_ordinary_files_are_examined_however_many_they_are(attaching: Attaching, slow: Slow, tmp_path: Path) -> None:
    for number in range(2000):
        (tmp_path / str(number)).touch()
        with (tmp_path / str(number)).open("rb") as file:
            attaching.attacher.mapped([mapped(file.fileno(), capture=1)])
    assert attaching.notices == []


def test_no_file_is_probed_with_the_last_descriptors(attaching: Attaching, library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attach, "DESCRIPTORS_KEPT", 1 << 30)
    assert "no descriptors left" in attaching.examine(library).reason
    assert attaching.probes.attached == []


@pytest.mark.parametrize("held", [True, False])
def test_what_the_system_has_is_left_to_openings_that_are_held(
    attaching: Attaching, library: Path, monkeypatch: pytest.MonkeyPatch, held: bool
) -> None:
    device = library.stat().st_dev
    monkeypatch.setattr(attach, "system_libraries", lambda: [str(library)])
    attaching.attacher.system({device if held else device + 1})
    assert attaching.attacher.probed == (0 if held else 1)


def test_what_the_system_has_is_probed_before_a_program_runs_that_others_run_unheld_by(
    attaching: Attaching, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attach, "system_libraries", lambda: [str(library)])
    for name, probed in (("true", 0), ("unshare", 1)):
        with open(shutil.copy("/bin/true", tmp_path / name), "rb") as file:
            assert attaching.attacher.opened(file.fileno(), os.getpid())
        assert attaching.attacher.probed == probed


def test_what_is_unmounted_is_probed_no_more(attaching: Attaching, library: Path) -> None:
    device = library.stat().st_dev
    attaching.examine(library)
    attaching.attacher.unmounted({device + 1})
    assert attaching.attacher.probed == 1
    attaching.attacher.unmounted({device, device + 1})
    assert [attached.closed for attached in attaching.probes.attached] == [True]
    assert attaching.examine(library).capturable  # where it is mounted again


def test_what_was_mapped_is_probed_and_remembered_when_that_is_settled(attaching: Attaching, library: Path) -> None:
    with library.open("rb") as file:
        attaching.probes.attach_errors = [OSError("no memory")]
        attaching.attacher.mapped([mapped(file.fileno())])
        assert attaching.probes.files == []  # so that it is told of again
        attaching.attacher.mapped([mapped(file.fileno())])
        assert [key.inode for key in attaching.probes.files] == [library.stat().st_ino]


def test_what_is_known_is_not_opened_when_it_is_mapped(
    attaching: Attaching, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its mount would be busy for who unmounts it meanwhile."""
    attaching.examine(library)
    opened: list[str] = []
    monkeypatch.setattr(files, "place_of", opened.append)
    with library.open("rb") as file, mmap(file.fileno(), 0, prot=PROT_READ | PROT_EXEC, flags=MAP_PRIVATE):
        attaching.attacher.mapped([mapped(file.fileno()), mapped(file.fileno(), as_fd=1 << 20)])
    assert opened == []
    assert attaching.failures.count == 0
    assert len(attaching.probes.files) == 2


def test_a_full_map_of_files_stops_nothing(attaching: Attaching, library: Path) -> None:
    attaching.probes.files_full = True
    with library.open("rb") as file:
        attaching.attacher.mapped([mapped(file.fileno()), b"\xff" * 64, mapped(file.fileno())])
    assert attaching.attacher.probed == 1
    assert attaching.failures.count == 1  # the record that is none


@pytest.mark.timeout(60)
def test_a_fifo_in_place_of_what_was_mapped_blocks_nothing(attaching: Attaching, library: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    fifo = os.open(tmp_path / "fifo", os.O_RDWR)
    try:
        attaching.attacher.mapped([mapped(fifo)])
    finally:
        os.close(fifo)
    assert attaching.probes.files == []
    with library.open("rb") as file:
        attaching.attacher.mapped([mapped(file.fileno())])
    assert attaching.attacher.probed == 1


NAMED = """
import ctypes, sys
ctypes.CDLL(None).prctl(15, b"\\xff\\xfe", 0, 0, 0)  # PR_SET_NAME
file = open(sys.argv[1])
print(file.fileno(), flush=True)
input()
"""


def test_a_process_whose_name_is_no_text_is_told_of(attaching: Attaching, tmp_path: Path) -> None:
    library = shutil.copy(sys.executable, tmp_path / os.fsdecode(b"libjvm.so"))
    with subprocess.Popen(
        [sys.executable, "-c", NAMED, library], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        fd = int(process.stdout.readline())
        attaching.attacher.mapped([mapped(fd, process.pid)])
        process.communicate("\n")
    assert [(notice[1].command, notice[3].kind) for notice in attaching.notices] == [("��", "Java JSSE")]
    assert attaching.failures.count == 0


def test_each_process_with_a_library_that_cannot_be_captured_is_told_of(attaching: Attaching, tmp_path: Path) -> None:
    """Whoever mapped it first may never use it."""
    library = Path(shutil.copy(sys.executable, tmp_path / "libjvm.so"))
    with library.open("rb") as file:
        attaching.attacher.mapped([mapped(file.fileno()), mapped(file.fileno())])
    assert len(attaching.notices) == 2
    assert attaching.probes.files == []


def test_plans_are_forgotten_past_the_bound(attaching: Attaching, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attach, "FILES_MAX", 4)
    for number in range(10):
        path = tmp_path / str(number)
        path.write_bytes(b"text")
        attaching.examine(path)
    assert len(attaching.attacher._known) == 4
