"""Each seed of the fuzzers, and some inputs made of them: that the targets work, and what they found stays found."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz import fuzz_fields, fuzz_http1

CORPUS = Path(__file__).parent / "corpus"
MUTATIONS = 40
TARGETS: tuple[tuple[str, Callable[[bytes], None]], ...] = (("http1", fuzz_http1.one), ("fields", fuzz_fields.one))
SEEDS = [pytest.param(one, path, id=f"{name}/{path.name}") for name, one in TARGETS for path in sorted((CORPUS / name).iterdir())]


@pytest.mark.parametrize(("one", "path"), SEEDS)
def test_seed(one: Callable[[bytes], None], path: Path) -> None:
    seed = path.read_bytes()
    one(seed)
    order = random.Random(seed)
    for _ in range(MUTATIONS):
        mutated = bytearray(seed)
        for _ in range(1 + order.randrange(4)):
            at = order.randrange(len(mutated))
            mutated[at : at + order.randrange(3)] = order.randbytes(order.randrange(3))
        one(bytes(mutated))


def test_there_are_seeds() -> None:
    assert len(SEEDS) >= 20
