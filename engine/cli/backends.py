"""`understudy backends`: the check boxes of a snapshot."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from engine.cli import Failure
from engine.cli.terminal import console
from engine.cli.text import clean, counted
from engine.rrpair import Direction
from engine.servicemap import Edge, FlowEdge
from engine.snapshot import Snapshot, SnapshotError, uncheck


@click.command(name="backends")
@click.argument("snapshot", type=click.Path(path_type=Path))
@click.option("--off", multiple=True, metavar="HOST", help="Do not mock this backend; may be given again. HOST or HOST:PORT.")
@click.option("--on", multiple=True, metavar="HOST", help="Mock it again.")
def command(snapshot: Path, off: tuple[str, ...], on: tuple[str, ...]) -> None:
    """Show the backends of SNAPSHOT, checked where `understudy mock` stands in for them; --off and --on are kept in it.

    One that is off keeps its real connection. What cannot be mocked is refused under `mock` until it is off.
    """
    try:
        with Snapshot(snapshot) as opened:
            found, unchecked = opened.service_map(), opened.unchecked
        if off or on:
            edges: tuple[Edge | FlowEdge, ...] = (
                *found.backends,
                *(flow for flow in found.flows if flow.direction is Direction.OUT),
            )
            unchecked = (unchecked | _named(edges, off)) - _named(edges, on)
            uncheck(snapshot, unchecked)
    except SnapshotError as error:
        raise Failure(str(error)) from error
    target = console()
    for edge in found.backends:
        _render(target, edge, checked=_name(edge) not in unchecked)
    for flow in found.flows:
        if flow.direction is Direction.OUT:
            box = "[ ]" if _name(flow) in unchecked else " - "
            target.print(Text(clean(f"{box} {_shown(flow)}  {flow.protocol}: cannot be mocked: {flow.reason}")), soft_wrap=True)


def _name(edge: Edge | FlowEdge) -> str:
    return f"{edge.host}:{edge.port}"


def _shown(edge: Edge | FlowEdge) -> str:
    return f"{edge.host or '(unknown host)'}:{edge.port or '?'}"


def _named(edges: tuple[Edge | FlowEdge, ...], names: tuple[str, ...]) -> frozenset[str]:
    """Backends that these names mean. Raises Failure where one means none."""
    found: set[str] = set()
    for name in names:
        meant = {_name(edge) for edge in edges if name.lower() in (edge.host, _name(edge))}
        if not meant:
            known = ", ".join(_name(edge) for edge in edges) or "none"
            raise Failure(f"{name} is no backend of this snapshot: it has {known}")
        found |= meant
    return frozenset(found)


def _render(target: Console, edge: Edge, *, checked: bool) -> None:
    technology = ", ".join(edge.technology)
    line = f"[{'x' if checked else ' '}] {_shown(edge)}  {counted(edge.requests, 'request')}  {technology}"
    target.print(Text(clean(line), "" if checked else "dim"), soft_wrap=True)
