"""Lists of certificates that nobody could know of before the program runs."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import trustme

from tests.e2e.machine import eventually
from tests.kernel.takeover import TIMEOUT, Running, Taking, backend
from tests.kernel.test_takeover_ends import arguments_of

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left_behind")]

HOST = "api.example.com"
ANSWER = {"object": "customer", "id": "cus_1", "from": "responder"}

FETCH = f"""
import json, ssl, urllib.request
def fetch(bundle):
    context = ssl.create_default_context(cafile=bundle)
    try:
        with urllib.request.urlopen("https://{HOST}/", timeout=20, context=context) as answer:
            return json.load(answer)
    except OSError as error:
        return str(error)
"""


@pytest.fixture
def hidden() -> Iterator[Path]:
    """A folder of its own, of which no word of a command tells."""
    with tempfile.TemporaryDirectory(prefix="us-") as name:
        yield Path(name)


def write_bundle(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(trustme.CA().cert_pem.bytes())
    return path


def start(taking: Taking, program: str, *, trust_files: tuple[str, ...] = ()) -> Running:
    """Run a program that no word names: it comes by standard input."""
    script = taking.folder / "script"
    script.write_text(FETCH + program)
    return taking.start(sys.executable, "-", recorded=[backend(HOST)], stdin=str(script), trust_files=trust_files)


@pytest.mark.parametrize("bundle", ["own/cacert.pem", "own/data/ca-certificates.crt", "other/deep/er/roots.pem"])
@pytest.mark.parametrize("folder", ["lib/python3.11/site-packages", "vendor/node_modules"])
def test_a_package_that_only_the_program_knows(lonely: Taking, hidden: Path, folder: str, bundle: str) -> None:
    packages = hidden / folder
    (packages / "own").mkdir(parents=True)
    (packages / "own/__init__.py").write_text("")
    path = write_bundle(packages / bundle)
    running = start(
        lonely, f"import sys; sys.path.insert(0, {str(packages)!r}); import own; print(json.dumps(fetch({str(path)!r})))"
    )
    assert running.said() == ANSWER
    assert lonely.responder.ca not in path.read_text()


def test_a_list_at_an_odd_place_is_told_of_and_covered_where_it_is_named(lonely: Taking, hidden: Path) -> None:
    path = write_bundle(hidden / "odd.pem")
    program = f"print(json.dumps(fetch({str(path)!r})))"
    running = start(lonely, program)
    assert "CERTIFICATE_VERIFY_FAILED" in running.said()
    told = [each.untrusted_bundle for each in running.news if each.WhichOneof("news") == "untrusted_bundle"]
    assert [(each.path, each.workload.pid) for each in told] == [(str(path), running.launcher.process.pid)]
    assert start(lonely, program, trust_files=(str(path),)).said() == ANSWER


def test_a_list_with_a_known_name_is_covered_from_the_second_time_on(lonely: Taking, hidden: Path) -> None:
    path = write_bundle(hidden / "cacert.pem")
    said = start(lonely, f"print(json.dumps([fetch({str(path)!r}) for _ in range(2)]))").said()
    assert "CERTIFICATE_VERIFY_FAILED" in said[0]
    assert said[1] == ANSWER


def test_what_is_no_list_is_left_alone(lonely: Taking, hidden: Path) -> None:
    key = hidden / "key.pem"
    key.write_bytes(trustme.CA().issue_cert("x").private_key_and_cert_chain_pem.bytes())
    (hidden / "text.pem").write_text("text")
    running = start(lonely, f"print(json.dumps([open(path).read() for path in ({str(key)!r}, {str(hidden / 'text.pem')!r})]))")
    assert running.said() == [key.read_text(), "text"]
    assert [each.WhichOneof("news") for each in running.news] == ["stopped"]


def test_a_helper_that_is_killed_holds_nobody_up(lonely: Taking, hidden: Path) -> None:
    path, go = write_bundle(hidden / "site-packages/own/cacert.pem"), hidden / "go"
    waiting = f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)\n"
    running = start(lonely, waiting + f"print(json.dumps(open({str(path)!r}).read()))")
    words = ["agent.takeover.cover", str(running.launcher.process.pid)]
    (helper,) = [each for each in psutil.process_iter() if all(word in " ".join(arguments_of(each)) for word in words)]
    helper.kill()
    go.touch()
    assert running.said() == path.read_text()
    assert [each.trust_ended.reason for each in running.news if each.WhichOneof("news") == "trust_ended"] == [
        "it was ended by signal 9"
    ]


def test_a_file_that_cannot_be_looked_at_in_time_holds_no_others_up(lonely: Taking, hidden: Path) -> None:
    """A lease keeps even the taking of the event waiting, for as long as the machine's lease-break-time."""
    leased, other = hidden / "leased", hidden / "other"
    leased.write_text("text")
    other.write_text("other")
    lender = os.open(leased, os.O_RDWR)
    received = signal.signal(signal.SIGIO, signal.SIG_IGN)
    program = f"""
import contextlib, threading
def open_leased():
    with contextlib.suppress(OSError):
        open({str(leased)!r})
threading.Thread(target=open_leased, daemon=True).start()
while True:
    with open({str(other)!r}) as file:
        if (text := file.read()) not in ("", "other"):
            break
print(json.dumps(text))
"""
    try:
        fcntl.fcntl(lender, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        running = start(lonely, program)
        assert eventually(lambda: any(each.WhichOneof("news") == "trust_ended" for each in running.news), TIMEOUT)
        other.write_text("go on")
        assert running.said() == "go on"
    finally:
        os.close(lender)
        signal.signal(signal.SIGIO, received)
    [reason] = [each.trust_ended.reason for each in running.news if each.WhichOneof("news") == "trust_ended"]
    assert "a lease" in reason


def test_many_openings_at_a_time(lonely: Taking, hidden: Path) -> None:
    for number in range(300):
        (hidden / str(number)).write_text(str(number))
    program = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        f"read = lambda number: open(f'{hidden}/{{number}}').read()\n"
        "with ThreadPoolExecutor(32) as pool: print(json.dumps(sum(map(int, pool.map(read, range(300))))))"
    )
    assert json.dumps(start(lonely, program).said()) == str(sum(range(300)))
