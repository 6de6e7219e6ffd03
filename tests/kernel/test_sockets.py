"""Plain sockets: each way to move bytes is counted as the peer counts it, and a stream is one for as long as the socket is."""

from __future__ import annotations

import contextlib
import platform
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from ctypes import c_uint64
from pathlib import Path

import pytest
import trustme
from understudy.v1 import agent_pb2

from agent.events import Counter, Source
from agent.kernel import libbpf
from agent.streams import StreamClosed, StreamGap, StreamHalfClosed
from tests.e2e.conftest import Authority
from tests.kernel.conftest import Capturing
from tests.kernel.probing import CAPTURE, PROGRAM, READ, TIMEOUT, WRITE, Probing, probing, read_exactly, read_to_end, serving

pytestmark = pytest.mark.kernel

QUESTION = b"GET / HTTP/1.1\r\nHost: peer\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"


@pytest.fixture
def probes() -> Iterator[Probing]:
    with probing() as made:
        yield made


def answer_at_end(connection: socket.socket) -> None:
    """Answers when the other side has ended its direction."""
    assert read_to_end(connection) == QUESTION
    connection.sendall(ANSWER)


def answer_at_once(connection: socket.socket) -> None:
    """Answers a question, and waits for the other side to close."""
    assert read_exactly(connection, len(QUESTION)) == QUESTION
    connection.sendall(ANSWER)
    assert read_to_end(connection) == b""


def check_exchange(probes: Probing) -> None:
    """One stream, with the whole question and the whole answer."""
    probes.only()
    assert (probes.said(WRITE), probes.said(READ)) == (QUESTION, ANSWER)
    probes.check_ledger()


def test_an_answer_that_is_read_after_both_sides_have_ended(probes: Probing) -> None:
    """The connection is over (TIME_WAIT) while its answer waits to be read. The stream ends when the socket is closed, at once."""
    program = f"""
connection = connect()
connection.sendall({QUESTION!r})
connection.shutdown(socket.SHUT_WR)
poll = select.poll()
poll.register(connection, select.POLLRDHUP)
poll.poll()
read_all(connection)
connection.close()
print("closed", flush=True)
sys.stdin.readline()
"""
    with serving(answer_at_end) as port:
        process = probes.start(program, port)
        assert process.stdout
        assert process.stdout.readline() == "closed\n"
        probes.take()
        assert len(probes.streams) == 0
        process.communicate("\n", timeout=60)
    check_exchange(probes)


def test_an_answer_that_is_read_after_a_reset(probes: Probing) -> None:
    """A server refuses an upload before it has read it: closing with unread bytes resets the connection."""
    body, refusal = b"x" * 20000, b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    sent = threading.Event()

    def refuse(connection: socket.socket) -> None:
        read_exactly(connection, 100)
        assert sent.wait(60)
        connection.sendall(refusal)

    program = f"""
connection = connect()
connection.sendall({body!r})
print("sent", flush=True)
poll = select.poll()
poll.register(connection, 0)
poll.poll()  # POLLERR or POLLHUP
try:
    read_all(connection)
except ConnectionResetError:
    print("reset")
"""
    with serving(refuse) as port:
        process = probes.start(program, port)
        assert process.stdout
        assert process.stdout.readline() == "sent\n"
        sent.set()
        assert process.communicate(timeout=60)[0] == "reset\n"
    probes.take()
    probes.only()
    assert (probes.said(WRITE), probes.said(READ)) == (body, refusal)
    probes.check_ledger()


def test_a_stream_ends_when_its_last_descriptor_is_closed(probes: Probing) -> None:
    """The process lives on, and so does a duplicate of the socket for a while."""
    program = f"""
connection = connect()
duplicate = connection.dup()
connection.sendall({QUESTION[:5]!r})
connection.close()
duplicate.sendall({QUESTION[5:]!r})
read_all(duplicate)
print("read", flush=True)
sys.stdin.readline()
duplicate.close()
print("closed", flush=True)
sys.stdin.readline()
"""

    def answer(connection: socket.socket) -> None:
        assert read_exactly(connection, len(QUESTION)) == QUESTION
        connection.sendall(ANSWER)

    with serving(answer) as port:
        process = probes.start(program, port)
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == "read\n"
        probes.take()
        assert len(probes.streams) == 1
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "closed\n"
        probes.take()
        check_exchange(probes)
        process.communicate(timeout=60)


