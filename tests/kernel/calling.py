"""What the tests let a taken over program do, each as it is done in programs. Prints JSON.

python -m tests.kernel.calling HOW ARGUMENT...
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path


def with_requests(url: str) -> object:
    import requests

    return requests.get(url, timeout=20).json()


def with_httpx(url: str) -> object:
    import httpx

    return httpx.get(url, timeout=20).json()


def with_httpx_async(url: str) -> object:
    import httpx

    async def get() -> object:
        async with httpx.AsyncClient(timeout=20) as client:
            return (await client.get(url)).json()

    return asyncio.run(get())


def with_aiohttp(url: str) -> object:
    import aiohttp

    async def get() -> object:
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return await response.json()

    return asyncio.run(get())


def with_urllib(url: str) -> object:
    with urllib.request.urlopen(url, timeout=20) as response:
        return json.load(response)


def with_boto3(region: str) -> object:
    import boto3
    from botocore.config import Config

    client = boto3.client(
        "dynamodb",
        region_name=region,
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        config=Config(retries={"total_max_attempts": 1}),
    )
    return client.list_tables()["ResponseMetadata"]["HTTPStatusCode"]


def with_stripe(_url: str) -> object:
    import stripe

    stripe.api_key = "sk_test_1"
    stripe.max_network_retries = 0
    return stripe.Customer.retrieve("cus_1").id


def connect(host: str, port: str) -> object:
    """How a connection ends up, and what the program sees of it."""
    started = time.monotonic()
    try:
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            return {"peer": connection.getpeername()[:2]}
    except OSError as error:
        return {"error": type(error).__name__, "seconds": time.monotonic() - started}


def to_itself(address: str = "127.0.0.1", bound: str = "", port: str = "0") -> object:
    """To a port of its own, which is bound to another address perhaps: "::" takes calls of both families."""
    bound = bound or address
    family = socket.AF_INET6 if ":" in bound else socket.AF_INET
    with socket.create_server((bound, int(port)), family=family, dualstack_ipv6=bound == "::") as listener:
        own = str(listener.getsockname()[1])
        return mapped(address.removeprefix("::ffff:"), own) if address.startswith("::ffff:") else connect(address, own)


def after_it_went(address: str, port: str) -> object:
    """To a port of its own at an address that is the machine's no more: nobody answers."""
    with socket.create_server(("0.0.0.0", int(port))), socket.socket(socket.AF_INET) as connection:
        subprocess.run(["ip", "address", "del", f"{address}/32", "dev", "lo"], check=True)
        connection.setblocking(False)
        code = connection.connect_ex((address, int(port)))
        return os.strerror(code)


def of_device(device: str, address: str, port: str) -> object:
    """By a socket that is tied to a network device (SO_BINDTODEVICE of socket(7))."""
    with socket.socket(socket.AF_INET) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        connection.settimeout(20)
        return os.strerror(connection.connect_ex((address, int(port))))


def bound_mapped(address: str, port: str) -> object:
    """By an IPv6 socket that is bound to an IPv4 address of the loopback."""
    with socket.socket(socket.AF_INET6) as connection:
        connection.settimeout(20)
        connection.bind(("::ffff:127.0.0.1", 0))
        connection.connect((address, int(port)))
        return {"peer": connection.getpeername()[:2]}


def read(host: str, port: str) -> object:
    """What is said there."""
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        return connection.makefile().read()


def connect_later(host: str, port: str) -> object:
    """The same by a non-blocking connect."""

    async def run() -> object:
        try:
            _, writer = await asyncio.wait_for(asyncio.open_connection(host, int(port)), 20)
        except OSError as error:
            return {"error": type(error).__name__}
        peer = writer.get_extra_info("peername")[:2]
        writer.close()
        return {"peer": peer}

    return asyncio.run(run())


def mapped(host: str, port: str) -> object:
    """By an IPv6 socket to an IPv4 address."""
    with socket.socket(socket.AF_INET6) as connection:
        connection.settimeout(20)
        connection.connect((f"::ffff:{host}", int(port)))
        return {"peer": connection.getpeername()[:2]}


