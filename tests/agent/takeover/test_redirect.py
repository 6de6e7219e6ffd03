"""Which rules the hooks are given. The kernel's part is in tests/kernel."""

from __future__ import annotations

import ipaddress
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.takeover import redirect as module
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


CHANGED_ROOT = "import os, sys; os.chroot(sys.argv[1]); print(flush=True); input()"


@pytest.fixture
def etc(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """The folder /etc of a process that has another root, and the process."""
    (tmp_path / "etc").mkdir()
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", CHANGED_ROOT, tmp_path], **pipes) as process:  # type: ignore[call-overload]
        process.stdout.readline()
        yield tmp_path / "etc", process.pid
        process.communicate(b"\n")


@pytest.mark.kernel
def test_files_are_read_as_the_process_sees_them(etc: tuple[Path, int]) -> None:
    folder, pid = etc
    (folder.parent / "run").mkdir()
    (folder.parent / "run" / "resolv.conf").write_text("nameserver 203.0.113.5\n")
    for target in ("/run/resolv.conf", "../run/resolv.conf", "../../../../run/resolv.conf"):
        (folder / "resolv.conf").symlink_to(target)
        assert [server.host for server in module._servers(pid)] == ["203.0.113.5"]
        (folder / "resolv.conf").unlink()
    assert [server.host for server in module._servers(pid)] == ["127.0.0.1"]


@pytest.mark.kernel
@pytest.mark.timeout(20)
def test_what_is_no_regular_file_is_not_opened(etc: tuple[Path, int]) -> None:
    folder, pid = etc
    os.mkfifo(folder / "hosts")
    assert module._read(pid, "etc/hosts") == ""
    (folder / "resolv.conf").mkdir()
    assert module._read(pid, "etc/resolv.conf") == ""


@pytest.mark.kernel
def test_of_a_file_without_end_its_first_lines_are_read(etc: tuple[Path, int]) -> None:
    folder, pid = etc
    with open(folder / "hosts", "w") as file:
        file.write("203.0.113.5 a.test\n")
        file.truncate(1 << 40)
    assert module._read(pid, "etc/hosts") == "203.0.113.5 a.test\n"
    (folder / "hosts").write_text("203.0.113.5 a.test")
    assert module._read(pid, "etc/hosts") == "203.0.113.5 a.test"
