"""Programs under takeover, in a network that is joined to a world: what leaves, and what does not."""

from __future__ import annotations

from typing import Any

import pytest

from tests.kernel.takeover import Taking, World, backend
from tests.kernel.world import BACKEND4, BACKEND6, GATEWAY, PORT

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left_behind")]

HOST = "api.real.test"
Joined = tuple[Taking, World]


def without_dns(packets: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Packets other than the agent's own questions."""
    return [packet for packet in packets if (packet["protocol"], packet["address"], packet["port"]) != (17, GATEWAY, 53)]


def test_recorded_names_are_answered_though_the_real_one_is_there(joined: Joined) -> None:
    taking, world = joined
    said, _ = taking.said("with_requests", f"https://{HOST}/", recorded=[backend(HOST, 443, BACKEND4)])
    assert said["from"] == "responder"
    assert world.packets() == []


@pytest.mark.parametrize("host", ["other.real.test", "unheard.of.test", BACKEND4, BACKEND6])
def test_nothing_leaves_for_what_was_not_recorded(joined: Joined, host: str) -> None:
    taking, world = joined
    said, running = taking.said("connect", host, str(PORT), recorded=[backend(HOST)])
    assert said["error"] == "ConnectionRefusedError"
    assert {(name, port) for name, _, port, _ in running.told("refused")} == {("" if host in (BACKEND4, BACKEND6) else host, PORT)}
    assert without_dns(world.packets()) == []


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
    assert running.told("refused") == [("", host, 443, 17)] or len(running.told("refused")) == 2
    assert world.packets() == []


@pytest.mark.parametrize("command", [["ping", "-c1", "-W1", GATEWAY]])
def test_what_needs_no_connection_does_not_leave_either(joined: Joined, command: list[str]) -> None:
    taking, world = joined
    running = taking.start(*command)
    assert running.launcher.process.wait() != 0
    running.end()
    assert world.packets() == []


@pytest.mark.parametrize(
    ("host", "passed"),
    [
        (HOST, backend(HOST, PORT)),
        (BACKEND4, backend(BACKEND4, PORT)),
        (BACKEND6, backend(BACKEND6, PORT)),
        (BACKEND4, backend("db.internal", PORT, BACKEND4)),
    ],
)
def test_what_is_passed_through_is_reached_for_real(joined: Joined, host: str, passed: Any) -> None:
    taking, world = joined
    steps = [f"read {host} {PORT}", f"read {host} {PORT}", f"connect {host} {PORT + 1}"]
    said, running = taking.said("several", *steps, recorded=[backend("another.test")], passed=[passed])
    assert said[:2] == ["real", "real"]
    assert said[2]["error"] == "ConnectionRefusedError"
    told = running.told("passed")
    assert {(name, port) for name, _, port, _ in told} == {
        (passed.host if passed.host != host or host == HOST else "", PORT)
    } or told
    assert len(told) == len(set(told))  # once for each destination
    assert {(packet["address"], packet["port"]) for packet in without_dns(world.packets())} <= {(BACKEND4, PORT), (BACKEND6, PORT)}


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
