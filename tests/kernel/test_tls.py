"""TLS libraries: what is a stream, where it ends, which socket carries it. By a private copy of OpenSSL, which nobody else maps."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.bindings import _rust
from elftools.elf.elffile import ELFFile
from understudy.v1 import agent_pb2

from agent.attach import system_libraries
from agent.events import Counter, Source
from agent.kernel import libbpf, seccomp
from agent.opens import own_mounts
from agent.streams import StreamBound, StreamChunk, StreamClosed, StreamHalfClosed
from tests.e2e.conftest import Authority
from tests.kernel.conftest import Capturing
from tests.kernel.probing import CAPTURE, PROGRAM, READ, WRITE, Probing, probing, read_exactly, serving

pytestmark = pytest.mark.kernel

QUESTION, ANSWER = b"GET / HTTP/1.1\r\nHost: peer\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

BOUND_NESTED, BOUND_CIPHERTEXT = 2, 3
"""enum bind_method of probes/events.h."""

OPENSSL = f"""
ctypes.CDLL(arguments[0], ctypes.RTLD_GLOBAL)
openssl = ctypes.CDLL(arguments[1])
arguments = arguments[2:]
for name in ("TLS_client_method", "SSL_CTX_new", "SSL_new"):
    getattr(openssl, name).restype = ctypes.c_void_p
pointer = ctypes.c_void_p
context = openssl.SSL_CTX_new(pointer(openssl.TLS_client_method()))
buffer = ctypes.create_string_buffer(65536)

def new():
    return pointer(openssl.SSL_new(pointer(context)))

def handshake(ssl, port):
    connection = connect(port)
    assert openssl.SSL_set_fd(ssl, connection.fileno()) == 1
    assert openssl.SSL_connect(ssl) == 1
    return connection

def ask(ssl):
    assert openssl.SSL_write(ssl, {QUESTION!r}, {len(QUESTION)}) == {len(QUESTION)}
    assert openssl.SSL_read(ssl, buffer, 1) == 1
    nothing = openssl.SSL_read(ssl, buffer, 0)
    assert nothing <= 0
    openssl.SSL_get_error(ssl, nothing)
    left = {len(ANSWER)} - 1
    while left:
        length = openssl.SSL_read(ssl, buffer, left)
        assert length > 0
        left -= length
"""


@pytest.fixture
def libraries(tmp_path: Path) -> list[Path]:
    """Copies of libcrypto and libssl, in this order."""
    found = [Path(path) for path in system_libraries() if path.endswith(".so.3")]
    return [Path(shutil.copy(path, tmp_path)) for path in sorted(found)]


@pytest.fixture
def probes(libraries: list[Path]) -> Iterator[Probing]:
    with probing() as made:
        made.attach(*libraries)
        yield made


@pytest.fixture
def run(probes: Probing, libraries: list[Path]) -> Callable[..., str]:
    """Runs a program that uses the copies."""
    return lambda source, *arguments: probes.run(OPENSSL + source, *libraries, *arguments)


Serve = Callable[[Callable[[ssl.SSLSocket], None]], Callable[[socket.socket], None]]


@pytest.fixture
def over_tls(authority: Authority) -> Serve:
    """Makes what serves a TLS connection into what serves a connection."""

    def wrap(serve: Callable[[ssl.SSLSocket], None]) -> Callable[[socket.socket], None]:
        def wrapped(connection: socket.socket) -> None:
            with authority.context.wrap_socket(connection, server_side=True, suppress_ragged_eofs=True) as stream:
                serve(stream)

        return wrapped

    return wrap


def answer(stream: ssl.SSLSocket) -> None:
    """Answers every question. Who closes without having read the session tickets resets the connection."""
    with contextlib.suppress(ConnectionResetError):
        while first := stream.recv(1):
            assert first + read_exactly(stream, len(QUESTION) - 1) == QUESTION
            stream.sendall(ANSWER)


def streams_with_bytes(probes: Probing) -> list[int]:
    """In their order."""
    return list(dict.fromkeys(item.stream for item in probes.news if isinstance(item, StreamChunk)))


def check_exchange(probes: Probing, stream: int, port: int, method: int = BOUND_NESTED) -> None:
    """A stream with a question and its answer, seen from its start, and bound once: to a connection with the port."""
    assert (probes.said(WRITE, stream), probes.said(READ, stream)) == (QUESTION, ANSWER)
    assert next(opened for opened in probes.opened() if opened.stream == stream).start_known
    facts = [item.facts for item in probes.news if isinstance(item, StreamBound) and item.stream == stream]
    assert {(each.remote, each.method) for each in facts} == {(("127.0.0.1", port), method)}
    assert len(set(facts)) == len(facts)
    probes.check_ledger()


def test_clearing_after_a_handshake_forgets_the_socket(probes: Probing, run: Callable[..., str], over_tls: Serve) -> None:
    """A connection was made and given up without a word; the next exchange belongs to the next connection."""
    program = """
