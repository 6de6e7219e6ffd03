"""Who called: under sudo, the person behind it, with the environment that they had."""

from __future__ import annotations

import errno
import os
import pwd
import shutil
import socket
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from engine.cli import as_person


@dataclass(frozen=True, slots=True)
class Caller:
    """The person for whom a command runs, and to whom its files belong."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    environment: dict[bytes, bytes]

    def variable(self, name: str) -> str:
        """One of their variables; "" where it is not set."""
        return os.fsdecode(self.environment.get(os.fsencode(name), b""))

    @property
    def name(self) -> str:
        """Their login name; their number where they have none."""
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return f"user {self.uid}"

    @property
    def search_path(self) -> str:
        """Their PATH."""
        return os.fsdecode(self.environment.get(b"PATH", b"/usr/local/bin:/usr/bin:/bin"))

    def find(self, command: str) -> str | None:
        """The program that they would start by this name; None where there is none."""
        return shutil.which(command, path=self.search_path)

    def find_file(self, command: str) -> str | None:
        """The file of this name where a program is looked for, though it cannot be executed; None where there is none."""
        return shutil.which(command, os.F_OK, self.search_path)

    def open(self, path: Path, flags: int) -> int:
        """Open a file with their rights; OSError where they may not, or where it is a FIFO or a device that would have to wait."""
        if os.geteuid() == self.uid:
            return os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY, as_person.MODE)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            arguments = [str(theirs.fileno()), str(flags), str(path)]
            subprocess.run(
                [sys.executable, "-I", "-S", as_person.__file__, *arguments],
                pass_fds=[theirs.fileno()],
                user=self.uid,
                group=self.gid,
                extra_groups=self.groups,
                env={},
                stdin=subprocess.DEVNULL,
                check=False,
            )
            theirs.close()
            said, fds, _, _ = socket.recv_fds(ours, 16, 1)
        if not fds:
            code = int(said or errno.EACCES)
            raise OSError(code, os.strerror(code), str(path))
        os.set_inheritable(fds[0], False)
        return fds[0]

    def run(self, module: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        """Run a module of ours with their rights, in their environment; gives its output, and leaves it the terminal."""
        other = os.geteuid() != self.uid
        return subprocess.run(
            [sys.executable, "-I", "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=self.environment,
            check=False,
            user=self.uid if other else None,
            group=self.gid if other else None,
            extra_groups=self.groups if other else None,
        )

    def read(self, path: Path, limit: int) -> bytes:
        """Read a regular file with their rights; OSError where that is not possible, or it is longer."""
        fd = self.open(path, os.O_RDONLY)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        with os.fdopen(fd, "rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
        return data


def caller() -> Caller:
    """The person who called this process."""
    uid, gid = os.environ.get("SUDO_UID", ""), os.environ.get("SUDO_GID", "")
    if os.geteuid() != 0 or not uid.isdigit() or not gid.isdigit():
        return Caller(os.getuid(), os.getgid(), tuple(os.getgroups()), dict(os.environb))
    return Caller(int(uid), int(gid), _groups(int(uid), int(gid)), _environment_behind_sudo(int(uid)))


def _groups(uid: int, gid: int) -> tuple[int, ...]:
    try:
        return tuple(os.getgrouplist(pwd.getpwuid(uid).pw_name, gid))
    except KeyError:
        return (gid,)


_SET_BY_SUDO = (b"PATH", b"HOME", b"USER", b"LOGNAME", b"SHELL", b"MAIL", b"TERM", b"SUDO_")


def _environment_behind_sudo(uid: int) -> dict[bytes, bytes]:
    """The environment that sudo itself was started with, for what it passes on is cut down (env_reset in sudoers(5)); and what was
    set on the way from there, as by `sudo X=1 understudy`."""
    person = _environment_of_sudo()
    if person is None:
        return _login_environment(uid)
    set_since = {key: value for key, value in os.environb.items() if not key.startswith(_SET_BY_SUDO)}
    return person | set_since


def _environment_of_sudo() -> dict[bytes, bytes] | None:
    pid = os.getppid()
    while pid > 1:
        folder = Path(f"/proc/{pid}")
        try:
            if (folder / "comm").read_bytes() == b"sudo\n":
                entries = (folder / "environ").read_bytes().split(b"\0")
                return dict(entry.split(b"=", 1) for entry in entries if b"=" in entry)
            pid = int((folder / "stat").read_bytes().rpartition(b")")[2].split()[1])
        except OSError:
            break
    return None


def _login_environment(uid: int) -> dict[bytes, bytes]:
    """Where sudo is gone: this environment, with what names the person set right."""
    environment = {key: value for key, value in os.environb.items() if not key.startswith(b"SUDO_")}
    try:
        person = pwd.getpwuid(uid)
    except KeyError:
        return environment
    names = {b"HOME": person.pw_dir, b"USER": person.pw_name, b"LOGNAME": person.pw_name, b"SHELL": person.pw_shell}
    return environment | {key: os.fsencode(value) for key, value in names.items()}


def as_text(name: str) -> str:
    """A name as messages and snapshots can hold it: what is no UTF-8 in a file's name, Python keeps as lone surrogates."""
    return os.fsencode(name).decode(errors="replace")
