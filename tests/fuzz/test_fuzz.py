"""The short form of `make fuzz`: the corpus, and mutations of it. Coverage guides nothing here."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import targets

MUTATED = 200
"""Mutated inputs a target: seconds altogether. Each test run tries others, and Hypothesis keeps what failed."""


@st.composite
def mutations(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A seed with some of its bytes cut out, repeated, replaced, or taken from another seed."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 6))):
        first, second = sorted((draw(st.integers(0, len(data))), draw(st.integers(0, len(data)))))
        replacement = draw(st.one_of(st.just(b""), st.binary(max_size=8), st.just(data[first:second] * 2), st.sampled_from(seeds)))
        data = data[:first] + replacement + data[second:]
    return data


@pytest.mark.parametrize("name", targets.names())
def test_corpus(name: str) -> None:
    one = targets.load(name)
    for seed in targets.seeds(name):
        one(seed)


@pytest.mark.parametrize("name", targets.names())
def test_mutations(name: str) -> None:
    one, seeds = targets.load(name), targets.seeds(name)

    @settings(max_examples=MUTATED, suppress_health_check=list(HealthCheck))
    @given(mutations(seeds))
    def run(data: bytes) -> None:
        one(data)

    run()
