"""Planning: against what binutils says of the same files, and of files made for the purpose."""

from __future__ import annotations

import errno
import functools
import importlib.util
import os
import re
import ssl
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.events import TlsCall
from agent.kernel import planner
from agent.kernel.planner import Plan, plan


def plan_of(path: Path | str) -> Plan:
    fd = os.open(path, os.O_RDONLY)
    try:
        return plan(fd)
    finally:
        os.close(fd)


def libssl() -> str:
    """The one that this interpreter has mapped."""
    assert ssl.OPENSSL_VERSION
    return next(line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libssl" in line)


def file_offsets(path: str, *options: str) -> dict[str, int]:
    """Of defined functions, by `nm` and `readelf`."""
    segments = subprocess.run(["readelf", "-lW", path], capture_output=True, text=True, check=True).stdout
    loads = [
        tuple(int(number, 16) for number in match.groups())
        for match in re.finditer(r"LOAD\s+(0x[0-9a-f]+) (0x[0-9a-f]+) 0x[0-9a-f]+ (0x[0-9a-f]+)", segments)
    ]
    symbols = subprocess.run(["nm", *options, "--defined-only", path], capture_output=True, text=True, check=True).stdout
    found = {}
    for line in symbols.splitlines():
        address, kind, name = line.split()
        if kind in "Tt":
            for offset, start, size in loads:
                if start <= int(address, 16) < start + size:
                    found[name.partition("@")[0]] = int(address, 16) - start + offset
    return found


def test_libssl_as_binutils_see_it() -> None:
    path = libssl()
    truth = file_offsets(path, "-D")
    found = plan_of(path)
    assert found.capturable
    assert {site.function for site in found.sites} >= {
        "SSL_read",
        "SSL_read_ex",
        "SSL_write",
        "SSL_write_ex",
        "SSL_new",
        "SSL_free",
    }
    for site in found.sites:
        assert site.offset == truth[site.function], site


def test_the_order_of_attaching() -> None:
    """Returns before entries, and SSL_new last: whoever sees it made has seen everything of a stream."""
    programs = [site.program for site in plan_of(libssl()).sites]
    assert programs.index("tls_enter") > max(index for index, name in enumerate(programs) if name == "tls_return")
    assert programs[-1] == "tls_new"
    assert programs.count("tls_new") == 1


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A library with the family as local symbols, as a static OpenSSL leaves them in a wheel."""
    return build_library(tmp_path)


def build_library(folder: Path) -> Path:
    source = folder / "static.c"
    names = ["SSL_read", "SSL_write", "SSL_new", "SSL_free", "not_SSL_read"]
    functions = "".join(
        f'__attribute__((noinline, visibility("hidden"))) int {name}(void) {{ return {n}; }}\n' for n, name in enumerate(names)
    )
    calls = " + ".join(f"{name}()" for name in names)
    source.write_text(f"{functions} int visible(void) {{ return {calls}; }}\n")
    target = folder / "static.so"
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", str(target), str(source)], check=True)
    return target


def test_local_symbols(library: Path) -> None:
    truth = file_offsets(str(library))
    found = plan_of(library)
    assert {(site.function, site.offset) for site in found.sites} == {
        (name, truth[name]) for name in ("SSL_read", "SSL_write", "SSL_new", "SSL_free")
    }
    assert {site.cookie for site in found.sites if site.program == "tls_enter"} == {TlsCall.READ, TlsCall.WRITE}


def test_a_library_without_symbols_is_not_capturable(library: Path) -> None:
    subprocess.run(["strip", str(library)], check=True)
    assert plan_of(library) == Plan()


def test_imports_are_no_definitions() -> None:
    """The extension module of this interpreter calls the family and defines none of it."""
    import _ssl

    module = getattr(_ssl, "__file__", None) or sys.executable
    assert plan_of(module) == Plan()


def test_other_implementations_are_named() -> None:
    module = importlib.util.find_spec("grpc._cython.cygrpc")
    assert module is not None
    assert module.origin is not None
    found = plan_of(module.origin)
    assert (found.kind, found.capturable) == ("BoringSSL", False)
    assert "stripped" in found.reason


def test_what_is_no_elf_file(tmp_path: Path) -> None:
    for content in (b"", b"#!/bin/sh\n", b"\x7fELF\x02" + bytes(100), b"\x7fELF\x01" + bytes(100)):
        path = tmp_path / "file"
        path.write_bytes(content)
        assert plan_of(path) == Plan()


def test_a_file_for_another_machine_is_left_alone(tmp_path: Path) -> None:
    """There, where a function begins, is no instruction of this one; an emulator that runs it would not know a breakpoint."""
    content = static_library()
    path = tmp_path / "library.so"
    path.write_bytes(content)
    assert plan_of(path).sites
    x86, arm = (struct.pack("<H", machine) for machine in (62, 183))
    path.write_bytes(content[:18] + (arm if content[18:20] == x86 else x86) + content[20:])
    assert plan_of(path) == Plan()


@functools.cache
def static_library() -> bytes:
    """The library of the fixture, as bytes."""
    with tempfile.TemporaryDirectory() as folder:
        return build_library(Path(folder)).read_bytes()


def plan_of_bytes(image: bytes) -> Plan:
    fd = os.memfd_create("image")
    try:
        os.truncate(fd, len(image))
        os.pwrite(fd, image, 0)
        return plan(fd)
    finally:
        os.close(fd)


@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8), st.floats(0, 1))
@example([(0.0, 127)], 0.5)
def test_damaged_files_yield_places_inside_of_them_or_a_reason(damage: list[tuple[float, int]], kept: float) -> None:
    image = bytearray(static_library())
    image = image[: max(64, int(len(image) * kept))]
    for place, value in damage:
        image[int(place * len(image))] = value
    found = plan_of_bytes(bytes(image))
    assert all(0 <= site.offset < len(image) for site in found.sites)
    assert found.kind != planner.UNKNOWN or found.reason


@pytest.mark.parametrize("kept", [0.2, 0.6, 0.99])
def test_a_file_that_was_cut_off_says_so(kept: float) -> None:
    image = static_library()
    found = plan_of_bytes(image[: int(len(image) * kept)])
    assert (found.kind, found.sites) == (planner.UNKNOWN, ())
    assert "beyond its end" in found.reason


def elf(sections: list[tuple[int, int, int, int]], end: int) -> tuple[bytes, bytes]:
    """An ELF file's header and table of sections, each (type, offset, size, link), with the table at `end`."""
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 0, end, 0, 64, 56, 0, 64, len(sections), len(sections))
    table = b"".join(struct.pack("<IIQQQQIIQQ", 0, kind, 0, 0, start, size, link, 0, 1, 0) for kind, start, size, link in sections)
    return header, table


