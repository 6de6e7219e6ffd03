"""What processes have left in the kernel's map of TLS streams: that has one room for all captures.

A process that ends or executes another program frees none of its SSL objects. Streams that were told of are settled at once (see
StreamOrphaned). Of those that never carried a byte nobody knows but the kernel: they are looked for, when they may be many.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from agent.events import Counter, TlsKey
from agent.kernel.probes import Probes
from agent.streams import Streams

ROOM = 131_072
"""Of the map, as in probes/maps.h."""

STREAMS_LEAST = 4096
"""So many streams begin between two searches, however full the map is: a search looks at all of it, in 3 us each."""

GONE_MAX = 16_384
"""Processes that are remembered until there is a search: a build ends thousands a minute that have nothing."""

AT_ONCE = 4096
"""Keys that one step looks at: 12 ms, in which the ring does not fill."""

KEYS_MAX = 2 * ROOM
"""Keys that a search looks at: it begins anew when the key that it has come to is removed."""


class Leftovers:
    """Looks for them, a step at a time."""

    def __init__(self, probes: Probes, streams: Streams) -> None:
        self._probes, self._streams = probes, streams
        self._began, self._patience = 0, ROOM // 2
        self._steps = self._search()

    def some(self) -> list[TlsKey]:
        """Take one step; returns the streams to be settled, if it found any."""
        return next(self._steps)

    def _search(self) -> Iterator[list[TlsKey]]:
        while True:
            if not self._is_due():
                yield []
                continue
            self._began = self._probes.counter(Counter.STREAMS)
            gone, self._streams.gone = self._streams.gone, {}
            keys, kept, found = islice(self._probes.tls_keys(), KEYS_MAX), 0, list[TlsKey]()
            while some := list(islice(keys, AT_ONCE)):
                left = [key for key in some if key.execution < gone.get((key.tgid, key.started), 0)]
                kept += len(some) - len(left)
                found += left
                yield []
            while found:  # now, for what is removed from a map ends the walk over it
                yield found[:AT_ONCE]
                del found[:AT_ONCE]
            self._patience = max(STREAMS_LEAST, (ROOM - kept) // 2)

    def _is_due(self) -> bool:
        """Whether half of what had been free may be full; more streams begin than these, so it is due too early if anything."""
        gone = len(self._streams.gone)
        return gone > 0 and (gone >= GONE_MAX or self._probes.counter(Counter.STREAMS) - self._began >= self._patience)
