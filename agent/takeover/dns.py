"""The resolver that a workload's programs reach whichever server they ask: on the loopback of their network, by UDP and TCP.

It answers as Names says, and asks the machine's own servers for the rest. What becomes of a name is decided over both families:
where one of them has addresses, the name is there, whatever the servers say of the other. It runs on a thread of its own, which
lives in the network of the workload. A filter on its sockets takes what the workload sends only.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from agent.takeover import network
from agent.takeover.events import SERVERS_MAX, Address
from agent.takeover.message import AAAA, IN, A, Code, Query, answer, asking_for, read_query, read_response, readdressed, refuse
from agent.takeover.names import Names, Way

FORWARD_SECONDS = 1.2
"""Per server. With three of them it stays below the five seconds after which glibc asks again (resolv.conf(5))."""

FORWARDS_MAX = 256
"""Questions under way at once; what comes on top is told to try again."""

CONNECTIONS_MAX = 64
"""TCP connections at once: programs use TCP for large answers only."""

IDLE_SECONDS = 10.0
"""How long a TCP connection may be silent (RFC 7766 section 6.2.3 asks for a few seconds)."""

ADDRESS_SECONDS = 60
"""How long programs may remember the addresses of recorded names. They hold for the whole takeover."""

DECISION_SECONDS = 5
"""How long what the machine's servers said of a name holds here, and addresses that hang on it in programs: a name that is there a
moment later is found."""

REPLIES_MAX = 4096
"""Names times families whose answers are kept: a program asks for tens."""

REPLY_BYTES_MAX = 4096
"""Of an answer that is kept: others are asked for again. Few are larger than a packet (RFC 9715), but one may have 64 KiB."""

DNS_PORT = 53

SO_ATTACH_BPF, SO_DETACH_FILTER = 50, 27
"""socket(7), <asm-generic/socket.h>: the same on all machine architectures that we have."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Where it listens on 127.0.0.1 and ::1; 0, or nowhere: not there. By UDP at one port for each server that one socket asks."""

    udp4: tuple[int, ...] = ()
    tcp4: int = 0
    udp6: tuple[int, ...] = ()
    tcp6: int = 0


@dataclass(frozen=True, slots=True)
class Server:
    """A server to ask."""

    host: str
    port: int = DNS_PORT


Own = tuple[ipaddress.IPv4Address, ipaddress.IPv6Address]
_Key = tuple[bytes, int, int, bool]
Learned = Callable[[str, Own, Sequence[Address]], None]


@dataclass(frozen=True, slots=True)
class _Reply:
    """What the machine's servers say; `data` is None where none answers."""

    data: bytes | None = None
    exists: bool = False
    """Whether the name is there, with such records or without."""
    addresses: tuple[Address, ...] = ()


