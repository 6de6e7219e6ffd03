"""Memory of the agent and of the engine while they record 1,000 exchanges of up to 4 MiB over 50 TLS connections.

The ring is left out of the agent's figure: it is the kernel's memory, and mapped twice it counts double.
"""

from __future__ import annotations

import os
import ssl
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import psutil
import trustme

from tests.e2e.programs import client
from tests.e2e.recording import part, start_recording
from tests.e2e.truth.server import TruthServer

AIMS = {"agent": 80, "engine": 120}
"""MB."""

RING = "anon_inode:bpf-map"


def resident(process: psutil.Process) -> float:
    """Resident memory in MB, without the ring."""
    return float(sum(area.rss for area in process.memory_maps(grouped=True) if RING not in area.path)) / 1e6


def watch(recorder: subprocess.Popen[bytes]) -> dict[str, float]:
    """The most that each part held, looked at every 50 ms."""
    most = dict.fromkeys(AIMS, 0.0)
    while True:
        with suppress(subprocess.TimeoutExpired):
            recorder.communicate(timeout=0.05)
            return most
        for name in most:
            with suppress(LookupError, psutil.Error):
                most[name] = max(most[name], resident(part(recorder.pid, name)))


def main() -> None:
    """Measure and print."""
    if os.geteuid() != 0:
        print("memory: needs root")
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(folder / "ca.pem"))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
        with TruthServer(context) as server:
            command = client("with_requests", server.url, folder / "log", "--exchanges", "1000", ca=folder / "ca.pem")
            most = watch(start_recording(folder / "snapshot", *command))
        for part_name, aim in AIMS.items():
            print(f"{part_name:8}{most[part_name]:7.1f} MB at most (aim: {aim} MB)")


if __name__ == "__main__":
    main()
