"""What the probes tell, as the agent reads it: the mirror of probes/events.h.

A test compares every structure with the C side, field by field. Decoding is pure: bytes in, structures out.
"""

from __future__ import annotations

import enum
from ctypes import Structure, c_char, c_int32, c_uint8, c_uint16, c_uint32, c_uint64, sizeof


class Kind(enum.IntEnum):
    """enum event_kind."""

    OPENED = 1
    CHUNK = 2
    GAP = 3
    BOUND = 4
    HALF_CLOSED = 5
    CLOSED = 6
    EXECUTED = 7
    EXITED = 8
    MAPPED = 9


class Source(enum.IntEnum):
    """enum source."""

    TLS = 1
    SOCKET = 2
    OPAQUE = 3


class TlsCall(enum.IntEnum):
    """enum tls_call: the cookies of TLS functions."""

    READ = 1
    WRITE = 2
    READ_EX = 3
    WRITE_EX = 4
    READ_EARLY = 5
    SENDFILE = 6
    OTHER = 7
    WRITE_EARLY = 8
    ERROR = 9
    EARLY_STATUS = 10
    WRITE_EX2 = 11


class Counter(enum.IntEnum):
    """enum counter."""

    SEEN = 0
    DELIVERED = 1
    LOST_RING = 2
    LOST_FAULT = 3
    LOST_UNREADABLE = 4
    UNATTRIBUTED = 5
    OPAQUE = 6
    CALLS_UNRETURNED = 7
    CALLS_UNTRACKED = 8
    EVENTS_LOST = 9
    PROCESSES_UNTRACKED = 10
    STREAMS = 11


class Process(Structure):
    """struct process."""

    started: int
    execution: int
    tgid: int
    capture: int
    _fields_ = [("started", c_uint64), ("execution", c_uint64), ("tgid", c_uint32), ("capture", c_uint32)]


class SocketFacts(Structure):
    """struct socket_facts."""

    inode: int
    local: bytes
    remote: bytes
    family: int
    local_port: int
    remote_port: int
    role: int
    method: int
    _fields_ = [
        ("inode", c_uint64),
        ("local", c_uint8 * 16),
        ("remote", c_uint8 * 16),
        ("family", c_uint16),
        ("local_port", c_uint16),
        ("remote_port", c_uint16),
        ("role", c_uint8),
        ("method", c_uint8),
    ]


class Head(Structure):
    """struct event_head."""

    kind: int
    tid: int
    time: int
    stream: int
    process: Process
    _fields_ = [("kind", c_uint32), ("tid", c_uint32), ("time", c_uint64), ("stream", c_uint64), ("process", Process)]


class Opened(Structure):
    """struct event_opened."""

    head: Head
    cgroup: int
    key: int
    socket: SocketFacts
    command: bytes
    source: int
    start_known: int
    _fields_ = [
        ("head", Head),
        ("cgroup", c_uint64),
        ("key", c_uint64),
        ("socket", SocketFacts),
        ("command", c_char * 16),
        ("source", c_uint8),
        ("start_known", c_uint8),
        ("padding", c_uint8 * 6),
    ]


class Chunk(Structure):
    """struct event_chunk, without its bytes."""

    head: Head
    offset: int
    lost: int
    length: int
    direction: int
    source: int
    _fields_ = [
        ("head", Head),
        ("offset", c_uint64),
        ("lost", c_uint64),
        ("length", c_uint32),
        ("direction", c_uint8),
        ("source", c_uint8),
        ("padding", c_uint8 * 2),
    ]


class Gap(Structure):
    """struct event_gap."""

    head: Head
    offset: int
    lost: int
    length: int
    direction: int
    _fields_ = [
        ("head", Head),
        ("offset", c_uint64),
        ("lost", c_uint64),
        ("length", c_uint64),
        ("direction", c_uint8),
        ("padding", c_uint8 * 7),
    ]


class Bound(Structure):
    """struct event_bound."""

    head: Head
    socket: SocketFacts
    _fields_ = [("head", Head), ("socket", SocketFacts)]


class HalfClosed(Structure):
    """struct event_half_closed."""

    head: Head
    offset: int
    direction: int
    _fields_ = [("head", Head), ("offset", c_uint64), ("direction", c_uint8), ("padding", c_uint8 * 7)]


class Tally(Structure):
    """struct tally."""

    seen: int
    lost: int
    opaque: int
    _fields_ = [("seen", c_uint64), ("lost", c_uint64), ("opaque", c_uint64)]