ssl = new()
handshake(ssl, arguments[0]).close()
openssl.SSL_clear(ssl)
connection = handshake(ssl, arguments[1])
ask(ssl)
"""
    with serving(over_tls(answer)) as first, serving(over_tls(answer)) as second:
        run(program, first, second)
    (stream,) = streams_with_bytes(probes)
    check_exchange(probes, stream, second)


def test_clearing_after_an_exchange_begins_another_stream(probes: Probing, run: Callable[..., str], over_tls: Serve) -> None:
    program = """
ssl = new()
for port in arguments:
    connection = handshake(ssl, port)
    ask(ssl)
    connection.close()
    openssl.SSL_clear(ssl)
openssl.SSL_free(ssl)
"""
    with serving(over_tls(answer)) as first, serving(over_tls(answer)) as second:
        run(program, first, second)
    streams = streams_with_bytes(probes)
    for stream, port in zip(streams, (first, second), strict=True):
        check_exchange(probes, stream, port)
    assert {item.stream for item in probes.news if isinstance(item, StreamClosed)} >= set(streams)


def test_clearing_keeps_the_references(probes: Probing, run: Callable[..., str], over_tls: Serve) -> None:
    """An SSL with two owners lives until both have freed it; a handshake clears it, too."""
    program = """
ssl = new()
openssl.SSL_up_ref(ssl)
openssl.SSL_clear(ssl)
connection = handshake(ssl, arguments[0])
ask(ssl)
openssl.SSL_free(ssl)
ask(ssl)
openssl.SSL_free(ssl)
"""
    with serving(over_tls(answer)) as port:
        run(program, port)
    (stream,) = streams_with_bytes(probes)
    assert (probes.said(WRITE, stream), probes.said(READ, stream)) == (QUESTION * 2, ANSWER * 2)


def test_freeing_ends_a_stream(probes: Probing, libraries: list[Path], over_tls: Serve) -> None:
    """At once, and not when the allocator gives the same pointer again."""
    program = """
for port in arguments:
    ssl = new()
    connection = handshake(ssl, port)
    ask(ssl)
    openssl.SSL_free(ssl)
    connection.close()
    print(ssl.value, flush=True)
    sys.stdin.readline()
"""
    with serving(over_tls(answer)) as first, serving(over_tls(answer)) as second:
        process = probes.start(OPENSSL + program, *libraries, first, second)
        assert process.stdin
        assert process.stdout
        pointers = set()
        for port in (first, second):
            pointers.add(process.stdout.readline())
            probes.wait_for_ends()
            check_exchange(probes, streams_with_bytes(probes)[-1], port)
            process.stdin.write("\n")
            process.stdin.flush()
        assert len(pointers) == 1
        assert len(streams_with_bytes(probes)) == 2


def test_what_finds_no_room_is_counted_for_its_capture(
    monkeypatch: pytest.MonkeyPatch, libraries: list[Path], over_tls: Serve
) -> None:
    """The map is filled by a process of one capture, and what is lost is the other's."""
    load = libbpf.Object.load

    def with_room_for_one(probes: libbpf.Object) -> None:
        probes.set_max_entries("tls_streams", 1)
        load(probes)

    monkeypatch.setattr(libbpf.Object, "load", with_room_for_one)
    with probing() as probes, serving(over_tls(answer)) as port:
        probes.attach(*libraries)
        first = probes.start(OPENSSL + "new(); print(flush=True); sys.stdin.readline()", *libraries)
        assert first.stdout
        assert first.stdout.readline() == "\n"
        exchange = "sys.stdin.readline(); it = new(); connection = handshake(it, arguments[0]); ask(it)"
        other = probes.start(OPENSSL + exchange, *libraries, port, recorded=False)
        probes.probes.target_process(other.pid, CAPTURE + 1)
        other.communicate("\n", timeout=20)
        assert other.returncode == 0
        assert probes.probes.take_unattributed(CAPTURE) == 0
        assert probes.probes.take_unattributed(CAPTURE + 1) == len(QUESTION) + len(ANSWER)
        assert probes.probes.take_unattributed(CAPTURE + 1) == 0


