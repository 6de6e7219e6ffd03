"""libbpf and the bpf system call, as far as the agent uses them, by ctypes.

Works with libbpf 1.1 (Debian 12) and later. What that release lacks, attaching many uprobes in one link (Linux 6.6), is done
by the system call itself.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from ctypes import POINTER, Structure, byref, c_char_p, c_int, c_long, c_size_t, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import Self

_SYSCALL_BPF = {"x86_64": 321, "aarch64": 280}
_BPF_LINK_CREATE = 28
BPF_TRACE_UPROBE_MULTI = 48
BPF_TRACE_UPROBE_SESSION = 57
_BPF_F_UPROBE_MULTI_RETURN = 1
_BPF_ANY = 0
_BPF_F_ALLOW_MULTI = 2

_RING_CALLBACK = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t)
_PRINT_CALLBACK = ctypes.CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)


class _UprobeOpts(Structure):
    _fields_ = [
        ("sz", c_size_t),
        ("ref_ctr_offset", c_size_t),
        ("bpf_cookie", c_uint64),
        ("retprobe", ctypes.c_bool),
        ("func_name", c_char_p),
    ]


class _MultiLink(Structure):
    """`union bpf_attr` for BPF_LINK_CREATE with uprobe_multi (include/uapi/linux/bpf.h, Linux 6.6)."""

    _fields_ = [
        ("prog_fd", c_uint32),
        ("target_fd", c_uint32),
        ("attach_type", c_uint32),
        ("flags", c_uint32),
        ("path", c_uint64),
        ("offsets", c_uint64),
        ("ref_ctr_offsets", c_uint64),
        ("cookies", c_uint64),
        ("count", c_uint32),
        ("multi_flags", c_uint32),
        ("pid", c_uint32),
        ("padding", c_uint32),
    ]


def _library() -> ctypes.CDLL:
    library = ctypes.CDLL("libbpf.so.1", use_errno=True)
    prototypes: dict[str, tuple[object, list[object]]] = {
        "libbpf_set_print": (c_void_p, [c_void_p]),
        "bpf_object__open_file": (c_void_p, [c_char_p, c_void_p]),
        "bpf_object__load": (c_int, [c_void_p]),
        "bpf_object__close": (None, [c_void_p]),
        "bpf_object__find_map_by_name": (c_void_p, [c_void_p, c_char_p]),
        "bpf_object__next_program": (c_void_p, [c_void_p, c_void_p]),
        "bpf_program__name": (c_char_p, [c_void_p]),
        "bpf_program__section_name": (c_char_p, [c_void_p]),
        "bpf_program__fd": (c_int, [c_void_p]),
        "bpf_program__set_autoload": (c_int, [c_void_p, ctypes.c_bool]),
        "bpf_program__set_expected_attach_type": (c_int, [c_void_p, c_int]),
        "bpf_program__attach_raw_tracepoint": (c_void_p, [c_void_p, c_char_p]),
        "bpf_program__attach_uprobe_opts": (c_void_p, [c_void_p, c_int, c_char_p, c_size_t, c_void_p]),
        "bpf_program__attach_cgroup": (c_void_p, [c_void_p, c_int]),
        "bpf_program__expected_attach_type": (c_int, [c_void_p]),
        "bpf_prog_attach": (c_int, [c_int, c_int, c_int, ctypes.c_uint]),
        "bpf_prog_detach2": (c_int, [c_int, c_int, c_int]),
        "bpf_link__destroy": (c_int, [c_void_p]),
        "bpf_link__fd": (c_int, [c_void_p]),
        "bpf_map__fd": (c_int, [c_void_p]),
        "bpf_map__set_max_entries": (c_int, [c_void_p, c_uint32]),
        "bpf_map_lookup_elem": (c_int, [c_int, c_void_p, c_void_p]),
        "bpf_map_update_elem": (c_int, [c_int, c_void_p, c_void_p, c_uint64]),
        "bpf_map_delete_elem": (c_int, [c_int, c_void_p]),
        "bpf_map_get_next_key": (c_int, [c_int, c_void_p, c_void_p]),
        "bpf_obj_get_info_by_fd": (c_int, [c_int, c_void_p, POINTER(c_uint32)]),
        "ring_buffer__new": (c_void_p, [c_int, _RING_CALLBACK, c_void_p, c_void_p]),
        "ring_buffer__epoll_fd": (c_int, [c_void_p]),
        "ring_buffer__consume": (c_int, [c_void_p]),
        "ring_buffer__free": (None, [c_void_p]),
    }
    for name, (result, arguments) in prototypes.items():
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
    library.syscall.restype = c_long
    return library


def _raise(what: str, code: int | None = None) -> None:
    code = code or ctypes.get_errno()
    raise OSError(code, f"{what}: {os.strerror(code)}")


class Log:
    """Keeps what libbpf says, so that a failure can tell the verifier's reason; prints nothing.

    One for the process, for libbpf has one place for it: a log that went with its object would be called after that.
    """

    LINES = 200  # the verifier's last words are the ones that count

    @classmethod
    @functools.cache
    def of_process(cls) -> Self:
        """The one, made when it is first needed."""
        return cls(_library())

    def __init__(self, library: ctypes.CDLL) -> None:
        self.lines: list[str] = []
        self._vsnprintf = ctypes.CDLL(None).vsnprintf
        self._vsnprintf.argtypes = [c_char_p, c_size_t, c_char_p, c_void_p]
        self._callback = _PRINT_CALLBACK(self._take)
        library.libbpf_set_print(ctypes.cast(self._callback, c_void_p))

    def _take(self, level: int, form: bytes, arguments: int) -> int:
        if level > 1:  # debug
            return 0
        buffer = ctypes.create_string_buffer(4096)
        self._vsnprintf(buffer, len(buffer), form, arguments)
        self.lines = [*self.lines[-self.LINES :], buffer.value.decode(errors="replace").rstrip()]
        return 0


class Map:
    """A map of the loaded object; keys and values are ctypes values."""

    def __init__(self, library: ctypes.CDLL, handle: int) -> None:
        self._library = library
        self.fd = library.bpf_map__fd(handle)

    def get(self, key: ctypes._CData, value: ctypes._CData) -> bool:
        """Fill `value`; False where there is no such key."""
        return bool(self._library.bpf_map_lookup_elem(self.fd, byref(key), byref(value)) == 0)

    def put(self, key: ctypes._CData, value: ctypes._CData) -> None:
        """Set; OSError where that cannot be done, as in a map that is full."""
        if self._library.bpf_map_update_elem(self.fd, byref(key), byref(value), _BPF_ANY) != 0:
            code = ctypes.get_errno()
            _raise("the map is full" if code == errno.E2BIG else "writing to a map", code)

    def delete(self, key: ctypes._CData) -> None:
        """Remove, if there."""
        self._library.bpf_map_delete_elem(self.fd, byref(key))

    def keys(self, kind: type[ctypes._CData]) -> Iterator[ctypes._CData]:
        """Walk; a key that is deleted meanwhile may end the walk early, so collect before deleting."""
        key, following = None, kind()
        while self._library.bpf_map_get_next_key(self.fd, key and byref(key), byref(following)) == 0:
            yield following
            key, following = following, kind()


class Link:
    """An attached program; closing detaches, unless another process holds its descriptor."""

    def __init__(self, close: Callable[[], object], fd: int) -> None:
        self._close: Callable[[], object] | None = close
        self.fd = fd

    def close(self) -> None:
        """Detach, once."""
        close, self._close = self._close, None
        if close:
            close()


class Program:
    """A program of the loaded object."""

    def __init__(self, library: ctypes.CDLL, handle: int) -> None:
        self._library = library
        self._handle = handle
        self.name: str = library.bpf_program__name(handle).decode()
        self.section: str = library.bpf_program__section_name(handle).decode()

    @property
    def fd(self) -> int:
        """Of the loaded program."""
        return int(self._library.bpf_program__fd(self._handle))

    def leave_out(self) -> None:
        """Do not load it; before load()."""
        self._library.bpf_program__set_autoload(self._handle, False)

    def expect_uprobe_multi(self, *, session: bool = False) -> None:
        """Load it for links of many sites, for a session (Linux 6.13) to run at entries and returns; before load()."""
        kind = BPF_TRACE_UPROBE_SESSION if session else BPF_TRACE_UPROBE_MULTI
        self._library.bpf_program__set_expected_attach_type(self._handle, kind)

    def _link(self, handle: int | None) -> Link:
        if not handle:
            _raise(f"attaching {self.name}")
        return Link(lambda: self._library.bpf_link__destroy(handle), self._library.bpf_link__fd(handle))

    def attach_raw_tracepoint(self, name: str) -> Link:
        """Attach to a kernel tracepoint."""
        return self._link(self._library.bpf_program__attach_raw_tracepoint(self._handle, name.encode()))

    def attach_cgroup(self, fd: int) -> Link:
        """Attach to a cgroup, beside what others have attached there."""
        return self._link(self._library.bpf_program__attach_cgroup(self._handle, fd))

    def attach_to_cgroup_for_good(self, fd: int) -> None:
        """The same, for as long as the cgroup is there, whoever of us lives: no link has to be held."""
        kind = self._library.bpf_program__expected_attach_type(self._handle)
        if self._library.bpf_prog_attach(self.fd, fd, kind, _BPF_F_ALLOW_MULTI):
            _raise(f"attaching {self.name}")

    def detach_from_cgroup(self, fd: int) -> None:
        """Undo that, if it was done."""
        self._library.bpf_prog_detach2(self.fd, fd, self._library.bpf_program__expected_attach_type(self._handle))

    def attach_uprobe(self, path: str, offset: int, cookie: int, returns: bool) -> Link:
        """Attach to one place of a file by a perf event (needs CAP_SYS_ADMIN on many kernels)."""
        opts = _UprobeOpts(sz=ctypes.sizeof(_UprobeOpts), bpf_cookie=cookie, retprobe=returns)
        handle = self._library.bpf_program__attach_uprobe_opts(self._handle, -1, path.encode(), offset, byref(opts))
        return self._link(handle)

    def attach_uprobe_multi(self, path: str, sites: Sequence[tuple[int, int]], returns: bool) -> Link:
        """Attach to many places of a file at once: `sites` are (file offset, cookie); a session's are its entries. Linux 6.6."""
        offsets = (c_uint64 * len(sites))(*(offset for offset, _ in sites))
        cookies = (c_uint64 * len(sites))(*(cookie for _, cookie in sites))
        name = ctypes.create_string_buffer(os.fsencode(path))
        attr = _MultiLink(
            prog_fd=self.fd,
            attach_type=self._library.bpf_program__expected_attach_type(self._handle),
            path=ctypes.addressof(name),
            offsets=ctypes.addressof(offsets),
            cookies=ctypes.addressof(cookies),
            count=len(sites),
            multi_flags=_BPF_F_UPROBE_MULTI_RETURN if returns else 0,
        )
        number = c_long(_SYSCALL_BPF[platform.machine()])
        fd = self._library.syscall(number, c_long(_BPF_LINK_CREATE), byref(attr), c_long(ctypes.sizeof(attr)))
        if fd < 0:
            _raise(f"attaching {self.name} to {path}")
        return Link(lambda: os.close(fd), fd)

    def missed_runs(self) -> int:
        """Runs that the kernel skipped because the program ran already on that CPU (bpf_prog_info.recursion_misses)."""
        info = ctypes.create_string_buffer(256)
        length = c_uint32(len(info))
        if self._library.bpf_obj_get_info_by_fd(self.fd, byref(info), byref(length)) != 0:
            _raise("reading program info")
        # Offset of recursion_misses in struct bpf_prog_info, Linux 5.12 and later.
        return int.from_bytes(info.raw[208:216], "little") if length.value >= 216 else 0


