"""requests: one session a connection."""

from collections.abc import Iterator

import requests

from tests.e2e.clients.command import Options, run_threads, told
from tests.e2e.truth.log import Told
from tests.e2e.truth.plan import MARKER, Step


def pieces(body: bytes) -> Iterator[bytes]:
    """The body in two parts, so that it is sent chunked."""
    yield body[: len(body) // 2]
    yield body[len(body) // 2 :]


def make(given: Options, number: int, steps: list[Step]) -> list[Told]:
    """Makes the steps of one connection."""
    with requests.Session() as session:
        session.trust_env = False
        session.verify = given.ca or True
        return [one(session, given.url, number, step) for step in steps]


def one(session: requests.Session, url: str, number: int, step: Step) -> Told:
    """Makes one step."""
    body = pieces(step.body()) if step.chunked else step.body() or None
    headers = {MARKER: step.marker, "Content-Type": "application/octet-stream"}
    with session.request(step.method, url + step.target, data=body, headers=headers, stream=True) as response:
        return told(step, number, response.status_code, response.raw.read(decode_content=False))


if __name__ == "__main__":
    run_threads(make)
