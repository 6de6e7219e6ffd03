"""The demo: a payment service that knows nothing of Understudy is recorded, and the recording is checked.

Run it by `make demo`. Exit status 0 only where everything that is claimed was seen to hold.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import boto3
import psutil

from deploy.demo import stage, verify
from deploy.demo.orders import SECRETS, SETTINGS, Shop

UNDERSTUDY = stage.BIN / "understudy"
SNAPSHOT = stage.ROOT / "demo.snapshot"
SERVICE = Path(__file__).with_name("payment.py")
SERVICE_PORT = 8080


def say(text: str) -> None:
    """A line of progress."""
    print(f"demo: {text}", flush=True)


def create_table() -> None:
    """The table that payment expects, made past the front so that nobody's log has it."""
    client = boto3.client(
        "dynamodb",
        endpoint_url=f"http://127.0.0.1:{stage.PORTS[stage.DYNAMODB]}",
        region_name="us-east-1",
        aws_access_key_id="operator",
        aws_secret_access_key="operator",
    )
    key = [{"AttributeName": "id", "KeyType": "HASH"}]
    index = [{"AttributeName": "customer", "KeyType": "HASH"}]
    client.create_table(
        TableName="Orders",
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("id", "customer")],
        KeySchema=key,
        GlobalSecondaryIndexes=[{"IndexName": "by-customer", "KeySchema": index, "Projection": {"ProjectionType": "ALL"}}],
    )


def serve(log: Path, *understudy: str | Path) -> Shop:
    """Runs payment under a command of understudy while it works through a day; what was asked of it and answered."""
    command = (UNDERSTUDY, *understudy, "--", sys.executable, SERVICE)
    shop = Shop("127.0.0.1", SERVICE_PORT)
    with stage.child(*command, log=log, PORT=str(SERVICE_PORT), **SETTINGS) as running:
        stage.wait_until_listening("127.0.0.1", SERVICE_PORT, running, log)
        shop.a_day()
        payment(running.pid).send_signal(signal.SIGTERM)
        status = running.wait(stage.STOP_WITHIN)
    print(log.read_text(), end="", flush=True)
    if status != 0:
        raise RuntimeError(f"{understudy[0]} ended with {status}, payment alone ends with 0")
    return shop


def payment(recorder: int) -> psutil.Process:
    """The service's process, below the recorder."""
    below = psutil.Process(recorder).children(recursive=True)
    return next(process for process in below if process.cmdline()[1:] == [str(SERVICE)])


def inspect(*options: str) -> str:
    """What `understudy inspect` says of the snapshot."""
    command = [str(UNDERSTUDY), "inspect", str(SNAPSHOT), *options]
    return subprocess.check_output(command, env=stage.environment(), text=True)


def check(folder: Path, shop: Shop) -> list[str]:
    """What the recording has wrong: nothing, if all is well."""
    pairs: list[dict[str, Any]] = [json.loads(line) for line in inspect("--json").splitlines()]
    truth = {host: verify.read_access_log(folder / f"{host}.access") for host in stage.ADDRESSES}
    for host, calls in truth.items():
        say(f"{host} says that it answered {len(calls)} requests")
    say(f"payment was asked {len(shop.made)} times; the snapshot holds {len(pairs)} pairs")
    return verify.compare(pairs, truth, shop.made) + verify.find_secrets(SNAPSHOT, pairs, SECRETS)


def compare_answers(real: Shop, mocked: Shop) -> list[str]:
    """What payment answered differently with its backends gone: nothing, if all is well."""
    both = zip(real.made, real.answers, mocked.made, mocked.answers, strict=True)
    return [
        f"{made[0]} {made[1]}: {made[2]} {answer} with the backends, {again[2]} {other} without"
        for made, answer, again, other in both
        if (made, answer) != (again, other)
    ]


def main() -> int:
    """Sets the stage, records, shows, checks; takes the world away, mocks, compares."""
    stage.enter()
    # A polite kill cleans up as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    SNAPSHOT.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="understudy-demo-") as name:
        folder = Path(name)
        say("starting DynamoDB (moto) and Stripe (localstripe) behind nginx, under their real names")
        with stage.backends(folder):
            create_table()
            say("recording payment while orders come in")
            real = serve(folder / "record.log", "record", "-o", SNAPSHOT)
        print(inspect(), flush=True)
        problems = check(folder, real)
        say("the backends are gone, and their names and certificates with them; the same orders come in again")
        report = folder / "report.json"
        mocked = serve(folder / "mock.log", "mock", SNAPSHOT, "--fail-on-miss", "--report", report)
        problems += compare_answers(real, mocked)
        found = json.loads(report.read_text())
        if found["responder_rate"] != 1:
            problems.append(f"the responder rate is {found['responder_rate']}")
    for problem in problems:
        say(f"WRONG: {problem}")
    if not problems:
        say("every request that a peer saw is in the snapshot, once and whole; none of the secrets is")
        say(f"without its backends payment gave the same {len(mocked.answers)} answers; responder rate 100 %")
    return 1 if problems else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