class Ring:
    """A ring buffer, read by copying its records out."""

    def __init__(self, library: ctypes.CDLL, map_fd: int) -> None:
        self._library = library
        self._records: list[bytes] = []
        self._room = 0
        self._callback = _RING_CALLBACK(self._take)
        self._handle = library.ring_buffer__new(map_fd, self._callback, None, None)
        if not self._handle:
            _raise("opening a ring buffer")
        self.epoll_fd: int = library.ring_buffer__epoll_fd(self._handle)

    def _take(self, _context: int, data: int, size: int) -> int:
        self._records.append(ctypes.string_at(data, size))
        self._room -= size
        # A negative answer ends the reading after this record (libbpf, ringbuf_process_ring).
        return -errno.EAGAIN if self._room <= 0 else 0

    def read(self, at_most: int = 4 << 20) -> list[bytes]:
        """Take what is there, up to about so many bytes."""
        self._room = at_most
        self._library.ring_buffer__consume(self._handle)
        records, self._records = self._records, []
        return records

    def close(self) -> None:
        """Unmap."""
        self._library.ring_buffer__free(self._handle)


class Object:
    """A compiled object file, loaded into the kernel."""

    def __init__(self, path: Path) -> None:
        try:
            self._library = _library()
        except OSError as error:
            raise OSError(errno.ENOENT, "libbpf.so.1 is missing: install libbpf1") from error
        self.log = Log.of_process()
        self._handle = self._library.bpf_object__open_file(os.fsencode(path), None)
        if not self._handle:
            _raise(f"opening {path}")

    def programs(self) -> list[Program]:
        """All programs."""
        found: list[Program] = []
        handle = self._library.bpf_object__next_program(self._handle, None)
        while handle:
            found.append(Program(self._library, handle))
            handle = self._library.bpf_object__next_program(self._handle, handle)
        return found

    def set_max_entries(self, name: str, entries: int) -> None:
        """Size a map; before load()."""
        handle = self._library.bpf_object__find_map_by_name(self._handle, name.encode())
        self._library.bpf_map__set_max_entries(handle, entries)

    def load(self) -> None:
        """Hand everything to the kernel's verifier; OSError tells its last words."""
        code = self._library.bpf_object__load(self._handle)
        if code != 0:
            last = self.log.lines[-1] if self.log.lines else ""
            raise OSError(-code, f"the kernel refused the probes: {os.strerror(-code)} ({last})")

    def map(self, name: str) -> Map:
        """A map, after load()."""
        return Map(self._library, self._library.bpf_object__find_map_by_name(self._handle, name.encode()))

    def ring(self, name: str) -> Ring:
        """A reader of a ring buffer map."""
        return Ring(self._library, self.map(name).fd)

    def close(self) -> None:
        """Unload; attached programs stay until their links are closed."""
        self._library.bpf_object__close(self._handle)
