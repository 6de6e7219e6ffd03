"""What is written of the copies, and how."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from agent.takeover.bundles import File, Opened
from agent.takeover.certificates import first_der, joined, subject_hash
from agent.takeover.copies import SINGLE, Copies, write_new, write_once

CA = trustme.CA().cert_pem.bytes()
LIST = trustme.CA().cert_pem.bytes()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def file(path: Path, data: bytes) -> File:
    """A file as it was read."""
    path.write_bytes(data)
    return File(data, path.stat())


def test_a_list_and_a_socket(tmp_path: Path, place: int) -> None:
    one = Opened(-1, file(tmp_path / "one", LIST))
    copies = Copies(place, CA, {})
    name = copies.of(one, 0)
    assert name == copies.of(one, 1)
    assert (tmp_path / name).read_bytes() == joined(LIST, CA)
    assert (tmp_path / name).stat().st_mode & 0o7777 == 0o444
    assert (tmp_path / copies.of(Opened(-1), 2)).read_bytes() == b""


def test_a_folder(tmp_path: Path, place: int) -> None:
    name = subject_hash(first_der(CA))
    known, other = file(tmp_path / "known", LIST), file(tmp_path / "other", b"other")
    (tmp_path / "other").chmod(0o4640)
    entries = {"java": None, "java/known.pem": known, f"{name}.0": known, "other": File(b"other", (tmp_path / "other").stat())}
    copy = tmp_path / Copies(place, CA, {known.identity: known}).of(Opened(-1, entries=entries), 7, folder=True)
    found = {str(path.relative_to(copy)): path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert found == {
        "java/known.pem": joined(LIST, CA),
        f"{name}.0": joined(LIST, CA),
        f"{name}.1": CA,
        "other": other.data,
        SINGLE: CA,
    }
    assert (copy / "other").stat().st_mode & 0o7777 == 0o640
    assert not any(path.is_symlink() for path in copy.rglob("*"))


@pytest.mark.parametrize("entries", [(SINGLE,), (f"{SINGLE}/", f"{SINGLE}/x")])
def test_the_name_of_the_authority_is_not_anybody_else_s(tmp_path: Path, place: int, entries: tuple[str, ...]) -> None:
    other = file(tmp_path / "other", LIST)
    found = {path.rstrip("/"): None if path.endswith("/") else other for path in entries}
    copy = tmp_path / Copies(place, CA, {}).of(Opened(-1, entries=found), 0, folder=True)
    assert (copy / SINGLE).read_bytes() == CA


def test_nothing_is_written_through_a_link(tmp_path: Path, place: int) -> None:
    (tmp_path / "target").write_bytes(b"before")
    (tmp_path / "target").chmod(0o600)
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(FileExistsError):
        write_new(place, "link", b"after")
    assert ((tmp_path / "target").read_bytes(), (tmp_path / "target").stat().st_mode & 0o777) == (b"before", 0o600)


def test_what_could_not_be_written_in_full_is_not_there(tmp_path: Path, place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, mode: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fchmod", full)
        with pytest.raises(OSError, match="No space"):
            write_once(place, b"data")
    assert list(tmp_path.iterdir()) == []
    assert (tmp_path / write_once(place, b"data")).read_bytes() == b"data"
