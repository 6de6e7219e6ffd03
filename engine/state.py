"""Where is kept what belongs to an installation, such as its certificate authority."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

PRIVATE_LOCK = "lock"
"""A file in the private folder of one command, locked for as long as a part of it lives: see engine/cli/folder.py."""


def state_folder(environment: Mapping[str, str]) -> Path:
    """Folder of what belongs to the installation of the person with this environment (XDG Base Directory Specification)."""
    data = environment.get("XDG_DATA_HOME", "")
    home = Path(environment.get("HOME") or Path.home())
    return (Path(data) if data.startswith("/") else home / ".local" / "share") / "understudy"
