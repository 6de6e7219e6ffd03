"""Programs that put what they start into a cgroup of its own: it is not mocked, so it ends, is told of, and counts as a miss."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.recording import Done, record, understudy
from tests.e2e.truth.server import TruthServer
from tests.engine.making import Exchange, write_snapshot

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left_behind")]

FOLDERS = ("/usr", "/etc", "/bin", "/lib", "/lib64", "/sbin")


@pytest.fixture
def bundle(plain_server: TruthServer, tmp_path: Path) -> Path:
    """A container that asks the server, as a bundle of the OCI runtime specification; with this machine's programs and network."""
    made = tmp_path / "bundle"
    (made / "rootfs").mkdir(parents=True)
    options = ["rbind", "ro"]
    binds = [
        {"destination": folder, "type": "bind", "source": str(Path(folder).resolve()), "options": options}
        for folder in FOLDERS
        if Path(folder).exists()
    ]
    ask = f"curl -sS -o /dev/null -w '%{{http_code}}\\n' --noproxy '*' {plain_server.url}/length/5/asked"
    process = {"user": {"uid": 0, "gid": 0}, "args": ["/bin/sh", "-c", ask], "env": ["PATH=/usr/bin:/bin"], "cwd": "/"}
    configuration = {
        "ociVersion": "1.0.0",
        "process": process,
        "root": {"path": "rootfs"},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}, *binds],
        "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}]},
    }
    (made / "config.json").write_text(json.dumps(configuration))
    return made


def running(bundle: Path) -> tuple[str, ...]:
    """Words that run it."""
    assert shutil.which("runc")
    runc, name = f"runc --root {bundle / 'state'}", f"us-{uuid.uuid4().hex}"
    return ("sh", "-c", f"{runc} run --bundle {bundle} {name}; {runc} delete --force {name}")


def mock(bundle: Path, *options: str) -> tuple[Done, dict[str, Any]]:
    snapshot, report = bundle / "snapshot", bundle / "report"
    write_snapshot(snapshot, Exchange("GET /a"))
    done = understudy("mock", snapshot, "--fail-on-miss", "--report", report, *options, "--", *running(bundle))
    return done, json.loads(report.read_text())


def test_a_container_is_not_let_go(bundle: Path, plain_server: TruthServer) -> None:
    done, report = mock(bundle)
    assert done.status == 3, done.stderr
    assert plain_server.exchanges == []
    assert [process["ended"] for process in report["departed"]][:1] == [True]
    assert "left the command's cgroup" in done.stderr
    assert "run `understudy mock` inside of it" in done.stderr


def test_a_container_goes_on_where_misses_are_real(bundle: Path, plain_server: TruthServer) -> None:
    done, report = mock(bundle, "--on-miss", "passthrough")
    assert (done.status, done.stdout) == (3, b"200\n"), done.stderr
    assert len(plain_server.exchanges) == 1
    assert report["departed"]
    assert not any(process["ended"] for process in report["departed"])


def test_a_container_goes_on_and_is_told_of_where_it_is_recorded(bundle: Path, plain_server: TruthServer) -> None:
    done = record(bundle / "snapshot", *running(bundle))
    assert (done.status, done.stdout) == (0, b"200\n"), done.stderr
    assert len(plain_server.exchanges) == 1
    assert "left the capture for the cgroup" in done.stderr
    assert "record it with --cgroup or --container" in done.stderr