def sparse(folder: Path, string_bytes: int, symbol_bytes: int, words: bytes = b"\0SSL_read\0SSL_write\0") -> int:
    """A file of some KB on disk whose tables claim to be as large as that, open."""
    start, symbols = 4096, 4096 + string_bytes
    end = symbols + symbol_bytes
    header, table = elf([(0, 0, 0, 0), (11, symbols, symbol_bytes, 2), (3, start, string_bytes, 0)], end)
    fd = os.open(folder / "sparse.so", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    for place, data in ((0, header), (start, words), (end, table)):
        os.pwrite(fd, data, place)
    return fd


@pytest.mark.parametrize(
    ("string_bytes", "symbol_bytes", "what"),
    [(400 << 20, 24, "string table claims 400 MiB"), (4096, 960 << 20, "symbol table claims 960 MiB")],
)
def test_what_a_table_claims_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, string_bytes: int, symbol_bytes: int, what: str
) -> None:
    fd = sparse(tmp_path, string_bytes, symbol_bytes)
    read = count_reads(monkeypatch)
    try:
        found = plan(fd)
    finally:
        os.close(fd)
    assert found.kind == planner.UNKNOWN
    assert what in found.reason
    assert sum(read) < 1 << 20


def test_large_tables_are_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fd = sparse(tmp_path, 20 << 20, 24 << 20)
    for place in range(8192, 44 << 20, 4096):
        os.pwrite(fd, b"\0", place)
    read = count_reads(monkeypatch)
    try:
        assert plan(fd) == Plan()
    finally:
        os.close(fd)
    assert sum(read) > 44 << 20
    assert max(read) < 2 << 20


