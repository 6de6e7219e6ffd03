from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.responder.authority import Authority
from engine.responder.server import Responder
from tests.engine.making import Exchange, write_snapshot

Serve = Callable[..., Responder]


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def serve(tmp_path: Path, authority: Authority) -> Iterator[Serve]:
    """Starts responders for exchanges; ends them."""
    started: list[Responder] = []

    def start(*exchanges: Exchange, listen: str = "127.0.0.1", **options: Any) -> Responder:
        path = write_snapshot(tmp_path / f"{len(started)}.snapshot", *exchanges)
        responder = Responder(path, authority, **options)
        responder.start(listen)
        started.append(responder)
        return responder

    yield start
    for responder in started:
        responder.stop()
