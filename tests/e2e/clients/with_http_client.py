"""http.client of the standard library: one connection object a connection."""

import contextlib
import http.client
import ssl
from urllib.parse import urlsplit

from tests.e2e.clients.command import Options, run_threads, told
from tests.e2e.truth.log import Told
from tests.e2e.truth.plan import MARKER, Step


def connect(given: Options) -> http.client.HTTPConnection:
    """A connection to the server, not yet open."""
    netloc = urlsplit(given.url).netloc
    if not given.ca:
        return http.client.HTTPConnection(netloc)
    return http.client.HTTPSConnection(netloc, context=ssl.create_default_context(cafile=given.ca))


def make(given: Options, number: int, steps: list[Step]) -> list[Told]:
    """Makes the steps of one connection."""
    with contextlib.closing(connect(given)) as connection:
        return [one(connection, number, step) for step in steps]


def one(connection: http.client.HTTPConnection, number: int, step: Step) -> Told:
    """Makes one step."""
    headers = {MARKER: step.marker, "Content-Type": "application/octet-stream"}
    if step.chunked:
        body = step.body()
        half = len(body) // 2
        headers["Transfer-Encoding"] = "chunked"
        connection.request(step.method, step.target, iter([body[:half], body[half:]]), headers, encode_chunked=True)
    else:
        connection.request(step.method, step.target, step.body() or None, headers)
    response = connection.getresponse()
    return told(step, number, response.status, response.read())


if __name__ == "__main__":
    run_threads(make)
