"""Keeps captured plaintext out of core dumps."""

from __future__ import annotations

import ctypes
import os

_PR_SET_DUMPABLE = 4


def forbid_core_dumps() -> None:
    """Have the kernel write no core of this process: it holds secrets that are not redacted yet. Raises OSError.

    A resource limit would not do, since cores that go to a program (systemd-coredump, apport) do not heed it. With it goes
    that other processes of the same user cannot attach to this one.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, f"core dumps cannot be forbidden: {os.strerror(number)}")
