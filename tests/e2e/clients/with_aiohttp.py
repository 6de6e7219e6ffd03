"""aiohttp: TLS in memory on an event loop, one session a connection."""

import asyncio
import ssl
from collections.abc import AsyncIterator

import aiohttp

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
    async with (
        gate,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1, ssl=trust), auto_decompress=False) as session,
    ):
        return [await one(session, given.url, number, step) for step in steps]


async def one(session: aiohttp.ClientSession, url: str, number: int, step: Step) -> Told:
    """Makes one step."""
    body = pieces(step.body()) if step.chunked else step.body() or None
    headers = {MARKER: step.marker, "Content-Type": "application/octet-stream"}
    async with session.request(step.method, url + step.target, data=body, headers=headers) as response:
        return told(step, number, response.status, await response.read())


async def main() -> None:
    """Runs all connections on one loop."""
    given, gate = options(), asyncio.Semaphore(AT_ONCE)
    made = await asyncio.gather(*(make(given, gate, number, steps) for number, steps in enumerate(given.steps)))
    finish(given, [line for lines in made for line in lines])


if __name__ == "__main__":
    asyncio.run(main())
