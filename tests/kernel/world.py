"""A world for tests: a network with everything in it, joined to the network in which the programs under test are at home.

    python -m tests.kernel.world HOME_PID

is a process in the world's network namespace. It puts one end of a cable into the network of HOME_PID, resolves the names
*.real.test (four.real.test by IPv4 only), answers at their addresses, and says what comes by the cable: a line of JSON for each
packet that is not of the network's own upkeep.
"""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
import threading

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

GATEWAY, HOME, HOME6 = "10.77.0.1", "10.77.0.2", "fd77::2"
BACKEND4, BACKEND6 = "203.0.113.5", "2001:db8:5::5"
"""Where the real backends are, on every TCP port."""

UPKEEP = {58, 2}
"""ICMPv6 (neighbours, routers, multicast listeners) and IGMP."""

PORT = 4443
ETH_P_ALL = 3


def lay_cable(home: int) -> None:
    """A cable from here to there, with a default route through it."""

    def ip(*words: str, there: bool = False) -> None:
        prefix = ["nsenter", "-t", str(home), "-n"] if there else []
        subprocess.run([*prefix, "ip", *words], check=True)

    ip("link", "set", "lo", "up")
    ip("link", "add", "cable", "type", "veth", "peer", "name", "eth0", "netns", str(home))
    ip("address", "add", f"{GATEWAY}/24", "dev", "cable")
    ip("address", "add", "fd77::1/64", "dev", "cable", "nodad")
    ip("address", "add", f"{BACKEND4}/32", "dev", "lo")
    ip("address", "add", f"{BACKEND6}/128", "dev", "lo", "nodad")
    ip("link", "set", "cable", "up")
    ip("address", "add", f"{HOME}/24", "dev", "eth0", there=True)
    ip("address", "add", f"{HOME6}/64", "dev", "eth0", "nodad", there=True)
    ip("link", "set", "eth0", "up", there=True)
    ip("route", "add", "default", "via", GATEWAY, there=True)
    ip("route", "add", "default", "via", "fd77::1", there=True)


def packet(frame: bytes) -> dict[str, object] | None:
    """What an Ethernet frame carries; None for upkeep."""
    kind = frame[12:14]
    if kind == b"\x08\x00":
        protocol, place, address = frame[23], 14 + (frame[14] & 0xF) * 4, socket.inet_ntop(socket.AF_INET, frame[30:34])
    elif kind == b"\x86\xdd":
        protocol, place, address = frame[20], 54, socket.inet_ntop(socket.AF_INET6, frame[38:54])
    else:
        return None
    if protocol in UPKEEP or protocol == 0:
        return None
    port = struct.unpack("!H", frame[place + 2 : place + 4])[0] if protocol in (6, 17) else 0
    return {"protocol": protocol, "address": address, "port": port}


def watch(cable: socket.socket) -> None:
    while True:
        frame, (_, _, direction, *_) = cable.recvfrom(2048)
        if direction != 4 and (found := packet(frame)):  # PACKET_OUTGOING
            print(json.dumps(found), flush=True)


def resolve(listener: socket.socket) -> None:
    while True:
        data, peer = listener.recvfrom(4096)
        query = dns.message.from_wire(data)
        response = dns.message.make_response(query, recursion_available=True)
        question = query.question[0]
        own = {1: BACKEND4, 28: BACKEND6}
        if not question.name.to_text().lower().endswith(".real.test."):
            response.set_rcode(dns.rcode.NXDOMAIN)
        elif question.rdtype == 28 and question.name.to_text().startswith("four."):  # as servers do that know IPv4 only
            response.set_rcode(dns.rcode.REFUSED)
        elif question.rdtype in own:
            response.answer.append(dns.rrset.from_text(question.name, 60, "IN", question.rdtype, own[question.rdtype]))
        listener.sendto(response.to_wire(), peer)


def backend(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"real")


def main() -> None:
    lay_cable(int(sys.argv[1]))
    cable = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    cable.bind(("cable", 0))
    resolver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    resolver.bind((GATEWAY, 53))
    backends = [socket.create_server((BACKEND4, PORT)), socket.create_server((BACKEND6, PORT), family=socket.AF_INET6)]
    threading.Thread(target=watch, args=(cable,), daemon=True).start()
    threading.Thread(target=resolve, args=(resolver,), daemon=True).start()
    for each in backends:
        threading.Thread(target=backend, args=(each,), daemon=True).start()
    print("ready", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
