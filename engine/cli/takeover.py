"""The takeover of a command's calls, as this command line asks the agent for it: see AgentService.Redirect."""

from __future__ import annotations

import contextlib
import os
import threading
import uuid
from collections.abc import Iterator

import grpc
from understudy.v1 import agent_pb2, control_pb2

from engine.cli import Failure
from engine.cli.caller import Caller, as_text
from engine.cli.launcher import Launcher
from engine.cli.parts import Parts
from engine.report import Call

LAST_NEWS_SECONDS = 2.0
"""How long the news of a command that has ended may take; they end by themselves unless it left processes behind."""

_PROTOCOLS = {6: "TCP", 17: "UDP"}


class Takeover:
    """What a launched command calls goes to a responder, for as long as this lives."""

    def __init__(
        self,
        parts: Parts,
        responder: control_pb2.Responder,
        launcher: Launcher,
        command: tuple[str, ...],
        who: Caller,
        *,
        pass_unrecorded: bool,
    ) -> None:
        """Take over; Failure where that cannot be. `command`: the program's path, and its arguments."""
        # Only to find certificates by: what is no text names none.
        environment = {key.decode(): value.decode() for key, value in who.environment.items() if _is_text(key + value)}
        request = agent_pb2.RedirectRequest(
            redirect_id=uuid.uuid4().hex,
            launched_pid=launcher.process.pid,
            responder=agent_pb2.ResponderEndpoint(pid=parts.engine.process.pid, ipv4_port=responder.port),
            recorded=responder.backends,
            passed_through=responder.left_out,
            pass_unrecorded=pass_unrecorded,
            ca_pem=responder.ca_certificate.decode(),
            command=agent_pb2.Command(arguments=map(as_text, command), folder=as_text(os.getcwd()), environment=environment),
        )
        self._left_out = {(name, each.port) for each in responder.left_out for name in (each.host, *each.addresses)}
        self._lock = threading.Lock()
        self._calls: dict[tuple[str, Call], int] = {}
        self._news = parts.agent_service.Redirect(request)
        try:
            ready = next(self._news).ready
        except grpc.RpcError as error:
            raise Failure(f"the command's calls cannot be taken over: {error.details()}") from error
        self.variables = dict(ready.environment)
        self.not_covered = [(each.path, each.reason) for each in ready.not_covered]
        self._thread = threading.Thread(target=self._hear, args=(self._news,), name="news", daemon=True)
        self._thread.start()

    def _hear(self, news: Iterator[agent_pb2.RedirectResponse]) -> None:
        with contextlib.suppress(grpc.RpcError):
            for each in news:
                kind = each.WhichOneof("news")
                if kind in ("refused", "passed"):
                    self._note(kind, each.refused if kind == "refused" else each.passed)

    def _note(self, kind: str, told: agent_pb2.CallNews) -> None:
        protocol = _PROTOCOLS.get(told.protocol, str(told.protocol))
        call = Call(told.host, told.address, told.port, protocol, told.workload.command, 0)
        with self._lock:
            self._calls[kind, call] = self._calls.get((kind, call), 0) + told.count

    def _told(self, kind: str) -> tuple[Call, ...]:
        with self._lock:
            return tuple(
                Call(call.host, call.address, call.port, call.protocol, call.command, times)
                for (which, call), times in self._calls.items()
                if which == kind
            )

    def refused(self) -> tuple[Call, ...]:
        """Calls to what was not recorded."""
        return self._told("refused")

    def passed(self) -> tuple[Call, ...]:
        """Calls to backends that are left out; `times` is 1, the first is told."""
        return tuple(call for call in self._told("passed") if self._is_left_out(call))

    def unrecorded(self) -> tuple[Call, ...]:
        """Calls to what was not recorded and is let through; `times` is 1, the first is told."""
        return tuple(call for call in self._told("passed") if not self._is_left_out(call))

    def _is_left_out(self, call: Call) -> bool:
        return not self._left_out.isdisjoint({(call.host, call.port), (call.address, call.port)})

    def stop(self) -> None:
        """End it, with the last news. What is left of the command can call nobody from now on."""
        self._thread.join(LAST_NEWS_SECONDS)
        self._news.cancel()
        self._thread.join()


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
