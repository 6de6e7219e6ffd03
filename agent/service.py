"""AgentService: the agent's capture and its knowledge of the node, by gRPC."""

from __future__ import annotations

import contextlib
import platform
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NoReturn, TypeVar

import grpc
from understudy.v1 import agent_pb2 as pb
from understudy.v1 import agent_pb2_grpc, backend_pb2, capture_pb2

from agent import describe, wire
from agent.capture import Capture, Captures, Ledger, Target
from agent.departed import Departed, Watch
from agent.examiner import Examiner
from agent.failures import Failures
from agent.kernel.planner import Plan
from agent.news import Outbox
from agent.takeover import redirect
from agent.takeover.bundles import Command
from agent.takeover.events import News
from agent.takeover.names import Backend, Names, parse_address
from agent.takeover.trust import Trust
from agent.unseen import Unseen

_Told = TypeVar("_Told")
_Message = TypeVar("_Message", pb.CaptureResponse, pb.RedirectResponse)


def ledger_message(ledger: Ledger) -> capture_pb2.Ledger:
    """A ledger as a message."""
    return capture_pb2.Ledger(
        seen=ledger.seen,
        delivered=ledger.delivered,
        lost=ledger.lost,
        unattributed=ledger.unattributed,
        opaque=ledger.opaque,
        missed_runs=ledger.missed,
        unknown_starts=ledger.unknown_starts,
    )


def _library(path: str, plan: Plan) -> pb.TlsLibrary:
    kind, reason = wire.text(plan.kind), wire.text(plan.reason)  # as a process says that a file may have taken over
    return pb.TlsLibrary(path=wire.text(path), kind=kind, capturable=plan.capturable, reason=reason)


def _target(target: pb.Target) -> Target:
    return Target(launched_pid=target.launched_pid, pid=target.pid, cgroup=target.cgroup, container=target.container_id)


def _backends(backends: Iterable[backend_pb2.Backend]) -> tuple[Backend, ...]:
    return tuple(
        Backend(each.host, each.port, tuple(filter(None, map(parse_address, each.addresses)))) for each in backends if each.host
    )


def _wanted(request: pb.RedirectRequest) -> redirect.Wanted:
    """ValueError where it says too little."""
    if not request.redirect_id or not request.launched_pid or not request.responder.ipv4_port:
        raise ValueError("a redirection needs an id, a process and a responder")
    return redirect.Wanted(
        name=request.redirect_id,
        launched_pid=request.launched_pid,
        responder=redirect.Responder(request.responder.pid, request.responder.ipv4_port, request.responder.ipv6_port),
        recorded=_backends(request.recorded),
        passed=_backends(request.passed_through),
        refused=_backends(request.refused),
        pass_unrecorded=request.pass_unrecorded,
        keep_departed=request.keep_departed,
        ca=request.ca_pem,
        command=_command(request.command),
    )


def _command(command: pb.Command) -> Command:
    return Command(
        arguments=tuple(command.arguments),
        folder=command.folder or "/",
        environment=dict(command.environment),
        trust_files=tuple(command.trust_files),
        uid=command.uid,
        gid=command.gid,
        groups=tuple(command.groups),
    )


def redirect_ready(cgroup: Path, trust: Trust, names: Names) -> pb.RedirectResponse:
    """What was taken over. A variable whose value is no text is not set: cut or changed it would name another file."""
    variables, failures = dict(trust.variables or {}), list(trust.failures)
    for name, value in list(variables.items()):
        if wire.text(value) != value:
            del variables[name]
            failures.append((value, f"its path is no UTF-8 text, so {name} does not name it"))
    return pb.RedirectResponse(
        ready=pb.RedirectReady(
            cgroup=wire.text(str(cgroup)),
            environment=variables,
            covered=map(wire.text, trust.covered),
            not_covered=[pb.CoverFailure(path=wire.text(path), reason=wire.text(reason)) for path, reason in failures],
            names={str(address): wire.text(name) for address, name in names.owned().items()},
        )
    )


