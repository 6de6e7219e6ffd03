"""Early data of TLS 1.3, which a server may refuse. Who is probed uses a private copy of OpenSSL, the other the system's."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
from understudy.v1 import agent_pb2

from agent.attach import system_libraries
from agent.opens import own_mounts
from tests.kernel.conftest import Capturing
from tests.kernel.probing import PROGRAM, READ, WRITE, probing
from tests.kernel.test_tls import OPENSSL, libraries

pytestmark = pytest.mark.kernel
__all__ = ["libraries"]

EARLY = (
    OPENSSL
    + """
done = ctypes.c_size_t()
for name in ("TLS_server_method", "SSL_get1_session", "SSL_get_wbio"):
    getattr(openssl, name).restype = pointer

def answered(path):
    body = f"answer to {path}."
    return f"HTTP/1.1 200 OK\\r\\nContent-Length: {len(body)}\\r\\n\\r\\n{body}".encode()
"""
)

SERVER = (
    EARLY
    + """
pem, how = arguments
context = openssl.SSL_CTX_new(pointer(openssl.TLS_server_method()))
assert openssl.SSL_CTX_use_certificate_chain_file(pointer(context), pem.encode()) == 1
assert openssl.SSL_CTX_use_PrivateKey_file(pointer(context), pem.encode(), 1) == 1
openssl.SSL_CTX_set_max_early_data(pointer(context), 16384)

def answer(ssl, said, call, early):
    while end := said.find(b"\\r\\n\\r\\n") + 1:
        path = said.split()[1].decode()
        print(f"{path} {early}", flush=True)
        text = answered(path)
        assert call(ssl, text, ctypes.c_size_t(len(text)), ctypes.byref(done)) == 1
        said = said[end + 3:]
    assert not said

with socket.create_server(("127.0.0.1", 0)) as listener:
    print(listener.getsockname()[1], flush=True)
    for _ in range(2):
        connection, _ = listener.accept()
        ssl = new()
        assert openssl.SSL_set_fd(ssl, connection.fileno()) == 1
        while how == "accept":
            result = openssl.SSL_read_early_data(ssl, buffer, ctypes.c_size_t(65536), ctypes.byref(done))
            assert result in (1, 2)
            answer(ssl, buffer.raw[:done.value], openssl.SSL_write_early_data, "early")
            if result == 2:
                break
        assert openssl.SSL_accept(ssl) == 1
        while (length := openssl.SSL_read(ssl, buffer, 65536)) > 0:
            answer(ssl, buffer.raw[:length], openssl.SSL_write_ex, "")
        openssl.SSL_shutdown(ssl)  # else the session cannot be resumed
        openssl.SSL_free(ssl)
        connection.close()
"""
)
"""Answers two connections, and prints which requests came, as it was told by the library."""

CLIENT = (
    EARLY
    + """
port, *steps = arguments

def early(path):
    text = f"GET {path} HTTP/1.1\\r\\nHost: peer\\r\\n\\r\\n".encode()
    result = openssl.SSL_write_early_data(ssl, text, ctypes.c_size_t(len(text)), ctypes.byref(done))
    assert (result, done.value) == (1, len(text)) if not hindered else result == 0

def connected():
    assert openssl.SSL_connect(ssl) == 1

def status(expected):
    assert openssl.SSL_get_early_data_status(ssl) == {"rejected": 1, "accepted": 2}[expected]

def write(path):
    text = f"GET {path} HTTP/1.1\\r\\nHost: peer\\r\\n\\r\\n".encode()
    assert openssl.SSL_write(ssl, text, len(text)) == len(text)

def read(path):
    said = b""
    while not said.endswith(b"."):
        length = openssl.SSL_read(ssl, buffer, 65536)
        assert length > 0
        said += buffer.raw[:length]
    assert said == answered(path)

def get(path):
    write(path)
    read(path)

number, long = ctypes.c_int, ctypes.c_long

@ctypes.CFUNCTYPE(long, pointer, number, pointer, ctypes.c_size_t, number, long, number, pointer)
def refuse_writes(bio, operation, data, length, which, argument, result, processed):
    return -1 if hindered and operation == 3 else result  # BIO_CB_WRITE

hindered = False
ssl = new()
connection = handshake(ssl, port)
get("/first")
session = pointer(openssl.SSL_get1_session(ssl))
openssl.SSL_shutdown(ssl)
openssl.SSL_free(ssl)
connection.close()
ssl = new()
connection = connect(port)
assert openssl.SSL_set_fd(ssl, connection.fileno()) == 1
assert openssl.SSL_set_session(ssl, session) == 1
openssl.BIO_set_callback_ex(pointer(openssl.SSL_get_wbio(ssl)), refuse_writes)
for step in steps:
    what, _, word = step.partition(" ")
    if what == "hinder":
        hindered = True
    elif what == "help":
        hindered = False
    else:
        globals()[what](*([word] if word else []))
openssl.SSL_shutdown(ssl)
openssl.SSL_free(ssl)
connection.close()
"""
)
"""Resumes a session, and takes steps on the new connection; checks that each answer is that of its question."""

REST = ["get /1", "get /2", "get /3"]


def system() -> list[Path]:
    """The system's libcrypto and libssl."""
    return sorted(Path(path) for path in system_libraries() if path.endswith(".so.3"))


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    """The key and the certificate of a server."""
    path = tmp_path / "server.pem"
    trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(path))
    return path