def test_a_socket_that_connects_anew_is_another_stream(probes: Probing) -> None:
    """connect(AF_UNSPEC) dissolves a connection, and the socket may make another."""
    program = f"""
connection = connect(arguments[0])
connection.sendall({QUESTION!r})
assert connection.recv(1000)
assert libc.connect(connection.fileno(), (ctypes.c_char * 16)(), 16) == 0
connection.connect(("127.0.0.1", int(arguments[1])))
connection.sendall({QUESTION!r})
assert connection.recv(1000)
"""

    def answer(connection: socket.socket) -> None:
        assert read_exactly(connection, len(QUESTION)) == QUESTION
        connection.sendall(ANSWER)

    def answer_until_reset(connection: socket.socket) -> None:
        answer(connection)
        with pytest.raises(ConnectionResetError):
            read_to_end(connection)

    with serving(answer_until_reset) as first, serving(answer) as second:
        probes.run(program, first, second)
    assert [stream.start_known for stream in probes.opened()] == [True, True]
    probes.wait_for_ends()
    for stream in probes.opened():
        assert (probes.said(WRITE, stream.stream), probes.said(READ, stream.stream)) == (QUESTION, ANSWER)
    probes.check_ledger()


def test_a_refused_connection_does_not_become_the_next_one(probes: Probing) -> None:
    """A non-blocking connect that was refused, and another one with the same socket."""
    program = f"""
connection = socket.socket()
connection.setblocking(False)
connection.connect_ex(("127.0.0.1", int(arguments[1])))
poll = select.poll()
poll.register(connection, select.POLLOUT)
poll.poll()
connection.setblocking(True)
assert connection.connect_ex(("127.0.0.1", int(arguments[1])))  # how it went; the socket is free again
connection.connect(("127.0.0.1", int(arguments[0])))
connection.sendall({QUESTION!r})
assert connection.recv(1000)
"""
    with serving(answer_at_once) as port, socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # and does not listen
        probes.run(program, port, silent.getsockname()[1])
    check_exchange(probes)
    facts = [item.facts for item in probes.news if hasattr(item, "facts")]
    assert {each.remote for each in facts} == {("127.0.0.1", port)}


def test_mptcp(probes: Probing) -> None:
    """Its sockets end by another way than TCP's."""
    protocol = 262  # IPPROTO_MPTCP
    program = f"""
connection = connect(protocol={protocol})
connection.sendall({QUESTION!r})
connection.recv(1000)
connection.close()
"""
    with serving(answer_at_once, protocol) as port:
        probes.run(program, port)
    check_exchange(probes)


def test_a_connection_that_is_shared_by_a_fork(probes: Probing) -> None:
    """The parent asks and closes; the child reads the answer."""
    program = f"""
connection = connect()
child = os.fork()
if child:
    connection.sendall({QUESTION!r})
    connection.close()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
else:
    assert connection.recv(1000)
    os._exit(0)
"""
    with serving(answer_at_once) as port:
        probes.run(program, port)
    check_exchange(probes)


def test_a_connection_that_is_inherited_by_another_program(probes: Probing) -> None:
    """It asks one half before it executes another program, which asks the rest."""
    rest = f"import os; os.write(50, {QUESTION[9:]!r}); os.read(50, 1000)"
    program = f"""
connection = connect()
connection.sendall({QUESTION[:9]!r})
os.dup2(connection.fileno(), 50)
os.execv(sys.executable, [sys.executable, "-c", {rest!r}])
"""
    with serving(answer_at_once) as port:
        probes.run(program, port)
    check_exchange(probes)


def test_what_is_peeked_at_is_not_read_twice(probes: Probing) -> None:
    program = f"""
connection = connect()
connection.sendall({QUESTION!r})
assert connection.recv(9, socket.MSG_PEEK | socket.MSG_WAITALL) == {ANSWER[:9]!r}
assert connection.recvmsg(9, 0, socket.MSG_PEEK)[0] == {ANSWER[:9]!r}
assert connection.recv({len(ANSWER)}, socket.MSG_WAITALL) == {ANSWER!r}
"""
    with serving(answer_at_once) as port:
        probes.run(program, port)
    check_exchange(probes)


@pytest.mark.parametrize("how", ["libc.recv(fd, buffer, 5, TRUNC)", "libc.recvmsg(fd, ctypes.byref(message), TRUNC)"])
def test_bytes_that_are_thrown_away_are_a_gap(probes: Probing, how: str) -> None:
    """MSG_TRUNC leaves the buffer as it was: what is in it is the program's own."""
    program = f"""
TRUNC = socket.MSG_TRUNC | socket.MSG_WAITALL
connection = connect()
connection.sendall({QUESTION!r})
connection.recv({len(ANSWER) - 5}, socket.MSG_WAITALL)
buffer = ctypes.create_string_buffer(b"SECRET")
vector = Vector(ctypes.addressof(buffer), 5)
message = Message(vector=ctypes.pointer(vector), count=1)
fd = connection.fileno()
assert {how} == 5
assert buffer.value == b"SECRET"
"""
    with serving(answer_at_once) as port:
        probes.run(program, port)
    assert (probes.said(READ), probes.gaps(READ)) == (ANSWER[:-5], 5)
    probes.check_ledger()


