"""Loading and attaching, against the kernel; and which kernels can do what."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from ctypes import c_uint32, c_uint64

import pytest

from agent.kernel import libbpf, probes
from agent.kernel.planner import Site
from agent.kernel.probes import CoreProbes
from tests.agent.kernel.test_planner import libssl
from tests.e2e.programs import ROOT

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.mark.parametrize(
    ("release", "version", "multi", "sessions"),
    [
        ("6.1-foo2", (6, 1), False, False),
        ("6.1.0-13-amd64", (6, 1), False, False),
        ("6.6.7", (6, 6), True, False),
        ("6.12", (6, 12), True, False),
        ("6.13.1", (6, 13), True, True),
        ("6.5rc3", (6, 5), False, False),
        ("7.0-rc1", (7, 0), True, True),
        ("of my own", (0, 0), False, False),
    ],
)
def test_releases(monkeypatch: pytest.MonkeyPatch, release: str, version: tuple[int, int], multi: bool, sessions: bool) -> None:
    monkeypatch.setattr(platform, "release", lambda: release)
    assert probes.kernel_version(release) == version
    assert (probes.multi_supported(), probes.sessions_supported()) == (multi, sessions)


def bpf_descriptors() -> int:
    """How many maps, programs and links this process has open."""
    found = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            found += "bpf" in os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
    return found


@pytest.mark.kernel
@needs_root
def test_nothing_stays_where_construction_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_self: libbpf.Program, _name: str) -> libbpf.Link:
        raise OSError("refused")

    before = bpf_descriptors()
    monkeypatch.setattr(libbpf.Program, "attach_raw_tracepoint", fail)
    with pytest.raises(OSError, match="refused"):
        CoreProbes(65536)
    assert bpf_descriptors() == before


@pytest.mark.kernel
@needs_root
def test_a_file_is_probed_whole_or_not_at_all() -> None:
    """One that is tried again must not be probed twice in part."""
    loaded = CoreProbes(65536)
    try:
        before = bpf_descriptors()
        good = Site("tls_return", "SSL_read", 4096, 1, returns=True)
        with pytest.raises(OSError, match=r".*"):
            loaded.attach(libssl(), [good, Site("tls_enter", "nowhere", 1 << 40, 1)])
        assert bpf_descriptors() == before
    finally:
        loaded.close()


@pytest.mark.kernel
@needs_root
def test_a_map_says_what_is_wrong() -> None:
    loaded = CoreProbes(65536)
    try:
        table = libbpf.Map.__new__(libbpf.Map)
        table._library, table.fd = libbpf._library(), 10_000
        with pytest.raises(OSError, match="writing to a map: Bad file descriptor"):
            table.put(c_uint32(0), c_uint64(0))
        cgroups = loaded._maps["target_cgroups"]
        for number in range(1024):  # as many as there is room for, see probes/maps.h
            cgroups.put(c_uint64(number), c_uint32(1))
        with pytest.raises(OSError, match="the map is full"):
            cgroups.put(c_uint64(1024), c_uint32(1))
    finally:
        loaded.close()


@pytest.mark.kernel
@needs_root
def test_a_process_that_is_no_target_any_more() -> None:
    loaded = CoreProbes(65536)
    try:
        loaded.target_process(77, 3)
        table, value = loaded._maps["target_processes"], c_uint32()
        assert table.get(c_uint32(77), value)
        assert value.value == 3
        loaded.forget_process(77)
        assert not table.get(c_uint32(77), value)
    finally:
        loaded.close()


@pytest.mark.kernel
@needs_root
def test_a_process_that_is_forked_when_there_is_no_room_is_counted() -> None:
    loaded = CoreProbes(65536)
    try:
        loaded.target_process(os.getpid(), 1)
        for number in range(16383):  # the rest of the room, see probes/maps.h; with numbers that no process has
            loaded.target_process((1 << 23) + number, 1)
        assert loaded.missed().processes == 0
        subprocess.run(["true"], check=True)
        assert loaded.missed().processes == 1
    finally:
        loaded.close()


def test_the_log_outlives_its_object() -> None:
    """libbpf keeps one function for the whole process: it is called after the object whose it was is gone."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import gc\n"
            "from pathlib import Path\n"
            "from agent.kernel import libbpf\n"
            "for _ in range(3):\n"
            "    try: libbpf.Object(Path('/dev/null'))\n"
            "    except OSError: pass\n"
            "    gc.collect()\n"
            "libbpf._library().bpf_object__open_file(b'/dev/null', None)\n"
            "print(len(libbpf.Log.of_process().lines))\n",
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 4
