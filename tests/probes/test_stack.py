"""What the verifier of older kernels asks of the built programs, without such a kernel.

Before private stacks (Linux 6.13 on x86), all functions that are active at a time share 512 bytes, each one's part rounded up to 32
(check_max_stack_depth in kernel/bpf/verifier.c), and there may be 8 of them.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection

PROBES = Path(__file__).parents[2] / "probes"
STACK_BYTES, FRAMES = 512, 8

MOVE, ADD, CALL = 0xBF, 0x07, 0x85
LOAD, STORE, STORE_REGISTER = 1, 2, 3
"""Classes of instructions that reach memory (RFC 9669 section 3.2)."""
FRAME_POINTER = 10
PSEUDO_CALL = 1

Function = tuple[str, int]
"""Section and first byte."""


class Code:
    """The functions of an object, how much of the stack each uses by itself, and whom each calls."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            elf = ELFFile(file)
            symbols: Any = elf.get_section_by_name(".symtab")
            self.names: dict[Function, str] = {}
            sizes: dict[Function, int] = {}
            for symbol in symbols.iter_symbols():
                if symbol["st_info"]["type"] == "STT_FUNC":
                    section = elf.get_section(symbol["st_shndx"]).name
                    self.names[section, symbol["st_value"]] = symbol.name
                    sizes[section, symbol["st_value"]] = symbol["st_size"]
            targets = self._targets(elf, symbols)
            code = {section.name: section.data() for section in elf.iter_sections()}
        self.stack: dict[Function, int] = {}
        self.calls: dict[Function, set[Function]] = {}
        for (section, start), size in sizes.items():
            self._read((section, start), code[section][start : start + size], targets)

    @staticmethod
    def _targets(elf: ELFFile, symbols: Any) -> dict[Function, tuple[str, int]]:
        """What calls are relocated to: the symbol's section and value, by the call's place."""
        found = {}
        for section in elf.iter_sections():
            if isinstance(section, RelocationSection):
                place = elf.get_section(section["sh_info"]).name
                for relocation in section.iter_relocations():
                    symbol = symbols.get_symbol(relocation["r_info_sym"])
                    if isinstance(symbol["st_shndx"], int):
                        found[place, relocation["r_offset"]] = (elf.get_section(symbol["st_shndx"]).name, symbol["st_value"])
        return found

    def _read(self, function: Function, code: bytes, targets: dict[Function, tuple[str, int]]) -> None:
        depth, calls, pointers = 0, set(), set()
        for at, (opcode, registers, offset, immediate) in enumerate(struct.iter_unpack("<BBhi", code)):
            to, source, kind = registers & 15, registers >> 4, opcode & 7
            if opcode == CALL and source == PSEUDO_CALL:
                place = function[1] + at * 8
                section, value = targets.get((function[0], place), (function[0], place))
                calls.add((section, value + (immediate + 1) * 8))
            elif opcode == MOVE and source == FRAME_POINTER:
                pointers.add(to)
                continue
            elif opcode == ADD and to in pointers:
                depth = max(depth, -immediate)
            elif (kind == LOAD and source == FRAME_POINTER) or (kind in (STORE, STORE_REGISTER) and to == FRAME_POINTER):
                depth = max(depth, -offset)
            pointers.discard(to)
        self.stack[function], self.calls[function] = depth, calls

    def worst(self, function: Function) -> tuple[int, list[str]]:
        """The chain of calls that needs most: bytes, and the functions in it."""
        own = max(-(-self.stack[function] // 32) * 32, 32)
        below = max((self.worst(called) for called in self.calls[function]), default=(0, []))
        return own + below[0], [f"{self.names[function]}: {own}", *below[1]]

    def deepest(self, function: Function) -> int:
        """Functions in the longest chain of calls."""
        return 1 + max((self.deepest(called) for called in self.calls[function]), default=0)


@pytest.mark.parametrize("path", sorted(PROBES.glob("*.o")), ids=lambda path: path.stem)
def test_the_stack_suffices_on_older_kernels(path: Path) -> None:
    code = Code(path)
    assert len(code.names) > 5
    for function in code.names:
        bytes_, chain = code.worst(function)
        assert bytes_ <= STACK_BYTES, f"{bytes_} bytes: {chain}"
        assert code.deepest(function) <= FRAMES
