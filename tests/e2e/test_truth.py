"""The measure itself: what a client says it did and what the server says it saw are one."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.e2e.conftest import Authority
from tests.e2e.programs import CLIENTS, ROOT, client, environment
from tests.e2e.recording import differences
from tests.e2e.truth.log import read_told
from tests.e2e.truth.plan import BIG, Form, plan
from tests.e2e.truth.server import TruthServer

CONNECTIONS, EXCHANGES = 17, 17 * 20


def run(name: str, server: TruthServer, log: Path, ca: Path | None = None) -> None:
    """Runs a client against the server."""
    counts = ("--connections", str(CONNECTIONS), "--exchanges", str(EXCHANGES))
    subprocess.run(client(name, server.url, log, *counts, ca=ca), env=environment(), cwd=ROOT, check=True, timeout=120)


def compare(server: TruthServer, log: Path) -> None:
    """Both logs hold the same exchanges, and a client's connection is one connection of the server's."""
    told = {line.marker: line for line in read_told(log)}
    seen = {exchange.marker: exchange for exchange in server.exchanges}
    assert server.failures == []
    assert len(server.exchanges) == len(seen) == len(told) == EXCHANGES
    assert {m: (t.request, t.status, t.response) for m, t in told.items()} == {
        m: (s.request, s.status, s.response) for m, s in seen.items()
    }
    pairs = {(told[marker].connection, seen[marker].connection) for marker in told}
    assert len(pairs) == len({ours for ours, _ in pairs}) == len({theirs for _, theirs in pairs}) == CONNECTIONS
    by_connection = {theirs: sorted(e.index for e in seen.values() if e.connection == theirs) for _, theirs in pairs}
    assert all(indexes == list(range(len(indexes))) for indexes in by_connection.values())


@pytest.mark.parametrize("name", CLIENTS)
def test_client_and_server_agree_over_tls(name: str, tls_server: TruthServer, authority: Authority, tmp_path: Path) -> None:
    run(name, tls_server, tmp_path / "log", authority.ca)
    compare(tls_server, tmp_path / "log")


@pytest.mark.parametrize("name", CLIENTS)
def test_client_and_server_agree_without_tls(name: str, plain_server: TruthServer, tmp_path: Path) -> None:
    run(name, plain_server, tmp_path / "log")
    compare(plain_server, tmp_path / "log")


def test_differences_are_told_apart(plain_server: TruthServer, tmp_path: Path) -> None:
    run("with_http_client", plain_server, tmp_path / "log")
    truth = sorted(plain_server.exchanges, key=lambda exchange: exchange.marker)
    first, second, *rest = truth
    other = replace(first, connection=second.connection + "1")
    assert differences(truth, truth) == []
    assert differences([first, *truth], truth) == [f"{first.marker}: captured 2 times"]
    assert differences([second, *rest], truth) == [f"{first.marker}: missed"]
    assert differences(truth, [second, *rest]) == [f"{first.marker}: never happened"]
    assert differences([other, second, *rest], truth) == [f"{first.marker}: {other}\nis not\n{first}"]


def test_the_plan_holds_every_form_and_the_sizes_in_question() -> None:
    steps = [step for connection in plan(50, 1000) for step in connection]
    assert len(steps) == len({step.marker for step in steps}) == 1000
    assert {step.form for step in steps} == set(Form)
    assert {0, BIG} <= {step.request_size for step in steps}
    assert {0, BIG} <= {step.answer_size for step in steps}
    assert {step.chunked for step in steps} == {False, True}
