"""Programs that put what they start into a cgroup of its own: it is not mocked, so it ends, is told of, and counts as a miss."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.recording import Done, understudy
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


def mock(bundle: Path, *options: str) -> tuple[Done, dict[str, Any]]:
    assert shutil.which("runc")
    snapshot, report, name = bundle / "snapshot", bundle / "report", f"us-{uuid.uuid4().hex}"
    write_snapshot(snapshot, Exchange("GET /a"))
    state = ("--root", str(bundle / "state"))
    command = ("sh", "-c", f"runc {' '.join(state)} run --bundle {bundle} {name}; runc {' '.join(state)} delete --force {name}")
    done = understudy("mock", snapshot, "--fail-on-miss", "--report", report, *options, "--", *command)
    return done, json.loads(report.read_text())


def test_a_container_is_not_let_go(bundle: Path, plain_server: TruthServer) -> None:
    done, report = mock(bundle)
    assert done.status == 3, done.stderr
    assert plain_server.exchanges == []
    assert [process["ended"] for process in report["departed"]][:1] == [True]
    assert report["departed"][0]["command"].startswith("runc")
    assert "left the command's cgroup" in done.stderr
    assert "run `understudy mock` inside of it" in done.stderr


def test_a_container_goes_on_where_misses_are_real(bundle: Path, plain_server: TruthServer) -> None:
    done, report = mock(bundle, "--on-miss", "passthrough")
    assert (done.status, done.stdout) == (3, b"200\n"), done.stderr
    assert len(plain_server.exchanges) == 1
    assert report["departed"]
    assert not any(process["ended"] for process in report["departed"])
