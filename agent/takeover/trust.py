"""Makes a launched process trust the responder's authority: drives agent/takeover/cover.py, which does it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from agent.takeover import helper
from agent.takeover.bundles import Command

COVER_SECONDS = 30.0
"""A search of the largest environments takes a second."""


@dataclass(frozen=True, slots=True)
class Trust:
    """What is covered in the process's mount namespace; what could not be, with the reason; variables to start it with."""

    covered: tuple[str, ...] = ()
    failures: tuple[tuple[str, str], ...] = ()
    variables: Mapping[str, str] | None = None


def extend(pid: int, ca: str, command: Command) -> Trust:
    """Let process `pid`, which waits to become `command` in a mount namespace of its own, trust the PEM certificate `ca` too.

    OSError where it has none of its own, ValueError where `ca` is no certificate.
    """
    request = {"ca": ca, **asdict(command)}
    try:
        done = subprocess.run(
            helper.command("cover", str(pid)),
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=COVER_SECONDS,
            env={},
        )
    except subprocess.TimeoutExpired as error:
        raise OSError(f"the bundles of process {pid} could not be covered within {COVER_SECONDS:.0f} seconds") from error
    if done.returncode:
        reason = done.stderr.strip().rpartition("\n")[2]
        raise OSError(f"the bundles of process {pid} could not be covered: {reason}")
    answer = json.loads(done.stdout)
    covered = (*answer["files"], *answer["folders"], *answer["sockets"])
    return Trust(covered, tuple(map(tuple, answer["failures"])), answer["variables"])
