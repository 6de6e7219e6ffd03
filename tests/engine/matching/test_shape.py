from __future__ import annotations

from engine.matching.shape import _segment, shape


def test_ids_do_not_make_another_shape() -> None:
    assert shape("GET", "/v1/users/42", "GET /v1/users/42") == shape("GET", "/v1/users/4711", "GET /v1/users/4711")
    assert shape("GET", "/v1/users", "GET /v1/users") == "GET /v1/users"


def test_long_segments_are_not_remembered() -> None:
    """A peer chooses them: thousands of entries of any length are no bound."""
    before = _segment.cache_info().currsize
    assert shape("GET", "/" + "a" * 10_000, "GET /") == "GET /*"
    assert _segment.cache_info().currsize <= before + 1
