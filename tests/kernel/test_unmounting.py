"""File systems that are unmounted while files on them are probed."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agent.attach import Attacher
from agent.examiner import Examiner
from agent.failures import Failures
from agent.kernel.probes import CoreProbes
from agent.opens import Opens
from tests.agent.kernel.test_planner import libssl
from tests.agent.test_opens import Elsewhere

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(60)]

IN_DELETE_SELF, IN_UNMOUNT = 0x400, 0x2000


def test_a_file_system_that_was_probed_ends_when_it_is_unmounted(tmp_path: Path) -> None:
    """It would take memory or a loop device for as long as the capture goes on."""
    with contextlib.ExitStack() as stack:
        elsewhere = stack.enter_context(closing(Elsewhere()))
        probes = stack.enter_context(closing(CoreProbes(1 << 20)))
        examiner = stack.enter_context(closing(Examiner()))
        attacher = stack.enter_context(closing(Attacher(probes, examiner, lambda *_: None, Failures())))
        elsewhere.run("mount", "-t", "tmpfs", "own", tmp_path)
        library = tmp_path / "libssl.so"
        elsewhere.run("cp", libssl(), library)
        stack.enter_context(closing(Opens(elsewhere.process.pid, attacher.opened, Failures(), attacher.unmounted)))
        elsewhere.open(library)
        assert attacher.probed == 1
        with watched(Path(f"/proc/{elsewhere.process.pid}/root{library}")) as events:
            elsewhere.run("umount", tmp_path)
            assert select.select([events], [], [], 30)[0], "it goes on"
            assert struct.unpack_from("iI", os.read(events, 4096))[1] & IN_UNMOUNT


@contextlib.contextmanager
def watched(path: Path) -> Iterator[int]:
    """A descriptor of inotify(7) for a file, which keeps no mount busy; the end of its file system is an event."""
    libc = ctypes.CDLL(None)
    events = libc.inotify_init1(os.O_CLOEXEC)
    libc.inotify_add_watch(events, os.fsencode(path), IN_DELETE_SELF)
    try:
        yield events
    finally:
        os.close(events)
