"""What cannot be mocked keeps its real connection, and is listed: a PostgreSQL beside."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Authority
from tests.e2e.programs import client
from tests.e2e.recording import record, understudy
from tests.e2e.truth.server import TruthServer

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left_behind")]

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


@pytest.fixture
def postgres() -> Iterator[int]:
    """The port of a server of our own on 127.0.0.1, which runs as its own user, as it must."""
    with tempfile.TemporaryDirectory(prefix="us-pg-") as name:
        folder = Path(name)
        person = pwd.getpwnam("postgres")
        os.chown(folder, person.pw_uid, person.pw_gid)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = int(listener.getsockname()[1])
        become = ["setpriv", f"--reuid={person.pw_uid}", f"--regid={person.pw_gid}", "--clear-groups", "env", "LC_ALL=C"]
        control = [*become, str(PROGRAMS[-1] / "pg_ctl"), "-D", str(folder / "data"), "-w", "-l", str(folder / "log")]
        quiet = {"check": True, "stdout": subprocess.DEVNULL, "cwd": folder}
        subprocess.run([*become, str(PROGRAMS[-1] / "initdb"), "-D", str(folder / "data"), "-A", "trust"], **quiet)  # type: ignore[call-overload]
        options = f"-p {port} -k {folder} -h 127.0.0.1 -c fsync=off"
        subprocess.run([*control, "-o", options, "start"], **quiet)  # type: ignore[call-overload]
        yield port
        subprocess.run([*control, "-m", "immediate", "stop"], **quiet)  # type: ignore[call-overload]


def test_postgres_is_left_alone_and_listed(postgres: int, tls_server: TruthServer, authority: Authority, tmp_path: Path) -> None:
    assert shutil.which("psql")
    call = client("with_requests", tls_server.url, tmp_path / "log", "--exchanges", "20", "--connections", "2", ca=authority.ca)
    url = f"postgresql://postgres@127.0.0.1:{postgres}/postgres?sslmode=disable"
    script = f'"$@" && psql -Atc "select 40 + 2, pg_backend_pid() > 0" "{url}"'
    command = ("sh", "-c", script, "sh", *call)
    recorded = record(tmp_path / "snapshot", *command)
    assert recorded.stdout.endswith(b"42|t\n"), recorded.stderr
    shown = understudy("inspect", tmp_path / "snapshot").stdout.decode()
    assert "postgres" in shown
    tls_server.__exit__(None, None, None)
    report = tmp_path / "report"
    mocked = understudy("mock", tmp_path / "snapshot", "--fail-on-miss", "--report", report, "--", *command)
    assert (mocked.status, mocked.stdout.endswith(b"42|t\n")) == (0, True), mocked.stderr
    assert str(postgres) in mocked.stderr
    found = json.loads(report.read_text())
    assert found["responder_rate"] == 1
    assert found["requests"] == 20