def test_executing_another_program_ends_a_stream(probes: Probing, libraries: list[Path], over_tls: Serve) -> None:
    """At once, and not when the process ends."""
    program = (
        "ssl = new(); connection = handshake(ssl, arguments[0]); ask(ssl); os.execlp('sh', 'sh', '-c', 'echo there; exec cat')"
    )
    with serving(over_tls(answer)) as port:
        process = probes.start(OPENSSL + program, *libraries, port)
        assert process.stdout
        assert process.stdout.readline() == "there\n"
        probes.wait_for_ends()
        assert process.poll() is None
        (stream,) = streams_with_bytes(probes)
        check_exchange(probes, stream, port)


def test_a_library_without_the_socket_is_bound_by_its_ciphertext(probes: Probing, run: Callable[..., str], over_tls: Serve) -> None:
    """Memory BIOs, as asyncio and Node use them: the program itself moves the ciphertext."""
    program = f"""
for name in ("BIO_s_mem", "BIO_new"):
    getattr(openssl, name).restype = ctypes.c_void_p
incoming, outgoing = (pointer(openssl.BIO_new(pointer(openssl.BIO_s_mem()))) for _ in range(2))
ssl = new()
openssl.SSL_set_bio(ssl, incoming, outgoing)
connection = connect()

def move(call, *arguments):
    while True:
        result = call(ssl, *arguments)
        length = openssl.BIO_read(outgoing, buffer, 65536)
        if length > 0:
            connection.sendall(buffer.raw[:length])
        if result > 0:
            return result
        data = connection.recv(65536)
        assert openssl.BIO_write(incoming, data, len(data)) == len(data)

move(openssl.SSL_connect)
move(openssl.SSL_write, {QUESTION!r}, {len(QUESTION)})
plain = ctypes.create_string_buffer(1000)
assert move(openssl.SSL_read, plain, {len(ANSWER)}) == {len(ANSWER)}
"""
    with serving(over_tls(answer)) as port:
        run(program, port)
    (stream,) = streams_with_bytes(probes)
    check_exchange(probes, stream, port, BOUND_CIPHERTEXT)


TLS_ENDS = {
    "close_notify": ("stream.unwrap()", True),
    "a FIN without close_notify": ("stream.shutdown(socket.SHUT_RDWR)", True),
    "a reset": ("stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b'\\1\\0\\0\\0\\0\\0\\0\\0')", False),
}


@pytest.mark.parametrize("how", TLS_ENDS)
def test_the_end_of_what_the_peer_says(probes: Probing, libraries: list[Path], over_tls: Serve, how: str) -> None:
    """A read of nothing (in `ask`) tells nothing; then the peer ends, each time in another way."""
    there, ended = TLS_ENDS[how]

    def serve(stream: ssl.SSLSocket) -> None:
        assert read_exactly(stream, len(QUESTION)) == QUESTION
        stream.sendall(ANSWER)
        assert stream.recv(1) == b"!"
        exec(there, {"stream": stream, "socket": socket})

    program = """
ssl = new()
connection = handshake(ssl, arguments[0])
ask(ssl)
print("asked", flush=True)
sys.stdin.readline()
assert openssl.SSL_write(ssl, b"!", 1) == 1
result = openssl.SSL_read(ssl, buffer, 100)
assert result <= 0
openssl.SSL_get_error(ssl, result)
if arguments[1] == "close_notify":
    openssl.SSL_shutdown(ssl)
connection.close()
"""
    with serving(over_tls(serve)) as port:
        process = probes.start(OPENSSL + program, *libraries, port, how)
        assert process.stdout
        assert process.stdout.readline() == "asked\n"
        probes.take()
        assert not [item for item in probes.news if isinstance(item, StreamHalfClosed)]
        process.communicate("\n", timeout=60)
        assert process.returncode == 0
        probes.take()
    assert any(isinstance(item, StreamHalfClosed) for item in probes.news) == ended
    assert (probes.said(READ), probes.gaps(READ)) == (ANSWER, 0)


