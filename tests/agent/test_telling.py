"""What the agent tells its clients: whatever names and reasons are made of, and whatever becomes of a single piece of news."""

from __future__ import annotations

import enum
import ipaddress
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from understudy.v1 import agent_pb2 as pb
from understudy.v1 import capture_pb2

from agent import describe, service, streams, wire
from agent.departed import Departed
from agent.failures import Failures
from agent.news import Outbox
from agent.takeover.names import Names
from agent.takeover.redirect import Told, TrustEnded, Unread
from agent.takeover.trust import Trust
from agent.unseen import Unseen
from agent.window import Marker
from agent.workloads import Workload

EVIL = "\x00\udcff\ud800" + 100_000 * "x"
"""What no name should be made of: a NUL, bytes that are no text, halves of characters; and too much of it."""


def filled(kind: Any) -> Any:
    """A value of a type in which every text is evil."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is str:
        return EVIL
    if origin in (Union, types.UnionType):
        return filled(next(each for each in arguments if each is not type(None)))
    if origin is tuple:
        return tuple(filled(each) for each in arguments if each is not ...)
    if origin is Mapping:
        return {filled(arguments[0]): filled(arguments[1])}
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(*(filled(hints[each.name]) for each in fields(kind)))  # type: ignore[operator]
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return next(iter(kind))
    return kind(kind is not bool) if kind in (int, bool, bytes, ipaddress.IPv4Address) else None


def texts(message: Message) -> Iterator[tuple[tuple[str, str], str]]:
    """Every text of a message and those in it, with the message and the field that it is of."""
    for field, value in message.ListFields():
        if field.message_type and field.message_type.GetOptions().map_entry:
            values: Sequence[Any] = [text for pair in value.items() for text in pair]
        else:
            values = value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else [value]
        for each in values:
            if isinstance(each, Message):
                yield from texts(each)
            elif isinstance(each, str):
                yield (message.DESCRIPTOR.full_name, field.name), each


def text_fields(kind: Descriptor) -> set[tuple[str, str]]:
    """Where a message of a kind may have texts."""
    found: set[tuple[str, str]] = set()
    for field in kind.fields:
        if field.message_type and field.message_type.GetOptions().map_entry:
            found.add((kind.full_name, field.name))
        elif field.message_type:
            found |= text_fields(field.message_type)
        elif field.type == FieldDescriptor.TYPE_STRING:
            found.add((kind.full_name, field.name))
    return found


def redirect_ready() -> pb.RedirectResponse:
    names = Names({"a.test": {}})
    names.own(EVIL)
    trust = Trust((EVIL,), ((EVIL, EVIL),), {"SSL_CERT_FILE": "/bundle"})
    return service.redirect_ready(Path(EVIL), trust, names)


def everything() -> Iterator[Message]:
    """A message of every kind that the agent sends, by the functions that make them."""
    check, process = filled(describe.Check), filled(describe.Process)
    yield service.description(EVIL, EVIL, [check], [process])
    yield service.capture_ready(EVIL, 1, EVIL)
    yield service.capture_news(filled(Unseen))
    yield service.capture_news(filled(Departed))
    yield redirect_ready()
    yield from map(service.redirect_news, map(filled, (Told, Departed, Unread, TrustEnded)))
    encoder = wire.Encoder(0, EVIL, lambda *_: filled(Workload), lambda _: "named by a client")
    items = [filled(kind) for kind in get_args(streams.News)]
    for item in (*items, Marker(1), Marker(1, ended=capture_pb2.Ledger())):
        yield encoder.event(item)


def test_every_text_can_be_sent_whatever_it_is() -> None:
    sent = [each for message in everything() for each in texts(type(message).FromString(message.SerializeToString()))]
    assert max(len(text) for _, text in sent) <= wire.TEXT_MAX
    services = [*pb.DESCRIPTOR.services_by_name["AgentService"].methods]
    answers = [method.output_type for method in services] + [capture_pb2.CaptureEvent.DESCRIPTOR]
    assert set.union(*map(text_fields, answers)) == {place for place, _ in sent}, "a field is missing here"


def test_a_variable_that_is_no_text_is_not_set_but_told() -> None:
    """What it names is a file: another name would be that of another file."""
    trust = Trust(variables={"SSL_CERT_FILE": "/\udcff/cacert.pem", "CURL_CA_BUNDLE": "/bundle"})
    ready = service.redirect_ready(Path("/c"), trust, Names({})).ready
    assert dict(ready.environment) == {"CURL_CA_BUNDLE": "/bundle"}
    assert [each.path for each in ready.not_covered] == ["/\ufffd/cacert.pem"]


def test_what_cannot_be_told_is_counted_and_the_rest_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    outbox, failures = Outbox[int](), Failures()
    for number in (1, 0, 2):
        outbox.put(number)
    outbox.end()
    told = service.told(outbox, lambda number: pb.CaptureResponse(ready=pb.CaptureReady(probed_files=2 // number)), failures)
    assert [each.ready.probed_files for each in told] == [2, 1]
    assert (failures.count, outbox.untold) == (1, 1)
    assert "ZeroDivisionError" in capsys.readouterr().err
