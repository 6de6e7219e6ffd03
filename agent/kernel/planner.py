"""Which places of an executable or a library to probe: reads ELF files, touches no kernel.

Symbols are looked up in .dynsym and .symtab alike: node exports the functions, the cryptography wheel holds them as local symbols
only. A file is never all or nothing: what it has of the family is probed.
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, cast

from elftools.elf.elffile import ELFFile

from agent.events import TlsCall

_CALLS = {
    b"SSL_read": TlsCall.READ,
    b"SSL_write": TlsCall.WRITE,
    b"SSL_read_ex": TlsCall.READ_EX,
    b"SSL_write_ex": TlsCall.WRITE_EX,
    b"SSL_read_early_data": TlsCall.READ_EARLY,
    b"SSL_write_early_data": TlsCall.WRITE_EX,
    b"SSL_sendfile": TlsCall.SENDFILE,
    b"SSL_do_handshake": TlsCall.OTHER,
    b"SSL_connect": TlsCall.OTHER,
    b"SSL_accept": TlsCall.OTHER,
    b"SSL_peek": TlsCall.OTHER,
    b"SSL_peek_ex": TlsCall.OTHER,
    b"SSL_shutdown": TlsCall.OTHER,
    b"SSL_get_error": TlsCall.ERROR,
}
"""What a TLS call is to the probes. Those that carry nothing are followed because they may be the first to reach the socket."""

_LIFE = {b"SSL_clear": "tls_clear", b"SSL_up_ref": "tls_up_ref", b"SSL_free": "tls_free", b"BIO_write": "bio_write"}
_NEW = b"SSL_new"
_OTHER_FAMILIES = {b"gnutls_record_send": "GnuTLS", b"SSL_ImportFD": "NSS"}
_WANTED = frozenset((*_CALLS, *_LIFE, _NEW, *_OTHER_FAMILIES))

_SYMBOL = 24  # sizeof(Elf64_Sym)
_STT_FUNC, _STT_GNU_IFUNC = 2, 10


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


def plan(fd: int) -> Plan:
    """Examine an open file. Anything that is no 64-bit ELF file yields an empty plan."""
    try:
        if os.fstat(fd).st_size < 64:
            return Plan()
        with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as image:
            return _plan(image)
    except Exception:  # whatever a damaged file leads pyelftools into: it is then no file to probe
        return Plan()


def _plan(image: mmap.mmap) -> Plan:
    if image[:5] != b"\x7fELF\x02":
        return Plan()
    elf = ELFFile(cast(BinaryIO, image))
    functions = _functions(elf, image)
    sites = tuple(_sites(functions))
    if any(site.cookie for site in sites):
        return Plan("OpenSSL family", sites)
    for name, kind in _OTHER_FAMILIES.items():
        if name in functions:
            return Plan(kind, reason=f"{kind} is not probed")
    if elf.get_section_by_name(".gopclntab") and elf.get_section_by_name(".go.buildinfo"):
        return Plan("Go crypto/tls", reason="Go programs are not probed") if _contains(elf, image, b"crypto/tls") else Plan()
    if _contains(elf, image, b"ssl/ssl_lib.cc"):
        return Plan("BoringSSL", reason="its symbols are stripped")
    if _contains(elf, image, b"/rustls-"):
        return Plan("rustls", reason="rustls is not probed")
    return Plan("", sites)  # libcrypto: BIO_write alone


def _contains(elf: ELFFile, image: mmap.mmap, words: bytes) -> bool:
    section = elf.get_section_by_name(".rodata")
    if section is None:
        return False
    start = section["sh_offset"]
    return image.find(words, start, start + section["sh_size"]) >= 0


def _functions(elf: ELFFile, image: mmap.mmap) -> dict[bytes, int]:
    """File offsets of the wanted functions that the file defines."""
    found: dict[bytes, int] = {}
    loads = [(s["p_vaddr"], s["p_offset"], s["p_filesz"]) for s in elf.iter_segments() if s["p_type"] == "PT_LOAD"]
    for section in elf.iter_sections():
        if section["sh_type"] not in ("SHT_DYNSYM", "SHT_SYMTAB"):
            continue
        strings = elf.get_section(section["sh_link"])
        names = dict(_name_offsets(image, strings["sh_offset"], strings["sh_size"]))
        if not names:
            continue
        table = image[section["sh_offset"] : section["sh_offset"] + section["sh_size"]]
        for name, address in _addresses(table, names):
            for start, offset, size in loads:
                if start <= address < start + size:
                    found.setdefault(name, address - start + offset)
    return found


_PATTERN = re.compile(rb"(?:" + b"|".join(sorted(_WANTED, reverse=True)) + rb")(?=\0)")


def _name_offsets(image: mmap.mmap, start: int, size: int) -> Iterator[tuple[int, bytes]]:
    """Offsets in a string table at which a wanted name begins; linkers let names share their tails."""
    table = image[start : start + size]
    if table.find(b"SSL_") < 0 and table.find(b"gnutls_record_send\0") < 0 and table.find(b"BIO_write\0") < 0:
        return
    for match in _PATTERN.finditer(table):
        yield match.start(), match.group()


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
