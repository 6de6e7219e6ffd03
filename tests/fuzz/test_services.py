"""The seeds of the targets, and some hundred changes of each: what the fuzzer finds comes here as a seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz import fuzz_batches, fuzz_requests, fuzz_snapshot

CORPUS = Path(__file__).parent / "corpus"
TARGETS = {"snapshot": fuzz_snapshot.one, "batches": fuzz_batches.one, "requests": fuzz_requests.one}
SEEDS = [(name, seed) for name in TARGETS for seed in sorted((CORPUS / name).iterdir())]
CHANGES = 40


@pytest.mark.parametrize(("name", "seed"), SEEDS, ids=[f"{name}-{seed.name}" for name, seed in SEEDS])
def test_a_seed_and_its_changes(name: str, seed: Path) -> None:
    one: Callable[[bytes], None] = TARGETS[name]
    data = seed.read_bytes()
    one(data)
    choose = random.Random(seed.name)
    for _ in range(CHANGES):
        changed = bytearray(data or bytes(choose.randbytes(12)))
        for _ in range(choose.randint(1, 4)):
            at = choose.randrange(len(changed))
            changed[at : at + choose.randint(0, 2)] = choose.randbytes(choose.randint(0, 3))
            changed = changed or bytearray(b"\0")
        one(bytes(changed))
