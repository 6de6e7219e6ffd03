"""`understudy inspect`: show a snapshot to a person, or its pairs to a program."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
from rich.console import Console

from engine.cli import Failure
from engine.cli.render import render_pair, render_pairs, render_snapshot
from engine.cli.terminal import console
from engine.formats.rrpair import to_json
from engine.rrpair import RRPair
from engine.snapshot import Snapshot, SnapshotError

ROWS = 50
"""Pairs that are listed unless all are asked for: about a screen."""


@click.command(name="inspect")
@click.argument("snapshot", type=click.Path(path_type=Path))
@click.argument("pair", required=False)
@click.option("--json", "as_json", is_flag=True, help="One RRPair a line, for programs.")
@click.option("--all", "every", is_flag=True, help=f"List all pairs, not only the first {ROWS}.")
def command(snapshot: Path, pair: str | None, as_json: bool, every: bool) -> None:
    """Show what SNAPSHOT holds: service map, backends, pairs; or one PAIR whole, by its number or its id."""
    try:
        with Snapshot(snapshot) as opened:
            if as_json:
                _print_json(opened, pair)
            elif pair is not None:
                render_pair(console(), _find(opened, pair))
            else:
                _overview(console(), opened, every)
    except SnapshotError as error:
        raise Failure(str(error)) from error
    except BrokenPipeError:
        sys.stderr.close()  # the reader has seen enough, as in `inspect … | head`


def _find(snapshot: Snapshot, reference: str) -> RRPair:
    found = snapshot.pair(reference)
    if found is None:
        total = snapshot.counts()[0]
        raise Failure(f"{snapshot.path} has no pair {reference!r}: give a number from 1 to {total} or a pair's id")
    return found


def _print_json(snapshot: Snapshot, reference: str | None) -> None:
    for pair in snapshot.pairs() if reference is None else (_find(snapshot, reference),):
        sys.stdout.write(json.dumps(to_json(pair)) + "\n")
    sys.stdout.flush()


def _overview(target: Console, snapshot: Snapshot, every: bool) -> None:
    render_snapshot(target, snapshot)
    total = snapshot.counts()[0]
    render_pairs(target, snapshot.rows(-1 if every else ROWS), total if every else min(total, ROWS))
    if not every and total > ROWS:
        target.print(f"{total - ROWS} more: --all lists them", style="dim")
