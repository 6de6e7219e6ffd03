"""The mount namespace that a recorded command gets: what shows in it, what leaves it, and when there is none."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import ssl
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


def requests_from(folder: Path, url: str, authority: Authority) -> str:
    """A shell's words: copies of curl and libssl in a folder, which say something."""
    curl = ["curl", "-fsS", "--cacert", str(authority.ca), "-H", f"{MARKER}: m", "-o", "/dev/null", f"{url}/length/1000/m"]
    return f"cp {library('libssl.so')} {shutil.which('curl')} {folder} && LD_LIBRARY_PATH={folder} {folder}/{shlex.join(curl)}"


def library(name: str) -> str:
    """Where this interpreter has it from: its path with the version."""
    assert ssl.OPENSSL_VERSION
    return next(line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if name in line)


@pytest.mark.parametrize("mounted", ["before", "meanwhile"])
def test_what_was_probed_can_be_unmounted(
    mounted: str, tls_server: TruthServer, authority: Authority, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """At once: the command's own processes have nothing open there any more."""
    mount, unmount = f"mount -t tmpfs own {tmp_path}", f"umount {tmp_path}"
    words = [requests_from(tmp_path, tls_server.url, authority), unmount]
    snapshot = tmp_path_factory.mktemp("kept") / "snapshot"
    with contextlib.ExitStack() as stack:
        if mounted == "before":
            subprocess.run(mount.split(), check=True)
            stack.callback(subprocess.run, unmount.split(), check=True)
        else:
            words = [mount, *words]
        done = record(snapshot, "sh", "-c", " && ".join(words))
    assert done.status == 0, done.stderr
    assert len(tls_server.exchanges) == 1
    if mounted == "before":  # then it is held, and nothing is missed
        assert differences(as_exchanges(pairs(snapshot)), tls_server.exchanges) == []


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
