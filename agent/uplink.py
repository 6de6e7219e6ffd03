"""The connection to the engine: batches up, acknowledgements down, again after every break."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator

import grpc
from understudy.v1 import capture_pb2 as pb
from understudy.v1 import capture_pb2_grpc

from agent.failures import Failures
from agent.window import Item, Window

BATCHES_IN_FLIGHT = 8
"""Sent and not acknowledged; with 1 MiB a batch enough to keep an engine busy."""

GATHER_SECONDS = 0.01
"""How long a batch gathers: an event waits no longer than this for company."""

RETRY_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0)


class Uplink:
    """Sends what is put into it, on a thread of its own."""

    def __init__(self, address: str, agent_id: str, encode: Callable[[Item], pb.CaptureEvent], failures: Failures) -> None:
        self.address = address
        self._agent_id = agent_id
        self._encode = encode
        self._failures = failures
        self._window = Window()
        self._changed = threading.Condition()
        self._stopping = False
        self._connection: object | None = None
        self._deadline = float("inf")
        self.batches = self.reconnections = self._acknowledged = 0
        self._thread = threading.Thread(target=self._run, name="uplink", daemon=True)

    def start(self) -> None:
        """Begin to connect."""
        self._thread.start()

    def put(self, items: Iterable[Item]) -> None:
        """Send these, in order."""
        with self._changed:
            self._window.put(items)
            self._changed.notify_all()

    @property
    def full(self) -> bool:
        """Whether the engine is behind and nothing should be put in for now."""
        return self._window.full

    def wait_for_room(self, seconds: float) -> bool:
        """Wait until there is room; False where there is none in time."""
        until = time.monotonic() + seconds
        with self._changed:
            while self._window.full and not self._stopping and (left := min(until, self._deadline) - time.monotonic()) > 0:
                self._changed.wait(left)
            return not self._window.full

    @property
    def kept_bytes(self) -> int:
        """Bytes kept for a reconnection."""
        return self._window.kept_bytes

    @property
    def let_go_bytes(self) -> int:
        """Bytes that a reconnection could not send again any more."""
        return self._window.let_go_bytes

    def missed_bytes(self, capture: int) -> int:
        """Bytes of a capture that an engine, after a break, did not have any more and could not be sent again."""
        return self._window.missed_bytes[capture]

    def wait_until_idle(self, seconds: float) -> bool:
        """Wait until the engine has received everything; False where it has not in time."""
        until = time.monotonic() + seconds
        with self._changed:
            while not self._window.idle and (left := min(until, self._deadline) - time.monotonic()) > 0:
                self._changed.wait(left)
            return self._window.idle

    def hurry(self, seconds: float) -> None:
        """Let nobody wait for the engine for longer than so long from now."""
        with self._changed:
            self._deadline = time.monotonic() + seconds
            self._changed.notify_all()

    def give_up(self, capture: int) -> int:
        """Drop what is left of a capture that has ended; says how many of its bytes the engine has not received."""
        with self._changed:
            given_up = self._window.give_up(capture)
            self._changed.notify_all()
            return given_up

    def stop(self) -> None:
        """Give up what is not sent."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(5)

    def _run(self) -> None:
        failures = 0
        while not self._stopping:
            before = self._acknowledged
            with contextlib.suppress(grpc.RpcError):
                self._converse()
            failures = 0 if self._acknowledged > before else failures + 1
            with self._changed:
                self._changed.wait_for(lambda: self._stopping, RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)])
                self._window.reconnected()
                self.reconnections += 1

    def _converse(self) -> None:
        """One connection, until it breaks."""
        options = [("grpc.max_send_message_length", -1), ("grpc.initial_reconnect_backoff_ms", 100)]
        with grpc.insecure_channel(self.address, options) as channel:
            connection = self._connection = object()
            responses = capture_pb2_grpc.CaptureServiceStub(channel).Upload(self._requests(connection))
            try:
                for response in responses:
                    with self._changed:
                        self._acknowledged += 1
                        self._window.received(response.received_sequence)
                        for moved in response.committed:
                            self._window.committed(moved.stream_id, moved.read_offset, moved.write_offset, moved.finished)
                        self._changed.notify_all()
            finally:
                with self._changed:
                    self._connection = None
                    self._changed.notify_all()

    def _requests(self, connection: object) -> Iterator[pb.UploadRequest]:
        """What goes up by one connection. gRPC asks for it on a thread of its own, which may outlive the connection."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._may_send(connection))
            time.sleep(GATHER_SECONDS)
            with self._changed:
                if self._stopping or self._connection is not connection:
                    return
                batch = self._window.batch()
                self._changed.notify_all()  # there is room again
            if batch is not None:
                self.batches += 1
                sequence, items = batch
                yield pb.UploadRequest(agent_id=self._agent_id, sequence=sequence, events=self._encoded(items))

    def _encoded(self, items: Iterable[Item]) -> Iterator[pb.CaptureEvent]:
        for item in items:
            try:
                event = self._encode(item)
            except Exception as error:  # of this item: what comes after it must not wait for ever
                self._failures.note("a piece of news could not be sent", error)
            else:
                yield event

    def _may_send(self, connection: object) -> bool:
        waiting = self._window.in_flight < BATCHES_IN_FLIGHT and not self._window.empty
        return self._stopping or self._connection is not connection or waiting
