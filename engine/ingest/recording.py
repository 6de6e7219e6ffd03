"""A snapshot that is being recorded: the conversations of its capture, and how far each is committed.

It is called by one thread at a time: whoever calls holds its `lock`. Recordings share nothing, so that none waits for another.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from engine.ingest.counted import COUNTED_LIMIT, Counted
from engine.ingest.unfinished import UNFINISHED_LIMIT, Unfinished
from engine.pairing import Conversation
from engine.pairing.description import host_and_port
from engine.reassembly import LOST
from engine.rrpair import Connection, Direction, Flow, RRPair, Way
from engine.snapshot import Finished, SnapshotError, SnapshotWriter
from engine.store import Progress
from engine.store.rows import INTEGER_LIMIT

STREAMS_LIMIT = 65_536
"""Streams at a time: as many connections as a host has ports to one address. Each takes some 10 KiB and what is not whole yet."""
StreamKey = tuple[str, int]
"""An agent's instance, and the stream's number in it."""

TUNNELS_LIMIT = 10_000
"""Tunnels through proxies that are remembered, the latest: one for each connection that is open through them."""

BACKENDS_COUNTED = 10_000
"""Backends that are told apart while a recording is on: for people, who will not count further."""

Ends = tuple[str, int, str, int]
"""Both ends of a connection, the workload's first."""

Wanted = Callable[[RRPair | Flow], bool]
"""Whether something goes into the snapshot."""


