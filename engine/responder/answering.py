"""From a live request to its answer. No I/O but reading the snapshot, no clock but the run's."""

from __future__ import annotations

from dataclasses import replace

from engine.matching.codings import accepted
from engine.matching.explain import Difference, Explanation, explain
from engine.matching.headers import idempotency_key
from engine.matching.index import Refused, Request, Sequence
from engine.matching.shape import shape
from engine.pairing.description import default_port, host_and_port
from engine.protocols.http1 import request_line, split_query, split_target
from engine.redaction import Redactor
from engine.responder.backends import Backends, Place, Scope
from engine.responder.misses import Missed
from engine.responder.replies import Replies, Reply, Way
from engine.responder.requests import Asked
from engine.responder.run import Count, Run


class Plan:
    """How to answer a request, also when it comes again: each time the next answer of its sequence."""

    __slots__ = ("_accept", "_count", "_key", "_replies", "_sequence", "_way")

    def __init__(self, sequence: Sequence, asked: Asked, replies: Replies, count: Count) -> None:
        self._sequence, self._replies, self._count = sequence, replies, count
        self._key, self._way, self._accept = idempotency_key(asked.headers), _way(asked), accepted(asked.headers)

    def take(self) -> Reply:
        """Give the answer, and count it. Raises SnapshotError."""
        reply = self._replies.get(self._sequence.next(self._key), self._way, self._accept)
        self._count.requests += 1
        self._count.matches += 1
        return reply


class Answering:
    """Answers the requests of a run."""

    def __init__(self, backends: Backends, redactor: Redactor, replies: Replies, run: Run) -> None:
        self._backends, self._redactor, self._replies, self._run = backends, redactor, replies, run

    def answer(self, scope: Scope, asked: Asked) -> Plan | Missed:
        """Give a plan for a request that was recorded, else say why not. Raises SnapshotError."""
        authority, path, query = split_target(asked.method, asked.target)
        if authority:
            scope = _behind_proxy(scope, authority, asked.target)
        place = self._backends.place(scope, authority or _host(asked))
        request = self._redacted(asked, path, query)
        index = self._backends.indexes.get(place)
        found = index.find(request) if index else None
        if isinstance(found, Sequence):
            return Plan(found, asked, self._replies, self._run.count(place))
        return self._missed(place, self._backends.speaks_tls(place, scope), request, found)

    def _redacted(self, asked: Asked, path: str, query: str) -> Request:
        """Redact a request as the recorder did: with its whole target, whose password may stand elsewhere as well."""
        sent = asked.message
        message, secrets = self._redactor.request(sent)
        if message.start_line != sent.start_line:
            _, path, query = split_target(asked.method, request_line(message.start_line)[1])
        return Request.of(asked.method, path, split_query(query) if query else (), message, secrets)

    def _missed(self, place: Place, tls: bool, request: Request, refused: Refused | None) -> Missed:
        known = None if refused else self._run.explanation(place, request.form.digest)
        why = known or self._explain(place, request, refused)
        return Missed(place, tls, request, why)

    def _explain(self, place: Place, request: Request, refused: Refused | None) -> Explanation:
        why = self._explain_recorded(place, request, refused)
        unread = self._backends.unread.get(place)
        return replace(why, reason=f"{why.reason}; {unread} was seen at this backend and not recorded") if unread else why

    def _explain_recorded(self, place: Place, request: Request, refused: Refused | None) -> Explanation:
        index = self._backends.indexes.get(place)
        if index:
            return explain(index, request, refused)
        name = f"{place[0]}:{place[1]}"
        if place in self._backends.off:
            return Explanation(f"{name} was recorded, but is left out of this run")
        if place in self._backends.own:
            return Explanation(f"the recorded program itself answered at {name}, so that is not stood in for")
        return self._elsewhere(name, request)

    def _elsewhere(self, name: str, request: Request) -> Explanation:
        """Where nothing was recorded of a host, its request may have been recorded of another."""
        reason = f"nothing was recorded of {name}"
        look = shape(request.method, request.path, request.operation)
        for (host, port), index in self._backends.indexes.items():
            if look in index.rows_by_shape:
                near = explain(index, request)
                differs = (Difference("host", f"{host}:{port}", name), *near.differences)
                return Explanation(reason, near.nearest, near.operation, differs)
        return Explanation(reason)


def _behind_proxy(scope: Scope, authority: str, target: str) -> Scope:
    """A client that takes us for its proxy means the server of the target, wherever it connected to."""
    if scope.destination is None:
        return scope
    host, port = host_and_port(authority)
    return replace(scope, destination=(host, port or default_port(target)))


def _host(asked: Asked) -> str:
    for name, value in asked.headers:
        if len(name) == 4 and name.lower() == b"host":
            return value.decode("latin-1")
    return ""


def _way(asked: Asked) -> Way:
    if asked.version != "1.1":
        return Way.OLD
    return Way.KEEP if asked.keep_alive else Way.CLOSE
