"""A network namespace of a workload's own, which may do with its loopback what it likes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from agent.takeover.network import Loopback
from agent.takeover.network import addresses as found

pytestmark = pytest.mark.kernel


@contextmanager
def network(*steps: str) -> Iterator[int]:
    """A new network in which these commands were run; a process in it."""
    command = ["unshare", "--net", "sh", "-ec", "; ".join([*steps, "echo", "exec cat"])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin
        assert holder.stdout
        assert holder.stdout.readline() == "\n"
        yield holder.pid
        holder.stdin.close()


def addresses(pid: int) -> set[str]:
    """Of all interfaces in the network of a process, as ip-address(8) shows them."""
    shown = subprocess.check_output(["nsenter", "--target", str(pid), "--net", "ip", "-json", "address"])
    return {each["local"] for link in json.loads(shown) for each in link["addr_info"]}


def test_the_addresses_of_a_network_are_found() -> None:
    """Of all interfaces, whatever their labels, several at one, and in either family."""
    added = ["10.66.7.2/24", "10.66.7.3/24", "192.0.2.1/32", "fd66:7::2/64"]
    steps = [f"ip address add {each} dev one" for each in added]
    with network("ip link add one type veth peer two", "ip link set lo up", "ip link set one up", *steps) as pid:
        assert {str(each) for each in found(pid)} == addresses(pid) >= {each.partition("/")[0] for each in added}


@pytest.mark.parametrize("rename", [[], ["ip link set lo name other"]])
def test_a_loopback_gets_an_address_of_each_family_whatever_its_name(rename: list[str]) -> None:
    with network(*rename, "ip link set group default up") as pid:
        loopback = Loopback(pid, 7)
        loopback.start()
        during = addresses(pid)
        loopback.stop()
        assert during == {"127.0.0.1", "::1", "127.18.0.7", "2001:2:0:ffff::7"}
        assert addresses(pid) == {"127.0.0.1", "::1"}


def test_an_interface_that_is_called_lo_is_left_alone() -> None:
    with network("ip link set lo name other", "ip link add lo type veth peer end", "ip link set group default up") as pid:
        loopback = Loopback(pid, 7)
        loopback.start()
        shown = subprocess.check_output(["nsenter", "--target", str(pid), "--net", "ip", "-json", "address", "show", "lo"])
        loopback.stop()
        assert [each["local"] for each in json.loads(shown)[0]["addr_info"] if each["scope"] != "link"] == []
