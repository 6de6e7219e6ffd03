"""TLS that passes while nobody looks: its probes are off, or its process is no target. What follows is another stream."""

from __future__ import annotations

import contextlib
import os
import ssl
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import agent.kernel.probes
from agent import workloads
from agent.events import Counter, Source
from agent.kernel.libbpf import Link
from agent.kernel.probes import CoreProbes, cgroup_id
from agent.streams import StreamBound, StreamClosed, StreamHalfClosed, StreamOpened
from agent.workloads import Cgroup
from tests.kernel.probing import CAPTURE, READ, WRITE, Probing, probing, serving
from tests.kernel.test_tls import OPENSSL, Serve, answered, asked, libraries, over_tls, streams_with_bytes, talk

__all__ = ["libraries", "over_tls"]

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(120)]

STEPS = (
    OPENSSL
    + """
integer, long = ctypes.c_int, ctypes.c_long
openssl.SSL_get_rbio.restype = ctypes.c_void_p

def write(data):
    assert openssl.SSL_write(ssl, data.encode(), len(data)) == len(data)

def read(left):
    left = int(left)
    while left:
        length = openssl.SSL_read(ssl, buffer, left)
        assert length > 0
        left -= length

def read_paused(left):
    # Within the library, on its way to the socket, it waits for a line.
    waiting = True

    @ctypes.CFUNCTYPE(long, pointer, integer, pointer, ctypes.c_size_t, integer, long, integer, pointer)
    def pause(bio, operation, *arguments):
        nonlocal waiting
        if waiting and operation == 2:  # BIO_CB_READ
            waiting = False
            print("within", flush=True)
            sys.stdin.readline()
        return arguments[4]

    transport = pointer(openssl.SSL_get_rbio(ssl))
    openssl.BIO_set_callback_ex(transport, pause)
    read(left)
    openssl.BIO_set_callback_ex(transport, None)

def another_buffer():
    global buffer
    buffer = ctypes.create_string_buffer(65536)

def further_in(step, *arguments):
    list(map(globals()[step], *((argument,) for argument in arguments)))

def renew():
    global ssl
    before = ssl.value
    openssl.SSL_free(ssl)
    ssl = new()
    assert ssl.value == before

def clear():
    openssl.SSL_clear(ssl)

def shake(port):
    global connection
    connection = handshake(ssl, port)

def meet_end():
    assert openssl.SSL_read(ssl, buffer, 100) <= 0
    assert openssl.SSL_get_error(ssl, 0) == 6  # SSL_ERROR_ZERO_RETURN

ssl = new()
shake(arguments[0])
for line in sys.stdin:
    globals()[line.split()[0]](*eval(line.partition(" ")[2] or "()"))
    print("done", flush=True)
"""
)


