"""TLS that passes where it cannot be seen, in the midst of what is recorded: no pair is wrong for it, and it is told."""

from __future__ import annotations

import shutil
import sys
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent import workloads
from agent.attach import system_libraries
from tests.e2e.conftest import Authority
from tests.e2e.recording import as_exchanges, pairs, record
from tests.e2e.truth.server import TruthServer

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left_behind"), pytest.mark.timeout(120)]

SIZE = 3000

CLIENT = f"""
import ctypes, os, socket, ssl, subprocess, sys, time
from pathlib import Path

port, ca, library, elsewhere, how = sys.argv[1:]
address = ctypes.cast(ctypes.CDLL("libssl.so.3").SSL_read, ctypes.c_void_p).value

def instruction():
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(each, 16) for each in line.split(" ", 1)[0].split("-"))
        if start <= address < end:
            assert line.endswith(library)
            with open(library, "rb") as file:
                return os.pread(file.fileno(), 4, address - start + int(line.split()[2], 16))

without = instruction()  # read once: whoever opens the file has it probed again

def wait_until_probed(wanted):
    deadline = time.monotonic() + 20
    while (ctypes.string_at(address, 4) != without) != wanted:
        assert time.monotonic() < deadline
        time.sleep(0.01)

def load():
    subprocess.run([sys.executable, "-c", "import ctypes, sys; ctypes.CDLL(sys.argv[1])", library], check=True)

connection = ssl.create_default_context(cafile=ca).wrap_socket(
    socket.create_connection(("127.0.0.1", int(port))), server_hostname="localhost")

def ask(marker):
    lines = [f"GET /length/{SIZE}/{{marker}} HTTP/1.1", "Host: localhost", f"X-Marker: {{marker}}", "", ""]
    connection.sendall("\\r\\n".join(lines).encode())

def read_head():
    head = b""
    while not head.endswith(b"\\r\\n\\r\\n"):
        head += connection.recv(1)

def read_body(left):
    while left:
        left -= len(connection.recv(left))

def exchange(marker):
    ask(marker)
    read_head()
    read_body({SIZE})

wait_until_probed(True)
exchange("before")
ask("begun")
read_head()
read_body(100)
if how.startswith("overwritten"):
    with open(library, "rb+", buffering=0) as file:
        os.pwrite(file.fileno(), os.pread(file.fileno(), 4096, 0), 0)
    wait_until_probed(False)
elif how == "departed":
    home = Path("/proc/self/cgroup").read_text().rpartition("0::")[2].split("\\n")[0]
    Path(elsewhere, "cgroup.procs").write_text("0")
elif how == "touched":
    os.utime(library)
    os.link(library, library + ".link")
read_body({SIZE} - 100)
exchange("unseen")
if how == "overwritten":
    load()
    wait_until_probed(True)
elif how == "departed":
    Path(elsewhere.rpartition("/understudy-elsewhere")[0] + home, "cgroup.procs").write_text("0")
elif how == "touched":
    load()
for number in range(4):
    exchange(f"after-{{number}}")
"""


@pytest.fixture
def libraries(tmp_path: Path) -> Path:
    """A folder with copies of the TLS libraries, which nobody else uses."""
    folder = tmp_path / "lib"
    folder.mkdir()
    for path in system_libraries():
        if path.endswith(".so.3"):
            shutil.copy(path, folder)
    return folder


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A cgroup that is not recorded."""
    mount = workloads.cgroup_mount()
    assert mount
    path = mount / f"understudy-elsewhere-{uuid.uuid4().hex}"
    path.mkdir()
    yield path
    path.rmdir()


SAID = {"before", "begun", "unseen", *(f"after-{number}" for number in range(4))}


@pytest.mark.parametrize(
    ("how", "expected", "told"),
    [
        ("overwritten", {"before", "after-1", "after-2", "after-3"}, "streams whose start was not seen: 1"),
        ("overwritten for good", {"before"}, "1 stream could not be read"),
        ("departed", {"before", "after-1", "after-2", "after-3"}, "streams whose start was not seen: 1"),
        ("touched", SAID, "7 of 7 pairs complete"),
    ],
)
def test_no_pair_is_wrong(
    how: str,
    expected: set[str],
    told: str,
    tls_server: TruthServer,
    authority: Authority,
    libraries: Path,
    elsewhere: Path,
    tmp_path: Path,
) -> None:
    arguments = map(str, (tls_server.port, authority.ca, libraries / "libssl.so.3", elsewhere, how))
    done = record(tmp_path / "snapshot", "env", f"LD_LIBRARY_PATH={libraries}", sys.executable, "-c", CLIENT, *arguments)
    assert done.status == 0, done.stderr
    assert told in done.stderr
    found = pairs(tmp_path / "snapshot")
    whole = {each.marker: replace(each, index=0) for each in as_exchanges(pair for pair in found if pair["complete"])}
    truth = {each.marker: replace(each, index=0) for each in tls_server.exchanges}
    assert truth.keys() == SAID
    assert {marker: truth[marker] for marker in whole} == whole
    assert whole.keys() == expected
    begun = next(pair for pair in found if pair["path"].endswith("/begun"))
    assert begun["missing"] == ([] if how == "touched" else ["response body"])  # not unread: then it would be served like this
