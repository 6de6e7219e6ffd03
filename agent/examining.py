"""Examines files for the agent, in a process that may die of them. A process of its own, with the standard library alone.

    python -I -S -c 'from agent.examining import main; main()' SOCKET

From SOCKET, a pair of SOCK_SEQPACKET, comes a file's descriptor, and back goes the plan as JSON, until the other side is closed. It
has no right of root's, no file but those, and bounds on memory and time, so that a file that was made for it harms nothing else.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import socket
import sys

from agent.kernel.planner import UNKNOWN, Plan, plan

MEMORY_BYTES = 256 << 20
"""Of address space. Blocks of 1 MiB are read; the interpreter itself takes about 40 MiB."""

CPU_SECONDS = 2
"""For one file: node, the slowest seen, takes 0.15 s, and the 190 MiB of an LLVM with rustc 0.03 s."""

DESCRIPTORS = 16
USER = 0x7FFFFF00
"""A user that nobody else is, so that nobody but root can signal or trace this process."""

_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38


def main() -> None:
    """Examine what comes until the agent is gone."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    confine()
    while True:
        message, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
        if not message:
            return
        with contextlib.ExitStack() as stack:
            for fd in descriptors:
                stack.callback(os.close, fd)
            found = answer(descriptors[0])
        channel.send(found)  # with nothing open any more, which would keep the file from being unmounted


def confine() -> None:
    """Give up whatever examining a file does not take."""
    libc = ctypes.CDLL(None)
    os.chdir("/")
    for limit, most in ((resource.RLIMIT_AS, MEMORY_BYTES), (resource.RLIMIT_NOFILE, DESCRIPTORS), (resource.RLIMIT_FSIZE, 0)):
        resource.setrlimit(limit, (most, most))
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):  # a user namespace may not have that user: then as whoever this is
            os.setgroups([])
            os.setgid(USER)
            os.setuid(USER)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def answer(fd: int) -> bytes:
    """Examine a file, within limits; the plan as it is sent."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    until = int(used.ru_utime + used.ru_stime) + CPU_SECONDS + 1
    resource.setrlimit(resource.RLIMIT_CPU, (until, resource.RLIM_INFINITY))  # SIGXCPU ends this process
    try:
        found = plan(fd)
    except MemoryError:
        found = Plan(UNKNOWN, reason=f"examining it takes more than {MEMORY_BYTES >> 20} MiB of memory")
    return encode(found)


def encode(found: Plan) -> bytes:
    """A plan as it is sent: at most some 5 KB, for there are as many sites as known functions."""
    sites = [(site.program, site.function, site.offset, site.cookie, site.returns) for site in found.sites]
    return json.dumps({"kind": found.kind, "reason": found.reason, "sites": sites}).encode()
