"""The folder of one command's parts, below the folder for temporary files.

Whoever of the parts is left removes it. When all are killed at once, as with the cgroup that they are in, nobody is: so each
folder has a lock that its parts hold for as long as one of them lives, and the next command removes the folders whose lock is free.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from engine.state import PRIVATE_LOCK

PREFIX = "understudy-"
LOCK = PRIVATE_LOCK
"""A file of the folder. It appears there locked already: a folder without it is just being made, or is not one of these."""


def make() -> tuple[Path, int]:
    """Make one, with a descriptor that keeps it for as long as it is open here or in a process that inherits it."""
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    new = folder / f"{LOCK}.new"
    kept = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    fcntl.flock(kept, fcntl.LOCK_EX)
    new.rename(folder / LOCK)
    return folder, kept


def remove_abandoned() -> None:
    """Remove those of this user that nobody keeps any more."""
    parent = Path(tempfile.gettempdir())
    with contextlib.suppress(OSError), os.scandir(parent) as entries:
        for name in [entry.name for entry in entries if entry.name.startswith(PREFIX)]:
            with contextlib.suppress(OSError):  # in use, somebody else's, removed meanwhile, or no such folder
                _remove_abandoned(parent / name)


def _remove_abandoned(path: Path) -> None:
    """By descriptors: everybody may write to the parent, so a path may lead elsewhere the next time."""
    with contextlib.ExitStack() as opened:
        place = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        opened.callback(os.close, place)
        if os.fstat(place).st_uid != os.geteuid():
            return
        lock = os.open(LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=place)
        opened.callback(os.close, lock)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for name in sorted(os.listdir(place), key=LOCK.__eq__):  # the lock last: without it the rest would stay for good
            try:
                os.unlink(name, dir_fd=place)
            except IsADirectoryError:
                shutil.rmtree(name, dir_fd=place)
        os.rmdir(path)
