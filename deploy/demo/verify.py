"""Whether the snapshot tells the truth and keeps the secrets: compared with what the peers themselves wrote down."""

from __future__ import annotations

import base64
import json
import sqlite3
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import zstandard

Call = tuple[str, str, int]
"""Method, target, status."""

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


def read_access_log(path: Path) -> list[Call]:
    """What nginx answered."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [(line["method"], line["target"], line["status"]) for line in lines]


def compare(pairs: list[dict[str, Any]], backends: dict[str, list[Call]], service: list[Call]) -> list[str]:
    """What differs between the snapshot's pairs and the peers' own logs: nothing, if all is well."""
    problems = [f"pair {pair['id']} lacks {pair['missing']}" for pair in pairs if not pair["complete"]]
    captured: dict[str, list[Call]] = {host: [] for host in backends}
    for pair in pairs:
        if pair["direction"] == "OUT":
            captured.setdefault(pair["host"], []).append(_call(pair))
    for host, calls in captured.items():
        problems += _difference(host, calls, backends.get(host, []))
    problems += _difference("the service", [_call(pair) for pair in pairs if pair["direction"] == "IN"], service)
    return problems


def _call(pair: dict[str, Any]) -> Call:
    query = "&".join(f"{name}={value}" for name, value in pair["query"])
    return pair["method"], pair["path"] + (f"?{query}" if query else ""), pair["status"]


def _difference(who: str, captured: list[Call], truth: list[Call]) -> list[str]:
    missed, invented = Counter(truth) - Counter(captured), Counter(captured) - Counter(truth)
    return [
        *(f"{who}: {count} of {call} not captured" for call, count in missed.items()),
        *(f"{who}: {count} of {call} captured, but never happened" for call, count in invented.items()),
    ]


def find_secrets(snapshot: Path, pairs: list[dict[str, Any]], secrets: Sequence[str]) -> list[str]:
    """Where a secret can be read: in the file as it is, in what it holds compressed, in what is shown of it."""
    places = [("the file", snapshot.read_bytes()), *_cells(snapshot), *_shown(pairs)]
    return [f"{secret[:6]}… stands in {place}" for place, content in places for secret in secrets if secret.encode() in content]


def _cells(snapshot: Path) -> Iterator[tuple[str, bytes]]:
    """Every value of every table, decompressed."""
    connection = sqlite3.connect(f"file:{snapshot}?mode=ro", uri=True)
    try:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for row in connection.execute(f'SELECT * FROM "{table}"'):
                yield from ((f"table {table}", _plain(cell)) for cell in row if isinstance(cell, str | bytes))
    finally:
        connection.close()


def _plain(cell: str | bytes) -> bytes:
    raw = cell.encode() if isinstance(cell, str) else cell
    if not raw.startswith(_ZSTD_MAGIC):
        return raw
    return _gunzip(zstandard.ZstdDecompressor().decompressobj().decompress(raw))


def _shown(pairs: Iterable[dict[str, Any]]) -> Iterator[tuple[str, bytes]]:
    """What `inspect --json` says, bodies decoded."""
    for pair in pairs:
        yield f"pair {pair['id']}", json.dumps(pair, ensure_ascii=False).encode()
        for half in ("request", "response"):
            if pair.get(half):
                yield f"the {half} body of pair {pair['id']}", _gunzip(base64.b64decode(pair[half]["body"]))


def _gunzip(body: bytes) -> bytes:
    return zlib.decompress(body, wbits=31) if body.startswith(b"\x1f\x8b") else body