class Resolver:
    """Answers for one takeover."""

    def __init__(self, names: Names, servers: Sequence[Server], learned: Learned, question_filter: int = -1) -> None:
        """`learned` is called with a name, its own addresses and the real ones, before the program hears of its own.
        `question_filter`: a program that tells what to take; -1 takes everything."""
        self._names = names
        self._servers = servers
        self._learned = learned
        self._filter = question_filter
        self._forwards = self._connections = 0
        self._replies: OrderedDict[_Key, tuple[asyncio.Task[_Reply], float]] = OrderedDict()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Event | None = None
        self._started = threading.Event()
        self._error: OSError | None = None
        self._thread: threading.Thread | None = None
        self.ports = Ports()
        self.sockets: list[int] = []
        """Descriptors by which it takes questions."""

    def start(self, pid: int) -> None:
        """Listen in the network of a process. OSError where that is not possible."""
        self._thread = threading.Thread(target=self._run, args=(pid,), name="dns", daemon=True)
        self._thread.start()
        self._started.wait()
        if self._error:
            raise self._error

    def stop(self) -> None:
        """Listen no more."""
        if self._loop and self._end:
            with contextlib.suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(self._end.set)
        if self._thread:
            self._thread.join()

    def _run(self, pid: int) -> None:
        try:
            network.enter(pid)
            asyncio.run(self._serve())
        except OSError as error:
            self._error = error
        finally:
            self._started.set()

    async def _serve(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        async with contextlib.AsyncExitStack() as stack:
            udp4, tcp4 = await self._listen(stack, socket.AF_INET, "127.0.0.1")
            udp6: tuple[int, ...] = ()
            tcp6 = 0
            with contextlib.suppress(OSError):  # a machine may have no IPv6
                udp6, tcp6 = await self._listen(stack, socket.AF_INET6, "::1")
            self.ports = Ports(udp4, tcp4, udp6, tcp6)
            self._started.set()
            await self._end.wait()

    async def _listen(
        self, stack: contextlib.AsyncExitStack, family: socket.AddressFamily, host: str
    ) -> tuple[tuple[int, ...], int]:
        loop = asyncio.get_running_loop()
        ports = []
        try:
            for _ in range(SERVERS_MAX):
                datagrams = self._bound(family, socket.SOCK_DGRAM, host)
                transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), sock=datagrams)
                stack.callback(transport.close)
                ports.append(datagrams.getsockname()[1])
                self.sockets.append(datagrams.fileno())
            server = await asyncio.start_server(self._converse, sock=self._bound(family, socket.SOCK_STREAM, host))
        except OSError as error:
            raise OSError(error.errno, f"the loopback {host} cannot be used: {error.strerror}: is `lo` up?") from error
        stack.callback(server.close)
        self.sockets.append(server.sockets[0].fileno())
        return tuple(ports), server.sockets[0].getsockname()[1]

    def _bound(self, family: socket.AddressFamily, kind: socket.SocketKind, host: str) -> socket.socket:
        """A socket that has its filter before anybody can reach it."""
        made = socket.socket(family, kind)
        try:
            if self._filter >= 0:
                made.setsockopt(socket.SOL_SOCKET, SO_ATTACH_BPF, self._filter)
            made.bind((host, 0))
        except OSError:
            made.close()
            raise
        return made

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One TCP connection: messages, each after its length (RFC 1035 section 4.2.2)."""
        self._connections += 1
        with contextlib.suppress(OSError):  # none; it is the workload's, and some of its last segments are sent by no socket
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
        try:
            while self._connections <= CONNECTIONS_MAX:
                async with asyncio.timeout(IDLE_SECONDS):
                    length = int.from_bytes(await reader.readexactly(2), "big")
                    data = await reader.readexactly(length)
                reply = await self.respond(data, tcp=True)
                if reply is None:
                    break
                writer.write(len(reply).to_bytes(2, "big") + reply)
                await writer.drain()
        except (asyncio.IncompleteReadError, TimeoutError, ConnectionError):
            pass
        finally:
            self._connections -= 1
            writer.close()

    async def respond(self, data: bytes, *, tcp: bool) -> bytes | None:
        """The answer to a message; None where it deserves none."""
        try:
            query = read_query(data)
        except ValueError:
            return refuse(data)
        name = self._names.canonical(query.name)
        way = self._names.way(query.name)
        if way is Way.LOOPBACK:
            return _addresses(query, (ipaddress.IPv4Address("127.0.0.1"), ipaddress.IPv6Address("::1")), ADDRESS_SECONDS)
        if way is Way.OWN:
            return self._own(query, name, (), ADDRESS_SECONDS)
        reply = await self._look_up(query, data, query.type, tcp=tcp)
        if query.type not in _OTHER or query.class_ != IN:
            return _forwarded(query, way, reply)
        if way is Way.STAND_IN_OR_OWN or (way is Way.STAND_IN and reply.addresses):
            return self._own(query, name, reply.addresses, DECISION_SECONDS)
        if reply.addresses:
            self._names.saw(name, reply.addresses)
            return _forwarded(query, way, reply)
        other = await self._look_up(query, data, _OTHER[query.type], tcp=tcp)
        if way is Way.REAL_OR_OWN and not (reply.exists or other.exists):
            return self._own(query, name, (), DECISION_SECONDS)
        if other.exists and not reply.exists:
            return answer(query)  # it is there, but not in this family
        return _forwarded(query, way, reply)

    def _own(self, query: Query, name: str, real: Sequence[Address], seconds: int) -> bytes:
        if query.type not in _OTHER or query.class_ != IN:
            return answer(query)  # the name is there, but has no such records
        own = self._names.own(name)
        if own is None:
            return answer(query, Code.SERVER_FAILURE)
        self._learned(name, own, real)
        return _addresses(query, own, seconds)

    async def _look_up(self, query: Query, data: bytes, type_: int, *, tcp: bool) -> _Reply:
        """What the machine's servers say of a name, kept for a moment. Equal questions at a time are asked once."""
        now = asyncio.get_running_loop().time()
        key = (query.question[:-4].lower(), query.class_, type_, tcp)
        task, until = self._replies.get(key, (None, 0.0))
        if task is None or now >= until:
            task = asyncio.get_running_loop().create_task(self._ask_for(query, data, type_, tcp=tcp))
            task.add_done_callback(lambda done: self._forget_long(key, done))
            self._replies[key] = task, now + DECISION_SECONDS
            self._replies.move_to_end(key)
            while len(self._replies) > REPLIES_MAX:
                self._replies.popitem(last=False)
        return await asyncio.shield(task)

    def _forget_long(self, key: _Key, done: asyncio.Task[_Reply]) -> None:
        if not done.cancelled() and not done.exception() and len(done.result().data or b"") > REPLY_BYTES_MAX:
            self._replies.pop(key, None)

    async def _ask_for(self, query: Query, data: bytes, type_: int, *, tcp: bool) -> _Reply:
        data = asking_for(data, query, type_)
        asked = read_query(data)
        reply = await self._ask(asked, data, tcp=tcp)
        if reply is None:
            return _Reply()
        response = read_response(reply)
        exists = response.code == Code.NO_ERROR
        return _Reply(reply, exists, response.addresses if exists else ())

    async def _ask(self, query: Query, data: bytes, *, tcp: bool) -> bytes | None:
        """The first answer that one of the servers gives; None where none does."""
        if self._forwards >= FORWARDS_MAX:
            return None
        self._forwards += 1
        try:
            for server in self._servers:
                reply = await self._ask_one(server, query, data, tcp=tcp)
                if reply is not None:
                    return reply
        finally:
            self._forwards -= 1
        return None

    @staticmethod
    async def _ask_one(server: Server, query: Query, data: bytes, *, tcp: bool) -> bytes | None:
        try:
            async with asyncio.timeout(FORWARD_SECONDS):
                reply = await (_ask_by_tcp if tcp else _ask_by_udp)(server, data)
            response = read_response(reply)
        except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError):
            return None
        known = response.code in (Code.NO_ERROR, Code.NO_SUCH_NAME)
        return reply if known and (response.id, response.question) == (query.id, query.question) else None


