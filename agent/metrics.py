"""Every metric of the agent. Bytes and counts are read when they are asked for: nothing is added to the path of the data."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from agent.capture import Captures
from agent.events import Counter
from agent.uplink import Uplink

_COUNTERS = {
    Counter.SEEN: ("understudy_agent_seen_bytes", "Bytes of plaintext that passed the probes."),
    Counter.DELIVERED: ("understudy_agent_captured_bytes", "Bytes of plaintext put into the ring."),
    Counter.OPAQUE: ("understudy_agent_opaque_bytes", "Bytes of ciphertext, counted and left out."),
    Counter.STREAMS: ("understudy_agent_streams", "Streams seen."),
    Counter.EVENTS_LOST: ("understudy_agent_lost_events", "Small events that found no room in the ring."),
    Counter.PROCESSES_UNTRACKED: ("understudy_agent_untracked_processes", "Processes not followed for want of room in a map."),
}
_LOST = {
    Counter.LOST_RING: "ring_full",
    Counter.LOST_FAULT: "copy_fault",
    Counter.LOST_UNREADABLE: "unreadable",
    Counter.UNATTRIBUTED: "unattributed",
}
_MISSED = {Counter.CALLS_UNRETURNED: "unreturned", Counter.CALLS_UNTRACKED: "untracked"}


class AgentCollector(Collector):
    """Reads the agent. The kernel's counters start anew when the last capture has ended and another begins."""

    def __init__(self, captures: Captures, uplink: Uplink | None) -> None:
        self._captures = captures
        self._uplink = uplink

    def collect(self) -> Iterator[Metric]:
        """All metrics, now."""
        yield CounterMetricFamily(
            "understudy_agent_failures", "Events and files that could not be handled.", value=self._captures.failures.count
        )
        yield GaugeMetricFamily("understudy_agent_captures", "Captures that are on.", value=self._captures.active())
        session = self._captures.session
        if session:
            for which, (name, text) in _COUNTERS.items():
                yield CounterMetricFamily(name, text, value=session.probes.counter(which))
            lost = CounterMetricFamily("understudy_agent_lost_bytes", "Bytes lost after the probes saw them.", labels=["reason"])
            for which, reason in _LOST.items():
                lost.add_metric([reason], session.probes.counter(which))
            yield lost
            missed = CounterMetricFamily("understudy_agent_missed_calls", "TLS calls not followed.", labels=["reason"])
            for which, reason in _MISSED.items():
                missed.add_metric([reason], session.probes.counter(which))
            yield missed
            yield CounterMetricFamily(
                "understudy_agent_missed_runs", "Program runs that the kernel skipped.", value=session.probes.missed().runs
            )
            yield GaugeMetricFamily("understudy_agent_probed_files", "Files that are probed.", value=session.attacher.probed)
            yield GaugeMetricFamily("understudy_agent_open_streams", "Streams that are open.", value=len(session.streams))
        if self._uplink:
            yield CounterMetricFamily("understudy_agent_batches", "Batches sent to the engine.", value=self._uplink.batches)
            yield CounterMetricFamily(
                "understudy_agent_reconnections", "Connections to the engine that broke.", value=self._uplink.reconnections
            )
            yield GaugeMetricFamily("understudy_agent_kept_bytes", "Bytes kept for a reconnection.", value=self._uplink.kept_bytes)
            yield CounterMetricFamily(
                "understudy_agent_let_go_bytes", "Bytes that can not be sent again any more.", value=self._uplink.let_go_bytes
            )
