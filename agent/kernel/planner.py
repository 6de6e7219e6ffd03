"""Which places of an executable or a library to probe: reads ELF files, touches no kernel.

Files are those of workloads, so each may be made to harm its reader: it is read by pread (a file that is cut while it is mapped
would end this process by SIGBUS), in blocks, and no further than the bounds below. A file is never all or nothing: what it has of
the family is probed. Symbols are looked up in .dynsym and .symtab alike: node exports the functions, the cryptography wheel holds
them as local symbols only.
"""

from __future__ import annotations

import errno
import itertools
import os
import platform
import re
import stat
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from agent.events import TlsCall

_CALLS = {
    b"SSL_read": TlsCall.READ,
    b"SSL_write": TlsCall.WRITE,
    b"SSL_read_ex": TlsCall.READ_EX,
    b"SSL_write_ex": TlsCall.WRITE_EX,
    b"SSL_write_ex2": TlsCall.WRITE_EX2,
    b"SSL_read_early_data": TlsCall.READ_EARLY,
    b"SSL_write_early_data": TlsCall.WRITE_EARLY,
    b"SSL_sendfile": TlsCall.SENDFILE,
    b"SSL_do_handshake": TlsCall.OTHER,
    b"SSL_connect": TlsCall.OTHER,
    b"SSL_accept": TlsCall.OTHER,
    b"SSL_peek": TlsCall.OTHER,
    b"SSL_peek_ex": TlsCall.OTHER,
    b"SSL_shutdown": TlsCall.OTHER,
    b"SSL_get_error": TlsCall.ERROR,
    b"SSL_get_early_data_status": TlsCall.EARLY_STATUS,
}
"""What a TLS call is to the probes. Those that carry nothing are followed because they may be the first to reach the socket."""

_LIFE = {
    b"SSL_clear": "tls_clear",
    b"SSL_reset_early_data_reject": "tls_clear",  # of BoringSSL: nothing that was said early counts, "a logically fresh connection"
    b"SSL_up_ref": "tls_up_ref",
    b"SSL_free": "tls_free",
    b"BIO_write": "bio_write",
}
_NEW = b"SSL_new"
_OTHER_FAMILIES = {b"gnutls_record_send": "GnuTLS", b"SSL_ImportFD": "NSS"}
_WANTED = frozenset((*_CALLS, *_LIFE, _NEW, *_OTHER_FAMILIES))

SECTIONS_MAX = 1024
"""Large programs have about 50; more than some hundred are seen in object files only, which nobody executes."""

SEGMENTS_MAX = 128
"""Programs have about 12."""

STRINGS_BYTES = 128 << 20
"""Of one string table: node has 6 MiB, Chromium with all symbols about 100."""

SYMBOLS_BYTES = 96 << 20
"""Of one symbol table: four million symbols, of which node has 120,000."""

SYMBOL_TABLES_MAX = 4
"""An ELF file has one of each kind (System V ABI, Sections); all of them may claim the same place and the largest size."""

SEARCHED_BYTES = 256 << 20
"""Searched for the words of other implementations, in one file: the read-only data of Chromium has some 50 MiB."""

NAMES_MAX = 4096
"""Places of one string table at which a wanted name begins: a linker writes each name once, and as the tail of some others."""

FUNCTIONS_MAX = 1024
"""Symbols of one table that bear a wanted name: there are some twenty such names, and each is defined once or a few times."""

_SECTION_NAMES_BYTES = 64 << 10
_BLOCK = 1 << 20
"""Read at once: memory stays at some MiB whatever a file claims."""

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SYMBOL = 24  # sizeof(Elf64_Sym)
_IDENTITY = b"\x7fELF\x02\x01"  # 64 bits, little-endian
_MACHINE = {"x86_64": b"\x3e\0", "aarch64": b"\xb7\0"}.get(platform.machine(), b"")
_ET_EXEC, _ET_DYN = 2, 3
_PT_LOAD = 1
_SHT_SYMTAB, _SHT_NOBITS, _SHT_DYNSYM = 2, 8, 11
_STT_FUNC, _STT_GNU_IFUNC = 2, 10

PROGRAMS = frozenset(("tls_enter", "tls_return", "tls_new", *_LIFE.values()))
"""The programs that sites name, see probes/tls.c."""

UNKNOWN = "unknown"
"""The kind of a file that could not be examined."""


@dataclass(frozen=True, slots=True)
class Site:
    """One place to probe: an offset in the file, and the program with its cookie."""

    program: str
    function: str
    offset: int
    cookie: int = 0
    returns: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What is known of a file: its TLS implementation ("" for none), where to probe it, or why it cannot be."""

    kind: str = ""
    sites: tuple[Site, ...] = ()
    reason: str = ""

    @property
    def capturable(self) -> bool:
        """Whether its plaintext can be captured."""
        return any(site.cookie for site in self.sites)


class Unreadable(Exception):
    """A file is damaged or goes past a bound; the message says how."""


class Section(NamedTuple):
    """A section's header, as far as it is needed."""

    name: bytes
    kind: int
    offset: int
    size: int
    link: int


