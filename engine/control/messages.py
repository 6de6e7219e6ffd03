"""What ControlService says, as messages. Here, and nowhere else, text of the domain becomes text of protobuf.

Protobuf refuses text that is not UTF-8, and gRPC's clients refuse messages of more than 4 MiB: captured bytes must lead to neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

from understudy.v1 import capture_pb2, rrpair_pb2
from understudy.v1 import control_pb2 as pb

from engine.ingest.recording import Recording
from engine.report import Miss, MockReport
from engine.rrpair import Fields, Message, RRPair
from engine.snapshot import Snapshot
from engine.store.encoding import well_formed

PART_BYTES = 1024 * 1024
"""Of a body, or of a run, in one message: with a body each way and their heads it stays below 4 MiB."""

T = TypeVar("T")


def valid(value: T) -> T:
    """The same value with texts that protobuf takes, however deep they are."""
    return cast(T, _valid(value))


def _valid(value: Any) -> Any:
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, tuple):
        return tuple([_valid(each) for each in value])
    if isinstance(value, dict):
        return {_valid(key): _valid(each) for key, each in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{each.name: _valid(getattr(value, each.name)) for each in fields(value)})
    return value


# -- snapshots ---------------------------------------------------------------------------------------------------------


def recording_message(name: str, recording: Recording) -> pb.Snapshot:
    """A snapshot that is being recorded."""
    writer = recording.writer
    return pb.Snapshot(
        name=name,
        state=pb.SNAPSHOT_STATE_RECORDING,
        service=recording.service,
        capture_id=recording.capture_id,
        pairs=writer.pairs,
        complete_pairs=writer.complete_pairs,
        received_bytes=recording.received_bytes,
        capture_ended=recording.capture_ended,
        ledger=_ledger_message(recording.ledger),
        error=well_formed(recording.error),
        lost_pairs=writer.lost_pairs,
        backends=recording.backends,
        missing_bytes=recording.missing_bytes,
    )


def snapshot_message(path: Path) -> pb.Snapshot:
    """A finished snapshot. Raises SnapshotError."""
    with Snapshot(path) as snapshot:
        info = valid(snapshot.info)
        pairs, complete = snapshot.counts()
    return pb.Snapshot(
        name=well_formed(path.name),
        state=pb.SNAPSHOT_STATE_READY,
        service=info.service,
        capture_id=info.capture_id,
        created_unix_nano=info.created,
        pairs=pairs,
        complete_pairs=complete,
        capture_ended=bool(info.ledger),
        ledger=_ledger_message(info.ledger),
        lost_pairs=info.lost_pairs,
    )


def _ledger_message(ledger: Mapping[str, int]) -> capture_pb2.Ledger | None:
    known = capture_pb2.Ledger.DESCRIPTOR.fields_by_name
    return capture_pb2.Ledger(**{name: count for name, count in ledger.items() if name in known}) if ledger else None


# -- pairs -------------------------------------------------------------------------------------------------------------


def pair_messages(pair: RRPair) -> Iterator[pb.ListPairsResponse]:
    """A pair, and the parts of its bodies that have no room in one message."""
    yield pb.ListPairsResponse(pair=_pair_message(valid(pair)))
    for of_response, message in ((False, pair.request), (True, pair.response)):
        body = message.body if message else b""
        for at in range(PART_BYTES, len(body), PART_BYTES):
            part = pb.BodyPart(of_response=of_response, data=body[at : at + PART_BYTES])
            yield pb.ListPairsResponse(body_part=part)


def _pair_message(pair: RRPair) -> rrpair_pb2.RRPair:
    return rrpair_pb2.RRPair(
        id=pair.id,
        time_unix_nano=max(pair.time, 0),
        duration_nano=max(pair.duration, 0),
        direction=pair.direction,
        service=pair.service,
        protocol=pair.protocol,
        technology=pair.technology,
        tls=pair.connection.tls,
        host=pair.host,
        port=pair.port,
        method=pair.method,
        path=pair.path,
        query=[rrpair_pb2.Field(name=k.encode("latin-1"), value=v.encode("latin-1")) for k, v in pair.query],
        operation=pair.operation,
        status=pair.status,
        request=_message(pair.request),
        response=_message(pair.response) if pair.response else None,
        complete=pair.complete,
        missing=pair.missing,
        signature=pair.signature,
    )


def _message(message: Message) -> rrpair_pb2.Message:
    return rrpair_pb2.Message(
        headers=_fields(message.headers),
        trailers=_fields(message.trailers),
        body=message.body[:PART_BYTES],
        body_size=len(message.body),
    )


def _fields(found: Fields) -> list[rrpair_pb2.Field]:
    return [rrpair_pb2.Field(name=name, value=value) for name, value in found]


# -- runs --------------------------------------------------------------------------------------------------------------


def run_parts(report: MockReport) -> Iterator[pb.ResponderRun]:
    """A report in messages of bounded size, which are merged to the whole."""
    report = valid(report)
    part, size = _run_message(report), 0
    counts = [
        pb.BackendCount(host=b.host, port=b.port, recorded=b.recorded, requests=b.requests, matches=b.matches, passed=b.passed)
        for b in report.backends
    ]
    for count in counts:
        part.backends.append(count)
        if (size := size + count.ByteSize()) > PART_BYTES:
            yield part
            part, size = pb.ResponderRun(), 0
    for miss in report.misses:
        part.misses.append(_miss_message(miss))
        if (size := size + part.misses[-1].ByteSize()) > PART_BYTES:
            yield part
            part, size = pb.ResponderRun(), 0
    yield part


def _run_message(report: MockReport) -> pb.ResponderRun:
    return pb.ResponderRun(
        service=report.service,
        started_unix_nano=report.started,
        ended_unix_nano=report.ended,
        more_misses=report.more_misses,
        troubles=dict(report.troubles),
        added_pairs=report.added_pairs,
        failed_handshakes=[
            pb.FailedHandshake(host=well_formed(f.host), port=f.port, command=f.command, reason=f.reason, times=f.times)
            for f in report.failed_handshakes
        ],
    )


def _miss_message(miss: Miss) -> pb.Miss:
    return pb.Miss(
        time_unix_nano=miss.time,
        times=miss.times,
        passed=miss.passed,
        host=miss.host,
        port=miss.port,
        operation=miss.operation,
        method=miss.method,
        path=miss.path,
        reason=miss.reason,
        nearest_id=miss.nearest,
        nearest_operation=miss.nearest_operation,
        differences=[pb.Difference(field=d.field, recorded=d.recorded, live=d.live) for d in miss.differences],
    )
