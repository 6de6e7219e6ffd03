"""Who is taken for a workload under takeover: only the workload, though others share its network, and have ports that it had."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import dns.message
import dns.rdatatype
import pytest

from tests.e2e.machine import eventually
from tests.kernel.takeover import TIMEOUT, Taking
from tests.kernel.test_takeover_ends import HOST, Waiting
from tests.kernel.world import BACKEND4, PORT

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left_behind")]

QUESTION = dns.message.make_query(HOST, dns.rdatatype.A).to_wire()
LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


def test_a_call_that_came_to_nothing_lends_its_port_to_nobody(lonely: Taking) -> None:
    """Who has that port afterwards calls the responder by itself, as far as the responder hears."""
    with lonely.place.run(socket.socket) as stranger:
        stranger.bind(("127.0.0.1", 0))
        waiting = Waiting(lonely, f"in_another_network {BACKEND4} {PORT} {stranger.getsockname()[1]}", "wait")
        assert lonely.responder.next()["sni"] == HOST
        waiting.go_on_to_next()
        stranger.connect(("127.0.0.1", lonely.responder.port4))
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert lonely.responder.next()["original"] is None
        assert waiting.go_on()[0] == "Connection refused"


def sockets(taking: Taking, waiting: Waiting, table: str) -> Iterator[list[str]]:
    """The agent's in the network of the command: lines of /proc/net/TABLE."""
    links = [os.path.realpath(fd).rpartition("/")[2] for fd in Path(f"/proc/{taking.agent.pid}/fd").iterdir()]
    for line in Path(f"/proc/{waiting.running.launcher.process.pid}/net/{table}").read_text().splitlines()[1:]:
        if f"socket:[{line.split()[9]}]" in links:
            yield line.split()


def port_of(line: list[str]) -> int:
    return int(line[1].rpartition(":")[2], 16)


@pytest.mark.parametrize("family", LOOPBACK)
def test_nobody_else_asks_the_resolver(lonely: Taking, family: socket.AddressFamily) -> None:
    """What others send to its ports is dropped; the command is answered all the same."""
    number = {socket.AF_INET: "", socket.AF_INET6: "6"}[family]
    server = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::53"}[family]
    waiting = Waiting(lonely, f"ask udp {server} {HOST}", f"ask tcp {server} {HOST}")
    datagrams = next(sockets(lonely, waiting, f"udp{number}"))
    with lonely.place.run(socket.socket, family, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(QUESTION, (LOOPBACK[family], port_of(datagrams)))
        assert eventually(lambda: next(sockets(lonely, waiting, f"udp{number}"))[-1] == "1", TIMEOUT)  # drops
    listening = [each for each in sockets(lonely, waiting, f"tcp{number}") if each[3] == LISTENS]
    responders = lonely.responder.port4, lonely.responder.port6  # the agent has them open, too
    (listener,) = [each for each in listening if port_of(each) not in responders]
    with lonely.place.run(socket.socket, family) as stranger:
        stranger.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, 1)
        with pytest.raises(TimeoutError):
            stranger.connect((LOOPBACK[family], port_of(listener)))
    assert waiting.go_on() == [["198.18.0.1"]] * 2


LISTENS = "0A"
"""TCP_LISTEN, as /proc/net/tcp writes it."""
