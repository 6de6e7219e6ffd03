from __future__ import annotations

from engine.matching.codings import takes


def test_fields_of_any_length() -> None:
    long = b"br;q=0, " * 100_000 + b"gzip"
    assert not takes(long, (b"gzip",))
    assert takes(b"gzip, " + long, (b"gzip",))
    assert not takes(b"\xff;;,=;q=,,*;q=0", (b"gzip",))


def test_a_coding_has_the_name_of_before_rfc_9110_as_well() -> None:
    """Section 8.4.1: x-gzip is gzip, x-compress is compress."""
    for accept, coding in [(b"gzip", b"x-gzip"), (b"x-gzip", b"gzip"), (b"x-gzip", b"x-gzip")]:
        assert takes(accept, (coding,))
        assert not takes(b"identity", (coding,))
