"""What is captured of real clients is what their server saw: every exchange, once, whole, on its own connection."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from engine.snapshot import Snapshot
from tests.e2e.conftest import Authority
from tests.e2e.programs import CLIENTS, ROOT, client, environment
from tests.e2e.recording import Done, Pair, as_exchanges, differences, pairs, record
from tests.e2e.truth.log import read_told
from tests.e2e.truth.server import TruthServer

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left_behind")]

CONNECTIONS, EXCHANGES = 50, 1000


def recorded(
    name: str,
    server: TruthServer,
    folder: Path,
    ca: Path | None = None,
    connections: int = CONNECTIONS,
    exchanges: int = EXCHANGES,
) -> tuple[Done, list[Pair]]:
    """Records a client; how it ended and what was captured."""
    options = ("--connections", str(connections), "--exchanges", str(exchanges))
    done = record(folder / "snapshot", *client(name, server.url, folder / "log", *options, ca=ca))
    return done, pairs(folder / "snapshot")


def check(done: Done, captured: list[Pair], server: TruthServer, log: Path) -> None:
    """The client was unharmed, and the capture is the server's truth."""
    assert done.status == 0, done.stderr
    assert server.failures == []
    assert len(read_told(log)) == len(server.exchanges)
    assert [pair["id"] for pair in captured if not pair["complete"] or pair["missing"]] == []
    assert differences(as_exchanges(captured), server.exchanges) == []


@pytest.mark.parametrize("name", CLIENTS)
def test_tls_is_captured_whole(name: str, tls_server: TruthServer, authority: Authority, tmp_path: Path) -> None:
    done, captured = recorded(name, tls_server, tmp_path, authority.ca)
    check(done, captured, tls_server, tmp_path / "log")
    assert len(captured) == EXCHANGES
    assert len({pair["connection"]["id"] for pair in captured}) == CONNECTIONS
    for pair in captured:
        assert (pair["direction"], pair["host"], pair["port"]) == ("OUT", "localhost", tls_server.port)
        assert (pair["tls"], pair["protocol"]) == (True, "http/1.1")
        assert (pair["connection"]["remote_address"], pair["connection"]["remote_port"]) == ("127.0.0.1", tls_server.port)
        assert pair["connection"]["server_name"] == "localhost"
        assert pair["connection"]["tls_version"] == "TLS 1.3"


@pytest.mark.parametrize("name", CLIENTS)
def test_plain_sockets_are_captured_whole(name: str, plain_server: TruthServer, tmp_path: Path) -> None:
    done, captured = recorded(name, plain_server, tmp_path, None, 20, 400)
    check(done, captured, plain_server, tmp_path / "log")
    assert {(pair["tls"], pair["connection"]["server_name"]) for pair in captured} == {(False, "")}


def test_tls_sessions_that_take_over_an_address_are_not_mixed_up(
    tls_server: TruthServer, authority: Authority, tmp_path: Path
) -> None:
    done, captured = recorded("with_http_client", tls_server, tmp_path, authority.ca, 3000, 3000)
    check(done, captured, tls_server, tmp_path / "log")
    assert len({pair["connection"]["id"] for pair in captured}) == 3000


def keep_running(command: list[str], stop: threading.Event) -> None:
    """Runs a command over and over."""
    while not stop.is_set():
        subprocess.run(command, env=environment(), cwd=ROOT, check=True, capture_output=True)


def test_other_processes_are_not_captured(tls_server: TruthServer, authority: Authority, tmp_path: Path) -> None:
    others = client("with_http_client", tls_server.url, tmp_path / "others", "--name", "other", ca=authority.ca)
    stop = threading.Event()
    noise = threading.Thread(target=keep_running, args=(others, stop))
    noise.start()
    try:
        assert tls_server.wait_for(1, 30)
        done, captured = recorded("with_requests", tls_server, tmp_path, authority.ca, 10, 100)
    finally:
        stop.set()
        noise.join()
    truth = [exchange for exchange in tls_server.exchanges if exchange.marker.startswith("m-")]
    assert done.status == 0
    assert len(truth) < len(tls_server.exchanges)
    assert differences(as_exchanges(captured), truth) == []


FETCH = """
(async () => {
  for (let n = 0; n < 40; n++) {
    const url = `${process.argv[1]}/${n % 2 ? "length" : "gzip"}/${n * 7001}/m-${n}`
    await (await fetch(url, { headers: { "x-marker": `m-${n}` } })).arrayBuffer()
  }
})()
"""


def test_node_is_captured_whole(tls_server: TruthServer, authority: Authority, tmp_path: Path) -> None:
    """Its OpenSSL is its own and writes to memory: only the ciphertext tells which socket a session is of.

    Some of it is sent from inside of calls of the library, which is no sign that the rest was written past them.
    """
    node = str(Path(sys.executable).with_name("node"))
    trust = {"NODE_EXTRA_CA_CERTS": str(authority.ca)}
    done = record(tmp_path / "snapshot", node, "-e", FETCH, tls_server.url, variables=trust)
    captured = pairs(tmp_path / "snapshot")
    assert done.status == 0, done.stderr
    assert differences(as_exchanges(captured), tls_server.exchanges) == []
    assert len(captured) == 40
    assert {pair["connection"]["bound_by"] for pair in captured} == {"ciphertext"}
    with Snapshot(tmp_path / "snapshot") as snapshot:
        assert list(snapshot.flows()) == []
    assert all(pair["complete"] for pair in captured)