@pytest.mark.parametrize("again", [False, True], ids=["once", "and reads on"])
def test_an_error_is_no_end_of_what_the_peer_says(probes: Probing, run: Callable[..., str], over_tls: Serve, again: bool) -> None:
    """The rest of an answer comes as a record that does not decrypt, and the connection ends: the client has a part only."""

    def serve(stream: ssl.SSLSocket) -> None:
        assert read_exactly(stream, len(QUESTION)) == QUESTION
        stream.sendall(ANSWER)
        socket.socket.sendall(stream, b"\x17\x03\x03\x00\x40" + b"x" * 64)
        stream.shutdown(socket.SHUT_RDWR)

    program = f"""
ssl = new()
connection = handshake(ssl, arguments[0])
ask(ssl)
poll = select.poll()
poll.register(connection, select.POLLRDHUP)
poll.poll()
for _ in range({1 + again}):
    result = openssl.SSL_read(ssl, buffer, 100)
    assert result <= 0
    assert openssl.SSL_get_error(ssl, result) == 1  # SSL_ERROR_SSL
    read_all(connection)
"""
    with serving(over_tls(serve)) as port:
        run(program, port)
    probes.wait_for_ends()
    assert (probes.said(READ), probes.gaps(READ)) == (ANSWER, 0)
    assert not any(isinstance(item, StreamHalfClosed) for item in probes.news)


@pytest.mark.parametrize("bypassing", [True, False])
def test_an_exchange_by_functions_without_probes_shows_as_opaque(
    probes: Probing, run: Callable[..., str], over_tls: Serve, bypassing: bool
) -> None:
    """BIO_read and BIO_write of BIO_f_ssl (BIO_new_ssl_connect): their handshake is probed, and what is said after it is not."""
    program = f"""
for name in ("BIO_f_ssl", "BIO_new"):
    getattr(openssl, name).restype = ctypes.c_void_p
ssl = new()
connection = handshake(ssl, arguments[0])
if {bypassing}:
    bio = pointer(openssl.BIO_new(pointer(openssl.BIO_f_ssl())))
    openssl.BIO_ctrl(bio, 109, ctypes.c_long(0), ssl)  # BIO_C_SET_SSL
    assert openssl.BIO_write(bio, {QUESTION!r}, {len(QUESTION)}) == {len(QUESTION)}
    left = {len(ANSWER)}
    while left:
        length = openssl.BIO_read(bio, buffer, left)
        assert length > 0
        left -= length
connection.close()
"""
    with serving(over_tls(answer)) as port:
        run(program, port)
    probes.wait_for_ends()
    assert [item.source for item in probes.opened()] == [Source.TLS, Source.OPAQUE][: 1 + bypassing]


FILTER = """
import struct

def refuse(action):
    # Of the calls' numbers, those from 335 to 423: nothing that a filter knows which lists what it allows.
    parts = [(0x20, 0, 0, 0), (0x35, 0, 2, 335), (0x35, 1, 0, 424), (0x06, 0, 0, action), (0x06, 0, 0, 0x7FFF0000)]
    program = b"".join(struct.pack("HBBI", *part) for part in parts)
    kept = ctypes.create_string_buffer(program, len(program))
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, struct.pack("HxxxxxxQ", len(parts), ctypes.addressof(kept)), 0, 0) == 0  # PR_SET_SECCOMP
    assert libc.syscall(400) == -1 if action == 0x50001 else True
"""


@pytest.mark.parametrize("action", [0x80000000, 0x00050001], ids=["kill", "errno"])
def test_a_process_under_a_seccomp_filter_is_captured_unharmed(
    probes: Probing, run: Callable[..., str], over_tls: Serve, action: int
) -> None:
    """Its filter does not know the system calls of probes (uretprobe is 335, uprobe 336)."""
    program = f"""
refuse({action})
ssl = new()
connection = handshake(ssl, arguments[0])
ask(ssl)
print("unharmed")
"""
    with serving(over_tls(answer)) as port:
        assert run(FILTER + program, port) == "unharmed"
    (stream,) = streams_with_bytes(probes)
    check_exchange(probes, stream, port)


