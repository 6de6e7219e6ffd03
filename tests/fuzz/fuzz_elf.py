"""Files of workloads on their way to a plan: nothing raises, no place lies outside of the file, and what is read is bounded."""

from __future__ import annotations

import os
from typing import Any
from unittest import mock

from agent.kernel import planner

_pread = os.pread


def one(data: bytes) -> None:
    """An input is a file. Bounds are made small, so that inputs reach them."""
    read = 0

    def counting(fd: int, length: int, offset: int) -> bytes:
        nonlocal read
        found = _pread(fd, length, offset)
        read += len(found)
        return found

    bounds: dict[str, Any] = {
        "SECTIONS_MAX": 64,
        "STRINGS_BYTES": 8192,
        "SYMBOLS_BYTES": 8192,
        "SEARCHED_BYTES": 16384,
        "NAMES_MAX": 64,
    }
    fd = os.memfd_create("input")
    try:
        os.write(fd, data)
        with mock.patch.object(os, "pread", counting), mock.patch.multiple(planner, _BLOCK=1024, **bounds):
            found = planner.plan(fd)
    finally:
        os.close(fd)
    _check(found, data)
    # Symbol tables and their strings, each block with the beginning of the next; constants, searched twice; headers.
    assert read <= planner.SYMBOL_TABLES_MAX * 2 * 8192 * 2 + 2 * 16384 + 4 * len(data) + 65536, read


def _check(found: planner.Plan, data: bytes) -> None:
    assert all(0 <= site.offset < len(data) for site in found.sites)
    assert len({(site.program, site.offset, site.function) for site in found.sites}) == len(found.sites)
    assert not found.capturable or found.kind == "OpenSSL family"
    assert bool(found.reason) == (bool(found.kind) and not found.capturable)
    assert planner.executable_elf(data) or found == planner.Plan()
