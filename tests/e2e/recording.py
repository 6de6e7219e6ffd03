"""Running `understudy`, and turning what it captured into the words of the truth."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.e2e.programs import ROOT, environment
from tests.e2e.truth.log import Digest, Exchange, Headers
from tests.e2e.truth.plan import MARKER

UNDERSTUDY = str(Path(sys.executable).with_name("understudy"))
TIMEOUT = 120.0
"""Seconds that one command may take."""

Pair = dict[str, Any]
"""A line of `inspect --json`."""


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended."""

    status: int
    stdout: bytes
    stderr: str


def understudy(
    *arguments: str | Path,
    stdin: bytes = b"",
    before: Sequence[str] = (),
    cwd: Path = ROOT,
    variables: Mapping[str, str] | None = None,
) -> Done:
    """Runs `understudy`; `before` are words to put before it, `variables` go into its environment."""
    command = [*before, UNDERSTUDY, *map(str, arguments)]
    surroundings = environment(**(variables or {}))
    done = subprocess.run(command, input=stdin, capture_output=True, env=surroundings, cwd=cwd, timeout=TIMEOUT)
    return Done(done.returncode, done.stdout, done.stderr.decode())


def record(snapshot: Path, *command: str, stdin: bytes = b"", variables: Mapping[str, str] | None = None) -> Done:
    """Records a command to its end."""
    return understudy("record", "-o", snapshot, "--", *command, stdin=stdin, variables=variables)


def start_recording(snapshot: Path, *command: str) -> subprocess.Popen[bytes]:
    """Starts to record a command, in a process group of its own."""
    whole = [UNDERSTUDY, "record", "-o", str(snapshot), "--", *command]
    return subprocess.Popen(whole, env=environment(), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0)


def part(recorder: int, module: str) -> psutil.Process:
    """The process below the recorder that runs `module`: the agent or the engine. LookupError where there is none."""
    for process in psutil.Process(recorder).children(recursive=True):
        if f"-m {module}" in " ".join(process.cmdline()):
            return process
    raise LookupError(f"no process -m {module} below {recorder}")


def pairs(snapshot: Path) -> list[Pair]:
    """What `inspect --json` says."""
    done = understudy("inspect", snapshot, "--json")
    assert (done.status, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def as_exchanges(captured: Iterable[Pair]) -> list[Exchange]:
    """Pairs in the words of the truth; the index on a connection is the order of the pairs' times."""
    by_connection: dict[str, list[Pair]] = defaultdict(list)
    for pair in captured:
        by_connection[pair["connection"]["id"]].append(pair)
    return [
        _exchange(pair, index)
        for connection in by_connection.values()
        for index, pair in enumerate(sorted(connection, key=lambda pair: str(pair["time"])))
    ]


def _exchange(pair: Pair, index: int) -> Exchange:
    query = "&".join(f"{name}={value}" for name, value in pair["query"])
    request, response = pair["request"], pair["response"] or {"headers": [], "body": ""}
    headers = _headers(request)
    return Exchange(
        marker=next((value for name, value in headers if name.lower() == MARKER.lower()), ""),
        connection=f"{pair['connection']['local_address']}:{pair['connection']['local_port']}",
        index=index,
        request_line=f"{pair['method']} {pair['path']}{'?' if query else ''}{query} HTTP/1.1",
        request_headers=headers,
        request=Digest.of(base64.b64decode(request["body"])),
        status=pair["status"],
        response_headers=_headers(response),
        response=Digest.of(base64.b64decode(response["body"])),
    )


def _headers(half: dict[str, Any]) -> Headers:
    return tuple((name, value) for name, value in half["headers"])


def differences(captured: Sequence[Exchange], truth: Sequence[Exchange]) -> list[str]:
    """What a capture has wrong: doubled, invented, missed, or not the same. Empty where it is the truth."""
    counts = Counter(exchange.marker for exchange in captured)
    seen, real = ({exchange.marker: exchange for exchange in side} for side in (captured, truth))
    unlike = sorted(marker for marker in seen.keys() & real.keys() if seen[marker] != real[marker])
    return [
        *(f"{marker}: captured {count} times" for marker, count in counts.items() if count > 1),
        *(f"{marker}: never happened" for marker in sorted(seen.keys() - real.keys())),
        *(f"{marker}: missed" for marker in sorted(real.keys() - seen.keys())),
        *(f"{marker}: {seen[marker]}\nis not\n{real[marker]}" for marker in unlike),
    ]