class Recording:
    """Takes in the streams of one capture. With `wanted` it adds to a snapshot that is there, and only that.

    What a batch finishes is committed at its end, together with how far its streams have come: an engine that goes on with the
    snapshot later, or an agent that sends again, adds nothing twice.
    """

    def __init__(
        self,
        writer: SnapshotWriter,
        service: str,
        capture_id: str,
        wanted: Wanted | None = None,
        unfinished: Unfinished | None = None,
    ) -> None:
        """`unfinished`: the account that it shares with others."""
        self.writer = writer
        self.service = service
        self.capture_id = capture_id
        self._wanted = wanted
        self._present = writer.pairs
        self._progress: dict[StreamKey, Progress] = {}
        """Of streams that are open, or moved since the last commit. How far others had come, the writer knows."""
        self.lock = threading.RLock()
        self.received_bytes = 0
        self.missing_bytes = 0
        self._backends: set[tuple[str, int]] = set()
        self.error = ""
        """Why what was taken in last is not written; "" while all is well."""
        self.over = False
        self._result: Finished | None = None
        self._agents: set[str] = set()
        self._ledgers: dict[str, Mapping[str, int]] = {}
        self._account_moved = False
        self._cut: dict[StreamKey, tuple[Connection, Progress]] = {}
        """Streams that were ended for a snapshot that could not be finished: they may go on."""
        self._conversations: dict[StreamKey, Conversation] = {}
        self._unfinished = unfinished or Unfinished()
        self._held: dict[StreamKey, int] = {}
        """Bytes that conversations keep of what is not finished, where they keep any."""
        self._opaque: dict[StreamKey, tuple[Connection, int]] = {}
        self._counted: dict[StreamKey, Counted] = {}
        self._finished: list[RRPair | Flow] = []
        self._heard: list[RRPair | Flow] = []
        self._moved: set[StreamKey] = set()
        self._relocated: dict[str, Connection] = {}
        self._refuted: dict[str, int] = {}
        """Connections whose pairs are in doubt since this time, though some are committed as complete."""
        self._tunnels: dict[Ends, int] = {}
        """The port of the server that a connection through a proxy leads to."""

    @property
    def added_pairs(self) -> int:
        """Pairs that came to those that were there at the beginning."""
        return self.writer.pairs - self._present

    @property
    def backends(self) -> int:
        """Backends that were called so far."""
        return len(self._backends)

    @property
    def capture_ended(self) -> bool:
        """Whether the capture has ended in good order at every agent that had begun it."""
        with self.lock:
            return bool(self._ledgers) and self._agents <= self._ledgers.keys()

    @property
    def ledger(self) -> dict[str, int]:
        """The account of the capture: the sum of its agents'. Empty until one of them has ended it."""
        total: Counter[str] = Counter()
        with self.lock:  # others than its caller ask for it
            for ledger in self._ledgers.values():
                total.update(ledger)
        return {name: min(count, INTEGER_LIMIT) for name, count in total.items()}

    def capture_started(self, agent: str) -> None:
        """An agent takes part."""
        self._agents.add(agent)
        self._account_moved = True

    def capture_over(self, agent: str, ledger: Mapping[str, int]) -> None:
        """An agent has ended the capture, and this is its account."""
        self._ledgers[agent] = ledger
        self._account_moved = True

    def opened(self, key: StreamKey, connection: Connection, time: int, *, start_known: bool, opaque: bool) -> None:
        """A stream begins, or is told of again."""
        known = self._position(key)
        if key in self._conversations or key in self._opaque or key in self._counted or known.finished:
            self._moved.add(key)
            return
        read, write = known.read_offset - known.read_unstored, known.write_offset - known.write_unstored
        if len(self._conversations) + len(self._opaque) >= STREAMS_LIMIT:
            reason = f"more than {STREAMS_LIMIT:,} streams at a time"
            end = known.read_offset, known.write_offset
            self._only_count(key, Counted(connection, time, reason, (read, write), end, known.by_turns_since))
            return
        if opaque:
            self._opaque[key] = (connection, time)
            return
        in_step = known.in_step and (start_known or known.by_turns_since is not None)
        conversation = Conversation(connection, self.service, in_step, read, write, known.by_turns_since)
        conversation.gap(Way.READ, read, known.read_unstored, LOST)  # with the engine that had them
        conversation.gap(Way.WRITE, write, known.write_unstored, LOST)
        self._conversations[key] = conversation

    def located(self, key: StreamKey, facts: Connection) -> None:
        """Something became known of a stream; what is empty in `facts` says nothing."""
        if key in self._opaque:
            connection, time = self._opaque[key]
            self._opaque[key] = (_merged(connection, facts), time)
        elif key in self._counted:
            self._counted[key].connection = _merged(self._counted[key].connection, facts)
        elif key in self._conversations:
            conversation = self._conversations[key]
            merged = self._located_behind_proxy(_merged(conversation.connection, facts))
            if merged != conversation.connection:
                conversation.update(merged)
                self._relocated[merged.id] = merged

    def data(self, key: StreamKey, way: Way, offset: int, data: bytes, time: int) -> None:
        """Bytes."""
        conversation = self._conversations.get(key) or self._going_on(key)
        if conversation:
            self.received_bytes += len(data)
            self._take(key, conversation.data(way, offset, data, time))
            if conversation.tunnel:
                self._note_tunnel(conversation)
        else:
            self._count(key, way, offset + len(data))

    def gap(self, key: StreamKey, way: Way, offset: int, length: int, reason: str) -> None:
        """Missing bytes."""
        conversation = self._conversations.get(key) or self._going_on(key)
        if conversation:
            self.missing_bytes += length
            self._take(key, conversation.gap(way, offset, length, reason))
        else:
            self._count(key, way, offset + length)

    def half_closed(self, key: StreamKey, way: Way, time: int) -> None:
        """One way has ended."""
        conversation = self._conversations.get(key) or self._going_on(key)
        if conversation:
            self._take(key, conversation.half_close(way, time))

    def _count(self, key: StreamKey, way: Way, end: int) -> None:
        """Take that a stream which is not read has come to `end`."""
        if key in self._counted:
            self._moved.add(key)
            self.missing_bytes += self._counted[key].count(way, end)

    def _going_on(self, key: StreamKey) -> Conversation | None:
        cut = self._cut.pop(key, None)
        if cut is None:
            return None
        connection, before = cut
        in_step = before.in_step and not (before.read_unstored or before.write_unstored)
        offsets = before.read_offset, before.write_offset
        going_on = Conversation(connection, self.service, in_step, *offsets, before.by_turns_since)
        self._conversations[key] = going_on
        return going_on

    def closed(self, key: StreamKey, time: int, opaque: tuple[int, int] = (0, 0), *, ended: bool = True) -> None:
        """A stream has ended, or (not `ended`) our sight of it; `opaque` are its bytes that were left out, read and written."""
        self._moved.add(key)
        self._cut.pop(key, None)
        if key in self._opaque:
            connection, began = self._opaque.pop(key)
            self._finished.append(Flow(connection, began, "tls", "its plaintext cannot be captured", *opaque))
        conversation = self._conversations.get(key)
        if conversation:
            try:
                self._finished += conversation.close(time, ended)
            except Exception as error:
                self.fail(key, time, error)
            else:
                self._drop(key)
                if conversation.tunnel:
                    self._tunnels.pop(_ends(conversation.connection), None)
                self._note_position(key, conversation, finished=True)
                return
        if key in self._counted:
            for way, left_out in zip((Way.READ, Way.WRITE), opaque, strict=True):
                self._count(key, way, self._counted[key].end[way - Way.READ] + left_out)
            self._finished += self._counted.pop(key).tell()
        self._end(key)

    def fail(self, key: StreamKey, time: int, error: Exception) -> None:
        """A stream cannot be read on, by a fault of its agent or of ours: it costs that stream only, and is told of."""
        conversation = self._conversations.get(key)
        if conversation:
            self._give_up(key, conversation, time, f"understudy failed to read it ({type(error).__name__}: {error})")

    def _give_up(self, key: StreamKey, conversation: Conversation, time: int, reason: str) -> None:
        """Read a stream no longer: what is kept of it goes, and what it says from now on is only counted."""
        self.missing_bytes += conversation.held
        self._note_refuted(conversation)
        self._drop(key)
        pairs = zip(conversation.progress, conversation.unreturned, strict=True)
        read, write = (offset - unreturned for offset, unreturned in pairs)
        since = conversation.by_turns_since
        self._only_count(key, Counted(conversation.connection, time, reason, (read, write), conversation.seen, since))

    def _only_count(self, key: StreamKey, counted: Counted) -> None:
        self._moved.add(key)
        if len(self._counted) < COUNTED_LIMIT:
            self._counted[key] = counted
        else:
            counted.reason += "; what it says is not counted"
            self._finished += counted.tell()
            self._end(key)

    def _end(self, key: StreamKey) -> None:
        self._progress[key] = replace(self._position(key), finished=True)

    def heard(self, items: Iterable[RRPair | Flow]) -> None:
        """Keep what was not captured but heard by ourselves."""
        self._heard += items
        self.commit()

    def _note_tunnel(self, conversation: Conversation) -> None:
        """Remember where a tunnel leads: TLS in it is a stream of its own on the same socket."""
        _, port = host_and_port(conversation.tunnel)
        self._tunnels[_ends(conversation.connection)] = port or 443
        if len(self._tunnels) > TUNNELS_LIMIT:
            del self._tunnels[next(iter(self._tunnels))]

    def _located_behind_proxy(self, connection: Connection) -> Connection:
        if not connection.tls or connection.proxy or not connection.remote_port:
            return connection
        port = self._tunnels.get(_ends(connection))
        return connection.behind_proxy(port) if port else connection

    def _take(self, key: StreamKey, finished: Iterable[RRPair | Flow]) -> None:
        self._moved.add(key)
        self._finished += finished

    def _account(self) -> None:
        """Account for what conversations keep: once for what came together, which a message's limit bounds as well."""
        for key in self._moved:
            if key in self._conversations:
                self._weigh(key, self._conversations[key].held)
        self._unfinished.make_room()

    def _weigh(self, key: StreamKey, held: int) -> None:
        before = self._held.get(key, 0)
        if held == before:
            return
        if held:
            self._held[key] = held
        else:
            del self._held[key]
        self._unfinished.add(self, held - before)

    def let_go(self, size: int) -> None:
        """Keep so many bytes less of what is not finished: bodies of the largest streams go, then streams with large heads."""
        for act in (self._let_go, self._give_up_unfinished):
            for key in sorted(self._held, key=self._held.__getitem__, reverse=True):
                if size <= 0:
                    return
                before = self._held[key]
                act(key, self._conversations[key])
                size -= before - self._held.get(key, 0)

    def _let_go(self, key: StreamKey, conversation: Conversation) -> None:
        before = self._held[key]
        self._moved.add(key)
        self._finished += conversation.let_go()
        self._weigh(key, conversation.held)
        self.missing_bytes += before - self._held.get(key, 0)

    def _give_up_unfinished(self, key: StreamKey, conversation: Conversation) -> None:
        reason = f"more than {UNFINISHED_LIMIT // 1024**2:,} MiB of messages that had not ended, of all streams"
        self._give_up(key, conversation, conversation.began, reason)

    def _drop(self, key: StreamKey) -> None:
        """Keep nothing more of a stream."""
        self._weigh(key, 0)
        del self._conversations[key]

    def _position(self, key: StreamKey) -> Progress:
        """How far a stream is in; of one that is over, and of what an earlier engine committed, that is in the file."""
        return self._progress.get(key) or self.writer.progress(*key) or Progress(*key, 0, 0)

    def _note_refuted(self, conversation: Conversation) -> None:
        refuted = conversation.take_refuted()
        if refuted is not None:
            self._refuted[conversation.connection.id] = refuted

    def _note_position(self, key: StreamKey, conversation: Conversation, *, finished: bool = False) -> None:
        self._note_refuted(conversation)
        self._progress[key] = Progress(
            *key,
            *conversation.progress,
            finished,
            conversation.in_step,
            *conversation.unreturned,
            conversation.by_turns_since,
        )

    def commit(self) -> list[Progress]:
        """Commit everything so far; returns how far the streams that moved have come: nowhere, where nothing can be written.

        What cannot be written the writer holds, within bounds, and tries again the next time; `error` tells of it.
        """
        self._account()
        for key in self._moved:
            if key in self._conversations:
                self._note_position(key, self._conversations[key])
            elif key in self._counted:
                self._progress[key] = self._counted[key].progress(*key)
        try:
            return self._write()
        except SnapshotError as error:
            self.error = str(error)
            return []

    def _write(self) -> list[Progress]:
        moved = [self._position(key) for key in self._moved]
        finished = self._hand_over()
        if moved or self._relocated or finished or self.writer.holds:
            self.writer.add(finished, moved, self._relocated.values(), self._refuted)
        for key in self._moved - self._conversations.keys():
            self._progress.pop(key, None)
        if self._account_moved and not self._wanted:
            self.writer.set_ledger(self.ledger if self.capture_ended else {})
        self._moved, self._relocated, self._refuted, self._account_moved, self.error = set(), {}, {}, False, ""
        return moved

    def _hand_over(self) -> list[RRPair | Flow]:
        """What the writer has from here on, whether it can write or not."""
        finished = [item for item in self._finished if self._wanted(item)] if self._wanted else self._finished
        if len(self._backends) < BACKENDS_COUNTED:
            calls = (item for item in finished if isinstance(item, RRPair) and item.direction is Direction.OUT)
            self._backends.update((pair.host, pair.port) for pair in calls)
        finished += self._heard
        self._finished, self._heard = [], []
        return finished

    def finish(self, now: int) -> Finished | None:
        """End every open conversation, and make the snapshot readable. One to which nothing was to be added stays what it was.

        May be tried again where it raises SnapshotError or OSError; until then what comes is taken, as long as it can be.
        """
        if not self.over:
            self._write()  # where the disk takes nothing, nothing is ended
            self._end_all(now)
        if self._result:
            return self._result
        if self._wanted:
            if not self.added_pairs:
                self.discard()
                return None
            if not self.over:
                self.writer.note_added(self.added_pairs)
        try:
            self._result = self.writer.finish()
        finally:
            self.over = self.writer.is_file
        return self._result

    def _end_all(self, now: int) -> None:
        for key, conversation in self._conversations.items():
            self._note_position(key, conversation)
        cut = {key: (conversation.connection, self._position(key)) for key, conversation in self._conversations.items()}
        for key in [*self._conversations, *self._opaque]:
            self.closed(key, now, ended=False)
        self._cut |= cut
        for key, counted in self._counted.items():
            self._finished += counted.tell()
            self._progress[key] = counted.progress(*key)
        self._moved |= self._counted.keys()
        self._write()

    def discard(self) -> None:
        """Throw away what was taken in."""
        self.over = True
        self._forget()
        self.writer.abandon()

    def abandon(self) -> None:
        """Close the file as it is: another engine may go on with it."""
        self.over = True
        self._forget()
        self.writer.close()

    def _forget(self) -> None:
        for key in list(self._conversations):
            self._drop(key)


def _ends(connection: Connection) -> Ends:
    return connection.local_address, connection.local_port, connection.remote_address, connection.remote_port


def _merged(connection: Connection, facts: Connection) -> Connection:
    if connection.proxy:  # what is told is the way to the proxy, which is known
        facts = replace(facts, remote_address="", remote_port=0)
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
