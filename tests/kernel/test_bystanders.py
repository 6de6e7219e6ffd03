"""Programs that use a probed library: who is not recorded is left alone, and who begins or ceases to be in the midst of a call."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.attach import system_libraries
from agent.events import Source
from agent.kernel.probes import sessions_supported
from agent.streams import StreamOpened
from tests.e2e.conftest import Authority
from tests.kernel.probing import CAPTURE, READ, WRITE, Probing, probing, read_exactly, serving
from tests.kernel.test_tls import ANSWER, OPENSSL, QUESTION

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(60)]

SAYS = {
    "throw": "caught: timed out\ngoes on\n",
    "throw-new": "caught: no memory\ngoes on\n",
    "cancel": "lock released\ncancelled\ngoes on\n",
    "switch": "fiber 0: -1\nfiber 1: -1\ngoes on\n",
}
"""What the program says that leaves calls so, see its source."""

TALKS = f"""{OPENSSL}
number = ctypes.c_int

@ctypes.CFUNCTYPE(ctypes.c_long, pointer, number, pointer, ctypes.c_size_t, number, ctypes.c_long, number, pointer)
def turned_to_connection(bio, operation, data, length, number, argument, result, done):
    global exchange
    if exchange == 2 and operation == 2:  # BIO_CB_READ, before it
        exchange = 0
        say("inside")
    return result

def say(what):
    print(what, flush=True)
    sys.stdin.readline()

exchange, ssl = 0, new()
connection = handshake(ssl, arguments[0])
openssl.SSL_get_rbio.restype = pointer
openssl.BIO_set_callback_ex(pointer(openssl.SSL_get_rbio(ssl)), turned_to_connection)
for exchange in (1, 2, 3):
    assert openssl.SSL_write(ssl, {QUESTION!r}, {len(QUESTION)}) == {len(QUESTION)}
    assert openssl.SSL_read(ssl, buffer, {len(ANSWER)}) == {len(ANSWER)}
    if exchange == 0:
        say("after it")
"""
"""Three exchanges; in and after the call that reads the second answer, it says so and waits for a line."""


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Copies of libcrypto and libssl, in this order, which nobody else maps."""
    folder = tmp_path_factory.mktemp("libraries")
    return [Path(shutil.copy(path, folder)) for path in sorted(system_libraries()) if path.endswith(".so.3")]


@pytest.fixture(scope="module")
def unwinding(libraries: list[Path]) -> Path:
    """The program, which uses the copies."""
    folder = libraries[0].parent
    source, program = Path(__file__).with_name("unwinding.cc"), folder / "unwinding"
    subprocess.run(["g++", "-O1", "-o", program, source, *libraries, f"-Wl,-rpath,{folder}"], check=True)
    return program


def says(program: Path, how: str) -> tuple[int, str]:
    done = subprocess.run([program, how], capture_output=True, text=True, check=False, timeout=30)
    return done.returncode, done.stdout


@pytest.fixture
def answering(authority: Authority) -> Callable[[socket.socket], None]:
    """Answers three questions."""

    def serve(connection: socket.socket) -> None:
        with authority.context.wrap_socket(connection, server_side=True, suppress_ragged_eofs=True) as stream:
            for _ in range(3):
                assert read_exactly(stream, len(QUESTION)) == QUESTION
                stream.sendall(ANSWER)

    return serve


@pytest.mark.skipif(not sessions_supported(), reason="on this kernel a return probe is in everybody's calls")
@pytest.mark.parametrize("how", SAYS)
def test_who_is_not_recorded_may_leave_a_call_in_any_way(
    libraries: list[Path], unwinding: Path, answering: Callable[[socket.socket], None], how: str
) -> None:
    assert says(unwinding, how) == (0, SAYS[how])
    with probing() as probes, serving(answering) as port:
        probes.attach(*libraries)
        recorded = probes.start(TALKS, *libraries, port)
        assert says(unwinding, how) == (0, SAYS[how])
        recorded.communicate("\n\n", timeout=30)
        assert recorded.returncode == 0
        probes.take()
        assert (probes.said(WRITE), probes.said(READ)) == (QUESTION * 3, ANSWER * 3)


@pytest.fixture(params=[None, False], ids=["as here", "entries and returns apart"])
def probes(request: pytest.FixtureRequest, libraries: list[Path]) -> Iterator[Probing]:
    with probing(sessions=request.param) as made:
        made.attach(*libraries)
        yield made


def test_a_process_that_begins_to_be_recorded_in_a_call(
    probes: Probing, libraries: list[Path], answering: Callable[[socket.socket], None]
) -> None:
    """What the call reads is not seen, nor that it begins the stream."""
    with serving(answering) as port:
        process = probes.start(TALKS, *libraries, port, recorded=False)
        assert process.stdout
        assert process.stdout.readline() == "inside\n"
        probes.probes.target_process(process.pid, CAPTURE)
        process.communicate("\n\n", timeout=30)
        assert process.returncode == 0
    probes.wait_for_ends()
    (opened,) = tls_streams(probes)
    assert not opened.start_known
    assert (probes.said(WRITE), probes.said(READ)) == (QUESTION, ANSWER)
    probes.check_ledger()


def test_a_process_that_ceases_to_be_recorded_in_a_call(
    probes: Probing, libraries: list[Path], answering: Callable[[socket.socket], None]
) -> None:
    """What the call reads is not seen, so what is said when it is recorded again is another stream, whose start is not known."""
    with serving(answering) as port:
        process = probes.start(TALKS, *libraries, port)
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == "inside\n"
        probes.probes.forget_process(process.pid)
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "after it\n"
        probes.probes.target_process(process.pid, CAPTURE)
        process.communicate("\n", timeout=30)
        assert process.returncode == 0
    probes.wait_for_ends()
    first, second = tls_streams(probes)
    assert (first.start_known, second.start_known) == (True, False)
    assert (probes.said(WRITE, first.stream), probes.said(READ, first.stream)) == (QUESTION * 2, ANSWER)
    assert (probes.said(WRITE, second.stream), probes.said(READ, second.stream)) == (QUESTION, ANSWER)
    probes.check_ledger()


def tls_streams(probes: Probing) -> list[StreamOpened]:
    """In their order."""
    return [opened for opened in probes.opened() if opened.source is Source.TLS]
