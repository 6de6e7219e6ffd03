"""Runs `understudy mock` in a network that leads nowhere, and counts what leaves: python -m tests.e2e.offline ARGUMENT...

The network namespace is this process's own: a loopback, and a cable with default routes, IPv4 and IPv6, to nobody.
Prints JSON: status, what the command printed, what mock said, and the packets that left.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

from tests.e2e.programs import environment
from tests.e2e.recording import UNDERSTUDY
from tests.kernel.world import ETH_P_ALL, packet

DEVICE = "nowhere"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def main() -> None:
    ip("link", "set", "lo", "up")
    ip("link", "add", DEVICE, "type", "veth", "peer", "name", "void")
    for address, gateway in (("10.66.0.2/24", "10.66.0.1"), ("fd66::2/64", "fd66::1")):
        ip("address", "add", address, "dev", DEVICE, *(["nodad"] if ":" in address else []))
        ip("neigh", "add", gateway, "lladdr", "02:00:00:00:00:01", "dev", DEVICE)  # so that packets would be sent
    ip("link", "set", "void", "up")
    ip("link", "set", DEVICE, "up")
    for gateway in ("10.66.0.1", "fd66::1"):
        ip("route", "add", "default", "via", gateway)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as watch:
        watch.bind((DEVICE, 0))
        watch.setblocking(False)
        command = [UNDERSTUDY, "mock", *sys.argv[1:]]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=200)
        left = []
        while True:
            try:
                found = packet(watch.recv(2048))
            except BlockingIOError:
                break
            if found:
                left.append(found)
    print(json.dumps({"status": done.returncode, "said": done.stdout, "told": done.stderr, "left": left}))


if __name__ == "__main__":
    os.environ.pop("PYTHONWARNINGS", None)
    main()
