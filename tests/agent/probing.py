"""Probes that are in no kernel, and engines that take what they are sent: for tests of the agent without root."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from agent.events import Counter, FileKey, StreamEntry, TlsKey
from agent.kernel.planner import Site
from agent.kernel.probes import Missed


@dataclass(slots=True)
class FakeAttached:
    """What was attached, and whether it still is."""

    path: str
    sites: tuple[Site, ...]
    closed: bool = False

    def close(self) -> None:
        """See Attached."""
        self.closed = True


class FakeProbes:
    """Notes what it is asked, and yields the records that it is given."""

    ring_bytes = 1 << 20
    epoch = 1

    def __init__(self) -> None:
        self.attached: list[FakeAttached] = []
        self.attach_errors: list[OSError] = []
        self.files: list[FileKey] = []
        self.files_full = False
        self.processes: dict[int, int] = {}
        self.cgroups: dict[int, int] = {}
        self.process_room = 1 << 20
        self.events: list[bytes] = []
        self.waits = 0
        self.unattributed: dict[int, int] = {}
        self.tls_streams: list[TlsKey] = []
        self.made = 0
        self.missed_so_far = Missed(0, 0, 0, 0)
        self.closed = False

    def attach(self, path: str, sites: Iterable[Site]) -> FakeAttached:
        """See Probes."""
        if self.attach_errors:
            raise self.attach_errors.pop()
        self.attached.append(FakeAttached(path, tuple(sites)))
        return self.attached[-1]

    def target_cgroup(self, cgroup_id: int, depth: int | None, capture: int) -> None:
        """See Probes."""
        self.cgroups[cgroup_id] = capture

    def capture_of_cgroup(self, cgroup_id: int) -> int:
        """See Probes."""
        return self.cgroups.get(cgroup_id, 0)

    def capture_of_process(self, tgid: int) -> int:
        """See Probes."""
        return self.processes.get(tgid, 0)

    def target_process(self, tgid: int, capture: int) -> None:
        """See Probes."""
        if len(self.processes) >= self.process_room:
            raise OSError("the map is full")
        self.processes[tgid] = capture

    def forget_process(self, tgid: int) -> None:
        """See Probes."""
        self.processes.pop(tgid, None)

    def forget_capture(self, capture: int) -> None:
        """See Probes."""
        for targets in (self.cgroups, self.processes):
            for key in [key for key, number in targets.items() if number == capture]:
                del targets[key]

    def examined(self, key: FileKey) -> None:
        """See Probes."""
        if self.files_full:
            raise OSError("the map is full")
        self.files.append(key)

    def forget_examined(self, key: FileKey) -> None:
        """See Probes."""
        self.files = [each for each in self.files if bytes(each) != bytes(key)]

    def read_events(self, at_most: int) -> list[bytes]:
        """See Probes."""
        records, self.events = self.events, []
        return records

    def read_mappings(self) -> list[bytes]:
        """See Probes."""
        return []

    def wait_for_events(self, seconds: float) -> None:
        """See Probes: there is always something."""
        self.waits += 1

    def wait_for_mappings(self, seconds: float) -> None:
        """See Probes."""

    def counter(self, which: Counter) -> int:
        """See Probes."""
        return self.made if which is Counter.STREAMS else 0

    def missed(self) -> Missed:
        """See Probes."""
        return self.missed_so_far

    def take_unattributed(self, capture: int) -> int:
        """See Probes."""
        return self.unattributed.pop(capture, 0)

    def tls_keys(self) -> Iterator[TlsKey]:
        """See Probes."""
        return iter(list(self.tls_streams))

    def take_tls_stream(self, key: TlsKey) -> StreamEntry | None:
        """See Probes."""
        return None

    def take_socket(self, sock: int) -> StreamEntry | None:
        """See Probes."""
        return None

    def streams(self, capture: int) -> Iterator[tuple[TlsKey | int, StreamEntry]]:
        """See Probes."""
        return iter(())

    def close(self) -> None:
        """See Probes."""
        self.closed = True
