"""What people see: the service map, the tables, one pair. Captured text is shown, never interpreted."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

from engine.cli.text import body_text, clean, header_text
from engine.rrpair import Direction, Message, RRPair
from engine.servicemap import Edge, FlowEdge, ServiceMap
from engine.snapshot import Info, Snapshot
from engine.store import Row

LOCK = "🔒"
PLAIN_LOCK = "tls"
"""For terminals and pipes that cannot show the other."""
HOST_AT_LEAST = 8
"""Cells of a host's name that the map shows however narrow it is."""
OTHER_COLUMNS = 68
"""Cells that the list of pairs needs besides operation and host."""
IN_JOINTS = ("──▶", "─┬▶", "─┤ ", "─╯ ")
OUT_JOINTS = ("──▶", "─┬▶", " ├▶", " ╰▶")


def render_snapshot(console: Console, snapshot: Snapshot) -> None:
    """Print a snapshot's map and tables, and what is to be known of the whole recording."""
    render_map(console, snapshot.service_map(), _notes(snapshot.info))


def render_map(console: Console, found: ServiceMap, notes: Iterable[str] = ()) -> None:
    """Print the map, the table of backends, the streams that were not parsed, and what is complete."""
    unicode = console.encoding.lower().startswith("utf")
    for line in _map_lines(found, console.width, unicode):
        console.print(Text(line), no_wrap=True, crop=False, overflow="ignore")
    console.print()
    if found.inbound or found.backends:
        console.print(_edge_table((*found.inbound, *found.backends)))
        console.print()
    if found.flows:
        console.print(_flow_table(found.flows))
        console.print()
    console.print(_completeness(found))
    for note in notes:
        console.print(Text(clean(note)), style="dim")


