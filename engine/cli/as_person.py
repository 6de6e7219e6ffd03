"""Opens a file for a process that is root, with the rights of the person who called. Run as a file of its own, with the standard
library only.

    python -I -S as_person.py SOCKET FLAGS PATH

The descriptor goes to SOCKET, or the errno where it cannot be had. It is a process of its own because rights are those of a whole
process, and the one that asks has threads.
"""

from __future__ import annotations

import os
import socket
import sys

MODE = 0o666


def main(arguments: list[str]) -> None:
    """Open, and hand over."""
    with socket.socket(fileno=int(arguments[0])) as asker:
        try:
            # A FIFO or a device must not hold us up: O_NONBLOCK means nothing for files.
            fd = os.open(arguments[2], int(arguments[1]) | os.O_NONBLOCK | os.O_NOCTTY, MODE)
        except OSError as error:
            asker.send(str(error.errno).encode())
        else:
            socket.send_fds(asker, [b"0"], [fd])


if __name__ == "__main__":
    main(sys.argv[1:])
