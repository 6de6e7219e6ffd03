"""Under sudo, `mock` opens the person's paths with the person's rights: links and names lead nowhere that they could not go."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.e2e.recording import UNDERSTUDY
from tests.e2e.test_record_person import Person, person
from tests.engine.making import Exchange, write_snapshot

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left_behind")]
__all__ = ["person"]


def mock(who: Person, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    snapshot = write_snapshot(who.home / "snapshot", Exchange("GET /a"))
    snapshot.chmod(0o644)
    return who.run("sudo", "-n", UNDERSTUDY, "mock", "snapshot", *arguments, **variables)


@pytest.fixture
def secret() -> Iterator[Path]:
    """A list of certificates that only root may touch, in a folder that all may enter, which those of pytest are not."""
    with tempfile.TemporaryDirectory(prefix="us-") as name:
        Path(name).chmod(0o755)
        path = Path(name, "secret.pem")
        path.write_bytes(trustme.CA().cert_pem.bytes())
        path.chmod(0o600)
        yield path


def test_a_report_is_not_written_through_a_link_to_what_is_root_s(person: Person, secret: Path) -> None:
    before = secret.read_bytes()
    (person.home / "report").symlink_to(secret)
    done = mock(person, "--report", "report", "--", "echo", "ran")
    assert (done.returncode, done.stdout) == (125, "")  # noticed before the command starts
    [line] = done.stderr.splitlines()
    assert "the report cannot be written to report: Permission denied" in line
    assert (secret.read_bytes(), secret.stat().st_uid, secret.stat().st_mode & 0o777) == (before, 0, 0o600)


def test_a_report_is_the_person_s(person: Person) -> None:
    done = mock(person, "--report", "report", "--", "echo", "ran")
    assert (done.returncode, done.stdout) == (0, "ran\n"), done.stderr
    report = person.home / "report"
    assert (report.stat().st_uid, report.stat().st_gid) == (person.uid, person.gid)
    assert report.read_text().startswith("{")


@pytest.mark.parametrize("way", ["argument", "variable", "link"])
def test_what_only_root_may_read_is_not_shown_by_the_copies(person: Person, secret: Path, way: str) -> None:
    """Bundles are covered by copies that everybody may read."""
    (person.home / "link.pem").symlink_to(secret)
    variables = {"SSL_CERT_FILE": str(secret)} if way == "variable" else {}
    name = "link.pem" if way == "link" else str(secret)
    done = mock(person, "--", "sh", "-c", f"cat {name}; true", name, **variables)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "Permission denied" in done.stderr


@pytest.mark.parametrize("name", ["understudy-ca.pem", "other.pem"])
def test_links_in_a_folder_of_certificates_lead_to_nothing_of_root_s(person: Person, secret: Path, name: str) -> None:
    """Nothing is written through them, and nothing read that the person may not read."""
    before = secret.read_bytes()
    certs = person.home / "certs"
    certs.mkdir()
    (certs / name).symlink_to(secret)
    os.chown(certs, person.uid, person.gid)
    done = mock(person, "--", "sh", "-c", "ls certs; cat certs/*", SSL_CERT_DIR=str(certs))
    assert done.returncode == 0, done.stderr
    assert (secret.read_bytes(), secret.stat().st_mode & 0o777) == (before, 0o600)
    assert before.decode().split()[5] not in done.stdout
    names = done.stdout.partition("-----")[0].split()
    assert len(names) == 2
    assert "understudy-ca.pem" in names


@pytest.mark.parametrize("where", ["closed", "nowhere"])
@pytest.mark.parametrize("word", ["loop", "word"])
def test_what_leads_nowhere_keeps_nothing_from_starting(person: Person, where: str, word: str) -> None:
    """A link to itself; a folder to look for programs in that the person may not enter."""
    (person.home / "closed").mkdir(mode=0o700)
    (person.home / "loop").symlink_to("loop")
    done = mock(person, "--", "/bin/echo", word, "ran", PATH=f"{person.home / where}:/usr/bin:/bin")
    assert (done.returncode, done.stdout) == (0, f"{word} ran\n"), done.stderr


@pytest.mark.parametrize(
    ("name", "why"), [("nothing", "No such file"), ("secret", "Permission denied"), ("text", "no list of certificates")]
)
def test_a_list_that_cannot_be_trusted_is_told_before_the_command_starts(person: Person, secret: Path, name: str, why: str) -> None:
    (person.home / "text").write_text("text")
    (person.home / "secret").symlink_to(secret)
    done = mock(person, "--trust", name, "--", "echo", "ran")
    assert (done.returncode, done.stdout) == (125, "")
    [line] = done.stderr.splitlines()
    assert f"--trust {name}" in line
    assert why in line
