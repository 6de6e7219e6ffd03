"""A recorded command that records a command of its own: neither takes the other's part."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.conftest import Authority
from tests.e2e.recording import UNDERSTUDY, as_exchanges, differences, pairs, record
from tests.e2e.truth.plan import MARKER
from tests.e2e.truth.server import TruthServer

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left_behind"), pytest.mark.timeout(120)]


def test_both_see_what_the_inner_command_says(tls_server: TruthServer, authority: Authority, tmp_path: Path) -> None:
    """And the outer one what is said after the inner one has ended and removed its cgroup."""
    outer, inner = tmp_path / "outer", tmp_path / "inner"
    curl = f'curl -fsS --cacert {authority.ca} -o /dev/null -H "{MARKER}: $0" {tls_server.url}/length/1000/m'
    script = f"{UNDERSTUDY} record -o {inner} -- sh -c '{curl}' 1 && sh -c '{curl}' 2"
    done = record(outer, "sh", "-c", script)
    assert done.status == 0, done.stderr
    first = [exchange for exchange in tls_server.exchanges if exchange.marker == "1"]
    assert differences(as_exchanges(pairs(inner)), first) == []
    assert len(tls_server.exchanges) == 2
    # The outer one is a command line too: what its parts say to each other by unix sockets is no traffic.
    assert differences(as_exchanges(pairs(outer)), tls_server.exchanges) == []
