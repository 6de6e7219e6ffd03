"""Two processes that send messages to and fro over TLS. Told by lines how often and how large; tells what it took.

python _pingpong.py CERTIFICATE KEY      lines in: ROUNDS SIZE      lines out: WALL_SECONDS CPU_SECONDS
"""

from __future__ import annotations

import os
import socket
import ssl
import sys
import time


def _receive(stream: ssl.SSLSocket, size: int) -> None:
    while size:
        size -= len(stream.recv(min(size, 16384)))


def _serve(end: socket.socket, certificate: str, key: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with context.wrap_socket(end, server_side=True) as stream:
        while head := stream.recv(8):
            rounds, size = int.from_bytes(head[:4], "little"), int.from_bytes(head[4:], "little")
            message = bytes(size)
            for _ in range(rounds):
                _receive(stream, size)
                stream.sendall(message)


def _cpu(child: int) -> float:
    """Of both processes, in seconds: the child's is not waited for, so it is read from /proc."""
    with open(f"/proc/{child}/schedstat") as file:
        theirs = int(file.read().split()[0]) / 1e9
    return theirs + time.process_time()


def main(certificate: str, key: str) -> None:
    """Be both ends."""
    listener = socket.create_server(("127.0.0.1", 0))
    child = os.fork()
    if child == 0:
        end, _ = listener.accept()
        _serve(end, certificate, key)
        os._exit(0)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with context.wrap_socket(socket.create_connection(listener.getsockname())) as stream:
        print("ready", flush=True)
        for line in sys.stdin:
            rounds, size = map(int, line.split())
            message = bytes(size)
            wall, cpu = time.perf_counter(), _cpu(child)
            stream.sendall(rounds.to_bytes(4, "little") + size.to_bytes(4, "little"))
            for _ in range(rounds):
                stream.sendall(message)
                _receive(stream, size)
            print(time.perf_counter() - wall, _cpu(child) - cpu, flush=True)
    os.waitpid(child, 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