def executable_elf(start: bytes) -> bool:
    """Whether a file that begins so can be executed or mapped as a library here: a 64-bit ELF file for this machine, and no object
    file. In one for another machine, which an emulator runs, a breakpoint would be any instruction.
    """
    return start[:6] == _IDENTITY and start[16:18] in (b"\x02\0", b"\x03\0") and start[18:20] == _MACHINE


def plan(fd: int) -> Plan:
    """Examine an open file. One that is no 64-bit ELF executable or library yields an empty plan; a damaged one, the reason."""
    try:
        image = _Image(fd)
        return _plan(image) if executable_elf(image.start) else Plan()
    except Unreadable as error:
        return Plan(UNKNOWN, reason=str(error))
    except OSError as error:
        return Plan(UNKNOWN, reason=f"it cannot be read: {error.strerror}")


class _Image:
    """An open file."""

    def __init__(self, fd: int) -> None:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise Unreadable("it is not a regular file")
        self._fd = fd
        self.size = status.st_size
        self.start = os.pread(fd, _HEADER.size, 0)

    def read(self, what: str, offset: int, length: int) -> bytes:
        """Bytes that a part of the file occupies."""
        if offset + length > self.size:
            raise Unreadable(f"its {what} lies beyond its end")
        found = bytearray()
        while len(found) < length:
            part = os.pread(self._fd, length - len(found), offset + len(found))
            if not part:
                raise Unreadable("it was cut while it was read")
            found += part
        return bytes(found)

    def blocks(self, what: str, section: Section, step: int, overlap: int = 0) -> Iterator[tuple[int, bytes]]:
        """A section in blocks of `step` bytes, each with the beginning of the next: (place in the section, bytes).

        Blocks in a hole of the file are left out, for zeros name nothing: a file that takes no room on a disk takes no time.
        """
        place = 0
        while place < section.size:
            data = self._data_from(section.offset + place) - section.offset
            place += (data - place) // step * step
            if place < section.size:
                yield place, self.read(what, section.offset + place, min(step + overlap, section.size - place))
            place += step

    def _data_from(self, offset: int) -> int:
        """Where the file has data next, from a place on."""
        try:
            return os.lseek(self._fd, min(offset, self.size), os.SEEK_DATA)
        except OSError as error:
            return max(offset, self.size) if error.errno == errno.ENXIO else offset  # a hole up to the end, or nobody knows


def _plan(image: _Image) -> Plan:
    if len(image.start) < _HEADER.size:
        raise Unreadable("its header lies beyond its end")
    header = _HEADER.unpack(image.start)
    sections = _sections(image, offset=header[6], size=header[11], count=header[12], names=header[13])
    functions, reasons = _functions(image, sections, _loads(image, offset=header[5], size=header[9], count=header[10]))
    sites = tuple(_sites(functions))
    if any(site.cookie for site in sites):
        return Plan("OpenSSL family", sites)
    for name, kind in _OTHER_FAMILIES.items():
        if name in functions:
            return Plan(kind, reason=f"{kind} cannot be read yet, OpenSSL can")
    found = _by_words(image, sections)
    if found:
        return found
    return Plan(UNKNOWN, sites, "; ".join(reasons)) if reasons else Plan("", sites)  # libcrypto: BIO_write alone


def _sections(image: _Image, offset: int, size: int, count: int, names: int) -> list[Section]:
    if not offset:
        return []
    if size != _SECTION.size or not 0 < count <= SECTIONS_MAX:
        raise Unreadable(f"its table claims {count} sections of {size} bytes; {SECTIONS_MAX} of {_SECTION.size} are read")
    headers = list(_SECTION.iter_unpack(image.read("section table", offset, count * size)))
    words = b""
    if names < count:
        words = image.read("table of section names", headers[names][4], min(headers[names][5], _SECTION_NAMES_BYTES))
    return [Section(words[one[0] : words.find(b"\0", one[0])], one[1], one[4], one[5], one[6]) for one in headers]


def _loads(image: _Image, offset: int, size: int, count: int) -> list[tuple[int, int, int]]:
    """Of the segments that are loaded: address, place in the file, size there."""
    if not count:
        return []
    if size != _SEGMENT.size or count > SEGMENTS_MAX:
        raise Unreadable(f"its table claims {count} segments of {size} bytes; {SEGMENTS_MAX} of {_SEGMENT.size} are read")
    segments = _SEGMENT.iter_unpack(image.read("segment table", offset, count * size))
    return [(one[3], one[2], one[5]) for one in segments if one[0] == _PT_LOAD]


