"""Programs under takeover, in a network where nothing else is: what they call, and what the responder hears of it."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernel.takeover import Taking, backend

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left_behind")]

HOST = "api.example.com"
NODE = str(Path(sys.executable).with_name("node"))
ANSWER = {"object": "customer", "id": "cus_1", "from": "responder"}
SYNTHETIC = {"198.18.0.1", "2001:2::1"}
CLIENTS = ["with_requests", "with_httpx", "with_httpx_async", "with_aiohttp", "with_urllib"]
ELSEWHERE = {"SSL_CERT_FILE": "/nowhere", "REQUESTS_CA_BUNDLE": "/nowhere", "AWS_CA_BUNDLE": "/nowhere"}


@pytest.mark.parametrize("variables", [{}, ELSEWHERE], ids=["plain", "misled"])
@pytest.mark.parametrize("client", CLIENTS)
def test_python_by_name(lonely: Taking, client: str, variables: dict[str, str]) -> None:
    said, running = lonely.said(client, f"https://{HOST}/x?y=1", recorded=[backend(HOST)], variables=variables)
    assert said == ANSWER
    heard = lonely.responder.next()
    assert (heard["sni"], heard["line"]) == (HOST, "GET /x?y=1 HTTP/1.1")
    assert heard["original"][1] == 443
    assert heard["original"][0] in SYNTHETIC & set(running.ready.names)
    assert heard["again"] == heard["original"]
    assert [each.WhichOneof("news") for each in running.news] == ["stopped"]


def test_boto3(lonely: Taking) -> None:
    host = "dynamodb.us-east-1.amazonaws.com"
    said, _ = lonely.said("with_boto3", "us-east-1", recorded=[backend(host)])
    assert (said, lonely.responder.next()["sni"]) == (200, host)


def test_stripe_which_reads_no_variable(lonely: Taking) -> None:
    said, _ = lonely.said("with_stripe", "-", recorded=[backend("api.stripe.com")])
    heard = lonely.responder.next()
    assert (said, heard["sni"], heard["line"]) == ("cus_1", "api.stripe.com", "GET /v1/customers/cus_1 HTTP/1.1")


CURL = ["curl", "-sS", "--noproxy", "*", "--max-time", "20"]


@pytest.mark.parametrize("family", ["-4", "-6"])
def test_curl_by_family(lonely: Taking, family: str) -> None:
    running = lonely.start(*CURL, family, f"https://{HOST}/", recorded=[backend(HOST)])
    assert running.said() == ANSWER
    heard = lonely.responder.next()
    assert heard["sni"] == HOST
    assert (":" in heard["original"][0]) is (family == "-6")


@pytest.mark.parametrize("address", ["198.51.100.7", "2001:db8::7"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_curl_by_address(lonely: Taking, scheme: str, address: str) -> None:
    port = {"http": 8080, "https": 8443}[scheme]
    shown = f"[{address}]" if ":" in address else address
    recorded = [backend("some.example.com", port, address)]
    running = lonely.start(*CURL, "-w", '\n["%{remote_ip}", %{remote_port}]', f"{scheme}://{shown}:{port}/", recorded=recorded)
    assert running.said() == [address, port]  # what curl asked getpeername
    assert json.loads(running.output.read_text().splitlines()[0]) == ANSWER
    assert lonely.responder.next()["original"] == [address, port]


FETCH = f"fetch('https://{HOST}/').then(r => r.text()).then(console.log)"
HTTPS = f"require('https').get('https://{HOST}/', r => r.on('data', d => process.stdout.write(d)))"


@pytest.mark.parametrize("program", [FETCH, HTTPS], ids=["fetch", "https"])
def test_node(lonely: Taking, program: str) -> None:
    running = lonely.start(NODE, "-e", program, recorded=[backend(HOST)])
    assert running.said() == ANSWER
    assert lonely.responder.next()["sni"] == HOST


@pytest.mark.parametrize("way", ["connect", "connect_later", "mapped"])
def test_every_way_to_connect(lonely: Taking, way: str) -> None:
    said, _ = lonely.said(way, "198.51.100.7", "8080", recorded=[backend("198.51.100.7", 8080)])
    assert said["peer"] == ["::ffff:198.51.100.7" if way == "mapped" else "198.51.100.7", 8080]


def test_connecting_and_sending_in_one_call(lonely: Taking) -> None:
    steps = ["fast_open 198.51.100.7 80", "fast_open 203.0.113.9 80"]
    said, _ = lonely.said("several", *steps, recorded=[backend("198.51.100.7", 80)])
    assert said == [{"peer": ["198.51.100.7", 80]}, {"error": "ConnectionRefusedError"}]
    assert lonely.responder.next()["original"] == ["198.51.100.7", 80]


def test_a_socket_may_call_again(lonely: Taking) -> None:
    said, _ = lonely.said("again", "203.0.113.9", "1", "198.51.100.7", "80", recorded=[backend("198.51.100.7", 80)])
    assert said == {"code": errno.ECONNREFUSED, "peer": ["198.51.100.7", 80]}


def test_a_socket_that_calls_again_is_not_taken_for_what_it_was(lonely: Taking) -> None:
    said, _ = lonely.said("elsewhere_again", "198.51.100.7", "80", recorded=[backend("198.51.100.7", 80)])
    assert said == [["198.51.100.7", 80], True]


def test_a_responder_without_ipv6(lonely: Taking) -> None:
    lonely.responder.port6 = 0
    said, _ = lonely.said("with_urllib", "http://[2001:db8::7]/", recorded=[backend("2001:db8::7", 80)])
    assert (said, lonely.responder.next()["original"]) == (ANSWER, ["2001:db8::7", 80])


@pytest.mark.parametrize("way", ["connect", "connect_later"])
def test_a_name_that_was_never_recorded_is_refused_by_name(lonely: Taking, way: str) -> None:
    said, running = lonely.said(way, "other.example.com", "443", recorded=[backend(HOST)])
    assert said["error"] in ("ConnectionRefusedError", "OSError")  # of two addresses, asyncio makes one error
    assert {(host, port, protocol) for host, _, port, protocol in running.told("refused")} == {("other.example.com", 443, 6)}
    assert lonely.responder.silent


def test_a_recorded_name_on_another_port_is_refused(lonely: Taking) -> None:
    said, running = lonely.said("connect", HOST, "8443", recorded=[backend(HOST)])
    assert said["error"] == "ConnectionRefusedError"
    assert {(host, port) for host, _, port, _ in running.told("refused")} == {(HOST, 8443)}


@pytest.mark.parametrize("address", ["203.0.113.9", "2001:db8::9"])
def test_an_address_that_was_never_recorded_is_refused(lonely: Taking, address: str) -> None:
    said, running = lonely.said("connect", address, "443", recorded=[backend(HOST)])
    assert said["error"] == "ConnectionRefusedError"
    assert running.told("refused") == [("", address, 443, 6)]


def test_who_called_is_told(lonely: Taking) -> None:
    _, running = lonely.said("connect", "203.0.113.9", "443")
    (refused,) = (each.refused for each in running.news if each.WhichOneof("news") == "refused")
    assert (refused.workload.pid, refused.count) == (running.launcher.process.pid, 1)


def test_names_are_found_for_each_family_though_there_is_no_network(lonely: Taking) -> None:
    said, _ = lonely.said("look_up", HOST, "any", "4", "6", recorded=[backend(HOST)])
    assert said == {"any": ["198.18.0.1", "2001:2::1"], "4": ["198.18.0.1"], "6": ["2001:2::1"]}


@pytest.mark.parametrize("servers", ["192.0.2.{}", "2001:db8::{}", "::ffff:192.0.2.{}"])
def test_an_answer_comes_from_the_server_that_was_asked(lonely: Taking, servers: str) -> None:
    """Also of several that one socket asks at a time: who compares takes no other's."""
    asked = [servers.format(number) for number in range(1, 5)]
    said, _ = lonely.said("ask_several", *asked)
    assert said == [[server, 53] for server in asked]