class Client:
    """A program that does one step at a time."""

    def __init__(self, probes: Probing, files: list[Path], port: int) -> None:
        self.probes, self.files = probes, files
        self.process = probes.start(STEPS, *files, port)

    def do(self, step: str, *arguments: object, then: str = "done") -> None:
        """Have it done, and wait for that."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{step} {arguments!r}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == f"{then}\n"

    def exchange(self, number: int) -> None:
        """Ask, and read the answer."""
        self.do("write", asked(number).decode())
        self.do("read", len(answered(number)))

    def end(self) -> None:
        """End, and take what was told."""
        self.process.communicate(timeout=60)
        assert self.process.returncode == 0
        self.probes.wait_for_ends()


Unseen = Callable[[Client, Cgroup], contextlib.AbstractContextManager[None]]
"""Given a client that has said nothing yet, and an empty cgroup: within, nothing of it is seen."""


@contextlib.contextmanager
def without_probes(client: Client, _: Cgroup) -> Iterator[None]:
    """As when the library is written to, and then loaded by somebody else."""
    client.probes.detach()
    yield
    client.probes.attach(*client.files)


@contextlib.contextmanager
def as_no_target(client: Client, _: Cgroup) -> Iterator[None]:
    client.probes.probes.forget_process(client.process.pid)
    yield
    client.probes.probes.target_process(client.process.pid, CAPTURE)


def out_of_its_cgroup(client: Client, cgroup: Cgroup) -> contextlib.AbstractContextManager[None]:
    """Which is the target, and not the process."""
    pid = client.process.pid
    cgroup.adopt(pid)
    client.probes.probes.target_cgroup(cgroup_id(str(cgroup.path)), workloads.depth(cgroup.path), CAPTURE)
    client.probes.probes.forget_process(pid)

    @contextlib.contextmanager
    def away() -> Iterator[None]:
        Cgroup(cgroup.path.parent).adopt(pid)
        yield
        cgroup.adopt(pid)

    return away()


UNSEEN = pytest.mark.parametrize("unseen", [without_probes, as_no_target, out_of_its_cgroup])


@pytest.fixture
def cgroup() -> Iterator[Cgroup]:
    """One of its own below that of the tests."""
    mount = workloads.cgroup_mount()
    assert mount
    made = Cgroup.for_launched(mount, uuid.uuid4().hex, os.getpid())
    yield made
    assert made.remove()


@pytest.fixture
def probes(cgroup: Cgroup, libraries: list[Path]) -> Iterator[Probing]:
    with probing() as made:
        made.attach(*libraries)
        yield made


def tls_streams(probes: Probing) -> list[StreamOpened]:
    return [opened for opened in probes.opened() if opened.source is Source.TLS]


@UNSEEN
def test_what_passes_unseen_is_no_part_of_a_stream(
    probes: Probing, libraries: list[Path], over_tls: Serve, cgroup: Cgroup, unseen: Unseen
) -> None:
    """The rest of an answer and the next exchange: in one stream, another answer would be that rest."""
    with serving(over_tls(talk)) as port:
        client = Client(probes, libraries, port)
        nobody_looks = unseen(client, cgroup)
        client.exchange(1)
        client.do("write", asked(2).decode())
        client.do("read", 10)
        with nobody_looks:
            client.do("read", len(answered(2)) - 10)
            client.exchange(3)
        client.exchange(4)
        client.end()
    first, second = (opened.stream for opened in tls_streams(probes))
    assert (probes.said(WRITE, first), probes.said(READ, first)) == (asked(1) + asked(2), answered(1) + answered(2)[:10])
    assert (probes.said(WRITE, second), probes.said(READ, second)) == (asked(4), answered(4))
    assert [opened.start_known for opened in tls_streams(probes)] == [True, False]
    closed = {item.stream: item.cut for item in probes.news if isinstance(item, StreamClosed)}
    assert (closed[first], closed[second]) == (True, False)
    facts = {item.stream: item.facts.remote for item in probes.news if isinstance(item, StreamBound)}
    assert (facts[first], facts[second]) == (("127.0.0.1", port),) * 2


@pytest.mark.parametrize("buffer", ["same buffer", "another buffer"])
@pytest.mark.parametrize("place", ["same depth", "further in", "further out"])
def test_a_call_that_returns_unseen_is_not_the_next_one(
    probes: Probing, libraries: list[Path], over_tls: Serve, place: str, buffer: str
) -> None:
    """By the same function at the same place: the next one's length is not that of the first one's bytes.

    What is written in between is written further in, where it does not show that the call is over.
    """
    further_in = ("further_in",)
    before, after = {"same depth": ((), ()), "further in": ((), further_in), "further out": (further_in, ())}[place]
    with serving(over_tls(talk)) as port:
        client = Client(probes, libraries, port)
        client.exchange(1)
        client.do("write", asked(2).decode())
        client.do(*before, "read_paused", len(answered(2)), then="within")
        probes.detach()
        client.do("go on")
        probes.attach(*libraries)
        if buffer == "another buffer":
            client.do("another_buffer")
        for number in (3, 4):
            client.do("further_in", "further_in", "write", asked(number).decode())
            client.do(*after, "read_paused", len(answered(number)), then="within")
            client.do("go on")
        client.end()
    first, second = streams_with_bytes(probes)
    assert (probes.said(WRITE, first), probes.said(READ, first)) == (asked(1) + asked(2), answered(1))
    assert (probes.said(WRITE, second), probes.said(READ, second)) == (asked(3) + asked(4), answered(3) + answered(4))
    assert [opened.start_known for opened in tls_streams(probes)] == [True, False]
    assert probes.probes.counter(Counter.CALLS_UNRETURNED) == 1


def test_a_call_that_began_unseen_is_not_the_one_before(
    libraries: list[Path], over_tls: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One returned while the probes were off, the next one begins while they are being put on, and returns when that is done.

    A session spares the return of a call whose entry it did not listen to.
    """
    links_to = CoreProbes._links_to

    def attach_slowly(*arguments: Any) -> list[Link]:
        links = links_to(*arguments)
        client.do("another_buffer")
        client.do("further_in", "further_in", "write", asked(2).decode())
        client.do("read_paused", len(answered(2)), then="within")
        return links

    libcrypto, libssl = libraries
    with serving(over_tls(talk)) as port, probing(sessions=False) as probes:
        probes.attach(*libraries)
        client = Client(probes, libraries, port)
        client.do("write", asked(1).decode())
        client.do("read_paused", len(answered(1)), then="within")
        probes.detach()
        client.do("go on")
        probes.attach(libcrypto)
        with monkeypatch.context() as patched:
            patched.setattr(CoreProbes, "_links_to", attach_slowly)
            probes.attach(libssl)
        client.do("go on")
        client.exchange(3)
        client.end()
        first, second = streams_with_bytes(probes)
        assert (probes.said(WRITE, first), probes.said(READ, first)) == (asked(1), b"")
        assert (probes.said(WRITE, second), probes.said(READ, second)) == (asked(3), answered(3))


