"""Files are probed before they are used, and no process that waits for others, or is waited for, notices."""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Authority
from tests.e2e.machine import eventually
from tests.e2e.programs import environment
from tests.e2e.recording import TIMEOUT, UNDERSTUDY, as_exchanges, differences, pairs, part, record, start_recording
from tests.e2e.truth.plan import MARKER
from tests.e2e.truth.server import TruthServer

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left_behind")]

NAME = f"us-held-{os.getpid()}"
"""Of this run: other clones may run their tests at the same time."""


@pytest.fixture
def user() -> Iterator[str]:
    """A real user, for the time of a test."""
    subprocess.run(["useradd", "--no-create-home", "--shell", "/bin/sh", NAME], check=True)
    try:
        yield pwd.getpwnam(NAME).pw_name
    finally:
        subprocess.run(["userdel", NAME], check=False, capture_output=True)


def curl(server: TruthServer, authority: Authority, marker: str, ca: Path | None = None) -> str:
    options = ["--cacert", str(ca or authority.ca), "-H", f"{MARKER}: {marker}", "-o", "/dev/null"]
    return shlex.join(["curl", "-fsS", *options, f"{server.url}/length/1000/{marker}"])


def assert_captured(snapshot: Path, server: TruthServer, count: int) -> None:
    """Each request of the server's log was captured, whole, from the first one on."""
    captured = pairs(snapshot)
    assert len(server.exchanges) == count
    assert differences(as_exchanges(captured), server.exchanges) == []
    assert [pair["missing"] for pair in captured if not pair["complete"]] == []


@pytest.fixture
def readable_ca(authority: Authority) -> Iterator[Path]:
    """The authority's certificate where every user can read it."""
    path = Path("/tmp") / f"{NAME}-ca.pem"
    path.write_bytes(authority.ca.read_bytes())
    path.chmod(0o644)
    yield path
    path.unlink()


@pytest.mark.parametrize(
    "through",
    [
        pytest.param(["sudo", "-n", "sh", "-c"], id="sudo"),
        pytest.param(["sudo", "-n", "-u", NAME, "sh", "-c"], id="sudo -u"),
        pytest.param(["su", NAME, "-c"], id="su"),
        pytest.param(["runuser", "-u", NAME, "--", "sh", "-c"], id="runuser"),
    ],
)
@pytest.mark.timeout(60)
def test_programs_that_watch_for_stopped_children(
    through: list[str], user: str, tmp_path: Path, tls_server: TruthServer, authority: Authority, readable_ca: Path
) -> None:
    done = record(tmp_path / "snapshot", *through, curl(tls_server, authority, "m", readable_ca))
    assert done.status == 0, done.stderr
    assert_captured(tmp_path / "snapshot", tls_server, 1)


@pytest.mark.timeout(60)
def test_an_interactive_shell_with_job_control(tmp_path: Path, tls_server: TruthServer, authority: Authority) -> None:
    snapshot = tmp_path / "snapshot"
    command = shlex.join([UNDERSTUDY, "record", "-o", str(snapshot), "--", "bash", "--norc", "-i"])
    typed = f"{curl(tls_server, authority, 'a')}\n{curl(tls_server, authority, 'b')} & wait; jobs; exit 7\n"
    done = subprocess.run(
        ["script", "-qec", command, "/dev/null"],
        input=typed.encode(),
        capture_output=True,
        env=environment(),
        timeout=TIMEOUT,
    )
    assert done.returncode == 7, done.stdout
    assert b"Stopped" not in done.stdout
    assert_captured(snapshot, tls_server, 2)


@pytest.mark.timeout(60)
def test_make_with_jobs(tmp_path: Path, tls_server: TruthServer, authority: Authority) -> None:
    targets = [f"t{number}" for number in range(12)]
    rules = "\n".join(f"{target}:\n\t@{curl(tls_server, authority, target)}" for target in targets)
    (tmp_path / "Makefile").write_text(f"all: {' '.join(targets)}\n{rules}\n")
    done = record(tmp_path / "snapshot", "make", "-s", "-C", str(tmp_path), "-j", "4")
    assert done.status == 0, done.stderr
    assert_captured(tmp_path / "snapshot", tls_server, len(targets))


@pytest.mark.timeout(60)
def test_a_program_in_a_mount_namespace_that_was_made_for_it(tmp_path: Path, tls_server: TruthServer, authority: Authority) -> None:
    """Where nothing is held: the system's libraries are probed before it starts."""
    each = shlex.join(["unshare", "--mount", "sh", "-c"])
    script = " && ".join(f"{each} {shlex.quote(curl(tls_server, authority, str(number)))}" for number in range(3))
    done = record(tmp_path / "snapshot", "sh", "-c", script)
    assert done.status == 0, done.stderr
    assert_captured(tmp_path / "snapshot", tls_server, 3)


LATE = """
import os, shutil, subprocess, sys
folder, source, marker, server, ca, rounds = sys.argv[1:]
for number in range(int(rounds)):
    private = f"{folder}/{number}"
    os.mkdir(private)
    shutil.copy(source, private)
    options = ["--cacert", ca, "-o", "/dev/null", "-H", f"{marker}: {number}"]
    subprocess.run(["curl", "-fsS", *options, server], env=os.environ | {"LD_LIBRARY_PATH": private}, check=True)
"""


@pytest.mark.timeout(60)
def test_the_first_request_of_a_library_that_nobody_has_seen_before(
    tmp_path: Path, tls_server: TruthServer, authority: Authority
) -> None:
    """A private copy of libssl, made while it is recorded and then loaded; again and again, for without a hold some are late."""
    assert ssl.OPENSSL_VERSION
    maps = Path("/proc/self/maps").read_text().splitlines()
    library = Path(next(line.split()[-1] for line in maps if "libssl.so" in line))
    folder = tmp_path / "private"
    folder.mkdir()
    url = f"{tls_server.url}/length/1000/m"
    words = [str(folder), str(library), MARKER, url, str(authority.ca), "8"]
    done = record(tmp_path / "snapshot", sys.executable, "-c", LATE, *words)
    assert done.status == 0, done.stderr
    assert "loaded later" not in done.stderr
    assert_captured(tmp_path / "snapshot", tls_server, 8)


STORM = """
import ctypes, os, shutil, subprocess, sys
folder, library, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
print("storm", flush=True)
for number in range(rounds):
    copy = shutil.copy(library, f"{folder}/{number}.so")
    ctypes.CDLL(copy)
    program = shutil.copy("/bin/true", f"{folder}/{number}.true")
    subprocess.run([program], check=True)
print("done", flush=True)
"""


@pytest.mark.timeout(90)
def test_a_storm_of_programs_and_libraries_goes_on_when_the_agent_is_killed(tmp_path: Path) -> None:
    library = next(
        line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libz.so" in line or "libcrypto" in line
    )
    folder = tmp_path / "copies"
    folder.mkdir()
    with start_recording(tmp_path / "snapshot", sys.executable, "-c", STORM, str(folder), library, "60") as process:
        assert process.stdout
        assert process.stdout.readline() == b"storm\n"
        assert eventually(lambda: (folder / "5.so").exists(), TIMEOUT)
        part(process.pid, "agent").kill()
        assert process.stdout.readline() == b"done\n"
        process.communicate(timeout=TIMEOUT)
    shutil.rmtree(folder)
