"""httpx in its asynchronous form: TLS in memory on an event loop, one client a connection."""

import asyncio
import ssl
from collections.abc import AsyncIterator

import httpx

from tests.e2e.clients.command import AT_ONCE, Options, finish, options, told
from tests.e2e.truth.log import Told
from tests.e2e.truth.plan import MARKER, Step


async def pieces(body: bytes) -> AsyncIterator[bytes]:
    """The body in two parts, so that it is sent chunked."""
    yield body[: len(body) // 2]
    yield body[len(body) // 2 :]


async def make(given: Options, gate: asyncio.Semaphore, number: int, steps: list[Step]) -> list[Told]:
    """Makes the steps of one connection."""
    trust = ssl.create_default_context(cafile=given.ca) if given.ca else True
    limits = httpx.Limits(max_connections=1)
    async with gate, httpx.AsyncClient(verify=trust, limits=limits, trust_env=False, timeout=60) as client:
        return [await one(client, given.url, number, step) for step in steps]


async def one(client: httpx.AsyncClient, url: str, number: int, step: Step) -> Told:
    """Makes one step."""
    body = pieces(step.body()) if step.chunked else step.body() or None
    headers = {MARKER: step.marker, "Content-Type": "application/octet-stream"}
    async with client.stream(step.method, url + step.target, content=body, headers=headers) as response:
        raw = b"".join([part async for part in response.aiter_raw()])
        return told(step, number, response.status_code, raw)


async def main() -> None:
    """Runs all connections on one loop."""
    given, gate = options(), asyncio.Semaphore(AT_ONCE)
    made = await asyncio.gather(*(make(given, gate, number, steps) for number, steps in enumerate(given.steps)))
    finish(given, [line for lines in made for line in lines])


if __name__ == "__main__":
    asyncio.run(main())
