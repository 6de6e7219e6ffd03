"""The report of a run, out of the messages of ControlService."""

from __future__ import annotations

from collections.abc import Iterable

from understudy.v1 import control_pb2 as pb

from engine.matching.explain import Difference
from engine.report import BackendCount, FailedHandshake, Miss, MockReport


def merged(parts: Iterable[pb.GetResponderResponse] | Iterable[pb.StopResponderResponse]) -> pb.ResponderRun:
    """A run, out of the parts in which it comes."""
    run = pb.ResponderRun()
    for part in parts:
        run.MergeFrom(part.run)
    return run


def report_of(run: pb.ResponderRun) -> MockReport:
    """Undo what the engine does to a report."""
    return MockReport(
        run.service,
        run.started_unix_nano,
        run.ended_unix_nano,
        tuple(BackendCount(b.host, b.port, b.recorded, b.requests, b.matches, b.passed) for b in run.backends),
        tuple(_miss_of(miss) for miss in run.misses),
        run.more_misses,
        tuple(run.troubles.items()),
        run.added_pairs,
        tuple(FailedHandshake(f.host, f.port, f.command, f.reason, f.times) for f in run.failed_handshakes),
    )


def _miss_of(miss: pb.Miss) -> Miss:
    return Miss(
        miss.time_unix_nano,
        miss.times,
        miss.passed,
        miss.host,
        miss.port,
        miss.operation,
        miss.method,
        miss.path,
        miss.reason,
        miss.nearest_id,
        miss.nearest_operation,
        tuple(_difference_of(difference) for difference in miss.differences),
    )


def _difference_of(difference: pb.Difference) -> Difference:
    recorded = difference.recorded if difference.HasField("recorded") else None
    live = difference.live if difference.HasField("live") else None
    return Difference(difference.field, recorded, live)
