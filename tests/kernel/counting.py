"""A TLS server that counts every byte of plaintext, and a client that does one exchange for each line it is told."""

from __future__ import annotations

import hashlib
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType

CLIENT = """
import sys
sys.stdin.readline()
import http.client, ssl
port, ca = int(sys.argv[1]), sys.argv[2]
connection = http.client.HTTPSConnection("localhost", port, context=ssl.create_default_context(cafile=ca))
count = 0
print("connected", flush=True)
for line in sys.stdin:
    for size in map(int, line.split()):
        count += 1
        connection.request("POST", f"/{count}", body=bytes(str(count % 10), "ascii") * size)
        answer = connection.getresponse().read()
    print(count, flush=True)
"""


class Client:
    """The client, as a process."""

    def __init__(self, port: int, ca: Path, python: str = sys.executable) -> None:
        command = [python, "-c", CLIENT, str(port), str(ca)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def say(self, line: str) -> None:
        """Tell it to go on."""
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        """What it says when it has."""
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        """Let it end."""
        self.process.communicate(timeout=60)
        assert self.process.returncode == 0


class CountingServer:
    """Answers each POST with its body reversed in case: as many bytes. Counts what it received and sent."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.bytes = 0
        self.bodies: dict[str, str] = {}
        self.hold = threading.Event()
        self.hold.set()
        self.asked = threading.Semaphore(0)

    def __enter__(self) -> CountingServer:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with self._context.wrap_socket(connection, server_side=True) as stream, stream.makefile("rb") as reader:
            while line := reader.readline():
                head = line
                while (field := reader.readline()) != b"\r\n":
                    head += field
                length = next(int(f.split(b":")[1]) for f in head.split(b"\r\n") if f.lower().startswith(b"content-length:"))
                body = reader.read(length)
                self.bodies[line.split()[1].decode()] = hashlib.sha256(body).hexdigest()
                self.asked.release()
                self.hold.wait(60)
                answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (length, body)
                self.bytes += len(head) + 2 + length + len(answer)
                stream.sendall(answer)
