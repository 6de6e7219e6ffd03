"""What all client programs share: their command line, one thread a connection, and what they write down."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.truth.log import Digest, Told, write_told
from tests.e2e.truth.plan import Step, plan

AT_ONCE = 16
"""Connections that work at the same time: enough to interleave, few enough for a small machine."""


@dataclass(frozen=True, slots=True)
class Options:
    """A client's command line."""

    url: str
    ca: str
    log: Path
    steps: list[list[Step]]


def options() -> Options:
    """Reads the command line: where to, whom to trust, where to log, how much to do."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--ca", default="")
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--connections", type=int, default=50)
    parser.add_argument("--exchanges", type=int, default=1000)
    parser.add_argument("--name", default="m")
    given = parser.parse_args()
    steps = plan(given.connections, given.exchanges, given.name)
    return Options(given.url, given.ca, given.log, steps)


def told(step: Step, connection: int, status: int, body: bytes) -> Told:
    """What to write down of a step that was made; AssertionError where the status is not the planned one."""
    assert status == step.status, f"{step.marker}: status {status}"
    return Told(step.marker, connection, Digest.of(step.body()), status, Digest.of(body))


def run_threads(make: Callable[[Options, int, list[Step]], list[Told]]) -> None:
    """Main of a client that blocks: `make` makes the steps of one connection."""
    given = options()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        futures = [pool.submit(make, given, number, steps) for number, steps in enumerate(given.steps)]
        lines = [line for future in futures for line in future.result()]
    finish(given, lines)


def finish(given: Options, lines: list[Told]) -> None:
    """Writes the log and says how much was done."""
    write_told(given.log, lines)
    print(f"{len(lines)} exchanges over {len(given.steps)} connections", file=sys.stderr)
