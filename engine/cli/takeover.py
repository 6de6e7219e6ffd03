"""The takeover of a command's calls, as this command line asks the agent for it: see AgentService.Redirect."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Generic, TypeVar

import grpc
from understudy.v1 import agent_pb2, backend_pb2, control_pb2

from engine.cli import Failure
from engine.cli.caller import Caller, as_text
from engine.cli.launcher import Launcher
from engine.cli.parts import Parts
from engine.cli.proxies import proxies
from engine.report import Call, Departed, FailedHandshake, More

LAST_NEWS_SECONDS = 2.0
"""How long the news of a command that has ended may take; they end by themselves unless it left processes behind."""

ITSELF = "the recorded program itself answered there, and does not here"
UNSERVABLE = "it was recorded, but cannot be stood in for"
A_PROXY = "the environment names it as a proxy, which would lead past the recording"

LOOPBACK = ("127.0.0.1", "::1")

KEPT_MAX = 1000
"""Of each kind of news that are kept: more than anybody reads; the rest is counted."""

BUNDLES_MAX = 5
"""Lists of certificates that are named for one program: few read more."""

_PROTOCOLS = {6: "TCP", 17: "UDP"}

_What = TypeVar("_What")


class _Counts(Generic[_What]):
    """How often what was met: of the first so many each, of others together."""

    def __init__(self) -> None:
        self._times: dict[_What, int] = {}
        self.more = 0

    def add(self, what: _What, times: int) -> None:
        if what in self._times or len(self._times) < KEPT_MAX:
            self._times[what] = self._times.get(what, 0) + times
        else:
            self.more += times

    def __iter__(self) -> Iterator[tuple[_What, int]]:
        return iter(self._times.items())


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
        passes: bool,
        trusted: Sequence[str] = (),
    ) -> None:
        """Take over; Failure where that cannot be. `command`: the program's path, and its arguments. `passes`: what was not
        recorded is real. `trusted`: files of certificates that programs read, besides those that are found."""
        # Only to find certificates by: what is no text names none.
        environment = {key.decode(): value.decode() for key, value in who.environment.items() if _is_text(key + value)}
        request = agent_pb2.RedirectRequest(
            redirect_id=uuid.uuid4().hex,
            launched_pid=launcher.process.pid,
            responder=agent_pb2.ResponderEndpoint(pid=parts.engine.process.pid, ipv4_port=responder.port),
            recorded=responder.backends,
            passed_through=responder.left_out,
            pass_unrecorded=passes,
            keep_departed=passes,
            ca_pem=responder.ca_certificate.decode(),
            command=agent_pb2.Command(
                arguments=map(as_text, command),
                folder=as_text(os.getcwd()),
                environment=environment,
                uid=who.uid,
                gid=who.gid,
                groups=who.groups,
                trust_files=trusted,
            ),
            refused=[] if passes else [backend_pb2.Backend(host=host, port=port) for host, port in proxies(who.environment)],
        )
        self._left_out = _places(responder.left_out)
        self._unservable = _places(responder.unservable)
        self._itself = _places(responder.itself)
        self._proxies = _places(backend_pb2.Backend(host=host, port=port) for host, port in proxies(who.environment))
        self._lock = threading.Lock()
        self._calls: dict[str, _Counts[Call]] = {kind: _Counts() for kind in ("refused", "passed", "unrecorded", "local")}
        self._departed: _Counts[Departed] = _Counts()
        self._unread: _Counts[tuple[str, str]] = _Counts()
        self._untold = 0
        self._stopping = False
        self.trust_ended = ""
        """Why lists of certificates that show from now on do not trust the responder; "" while they do."""
        self.trouble = ""
        """Why there is no more news though it goes on, and nothing is answered; "" while there is."""
        self._news = parts.agent_service.Redirect(request)
        try:
            ready = next(self._news).ready
        except grpc.RpcError as error:
            raise Failure(f"the command's calls cannot be taken over: {error.details()}") from error
        self.variables = dict(ready.environment)
        self.cgroup = Path(ready.cgroup)
        self.not_covered = [(each.path, each.reason) for each in ready.not_covered]
        self._thread = threading.Thread(target=self._hear, args=(self._news,), name="news", daemon=True)
        self._thread.start()

    def _hear(self, news: Iterator[agent_pb2.RedirectResponse]) -> None:
        try:
            for each in news:
                with self._lock:
                    self._take(each)
        except grpc.RpcError as error:
            if not self._stopping:
                self.trouble = error.details() or str(error)

    def _take(self, news: agent_pb2.RedirectResponse) -> None:
        kind = news.WhichOneof("news")
        if kind in ("refused", "passed", "local"):
            self._note(kind, getattr(news, kind))
        elif kind == "departed":
            who = news.departed.workload
            self._departed.add(Departed(who.command, who.pid, news.departed.cgroup, news.departed.ended), 1)
        elif kind == "trust_ended":
            self.trust_ended = news.trust_ended.reason
        elif kind == "untrusted_bundle":
            self._unread.add((news.untrusted_bundle.workload.command, news.untrusted_bundle.path), 1)
        elif kind == "stopped":
            self._untold = news.stopped.untold

    def _note(self, kind: str, told: agent_pb2.CallNews) -> None:
        protocol = _PROTOCOLS.get(told.protocol, str(told.protocol))
        call = Call(told.host, told.address, told.port, protocol, told.workload.command, 0)
        if (kind == "passed" and not self._is_of(self._left_out, call)) or (kind == "local" and self._is_of(self._proxies, call)):
            kind = "unrecorded"
        self._calls[kind].add(self._with_reason(call) if kind in ("refused", "unrecorded") else call, told.count)

    def _told(self, kind: str) -> tuple[Call, ...]:
        with self._lock:
            return tuple(replace(call, times=times) for call, times in self._calls[kind])

    def refused(self) -> tuple[Call, ...]:
        """Calls to what was not recorded, or cannot be stood in for."""
        return self._told("refused")

    def passed(self) -> tuple[Call, ...]:
        """Calls to backends that are left out; `times` is 1, the first is told."""
        return self._told("passed")

    def unrecorded(self) -> tuple[Call, ...]:
        """Calls to what was not recorded and is let through; `times` is 1, the first is told."""
        return self._told("unrecorded")

    def local(self) -> tuple[Call, ...]:
        """Calls to programs on this machine that were not recorded, each port once; `times` is 1, the first is told."""
        return tuple({(call.port, call.protocol): call for call in self._told("local")}.values())

    def more(self) -> More:
        """What there was no room to tell of."""
        with self._lock:
            counts = {kind: calls.more for kind, calls in self._calls.items()}
            return More(**counts, departed=self._departed.more, untold=self._untold)

    def with_bundles(self, failed: FailedHandshake) -> FailedHandshake:
        """The same, with the lists of certificates that its program read without the responder's authority."""
        with self._lock:
            paths = [path for (command, path), _ in self._unread if command == failed.command]
        return replace(failed, bundles=tuple(paths[:BUNDLES_MAX]))

    def departed(self) -> tuple[Departed, ...]:
        """Processes that have left the command's cgroup."""
        with self._lock:
            return tuple(process for process, _ in self._departed)

    def _with_reason(self, call: Call) -> Call:
        if self._is_of(self._unservable, call):
            return replace(call, reason=UNSERVABLE)
        if self._is_of(self._itself, call):
            return replace(call, reason=ITSELF)
        return replace(call, reason=A_PROXY) if self._is_of(self._proxies, call) else call

    @staticmethod
    def _is_of(places: set[tuple[str, int]], call: Call) -> bool:
        return not places.isdisjoint({(call.host, call.port), (call.address, call.port)})

    def stop(self) -> None:
        """End it, with the last news. What is left of the command can call nobody from now on."""
        self._thread.join(LAST_NEWS_SECONDS)
        self._stopping = True
        self._news.cancel()
        self._thread.join()


def _places(backends: Iterable[backend_pb2.Backend]) -> set[tuple[str, int]]:
    """Backends as calls name them."""
    found = {(name, each.port) for each in backends for name in (each.host, *each.addresses)}
    ports = {port for host, port in found if host == "localhost"}
    return found | {(address, port) for address in LOOPBACK for port in ports}


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
