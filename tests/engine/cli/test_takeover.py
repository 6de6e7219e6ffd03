"""What a command called, as it is told of: bounded, and never silently cut."""

from __future__ import annotations

import io
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest
from rich.console import Console
from understudy.v1 import agent_pb2, capture_pb2, control_pb2

from engine.cli.caller import Caller
from engine.cli.launcher import Launcher
from engine.cli.parts import Parts
from engine.cli.render_mock import SHOWN, render_summary
from engine.cli.takeover import BUNDLES_MAX, ITSELF, KEPT_MAX, Takeover
from engine.report import FailedHandshake, MockReport

READY = agent_pb2.RedirectResponse(ready=agent_pb2.RedirectReady(cgroup="/c"))
WORKLOAD = capture_pb2.Workload(pid=7, command="curl")


class Broken(grpc.RpcError):
    def details(self) -> str:
        return "something of it could not be sent"


class News:
    """A call of AgentService.Redirect: what it tells, and how it ends."""

    def __init__(self, *told: agent_pb2.RedirectResponse, error: Exception | None = None) -> None:
        self._told, self._error = iter((READY, *told)), error

    def __iter__(self) -> Iterator[agent_pb2.RedirectResponse]:
        return self

    def __next__(self) -> agent_pb2.RedirectResponse:
        try:
            return next(self._told)
        except StopIteration:
            if self._error:
                raise self._error from None
            raise

    def cancel(self) -> None:
        pass


def taken(news: News) -> Takeover:
    service = SimpleNamespace(Redirect=lambda _: news)
    parts = SimpleNamespace(agent_service=service, engine=SimpleNamespace(process=SimpleNamespace(pid=1)))
    launcher = SimpleNamespace(process=SimpleNamespace(pid=2))
    who = SimpleNamespace(environment={}, uid=1, gid=1, groups=[])
    left_out: Any = [{"host": "out.test", "port": 1}]
    itself: Any = [{"host": "box", "port": 1, "addresses": ["10.0.0.0"]}]
    responder = control_pb2.Responder(port=1, left_out=left_out, itself=itself)
    takeover = Takeover(cast("Parts", parts), responder, cast("Launcher", launcher), ("/bin/x",), cast("Caller", who), passes=False)
    takeover.stop()
    return takeover


def calls(kind: str, count: int, times: int = 1, host: str = "") -> list[agent_pb2.RedirectResponse]:
    made = []
    for number in range(count):
        call = agent_pb2.CallNews(count=times, address=f"10.0.{number >> 8}.{number & 255}", port=1, host=host, workload=WORKLOAD)
        made.append(agent_pb2.RedirectResponse(**{kind: call}))  # type: ignore[arg-type]
    return made


def reported(takeover: Takeover) -> MockReport:
    lists = {kind: getattr(takeover, kind)() for kind in ("refused", "passed", "unrecorded", "local", "departed", "more")}
    return MockReport("test", 0, 0, (), (), 0, (), **lists)


def lines(report: MockReport) -> list[str]:
    console = Console(file=io.StringIO(), width=100)
    render_summary(console, report)
    return cast("io.StringIO", console.file).getvalue().splitlines()


def test_news_that_ends_early_is_a_trouble() -> None:
    assert taken(News(*calls("refused", 1), error=Broken())).trouble == "something of it could not be sent"


def test_news_that_ends_with_the_command_is_none() -> None:
    stopped = agent_pb2.RedirectResponse(stopped=agent_pb2.RedirectStopped(untold=4))
    takeover = taken(News(stopped))
    assert takeover.trouble == ""
    report = reported(takeover)
    assert report.more.untold == 4
    assert any("no room to tell of 4 more calls" in line for line in lines(report))


def test_a_call_to_what_the_recorded_program_answered_itself_says_so() -> None:
    refused = taken(News(*calls("refused", 2))).refused()
    assert [(call.address, call.reason) for call in refused] == [("10.0.0.0", ITSELF), ("10.0.0.1", "")]


@pytest.mark.parametrize(
    ("kind", "host", "told"),
    [("refused", "", "refused"), ("passed", "out.test", "passed"), ("passed", "", "unrecorded"), ("local", "", "local")],
)
def test_calls_to_many_places_are_kept_and_shown_up_to_a_limit(kind: str, host: str, told: str) -> None:
    takeover = taken(News(*calls(kind, KEPT_MAX + 10, 3, host), *calls(kind, 1, 3, host)))
    report = reported(takeover)
    assert sum(len(each) for each in (report.refused, report.passed, report.unrecorded, report.local)) <= KEPT_MAX
    assert getattr(report.more, told) == 30
    if told != "local":  # of these each port is told once
        assert [call.times for call in getattr(report, told)] == [6] + [3] * (KEPT_MAX - 1)
        shown = lines(report)
        assert len(shown) <= SHOWN + 4
        assert any(line.startswith(f"and {3 * (KEPT_MAX + 10 - SHOWN):,} more calls ") for line in shown)
    kept = report.to_json()
    assert kept["more"][{"passed": "passed_through"}.get(told, told)] == 30


def test_processes_and_lists_of_certificates_are_kept_and_shown_up_to_a_limit() -> None:
    gone, unread = [], []
    for number in range(KEPT_MAX + 5):
        workload = capture_pb2.Workload(pid=number, command="curl")
        gone.append(agent_pb2.RedirectResponse(departed=agent_pb2.Departure(workload=workload, cgroup="/d")))
        bundle = agent_pb2.UntrustedBundle(path=f"/{number}", workload=workload)
        unread += [agent_pb2.RedirectResponse(untrusted_bundle=bundle)] * 2
    takeover = taken(News(*gone, *unread))
    report = reported(takeover)
    assert (len(report.departed), report.more.departed) == (KEPT_MAX, 5)
    shown = lines(report)
    assert len(shown) <= SHOWN + 3
    assert f"and {KEPT_MAX + 5 - SHOWN} more left the command's cgroup" in shown
    failed = FailedHandshake("a.test", 443, "curl", "TLSV1_ALERT_UNKNOWN_CA", 1)
    assert takeover.with_bundles(failed).bundles == tuple(f"/{number}" for number in range(BUNDLES_MAX))
