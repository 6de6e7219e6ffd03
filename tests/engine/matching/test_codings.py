from __future__ import annotations

from engine.matching.codings import takes


def test_fields_of_any_length() -> None:
    long = b"br;q=0, " * 100_000 + b"gzip"
    assert not takes(long, (b"gzip",))
    assert takes(b"gzip, " + long, (b"gzip",))
    assert not takes(b"\xff;;,=;q=,,*;q=0", (b"gzip",))