def test_loopback_is_left_alone_but_for_recorded_pairs(lonely: Taking) -> None:
    with (
        lonely.place.run(socket.create_server, ("127.0.0.1", 0)) as one,
        lonely.place.run(socket.create_server, ("::1", 0), family=socket.AF_INET6) as two,
    ):
        own4, own6 = str(one.getsockname()[1]), str(two.getsockname()[1])
        recorded = [backend("localhost", 5000, "127.0.0.1"), backend("127.0.0.2", 443)]
        steps = [f"connect 127.0.0.1 {own4}", f"connect ::1 {own6}", "connect 127.0.0.1 5000", "connect localhost 5000"]
        said, running = lonely.said("several", *steps, recorded=recorded)
    assert [step["peer"] for step in said] == [
        ["127.0.0.1", int(own4)],
        ["::1", int(own6)],
        ["127.0.0.1", 5000],
        ["127.0.0.1", 5000],
    ]
    assert running.told("refused") == []
    assert [(address, int(port)) for _, address, port, _ in running.told("local")] == [("127.0.0.1", int(own4)), ("::1", int(own6))]


@pytest.mark.parametrize("recorded", ["as it was called", "as it was reached"])
@pytest.mark.parametrize(
    ("called", "reached"),
    [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("::ffff:0.0.0.0", "127.0.0.1")],
    ids=["IPv4", "IPv6", "mapped"],
)
def test_the_unspecified_address_is_the_loopback(lonely: Taking, called: str, reached: str, recorded: str) -> None:
    """Linux connects it there, so that is what a recording says: both are one backend, however it was called."""
    host = called.removeprefix("::ffff:")
    known = backend(host, 5000) if recorded == "as it was called" else backend("peer", 5000, reached)
    for url in (f"http://[{called}]:5000/" if ":" in called else f"http://{called}:5000/", f"http://[{reached}]:5000/"):
        said, _ = lonely.said("with_urllib", url.replace("[127.0.0.1]", "127.0.0.1"), recorded=[known])
        assert (said, lonely.responder.next()["original"]) == (ANSWER, [reached, 5000])