def _call_news(told: redirect.Told) -> pb.RedirectResponse:
    call = told.call
    news = pb.CallNews(
        count=told.count,
        address=str(call.address),
        port=call.port,
        host=wire.text(told.host),
        protocol=call.protocol,
        workload=wire.workload(told.workload),
    )
    match call.news:
        case News.REFUSED:
            return pb.RedirectResponse(refused=news)
        case News.PASSED:
            return pb.RedirectResponse(passed=news)
        case News.LOCAL:
            return pb.RedirectResponse(local=news)


def redirect_news(news: redirect.Told | Departed | redirect.Unread | redirect.TrustEnded) -> pb.RedirectResponse:
    """A piece of news of a takeover."""
    if isinstance(news, redirect.Told):
        return _call_news(news)
    if isinstance(news, Departed):
        return pb.RedirectResponse(departed=_departure(news))
    if isinstance(news, redirect.TrustEnded):
        return pb.RedirectResponse(trust_ended=pb.TrustEnded(reason=wire.text(news.reason)))
    bundle = pb.UntrustedBundle(path=wire.text(news.path), workload=wire.workload(news.workload))
    return pb.RedirectResponse(untrusted_bundle=bundle)


def _departure(departed: Departed) -> pb.Departure:
    return pb.Departure(workload=wire.workload(departed.workload), cgroup=wire.text(departed.cgroup), ended=departed.ended)


def capture_ready(cgroup: str, probed: int, not_held: str) -> pb.CaptureResponse:
    """A capture is on."""
    return pb.CaptureResponse(ready=pb.CaptureReady(cgroup=wire.text(cgroup), probed_files=probed, not_held=wire.text(not_held)))


def capture_news(news: Unseen | Departed) -> pb.CaptureResponse:
    """A piece of news of a capture."""
    if isinstance(news, Departed):
        return pb.CaptureResponse(departed=_departure(news))
    library = _library(news.path, news.plan)
    return pb.CaptureResponse(not_capturable=pb.NotCapturable(workload=wire.workload(news.workload), library=library))


def description(
    node: str, release: str, checks: Iterable[describe.Check], processes: Iterable[describe.Process]
) -> pb.DescribeResponse:
    """The state of a node."""
    response = pb.DescribeResponse(node=wire.text(node), kernel_release=wire.text(release))
    for check in checks:
        detail, remedy = wire.text(check.detail), "" if check.ok else wire.text(check.remedy)
        response.checks.add(name=wire.text(check.name), ok=check.ok, required=check.required, detail=detail, remedy=remedy)
    for process in processes:
        libraries = [_library(path, plan) for path, plan in process.libraries]
        response.processes.add(workload=wire.workload(process.workload), libraries=libraries)
    return response


def told(outbox: Outbox[_Told], message_of: Callable[[_Told], _Message], failures: Failures) -> Iterator[_Message]:
    """The news as messages, until their end. One that cannot be told is counted: what comes after it is told."""
    for news in outbox:
        try:
            message = message_of(news)
        except Exception as error:
            failures.note("a piece of news could not be told", error)
            outbox.leave_out()
        else:
            yield message


