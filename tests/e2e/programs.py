"""How the tests start programs: the clients, and commands under `understudy record`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CLIENTS = ("with_requests", "with_http_client", "with_curl", "with_aiohttp", "with_httpx")

_TRUST = (
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "AWS_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
)


def environment(**extra: str) -> dict[str, str]:
    """This process's environment, plus `extra`, without what would make a client trust or route otherwise.

    SUDO_* goes too: under `sudo make test`, commands run as root in this environment, and not as whoever called sudo.
    """
    kept = {key: value for key, value in os.environ.items() if key not in _TRUST and not key.startswith("SUDO_")}
    kept = {key: value for key, value in kept.items() if not key.lower().endswith("_proxy")}
    return kept | {"PYTHONPATH": f"{ROOT}:{ROOT}/proto", "PYTHONDONTWRITEBYTECODE": "1"} | extra


def client(name: str, url: str, log: Path, *arguments: str, ca: Path | None = None) -> list[str]:
    """Command line of a client program. `arguments` are options of tests.e2e.clients.command."""
    trust = ["--ca", str(ca)] if ca else []
    return [sys.executable, "-m", f"tests.e2e.clients.{name}", url, "--log", str(log), *trust, *arguments]