def test_what_a_filtered_process_maps_is_not_probed_where_that_would_end_it(
    libraries: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seccomp, "returns_are_dangerous", lambda: True)
    program = OPENSSL + FILTER + "refuse(0x00050001); print('filtered', flush=True); sys.stdin.readline()"
    with probing() as unaware, probing() as careful, probing(probe_filtered=True) as told:
        unaware.attach(*libraries)  # nobody maps them yet
        process = careful.start(program, *libraries)
        assert process.stdout
        assert process.stdout.readline() == "filtered\n"
        libcrypto, libssl = libraries
        careful.attach(libcrypto)  # has no return probes
        with pytest.raises(PermissionError, match=f"process {process.pid} uses it under a seccomp filter"):
            careful.attach(libssl)
        told.attach(libssl)
        process.communicate("\n", timeout=60)
        assert process.returncode == 0
        careful.attach(libssl)


def test_a_library_that_is_loaded_later(capturing: Callable[..., Capturing], libraries: list[Path], over_tls: Serve) -> None:
    """By dlopen, beside the one that the program has: its first exchange is whole."""
    program = PROGRAM + OPENSSL + "ssl = new(); connection = handshake(ssl, arguments[0]); ask(ssl)"
    with serving(over_tls(answer)) as port:
        command = [sys.executable, "-c", "import ssl\n" + program, *map(str, libraries), str(port)]
        # What is loaded is held in a mount namespace of its own only.
        process = subprocess.Popen(["unshare", "--mount", *command], stdin=subprocess.PIPE, text=True)
        while not own_mounts(process.pid):
            assert process.poll() is None
        capture = capturing()
        capture.start(agent_pb2.Target(launched_pid=process.pid))
        process.communicate("\n", timeout=60)
        assert process.returncode == 0
    assert capture.stop().unknown_starts == 0
    with capture.snapshot() as snapshot:
        (pair,) = snapshot.pairs()
        assert pair.complete
        assert (pair.request.start_line, pair.port) == (b"GET / HTTP/1.1", port)


NEWER = f"""
import json
library, places = ctypes.CDLL(arguments[0]), json.loads(arguments[1])
start = ctypes.cast(library.PyInit__rust, ctypes.c_void_p).value - places["PyInit__rust"]
pointer, done = ctypes.c_void_p, ctypes.c_size_t()

def function(name, result=ctypes.c_int):
    return ctypes.CFUNCTYPE(result)(start + places[name])

def questions():
    for _ in range(2):
        yield {QUESTION!r}, ctypes.c_size_t({len(QUESTION)})

context = function("SSL_CTX_new", pointer)(pointer(function("TLS_client_method", pointer)()))
ssl = pointer(function("SSL_new", pointer)(pointer(context)))
connection = connect(arguments[2])
assert function("SSL_set_fd")(ssl, connection.fileno()) == 1
assert function("SSL_connect")(ssl) == 1
for question in questions():
    assert function("SSL_write_ex2")(ssl, *question, ctypes.c_uint64(0), ctypes.byref(done)) == 1
    assert function("SSL_write_ex")(ssl, *question, ctypes.byref(done)) == 1
    assert function("SSL_write")(ssl, *question) == {len(QUESTION)}
left, buffer = 6 * {len(ANSWER)}, ctypes.create_string_buffer(1000)
while left:
    assert function("SSL_read_ex")(ssl, buffer, ctypes.c_size_t(left), ctypes.byref(done)) == 1
    left -= done.value
"""
"""OpenSSL 3.3 or later, as the cryptography wheel has it: by local symbols."""


def test_a_call_that_ends_by_a_jump_to_another_is_not_left(over_tls: Serve, tmp_path: Path) -> None:
    """SSL_write_ex jumps to SSL_write_ex2 since OpenSSL 3.3, and programs call that one, too."""
    library = Path(shutil.copy(_rust.__file__, tmp_path))
    with library.open("rb") as file:
        table: Any = ELFFile(file).get_section_by_name(".symtab")
        places = {
            symbol.name: symbol["st_value"] for symbol in table.iter_symbols() if symbol.name.startswith(("SSL_", "TLS_", "PyInit"))
        }
    with serving(over_tls(answer)) as port, probing() as probes:
        probes.attach(library)
        probes.run(NEWER, library, json.dumps(places), port)
        (stream,) = streams_with_bytes(probes)
        assert (probes.said(WRITE, stream), probes.said(READ, stream)) == (QUESTION * 6, ANSWER * 6)
        assert [opened.start_known for opened in probes.opened()] == [True]
        probes.check_ledger()


