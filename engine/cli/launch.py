"""Starts a command as the person who asked for it, when told to. Run as a file of its own, with the standard library only.

    python -I -S launch.py GO ERROR UID GID GROUPS PROGRAM ARGUMENT...

GO and ERROR are pipes' descriptors. First it enters a mount namespace of its own, in which the machine's mounts still show and from
which none goes back, and writes "+" to ERROR, or the errno where it cannot: whether the command starts without is for the other
side to say. From GO comes the environment, NUL-separated, and its end means go; an empty one means that the command shall not
start. To ERROR goes the errno where it cannot. It is a process of its own, and not a fork, because it is placed into its cgroup
while it waits, and a fork of a process with gRPC's threads is not safe.
"""

from __future__ import annotations

import os
import signal
import sys

MOUNTS_READY = b"+"

_CLONE_NEWNS = 0x20000
_MS_REC, _MS_SLAVE = 1 << 14, 1 << 19


def main(arguments: list[str]) -> None:
    """Wait, then become the command."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Ctrl-C while it waits needs no traceback
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    go, error, uid, gid = (int(argument) for argument in arguments[:4])
    _separate_mounts(error)
    groups = [int(group) for group in arguments[4].split(",") if group]
    received = b""
    while part := os.read(go, 65536):
        received += part
    if not received:
        os._exit(125)
    os.close(go)
    environment = dict(entry.split(b"=", 1) for entry in received.split(b"\0") if b"=" in entry)
    # Python ignores these from its start on; a command expects them as they are by default.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    os.set_inheritable(error, False)
    try:
        if os.geteuid() != uid:
            os.setgroups(groups)
            os.setgid(gid)
            os.setuid(uid)
        os.execve(arguments[5], arguments[6:], environment)
    except OSError as failure:
        os.write(error, str(failure.errno).encode())
        os._exit(125)


def _separate_mounts(error: int) -> None:
    import ctypes  # only here: it takes longer than all the rest

    libc = ctypes.CDLL(None, use_errno=True)
    failed = libc.unshare(_CLONE_NEWNS) or libc.mount(None, b"/", None, ctypes.c_ulong(_MS_REC | _MS_SLAVE), None)
    os.write(error, str(ctypes.get_errno()).encode() if failed else MOUNTS_READY)


if __name__ == "__main__":
    main(sys.argv[1:])
