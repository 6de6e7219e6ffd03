"""The mount namespace that a recorded command gets: what shows in it, what leaves it, and when there is none."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Authority
from tests.e2e.recording import TIMEOUT, as_exchanges, differences, pairs, record, start_recording, understudy
from tests.e2e.truth.plan import MARKER
from tests.e2e.truth.server import TruthServer

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left_behind"), pytest.mark.timeout(120)]


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """A mount point whose mounts are those of all namespaces, as most systems have it for all of theirs."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(tmp_path)], check=True)
    subprocess.run(["mount", "--make-shared", str(tmp_path)], check=True)
    (tmp_path / "point").mkdir()
    yield tmp_path
    subprocess.run(["umount", "--recursive", str(tmp_path)], check=True)


def test_what_the_command_mounts_is_its_own(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    script = f"mount -t tmpfs own {shared}/point && touch {shared}/point/inside"
    done = record(tmp_path_factory.mktemp("kept") / "snapshot", "sh", "-c", script)
    assert done.status == 0, done.stderr
    assert list((shared / "point").iterdir()) == []


def test_what_the_machine_mounts_meanwhile_shows(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    snapshot = tmp_path_factory.mktemp("kept") / "snapshot"
    release = shared / "release"
    script = f"echo ready; while [ ! -e {release} ]; do sleep 0.02; done; ls {shared}/point"
    with start_recording(snapshot, "sh", "-c", script) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        subprocess.run(["mount", "-t", "tmpfs", "later", str(shared / "point")], check=True)
        (shared / "point" / "mounted").touch()
        release.touch()
        said, _ = process.communicate(timeout=TIMEOUT)
    assert said == b"mounted\n"


def test_without_a_mount_namespace_it_goes_on_and_says_what_that_means(
    tls_server: TruthServer, authority: Authority, tmp_path: Path
) -> None:
    url = f"{tls_server.url}/length/1000/m"
    curl = ["curl", "-fsS", "--cacert", str(authority.ca), "-H", f"{MARKER}: m", "-o", "/dev/null", url]
    less = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]
    done = understudy("record", "-o", tmp_path / "snapshot", "--", *curl, before=less)
    assert done.status == 0, done.stderr
    assert "what is loaded later may be seen from its second request on only: the agent lacks CAP_SYS_ADMIN" in done.stderr
    assert differences(as_exchanges(pairs(tmp_path / "snapshot")), tls_server.exchanges) == []