def _by_words(image: _Image, sections: list[Section]) -> Plan | None:
    """An implementation that shows in a file's constants only."""
    left = SEARCHED_BYTES

    def contains(words: bytes, names: tuple[bytes, ...]) -> bool:
        nonlocal left
        for section in sections:
            if section.name in names and section.kind != _SHT_NOBITS:
                left -= section.size
                if left < 0:
                    raise Unreadable(f"it has more than {SEARCHED_BYTES >> 20} MiB of constants to search")
                if any(words in block for _, block in image.blocks("constants", section, _BLOCK, len(words))):
                    return True
        return False

    if any(section.name == b".go.buildinfo" for section in sections):
        # With -buildmode=pie the table of functions, which holds their names, lies in .data.rel.ro.
        places = (b".gopclntab", b".data.rel.ro.gopclntab", b".data.rel.ro", b".rodata")
        reason = "TLS of Go cannot be read yet, that of OpenSSL can"
        return Plan("Go crypto/tls", reason=reason) if contains(b"crypto/tls.", places) else None
    if contains(b"ssl/ssl_lib.cc", (b".rodata",)):
        return Plan("BoringSSL", reason="its symbols are stripped")
    if contains(b"/rustls-", (b".rodata",)):
        return Plan("rustls", reason="rustls cannot be read yet, OpenSSL can")
    return None


def _functions(image: _Image, sections: list[Section], loads: list[tuple[int, int, int]]) -> tuple[dict[bytes, int], list[str]]:
    """File offsets of the wanted functions that the file defines, and why a table was not read."""
    found: dict[bytes, int] = {}
    reasons: list[str] = []
    tables = [section for section in sections if section.kind in (_SHT_DYNSYM, _SHT_SYMTAB)]
    if len(tables) > SYMBOL_TABLES_MAX:
        raise Unreadable(f"it has {len(tables)} symbol tables; {SYMBOL_TABLES_MAX} are read")
    for section in tables:
        try:
            symbols = list(itertools.islice(_symbols(image, section, sections), FUNCTIONS_MAX + 1))
            if len(symbols) > FUNCTIONS_MAX:
                raise Unreadable(f"its symbol table repeats the same names more than {FUNCTIONS_MAX} times")
        except Unreadable as error:
            reasons.append(str(error))
            continue
        for name, address in symbols:
            for start, offset, size in loads:
                if start <= address < start + size and address - start + offset < image.size:
                    found.setdefault(name, address - start + offset)
    return found, reasons


def _symbols(image: _Image, section: Section, sections: list[Section]) -> Iterator[tuple[bytes, int]]:
    """The wanted functions of one symbol table, with their addresses."""
    if section.link >= len(sections):
        raise Unreadable("its symbols have no string table")
    strings = sections[section.link]
    for what, size, limit in (("string", strings.size, STRINGS_BYTES), ("symbol", section.size, SYMBOLS_BYTES)):
        if size > limit:
            raise Unreadable(f"its {what} table claims {size >> 20} MiB; {limit >> 20} MiB are read")
    names = dict(_name_offsets(image, strings))
    if names:
        for _, block in image.blocks("symbol table", section, _BLOCK // _SYMBOL * _SYMBOL):
            yield from _addresses(block, names)


_PATTERN = re.compile(rb"(?:" + b"|".join(sorted(_WANTED, reverse=True)) + rb")(?=\0)")
_HINTS = (b"SSL_", b"gnutls_record_send\0", b"BIO_write\0")
"""Faster to search for than the pattern; most libraries have none of them."""


def _name_offsets(image: _Image, strings: Section) -> Iterator[tuple[int, bytes]]:
    """Offsets in a string table at which a wanted name begins; linkers let names share their tails."""
    longest = max(map(len, _WANTED)) + 1
    count = 0
    for place, block in image.blocks("string table", strings, _BLOCK, longest):
        if not any(hint in block for hint in _HINTS):
            continue
        for match in _PATTERN.finditer(block):
            count += 1
            if count > NAMES_MAX:
                raise Unreadable(f"its string table repeats the same names more than {NAMES_MAX} times")
            yield place + match.start(), match.group()


def _addresses(table: bytes, names: dict[int, bytes]) -> Iterator[tuple[bytes, int]]:
    words = memoryview(table[: len(table) // _SYMBOL * _SYMBOL]).cast("I")
    for index, name_offset in enumerate(words[:: _SYMBOL // 4].tolist()):
        if name_offset in names:
            entry = table[index * _SYMBOL : (index + 1) * _SYMBOL]
            defined = entry[6:8] != b"\0\0"
            if defined and entry[4] & 15 in (_STT_FUNC, _STT_GNU_IFUNC):
                yield names[name_offset], int.from_bytes(entry[8:16], "little")


def _sites(functions: dict[bytes, int]) -> Iterable[Site]:
    # Returns come first: a return without its entry is ignored, an entry without its return is a call that seems lost.
    # SSL_new comes last: a stream whose making was seen is one of which everything was seen.
    seen: set[int] = set()
    entries: list[Site] = []
    for name, call in _CALLS.items():
        if name in functions and functions[name] not in seen:
            seen.add(functions[name])
            yield Site("tls_return", name.decode(), functions[name], call, returns=True)
            entries.append(Site("tls_enter", name.decode(), functions[name], call))
    for name, program in _LIFE.items():
        if name in functions:
            yield Site(program, name.decode(), functions[name])
    yield from entries
    if _NEW in functions:
        yield Site("tls_new", "SSL_new", functions[_NEW], returns=True)