def test_urgent_bytes_are_counted_and_not_put_into_the_stream(probes: Probing) -> None:
    """What is sent with MSG_OOB is read out of its order."""

    def urgent(connection: socket.socket) -> None:
        assert read_exactly(connection, len(QUESTION)) == QUESTION
        connection.sendall(b"before")
        connection.send(b"!", socket.MSG_OOB)
        connection.sendall(b"after")

    program = f"""
connection = connect()
connection.sendall({QUESTION!r})
poll = select.poll()
poll.register(connection, select.POLLPRI)
poll.poll()
assert connection.recv(1, socket.MSG_OOB) == b"!"
read_all(connection)
"""
    with serving(urgent) as port:
        probes.run(program, port)
    assert (probes.said(READ), probes.gaps(READ)) == (b"beforeafter", 1)
    probes.check_ledger()


MESSAGES = """
def messages(parts):
    buffers = [ctypes.create_string_buffer(part, len(part)) for part in parts]
    vectors = (Vector * len(parts))(*(Vector(ctypes.addressof(each), len(each)) for each in buffers))
    found = (ManyMessage * len(parts))()
    for index in range(len(parts)):
        found[index].message.vector, found[index].message.count = ctypes.pointer(vectors[index]), 1
    return buffers, vectors, found
"""


@pytest.mark.parametrize("count", [1, 16, 17, 63, 1024])
def test_many_messages_in_one_call(probes: Probing, count: int) -> None:
    """sendmmsg and recvmmsg: their bytes are a gap of the right length."""
    length = 3 * count

    def echo(connection: socket.socket) -> None:
        connection.sendall(read_exactly(connection, length))
        assert read_to_end(connection) == b""

    program = (
        MESSAGES
        + f"""
connection = connect()
kept = messages([b"abc"] * {count})
assert libc.sendmmsg(connection.fileno(), kept[2], {count}, 0) == {count}
connection.recv({length}, socket.MSG_PEEK | socket.MSG_WAITALL)
assert libc.recvmmsg(connection.fileno(), kept[2], {count}, socket.MSG_PEEK | socket.MSG_DONTWAIT, None) == {count}
assert libc.recvmmsg(connection.fileno(), kept[2], {count}, socket.MSG_DONTWAIT, None) == {count}
"""
    )
    with serving(echo) as port:
        probes.run(program, port)
    assert (probes.passed(WRITE), probes.passed(READ)) == (length, length)
    probes.check_ledger()


def echo_to_end(connection: socket.socket) -> None:
    connection.sendall(read_to_end(connection))


@pytest.mark.parametrize(
    ("write", "read"),
    [
        ("os.writev(fd, parts)", "os.readv(fd, buffers)"),
        ("os.pwritev(fd, parts, -1)", "os.preadv(fd, buffers, -1)"),
        ("connection.sendmsg(parts)", "connection.recvmsg_into(buffers)[0]"),
    ],
)
def test_many_segments_in_one_call(probes: Probing, write: str, read: str) -> None:
    """As many as the kernel takes (UIO_MAXIOV), some empty, one longer than a chunk."""
    parts = [bytes([65 + index % 26]) * (index % 5) for index in range(1023)] + [b"z" * 40000]
    whole = b"".join(parts)
    program = f"""
parts = [bytes([65 + index % 26]) * (index % 5) for index in range(1023)] + [b"z" * 40000]
buffers = [bytearray(max(len(part), 1)) for part in parts]
connection = connect()
fd = connection.fileno()
assert {write} == {len(whole)}
connection.shutdown(socket.SHUT_WR)
left = {len(whole)}
while left:
    left -= {read}
"""
    with serving(echo_to_end) as port:
        probes.run(program, port)
    assert (probes.said(WRITE), probes.said(READ)) == (whole, whole)
    probes.check_ledger()


def test_bytes_that_bypass_the_program_are_gaps(probes: Probing, tmp_path: Path) -> None:
    """sendfile out of a file, and splice through a pipe, in both directions."""
    file = tmp_path / "file"
    file.write_bytes(b"f" * 30000)
    program = f"""
connection = connect()
connection.sendall({QUESTION!r})
file = os.open({str(file)!r}, os.O_RDONLY)
left = 30000
while left:
    left -= os.sendfile(connection.fileno(), file, None, left)
reader, writer = os.pipe()
os.write(writer, b"p" * 4000)
assert os.splice(reader, connection.fileno(), 4000) == 4000
connection.shutdown(socket.SHUT_WR)
left = {len(QUESTION)} + 34000
while left:
    moved = os.splice(connection.fileno(), writer, left)
    assert moved
    left -= len(os.read(reader, moved))
"""
    with serving(echo_to_end) as port:
        probes.run(program, port)
    assert (probes.said(WRITE), probes.gaps(WRITE)) == (QUESTION, 34000)
    assert (probes.said(READ), probes.gaps(READ)) == (b"", len(QUESTION) + 34000)
    probes.check_ledger()


