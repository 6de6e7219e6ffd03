"""The command line as a process: it may start others while calls are under way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click

from engine.cli import main

ROOT = Path(__file__).parents[3]

STARTS_OTHERS = """
import os, subprocess, sys, threading
from concurrent.futures import ThreadPoolExecutor
import click
from engine.cli import main

main.get_command(click.Context(main), "record")
import grpc

server = grpc.server(ThreadPoolExecutor(2))
server.add_insecure_port(sys.argv[1])
server.start()
channel = grpc.insecure_channel(sys.argv[1])
over = threading.Event()

def call():
    while not over.is_set():
        try:
            channel.unary_unary("/none/none")(b"", timeout=10)
        except grpc.RpcError:
            pass

callers = [threading.Thread(target=call) for _ in range(4)]
for caller in callers:
    caller.start()
ended = [subprocess.run(["true"], user=os.geteuid()).returncode for _ in range(40)]
over.set()
for caller in callers:
    caller.join()
server.stop(0).wait()
sys.exit(any(ended))
"""


def test_a_process_that_calls_can_start_others(tmp_path: Path) -> None:
    command = [sys.executable, "-c", STARTS_OTHERS, f"unix:{tmp_path}/s"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_environment_stays_that_of_the_caller() -> None:
    before = dict(os.environ)
    assert main.get_command(click.Context(main), "record")
    assert dict(os.environ) == before
