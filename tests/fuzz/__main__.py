"""Runs the fuzz targets guided by coverage, as many at a time as there are processors.

    python -m tests.fuzz [--seconds N] [TARGET...]

What was found to reach new code is kept below build/fuzz/TARGET and is where the next run begins. An input that breaks a promise is
written to build/fuzz/TARGET.crash-*; copied into tests/fuzz/corpus/TARGET it is tried in every test run from then on.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz import targets

OUTPUT = Path("build/fuzz")
INPUT_SECONDS = 20
"""An input that takes longer is a finding: a slow machine's pauses are shorter."""
MEMORY_MIB = 2048
INPUT_BYTES = 65536
"""Longest input: enough for every bound that depends on a length, short enough for thousands of inputs a second."""
GRACE_SECONDS = 120.0
"""Beyond its own time limit, which counts from the end of its start."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a target. `output` is the fuzzer's own, for a failure."""

    name: str
    failed: bool
    inputs: int
    features: int
    seconds: float
    output: str

    def line(self) -> str:
        """For people."""
        result = "FAILED" if self.failed else "ok"
        return f"{self.name:12} {result:7} {self.inputs:>10,} inputs {self.features:>6,} features {self.seconds:>5.0f} s"


def run(name: str, seconds: int) -> Outcome:
    """Fuzz one target in a process of its own."""
    kept = OUTPUT / name
    kept.mkdir(parents=True, exist_ok=True)
    options = [
        f"-max_total_time={seconds}",
        f"-timeout={INPUT_SECONDS}",
        f"-rss_limit_mb={MEMORY_MIB}",
        f"-max_len={INPUT_BYTES}",
        f"-artifact_prefix={OUTPUT}/{name}.",
        "-print_final_stats=1",
        str(kept),
        *([str(targets.corpus(name))] if targets.corpus(name).is_dir() else []),
    ]
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.guided", name, *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
        timeout=seconds + GRACE_SECONDS,
    )
    inputs = re.findall(r"stat::number_of_executed_units:\s*(\d+)", done.stdout)
    features = re.findall(r"\bft: (\d+)", done.stdout)
    return Outcome(
        name,
        done.returncode != 0,
        int(inputs[-1]) if inputs else 0,
        int(features[-1]) if features else 0,
        time.monotonic() - began,
        done.stdout,
    )


def main() -> int:
    """Run, and print a line a target; 1 where one failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz what reads bytes that it did not write.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"default: all ({', '.join(targets.names())})")
    parser.add_argument("--seconds", type=int, default=60, help="time for each target (default: %(default)s)")
    asked = parser.parse_args()
    unknown = set(asked.targets) - set(targets.names())
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(targets.names())}")
    failed = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for outcome in pool.map(lambda name: run(name, asked.seconds), asked.targets or targets.names()):
            print(outcome.line(), flush=True)
            if outcome.failed:
                failed += 1
                print(outcome.output[-4000:], flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
