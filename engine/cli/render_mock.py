"""What people see of a responder: how to use it, its misses, and what came of it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text
from understudy.v1 import backend_pb2, control_pb2

from engine.cli.terminal import Column, print_table
from engine.cli.text import clean, counted
from engine.report import Call, Departed, FailedHandshake, Miss, MockReport

CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")
"""What runtimes and SDKs take a CA file from."""
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
"""What clients take a proxy from: curl reads the lower case only, some others the upper case only."""

SHOWN = 20
"""Of each kind: a workload may cause as many as it likes, and the report has more of them."""


def usage(responder: control_pb2.Responder) -> str:
    """Say where it is, and how clients get there."""
    place = f"{f'[{responder.address}]' if ':' in responder.address else responder.address}:{responder.port}"
    certificate = shlex.quote(responder.ca_file)
    first = responder.backends[0] if responder.backends else backend_pb2.Backend(host="example.com", port=443)
    scheme, default = ("http", 80) if first.port == 80 else ("https", 443)
    url = f"{scheme}://{first.host}" + (f":{first.port}" if first.port != default else "") + "/"
    names = ", ".join(f"{backend.host}:{backend.port}" for backend in responder.backends)
    return "\n".join(
        (
            f"understudy: listening on {place}, standing in for {clean(names) or 'nobody'}; Ctrl-C ends it",
            f"certificate authority: {responder.ca_file}",
            "",
            "Clients that know a proxy, and where they look for certificates:",
            "  export " + " ".join(f"{name}=http://{place}" for name in PROXY_VARIABLES) + " NODE_USE_ENV_PROXY=1",
            "  export " + " ".join(f"{name}={certificate}" for name in CA_VARIABLES),
            "One call:",
            f"  curl --cacert {certificate} --connect-to {clean(first.host)}:{first.port}:{place} {clean(url)}",
            "",
        )
    )


def render_not_mocked(console: Console, responder: control_pb2.Responder, *, passes: bool) -> None:
    """Name the backends that are not stood in for, and what becomes of them."""
    if responder.left_out:
        console.print(Text(clean(f"understudy: left out, so not mocked: {_names(responder.left_out)}"), "yellow"), soft_wrap=True)
    if responder.itself:
        text = f"understudy: the recorded program itself, so not mocked: {_names(responder.itself)}"
        console.print(Text(clean(text)), soft_wrap=True)
    if responder.unservable:
        fate = "real" if passes else "refused, but on the loopback; --except HOST:PORT lets one through"
        text = f"understudy: recorded, but cannot be stood in for ({fate}): {_names(responder.unservable)}"
        console.print(Text(clean(text), "yellow"), soft_wrap=True)


def _names(backends: Sequence[backend_pb2.Backend]) -> str:
    return ", ".join(f"{backend.host}:{backend.port}" for backend in backends)


def render_miss(console: Console, miss: Miss) -> None:
    """Print a miss and what would have fitted."""
    title = f"{'PASSTHROUGH' if miss.passed else 'NO_MATCH'} {miss.operation} ({miss.host}:{miss.port}): {miss.reason}"
    console.print(Text(clean(title), "yellow"), soft_wrap=True)
    if miss.nearest:
        console.print(Text(clean(f"  nearest: {miss.nearest_operation} ({miss.nearest})")), soft_wrap=True)
    for each in miss.differences:
        recorded, live = ("nothing" if text is None else text for text in (each.recorded, each.live))
        console.print(Text(clean(f"  {each.field}: recorded {recorded}, live {live}")), soft_wrap=True)


def render_call(console: Console, call: Call, what: str, hint: str = "") -> None:
    """Tell of a call that did not go to the responder."""
    place = f"{_shown(call)}:{call.port}" + (f" ({call.address})" if call.host else "")
    text = f"{what} {call.protocol} {place}, called by {call.command}{f': {hint}' if hint else ''}"
    console.print(Text(clean(text), "yellow"), soft_wrap=True)


def _shown(call: Call) -> str:
    name = call.host or call.address
    return f"[{name}]" if ":" in name else name


def _render_calls(console: Console, report: MockReport) -> None:
    for call in report.refused[:SHOWN]:
        what = "refused" if call.reason else "not recorded, refused"
        way_out = f"{call.reason}; --except {_shown(call)}:{call.port} lets it through" if call.reason else ""
        render_call(console, call, f"{what} {counted(call.times, 'time')}:", way_out)
    _render_more(console, report.refused, report.more.refused, "refused")
    if any(not call.reason for call in report.refused):
        console.print(Text("what was not recorded is let through with --except HOST:PORT", "yellow"), soft_wrap=True)
    for call in report.passed[:SHOWN]:
        render_call(console, call, "not mocked, real connection:")
    _render_more(console, report.passed, report.more.passed, "not mocked, with a real connection")
    for call in report.unrecorded[:SHOWN]:
        render_call(console, call, "real connection:" if call.reason else "not recorded, real connection:", call.reason)
    _render_more(console, report.unrecorded, report.more.unrecorded, "not recorded, with a real connection")
    for call in report.local[:SHOWN]:
        render_call(console, call, "went to a program on this machine, not mocked:")
    _render_more(console, report.local, report.more.local, "to programs on this machine, not mocked")


def _render_more(console: Console, calls: Sequence[Call], more: int, what: str) -> None:
    more += sum(call.times for call in calls[SHOWN:])
    if more:
        where = f": --report FILE names {len(calls):,} destinations" if len(calls) > SHOWN else ""
        console.print(Text(f"and {counted(more, 'more call')} {what}{where}", "yellow"), soft_wrap=True)


def _render_misfortunes(console: Console, report: MockReport) -> None:
    for process in report.departed[:SHOWN]:
        console.print(Text(clean(departure(process)), "yellow"), soft_wrap=True)
    if more := len(report.departed[SHOWN:]) + report.more.departed:
        console.print(Text(f"and {more:,} more left the command's cgroup", "yellow"), soft_wrap=True)
    if more := report.more.untold:
        text = f"there was no room to tell of {counted(more, 'more call')}, or process that left the command's cgroup"
        console.print(Text(text, "yellow"), soft_wrap=True)
    for failed in report.failed_handshakes:
        console.print(Text(clean(failed_handshake(failed)), "yellow"), soft_wrap=True)
    for reason, times in report.troubles:
        console.print(Text(clean(f"{counted(times, 'time')}: {reason}"), "yellow"), soft_wrap=True)


def departure(process: Departed) -> str:
    """Say that a process got away, and how to keep it."""
    fate = "it was ended, for nothing of it could be mocked" if process.ended else "what it calls is not mocked"
    where = f"{process.command} (process {process.pid}) left the command's cgroup for {process.cgroup or 'another'}"
    way_out = "run `understudy mock` inside of it, or the program without them"
    return f"{where}: {fate}; systemd and container runtimes do so with what they start: {way_out}"


def failed_handshake(failed: FailedHandshake) -> str:
    """Say that a TLS handshake came to nothing, and what would help."""
    who = failed.command or "a client"
    text = f"{counted(failed.times, 'time')}: {who} called {failed.host}:{failed.port} by TLS and broke off: {failed.reason}"
    if not failed.distrusted:
        return text
    options = " ".join(f"--trust {shlex.quote(path)}" for path in failed.bundles)
    way_out = f"try {options}" if options else f"name the file with the certificates that {who} reads: --trust FILE"
    return f"{text}: it does not trust the responder; {way_out}"


def render_summary(console: Console, report: MockReport) -> None:
    """Print the table of backends and the responder rate."""
    passed = ["Passed"] if report.passed_requests else []
    columns = [Column("Backend", key=True), *(Column(each, right=True) for each in ("Requests", "Matches", *passed, "Misses"))]
    rows = []
    for each in report.backends:
        name = f"{each.host}:{each.port}" + ("" if each.recorded else " (not mocked)")
        counts = (each.requests, each.matches, *([each.passed] if passed else []), each.misses)
        rows.append([Text(clean(name)), *(Text(f"{count:,}") for count in counts)])
    print_table(console, columns, rows)
    _render_calls(console, report)
    _render_misfortunes(console, report)
    rate = report.responder_rate
    if rate is None:
        console.print(Text("No requests came to the responder", "yellow"))
        return
    style = "green" if report.matches == report.requests and not report.refused else "yellow"
    refused = sum(call.times for call in report.refused)
    others = f"; {report.passed_requests:,} answered by real backends" if report.passed_requests else ""
    others += f"; {counted(refused, 'refused call')} besides" if refused else ""
    console.print(Text(f"Responder rate {rate_text(report)}: {report.matches:,} of {report.requests:,} requests{others}", style))


def rate_text(report: MockReport) -> str:
    """Give the responder rate in percent; 100 % only where nothing was missed."""
    return f"{report.matches * 1000 // max(report.requests, 1) / 10:g} %"