def test_what_follows_in_another_capture_is_a_stream_of_that(probes: Probing, libraries: list[Path], over_tls: Serve) -> None:
    """A process that moves from one capture's cgroup to another's, with a connection open."""
    with serving(over_tls(talk)) as port:
        client = Client(probes, libraries, port)
        client.exchange(1)
        probes.probes.target_process(client.process.pid, CAPTURE + 1)
        client.exchange(2)
        client.exchange(3)
        client.end()
    first, second = tls_streams(probes)
    assert [(opened.capture, opened.start_known) for opened in (first, second)] == [(CAPTURE, True), (CAPTURE + 1, False)]
    assert (probes.said(WRITE, first.stream), probes.said(READ, first.stream)) == (asked(1), answered(1))
    assert (probes.said(WRITE, second.stream), probes.said(READ, second.stream)) == (asked(2) + asked(3), answered(2) + answered(3))
    closed = {item.stream: item.cut for item in probes.news if isinstance(item, StreamClosed)}
    assert (closed[first.stream], closed[second.stream]) == (True, False)


@UNSEEN
@pytest.mark.parametrize("anew", ["renew", "clear"])
def test_a_pointer_that_is_used_again_unseen_is_another_connection(
    probes: Probing, libraries: list[Path], over_tls: Serve, cgroup: Cgroup, unseen: Unseen, anew: str
) -> None:
    """It says nothing unseen, but it is another one's now."""
    with serving(over_tls(talk)) as before, serving(over_tls(talk)) as after:
        client = Client(probes, libraries, before)
        nobody_looks = unseen(client, cgroup)
        client.exchange(1)
        with nobody_looks:
            client.do(anew)
            client.do("shake", after)
        client.exchange(2)
        client.end()
    streams = streams_with_bytes(probes)
    for stream, number, port in zip(streams, (1, 2), (before, after), strict=True):
        assert (probes.said(WRITE, stream), probes.said(READ, stream)) == (asked(number), answered(number))
        facts = [item.facts.remote for item in probes.news if isinstance(item, StreamBound) and item.stream == stream]
        assert set(facts) == {("127.0.0.1", port)}


@UNSEEN
def test_an_end_that_is_met_unseen_is_not_that_of_what_was_seen(
    probes: Probing, libraries: list[Path], over_tls: Serve, cgroup: Cgroup, unseen: Unseen
) -> None:
    """A body that lasts to the end of its connection would be whole without its rest."""

    def serve(stream: ssl.SSLSocket) -> None:
        stream.sendall(b"to the end")
        stream.unwrap()

    with serving(over_tls(serve)) as port:
        client = Client(probes, libraries, port)
        nobody_looks = unseen(client, cgroup)
        client.do("read", 6)
        with nobody_looks:
            client.do("read", 4)
        client.do("meet_end")
        client.end()
    first = tls_streams(probes)[0].stream
    assert probes.said(READ) == probes.said(READ, first) == b"to the"
    assert not [item for item in probes.news if isinstance(item, StreamHalfClosed) and item.stream == first]
    assert [item.cut for item in probes.news if isinstance(item, StreamClosed) and item.stream == first] == [True]


@pytest.mark.parametrize("still", ["attached", "taken off"])
def test_some_of_a_files_probes_tell_nothing(
    libraries: list[Path], over_tls: Serve, still: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While others are still being attached, or taken off: they would show some of a stream's calls, and let others pass unseen."""
    close_all, links_to = agent.kernel.probes.close_all, CoreProbes._links_to

    def attach_slowly(*arguments: Any) -> list[Link]:
        links = links_to(*arguments)
        client.exchange(2)
        return links

    def close_slowly(links: Sequence[Link]) -> None:
        client.exchange(2)
        close_all(links)

    _, libssl = libraries
    with probing() as probes, serving(over_tls(talk)) as port:
        probes.attach(libssl)
        client = Client(probes, libraries, port)
        client.exchange(1)
        with monkeypatch.context() as patched:
            if still == "taken off":
                patched.setattr(agent.kernel.probes, "close_all", close_slowly)
            probes.detach()
            if still == "attached":
                patched.setattr(CoreProbes, "_links_to", attach_slowly)
            probes.attach(libssl)
        client.exchange(3)
        client.end()
    streams = streams_with_bytes(probes)
    for stream, number in zip(streams, (1, 3), strict=True):
        assert (probes.said(WRITE, stream), probes.said(READ, stream)) == (asked(number), answered(number))