def fast_open(host: str, port: str) -> object:
    """Connecting and sending in one call (RFC 7413)."""
    with socket.socket(socket.AF_INET) as connection:
        try:
            connection.sendto(b"GET / HTTP/1.1\r\n\r\n", socket.MSG_FASTOPEN, (host, int(port)))
            return {"peer": connection.getpeername()[:2]}
        except OSError as error:
            return {"error": type(error).__name__}


def bound(host: str, port: str, source: str) -> object:
    """From an address of choice."""
    with socket.create_connection((host, int(port)), timeout=20, source_address=(source, 0)) as connection:
        return {"peer": connection.getpeername()[:2]}


def again(host: str, port: str, other_host: str, other_port: str) -> object:
    """On a socket whose first call was refused."""
    with socket.socket(socket.AF_INET) as connection:
        code = connection.connect_ex((host, int(port)))
        connection.connect((other_host, int(other_port)))
        return {"code": code, "peer": connection.getpeername()[:2]}


def elsewhere_again(host: str, port: str) -> object:
    """On a socket that has called, and lets go of that (connect(2), AF_UNSPEC) to call this process: whom it sees there."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_INET) as connection:
        connection.connect((host, int(port)))
        seen = [connection.getpeername()]
        unspecified = struct.pack("=H14x", socket.AF_UNSPEC)
        if ctypes.CDLL(None, use_errno=True).connect(connection.fileno(), unspecified, len(unspecified)):
            raise OSError(ctypes.get_errno(), "connect")
        connection.connect(listener.getsockname())
        return [*seen, connection.getpeername() == listener.getsockname()]


def in_another_network(host: str, port: str, source: str) -> object:
    """In a network with nothing but the loopback, where nobody answers; from a port of choice."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with socket.socket(socket.AF_INET) as connection:
        connection.bind(("127.0.0.1", int(source)))
        return os.strerror(connection.connect_ex((host, int(port))))


CLONE_NEWNET = 0x40000000


def ask(way: str, server: str, name: str) -> object:
    """A server of names, by UDP or TCP."""
    import dns.message
    import dns.query

    query = dns.message.make_query(name, "A")
    said = dns.query.tcp(query, server, 20) if way == "tcp" else dns.query.udp(query, server, 20)
    return [str(each) for found in said.answer for each in found]


