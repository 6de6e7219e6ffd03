"""The fuzz targets that there are."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import cast

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The target of each module `fuzz_NAME.py`."""
    return sorted(path.stem.removeprefix("fuzz_") for path in FOLDER.glob("fuzz_*.py"))


def load(name: str) -> Callable[[bytes], None]:
    """The function of a target that takes one input."""
    return cast(Callable[[bytes], None], importlib.import_module(f"tests.fuzz.fuzz_{name}").one)


def corpus(name: str) -> Path:
    """The folder of a target's inputs that belong to the repository."""
    return FOLDER / "corpus" / name


def seeds(name: str) -> list[bytes]:
    """The inputs themselves, in the order of their files' names; at least an empty one."""
    return [path.read_bytes() for path in sorted(corpus(name).glob("*"))] or [b""]
