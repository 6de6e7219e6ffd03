"""When a part of ours is killed, the command goes on as if nothing were there, and nothing stays behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.e2e.conftest import Authority
from tests.e2e.machine import eventually
from tests.e2e.programs import client
from tests.e2e.recording import TIMEOUT, as_exchanges, pairs, part, start_recording
from tests.e2e.truth.log import read_told
from tests.e2e.truth.server import TruthServer

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left_behind")]

EXCHANGES = 600
MOMENTS = (1, 90, 350)
"""How many exchanges the server has answered when the blow falls: at the very start, under load, late."""


def check_arrived(snapshot: Path, server: TruthServer) -> None:
    """The snapshot opens, and what it calls complete is true. Places on a connection do not count: some are missing."""
    complete = [pair for pair in pairs(snapshot) if pair["complete"]]
    arrived = [replace(exchange, index=0) for exchange in as_exchanges(complete)]
    assert len(arrived) == len(set(arrived))
    assert set(arrived) - {replace(exchange, index=0) for exchange in server.exchanges} == set()


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("victim", ["agent", "engine"])
def test_the_command_outlives_a_part_of_ours(
    victim: str, moment: int, tls_server: TruthServer, authority: Authority, tmp_path: Path
) -> None:
    log, status = tmp_path / "log", tmp_path / "status"
    command = client("with_requests", tls_server.url, log, "--exchanges", str(EXCHANGES), ca=authority.ca)
    # The shell keeps the client's own status: what `record` makes of it is another question.
    process = start_recording(tmp_path / "snapshot", "sh", "-c", f'"$@"; echo $? > {status}', "sh", *command)
    with process:
        assert tls_server.wait_for(moment, TIMEOUT)
        part(process.pid, victim).kill()
        _, errors = process.communicate(timeout=TIMEOUT)
    assert status.read_text() == "0\n", errors.decode()
    assert process.returncode in (0, 125)
    assert tls_server.failures == []
    assert len(read_told(log)) == len(tls_server.exchanges) == EXCHANGES
    check_arrived(tmp_path / "snapshot", tls_server)
    if victim == "engine":  # another goes on in its place
        assert process.returncode == 0, errors.decode()
        assert len(pairs(tmp_path / "snapshot")) == EXCHANGES


def test_the_command_outlives_record_itself(tls_server: TruthServer, authority: Authority, tmp_path: Path) -> None:
    log, status = tmp_path / "log", tmp_path / "status"
    command = client("with_requests", tls_server.url, log, "--exchanges", str(EXCHANGES), ca=authority.ca)
    process = start_recording(tmp_path / "snapshot", "sh", "-c", f'"$@"; echo $? > {status}', "sh", *command)
    with process:
        assert tls_server.wait_for(MOMENTS[1], TIMEOUT)
        process.kill()
        assert eventually(lambda: status.exists() and status.read_text() != "", TIMEOUT)
    assert status.read_text() == "0\n"
    assert len(read_told(log)) == len(tls_server.exchanges) == EXCHANGES