_OTHER = {A: AAAA, AAAA: A}


def _forwarded(query: Query, way: Way, reply: _Reply) -> bytes:
    """What the machine's servers say, or that they do not."""
    if reply.data is not None:
        return readdressed(reply.data, query)
    if query.type not in _OTHER and way in (Way.REAL_OR_OWN, Way.STAND_IN_OR_OWN):
        return answer(query)  # it will have an address, but has no such records
    return answer(query, Code.NO_SUCH_NAME if way is Way.REAL_OR_NONE else Code.SERVER_FAILURE)


def _addresses(query: Query, own: Own, seconds: int) -> bytes:
    mine: dict[int, Address] = {A: own[0], AAAA: own[1]}
    address = mine.get(query.type) if query.class_ == IN else None
    return answer(query, addresses=[address] if address else [], seconds=seconds)


async def _ask_by_udp(server: Server, data: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    reply: asyncio.Future[bytes] = loop.create_future()
    transport, _ = await loop.create_datagram_endpoint(lambda: _OneDatagram(reply), remote_addr=(server.host, server.port))
    try:
        transport.sendto(data)
        return await reply
    finally:
        transport.close()


async def _ask_by_tcp(server: Server, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(server.host, server.port)
    try:
        writer.write(len(data).to_bytes(2, "big") + data)
        return await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
    finally:
        writer.close()


class _OneDatagram(asyncio.DatagramProtocol):
    """The first datagram that comes, or why none does."""

    def __init__(self, reply: asyncio.Future[bytes]) -> None:
        self._reply = reply

    def datagram_received(self, data: bytes, _address: object) -> None:
        if not self._reply.done():
            self._reply.set_result(data)

    def error_received(self, error: Exception) -> None:
        if not self._reply.done():
            self._reply.set_exception(error)


class _Datagrams(asyncio.DatagramProtocol):
    """Questions by UDP."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._tasks: set[asyncio.Task[None]] = set()
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)  # in 3.11 it is one by its methods only

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        if len(self._tasks) >= FORWARDS_MAX:
            return  # asked again soon
        task = asyncio.get_running_loop().create_task(self._respond(data, address))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _respond(self, data: bytes, address: tuple[str, int]) -> None:
        reply = await self._resolver.respond(data, tcp=False)
        if reply is not None and self._transport:
            self._transport.sendto(reply, address)