ENDS = {
    "the peer closes": ("connection.shutdown(socket.SHUT_WR)", "read_all(connection)", True),
    "reading is given up here": ("", "connection.shutdown(socket.SHUT_RD); read_all(connection)", False),
    "a reset": (
        "connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b'\\1\\0\\0\\0\\0\\0\\0\\0')",
        "assert libc.recv(connection.fileno(), buffer, 99, 0) == -1; assert libc.recv(connection.fileno(), buffer, 99, 0) == 0",
        False,
    ),
}


@pytest.mark.parametrize("how", ENDS)
def test_only_the_peer_ends_what_it_says(probes: Probing, how: str) -> None:
    """A read of nothing also follows a reset, and giving up reading: then a body that lasts until the end is not whole."""
    there, here, ended = ENDS[how]
    done = threading.Event()

    def answer(connection: socket.socket) -> None:
        assert read_exactly(connection, len(QUESTION)) == QUESTION
        connection.sendall(ANSWER)
        connection.recv(1)  # the answer was read
        exec(there, {"connection": connection, "socket": socket})
        if not there:
            assert done.wait(60)

    program = f"""
buffer = ctypes.create_string_buffer(99)
connection = connect()
connection.sendall({QUESTION!r})
connection.recv({len(ANSWER)}, socket.MSG_WAITALL)
connection.sendall(b"!")
{"select.select([connection], [], [])" if there else ""}
{here}
"""
    with serving(answer) as port:
        probes.run(program, port)
        done.set()
    probes.only()
    assert any(isinstance(item, StreamHalfClosed) for item in probes.news) == ended


READS_OF_NOTHING = {
    "recv": "assert libc.recv(fd, buffer, 0, 0) == 0",
    "recvmsg": "assert libc.recvmsg(fd, ctypes.byref(message), 0) == 0",
    "readv": "assert libc.readv(fd, ctypes.byref(vector), 1) == 0",
}


@pytest.mark.parametrize("how", READS_OF_NOTHING)
@pytest.mark.parametrize("protocol", [0, 262], ids=["TCP", "MPTCP"])
def test_a_read_of_no_bytes_is_no_end(probes: Probing, how: str, protocol: int) -> None:
    """The peer has ended, but what it said last waits still, and is never read."""

    def answer(connection: socket.socket) -> None:
        assert read_exactly(connection, len(QUESTION)) == QUESTION
        connection.sendall(ANSWER)
        connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            connection.recv(1)

    program = f"""
connection = connect(protocol={protocol})
connection.sendall({QUESTION!r})
assert len(connection.recv(20, socket.MSG_WAITALL)) == 20
poll = select.poll()
poll.register(connection, select.POLLRDHUP)
poll.poll()
buffer = ctypes.create_string_buffer(99)
vector = Vector(ctypes.addressof(buffer), 0)
message = Message(vector=ctypes.pointer(vector), count=1)
fd = connection.fileno()
{READS_OF_NOTHING[how]}
print("read", flush=True)
sys.stdin.readline()
"""
    with serving(answer, protocol) as port:
        process = probes.start(program, port)
        assert process.stdout
        assert process.stdout.readline() == "read\n"
        probes.take()
        ((_, entry),) = probes.probes.streams(CAPTURE)
        assert not entry.read_ended
        process.communicate("\n", timeout=60)
    assert probes.said(READ) == ANSWER[:20]


