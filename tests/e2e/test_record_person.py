"""Under sudo everything but the agent is the person who called."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.e2e.conftest import Authority
from tests.e2e.programs import ROOT
from tests.e2e.recording import TIMEOUT, UNDERSTUDY, pairs
from tests.e2e.truth.server import TruthServer

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left_behind")]

NAME = f"us-person-{os.getpid()}"
"""Another clone may run the same tests at the same time."""
GROUP = f"{NAME}-more"


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with a home, a second group and the right to use sudo without a password."""

    uid: int
    gid: int
    home: Path
    closed: Path | None = None
    """The folder above the clone that this person may not enter, if there is one."""
    mode: int = 0o755
    """What that folder gets for the time of a command."""

    def run(self, *command: str, **extra: str) -> subprocess.CompletedProcess[str]:
        """Runs a command as this person, at home."""
        own = {"HOME": str(self.home), "USER": NAME, "LOGNAME": NAME, "PATH": f"{self.home}/bin:/usr/bin:/bin"}
        groups = ",".join(map(str, os.getgrouplist(NAME, self.gid)))
        become = ["setpriv", f"--reuid={self.uid}", f"--regid={self.gid}", f"--groups={groups}", "--"]
        return subprocess.run(
            [*self._opened(), "env", "-C", self.home, *become, *command],
            env=own | extra,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )

    def _opened(self) -> list[str]:
        """Words before a command that let it reach the clone: in a mount namespace in which the folder has the other mode."""
        if self.closed is None:
            return []
        mount = f"mount -t tmpfs -o mode={self.mode:o} tmpfs"
        script = mount + ' "$0" && mkdir -p "$PWD" && mount --no-canonicalize --bind . "$PWD" && exec "$@"'
        return ["unshare", "--mount", "sh", "-c", script, str(self.closed)]

    def record(self, *command: str, **extra: str) -> subprocess.CompletedProcess[str]:
        """Records a command by sudo into ~/snapshot."""
        return self.run("sudo", "-n", UNDERSTUDY, "record", "-o", "snapshot", "--", *command, **extra)


@pytest.fixture
def person() -> Iterator[Person]:
    """A person for the time of a test."""
    rule = Path("/etc/sudoers.d") / NAME
    subprocess.run(["groupadd", GROUP], check=True)
    try:
        # The home lies where everybody may go: /tmp has room for it on every machine.
        subprocess.run(["useradd", "--create-home", "--base-dir", "/tmp", "--groups", GROUP, NAME], check=True)
        rule.write_text(f"{NAME} ALL=(ALL) NOPASSWD: ALL\n")
        rule.chmod(0o440)
        entry = pwd.getpwnam(NAME)
        yield Person(entry.pw_uid, entry.pw_gid, Path(entry.pw_dir), closed_folder())
    finally:
        rule.unlink(missing_ok=True)
        subprocess.run(["userdel", "--remove", NAME], check=False, capture_output=True)
        subprocess.run(["groupdel", GROUP], check=True)


def closed_folder() -> Path | None:
    """The uppermost folder above this clone that not everybody may enter, as a home often is."""
    above = [folder for folder in reversed(ROOT.parents) if not folder.stat().st_mode & 0o001]
    return above[0] if above else None


def test_the_command_is_the_person(person: Person) -> None:
    script = 'id -u; id -g; id -Gn; echo "$HOME $USER $LOGNAME"; pwd'
    done = person.record("sh", "-c", script)
    alone = person.run("sh", "-c", script)
    assert (done.returncode, done.stdout) == (0, alone.stdout)
    assert GROUP in done.stdout


def test_the_command_has_the_environment_of_the_person(person: Person) -> None:
    script = 'echo "$PATH"; echo "$A_WORD"; echo "${SUDO_UID-none}"'
    done = person.record("sh", "-c", script, A_WORD="with spaces")
    alone = person.run("sh", "-c", script, A_WORD="with spaces")
    assert (done.returncode, done.stdout) == (0, alone.stdout)


def test_the_command_is_found_on_the_path_of_the_person(person: Person) -> None:
    tool = person.home / "bin" / "own-tool"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho own\n")
    tool.chmod(0o755)
    done = person.record("own-tool")
    assert (done.returncode, done.stdout) == (0, "own\n")


def test_the_command_has_no_more_rights_than_the_person(person: Person) -> None:
    done = person.record("grep", "-E", "^(Cap(Inh|Prm|Eff|Amb)|Uid|Gid|Groups):", "/proc/self/status")
    alone = person.run("grep", "-E", "^(Cap(Inh|Prm|Eff|Amb)|Uid|Gid|Groups):", "/proc/self/status")
    assert (done.returncode, done.stdout) == (0, alone.stdout)


def test_the_snapshot_belongs_to_the_person(person: Person, tls_server: TruthServer, authority: Authority) -> None:
    trusted = person.home / "ca.pem"
    trusted.write_bytes(authority.ca.read_bytes())
    url = f"{tls_server.url}/length/1000/m"
    done = person.record("curl", "--fail", "--silent", "--cacert", "ca.pem", "--output", "answer", url)
    assert (done.returncode, (person.home / "answer").stat().st_size) == (0, 1000)
    snapshot = person.home / "snapshot"
    assert (snapshot.stat().st_uid, snapshot.stat().st_gid) == (person.uid, person.gid)
    assert [path for path in person.home.rglob("*") if path.stat().st_uid != person.uid and path != trusted] == []
    assert [pair["status"] for pair in pairs(snapshot)] == [200]
    assert person.run(UNDERSTUDY, "inspect", "snapshot").returncode == 0


def test_an_interpreter_that_the_person_cannot_reach(person: Person) -> None:
    done = replace(person, closed=ROOT.parent, mode=0o700).record("true")
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.startswith(f"understudy: {NAME} cannot run {sys.executable}")
    assert done.stderr.count("\n") == 1