def test_the_unspecified_address_is_a_bound_socket_s_own(lonely: Taking) -> None:
    """So a call of it is none of what was recorded elsewhere on the loopback."""
    with lonely.place.run(socket.create_server, ("127.0.0.2", 0)) as own:
        port = own.getsockname()[1]
        recorded = [backend("peer", port, "127.0.0.1")]
        said, running = lonely.said("bound", "0.0.0.0", str(port), "127.0.0.2", recorded=recorded)
    assert said == {"peer": ["127.0.0.2", port]}
    assert running.told("local") == [("", "127.0.0.2", port, 6)]


def test_the_unspecified_address_of_a_socket_that_is_tied_to_a_device_is_not_the_loopback(addressed: Taking) -> None:
    """Linux connects it to the device's own address, where nothing was recorded."""
    steps = "ip link add tied type veth peer end && ip link set tied up && ip address add 192.0.2.7/32 dev tied"
    addressed.place.run(subprocess.run, steps, shell=True, check=True)
    said, running = addressed.said("of_device", "tied", "0.0.0.0", "5000", recorded=[backend("peer", 5000, "127.0.0.1")])
    assert said == os.strerror(errno.ECONNREFUSED)
    assert running.told("refused") == [("", "0.0.0.0", 5000, 6)]


def test_the_unspecified_address_of_an_ipv6_socket_that_is_bound_to_ipv4_is_ipv4_s_loopback(lonely: Taking) -> None:
    said, _ = lonely.said("bound_mapped", "::", "5000", recorded=[backend("peer", 5000, "127.0.0.1")])
    assert said == {"peer": ["::ffff:127.0.0.1", 5000]}


def test_a_port_of_this_machine_is_told_of_once_and_the_workload_s_own_never(lonely: Taking) -> None:
    with lonely.place.run(socket.create_server, ("127.0.0.1", 0)) as beside:
        port = beside.getsockname()[1]
        said, running = lonely.said("several", *[f"connect 127.0.0.1 {port}"] * 3, "to_itself")
    assert all("peer" in step for step in said)
    assert [port for _, _, port, _ in running.told("local")] == [port]


OWN4, OWN6 = "10.66.7.2", "fd66:7::2"


@pytest.fixture
def addressed(lonely: Taking) -> Taking:
    """With addresses of its own besides those of the loopback, as every machine and container has."""
    for address in ([f"{OWN4}/32"], [f"{OWN6}/128", "nodad"]):
        lonely.place.run(subprocess.run, ["ip", "address", "add", *address, "dev", "lo"], check=True)
    return lonely


@pytest.mark.parametrize(
    ("address", "bound"),
    [(OWN4, OWN4), (OWN4, "0.0.0.0"), (OWN6, OWN6), (OWN6, "::"), (f"::ffff:{OWN4}", OWN4), (f"::ffff:{OWN4}", "::"), (OWN4, "::")],
)
def test_a_call_to_itself_by_the_machine_s_own_address_is_left_alone(addressed: Taking, address: str, bound: str) -> None:
    """As on the loopback: a service that calls itself by the machine's name, which is this address in /etc/hosts."""
    said, running = addressed.said("to_itself", address, bound, recorded=[backend(HOST)])
    assert said["peer"][0] == address
    assert running.told("refused") == running.told("local") == []


def test_a_call_to_the_machine_s_own_address_where_nobody_listens_yet_is_no_miss(addressed: Taking) -> None:
    """A service that is waited for; the kernel says that nobody is there, as on the loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    steps = [f"connect {OWN4} {port}", f"to_itself {OWN4} 0.0.0.0 {port}"]
    said, running = addressed.said("several", *steps, recorded=[backend(HOST)])
    assert (said[0]["error"], said[1].get("peer")) == ("ConnectionRefusedError", [OWN4, port])
    assert (running.told("refused"), running.told("local")) == ([], [("", OWN4, port, 6)])


def test_a_recorded_backend_at_the_machine_s_own_address_is_stood_in_for(addressed: Taking) -> None:
    with addressed.place.run(socket.create_server, (OWN4, 0)) as beside:
        port = beside.getsockname()[1]
        said, _ = addressed.said("with_urllib", f"http://{OWN4}:{port}/", recorded=[backend("beside", port, OWN4)])
    assert (said, addressed.responder.next()["original"]) == (ANSWER, [OWN4, port])


@pytest.mark.parametrize("address", [OWN4, OWN6])
def test_what_others_serve_at_the_machine_s_own_address_is_refused(addressed: Taking, address: str) -> None:
    """It may be anybody's, a database's of this machine say, which was not recorded."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with addressed.place.run(socket.create_server, (address, 0), family=family) as beside:
        port = beside.getsockname()[1]
        said, running = addressed.said("several", "to_itself", f"connect {address} {port}", recorded=[backend(HOST)])
    assert said[1]["error"] == "ConnectionRefusedError"
    assert running.told("refused") == [("", address, port, 6)]


