"""What cannot be mocked is refused, but on the loopback or where it was chosen to be real, and is listed: a PostgreSQL beside."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Authority
from tests.e2e.programs import client
from tests.e2e.recording import Done, record, understudy
from tests.e2e.truth.server import TruthServer
from tests.kernel.takeover import lonely_network

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left_behind")]

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


@contextlib.contextmanager
def postgres(host: str, before: Sequence[str] = ()) -> Iterator[int]:
    """The port of a server of our own, which runs as its own user, as it must. `before`: words to start it with."""
    with tempfile.TemporaryDirectory(prefix="us-pg-") as name:
        folder = Path(name)
        person = pwd.getpwnam("postgres")
        os.chown(folder, person.pw_uid, person.pw_gid)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = int(listener.getsockname()[1])
        become = ["setpriv", f"--reuid={person.pw_uid}", f"--regid={person.pw_gid}", "--clear-groups", "env", "LC_ALL=C"]
        control = [*before, *become, str(PROGRAMS[-1] / "pg_ctl"), "-D", str(folder / "data"), "-w", "-l", str(folder / "log")]
        quiet = {"check": True, "stdout": subprocess.DEVNULL, "cwd": folder}
        subprocess.run([*become, str(PROGRAMS[-1] / "initdb"), "-D", str(folder / "data"), "-A", "trust"], **quiet)  # type: ignore[call-overload]
        with (folder / "data/pg_hba.conf").open("a") as rules:
            rules.write("host all all all trust\n")
        options = f"-p {port} -k {folder} -h {host} -c fsync=off"
        subprocess.run([*control, "-o", options, "start"], **quiet)  # type: ignore[call-overload]
        yield port
        subprocess.run([*control, "-m", "immediate", "stop"], **quiet)  # type: ignore[call-overload]


def asking(host: str, port: int) -> str:
    url = f"postgresql://postgres@{host}:{port}/postgres?sslmode=disable"
    return f'psql -Atc "select 40 + 2, pg_backend_pid() > 0" "{url}"'


def test_postgres_on_the_loopback_is_left_alone_and_listed(tls_server: TruthServer, authority: Authority, tmp_path: Path) -> None:
    assert shutil.which("psql")
    call = client("with_requests", tls_server.url, tmp_path / "log", "--exchanges", "20", "--connections", "2", ca=authority.ca)
    with postgres("127.0.0.1") as port:
        command = ("sh", "-c", f'"$@" && {asking("127.0.0.1", port)}', "sh", *call)
        recorded = record(tmp_path / "snapshot", *command)
        assert recorded.stdout.endswith(b"42|t\n"), recorded.stderr
        shown = understudy("inspect", tmp_path / "snapshot").stdout.decode()
        assert "postgres" in shown
        tls_server.__exit__(None, None, None)
        report = tmp_path / "report"
        mocked = understudy("mock", tmp_path / "snapshot", "--fail-on-miss", "--report", report, "--", *command)
        assert (mocked.status, mocked.stdout.endswith(b"42|t\n")) == (0, True), mocked.stderr
    assert f"went to a program on this machine, not mocked: TCP 127.0.0.1:{port}, called by psql" in mocked.stderr
    found = json.loads(report.read_text())
    assert [(call["address"], call["port"], call["command"]) for call in found["local"]] == [("127.0.0.1", port, "psql")]
    assert (found["responder_rate"], found["requests"], found["missed"]) == (1, 20, False)


PLACE = "10.66.7.2"


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, ...]]:
    """Words to start programs with in a network that has an address besides those of the loopback."""
    with lonely_network() as home:
        words = ("nsenter", "-t", str(home), "-n")
        subprocess.run([*words, "ip", "address", "add", f"{PLACE}/32", "dev", "lo"], check=True)
        yield words


SELF = """
import http.server, sys, threading, urllib.request

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "9")
        self.end_headers()
        self.wfile.write(b"version " + sys.argv[1].encode())

server = http.server.ThreadingHTTPServer(("0.0.0.0", int(sys.argv[2])), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
for host in sys.argv[3:]:
    print(urllib.request.urlopen(f"http://{host}:{server.server_port}/", timeout=20).read().decode())
"""
"""A service, and its test, which asks it by names of the machine."""


@pytest.mark.parametrize("host", [PLACE, "box", "127.0.0.1"])
def test_a_service_that_calls_itself_is_answered_by_itself(host: str, elsewhere: tuple[str, ...], tmp_path: Path) -> None:
    """By what it is under `mock`, not by what it was; whether it was recorded or not. /etc/hosts names it, as in a container."""
    hosts = tmp_path / "hosts"
    hosts.write_text(f"127.0.0.1 localhost\n{PLACE} box\n")
    before = (*elsewhere, "unshare", "-m", "sh", "-c", f'mount --bind {hosts} /etc/hosts && exec "$@"', "sh")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    snapshot, report = tmp_path / "snapshot", tmp_path / "report"

    def command(version: str, *hosts: str) -> tuple[str, ...]:
        return (sys.executable, "-c", SELF, version, port, *hosts)

    recorded = understudy("record", "-o", snapshot, "--", *command("1", host), before=before)
    assert recorded.stdout == b"version 1\n", recorded.stderr
    options = ("--fail-on-miss", "--report", report, "--")
    mocked = understudy("mock", snapshot, *options, *command("2", host, PLACE, "box", "127.0.0.1"), before=before)
    found = json.loads(report.read_text())
    assert (mocked.status, mocked.stdout) == (0, b"version 2\n" * 4), mocked.stderr
    assert (found["requests"], found["refused"], found["local"], found["missed"]) == (0, [], [], False)
    assert f"the recorded program itself, so not mocked: {host}:{port}" in mocked.stderr


def test_postgres_elsewhere_is_refused_unless_it_is_chosen(elsewhere: tuple[str, ...], tmp_path: Path) -> None:
    with postgres(PLACE, elsewhere) as port:
        command = ("sh", "-c", asking(PLACE, port))
        snapshot, report, place = tmp_path / "snapshot", tmp_path / "report", f"{PLACE}:{port}"
        recorded = understudy("record", "-o", snapshot, "--", *command, before=elsewhere)
        assert recorded.stdout == b"42|t\n", recorded.stderr

        def mock(*options: str) -> tuple[Done, dict[str, Any]]:
            done = understudy("mock", snapshot, "--fail-on-miss", "--report", report, *options, "--", *command, before=elsewhere)
            return done, json.loads(report.read_text())

        done, found = mock()
        assert (done.status, done.stdout) == (3, b""), done.stderr
        (refused,) = found["refused"]
        assert (refused["address"], refused["port"], refused["reason"]) == (
            PLACE,
            port,
            "it was recorded, but cannot be stood in for",
        )
        assert f"--except {place} lets it through" in done.stderr

        done, found = mock("--except", place)
        assert (done.status, done.stdout, found["refused"]) == (0, b"42|t\n", []), done.stderr
        assert [(call["address"], call["port"]) for call in found["passed_through"]] == [(PLACE, port)]
        assert f"left out, so not mocked: {place}" in done.stderr

        done, found = mock("--on-miss", "passthrough")
        assert (done.status, done.stdout) == (3, b"42|t\n"), done.stderr
        assert [(call["address"], call["port"]) for call in found["unrecorded"]] == [(PLACE, port)]

        assert understudy("backends", snapshot, "--off", PLACE).stdout.startswith(f"[ ] {place}  postgres".encode())
        done, found = mock()
        assert (done.status, done.stdout, found["missed"]) == (0, b"42|t\n", False), done.stderr
