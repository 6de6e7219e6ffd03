"""A program that rewrites small files, as one that keeps its state in them, beside traffic or without.

python _openings.py FOLDER      lines in: SECONDS BYTES      lines out: SECONDS_AN_OPENING

For so many seconds; BYTES is the size of a message of the traffic, 0 for none.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

FILES = 50


def rewrite(folder: str, seconds: float) -> float:
    """How long an opening took, on average."""
    opened, took, until = 0, 0.0, time.perf_counter() + seconds
    while (begun := time.perf_counter()) < until:
        fd = os.open(f"{folder}/{opened % FILES}", os.O_CREAT | os.O_WRONLY)
        opened, took = opened + 1, took + time.perf_counter() - begun
        os.write(fd, b"x")
        os.close(fd)
    return took / opened


def talk(size: int) -> None:
    """An upload that does not end, over the loopback."""
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    server, _ = listener.accept()

    def receive() -> None:
        while server.recv(1 << 20):
            pass

    threading.Thread(target=receive, daemon=True).start()
    client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000000\r\n\r\n")
    while True:
        client.sendall(bytes(size))


@contextmanager
def traffic(size: int) -> Iterator[None]:
    """In a process of its own."""
    child = os.fork() if size else 0
    if size and not child:
        talk(size)
    yield
    if child:
        os.kill(child, 9)
        os.waitpid(child, 0)


def main(folder: str) -> None:
    """Do what is told."""
    print("ready", flush=True)
    for line in sys.stdin:
        seconds, size = line.split()
        with traffic(int(size)):
            print(rewrite(folder, float(seconds)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
