"""The agent's news as protobuf messages."""

from __future__ import annotations

import re
from collections.abc import Callable

from understudy.v1 import capture_pb2 as pb

from agent import events, streams, window
from agent.workloads import Workload

_SOURCES: dict[events.Source, pb.Source.ValueType] = {
    events.Source.TLS: pb.SOURCE_TLS,
    events.Source.SOCKET: pb.SOURCE_SOCKET,
    events.Source.OPAQUE: pb.SOURCE_OPAQUE,
}
_DIRECTIONS: tuple[pb.Direction.ValueType, ...] = (pb.DIRECTION_READ, pb.DIRECTION_WRITE)
_ROLES: tuple[pb.Role.ValueType, ...] = (pb.ROLE_UNSPECIFIED, pb.ROLE_CLIENT, pb.ROLE_SERVER)
_METHODS: tuple[pb.BindMethod.ValueType, ...] = (
    pb.BIND_METHOD_UNSPECIFIED,
    pb.BIND_METHOD_SOCKET,
    pb.BIND_METHOD_NESTED_SYSCALL,
    pb.BIND_METHOD_CIPHERTEXT,
)


_SURROGATES = re.compile("[\ud800-\udfff]")

TEXT_MAX = 8192
"""Characters of a text in a message: twice the longest path."""


def text(name: str) -> str:
    """A name as a message can carry it. Names of processes and files are any bytes, which os.fsdecode keeps as lone surrogates.

    All that a workload, a file or the kernel has a say in passes here: protobuf raises on what is no text.
    """
    cut = name if len(name) <= TEXT_MAX else f"{name[: TEXT_MAX - 1]}…"
    return _SURROGATES.sub("\N{REPLACEMENT CHARACTER}", cut)


def workload(known: Workload) -> pb.Workload:
    """A process as a message."""
    return pb.Workload(
        pid=known.pid,
        start_boot_nano=known.started,
        command=text(known.command),
        executable=text(known.executable),
        cgroup=text(known.cgroup),
        container_id=text(known.container),
    )


class Encoder:
    """Turns items into events. `look_up` tells what is known of a process; `name_of` a capture's name."""

    def __init__(
        self,
        clock_offset: int,
        node: str,
        look_up: Callable[[streams.Process, str], Workload],
        name_of: Callable[[int], str],
    ) -> None:
        self._clock_offset = clock_offset
        self._node = text(node)
        self._look_up = look_up
        self._name_of = name_of

    def event(self, item: window.Item) -> pb.CaptureEvent:
        """One item as an event."""
        if isinstance(item, window.Marker):
            return self._marker(item)
        head = pb.CaptureEvent(stream_id=item.stream, time_unix_nano=item.time + self._clock_offset)
        if isinstance(item, streams.StreamChunk):
            chunk = head.chunk
            chunk.direction = _DIRECTIONS[item.direction]
            chunk.offset = item.offset
            chunk.data = item.data
        elif isinstance(item, streams.StreamOpened):
            head.opened.CopyFrom(self._opened(item))
        elif isinstance(item, streams.StreamBound):
            head.bound.CopyFrom(_bound(item.facts))
        elif isinstance(item, streams.StreamGap):
            reason = pb.GAP_REASON_LOST if item.lost else pb.GAP_REASON_UNKNOWN
            head.gap.CopyFrom(pb.Gap(direction=_DIRECTIONS[item.direction], offset=item.offset, length=item.length, reason=reason))
        elif isinstance(item, streams.StreamHalfClosed):
            head.half_closed.direction = _DIRECTIONS[item.direction]
        else:
            read, write = (pb.Tally(seen=t.seen, lost=t.lost, opaque=t.opaque) for t in item.tally)
            head.closed.CopyFrom(pb.StreamClosed(read=read, write=write, cut=item.cut))
        return head

    def _marker(self, item: window.Marker) -> pb.CaptureEvent:
        name = self._name_of(item.capture)
        if isinstance(item.ended, pb.Ledger):
            return pb.CaptureEvent(capture_ended=pb.CaptureEnded(capture_id=name, ledger=item.ended))
        return pb.CaptureEvent(capture_started=pb.CaptureStarted(capture_id=name, node=self._node))

    def _opened(self, item: streams.StreamOpened) -> pb.StreamOpened:
        return pb.StreamOpened(
            capture_id=self._name_of(item.capture),
            workload=workload(self._look_up(item.process, item.command)),
            source=_SOURCES[item.source],
            start_known=item.start_known,
        )


def _bound(facts: streams.Facts) -> pb.StreamBound:
    return pb.StreamBound(
        local=pb.Endpoint(address=text(facts.local[0]), port=facts.local[1]),
        remote=pb.Endpoint(address=text(facts.remote[0]), port=facts.remote[1]),
        role=_ROLES[facts.role],
        method=_METHODS[facts.method],
        socket_inode=facts.inode,
        server_name=text(facts.server_name),
        application_protocol=text(facts.application_protocol),
        tls_version=text(facts.tls_version),
    )