@contextlib.contextmanager
def answering(pem: Path, how: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server that accepts early data or refuses it, and its port; what it prints is whom it answered."""
    command = [sys.executable, "-c", PROGRAM + SERVER, *map(str, (*system(), pem, how))]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin
    assert process.stdout
    try:
        process.stdin.write("\n")
        process.stdin.flush()
        yield process.stdout.readline().strip(), process
    finally:
        process.kill()
        process.communicate()


def asked(*paths: str) -> bytes:
    return b"".join(f"GET {path} HTTP/1.1\r\nHost: peer\r\n\r\n".encode() for path in paths)


def answered(*paths: str) -> bytes:
    bodies = (f"answer to {path}." for path in paths)
    return b"".join(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode() for body in bodies)


CASES = {
    "accepted": ("accept", ["early /0", "connected", "status accepted", "read /0", *REST], ["/0", "/1", "/2", "/3"], 0),
    "accepted and not asked": ("accept", ["early /0", "connected", "read /0", *REST], ["/1", "/2", "/3"], 1),
    "refused": ("refuse", ["early /0", "connected", "status rejected", "get /0", *REST], ["/1", "/2", "/3"], 1),
    "refused and not asked": ("refuse", ["early /0", "get /0", *REST], ["/1", "/2", "/3"], 1),
    "asked before it was answered": (
        "accept",
        ["early /0", "status rejected", "early /00", "connected", "status accepted", "read /0", "read /00", *REST],
        ["/0", "/00", "/1", "/2", "/3"],
        0,
    ),
}
"""How the server takes it, what the client does, which pairs are complete at least, and how many starts are unknown."""


@pytest.mark.parametrize("case", CASES)
def test_no_pair_is_wrong_after_early_data(
    capturing: Callable[..., Capturing], libraries: list[Path], pem: Path, case: str
) -> None:
    how, steps, whole, unknown_starts = CASES[case]
    with answering(pem, how) as (port, server):
        words = [*map(str, libraries), port, *steps]
        client = subprocess.Popen(
            ["unshare", "--mount", sys.executable, "-c", PROGRAM + CLIENT, *words], stdin=subprocess.PIPE, text=True
        )
        while not own_mounts(client.pid):
            assert client.poll() is None
        capture = capturing()
        capture.start(agent_pb2.Target(launched_pid=client.pid))
        client.communicate("\n", timeout=30)
        assert client.returncode == 0
        assert server.stdout
        told = server.stdout.read().split("\n")
    ledger = capture.stop()
    with capture.snapshot() as snapshot:
        pairs = [pair for pair in snapshot.pairs() if pair.complete]
    assert all(pair.response and pair.response.body == f"answer to {pair.path}.".encode() for pair in pairs)
    paths = [pair.path for pair in pairs]
    assert len(set(paths)) == len(paths)
    assert {"/first", *whole} <= set(paths)
    assert (ledger.unknown_starts, ledger.missed_runs, ledger.lost) == (unknown_starts, 0, 0)
    assert [line.split()[0] for line in told if line] == ["/first", *answers(steps)]


def answers(steps: list[str]) -> list[str]:
    """The paths that a client got an answer to, in order."""
    return [path for what, _, path in (step.partition(" ") for step in steps) if what in ("read", "get")]


def test_early_data_whose_flush_is_tried_again_is_carried_once(libraries: list[Path], pem: Path) -> None:
    """The library has taken the bytes when its first attempt to send them fails."""
    steps = ["hinder", "early /0", "help", "early /0", "connected", "status accepted", "read /0", "get /1"]
    with answering(pem, "accept") as (port, _), probing() as probes:
        probes.attach(*libraries)
        probes.run(CLIENT, *libraries, port, *steps)
        assert [opened.start_known for opened in probes.opened()] == [True, True]
        assert probes.said(WRITE) == asked("/first", "/0", "/1")
        assert probes.said(READ) == answered("/first", "/0", "/1")
        probes.check_ledger()


@pytest.mark.parametrize("how", ["accept", "refuse"])
def test_a_server_is_given_early_data_that_it_accepted_only(libraries: list[Path], pem: Path, how: str) -> None:
    """And what it writes before the handshake has ended cannot be refused."""
    accepts = how == "accept"
    steps = ["early /0", "connected", "read /0" if accepts else "get /0", "get /1"]
    with probing() as probes:
        probes.attach(*libraries)
        server = probes.start(SERVER, *libraries, pem, how)
        assert server.stdout
        words = map(str, (*system(), server.stdout.readline().strip(), *steps))
        subprocess.run([sys.executable, "-c", PROGRAM + CLIENT, *words], input="\n", text=True, check=True, timeout=60)
        told = server.communicate(timeout=60)[0]
        assert told.split("\n")[1] == ("/0 early" if accepts else "/0 ")
        probes.take()
        assert [opened.start_known for opened in probes.opened()] == [True, True]
        assert (probes.said(READ), probes.said(WRITE)) == (asked("/first", "/0", "/1"), answered("/first", "/0", "/1"))
        probes.check_ledger()
