"""The layout of events, on both sides: C's as the compiler laid it out, from debug information; Python's as ctypes did."""

from __future__ import annotations

import ctypes
import enum
import subprocess
from pathlib import Path

import pytest
from elftools.dwarf.die import DIE
from elftools.elf.elffile import ELFFile

from agent import events
from agent.takeover import events as takeover

PROBES = Path(__file__).parents[2] / "probes"

STRUCTURES: dict[str, type[ctypes.Structure]] = {
    "process": events.Process,
    "socket_facts": events.SocketFacts,
    "event_head": events.Head,
    "event_opened": events.Opened,
    "event_chunk": events.Chunk,
    "event_gap": events.Gap,
    "event_bound": events.Bound,
    "event_half_closed": events.HalfClosed,
    "tally": events.Tally,
    "event_closed": events.Closed,
    "event_process": events.ProcessNews,
    "file_key": events.FileKey,
    "event_mapped": events.Mapped,
    "stream": events.StreamEntry,
    "tls_key": events.TlsKey,
    "settings": events.Settings,
    "destination": takeover.Destination,
    "rule": takeover.Rule,
    "takeover_settings": takeover.Settings,
    "takeover_event": takeover.Event,
    "departures_settings": takeover.DeparturesSettings,
    "departure_event": takeover.DepartureEvent,
}
ENUMS: dict[str, tuple[type[enum.IntEnum], str]] = {
    "event_kind": (events.Kind, "EVENT_"),
    "source": (events.Source, "SOURCE_"),
    "tls_call": (events.TlsCall, "TLS_"),
    "counter": (events.Counter, "COUNT_"),
    "action": (takeover.Action, "ACTION_"),
    "takeover_news": (takeover.News, "TAKEOVER_"),
    "whereabouts": (takeover.Whereabouts, "WHERE_"),
}

Layout = dict[str, tuple[int, int]]


@pytest.fixture(scope="module")
def dies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, DIE]:
    """What gcc made of the headers: structures and enumerations by name."""
    folder = tmp_path_factory.mktemp("layout")
    source = folder / "layout.c"
    variables = "".join(f"struct {name} *v_{name};\n" for name in STRUCTURES)
    variables += "".join(f"enum {name} e_{name};\n" for name in ENUMS)
    source.write_text(f'#include "events.h"\n#include "takeover.h"\n#include "departures.h"\n{variables}')
    subprocess.run(["gcc", "-g", f"-I{PROBES}", "-c", str(source), "-o", str(folder / "layout.o")], check=True)
    with open(folder / "layout.o", "rb") as file:
        unit = next(ELFFile(file).get_dwarf_info().iter_CUs())
        tags = ("DW_TAG_structure_type", "DW_TAG_enumeration_type")
        return {
            die.attributes["DW_AT_name"].value.decode(): die
            for die in unit.iter_DIEs()
            if die.tag in tags and "DW_AT_name" in die.attributes
        }


def size(die: DIE) -> int:
    """Of a type, in bytes; 0 for an array of no declared length."""
    while die.tag in ("DW_TAG_typedef", "DW_TAG_const_type"):
        die = die.get_DIE_from_attribute("DW_AT_type")
    if die.tag == "DW_TAG_array_type":
        bounds = [child.attributes.get("DW_AT_upper_bound") for child in die.iter_children()]
        length = bounds[0].value + 1 if bounds[0] else 0
        return int(length * size(die.get_DIE_from_attribute("DW_AT_type")))
    return int(die.attributes["DW_AT_byte_size"].value)


def of_c(die: DIE) -> Layout:
    """Offset and size of each member; what has no size of its own (data[]) is left out."""
    members = [child for child in die.iter_children() if child.tag == "DW_TAG_member"]
    found = {
        member.attributes["DW_AT_name"].value.decode(): (
            int(member.attributes["DW_AT_data_member_location"].value),
            size(member.get_DIE_from_attribute("DW_AT_type")),
        )
        for member in members
    }
    return {name: place for name, place in found.items() if place[1]}


def of_python(structure: type[ctypes.Structure]) -> Layout:
    """Offset and size of each field."""
    return {field[0]: (getattr(structure, field[0]).offset, getattr(structure, field[0]).size) for field in structure._fields_}


@pytest.mark.parametrize("name", STRUCTURES)
def test_structures_are_laid_out_alike(dies: dict[str, DIE], name: str) -> None:
    assert of_python(STRUCTURES[name]) == of_c(dies[name])
    assert ctypes.sizeof(STRUCTURES[name]) == size(dies[name])


def test_every_structure_of_the_headers_is_compared(dies: dict[str, DIE]) -> None:
    structures = {name for name, die in dies.items() if die.tag == "DW_TAG_structure_type"}
    assert structures == set(STRUCTURES)


@pytest.mark.parametrize("name", ENUMS)
def test_enumerations_agree(dies: dict[str, DIE], name: str) -> None:
    python, prefix = ENUMS[name]
    of_header = {
        child.attributes["DW_AT_name"].value.decode(): child.attributes["DW_AT_const_value"].value
        for child in dies[name].iter_children()
    }
    of_header.pop("COUNTERS", None)
    assert {prefix + each.name: each.value for each in python} == of_header


def test_a_field_added_on_one_side_is_found(dies: dict[str, DIE]) -> None:
    class Longer(ctypes.Structure):
        _fields_ = [*events.Tally._fields_, ("another", ctypes.c_uint64)]

    assert of_python(Longer) != of_c(dies["tally"])


def test_what_is_no_event_is_refused() -> None:
    with pytest.raises(ValueError, match="another version"):
        events.decode(b"\xff" * 200)


def test_fields_that_no_probe_writes_are_refused() -> None:
    chunk = events.Chunk(head=events.Head(kind=events.Kind.CHUNK), length=5, direction=1, source=1)
    assert isinstance(events.decode(bytes(chunk) + b"12345"), events.Chunk)
    broken = [
        bytes(chunk) + b"1234",
        bytes(events.Chunk(head=chunk.head, direction=2, source=1)),
        bytes(events.Chunk(head=chunk.head, direction=1, source=4)),
        bytes(events.Opened(head=events.Head(kind=events.Kind.OPENED), source=0)),
        bytes(events.Gap(head=events.Head(kind=events.Kind.GAP), direction=9)),
        bytes(events.HalfClosed(head=events.Head(kind=events.Kind.HALF_CLOSED), direction=9)),
        bytes(chunk)[:-1],
    ]
    for record in broken:
        with pytest.raises(ValueError, match=r"another version|instead of"):
            events.decode(record)
