"""Every metric of the engine, read when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from engine.ingest.service import Recordings


class EngineCollector(Collector):
    """Reads the recordings."""

    def __init__(self, recordings: Recordings) -> None:
        self._recordings = recordings

    def collect(self) -> Iterator[Metric]:
        """All metrics, now."""
        recordings = self._recordings.all()
        yield CounterMetricFamily("understudy_engine_batches", "Batches received from agents.", value=self._recordings.batches)
        yield CounterMetricFamily("understudy_engine_events", "Events received from agents.", value=self._recordings.events)
        yield CounterMetricFamily(
            "understudy_engine_malformed_events",
            "Events from agents that could not be taken; each ends its stream.",
            value=self._recordings.malformed_events,
        )
        yield GaugeMetricFamily("understudy_engine_recordings", "Snapshots that are being recorded.", value=len(recordings))
        pairs = GaugeMetricFamily("understudy_engine_recorded_pairs", "Pairs recorded so far.", labels=["snapshot", "complete"])
        received = GaugeMetricFamily("understudy_engine_recorded_bytes", "Bytes taken in so far.", labels=["snapshot"])
        lost = GaugeMetricFamily("understudy_engine_lost_pairs", "Pairs that could not be written.", labels=["snapshot"])
        for recording in recordings:
            name = recording.writer.path.name
            pairs.add_metric([name, "true"], recording.writer.complete_pairs)
            pairs.add_metric([name, "false"], recording.writer.pairs - recording.writer.complete_pairs)
            received.add_metric([name], recording.received_bytes)
            lost.add_metric([name], recording.writer.lost_pairs)
        yield pairs
        yield received
        yield lost
