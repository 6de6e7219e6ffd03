"""Planning: against what binutils says of the same files, and of files made for the purpose."""

from __future__ import annotations

import importlib.util
import os
import re
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.events import TlsCall
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
    source = tmp_path / "static.c"
    names = ["SSL_read", "SSL_write", "SSL_new", "SSL_free", "not_SSL_read"]
    functions = "".join(
        f'__attribute__((noinline, visibility("hidden"))) int {name}(void) {{ return {n}; }}\n' for n, name in enumerate(names)
    )
    calls = " + ".join(f"{name}()" for name in names)
    source.write_text(f"{functions} int visible(void) {{ return {calls}; }}\n")
    target = tmp_path / "static.so"
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


@given(st.lists(st.tuples(st.integers(5, 1023), st.integers(0, 255)), min_size=1, max_size=8))
@example([(128, 39)])
def test_damaged_files_are_planned(tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[int, int]]) -> None:
    image = bytearray(Path("/bin/true").read_bytes())
    for place, value in damage:
        image[place] = value
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(image)
    plan_of(path)
