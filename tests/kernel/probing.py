"""The probes alone, in this process: programs are run as their target, and what they tell is compared with what the peers count."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from agent.events import Counter
from agent.kernel.planner import plan
from agent.kernel.probes import Attached, CoreProbes
from agent.streams import News, StreamChunk, StreamClosed, StreamGap, StreamOpened, StreamOrphaned, Streams

TIMEOUT = 20.0
CAPTURE = 1
READ, WRITE = 0, 1

PROGRAM = '''
import ctypes, os, select, socket, sys
sys.stdin.readline()
libc = ctypes.CDLL(None, use_errno=True)
arguments = sys.argv[1:]

class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]

class Message(ctypes.Structure):
    """struct msghdr"""
    _fields_ = [("name", ctypes.c_void_p), ("name_length", ctypes.c_uint), ("vector", ctypes.POINTER(Vector)),
                ("count", ctypes.c_size_t), ("control", ctypes.c_void_p), ("control_length", ctypes.c_size_t),
                ("flags", ctypes.c_int)]

class ManyMessage(ctypes.Structure):
    """struct mmsghdr"""
    _fields_ = [("message", Message), ("length", ctypes.c_uint)]

def connect(port=None, protocol=0):
    connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM, protocol)
    connection.connect(("127.0.0.1", int(port or arguments[0])))
    return connection

def read_all(connection):
    while connection.recv(65536):
        pass
'''


class Probing:
    """Loaded probes, and everything that they told."""

    def __init__(self, ring_bytes: int = 4 << 20, *, sessions: bool | None = None, probe_filtered: bool = False) -> None:
        self.probes = CoreProbes(ring_bytes, sessions=sessions, probe_filtered=probe_filtered)
        self.streams = Streams()
        self.news: list[News] = []
        self._processes: list[subprocess.Popen[str]] = []
        self._attached: list[Attached] = []

    def close(self) -> None:
        """Unload, and end what a failed test left."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.communicate()
        self.probes.close()

    def attach(self, *libraries: Path) -> None:
        """Probe files."""
        for library in libraries:
            with library.open("rb") as file:
                found = plan(file.fileno())
                assert found.sites
                self._attached.append(self.probes.attach(str(library), found.sites))

    def detach(self) -> None:
        """Take the probes off what is probed."""
        for attached in self._attached:
            attached.close()
        self._attached.clear()

    def start(
        self, source: str, *arguments: object, before: list[str] | None = None, recorded: bool = True
    ) -> subprocess.Popen[str]:
        """Start a Python program as the target, or a bystander; it waits until it is one."""
        command = [*(before or []), sys.executable, "-c", PROGRAM + source, *map(str, arguments)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._processes.append(process)
        if recorded:
            self.probes.target_process(process.pid, CAPTURE)
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
        return process

    def run(self, source: str, *arguments: object) -> str:
        """Run a program to its end, and take what was told; returns what it printed."""
        process = self.start(source, *arguments)
        output, _ = process.communicate(timeout=TIMEOUT)
        assert process.returncode == 0
        self.take()
        return output.strip()

    def take(self) -> None:
        """Take what waits in the ring."""
        while records := self.probes.read_events(1 << 20):
            for record in records:
                for item in self.streams.take(record):
                    if isinstance(item, StreamOrphaned):
                        entry = self.probes.take_tls_stream(item.key)
                        self.news += self.streams.settle(entry, time.monotonic_ns(), self.probes.epoch) if entry else []
                    else:
                        self.news.append(item)

    def opened(self) -> list[StreamOpened]:
        """The streams, in the order in which they began."""
        return [item for item in self.news if isinstance(item, StreamOpened)]

    def wait_for_ends(self) -> None:
        """Take news until every stream has ended: a connection's last packets may be under way when its program has."""
        deadline = time.monotonic() + TIMEOUT
        self.take()
        while len(self.streams):
            assert time.monotonic() < deadline
            self.probes.wait_for_events(0.01)
            self.take()

    def only(self) -> StreamOpened:
        """The one stream that there is, which was seen from beginning to end."""
        self.wait_for_ends()
        (found,) = self.opened()
        assert found.start_known
        assert isinstance(self.news[-1], StreamClosed)
        return found

    def said(self, direction: int, stream: int | None = None) -> bytes:
        """The bytes of a direction, of one stream or all."""
        return b"".join(
            item.data
            for item in self.news
            if isinstance(item, StreamChunk) and item.direction == direction and stream in (None, item.stream)
        )

    def gaps(self, direction: int) -> int:
        """The bytes of a direction that are missing."""
        return sum(item.length for item in self.news if isinstance(item, StreamGap) and item.direction == direction)

    def passed(self, direction: int) -> int:
        """All bytes of a direction, whether they could be read or not."""
        return len(self.said(direction)) + self.gaps(direction)

    def check_ledger(self) -> None:
        """Seen is delivered and lost, in the kernel's account, and the news agree with it."""
        count = self.probes.counter
        lost = sum(map(count, (Counter.LOST_RING, Counter.LOST_FAULT, Counter.LOST_UNREADABLE, Counter.UNATTRIBUTED)))
        delivered = len(self.said(READ)) + len(self.said(WRITE))
        assert count(Counter.SEEN) == count(Counter.DELIVERED) + lost
        assert count(Counter.DELIVERED) == delivered
        assert self.gaps(READ) + self.gaps(WRITE) == lost
        if not len(self.streams):
            tallies = [tally for item in self.news if isinstance(item, StreamClosed) for tally in item.tally]
            assert sum(tally.seen for tally in tallies) == count(Counter.SEEN)
            assert sum(tally.lost for tally in tallies) == lost
        assert self.probes.missed().calls == self.probes.missed().runs == 0


@contextlib.contextmanager
def probing(ring_bytes: int = 4 << 20, *, sessions: bool | None = None, probe_filtered: bool = False) -> Iterator[Probing]:
    """Probes for a test."""
    made = Probing(ring_bytes, sessions=sessions, probe_filtered=probe_filtered)
    try:
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def serving(serve: Callable[[socket.socket], None], protocol: int = 0) -> Iterator[int]:
    """A peer on the loopback that serves each connection in a thread; yields its port. What failed there fails here."""
    errors: list[BaseException] = []
    threads: list[threading.Thread] = []
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, protocol)
    listener.bind(("127.0.0.1", 0))
    listener.listen()

    def one(connection: socket.socket) -> None:
        try:
            with connection:
                connection.settimeout(TIMEOUT)
                serve(connection)
        except BaseException as error:  # told below
            errors.append(error)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                thread = threading.Thread(target=one, args=(listener.accept()[0],), daemon=True)
                thread.start()
                threads.append(thread)

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        accepting.join(TIMEOUT)
        for thread in threads:
            thread.join(TIMEOUT)
    assert not errors, errors


def read_to_end(connection: socket.socket) -> bytes:
    """All that the other side says."""
    data = b""
    while part := connection.recv(1 << 20):
        data += part
    return data


def read_exactly(connection: socket.socket, length: int) -> bytes:
    """So many bytes."""
    data = b""
    while len(data) < length:
        part = connection.recv(length - len(data))
        assert part
        data += part
    return data