def ask_several(*servers: str) -> object:
    """Servers of names, of one socket that is not connected: from whom each answer seems to come."""
    import dns.message

    found = {}
    with socket.socket(socket.AF_INET6 if ":" in servers[0] else socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(20)
        for number, server in enumerate(servers):
            asking.sendto(dns.message.make_query("localhost", "A", id=number).to_wire(), (server, 53))
        for _ in servers:
            answer, (host, port, *_) = asking.recvfrom(4096)
            found[dns.message.from_wire(answer).id] = host, port
    return [found[number] for number, _ in enumerate(servers)]


def datagram(host: str, port: str) -> object:
    """By a datagram that names its destination, and one on a connected socket."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = []
    with socket.socket(family, socket.SOCK_DGRAM) as loose, socket.socket(family, socket.SOCK_DGRAM) as connected:
        try:
            loose.sendto(b"x", (host, int(port)))
            found.append("sent")
        except OSError as error:
            found.append(type(error).__name__)
        try:
            connected.connect((host, int(port)))
            connected.send(b"x")
            found.append("sent")
        except OSError as error:
            found.append(type(error).__name__)
    return found


def ping(host: str) -> object:
    """By a raw socket: an echo request (RFC 792)."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        try:
            return raw.sendto(b"\x08\0\xf7\xff\0\0\0\0", (host, 0))
        except OSError as error:
            return type(error).__name__


def segments(host: str, port: str) -> object:
    """By a raw socket: TCP segments of no connection (RFC 9293 section 3.1), one with each of some sets of flags."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = []
    with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_TCP) as raw:
        for flags in (SYN, SYN | ACK, ACK, PSH | ACK, FIN | ACK, RST):
            segment = struct.pack("!HHIIBBHHH", 40000, int(port), 1, 1, 5 << 4, flags, 65535, 0, 0) + b"a secret"
            try:
                raw.sendto(segment, (host, 0))
                found.append("sent")
            except OSError as error:
                found.append(type(error).__name__)
    return found


FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16


def serve(host: str, port: str) -> object:
    """Answer one caller, and say what it said."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, int(port)), family=family) as server:
        connection, _ = server.accept()
        with connection, connection.makefile("rb") as said:
            connection.sendall(b"served" * 10_000)
            connection.shutdown(socket.SHUT_WR)
            return said.read().decode()


def look_up(name: str, *families: str) -> object:
    """getaddrinfo with AI_ADDRCONFIG, for each family."""
    found: dict[str, object] = {}
    for family in families:
        number = {"any": socket.AF_UNSPEC, "4": socket.AF_INET, "6": socket.AF_INET6}[family]
        try:
            answers = socket.getaddrinfo(name, 443, number, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
            found[family] = sorted({str(answer[4][0]) for answer in answers})
        except socket.gaierror as error:
            found[family] = error.errno
    return found


def leave(*below: str) -> object:
    """Move to the cgroup that all others are in, or to one below the own."""
    mount, own = own_cgroup()
    to = mount
    if below:
        to = own / below[0]
        to.mkdir()
    (to / "cgroup.procs").write_text(str(os.getpid()))
    return str(to)


def come_back(cgroup: str) -> object:
    """Move to a cgroup."""
    Path(cgroup, "cgroup.procs").write_text(str(os.getpid()))
    return None


def own_cgroup() -> tuple[Path, Path]:
    """Where cgroup v2 is mounted, and the own cgroup."""
    mount = next(line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if line.split()[2] == "cgroup2")
    own = next(line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    return Path(mount), Path(mount, own.lstrip("/"))


def fork_elsewhere(*command: str) -> object:
    """Do something in a process that is started in the cgroup of all others (CLONE_INTO_CGROUP of clone(2)); its exit status."""
    fd = os.open(own_cgroup()[0], os.O_RDONLY | os.O_DIRECTORY)
    # struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup
    arguments = struct.pack("=11Q", 0x200000000, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, fd)
    pid = ctypes.CDLL(None).syscall(CLONE3, arguments, len(arguments))
    if pid == 0:
        call(*command)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def with_number(number: str) -> object:
    """Be the parent of a process with a number of choice (set_tid of clone3(2)) until told to go on: whether it is there then."""
    chosen = ctypes.c_int(int(number))
    arguments = struct.pack("=10Q", 0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, ctypes.addressof(chosen), 1)
    pid = ctypes.CDLL(None, use_errno=True).syscall(CLONE3, arguments, len(arguments))
    if pid < 0:
        raise OSError(ctypes.get_errno(), "clone3")
    if pid == 0:
        signal.pause()
        os._exit(0)
    wait()
    ended, _ = os.waitpid(pid, os.WNOHANG)
    if not ended:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return not ended


CLONE3 = 435
"""On every machine architecture."""


def until_refused(host: str, port: str) -> object:
    """Calls for a while, which should all be refused. Prints nothing of a process that is ended meanwhile."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection((host, int(port)), timeout=20):
            return "connected"
    return "refused"


def several(*commands: str) -> object:
    """Several of them, each `HOW ARGUMENT...` in one word; one waits for a line of standard input: `wait`."""
    return [call(*command.split()) for command in commands]


def wait(*_arguments: str) -> object:
    """Say that we are here, and wait for a word."""
    print("waiting", flush=True)
    return sys.stdin.readline()


HOW: dict[str, Callable[..., object]] = {
    name: value
    for name, value in list(globals().items())
    if callable(value) and getattr(value, "__module__", "") == __name__ and name != "HOW"
}


def call(how: str, *arguments: str) -> object:
    """Do one of them."""
    return HOW[how](*arguments)


if __name__ == "__main__":
    try:
        print(json.dumps(call(*sys.argv[1:])))
    except Exception as error:  # whatever the library makes of it
        print(json.dumps({"error": type(error).__name__, "text": str(error)}))
