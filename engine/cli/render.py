"""What people see: the service map, the tables, one pair. Captured text is shown, never interpreted."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

import click
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from engine.cli.terminal import Column, print_table
from engine.cli.text import body_text, clean, counted, header_text
from engine.rrpair import Direction, Message, RRPair
from engine.servicemap import Edge, FlowEdge, ServiceMap
from engine.snapshot import Info, Snapshot
from engine.store import Row

LOCK = "🔒"
PLAIN_LOCK = "tls"
"""For terminals and pipes that cannot show the other."""
IN_JOINTS = ("──▶", "─┬▶", "─┤ ", "─╯ ")
OUT_JOINTS = ("──▶", "─┬▶", " ├▶", " ╰▶")


def render_snapshot(console: Console, snapshot: Snapshot) -> None:
    """Print a snapshot's map and tables, and what is to be known of the whole recording."""
    render_map(console, snapshot.service_map(), _notes(snapshot.info))


def render_map(console: Console, found: ServiceMap, notes: Iterable[str] = ()) -> None:
    """Print the map, the table of backends, the streams that were not parsed, and what is complete."""
    unicode = console.encoding.lower().startswith("utf")
    for line in _map_lines(found, console.width, unicode):
        console.print(Text(line), soft_wrap=True)
    console.print()
    if found.inbound or found.backends:
        print_table(console, EDGE_COLUMNS, [_edge_cells(edge) for edge in (*found.inbound, *found.backends)])
        console.print()
    if found.flows:
        print_table(console, FLOW_COLUMNS, [_flow_cells(flow) for flow in found.flows])
        console.print()
    console.print(_completeness(found))
    for note in notes:
        console.print(Text(clean(note), "dim"), soft_wrap=True)


def render_pairs(console: Console, rows: Iterable[Row], total: int) -> None:
    """Print a list of pairs, a line each, as they come. What may be long is last: nothing is cut, and nothing is waited for."""
    number = max(len(str(total)), 1)
    heading = f"{'#':>{number}}  Time (UTC)    Dir  Status        ms       Bytes  Request"
    for ordinal, row in enumerate(rows):
        if ordinal == 0:
            console.print()
            console.print(Text(heading, "bold"), soft_wrap=True)
        milliseconds = f"{row.duration / 1e6:.1f}" if row.status else "-"
        line = (
            f"{row.ordinal:>{number}}  {_clock(row.time)}  {row.direction.value:3}  {row.status or '-':>6}  {milliseconds:>8}"
            f"  {row.request_size + row.response_size:>10,}  {clean(row.operation) or '(request not seen)'}"
            f"  {clean(row.host)}"
        )
        missing = clean(f"  incomplete: {', '.join(row.missing)}") if row.missing else ""
        if missing and console.color_system:
            missing = click.style(missing, fg="yellow")
        console.file.write(f"{line}{missing}\n")


def render_pair(console: Console, pair: RRPair) -> None:
    """Print one pair whole."""
    console.print(Text(clean(f"{pair.operation or '(request not seen)'}  {pair.host}:{pair.port}"), "bold"), soft_wrap=True)
    console.print(Text(clean("\n".join(_facts(pair)), lines=True)), soft_wrap=True)
    _render_message(console, "Request", pair.request)
    for message in pair.interim:
        _render_message(console, "Interim response", message)
    if pair.response:
        _render_message(console, "Response", pair.response)
    else:
        console.print(Text("\nNo response was seen", "yellow"))


# -- the map -----------------------------------------------------------------------------------------------------------


def _map_lines(found: ServiceMap, width: int, unicode: bool) -> list[str]:
    """Three columns: who calls, the service, whom it calls; both sides as trees that grow from its line. A list where that is too
    wide."""
    left = [f"* :{edge.port} requests: {edge.requests:,}{_lock(edge.tls, unicode)}" for edge in found.inbound]
    right = [_backend(edge, unicode) for edge in found.backends]
    left_width = max((cell_len(cell) for cell in left), default=0)
    service = f"[ {clean(found.service) or 'service'} ]"
    lines = []
    for row in range(max(len(left), len(right), 1)):
        before = set_cell_size(left[row] if row < len(left) else "", left_width)
        middle = service if row == 0 else " " * cell_len(service)
        after = right[row] if row < len(right) else ""
        into, out = _joint(row, len(left), IN_JOINTS, unicode), _joint(row, len(right), OUT_JOINTS, unicode)
        lines.append(f"{before} {into} {middle} {out} {after}".rstrip())
    if max(map(cell_len, lines)) <= width:
        return lines
    arrow = IN_JOINTS[0] if unicode else "-->"
    return [
        *(f"{caller} {arrow} {service}" for caller in left),
        *([service] if not left else ()),
        *(f"  {arrow} {each}" for each in right),
    ]


def _backend(edge: Edge, unicode: bool) -> str:
    return f"{clean(edge.host) or '(unknown)'} :{edge.port} requests: {edge.requests:,} ({edge.share}%){_lock(edge.tls, unicode)}"


def _joint(row: int, count: int, joints: tuple[str, str, str, str], unicode: bool) -> str:
    """The piece of line beside the cell of a row: the only one, the first, one between, the last of so many."""
    if row >= count:
        return "   "
    if not unicode:
        return "-->"
    only, first, between, last = joints
    if count == 1:
        return only
    return first if row == 0 else last if row == count - 1 else between


