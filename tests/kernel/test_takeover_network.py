"""Programs under takeover, in a network that is joined to a world: what leaves, and what does not."""

from __future__ import annotations

import errno
import os
import subprocess
from typing import Any

import pytest
from understudy.v1 import backend_pb2

from tests.kernel.takeover import Taking, World, backend
from tests.kernel.world import BACKEND4, BACKEND6, GATEWAY, HOME, HOME6, PORT

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left_behind")]

HOST = "api.real.test"
GONE = "198.51.100.77"
Joined = tuple[Taking, World]


def without_dns(packets: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Packets other than the agent's own questions."""
    return [packet for packet in packets if (packet["protocol"], packet["address"], packet["port"]) != (17, GATEWAY, 53)]


def test_recorded_names_are_answered_though_the_real_one_is_there(joined: Joined) -> None:
    taking, world = joined
    said, _ = taking.said("with_requests", f"https://{HOST}/", recorded=[backend(HOST, 443, BACKEND4)])
    assert said["from"] == "responder"
    assert world.packets() == []


def test_a_program_may_choose_its_own_address(joined: Joined) -> None:
    taking, world = joined
    said, _ = taking.said("bound", HOST, "443", HOME, recorded=[backend(HOST)])
    assert said["peer"][1] == 443
    assert world.packets() == []


@pytest.mark.parametrize("host", ["other.real.test", "unheard.of.test", BACKEND4, BACKEND6])
def test_nothing_leaves_for_what_was_not_recorded(joined: Joined, host: str) -> None:
    taking, world = joined
    said, running = taking.said("connect", host, str(PORT), recorded=[backend(HOST)])
    assert said["error"] == "ConnectionRefusedError"
    assert {(name, port) for name, _, port, _ in running.told("refused")} == {("" if host in (BACKEND4, BACKEND6) else host, PORT)}
    assert without_dns(world.packets()) == []


@pytest.mark.parametrize(("address", "bound"), [(BACKEND4, "0.0.0.0"), (BACKEND6, "::"), (f"::ffff:{BACKEND4}", "::")])
def test_another_machine_is_not_taken_for_this_one_by_its_port(joined: Joined, address: str, bound: str) -> None:
    """The program takes calls at that port of all addresses of its own: this is none of them."""
    taking, world = joined
    said, running = taking.said("to_itself", address, bound, str(PORT), recorded=[backend(HOST)])
    assert said["error"] == "ConnectionRefusedError"
    assert running.told("refused") == [("", address.removeprefix("::ffff:"), PORT, 6)]
    assert world.packets() == []


def test_what_was_recorded_of_another_machine_is_stood_in_for_at_the_program_s_own_port(joined: Joined) -> None:
    taking, world = joined
    said, _ = taking.said("to_itself", BACKEND4, "0.0.0.0", str(PORT), recorded=[backend(HOST, PORT, BACKEND4)])
    assert said["peer"] == [BACKEND4, PORT]
    assert taking.responder.next()["original"] == [BACKEND4, PORT]
    assert world.packets() == []


def test_an_address_that_is_this_machine_s_no_more_is_not_reached(joined: Joined) -> None:
    taking, world = joined
    taking.place.run(subprocess.run, ["ip", "address", "add", f"{GONE}/32", "dev", "lo"], check=True)
    said, running = taking.said("after_it_went", GONE, str(PORT), recorded=[backend(HOST)])
    assert said in (os.strerror(errno.EINPROGRESS), os.strerror(errno.ECONNREFUSED))
    assert {call[:3] for call in running.told("refused")} == {("", GONE, PORT)}
    assert world.packets() == []


def test_a_name_of_the_search_list_is_what_the_program_meant(joined: Joined) -> None:
    taking, _ = joined
    steps = [f"connect payments {PORT}", f"connect some.where.test {PORT}"]
    said, running = taking.said("several", *steps, recorded=[backend("payments", PORT)])
    assert "peer" in said[0]
    assert {name for name, *_ in running.told("refused")} == {"some.where.test"}


@pytest.mark.parametrize("host", [GATEWAY, "203.0.113.77", BACKEND6])
def test_datagrams_do_not_leave(joined: Joined, host: str) -> None:
    taking, world = joined
    said, running = taking.said("datagram", host, "443", recorded=[backend(HOST)])
    assert said == ["ConnectionRefusedError", "PermissionError"]
    assert set(running.told("refused")) == {("", host, 443, 17)}
    assert world.packets() == []


def test_what_needs_no_connection_does_not_leave_either(joined: Joined) -> None:
    taking, world = joined
    said, running = taking.said("ping", GATEWAY)
    assert said == "PermissionError"
    assert running.told("refused") == [("", GATEWAY, 0, 1)]
    assert world.packets() == []


@pytest.mark.parametrize("host", [GATEWAY, BACKEND4, BACKEND6])
def test_segments_of_no_connection_do_not_leave(joined: Joined, host: str) -> None:
    """Whatever their flags say; nor do those to the place of a recorded backend."""
    taking, world = joined
    said, running = taking.said("segments", host, str(PORT), recorded=[backend(HOST, PORT, BACKEND4, BACKEND6)])
    assert said == ["PermissionError"] * 6
    assert set(running.told("refused")) == {("" if host == GATEWAY else HOST, host, PORT, 6)}
    assert world.packets() == []


@pytest.mark.parametrize("address", [HOME, HOME6])
def test_who_calls_from_outside_is_answered(joined: Joined, address: str) -> None:
    taking, world = joined
    running = taking.start(taking.python, "-m", "tests.kernel.calling", "serve", address, str(PORT))
    assert world.ask(address, PORT) == b"served" * 10_000
    assert running.said() == "asked"
    assert running.told("refused") == []


@pytest.mark.parametrize(
    ("host", "passed", "name"),
    [
        (HOST, backend(HOST, PORT), HOST),
        (BACKEND4, backend(BACKEND4, PORT), BACKEND4),
        (BACKEND6, backend(BACKEND6, PORT), BACKEND6),
        (BACKEND4, backend("db.internal", PORT, BACKEND4), "db.internal"),
    ],
)
def test_what_is_passed_through_is_reached_for_real(joined: Joined, host: str, passed: backend_pb2.Backend, name: str) -> None:
    taking, world = joined
    steps = [f"read {host} {PORT}", f"read {host} {PORT}", f"connect {host} {PORT + 1}"]
    said, running = taking.said("several", *steps, recorded=[backend("another.test")], passed=[passed])
    assert said[:2] == ["real", "real"]
    assert said[2]["error"] == "ConnectionRefusedError"
    ((told, address, port, protocol),) = running.told("passed")  # once for its destination
    assert (told, port, protocol) == (name, PORT, 6)
    assert {(packet["address"], packet["port"]) for packet in without_dns(world.packets())} == {(address, PORT)}


def test_one_name_with_a_port_of_each_kind(joined: Joined) -> None:
    taking, _ = joined
    steps = [f"read {HOST} {PORT}", f"with_urllib https://{HOST}/"]
    said, _ = taking.said("several", *steps, recorded=[backend(HOST, 443)], passed=[backend(HOST, PORT)])
    assert said[0] == "real"
    assert said[1]["from"] == "responder"


def test_everything_may_be_passed_through(joined: Joined) -> None:
    taking, _ = joined
    steps = [f"read {HOST} {PORT}", f"read {BACKEND6} {PORT}", "with_urllib https://recorded.test/"]
    said, running = taking.said("several", *steps, recorded=[backend("recorded.test")], pass_unrecorded=True)
    assert said[:2] == ["real", "real"]
    assert said[2]["from"] == "responder"
    assert running.told("refused") == []
    assert {(name, port) for name, _, port, _ in running.told("passed")} == {(HOST, PORT)}


def test_names_at_one_address_stay_apart(joined: Joined) -> None:
    """One is recorded, the other keeps its real connection, and both are at the same address and port."""
    taking, world = joined
    steps = [f"read other.real.test {PORT}", f"with_urllib http://{HOST}:{PORT}/", f"with_urllib http://{BACKEND4}:{PORT}/"]
    recorded, passed = [backend(HOST, PORT, BACKEND4, BACKEND6)], [backend("other.real.test", PORT, BACKEND4, BACKEND6)]
    said, running = taking.said("several", *steps, recorded=recorded, passed=passed)
    assert said[0] == "real"
    assert [each["from"] for each in said[1:]] == ["responder"] * 2
    assert [taking.responder.next()["original"][1] for _ in said[1:]] == [PORT] * 2
    ((told, *_),) = running.told("passed")
    assert told == "other.real.test"
    assert len({(packet["address"], packet["port"]) for packet in without_dns(world.packets())}) == 1


@pytest.mark.parametrize("family", ["4", "6"])
def test_who_keeps_its_connection_is_seen_at_the_address_that_was_called(joined: Joined, family: str) -> None:
    taking, _ = joined
    said, _ = taking.said("several", f"look_up {HOST} {family}", f"connect {HOST} {PORT}", passed=[backend(HOST, PORT)])
    assert said[1]["peer"][0] in {"4": ["198.18.0.1", "2001:2::1"], "6": ["2001:2::1", "198.18.0.1"]}[family]
    assert said[0] == {family: [{"4": "198.18.0.1", "6": "2001:2::1"}[family]]}


def test_datagrams_reach_who_keeps_its_real_connection(joined: Joined) -> None:
    """Both of one that names its destination and of a connected one; the answer comes from where the program asked."""
    taking, world = joined
    said, _ = taking.said("datagram", HOST, "443", passed=[backend(HOST, 443)])
    assert said == ["sent", "sent"]
    assert {(packet["protocol"], packet["port"]) for packet in without_dns(world.packets())} == {(17, 443)}


@pytest.mark.parametrize("host", [BACKEND4, BACKEND6, HOST])
def test_quic_does_not_get_past_the_recording(joined: Joined, host: str) -> None:
    """A datagram to a port that was recorded is refused, though what was not recorded passes: its caller comes again by TCP."""
    taking, world = joined
    recorded = [backend(HOST, 443, BACKEND4, BACKEND6)]
    said, running = taking.said("datagram", host, "443", recorded=recorded, pass_unrecorded=True)
    assert said == ["ConnectionRefusedError", "PermissionError"]
    assert {call[3] for call in running.told("refused")} == {17}
    assert without_dns(world.packets()) == []


def test_a_name_that_only_ipv4_servers_know_is_real(joined: Joined) -> None:
    taking, _ = joined
    said, _ = taking.said("several", "look_up four.real.test any", f"read four.real.test {PORT}", passed=[backend(BACKEND4, PORT)])
    assert said == [{"any": [BACKEND4]}, "real"]
