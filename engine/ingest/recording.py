"""A snapshot that is being recorded: the conversations of its capture, and how far each is committed. Not thread-safe."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from engine.pairing import Conversation
from engine.rrpair import Connection, Flow, RRPair, Way
from engine.snapshot import SnapshotWriter
from engine.store import Progress

StreamKey = tuple[str, int]
"""An agent's instance, and the stream's number in it."""

Wanted = Callable[[RRPair | Flow], bool]
"""Whether something goes into the snapshot."""


class Recording:
    """Takes in the streams of one capture. With `wanted` it adds to a snapshot that is there, and only that.

    What a batch finishes is committed at its end, together with how far its streams have come: an engine that goes on with the
    snapshot later, or an agent that sends again, adds nothing twice.
    """

    def __init__(self, writer: SnapshotWriter, service: str, capture_id: str, wanted: Wanted | None = None) -> None:
        self.writer = writer
        self.service = service
        self.capture_id = capture_id
        self._wanted = wanted
        self._present = writer.pairs
        self._progress: dict[str, dict[int, Progress]] = {}
        self.received_bytes = 0
        self.ledger: dict[str, int] | None = None
        self.over = False
        self._conversations: dict[StreamKey, Conversation] = {}
        self._opaque: dict[StreamKey, tuple[Connection, int]] = {}
        self._finished: list[RRPair | Flow] = []
        self._moved: set[StreamKey] = set()
        self._relocated: dict[str, Connection] = {}

    @property
    def added_pairs(self) -> int:
        """Pairs that came to those that were there at the beginning."""
        return self.writer.pairs - self._present

    def opened(self, key: StreamKey, connection: Connection, time: int, *, start_known: bool, opaque: bool) -> None:
        """A stream begins, or is told of again."""
        known = self._position(key)
        if key in self._conversations or key in self._opaque or known.finished:
            self._moved.add(key)
            return
        if opaque:
            self._opaque[key] = (connection, time)
            return
        read, write = known.read_offset, known.write_offset
        # What lies before a committed offset is in the snapshot: from there on, nothing is unknown.
        self._conversations[key] = Conversation(connection, self.service, start_known or bool(read or write), read, write)

    def located(self, key: StreamKey, facts: Connection) -> None:
        """Something became known of a stream; what is empty in `facts` says nothing."""
        if key in self._opaque:
            connection, time = self._opaque[key]
            self._opaque[key] = (_merged(connection, facts), time)
        elif key in self._conversations:
            conversation = self._conversations[key]
            merged = _merged(conversation.connection, facts)
            if merged != conversation.connection:
                conversation.update(merged)
                self._relocated[merged.id] = merged

    def data(self, key: StreamKey, way: Way, offset: int, data: bytes, time: int) -> None:
        """Bytes."""
        conversation = self._conversations.get(key)
        if conversation:
            self.received_bytes += len(data)
            self._take(key, conversation.data(way, offset, data, time))

    def gap(self, key: StreamKey, way: Way, offset: int, length: int, reason: str) -> None:
        """Missing bytes."""
        conversation = self._conversations.get(key)
        if conversation:
            self._take(key, conversation.gap(way, offset, length, reason))

    def half_closed(self, key: StreamKey, way: Way, time: int) -> None:
        """One way has ended."""
        conversation = self._conversations.get(key)
        if conversation:
            self._take(key, conversation.half_close(way, time))

    def closed(self, key: StreamKey, time: int, opaque: tuple[int, int] = (0, 0), *, ended: bool = True) -> None:
        """A stream has ended, or (not `ended`) our sight of it; `opaque` are its bytes that were left out, read and written."""
        self._moved.add(key)
        if key in self._opaque:
            connection, began = self._opaque.pop(key)
            self._finished.append(Flow(connection, began, "tls", "its plaintext cannot be captured", *opaque))
        conversation = self._conversations.pop(key, None)
        if conversation:
            self._finished += conversation.close(time, ended)
            self._note_position(key, conversation, finished=True)
        else:
            self._progress[key[0]][key[1]] = replace(self._position(key), finished=True)

    def _take(self, key: StreamKey, finished: Iterable[RRPair | Flow]) -> None:
        self._moved.add(key)
        self._finished += finished

    def _position(self, key: StreamKey) -> Progress:
        """How far a stream is committed; what an earlier engine committed is in the file."""
        agent, stream = key
        if agent not in self._progress:
            self._progress[agent] = self.writer.progress(agent)
        return self._progress[agent].get(stream, Progress(agent, stream, 0, 0))

    def _note_position(self, key: StreamKey, conversation: Conversation, *, finished: bool = False) -> None:
        agent, stream = key
        self._progress[agent][stream] = Progress(agent, stream, *conversation.progress, finished)

    def commit(self) -> list[Progress]:
        """Commit everything so far; returns how far the streams that moved have come."""
        for key in self._moved:
            if key in self._conversations:
                self._note_position(key, self._conversations[key])
        moved = [self._position(key) for key in self._moved]
        if moved or self._relocated:
            finished = [item for item in self._finished if self._wanted(item)] if self._wanted else self._finished
            self.writer.add(finished, moved, self._relocated.values())
        self._finished, self._moved, self._relocated = [], set(), {}
        return moved

    def finish(self, now: int) -> None:
        """End every open conversation, and make the snapshot readable. One to which nothing was to be added stays what it was."""
        self.over = True
        for key in [*self._conversations, *self._opaque]:
            self.closed(key, now, ended=False)
        self.commit()
        if self._wanted:
            if not self.added_pairs:
                self.writer.abandon()
                return
            self.writer.note_added(self.added_pairs)
        elif self.ledger is not None:
            self.writer.set_ledger(self.ledger)
        self.writer.finish()

    def abandon(self) -> None:
        """Close the file as it is: another engine may go on with it."""
        self.over = True
        self.writer.close()


def _merged(connection: Connection, facts: Connection) -> Connection:
    return replace(
        connection,
        role=facts.role or connection.role,
        local_address=facts.local_address or connection.local_address,
        local_port=facts.local_port or connection.local_port,
        remote_address=facts.remote_address or connection.remote_address,
        remote_port=facts.remote_port or connection.remote_port,
        server_name=facts.server_name or connection.server_name,
        application_protocol=facts.application_protocol or connection.application_protocol,
        tls_version=facts.tls_version or connection.tls_version,
        bound_by=facts.bound_by or connection.bound_by,
    )
