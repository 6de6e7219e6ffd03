"""curl: one process a connection, which takes its requests from a config file and keeps the connection."""

import subprocess
import tempfile
from pathlib import Path

from tests.e2e.clients.command import Options, run_threads, told
from tests.e2e.truth.log import Told
from tests.e2e.truth.plan import MARKER, Step


def make(given: Options, number: int, steps: list[Step]) -> list[Told]:
    """Makes the steps of one connection."""
    with tempfile.TemporaryDirectory(prefix="client-") as name:
        folder = Path(name)
        config = "next\n".join(entry(given, folder, step) for step in steps)
        command = ["curl", "--disable", "--silent", "--show-error", "--config", "-"]
        done = subprocess.run(command, input=config, capture_output=True, text=True, check=True)
        statuses = [int(line) for line in done.stdout.split()]
        return [told(step, number, status, answer(folder, step)) for step, status in zip(steps, statuses, strict=True)]


def entry(given: Options, folder: Path, step: Step) -> str:
    """One request in curl's config language."""
    lines = [
        f'url = "{given.url}{step.target}"',
        f'header = "{MARKER}: {step.marker}"',
        f'output = "{folder}/{step.marker}.answer"',
        'write-out = "%{http_code}\\n"',
        'noproxy = "*"',
        "http1.1",
        "head" if step.method == "HEAD" else f'request = "{step.method}"',
    ]
    if given.ca:
        lines.append(f'cacert = "{given.ca}"')
    if step.request_size:
        body = folder / f"{step.marker}.request"
        body.write_bytes(step.body())
        lines += [f'data-binary = "@{body}"', 'header = "Content-Type: application/octet-stream"']
    if step.chunked:
        lines.append('header = "Transfer-Encoding: chunked"')
    return "\n".join(lines) + "\n"


def answer(folder: Path, step: Step) -> bytes:
    """The body that curl stored; with HEAD it stores the header there, without a body it stores nothing."""
    file = folder / f"{step.marker}.answer"
    return file.read_bytes() if step.method != "HEAD" and file.exists() else b""


if __name__ == "__main__":
    run_threads(make)
