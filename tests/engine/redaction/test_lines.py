from __future__ import annotations

import pytest

from engine.protocols.http1 import request_line
from engine.redaction import Redactor
from engine.rrpair import Message


@pytest.mark.parametrize("line", [b"GET\t/a?password=hunter2-8c1f HTTP/1.1", b"GET /a?password=hunter2-8c1f\tHTTP/1.1"])
def test_a_request_line_with_tabs_for_blanks_is_searched(line: bytes) -> None:
    """As the parser takes it (RFC 9112 section 3)."""
    kinds: set[str] = set()
    found = Redactor(b"k" * 32).message(Message(line), kinds)
    assert b"hunter2" not in found.start_line
    assert request_line(found.start_line)[0] == "GET"
    assert kinds
