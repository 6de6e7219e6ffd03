"""Paths that come to lead elsewhere while lists of certificates are being covered."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.e2e.programs import ROOT, environment

pytestmark = [pytest.mark.kernel]

CA = trustme.CA().cert_pem.bytes().decode()
TIMEOUT = 60.0

SWAPPING = """
import os, sys
from agent.takeover import bundles, cover
path, other, times = sys.argv[2], sys.argv[3], int(sys.argv[4])
real, seen = bundles.is_bundle, []

def swapping(data):
    found = real(data)
    if b"swap me" in data:
        seen.append(1)
        if len(seen) == times:
            os.rename(path, path + ".away")
            os.symlink(other, path)
    return found

bundles.is_bundle = swapping
cover.main()
"""


@pytest.fixture
def target() -> Iterator[subprocess.Popen[str]]:
    """A process with mounts of its own."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(["unshare", "-m", "sh", "-c", "echo; exec cat"], **pipes) as process:  # type: ignore[call-overload]
        process.stdout.readline()
        yield process
        process.stdin.close()


@pytest.mark.parametrize("times", [1, 2, 3])
def test_nothing_is_laid_over_what_a_path_leads_to_later(target: subprocess.Popen[str], times: int) -> None:
    """`times`: the reading after which the path is made a link to a file that is no list."""
    with tempfile.TemporaryDirectory(prefix="us-", dir="/var/tmp") as name:
        path, other = Path(name, "own.pem"), Path(name, "passwd")
        path.write_text(f"{CA}# swap me\n")
        other.write_text("root:x:0:0::/:/bin/sh\n")
        words = [str(target.pid), str(path), str(other), str(times)]
        request = json.dumps({"ca": CA, "trust_files": [str(path)]}) + "\n"
        done = subprocess.run(
            [sys.executable, "-c", SWAPPING, *words],
            input=request,
            env=environment(),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
        covered = json.loads(done.stdout)["files"]
        seen = subprocess.run(
            ["nsenter", "-t", str(target.pid), "-m", "cat", str(other)], capture_output=True, text=True, check=True
        ).stdout
        assert seen == other.read_text()
        assert str(path) in covered