def render_pairs(console: Console, rows: Iterable[Row]) -> None:
    """Print a list of pairs."""
    table = _table("#", ">", "Time (UTC)", "", "Operation", "Host", "Status", ">", "ms", ">", "Bytes", ">", "Complete")
    room = max(console.width - OTHER_COLUMNS, 2 * HOST_AT_LEAST)
    for column, width in ((table.columns[3], room * 3 // 5), (table.columns[4], room * 2 // 5)):
        # A line a pair: what does not fit is in the pair itself.
        column.no_wrap, column.overflow, column.max_width = True, "ellipsis", width
    count = 0
    for count, row in enumerate(rows, 1):  # noqa: B007
        table.add_row(
            str(row.ordinal), _clock(row.time), row.direction.value, _shown(row.operation), _shown(row.host),
            str(row.status or "-"), f"{row.duration / 1e6:.1f}" if row.status else "-",
            f"{row.request_size + row.response_size:,}", _missing(row.missing),
        )  # fmt: skip
    if count:
        console.print()
        console.print(table)


def render_pair(console: Console, pair: RRPair) -> None:
    """Print one pair whole."""
    console.print(Text(clean(f"{pair.operation or '(request not seen)'}  {pair.host}:{pair.port}"), "bold"))
    console.print(Text(clean("\n".join(_facts(pair)), lines=True)))
    _render_message(console, "Request", pair.request)
    for message in pair.interim:
        _render_message(console, "Interim response", message)
    if pair.response:
        _render_message(console, "Response", pair.response)
    else:
        console.print(Text("\nNo response was seen", "yellow"))


# -- the map -----------------------------------------------------------------------------------------------------------


def _map_lines(found: ServiceMap, width: int, unicode: bool) -> list[str]:
    """Three columns: who calls, the service, whom it calls; both sides as trees that grow from its line."""
    left = [f"* :{edge.port} requests: {edge.requests:,}{_lock(edge.tls, unicode)}" for edge in found.inbound]
    left_width = max((cell_len(cell) for cell in left), default=0)
    service = f"[ {clean(found.service) or 'service'} ]"
    room = width - left_width - cell_len(service) - 10
    right = [_backend(edge, room, unicode) for edge in found.backends]
    lines = []
    for row in range(max(len(left), len(right), 1)):
        before = set_cell_size(left[row] if row < len(left) else "", left_width)
        middle = service if row == 0 else " " * cell_len(service)
        after = right[row] if row < len(right) else ""
        into, out = _joint(row, len(left), IN_JOINTS, unicode), _joint(row, len(right), OUT_JOINTS, unicode)
        lines.append(f"{before} {into} {middle} {out} {after}".rstrip())
    return lines


def _backend(edge: Edge, room: int, unicode: bool) -> str:
    """A backend in so much room: the name gives way, the numbers do not."""
    numbers = f" :{edge.port} requests: {edge.requests:,} ({edge.share}%){_lock(edge.tls, unicode)}"
    host = clean(edge.host) or "(unknown)"
    most = max(room - cell_len(numbers), HOST_AT_LEAST)
    if cell_len(host) > most:
        host = host[: most - 1] + ("…" if unicode else "~")
    return host + numbers


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


def _table(*columns: str) -> Table:
    """Make a table; ">" after a heading puts its column to the right."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    headings = iter(enumerate(columns))
    for place, heading in headings:
        right = columns[place + 1 : place + 2] == (">",)
        table.add_column(Text(heading), justify="right" if right else "left", overflow="fold")
        if right:
            next(headings)
    return table


def _edge_table(edges: Iterable[Edge]) -> Table:
    table = _table("Direction", "Protocol", "Host", "Port", ">", "Technology", "Requests", ">", "Complete", ">")
    for edge in edges:
        table.add_row(
            edge.direction.value, _protocol(edge.protocol, edge.tls), _shown(edge.host), str(edge.port),
            _shown(", ".join(edge.technology)), f"{edge.requests:,}", _part(edge.complete, edge.requests),
        )  # fmt: skip
    return table


def _flow_table(flows: Iterable[FlowEdge]) -> Table:
    table = _table("Not parsed", "Protocol", "Host", "Port", ">", "Streams", ">", "Read", ">", "Written", ">", "Reason")
    for flow in flows:
        table.add_row(
            flow.direction.value if flow.direction else "?", _shown(_protocol(flow.protocol, flow.tls)),
            _shown(flow.host or "(unknown)"), str(flow.port or "?"), f"{flow.streams:,}", f"{flow.read:,}",
            f"{flow.written:,}", _shown(flow.reason),
        )  # fmt: skip
    return table


def _protocol(protocol: str, tls: bool) -> str:
    return {"http/1.1": "https" if tls else "http"}.get(protocol, f"{protocol} over TLS" if tls else protocol)


def _part(part: int, whole: int) -> Text:
    return Text("all", "green") if part == whole else Text(f"{part:,} of {whole:,}", "yellow")


def _missing(missing: tuple[str, ...]) -> Text:
    return Text("yes", "green") if not missing else Text(clean("no: " + ", ".join(missing)), "yellow")


def _completeness(found: ServiceMap) -> Text:
    if not found.requests:
        return Text("No requests were recorded", "yellow")
    whole = found.complete == found.requests
    return Text(f"{found.complete:,} of {found.requests:,} pairs complete", "green" if whole else "yellow")


def _shown(text: str) -> Text:
    return Text(clean(text))


def _clock(time: int) -> str:
    return f"{datetime.fromtimestamp(time // 10**9, UTC):%H:%M:%S}.{time % 10**9 // 10**6:03d}"


# -- one pair -------------------------------------------------------------------------------------------------------


def _facts(pair: RRPair) -> list[str]:
    connection = pair.connection
    day = datetime.fromtimestamp(pair.time // 10**9, UTC).date()
    ends = f"{connection.local_address}:{connection.local_port} to {connection.remote_address}:{connection.remote_port}"
    return [
        f"id          {pair.id}",
        f"time        {day} {_clock(pair.time)} UTC, {pair.duration / 1e6:.3f} ms",
        f"direction   {'into' if pair.direction is Direction.IN else 'out of'} {pair.service}",
        f"connection  {ends if connection.remote_address else 'not bound to a socket'}"
        + (f", {connection.tls_version or 'TLS'}" if connection.tls else ""),
        f"technology  {', '.join(pair.technology)}",
        f"complete    {'yes' if pair.complete else 'no: ' + ', '.join(pair.missing)}",
        *([f"redacted    {', '.join(pair.redacted)}"] if pair.redacted else []),
    ]


def _render_message(console: Console, title: str, message: Message) -> None:
    console.print(Text(f"\n{title}", "bold"))
    console.print(Text(clean(message.start_line.decode("latin-1"))))
    for name, value in (*message.headers, *message.trailers):
        line = Text(clean(name.decode("latin-1")), "cyan").append(": ", "default")
        console.print(line.append(clean(header_text(value)), "default"))
    if message.body:
        console.print()
        console.print(Text(clean(body_text(message), lines=True)))


def _notes(info: Info) -> list[str]:
    """What is to be known of the whole recording."""
    if not info.ledger:
        return ["the recording did not end in good order: what had arrived is here"]
    ledger = info.ledger
    notes = [f"bytes seen {ledger.get('seen', 0):,} = delivered {ledger.get('delivered', 0):,}"
             f" + lost {ledger.get('lost', 0):,}"]  # fmt: skip
    if info.added_pairs:
        notes.append(f"{info.added_pairs:,} pairs were added later, by a mock, and are not in this account")
    names = {"unattributed": "bytes lost that no stream could be named for", "missed_runs": "probe runs missed",
             "unknown_starts": "streams whose start was not seen"}  # fmt: skip
    return notes + [f"{text}: {ledger[name]:,}" for name, text in names.items() if ledger.get(name)]