class AgentService(agent_pb2_grpc.AgentServiceServicer):
    """Serves one agent's captures and takeovers."""

    def __init__(self, captures: Captures, redirects: redirect.Redirects, examiner: Examiner, at_once: int) -> None:
        """`at_once`: captures and redirections, taken together."""
        self._captures = captures
        self._redirects = redirects
        self._examiner = examiner
        self._at_once, self._room = at_once, threading.BoundedSemaphore(at_once)

    @contextlib.contextmanager
    def _one_of_those_at_once(self, context: grpc.ServicerContext) -> Iterator[None]:
        if not self._room.acquire(blocking=False):
            open_now = f"{self._at_once} captures and redirections are open"
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{open_now}, which is as many as this agent takes: end one")
        try:
            yield
        finally:
            self._room.release()

    def Describe(self, request: pb.DescribeRequest, context: grpc.ServicerContext) -> pb.DescribeResponse:  # noqa: ARG002, D102
        processes = describe.processes(self._examiner, request.pids)
        return description(platform.node(), platform.release(), describe.checks(), processes)

    def Capture(self, request: pb.CaptureRequest, context: grpc.ServicerContext) -> Iterator[pb.CaptureResponse]:  # noqa: D102
        if not request.capture_id or not request.targets:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a capture needs an id and a target")
        with self._one_of_those_at_once(context):
            yield from self._capture(request, context)

    def _capture(self, request: pb.CaptureRequest, context: grpc.ServicerContext) -> Iterator[pb.CaptureResponse]:
        try:
            capture = self._captures.start(request.capture_id, [_target(target) for target in request.targets])
        except (OSError, ValueError, LookupError) as error:
            _refuse(context, error)
        # The lease: whatever ends this call ends the capture.
        if not context.add_callback(capture.news.end):
            capture.news.end()
        session = self._captures.session
        probed = session.attacher.probed if session else 0
        cgroup = str(capture.cgroup.path) if capture.cgroup else ""
        launched = [target.launched_pid for target in request.targets if target.launched_pid]
        with contextlib.ExitStack() as stack:
            stack.callback(self._captures.stop, capture)
            if capture.cgroup:
                with contextlib.suppress(OSError):  # a kernel that does not tell of it
                    stack.callback(Watch(capture.cgroup.path, launched[0], capture.news.put, capture.news.leave_out).close)
            yield capture_ready(cgroup, probed, capture.not_held)
            yield from told(capture.news, capture_news, self._captures.failures)
        yield pb.CaptureResponse(stopped=pb.CaptureStopped(ledger=_ledger_of(capture), untold=capture.news.untold))

    def StopCapture(self, request: pb.StopCaptureRequest, context: grpc.ServicerContext) -> pb.StopCaptureResponse:  # noqa: D102
        capture = self._captures.find(request.capture_id)
        if capture is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"there is no capture {request.capture_id!r}")
        self._captures.stop(capture)
        return pb.StopCaptureResponse(ledger=_ledger_of(capture), delivered=capture.delivered)

    def Redirect(self, request: pb.RedirectRequest, context: grpc.ServicerContext) -> Iterator[pb.RedirectResponse]:  # noqa: D102
        with self._one_of_those_at_once(context):
            yield from self._redirect(request, context)

    def _redirect(self, request: pb.RedirectRequest, context: grpc.ServicerContext) -> Iterator[pb.RedirectResponse]:
        try:
            started = self._redirects.start(_wanted(request))
        except (OSError, ValueError, LookupError) as error:
            _refuse(context, error)
        # The lease: whatever ends this call ends the redirection.
        if not context.add_callback(started.news.end):
            started.news.end()
        try:
            yield redirect_ready(started.cgroup, started.trust, started.names)
            yield from told(started.news, redirect_news, self._captures.failures)
        finally:
            self._redirects.stop(started)
        yield pb.RedirectResponse(stopped=pb.RedirectStopped(untold=started.untold + started.news.untold))


def _ledger_of(capture: Capture) -> capture_pb2.Ledger:
    return ledger_message(capture.ledger or Ledger())


def _refuse(context: grpc.ServicerContext, error: Exception) -> NoReturn:
    codes = {
        PermissionError: grpc.StatusCode.PERMISSION_DENIED,
        FileNotFoundError: grpc.StatusCode.FAILED_PRECONDITION,
        LookupError: grpc.StatusCode.NOT_FOUND,
        ValueError: grpc.StatusCode.INVALID_ARGUMENT,
        OSError: grpc.StatusCode.FAILED_PRECONDITION,
    }
    code = next(code for kind, code in codes.items() if isinstance(error, kind))
    context.abort(code, wire.text(str(error)))
    raise AssertionError  # abort raises