LAYERED = f"""
library = ctypes.CDLL(arguments[0])
library.SSL_new.restype = ctypes.c_void_p
ssl = ctypes.c_void_p(library.SSL_new({ANSWER!r}))
buffer, done = ctypes.create_string_buffer(100), ctypes.c_size_t()
"""


@pytest.fixture(scope="module")
def layered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy library, see its source."""
    library = tmp_path_factory.mktemp("layered") / "layered.so"
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", library, Path(__file__).with_name("layered.c")], check=True)
    return library


def test_a_call_that_is_built_on_others_carries_their_bytes_once(layered: Path) -> None:
    program = f"""
for write in (library.SSL_write_ex, library.SSL_write_early_data):
    assert write(ssl, {QUESTION!r}, ctypes.c_size_t({len(QUESTION)}), ctypes.byref(done)) == 1
    assert done.value == {len(QUESTION)}
assert library.SSL_get_early_data_status(ssl) == 2  # SSL_EARLY_DATA_ACCEPTED
assert library.SSL_read_ex(ssl, buffer, ctypes.c_size_t({len(ANSWER)}), ctypes.byref(done)) == 1
"""
    with probing() as probes:
        probes.attach(layered)
        probes.run(LAYERED + program, layered)
        (opened,) = probes.opened()
        assert opened.start_known
        assert (probes.said(WRITE), probes.said(READ)) == (QUESTION * 2, ANSWER)
        assert probes.probes.counter(Counter.CALLS_UNRETURNED) == 0
        probes.check_ledger()


@pytest.mark.parametrize("wrapper", ["shim", "SESSION"])
def test_a_call_that_passes_its_bytes_on_to_another_file_carries_them_once(layered: Path, tmp_path: Path, wrapper: str) -> None:
    """Of one function in two files, the outer one is no call that was left; nor is what a program calls its SSL a connection."""
    wrapping = tmp_path / "wrapping.so"
    source = Path(__file__).with_name("wrapping.c")
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", f"-D{wrapper}", "-o", wrapping, source], check=True)
    program = f"""
wrapping = ctypes.CDLL(arguments[1])
wrapping.wrap(arguments[0].encode())
session = (ctypes.c_void_p * 2)(1, ssl) if arguments[2] == "SESSION" else ssl
for _ in range(3):
    assert wrapping.SSL_write(session, {QUESTION!r}, {len(QUESTION)}) == {len(QUESTION)}
    assert wrapping.SSL_read(session, buffer, {len(ANSWER)}) == {len(ANSWER)}
"""
    with probing() as probes:
        probes.attach(layered, wrapping)
        probes.run(LAYERED + program, layered, wrapping, wrapper)
        assert [opened.start_known for opened in probes.opened()] == [True]
        assert (probes.said(WRITE), probes.said(READ)) == (QUESTION * 3, ANSWER * 3)
        assert probes.probes.counter(Counter.CALLS_UNRETURNED) == 0
        probes.check_ledger()


def test_a_connection_whose_early_data_was_refused_begins_anew(layered: Path) -> None:
    """In BoringSSL and AWS-LC, whose early data is written by SSL_write, and said again after SSL_reset_early_data_reject."""
    program = f"""
for _ in range(2):
    assert library.SSL_write(ssl, b"GET /", 5) == 5
    library.SSL_reset_early_data_reject(ssl)
assert library.SSL_write_ex(ssl, {QUESTION!r}, ctypes.c_size_t({len(QUESTION)}), ctypes.byref(done)) == 1
assert library.SSL_read(ssl, buffer, {len(ANSWER)}) == {len(ANSWER)}
library.SSL_free(ssl)
"""
    with probing() as probes:
        probes.attach(layered)
        probes.run(LAYERED + program, layered)
        probes.wait_for_ends()
        *refused, stream = streams_with_bytes(probes)
        assert [opened.start_known for opened in probes.opened()] == [True, True, True]
        assert [probes.said(WRITE, each) for each in refused] == [b"GET /", b"GET /"]
        assert (probes.said(WRITE, stream), probes.said(READ, stream)) == (QUESTION, ANSWER)
        probes.check_ledger()


def asked(number: int) -> bytes:
    return b"GET /%d HTTP/1.1\r\nHost: peer\r\n\r\n" % number


def answered(number: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n%03d" % number


def talk(stream: ssl.SSLSocket) -> None:
    """Answers questions, each with its number."""
    with contextlib.suppress(ConnectionResetError):
        while first := stream.recv(1):
            question = first + read_exactly(stream, len(asked(1)) - 1)
            stream.sendall(answered(int(question[5:6])))


@pytest.fixture(scope="module")
def leaving(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A client that leaves TLS calls, see its source."""
    program = tmp_path_factory.mktemp("leaving") / "leaving"
    subprocess.run(["gcc", "-O1", "-o", program, Path(__file__).with_name("leaving.c")], check=True)
    return program


