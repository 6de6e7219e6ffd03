"""Writes the copies that are laid over lists and folders of certificates, from what was read of these: no path of theirs is used.

With the standard library alone, as agent/takeover/cover.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass

from agent.takeover.bundles import File, Opened
from agent.takeover.certificates import first_der, joined, subject_hash

SINGLE = "understudy-ca.pem"
"""In the copy of a folder: the authority alone."""


@dataclass(frozen=True, slots=True)
class Copies:
    """The copies in a folder, by its descriptor. `bundles`: lists of certificates by the identity of their files."""

    place: int
    ca: bytes
    bundles: dict[tuple[int, int], File]

    def of(self, opened: Opened, number: int, *, folder: bool = False) -> str:
        """The name of the copy of something; `number` is its own. Of a socket, an empty file."""
        if folder:
            return self._of_folder(opened, f"folder-{number}")
        return write_once(self.place, joined(opened.bundle.data, self.ca) if opened.bundle else b"")

    def _of_folder(self, opened: Opened, name: str) -> str:
        """A folder of certificates, with the authority under the hash of its name. It has no links: see bundles."""
        os.mkdir(name, 0o755, dir_fd=self.place)
        entries = {path: file for path, file in opened.entries.items() if path.split("/")[0] != SINGLE}
        for path, file in entries.items():
            if file is None:
                os.mkdir(f"{name}/{path}", 0o755, dir_fd=self.place)
            else:
                self._write_entry(f"{name}/{path}", file)
        write_new(self.place, f"{name}/{SINGLE}", self.ca)
        digest = subject_hash(first_der(self.ca))
        number = next(number for number in range(len(entries) + 1) if f"{digest}.{number}" not in entries)
        write_new(self.place, f"{name}/{digest}.{number}", self.ca)
        return name

    def _write_entry(self, path: str, file: File) -> None:
        data = joined(file.data, self.ca) if file.identity in self.bundles else file.data
        write_new(self.place, path, data, file.status.st_mode & 0o777, (file.status.st_uid, file.status.st_gid))


def write_new(folder: int, path: str, data: bytes, mode: int = 0o444, owner: tuple[int, int] = (0, 0)) -> None:
    """Write a file that is not there yet; where that fails, it is not there afterwards either."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fchown(fd, *owner)
            os.fchmod(fd, mode)
    except OSError:
        os.unlink(path, dir_fd=folder)
        raise


def write_once(folder: int, data: bytes) -> str:
    """The name of a file with this content, which those that are alike share."""
    name = hashlib.sha256(data).hexdigest()
    with contextlib.suppress(FileExistsError):
        write_new(folder, name, data)
    return name