def _lock(tls: bool, unicode: bool) -> str:
    return f" {LOCK if unicode else PLAIN_LOCK}" if tls else ""


# -- tables ------------------------------------------------------------------------------------------------------------


EDGE_COLUMNS = (
    Column("Direction", key=True),
    Column("Protocol", key=True),
    Column("Host", key=True),
    Column("Port", right=True, key=True),
    Column("Technology"),
    Column("Requests", right=True),
    Column("Complete", right=True),
)
FLOW_COLUMNS = (
    Column("Not parsed", key=True),
    Column("Protocol", key=True),
    Column("Host", key=True),
    Column("Port", right=True, key=True),
    Column("Streams", right=True),
    Column("Read", right=True),
    Column("Written", right=True),
    Column("Reason"),
)


def _edge_cells(edge: Edge) -> list[Text]:
    return [
        Text(edge.direction.value), _shown(_protocol(edge.protocol, edge.tls)), _shown(edge.host), Text(str(edge.port)),
        _shown(", ".join(edge.technology)), Text(f"{edge.requests:,}"), _part(edge.complete, edge.requests),
    ]  # fmt: skip


def _flow_cells(flow: FlowEdge) -> list[Text]:
    return [
        Text(flow.direction.value if flow.direction else "?"), _shown(_protocol(flow.protocol, flow.tls)),
        _shown(flow.host or "(unknown)"), Text(str(flow.port or "?")), Text(f"{flow.streams:,}"), Text(f"{flow.read:,}"),
        Text(f"{flow.written:,}"), _shown(flow.reason),
    ]  # fmt: skip


def _protocol(protocol: str, tls: bool) -> str:
    return {"http/1.1": "https" if tls else "http"}.get(protocol, f"{protocol} over TLS" if tls else protocol)


def _part(part: int, whole: int) -> Text:
    return Text("all", "green") if part == whole else Text(f"{part:,} of {whole:,}", "yellow")


def _completeness(found: ServiceMap) -> Text:
    if not found.requests:
        return Text("No requests were recorded", "yellow")
    unread = sum(flow.streams for flow in found.flows)
    text = f"{found.complete:,} of {found.requests:,} pairs complete"
    if unread:
        text += f"; besides them {counted(unread, 'stream')} could not be read"
    return Text(text, "green" if found.complete == found.requests and not unread else "yellow")


def _shown(text: str) -> Text:
    return Text(clean(text))


def _clock(time: int) -> str:
    return f"{datetime.fromtimestamp(time // 10**9, UTC):%H:%M:%S}.{time % 10**9 // 10**6:03d}"


# -- one pair -------------------------------------------------------------------------------------------------------


def _facts(pair: RRPair) -> list[str]:
    connection = pair.connection
    day = datetime.fromtimestamp(pair.time // 10**9, UTC).date()
    ends = f"{connection.local_address}:{connection.local_port} to {connection.remote_address}:{connection.remote_port}"
    if connection.proxy:
        ends = f"{connection.local_address}:{connection.local_port} through the proxy {connection.proxy}"
    return [
        f"id          {pair.id}",
        f"time        {day} {_clock(pair.time)} UTC, {pair.duration / 1e6:.3f} ms",
        f"direction   {'into' if pair.direction is Direction.IN else 'out of'} {pair.service}",
        f"connection  {ends if connection.remote_address or connection.proxy else 'not bound to a socket'}"
        + (f", {connection.tls_version or 'TLS'}" if connection.tls else ""),
        f"technology  {', '.join(pair.technology)}",
        f"complete    {'yes' if pair.complete else 'no: ' + ', '.join(pair.missing)}",
        *([f"redacted    {', '.join(pair.redacted)}"] if pair.redacted else []),
    ]


def _render_message(console: Console, title: str, message: Message) -> None:
    console.print(Text(f"\n{title}", "bold"))
    console.print(Text(clean(message.start_line.decode("latin-1"))), soft_wrap=True)
    for name, value in (*message.headers, *message.trailers):
        line = Text(clean(name.decode("latin-1")), "cyan").append(": ", "default")
        console.print(line.append(clean(header_text(value)), "default"), soft_wrap=True)
    if message.body:
        console.print()
        console.print(Text(clean(body_text(message), lines=True)), soft_wrap=True)


def _notes(info: Info) -> list[str]:
    """What is to be known of the whole recording."""
    ledger = info.ledger
    seen, delivered, lost = (f"{ledger.get(name, 0):,}" for name in ("seen", "delivered", "lost"))
    notes = [f"bytes seen {seen} = delivered {delivered} + lost {lost}"]
    if not ledger:
        notes = ["the recording did not end in good order: what had arrived is here"]
    if info.added_pairs:
        notes.append(f"{info.added_pairs:,} pairs were added later, by a mock, and are not in this account")
    if info.lost_pairs:
        notes.append(f"{info.lost_pairs:,} pairs could not be written, and are not here")
    if info.repeated_pairs:
        notes.append(f"{info.repeated_pairs:,} pairs had been taken in before, and are here once")
    names = {
        "unattributed": "bytes lost that no stream could be named for",
        "missed_runs": "calls, events, processes and files that the probes missed",
        "unknown_starts": "streams whose start was not seen",
    }
    return notes + [f"{text}: {ledger[name]:,}" for name, text in names.items() if ledger.get(name)]
