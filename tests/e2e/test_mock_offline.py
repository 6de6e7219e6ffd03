"""With the network gone: every client gets the recorded answers, by name and by address, and nothing leaves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import stripe

from tests.e2e.programs import ROOT, environment
from tests.engine.making import Exchange, write_snapshot

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left_behind")]

NODE = str(Path(sys.executable).with_name("node"))
ANSWER = b'{"answer":"recorded"}'
DYNAMODB = "dynamodb.us-east-1.amazonaws.com"
AWS = (("X-Amz-Target", "DynamoDB_20120810.ListTables"), ("Content-Type", "application/x-amz-json-1.0"))
CUSTOMER = b'{"id":"cus_1","object":"customer"}'
FETCH = "fetch(process.argv[1]).then(r => r.json()).then(j => console.log(JSON.stringify(j)), e => console.log(String(e.cause)))"
HTTPS = (
    "require('https').get(process.argv[1], r => { let b = ''; r.on('data', d => b += d); r.on('end', () => console.log(b)) })"
    ".on('error', e => console.log(e.code))"
)


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    hosts = [
        ("api.example.com", 443, True),
        ("plain.example.com", 8080, False),
        ("192.0.2.9", 443, True),
        ("2001:db8::9", 443, True),
    ]
    return write_snapshot(
        tmp_path_factory.mktemp("offline") / "world.snapshot",
        *(Exchange("GET /a", ANSWER, host=f"[{h}]" if ":" in h else h, port=port, tls=tls) for h, port, tls in hosts),
        Exchange("POST /", b'{"TableNames":["Orders"]}', headers=AWS, body=b"{}", host=DYNAMODB),
        # The version of the API that a client pins is a part of what it asks.
        Exchange("GET /v1/customers/cus_1", CUSTOMER, (("Stripe-Version", str(stripe.api_version)),), host="api.stripe.com"),
    )


def offline(snapshot: Path, *command: str, report: Path, options: tuple[str, ...] = (), leaves: int = 0) -> dict[str, Any]:
    """Runs a command under mock in a network that leads nowhere. `leaves`: the TCP port that is let through."""
    arguments = [str(snapshot), "--report", str(report), *options, "--", *command]
    whole = ["unshare", "--net", sys.executable, "-m", "tests.e2e.offline", *arguments]
    done = subprocess.run(whole, env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    # The resolver of ours may ask the system's for names that were not recorded; nothing else may leave.
    left = {(packet["protocol"], packet["port"]) for packet in found["left"]} - {(17, 53)}
    assert left == ({(6, leaves)} if leaves else set())
    return found


def calling(*steps: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "tests.kernel.calling", "several", *steps)


@pytest.mark.parametrize(
    "place", ["https://api.example.com", "http://plain.example.com:8080", "https://192.0.2.9", "https://[2001:db8::9]"]
)
def test_python_clients(snapshot: Path, place: str, tmp_path: Path) -> None:
    clients = ("with_requests", "with_httpx", "with_httpx_async", "with_aiohttp", "with_urllib")
    steps = [f"{client} {place}/a" for client in clients]
    found = offline(snapshot, *calling(*steps), report=tmp_path / "report")
    assert json.loads(found["said"]) == [{"answer": "recorded"}] * len(clients), found
    assert json.loads((tmp_path / "report").read_text())["responder_rate"] == 1


def test_sdks(snapshot: Path, tmp_path: Path) -> None:
    """The stripe SDK reads no variable: it trusts its own bundle only."""
    found = offline(snapshot, *calling("with_boto3 us-east-1", "with_stripe -"), report=tmp_path / "report")
    assert json.loads(found["said"]) == [200, "cus_1"], found


@pytest.mark.parametrize("program", [FETCH, HTTPS], ids=["fetch", "https"])
@pytest.mark.parametrize("host", ["api.example.com", "192.0.2.9"])
def test_node(snapshot: Path, program: str, host: str, tmp_path: Path) -> None:
    """Not by an IPv6 address: Node 24 takes it for a name and refuses every certificate (20 does not)."""
    found = offline(snapshot, NODE, "-e", program, f"https://{host}/a", report=tmp_path / "report")
    assert json.loads(found["said"]) == {"answer": "recorded"}, found


@pytest.mark.parametrize("options", [["-4"], ["-6"]])
def test_curl(snapshot: Path, options: list[str], tmp_path: Path) -> None:
    found = offline(snapshot, "curl", "-sS", *options, "https://api.example.com/a", report=tmp_path / "report")
    assert found["said"] == ANSWER.decode(), found


def test_a_name_that_was_never_recorded_is_told(snapshot: Path, tmp_path: Path) -> None:
    """It has an address all the same, so that what was meant can be said."""
    found = offline(snapshot, "curl", "-sS", "https://never.recorded.example/a", report=tmp_path / "report")
    report = json.loads((tmp_path / "report").read_text())
    assert found["said"] == ""
    assert {(call["host"], call["port"]) for call in report["refused"]} == {("never.recorded.example", 443)}
    assert "never.recorded.example:443" in found["told"]


def test_a_miss_says_what_differs(snapshot: Path, tmp_path: Path) -> None:
    found = offline(snapshot, "curl", "-sS", "https://api.example.com/b", report=tmp_path / "report")
    assert json.loads(found["said"])["understudy"]["nearest"]["operation"] == "GET /a"
    (miss,) = json.loads((tmp_path / "report").read_text())["misses"]
    assert [(each["recorded"], each["live"]) for each in miss["differences"]] == [("a", "b")]


def test_what_is_let_through_unrecorded_is_told_and_counts(snapshot: Path, tmp_path: Path) -> None:
    """By address, to another machine, where nobody answers: the call is real, and not an answer of the recording."""
    ask = ("curl", "-sS", "--noproxy", "*", "--connect-timeout", "1", "http://10.66.0.1:9/")
    found = offline(snapshot, *ask, report=tmp_path / "report", options=("--on-miss", "passthrough", "--fail-on-miss"), leaves=9)
    assert found["status"] == 3, found
    assert "not recorded, real connection: TCP 10.66.0.1:9, called by curl" in found["told"]
    kept = json.loads((tmp_path / "report").read_text())
    assert [(call["address"], call["port"]) for call in kept["unrecorded"]] == [("10.66.0.1", 9)]
    assert (kept["refused"], kept["passed_through"]) == ([], [])