DEPTHS = {"further in": (6, 6), "further in once": (6, 3), "at the same depth": (3, 3), "further out": (1, 1)}


def steps_of(left: str, depths: str) -> list[str]:
    """Three exchanges at depth 3. Of the second, the call that writes or reads is left, and made again at another depth."""
    again, then = DEPTHS[depths]
    told = [(f"write:{asked(n).decode()}", f"read:{answered(n).decode()}") for n in (1, 2, 3)]
    calls = [call for pair in told for call in pair]
    at = 2 if left == "write" else 3
    before, after = [f"3:{call}" for call in calls[:at]], [f"{then}:{call}" for call in calls[at + 1 :]]
    return [*before, f"3:leave-{calls[at]}", f"{again}:{calls[at]}", *after]


@pytest.mark.parametrize("depths", DEPTHS)
@pytest.mark.parametrize("left", ["read", "write"])
def test_a_call_that_was_left_hides_nothing(
    probes: Probing, libraries: list[Path], over_tls: Serve, leaving: Path, left: str, depths: str
) -> None:
    """By siglongjmp, for a time limit. Each byte comes out once, but another stream goes on: the call could have moved bytes."""
    with serving(over_tls(talk)) as port:
        probes.run("os.execv(arguments[0], arguments)", leaving, *libraries, port, *steps_of(left, depths))
    probes.wait_for_ends()
    first, second = streams_with_bytes(probes)
    before = 1 + (left == "read")
    assert probes.said(WRITE, first) == b"".join(map(asked, range(1, 1 + before)))
    assert probes.said(WRITE, second) == b"".join(map(asked, range(1 + before, 4)))
    assert (probes.said(READ, first), probes.said(READ, second)) == (answered(1), answered(2) + answered(3))
    assert [opened.start_known for opened in probes.opened()] == [True, False]
    assert probes.probes.counter(Counter.CALLS_UNRETURNED) == 1
    facts = {item.stream: item.facts.remote for item in probes.news if isinstance(item, StreamBound)}
    assert facts == dict.fromkeys((first, second), ("127.0.0.1", port))
    tallies = [tally for item in probes.news if isinstance(item, StreamClosed) for tally in item.tally]
    assert sum(tally.seen for tally in tallies) == probes.probes.counter(Counter.SEEN) == probes.probes.counter(Counter.DELIVERED)


@pytest.mark.parametrize("depths", DEPTHS)
@pytest.mark.parametrize("left", ["read", "write"])
def test_no_pair_is_wrong_after_a_call_that_was_left(
    capturing: Callable[..., Capturing], libraries: list[Path], over_tls: Serve, leaving: Path, left: str, depths: str
) -> None:
    with serving(over_tls(talk)) as port:
        words = [str(leaving), *map(str, libraries), str(port), *steps_of(left, depths)]
        command = [sys.executable, "-c", "import os, sys; sys.stdin.readline(); os.execv(sys.argv[1], sys.argv[1:])", *words]
        process = subprocess.Popen(["unshare", "--mount", *command], stdin=subprocess.PIPE, text=True)
        while not own_mounts(process.pid):
            assert process.poll() is None
        capture = capturing()
        capture.start(agent_pb2.Target(launched_pid=process.pid))
        process.communicate("\n", timeout=60)
        assert process.returncode == 0
    ledger = capture.stop()
    with capture.snapshot() as snapshot:
        pairs = list(snapshot.pairs())
    complete = [(pair.path, pair.response.body) for pair in pairs if pair.complete and pair.response]
    assert complete[0] == ("/1", b"001")
    assert all(body == b"%03d" % int(path[1:]) for path, body in complete)
    assert "/2" not in dict(complete)
    assert (ledger.missed_runs, ledger.unknown_starts) == (1, 1)
