"""The stage: DynamoDB and Stripe under their real names with real TLS, in a network that nobody else sees.

The stage is the driver's own network and mount namespace: it is gone when the driver and its children are.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import trustme

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
DYNAMODB, STRIPE = "dynamodb.us-east-1.amazonaws.com", "api.stripe.com"
ADDRESSES = {DYNAMODB: "127.0.0.2", STRIPE: "127.0.0.3"}
PORTS = {DYNAMODB: 5000, STRIPE: 8420}
READY_WITHIN = 60.0
"""Seconds that a backend may take to listen: moto imports a lot."""
STOP_WITHIN = 10.0
"""Seconds that a child may take to end after SIGTERM before it is killed."""

_TRUST = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE")
_INSIDE = "UNDERSTUDY_DEMO_STAGE"


def enter() -> None:
    """Starts the driver again, as root and in namespaces of its own, unless that has been done."""
    if os.environ.get(_INSIDE):
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        return
    command = ["unshare", "--net", "--mount", "env", f"{_INSIDE}=1", sys.executable, "-m", "deploy.demo.run"]
    if os.geteuid() != 0:
        print("demo: namespaces and capture need root: going on with sudo", flush=True)
        command = ["sudo", *command]
    os.chdir(ROOT)
    os.execvp(command[0], command)


def environment(**extra: str) -> dict[str, str]:
    """This environment without what makes programs trust, route or ask for somebody otherwise, plus `extra`.

    SUDO_* goes too: payment shall have the environment of the stage, not that of whoever called sudo before it was set.
    """
    kept = {key: value for key, value in os.environ.items() if key not in (*_TRUST, _INSIDE)}
    return {key: value for key, value in kept.items() if not key.lower().endswith("_proxy") and not key.startswith("SUDO_")} | extra


@contextlib.contextmanager
def child(*command: str | Path, log: Path, **extra: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs as long as the context, and no longer than the driver. Its output goes to `log`."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment(**extra),
            # Ctrl-C is the driver's: it ends its children in order.
            start_new_session=True,
        )
    try:
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> int:
    """Ends a child and waits for it; its exit status."""
    process.terminate()
    try:
        return process.wait(STOP_WITHIN)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def wait_until_listening(address: str, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Returns once a connection is accepted. RuntimeError where the program ends first or takes too long."""
    deadline = time.monotonic() + READY_WITHIN
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"nothing listens on {address}:{port}; its log says:\n{log.read_text()[-2000:]}")


@contextlib.contextmanager
def backends(folder: Path) -> Iterator[Path]:
    """DynamoDB and Stripe as the outside world; the folder of nginx's access logs, complete after the context.

    Everything is written below `folder`.
    """
    front = Path("nginx")
    # localstripe keeps its state in /tmp: it gets one of its own, in which this clone is where it was, if that was there.
    own_tmp = 'mount -t tmpfs tmpfs /tmp && mkdir -p "$0" && mount --no-canonicalize --bind . "$0" && exec "$@"'
    stripe = ["unshare", "--mount", "env", "-C", str(ROOT), "sh", "-c", own_tmp, str(ROOT)]
    stripe += [str(ROOT / ".demo/localstripe/bin/localstripe"), "--from-scratch", "--port", str(PORTS[STRIPE])]
    moto = [BIN / "moto_server", "-H", "127.0.0.1", "-p", str(PORTS[DYNAMODB])]
    with contextlib.ExitStack() as stack:
        configuration = _nginx_configuration(folder, _make_trusted(folder, stack))
        for host, command in ((STRIPE, stripe), (DYNAMODB, moto)):
            log = folder / f"{host}.log"
            wait_until_listening("127.0.0.1", PORTS[host], stack.enter_context(child(*command, log=log)), log)
        log = folder / "nginx.log"
        nginx = stack.enter_context(child(front, "-e", log, "-c", configuration, log=log))
        for address in ADDRESSES.values():
            wait_until_listening(address, 443, nginx, log)
        yield folder


def _make_trusted(folder: Path, stack: contextlib.ExitStack) -> trustme.CA:
    """An authority that every program on the stage trusts, and the names of the backends: until the stack is left."""
    authority = trustme.CA()
    hosts = folder / "hosts"
    hosts.write_text("127.0.0.1 localhost\n" + "".join(f"{address} {name}\n" for name, address in ADDRESSES.items()))
    _mount(hosts, Path("/etc/hosts"), stack)
    for number, bundle in enumerate(_bundles()):
        combined = folder / f"bundle-{number}.pem"
        combined.write_bytes(bundle.read_bytes() + b"\n" + authority.cert_pem.bytes())
        _mount(combined, bundle, stack)
    return authority


def _bundles() -> list[Path]:
    """The files of trusted authorities that exist here: the system's, and those that Python packages bring."""
    inside = {"stripe": "data/ca-certificates.crt", "botocore": "cacert.pem", "certifi": "cacert.pem"}
    found = [Path("/etc/ssl/certs/ca-certificates.crt")]
    for package, name in inside.items():
        spec = importlib.util.find_spec(package)
        if spec and spec.origin:
            found.append(Path(spec.origin).parent / name)
    return [path for path in found if path.exists()]


def _mount(source: Path, target: Path, stack: contextlib.ExitStack) -> None:
    subprocess.run(["mount", "--bind", source, target], check=True)
    stack.callback(lambda: subprocess.run(["umount", target], check=True))


def _nginx_configuration(folder: Path, authority: trustme.CA) -> Path:
    """Writes keys, certificates and nginx.conf; its path. Access logs are HOST.access, one JSON object a request."""
    for host in ADDRESSES:
        leaf = authority.issue_cert(host)
        leaf.private_key_and_cert_chain_pem.write_to_path(str(folder / f"{host}.pem"))
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    path = folder / "nginx.conf"
    path.write_text(
        f"daemon off;\nuser root;\nworker_processes 1;\npid {folder}/nginx.pid;\nevents {{}}\nhttp {{\n{temporary}"
        'log_format truth escape=json \'{"method":"$request_method","target":"$request_uri","status":$status}\';\n'
        + "".join(_nginx_server(folder, host) for host in ADDRESSES)
        + "}\n"
    )
    return path


def _nginx_server(folder: Path, host: str) -> str:
    return f"""
    server {{
        listen {ADDRESSES[host]}:443 ssl;
        server_name {host};
        ssl_certificate {folder}/{host}.pem;
        ssl_certificate_key {folder}/{host}.pem;
        access_log {folder}/{host}.access truth;
        location / {{
            proxy_pass http://127.0.0.1:{PORTS[host]};
            proxy_http_version 1.1;
            proxy_set_header Host {host};
            proxy_set_header Connection "";
        }}
    }}
"""
