from __future__ import annotations

from pathlib import Path

from engine.state import state_folder


def test_state_folder() -> None:
    assert state_folder({"HOME": "/h"}) == Path("/h/.local/share/understudy")
    assert state_folder({"HOME": "/h", "XDG_DATA_HOME": "/d"}) == Path("/d/understudy")
    assert state_folder({"HOME": "/h", "XDG_DATA_HOME": "not/absolute"}) == Path("/h/.local/share/understudy")
