"""The uplink against an engine that is here: what cannot be sent holds up nothing, and waiting for room is waiting."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from understudy.v1 import capture_pb2, capture_pb2_grpc

from agent import window
from agent.events import Source
from agent.failures import Failures
from agent.streams import Process, StreamChunk, StreamOpened
from agent.uplink import Uplink
from agent.window import Item, Marker

TIMEOUT = 60.0


class Engine(capture_pb2_grpc.CaptureServiceServicer):
    """Takes what it is sent, once it may."""

    def __init__(self) -> None:
        self.events: list[capture_pb2.CaptureEvent] = []
        self.may = threading.Event()
        self.may.set()
        self.to_break = self.refusals = 0
        self.breaks = threading.Event()

    def Upload(
        self,
        requests: Iterator[capture_pb2.UploadRequest],
        context: grpc.ServicerContext,
    ) -> Iterator[capture_pb2.UploadResponse]:
        self.may.wait(TIMEOUT)
        if self.to_break:
            self.to_break -= 1
            self.breaks.wait(TIMEOUT)
            context.abort(grpc.StatusCode.UNAVAILABLE, "as told")
        for request in requests:
            if self.refusals:
                self.refusals -= 1
                context.abort(grpc.StatusCode.UNAVAILABLE, "as told")
            self.events += request.events
            yield capture_pb2.UploadResponse(received_sequence=request.sequence)


@pytest.fixture
def engine() -> Iterator[tuple[Engine, str]]:
    with tempfile.TemporaryDirectory(prefix="us-") as folder:
        server, service = grpc.server(ThreadPoolExecutor(2)), Engine()
        capture_pb2_grpc.add_CaptureServiceServicer_to_server(service, server)
        address = f"unix:{Path(folder) / 'e.sock'}"
        server.add_insecure_port(address)
        server.start()
        yield service, address
        server.stop(0).wait()


def chunk(stream: int, length: int = 1) -> StreamChunk:
    return StreamChunk(stream, 0, 0, 0, bytes(length))


def encode(item: Item) -> capture_pb2.CaptureEvent:
    assert isinstance(item, StreamChunk)
    if item.stream == 2:
        raise UnicodeEncodeError("utf-8", "\udcff", 0, 1, "a name that is none")
    return capture_pb2.CaptureEvent(stream_id=item.stream)


def test_an_item_that_cannot_be_sent_holds_up_nothing(engine: tuple[Engine, str]) -> None:
    service, address = engine
    failures = Failures()
    uplink = Uplink(address, "agent", encode, failures)
    uplink.start()
    uplink.put([chunk(1), chunk(2), chunk(3)])
    assert uplink.wait_until_idle(TIMEOUT)
    uplink.stop()
    assert [event.stream_id for event in service.events] == [1, 3]
    assert failures.count == 1
    assert uplink.batches == 1


def test_room_is_waited_for_until_the_engine_takes_something(engine: tuple[Engine, str]) -> None:
    service, address = engine
    service.may.clear()
    uplink = Uplink(address, "agent", encode, Failures())
    uplink.put(chunk(number, 1 << 20) for number in range(3, 20 + (window.UNSENT_BYTES >> 20)))
    assert not uplink.wait_for_room(0)
    waiting = ThreadPoolExecutor(1).submit(uplink.wait_for_room, TIMEOUT)
    uplink.start()
    service.may.set()
    assert waiting.result(TIMEOUT)
    assert uplink.wait_until_idle(TIMEOUT)
    uplink.stop()


def test_nobody_waits_for_room_in_a_hurry() -> None:
    uplink = Uplink("unix:/nowhere", "agent", encode, Failures())
    uplink.put([chunk(1, window.UNSENT_BYTES)])
    waiting = ThreadPoolExecutor(1).submit(uplink.wait_for_room, 1e6)
    uplink.hurry(0)
    assert not waiting.result(TIMEOUT)


def test_a_connection_that_broke_takes_nothing_of_the_next_one(engine: tuple[Engine, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One that breaks while a batch gathers: what it took then would be lost between two connections, and nobody would see it."""
    service, address = engine
    gathering: list[threading.Thread] = []
    broken = threading.Event()

    def gather(_seconds: float) -> None:
        """The first waits until the second gathers, and the second until the first has ended."""
        gathering.append(threading.current_thread())
        if len(gathering) == 1:
            service.breaks.set()
            assert broken.wait(TIMEOUT)
        elif len(gathering) == 2:
            broken.set()
            gathering[0].join(TIMEOUT)

    monkeypatch.setattr("agent.uplink.time", SimpleNamespace(sleep=gather, monotonic=time.monotonic))
    service.to_break = 1
    uplink = Uplink(address, "agent", encode, Failures())
    uplink.put([chunk(1), chunk(3)])
    uplink.start()
    assert uplink.wait_until_idle(TIMEOUT)
    uplink.stop()
    assert [event.stream_id for event in service.events] == [1, 3]


def test_an_engine_that_breaks_before_it_acknowledges_gets_all_of_it_again(engine: tuple[Engine, str]) -> None:
    service, address = engine
    service.refusals = 1
    uplink = Uplink(address, "agent", encode, Failures())
    uplink.put([chunk(1), chunk(3)])
    uplink.start()
    assert uplink.wait_until_idle(TIMEOUT)
    uplink.stop()
    assert [event.stream_id for event in service.events] == [1, 3]
    assert uplink.batches == 2


def test_an_engine_that_refuses_is_asked_ever_more_seldom(engine: tuple[Engine, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each try sends up to eight batches: they must not go out twenty times a second for as long as nobody takes them."""
    pauses: list[int] = []

    class Pauses(tuple[float, ...]):
        def __getitem__(self, index: Any) -> Any:
            pauses.append(index)
            return 0.0

    monkeypatch.setattr("agent.uplink.RETRY_SECONDS", Pauses((0.0,) * 5))
    service, address = engine
    service.refusals = 6
    uplink = Uplink(address, "agent", encode, Failures())
    uplink.put([chunk(1)])
    uplink.start()
    assert uplink.wait_until_idle(TIMEOUT)
    uplink.stop()
    assert pauses[:6] == [1, 2, 3, 4, 4, 4]


def test_what_no_engine_takes_is_given_up() -> None:
    uplink = Uplink("unix:/nowhere", "agent", encode, Failures())
    opened = StreamOpened(1, 1, 7, Process(7, 1, 1), "curl", Source.TLS, True)
    uplink.put([opened, chunk(1, 5), Marker(7, ended="ledger")])
    assert uplink.give_up(7) == 5
    assert uplink.wait_until_idle(0)
