"""What capture costs besides probes: the opening of a file, alone and beside traffic; a system call of who is not recorded.

Without capture and with it in turn, several times in one run; ratios carry over to other machines, times do not.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

import grpc
from understudy.v1 import agent_pb2

from engine.__main__ import build
from tests.kernel.conftest import Capturing

TURNS = 5
SECONDS = 1.5
CALLS = 300_000
LOADS = {"an opening": 0, "an opening beside traffic": 200}
"""Bytes of a message: as many messages as the program can send."""


class Workload:
    """A program that opens files, in a mount namespace of its own, as `record` gives it one."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        program = str(Path(__file__).with_name("_openings.py"))
        command = ["unshare", "--mount", "--propagation", "slave", sys.executable, program, str(folder)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        assert self.process.stdout.readline() == "ready\n"

    def run(self, size: int) -> float:
        """Microseconds an opening took."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{SECONDS} {size}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline()) * 1e6

    def close(self) -> None:
        """End it."""
        self.process.communicate(timeout=30)


def system_call() -> float:
    """Microseconds of CPU that a system call takes which carries nothing."""
    before, call = time.thread_time(), os.getppid
    for _ in range(CALLS):
        call()
    return (time.thread_time() - before) / CALLS * 1e6


def measure(workload: Workload) -> dict[str, float]:
    """All of it, once."""
    return {**{name: workload.run(size) for name, size in LOADS.items()}, "a system call": system_call()}


def _stop(server: grpc.Server) -> None:
    server.stop(0).wait()


def main() -> None:
    """Measure and print."""
    if os.geteuid() != 0:
        print("openings: needs root")
        return
    without, captured = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    for _ in range(TURNS):
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="us-")))
            address = f"unix:{folder}/e.sock"
            server, recordings = build(address, folder, folder)
            server.start()
            stack.callback(_stop, server)
            capture = Capturing(folder, recordings, address)
            stack.callback(capture.close)
            workload = Workload(folder / "files")
            stack.callback(workload.close)
            for name, took in measure(workload).items():
                without[name].append(took)
            capture.start(agent_pb2.Target(launched_pid=workload.process.pid))
            for name, took in measure(workload).items():
                captured[name].append(took)
            capture.stop()
    print(f"median of {TURNS} turns, µs{'without':>19}{'capture':>10}{'ratio':>9}")
    for name in without:
        alone, recorded = statistics.median(without[name]), statistics.median(captured[name])
        print(f"{name:27}{alone:17.2f}{recorded:10.2f}{recorded / alone:9.1f}")


if __name__ == "__main__":
    main()
