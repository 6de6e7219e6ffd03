"""Whether return probes harm processes that have a seccomp filter on this kernel, and which processes those are.

On x86-64 a return probe ends, since Linux 6.11, in a system call of its own (uretprobe, number 335; commit ff474a78cef5).
Filters that do not know it, as those of containers and of systemd's services, refuse it, and the process gets SIGSEGV or SIGSYS,
whether it is captured or not: probes act per file (systemd #34615, opensnitch #1205). Since commit cf6cb56ef244 ("seccomp:
passthrough uretprobe systemcall without filtering", Linux 6.14) filters are not asked about it.
"""

from __future__ import annotations

import contextlib
import functools
import platform
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

from agent import workloads

FIRST = (6, 11)
"""The first release with that system call."""

MENDED = {(6, 12): 14, (6, 13): 3}
"""Of the stable series between, the first releases with the mend (stable queues of 13 February 2025). 6.11 ended before."""

MENDED_FOR_GOOD = (6, 14)
"""The first release with the mend; the first release candidate has it not."""


def filters_break_returns(release: str, machine: str) -> bool:
    """Whether a kernel of this release ends processes whose seccomp filter does not know its system call for return probes.

    Distributions may have mended theirs without another number.
    """
    match = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?(-rc1\b)?", release)
    if match is None or machine != "x86_64":
        return False
    series, patch = (int(match[1]), int(match[2])), int(match[3] or 0)
    if series >= MENDED_FOR_GOOD:
        return series == MENDED_FOR_GOOD and match[4] is not None
    return series >= FIRST and patch < MENDED.get(series, patch + 1)


_URETPROBE = 335

_ASK = """
import ctypes, errno, struct, sys
number, refuse = int(sys.argv[1]), 0x50000 | errno.EPERM  # SECCOMP_RET_ERRNO
parts = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, refuse), (0x06, 0, 0, 0x7FFF0000)]
program = b"".join(struct.pack("HBBI", *part) for part in parts)
kept = ctypes.create_string_buffer(program, len(program))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, struct.pack("HxxxxxxQ", len(parts), ctypes.addressof(kept)), 0, 0) == 0  # PR_SET_SECCOMP
libc.syscall(number)
print("asked" if ctypes.get_errno() == errno.EPERM else "not asked")
"""


def filters_are_asked(number: int = _URETPROBE) -> bool:
    """Whether this kernel asks seccomp filters about a system call: a process of its own refuses it to itself, and tries.

    Where the filter is not asked, the call ends that process (SIGILL), for it does not come from a return probe.
    """
    done = subprocess.run([sys.executable, "-c", _ASK, str(number)], capture_output=True, check=False)
    return done.returncode != -signal.SIGILL and done.stdout != b"not asked\n"


@functools.cache
def returns_are_dangerous() -> bool:
    """Whether a return probe may end a process under a seccomp filter on this kernel: by its release, unless it shows the mend."""
    return filters_break_returns(platform.release(), platform.machine()) and filters_are_asked()


def filtered_processes() -> Iterator[int]:
    """The processes that have a seccomp filter (the field Seccomp of proc(5) status: 1 is strict, 2 a filter)."""
    for pid in workloads.pids():
        with contextlib.suppress(OSError):
            status = (workloads.PROC / str(pid) / "status").read_bytes()
            if re.search(rb"^Seccomp:\s+[12]$", status, re.MULTILINE):
                yield pid


def filtered_user(inode: int) -> int:
    """A process with a seccomp filter that maps a file with this inode; 0 where there is none.

    Devices are not compared: file systems of containers show another one in maps than stat() does.
    """
    for pid in filtered_processes():
        if any(mapping.inode == inode for mapping in workloads.executable_mappings(pid)):
            return pid
    return 0
