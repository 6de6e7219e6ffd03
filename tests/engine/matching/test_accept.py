"""Which answers stand for which Accept fields: those of real programs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.matching.accept import takes

AXIOS, REQUESTS, JSON = b"application/json, text/plain, */*", b"*/*", b"application/json"
BROWSER = b"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"
NPM = b"application/vnd.npm.install-v1+json; q=1.0, application/json; q=0.8, */*"
TABLE = b"application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
DIFF = b"application/vnd.github.v3.diff"


@pytest.mark.parametrize(
    "live", [AXIOS, REQUESTS, JSON, BROWSER, NPM, b"", b"application/*", b"Application/JSON;q=0.5", b"text/csv, */*"]
)
@pytest.mark.parametrize("recorded", [AXIOS, REQUESTS, JSON, NPM, b"", b"text/csv"])
def test_whoever_asks_for_json_in_his_own_way_gets_it(live: bytes, recorded: bytes) -> None:
    assert takes(live, recorded, b"application/json; charset=utf-8")


@pytest.mark.parametrize(
    ("live", "recorded", "media"),
    [
        (b"text/csv", JSON, JSON),
        (JSON, b"text/csv", b"text/csv"),
        (DIFF, b"application/vnd.github+json", b"application/json"),
        (b"application/json;q=0, */*", JSON, JSON),
        (JSON, NPM, b"application/vnd.npm.install-v1+json"),
        (JSON, TABLE, JSON),
        (TABLE, JSON, JSON),
        (b"application/json;odata=fullmetadata", b"application/json;odata=nometadata", JSON),
        (b"application/vnd.heroku+json; version=2", b"application/vnd.heroku+json; version=3", b"application/vnd.heroku+json"),
        (b"image/webp", b"image/*", b"image/png"),
        (b"garbage", JSON, JSON),
    ],
)
def test_whoever_asks_for_something_else_does_not(live: bytes, recorded: bytes, media: bytes) -> None:
    assert not takes(live, recorded, media)


@pytest.mark.parametrize(
    ("live", "recorded", "media"),
    [
        (DIFF + b", application/json", DIFF, DIFF + b"; charset=utf-8"),
        (b"image/webp,image/*;q=0.5", b"image/png", b"image/png"),
        (b"application/json ; odata=nometadata;q=0.9", b"application/json;odata=nometadata", JSON),
        (b"text/html, *;q=.2", b"*/*", JSON),
    ],
)
def test_whoever_names_the_type_alike_does(live: bytes, recorded: bytes, media: bytes) -> None:
    assert takes(live, recorded, media)


@given(st.binary(max_size=60), st.binary(max_size=60), st.binary(max_size=30))
def test_it_takes_anything(live: bytes, recorded: bytes, media: bytes) -> None:
    assert takes(live, recorded, media) in (True, False)
    assert takes(b"*/*", b"*/*", media)