def test_a_proxy_at_the_machine_s_own_address_is_refused(addressed: Taking) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    said, _ = addressed.said("to_itself", OWN4, "0.0.0.0", str(port), refused=[backend(OWN4, port)])
    assert said["error"] == "ConnectionRefusedError"


def test_what_is_refused_on_the_loopback(lonely: Taking) -> None:
    """Such as a proxy, for it would lead past the responder."""
    with lonely.place.run(socket.create_server, ("127.0.0.1", 0)) as proxy:
        port = proxy.getsockname()[1]
        steps = [f"connect 127.0.0.1 {port}", f"connect localhost {port}"]
        said, running = lonely.said("several", *steps, refused=[backend("localhost", port)])
    assert [step.get("error") for step in said] == ["ConnectionRefusedError"] * 2
    assert {(port, protocol) for _, _, port, protocol in running.told("refused")} == {(port, 6)}
    assert running.told("local") == []


def ders(text: str) -> list[bytes]:
    """The certificates in a list, which may be written with lines of another length."""
    found = re.findall("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", text, re.DOTALL)
    return [ssl.PEM_cert_to_DER_cert(each) for each in found]


def test_the_machine_sees_nothing_of_it(lonely: Taking) -> None:
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    before, mounts = bundle.read_bytes(), Path("/proc/self/mountinfo").read_text()
    running = lonely.start("cat", str(bundle), recorded=[backend(HOST)])
    running.launcher.process.wait()
    running.end()
    seen = running.output.read_text()
    assert seen.startswith(before.decode())
    assert ders(seen) == ders(before.decode()) + ders(lonely.responder.ca)
    assert (bundle.read_bytes(), Path("/proc/self/mountinfo").read_text()) == (before, mounts)


def test_what_a_variable_names_is_covered_and_kept(lonely: Taking, tmp_path: Path) -> None:
    own = tmp_path / "own.pem"
    own.write_text(lonely.responder.ca)  # any certificate
    running = lonely.start("cat", str(own), recorded=[backend(HOST)], variables={"REQUESTS_CA_BUNDLE": str(own)})
    running.launcher.process.wait()
    assert ders(running.output.read_text()) == ders(lonely.responder.ca) * 2
    assert "REQUESTS_CA_BUNDLE" not in running.ready.environment


def test_openssl_finds_the_authority_in_the_folder(lonely: Taking) -> None:
    folder = Path("/etc/ssl/certs")
    if not folder.is_dir() or not shutil.which("openssl"):
        pytest.skip("no folder of certificates here")
    command = [
        "openssl",
        "s_client",
        "-connect",
        f"{HOST}:443",
        "-servername",
        HOST,
        "-CApath",
        str(folder),
        "-verify_return_error",
    ]
    running = lonely.start("sh", "-c", " ".join(command) + " -brief </dev/null 2>&1", recorded=[backend(HOST)])
    assert running.launcher.process.wait() == 0
    assert "Verification: OK" in running.output.read_text()


def test_two_side_by_side_do_not_see_each_other(lonely: Taking, short_folder: Path) -> None:
    other = Taking(short_folder, lonely.place)
    try:
        for taking in (lonely, other, lonely):
            said, _ = taking.said("with_requests", f"https://{HOST}/", recorded=[backend(HOST)])
            assert (said, taking.responder.next()["sni"]) == (ANSWER, HOST)
        assert lonely.responder.silent
        assert other.responder.silent
    finally:
        other.close()


def test_what_is_not_taken_over_calls_for_real(lonely: Taking) -> None:
    running = lonely.start("cat", recorded=[backend("198.51.100.7", 80)], stdin=_waiting(lonely))
    with lonely.place.start(sys.executable, "-m", "tests.kernel.calling", "connect", "198.51.100.7", "80") as outside:
        assert json.loads(outside.communicate()[0])["error"] == "OSError"  # the network is unreachable, as it is
    running.launcher.process.kill()
    running.end()


def _waiting(taking: Taking) -> str:
    """A pipe that nothing is written to."""
    path = taking.folder / "silence"
    if not path.exists():
        os.mkfifo(path)
    taking.keep(os.open(path, os.O_RDWR))
    return str(path)
