"""Which rules the hooks are given. The kernel's part is in tests/kernel."""

from __future__ import annotations

import ipaddress
import os

import pytest

from agent.takeover.events import Action, Address
from agent.takeover.names import Backend
from agent.takeover.redirect import Redirect, Responder, Wanted

SHARED = ipaddress.ip_address("203.0.113.5")
OTHER = ipaddress.ip_address("203.0.113.6")
LOCAL = ipaddress.ip_address("127.0.0.1")
Rules = dict[tuple[Address, int], tuple[Action, Address | None]]


class Hooks:
    """Takes the rules instead of the kernel."""

    def __init__(self) -> None:
        self.rules: Rules = {}

    def rule(self, address: Address, port: int, action: Action, real: Address | None = None) -> None:
        self.rules[address, port] = action, real


def taking(wanted: Wanted, hosts: str = "") -> tuple[Redirect, Rules]:
    redirect, hooks = Redirect(1, wanted), Hooks()
    redirect._hooks = hooks  # type: ignore[assignment]
    redirect._write_rules(hosts)
    return redirect, hooks.rules


def wanted(recorded: tuple[Backend, ...] = (), passed: tuple[Backend, ...] = (), refused: tuple[Backend, ...] = ()) -> Wanted:
    return Wanted("n", os.getpid(), Responder(os.getpid(), 1), recorded, passed, refused)


@pytest.mark.parametrize("hosts", ["", f"{SHARED} a.test b.test"])
def test_names_at_one_address_stay_apart(hosts: str) -> None:
    """What is passed through never opens the way to a recorded backend at the same address; each has an address of its own."""
    redirect, rules = taking(wanted((Backend("a.test", 443, (SHARED,)),), (Backend("b.test", 443, (SHARED,)),)), hosts)
    assert rules[SHARED, 443] == (Action.RESPOND, None)
    own = redirect.names.own("b.test")
    assert own
    redirect._learned("b.test", own, [SHARED])
    assert rules[SHARED, 443] == (Action.RESPOND, None)
    assert rules[own[0], 443] == (Action.PASS, SHARED)
    assert (own[1], 443) not in rules  # no real address in this family
    recorded = redirect.names.own("a.test")
    assert recorded
    assert [rules[address, 443] for address in recorded] == [(Action.RESPOND, None)] * 2


def test_what_a_name_stands_for_may_change() -> None:
    redirect, rules = taking(wanted(passed=(Backend("b.test", 443),)))
    own = redirect.names.own("b.test")
    assert own
    for real in (SHARED, OTHER):
        redirect._learned("b.test", own, [real])
        assert rules[own[0], 443] == (Action.PASS, real)


def test_a_name_with_a_port_of_each_kind() -> None:
    redirect, rules = taking(wanted((Backend("a.test", 443),), (Backend("a.test", 22),)))
    own = redirect.names.own("a.test")
    assert own
    redirect._learned("a.test", own, [SHARED])
    assert (rules[own[0], 443], rules[own[0], 22]) == ((Action.RESPOND, None), (Action.PASS, SHARED))
    assert {key for key in rules if key[0] == own[1]} == {(own[1], 443)}


def test_what_is_refused_on_the_loopback() -> None:
    _, rules = taking(wanted(refused=(Backend("localhost", 3128), Backend("127.0.0.1", 8080))))
    assert {str(address): action for (address, port), (action, _) in rules.items() if port == 3128} == {
        "127.0.0.1": Action.REFUSE,
        "::1": Action.REFUSE,
    }
    assert rules[LOCAL, 8080] == (Action.REFUSE, None)


def test_what_was_recorded_or_chosen_is_not_refused() -> None:
    place = Backend("127.0.0.1", 3128)
    assert taking(wanted(recorded=(place,), refused=(place,)))[1] == {(LOCAL, 3128): (Action.RESPOND, None)}
    assert taking(wanted(passed=(place,), refused=(place,)))[1] == {(LOCAL, 3128): (Action.PASS, None)}