class Closed(Structure):
    """struct event_closed."""

    head: Head
    tally: tuple[Tally, Tally]
    bypassed: int
    cut: int
    _fields_ = [("head", Head), ("tally", Tally * 2), ("bypassed", c_uint8), ("cut", c_uint8), ("padding", c_uint8 * 6)]


class ProcessNews(Structure):
    """struct event_process."""

    head: Head
    command: bytes
    _fields_ = [("head", Head), ("command", c_char * 16)]


class FileKey(Structure):
    """struct file_key."""

    inode: int
    size: int
    device: int
    _fields_ = [("inode", c_uint64), ("size", c_uint64), ("device", c_uint32), ("padding", c_uint32)]


class Mapped(Structure):
    """struct event_mapped."""

    head: Head
    file: FileKey
    fd: int
    _fields_ = [("head", Head), ("file", FileKey), ("fd", c_int32), ("padding", c_uint32)]


class StreamEntry(Structure):
    """struct stream: a stream's entry in a map."""

    id: int
    tally: tuple[Tally, Tally]
    process: Process
    socket: SocketFacts
    sock: int
    references: int
    source: int
    start_known: int
    announced: int
    encrypted: int
    read_ended: int
    tagged: int
    bypassed: int
    epoch: int
    _fields_ = [
        ("id", c_uint64),
        ("tally", Tally * 2),
        ("process", Process),
        ("socket", SocketFacts),
        ("sock", c_uint64),
        ("references", c_uint32),
        ("source", c_uint8),
        ("start_known", c_uint8),
        ("announced", c_uint8),
        ("encrypted", c_uint8),
        ("read_ended", c_uint8),
        ("plain", c_uint8),
        ("failed", c_uint8),
        ("reconciled", c_uint8 * 2),
        ("nested", c_uint8),
        ("tagged", c_uint8),
        ("bypassed", c_uint8),
        ("turn", c_uint8),
        ("early", c_uint8),
        ("padding", c_uint8 * 2),
        ("sequence", c_uint32 * 2),
        ("active", c_uint32 * 2),
        ("entered", c_uint32 * 2),
        ("epoch", c_uint32),
    ]


class TlsKey(Structure):
    """struct tls_key."""

    ssl: int
    started: int
    execution: int
    tgid: int
    _fields_ = [
        ("ssl", c_uint64),
        ("started", c_uint64),
        ("execution", c_uint64),
        ("tgid", c_uint32),
        ("padding", c_uint32),
    ]


class Settings(Structure):
    """struct settings."""

    _fields_ = [
        ("ring_limit", c_uint64),
        ("wake_at", c_uint64),
        ("cgroup_levels", c_uint32),
        ("epoch", c_uint32),
        ("attached", c_uint32),
        ("detaching", c_uint32),
    ]


Event = Opened | Chunk | Gap | Bound | HalfClosed | Closed | ProcessNews | Mapped

KINDS: dict[int, type[Event]] = {
    Kind.OPENED: Opened,
    Kind.CHUNK: Chunk,
    Kind.GAP: Gap,
    Kind.BOUND: Bound,
    Kind.HALF_CLOSED: HalfClosed,
    Kind.CLOSED: Closed,
    Kind.EXECUTED: ProcessNews,
    Kind.EXITED: ProcessNews,
    Kind.MAPPED: Mapped,
}

CHUNK_HEAD = sizeof(Chunk)
"""Size of struct event_chunk: where its bytes begin."""


def decode(record: bytes) -> Event:
    """Decode one record of a ring. ValueError where it is none of ours: the object and this file differ."""
    kind = KINDS.get(int.from_bytes(record[:4], "little"))
    if kind is None:
        raise ValueError(f"unknown event kind {record[:4].hex()}: the probes' object is of another version")
    event = kind.from_buffer_copy(record)
    if isinstance(event, Chunk):
        sound = 1 <= event.source <= Source.OPAQUE and event.direction <= 1 and event.length <= len(record) - CHUNK_HEAD
    elif isinstance(event, Opened):
        sound = event.source in (Source.TLS, Source.SOCKET)
    else:
        sound = not isinstance(event, Gap | HalfClosed) or event.direction <= 1
    if not sound:
        raise ValueError(f"{kind.__name__} with impossible fields: the probes' object is of another version")
    return event
