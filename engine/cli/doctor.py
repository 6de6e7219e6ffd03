"""`understudy doctor`: what this machine can capture, what is missing, per process and why."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click
import grpc
from google.protobuf.json_format import MessageToDict
from rich.console import Console
from rich.text import Text
from understudy.v1 import agent_pb2

from engine.cli import Failure
from engine.cli.caller import caller
from engine.cli.parts import Parts
from engine.cli.terminal import Column, console, print_table
from engine.cli.text import clean

DESCRIBE_SECONDS = 60.0
JSON_FORMAT = 1
"""Raised when a program that reads --json would have to change."""

PROCESS_COLUMNS = (
    Column("Process", key=True),
    Column("Command", key=True),
    Column("TLS"),
    Column("Captured"),
    Column("Library"),
)


@click.command(name="doctor")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def command(as_json: bool) -> None:
    """Tell what this machine can capture, and what not and why. Exit status 1 where something that capture needs is missing."""
    parts = Parts(caller(), Path.cwd())
    try:
        found = parts.agent_service.Describe(agent_pb2.DescribeRequest(), timeout=DESCRIBE_SECONDS)
    except grpc.RpcError as error:
        raise Failure(f"the agent cannot tell: {error.details()}") from error
    finally:
        parts.stop()
    ready = all(check.ok or not check.required for check in found.checks)
    if as_json:
        described = MessageToDict(found, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
        print(json.dumps({"format": JSON_FORMAT, "ready": ready, **described}, indent=2))
    else:
        _show(found, ready)
    sys.exit(0 if ready else 1)


def _show(found: agent_pb2.DescribeResponse, ready: bool) -> None:
    target = console()
    for check in found.checks:
        mark, style = ("ok", "green") if check.ok else ("missing", "red") if check.required else ("no", "yellow")
        target.print(Text.assemble((f"{mark:8}", style), f"{check.name:14}", clean(check.detail)))
        if check.remedy:
            target.print(Text(f"{'':22}{clean(check.remedy)}"))
    target.print()
    target.print(Text("Recording works here." if ready else "Recording does not work here yet.", "bold"))
    if os.geteuid() != 0:
        target.print("Without root, only your own processes can be looked into.")
    _show_processes(target, found)


def _show_processes(target: Console, found: agent_pb2.DescribeResponse) -> None:
    if not found.processes:
        target.print("No process that is running speaks a TLS known here.")
        return
    rows = []
    for process in found.processes:
        for library in process.libraries:
            captured = Text("yes", "green") if library.capturable else Text(f"no: {clean(library.reason)}", "yellow")
            workload = process.workload
            rows.append(
                [Text(str(workload.pid)), Text(clean(workload.command)), Text(library.kind), captured, Text(clean(library.path))]
            )
    target.print()
    print_table(target, PROCESS_COLUMNS, rows)