def test_what_takes_no_room_on_the_disk_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of some KB would take seconds."""
    fd = sparse(tmp_path, 120 << 20, 90 << 20)
    read = count_reads(monkeypatch)
    try:
        assert plan(fd) == Plan()
    finally:
        os.close(fd)
    assert sum(read) < 8 << 20


@pytest.mark.parametrize("place", [0, 24, (1 << 20) - 24, 1 << 20, (5 << 20) - 8, (8 << 20) + 16])
def test_what_lies_between_holes_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    """As where the whole file has data; across the border of two blocks, too."""
    fd = sparse(tmp_path, 12 << 20, 12 << 20, b"")
    os.pwrite(fd, struct.pack("<IBBHQQ", place + 1, 0x12, 0, 1, 0, 8), 4096 + (12 << 20) + place // 24 * 24)
    os.pwrite(fd, b"SSL_write\0", 4096 + place + 1)
    os.fsync(fd)
    lseek = os.lseek

    def unknown(descriptor: int, offset: int, whence: int) -> int:
        if whence == os.SEEK_DATA:
            raise OSError(errno.EINVAL, "no such file system")
        return lseek(descriptor, offset, whence)

    try:
        image = planner._Image(fd)
        names, symbols = (planner.Section(b"", 11, 4096 + start, 12 << 20, 0) for start in (0, 12 << 20))
        found = dict(planner._name_offsets(image, names)), list(planner._symbols(image, symbols, [names]))
        monkeypatch.setattr(os, "lseek", unknown)
        assert found == (dict(planner._name_offsets(image, names)), list(planner._symbols(image, symbols, [names])))
    finally:
        os.close(fd)
    assert found == ({place + 1: b"SSL_write"}, [(b"SSL_write", 0)])


def test_names_that_are_repeated_without_end_are_not_collected(tmp_path: Path) -> None:
    fd = sparse(tmp_path, 1 << 20, 24, b"SSL_read\0" * 100_000)
    try:
        assert "repeats" in plan(fd).reason
    finally:
        os.close(fd)


def test_tables_that_are_named_again_and_again_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header, table = elf([(0, 0, 0, 0), (3, 4096, 1 << 20, 0), *[(11, 4096, 24 << 10, 1)] * 500], 2 << 20)
    with open(tmp_path / "file", "w+b") as file:
        for place, data in ((0, header), (4096, b"SSL_read\0"), (2 << 20, table)):
            os.pwrite(file.fileno(), data, place)
        read = count_reads(monkeypatch)
        assert "500 symbol tables" in plan(file.fileno()).reason
    assert sum(read) < 1 << 20


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of all reads from now on."""
    lengths: list[int] = []
    pread = os.pread

    def counting(fd: int, length: int, offset: int) -> bytes:
        lengths.append(length)
        return pread(fd, length, offset)

    monkeypatch.setattr(os, "pread", counting)
    return lengths


def test_a_file_that_is_cut_while_it_is_read_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cut.so"
    path.write_bytes(static_library())
    pread = os.pread

    def cutting(fd: int, length: int, offset: int) -> bytes:
        data = pread(fd, length, offset)
        os.truncate(path, 0)
        return data

    monkeypatch.setattr(os, "pread", cutting)
    assert plan_of(path) == Plan(planner.UNKNOWN, reason="it was cut while it was read")


def test_what_is_no_regular_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    fd = os.open(tmp_path / "fifo", os.O_RDWR)
    try:
        assert plan(fd) == Plan(planner.UNKNOWN, reason="it is not a regular file")
    finally:
        os.close(fd)


@pytest.mark.parametrize("table", [".gopclntab", ".data.rel.ro.gopclntab"], ids=["exe", "pie"])
def test_go_programs_are_named(tmp_path: Path, table: str) -> None:
    """With the sections of the Go linker, which go elsewhere with -buildmode=pie (cmd/link/internal/ld/data.go)."""
    source = tmp_path / "go.c"
    source.write_text(
        f'''__attribute__((section("{table}"), used)) const char functions[] = "crypto/tls.(*Conn).Write";
        __attribute__((section(".go.buildinfo"), used)) const char built[] = "go";
        int main(void) {{ return 0; }}'''
    )
    subprocess.run(["gcc", "-o", str(tmp_path / "go"), str(source)], check=True)
    found = plan_of(tmp_path / "go")
    assert (found.kind, found.capturable) == ("Go crypto/tls", False)


def test_functions_that_are_repeated_without_end_are_not_placed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each may lie in each segment: what is looked at is bounded by both tables' limits."""
    looked = 0

    class Loads(list[tuple[int, int, int]]):
        def __iter__(self) -> Iterator[tuple[int, int, int]]:
            nonlocal looked
            for each in super().__iter__():
                looked += 1
                yield each

    monkeypatch.setattr(planner, "_symbols", lambda *_: ((b"SSL_read", 1 << 40) for _ in range(100_000)))
    table = planner.Section(b"", 11, 0, 0, 0)
    loads = Loads([(0, 0, 1)] * planner.SEGMENTS_MAX)
    with open("/bin/true", "rb") as file:
        found, reasons = planner._functions(planner._Image(file.fileno()), [table] * planner.SYMBOL_TABLES_MAX, loads)
    assert (found, len(reasons)) == ({}, planner.SYMBOL_TABLES_MAX)
    assert looked <= planner.SYMBOL_TABLES_MAX * planner.FUNCTIONS_MAX * planner.SEGMENTS_MAX