def test_a_refused_upload_is_one_complete_pair(capturing: Callable[..., Capturing]) -> None:
    """The server answers before it has read the upload, and closing resets the connection before the answer is read."""
    sent = threading.Event()

    def refuse(connection: socket.socket) -> None:
        read_exactly(connection, 100)
        assert sent.wait(60)
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    program = """
connection = connect()
connection.sendall(b"POST / HTTP/1.1\\r\\nHost: peer\\r\\nContent-Length: 20000\\r\\n\\r\\n" + b"x" * 20000)
print("sent", flush=True)
poll = select.poll()
poll.register(connection, 0)
poll.poll()  # POLLERR or POLLHUP
try:
    read_all(connection)
except ConnectionResetError:
    pass
"""
    with serving(refuse) as port:
        command = [sys.executable, "-c", PROGRAM + program, str(port)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        capture = capturing()
        capture.start(agent_pb2.Target(launched_pid=process.pid))
        assert process.stdin
        assert process.stdout
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "sent\n"
        sent.set()
        process.communicate(timeout=60)
    assert capture.stop().lost == 0
    with capture.snapshot() as snapshot:
        (pair,) = snapshot.pairs()
        assert pair.complete
        assert pair.request.body == b"x" * 20000
        assert pair.response
        assert pair.response.start_line == b"HTTP/1.1 413 Too Large"


AIO = f"""
class Control(ctypes.Structure):
    '''struct iocb'''
    _fields_ = [("data", ctypes.c_uint64), ("key", ctypes.c_uint32), ("flags", ctypes.c_int), ("opcode", ctypes.c_uint16),
                ("priority", ctypes.c_int16), ("fd", ctypes.c_uint32), ("buffer", ctypes.c_uint64), ("length", ctypes.c_uint64),
                ("offset", ctypes.c_int64), ("reserved", ctypes.c_uint64), ("flags2", ctypes.c_uint32), ("event", ctypes.c_uint32)]

SETUP, SUBMIT, GETEVENTS = {(206, 209, 208) if platform.machine() == "x86_64" else (0, 2, 4)}
context = ctypes.c_ulong()
assert libc.syscall(SETUP, 1, ctypes.byref(context)) == 0

def aio(opcode, connection, data):
    buffer = ctypes.create_string_buffer(data, len(data))
    control = Control(opcode=opcode, fd=connection.fileno(), buffer=ctypes.addressof(buffer), length=len(data))
    assert libc.syscall(SUBMIT, context, 1, ctypes.byref(ctypes.pointer(control))) == 1
    event = (ctypes.c_int64 * 4)()
    assert libc.syscall(GETEVENTS, context, 1, 1, event, None) == 1
    assert event[2] == len(data), event[2]

def take(connection, length):
    aio(0, connection, bytes(length))

def put(connection, data):
    aio(1, connection, data)
"""

LATER = """
connection = socket.socket()
connection.setblocking(False)
connection.connect_ex(("127.0.0.1", int(arguments[0])))
select.select([], [connection], [])
connection.setblocking(True)
"""


@pytest.mark.parametrize(
    "how",
    [
        "take(connection, 10); connection.recv(LEFT, socket.MSG_WAITALL)",
        "connection.recv(LEFT, socket.MSG_WAITALL); take(connection, 10)",
        "connection.recv(LEFT, socket.MSG_WAITALL); take(connection, 10); read_all(connection)",
        "connection.recv(7); take(connection, 10); connection.recv(LEFT - 7, socket.MSG_WAITALL); read_all(connection)",
    ],
    ids=["first", "last", "before the end", "between"],
)
def test_bytes_that_are_read_by_other_ways_are_a_gap(probes: Probing, how: str) -> None:
    def answer(connection: socket.socket) -> None:
        assert read_exactly(connection, len(QUESTION)) == QUESTION
        connection.sendall(ANSWER)

    program = f"""
LEFT = {len(ANSWER) - 10}
connection = connect()
connection.sendall({QUESTION!r})
connection.recv({len(ANSWER)}, socket.MSG_PEEK | socket.MSG_WAITALL)
{how}
connection.close()
"""
    with serving(answer) as port:
        probes.run(AIO + program, port)
    probes.only()
    assert (len(probes.said(READ)), probes.gaps(READ)) == (len(ANSWER) - 10, 10)
    assert (probes.said(WRITE), probes.gaps(WRITE)) == (QUESTION, 0)
    probes.check_ledger()


@pytest.mark.parametrize("connect", ["connection = connect()", LATER], ids=["at once", "later"])
def test_bytes_that_are_written_by_other_ways_are_a_gap(probes: Probing, connect: str) -> None:
    """To a socket whose connection is made at once, or while the program goes on."""
    program = f"""
{connect}
put(connection, {QUESTION[:9]!r})
connection.sendall({QUESTION[9:]!r})
connection.recv({len(ANSWER)}, socket.MSG_WAITALL)
connection.close()
"""
    with serving(answer_at_once) as port:
        probes.run(AIO + program, port)
    probes.only()
    assert (probes.said(WRITE), probes.gaps(WRITE)) == (QUESTION[9:], 9)
    assert (probes.said(READ), probes.gaps(READ)) == (ANSWER, 0)
    probes.check_ledger()


@pytest.mark.parametrize(
    ("moved", "gap"),
    [(1, 1), (2**31 - 1, 2**31 - 1), (2**31, 2**31), (3 << 30, 3 << 30), (-1, 0), (-1000, 0)],
)
def test_any_difference_up_to_4_gib_is_a_gap(probes: Probing, moved: int, gap: int) -> None:
    """The account is set back by as much as others are taken to have written since; or forward, as by urgent bytes."""
    program = f"""
connection = connect()
connection.sendall({QUESTION[:9]!r})
print("written", flush=True)
sys.stdin.readline()
connection.sendall({QUESTION[9:]!r})
connection.recv({len(ANSWER)}, socket.MSG_WAITALL)
connection.close()
"""
    with serving(answer_at_once) as port:
        process = probes.start(program, port)
        assert process.stdout
        assert process.stdout.readline() == "written\n"
        ((sock, entry),) = probes.probes.streams(CAPTURE)
        assert isinstance(sock, int)
        entry.sequence[WRITE] -= moved
        probes.probes._maps["sockets"].put(c_uint64(sock), entry)
        process.communicate("\n", timeout=60)
    probes.only()
    assert (probes.said(WRITE), probes.gaps(WRITE)) == (QUESTION, gap)
    probes.check_ledger()


@pytest.mark.parametrize("protocol", [0, 262], ids=["TCP", "MPTCP"])
def test_a_call_that_is_not_followed_hides_nothing(monkeypatch: pytest.MonkeyPatch, protocol: int) -> None:
    """There is room for one call at a time. What another carries is a gap, or what follows is a stream whose start is unknown."""
    load = libbpf.Object.load

    def load_small(made: libbpf.Object) -> None:
        made.set_max_entries("calls", 1)
        load(made)

    program = f"""
import threading
waiting, connection = connect(), connect(protocol={protocol})
connection.sendall(b"first")
reader = threading.Thread(target=waiting.recv, args=(1,))
reader.start()
in_call = hex(waiting.fileno())
while open(f"/proc/self/task/{{reader.native_id}}/syscall").read().split()[1:2] != [in_call]:
    pass
connection.sendall(b"lost")
waiting.shutdown(socket.SHUT_RD)
reader.join()
for _ in range(2):
    connection.sendall(b"last")
"""
    monkeypatch.setattr(libbpf.Object, "load", load_small)
    heard: list[bytes] = []
    with serving(lambda connection: heard.append(read_to_end(connection)), protocol) as port, probing() as probes:
        probes.run(program, port)
        probes.wait_for_ends()
        said = [probes.said(WRITE, opened.stream) for opened in probes.opened() if probes.said(WRITE, opened.stream)]
        if protocol:
            assert said == [b"first", b"lastlast"]
            assert not probes.opened()[-1].start_known
        else:
            assert (said, probes.gaps(WRITE)) == ([b"firstlastlast"], 4)
            gap = next(item for item in probes.news if isinstance(item, StreamGap))
            assert (gap.offset, gap.length) == (5, 4)
        assert probes.probes.missed().calls == 1
    assert sorted(heard) == [b"", b"firstlostlastlast"]


def test_a_call_whose_socket_is_gone_when_it_returns_is_counted(probes: Probing) -> None:
    """Its bytes belong to nothing that is known. It is made to be gone in the probes' note of the call."""
    gone = threading.Event()

    def serve(connection: socket.socket) -> None:
        assert gone.wait(TIMEOUT)
        connection.sendall(ANSWER)

    with serving(serve) as port:
        process = probes.start(f"connect().recv({len(ANSWER)}, socket.MSG_WAITALL)", port)
        calls, thread, call = probes.probes._object.map("calls"), c_uint64(process.pid << 32 | process.pid), (c_uint64 * 11)()
        deadline = time.monotonic() + TIMEOUT
        while not calls.get(thread, call):
            assert time.monotonic() < deadline
        call[0] = 1  # no struct sock
        calls.put(thread, call)
        gone.set()
        process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0
    assert probes.probes.missed().calls == 1


def test_threads_that_share_a_socket_leave_no_gap(probes: Probing) -> None:
    """Four write and four read at the same time, on one connection."""
    each = 500

    def echo(connection: socket.socket) -> None:
        left = 4 * each * 100
        while left:
            data = connection.recv(min(left, 65536))
            connection.sendall(data)
            left -= len(data)
        assert read_to_end(connection) == b""

    program = f"""
import threading
connection = connect()

def write():
    for _ in range({each}):
        connection.sendall(b"x" * 100)

def read():
    while connection.recv(333):
        pass

readers = [threading.Thread(target=read, daemon=True) for _ in range(4)]
writers = [threading.Thread(target=write) for _ in range(4)]
for thread in readers + writers:
    thread.start()
for thread in writers:
    thread.join()
connection.shutdown(socket.SHUT_WR)
for thread in readers:
    thread.join()
"""
    with serving(echo) as port:
        probes.run(program, port)
    probes.only()
    assert (len(probes.said(WRITE)), len(probes.said(READ))) == (4 * each * 100, 4 * each * 100)
    assert (probes.gaps(WRITE), probes.gaps(READ)) == (0, 0)
    probes.check_ledger()


def hello_of(server_side: bool) -> bytes:
    """The first flight of a handshake: a ClientHello, or what answers it."""
    client, server = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client.check_hostname = False
    trustme.CA().issue_cert("localhost").configure_cert(server)
    asked, answered = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        client.wrap_bio(ssl.MemoryBIO(), asked).do_handshake()
    hello = asked.read()
    if not server_side:
        return hello
    asked.write(hello)
    with contextlib.suppress(ssl.SSLWantReadError):
        server.wrap_bio(asked, answered, server_side=True).do_handshake()
    return answered.read()


CLIENT_HELLO, SERVER_HELLO = hello_of(False), hello_of(True)
LIKE_TLS = {
    "the head of a record": [b"\x16\x03\x01\x02\x00 and text"],
    "a ClientHello": [CLIENT_HELLO],
    "a ServerHello": [SERVER_HELLO],
    "a ClientHello, its head apart": [CLIENT_HELLO[:5], CLIENT_HELLO[5:]],
    "a ServerHello, its head apart": [SERVER_HELLO[:5], SERVER_HELLO[5:]],
    "a request for a tunnel, then a ClientHello": [b"CONNECT there:443 HTTP/1.1\r\n\r\n", CLIENT_HELLO],
}
"""Bodies, in the parts in which they are written and read."""

EXCHANGES = """
def exchange(connection, path, parts):
    length = sum(map(len, parts))
    connection.sendall(b"POST /%s HTTP/1.1\\r\\nHost: peer\\r\\nContent-Length: %d\\r\\n\\r\\n" % (path, length))
    for part in parts:
        connection.sendall(part)
    answer = b""
    while not answer.endswith(b"\\r\\n\\r\\n"):
        answer += connection.recv(1)
    for part in parts:
        assert connection.recv(len(part), socket.MSG_WAITALL) == part
"""


def echo_bodies(connection: socket.socket) -> None:
    """Answers each request with its body, until the other side closes."""
    while head := connection.recv(1):
        while not head.endswith(b"\r\n\r\n"):
            head += read_exactly(connection, 1)
        body = read_exactly(connection, int(head.split()[-1]))
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


@pytest.mark.parametrize("kind", LIKE_TLS)
def test_a_body_that_looks_like_tls_does_not_end_what_is_seen(capturing: Callable[..., Capturing], kind: str) -> None:
    parts = LIKE_TLS[kind]
    program = f"""
connection = connect()
for path, parts in ((b"a", [b"1"]), (b"tls", {parts!r}), (b"b", [b"2"]), (b"c", [b"3"])):
    exchange(connection, path, parts)
connection.close()
"""
    with serving(echo_bodies) as port:
        command = [sys.executable, "-c", PROGRAM + EXCHANGES + program, str(port)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)
        capture = capturing()
        capture.start(agent_pb2.Target(launched_pid=process.pid))
        process.communicate("\n", timeout=60)
        assert process.returncode == 0
    ledger = capture.stop()
    assert (ledger.opaque, ledger.seen) == (0, ledger.delivered)
    with capture.snapshot() as snapshot:
        pairs = list(snapshot.pairs())
    assert [pair.path for pair in pairs if pair.complete] == ["/a", "/tls", "/b", "/c"]
    bodies = [b"1", b"".join(parts), b"2", b"3"]
    assert [pair.request.body for pair in pairs] == bodies
    assert [pair.response.body for pair in pairs if pair.response] == bodies


@pytest.mark.parametrize("apart", [False, True], ids=["at once", "its head apart"])
def test_a_server_that_reads_a_body_which_looks_like_tls_goes_on_to_be_seen(probes: Probing, apart: bool) -> None:
    program = f"""
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
connection, _ = listener.accept()
for length in {[5, len(CLIENT_HELLO) - 5] if apart else [len(CLIENT_HELLO)]}:
    connection.recv(9, socket.MSG_WAITALL)
    connection.recv(length, socket.MSG_WAITALL)
    connection.sendall({ANSWER!r})
read_all(connection)
"""
    process = probes.start(program)
    assert process.stdout
    bodies = [CLIENT_HELLO[:5], CLIENT_HELLO[5:]] if apart else [CLIENT_HELLO]
    with socket.create_connection(("127.0.0.1", int(process.stdout.readline()))) as connection:
        for body in bodies:
            connection.sendall(b"question:" + body)
            assert read_exactly(connection, len(ANSWER)) == ANSWER
    assert process.wait(60) == 0
    probes.only()
    assert (probes.said(READ), probes.said(WRITE)) == (b"".join(b"question:" + body for body in bodies), ANSWER * len(bodies))
    probes.check_ledger()


TLS_BY_SOCKET = """
import ssl
def secure(connection, context, **options):
    return context.wrap_socket(connection, **options)
"""

TLS_BY_MEMORY = """
import ssl
class secure:
    def __init__(self, connection, context, **options):
        self.connection, self.incoming, self.outgoing = connection, ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, **options)
        self.move(self.tls.do_handshake)

    def move(self, call, *arguments):
        while True:
            try:
                return call(*arguments)
            except ssl.SSLWantReadError:
                self.incoming.write(self.flush() or self.connection.recv(65536))
            finally:
                self.flush()

    def flush(self):
        self.connection.sendall(self.outgoing.read())

    def sendall(self, data):
        self.move(self.tls.write, data)

    def recv(self, length):
        return self.move(self.tls.read, length)
"""

OPENINGS = {
    "a tunnel": (b"CONNECT there:443 HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"),
    "STARTTLS": (b"STARTTLS\r\n", b"220 go\r\n"),
}


@pytest.mark.parametrize("how", [TLS_BY_SOCKET, TLS_BY_MEMORY], ids=["the head apart", "what there is"])
@pytest.mark.parametrize("opening", OPENINGS)
def test_tls_that_no_probe_sees_on_a_connection_that_was_plain_shows_as_opaque(
    probes: Probing, authority: Authority, how: str, opening: str
) -> None:
    """The client's side of it, by a library that is not probed, which reads the head of a record first or all that has come."""
    asked, agreed = OPENINGS[opening]

    def serve(connection: socket.socket) -> None:
        assert read_exactly(connection, len(asked)) == asked
        connection.sendall(agreed)
        with authority.context.wrap_socket(connection, server_side=True) as stream:
            assert read_exactly(stream, len(QUESTION)) == QUESTION
            stream.sendall(ANSWER)
            stream.recv(1)

    program = f"""
context = ssl.create_default_context(cafile=arguments[1])
connection = connect()
connection.sendall({asked!r})
assert connection.recv({len(agreed)}, socket.MSG_WAITALL) == {agreed!r}
stream = secure(connection, context, server_hostname="localhost")
stream.sendall({QUESTION!r})
left = {len(ANSWER)}
while left:
    left -= len(stream.recv(left))
"""
    with serving(serve) as port:
        probes.run(how + program, port, authority.ca)
    check_opaque(probes, WRITE, asked, agreed)


@pytest.mark.parametrize("how", [TLS_BY_SOCKET, TLS_BY_MEMORY], ids=["the head apart", "what there is"])
@pytest.mark.parametrize("opening", OPENINGS)
def test_tls_that_no_probe_sees_on_a_connection_that_was_accepted_shows_as_opaque(
    probes: Probing, authority: Authority, tmp_path: Path, how: str, opening: str
) -> None:
    asked, agreed = OPENINGS[opening]
    certificate = tmp_path / "certificate"
    issuer = trustme.CA()
    issuer.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(certificate))
    program = f"""
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(arguments[0])
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
connection, _ = listener.accept()
assert connection.recv({len(asked)}, socket.MSG_WAITALL) == {asked!r}
connection.sendall({agreed!r})
stream = secure(connection, context, server_side=True)
left = {len(QUESTION)}
while left:
    left -= len(stream.recv(left))
stream.sendall({ANSWER!r})
"""
    process = probes.start(how + program, certificate)
    assert process.stdout
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    issuer.configure_trust(context)
    with socket.create_connection(("127.0.0.1", int(process.stdout.readline()))) as connection:
        connection.sendall(asked)
        assert read_exactly(connection, len(agreed)) == agreed
        with context.wrap_socket(connection, server_hostname="localhost") as stream:
            stream.sendall(QUESTION)
            assert read_exactly(stream, len(ANSWER)) == ANSWER
    assert process.wait(60) == 0
    check_opaque(probes, READ, asked, agreed)


def check_opaque(probes: Probing, way: int, asked: bytes, agreed: bytes) -> None:
    """Two streams: what was said in the clear, and ciphertext. Without a tunnel a hello is in the clear."""
    probes.wait_for_ends()
    plain, opaque = probes.opened()
    assert (plain.source, opaque.source) == (Source.SOCKET, Source.OPAQUE)
    of_client, of_server = probes.said(way, plain.stream), probes.said(1 - way, plain.stream)
    if asked.startswith(b"CONNECT"):
        assert (of_client, of_server) == (asked, agreed)
    else:
        assert of_client[: len(asked) + 2] == asked + b"\x16\x03"
        assert len(of_client) < 2000
        assert of_server == agreed
    (last,) = [item for item in probes.news if isinstance(item, StreamClosed) and item.stream == opaque.stream]
    assert all(tally.opaque > 100 for tally in last.tally)
    count = probes.probes.counter
    assert sum(tally.opaque for tally in last.tally) == count(Counter.OPAQUE)
    assert count(Counter.SEEN) == count(Counter.DELIVERED) == len(of_client) + len(of_server)
