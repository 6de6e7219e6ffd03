"""What capture costs a TLS workload: a ping-pong without capture, with empty probes at the same places, with capture.

Uprobes act on a file for the whole machine, so the workload has a copy of libssl of its own. Everything is measured in one run, the
three in turn, several times; ratios carry over to other machines, times do not.
"""

from __future__ import annotations

import os
import shutil
import ssl
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import groupby
from pathlib import Path

import trustme
from understudy.v1 import agent_pb2

from agent.kernel import libbpf
from agent.kernel.planner import Site, plan
from engine.__main__ import build
from tests.kernel.conftest import Capturing

TURNS = 5
SIZES = {1024: 4000, 16384: 2000}
"""Bytes of a message: rounds in a turn."""


class PingPong:
    """The workload, on its own libssl."""

    def __init__(self, libraries: Path, certificate: Path, key: Path) -> None:
        environment = {**os.environ, "LD_LIBRARY_PATH": str(libraries)}
        command = [sys.executable, str(Path(__file__).with_name("_pingpong.py")), str(certificate), str(key)]
        self.process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        assert self.process.stdout.readline() == "ready\n"

    def run(self, rounds: int, size: int) -> tuple[float, float]:
        """Microseconds a round: wall, CPU of both ends."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{rounds} {size}\n")
        self.process.stdin.flush()
        wall, cpu = map(float, self.process.stdout.readline().split())
        return wall / rounds * 1e6, cpu / rounds * 1e6

    def close(self) -> None:
        """End it."""
        self.process.communicate(timeout=30)


def own_libraries(folder: Path) -> Path:
    """Copies of the libssl and libcrypto that this interpreter uses."""
    import _ssl  # noqa: F401 maps them

    assert ssl.OPENSSL_VERSION
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = Path(line.split(maxsplit=5)[-1])
        if path.name.startswith(("libssl.so", "libcrypto.so")) and not (folder / path.name).exists():
            shutil.copy(path, folder / path.name)
    return folder


def sites_of(path: Path) -> tuple[Site, ...]:
    """Where capture probes a file."""
    with open(path, "rb") as file:
        return plan(file.fileno()).sites


@contextmanager
def empty_probes(folder: Path, libraries: Path) -> Iterator[None]:
    """Programs that do nothing, at all places that capture probes."""
    source, target = Path(__file__).with_name("empty.bpf.c"), folder / "empty.o"
    include = subprocess.run(["gcc", "-print-multiarch"], capture_output=True, text=True, check=True).stdout.strip()
    command = ["clang", "-O2", "-g", "-target", "bpf", f"-I/usr/include/{include}", "-c", str(source), "-o", str(target)]
    subprocess.run(command, check=True)
    loaded = libbpf.Object(target)
    programs = {program.name: program for program in loaded.programs()}
    for program in programs.values():
        program.expect_uprobe_multi()
    loaded.load()
    with ExitStack() as stack:
        for path in libraries.iterdir():
            for returns, group in groupby(sorted(sites_of(path), key=lambda site: site.returns), key=lambda site: site.returns):
                program = programs["empty_return" if returns else "empty_enter"]
                link = program.attach_uprobe_multi(str(path), [(site.offset, 0) for site in group], returns)
                stack.callback(link.close)
        yield
    loaded.close()


@contextmanager
def captured(folder: Path, pid: int) -> Iterator[None]:
    """An agent that captures a process, and an engine that takes it in."""
    with ExitStack() as stack:
        address = f"unix:{folder}/e.sock"
        server, recordings = build(address, folder, folder)
        server.start()
        stack.callback(lambda: server.stop(0).wait())
        capture = Capturing(folder, recordings, address)
        stack.callback(capture.close)
        capture.start(agent_pb2.Target(pid=pid))
        yield
        ledger = capture.stop()
        assert ledger.seen == ledger.delivered + ledger.lost
        if ledger.lost:
            print(f"    ({ledger.lost:,} of {ledger.seen:,} bytes found no room in the ring)")


@contextmanager
def nothing() -> Iterator[None]:
    """No probe at all."""
    yield


def main() -> None:
    """Measure and print."""
    if os.geteuid() != 0:
        print("capture: needs root")
        return
    with tempfile.TemporaryDirectory(prefix="us-") as name:
        folder = Path(name)
        libraries = folder / "lib"
        libraries.mkdir()
        leaf = trustme.CA().issue_cert("localhost")
        certificate, key = folder / "cert.pem", folder / "key.pem"
        leaf.cert_chain_pems[0].write_to_path(str(certificate))
        leaf.private_key_pem.write_to_path(str(key))
        workload = PingPong(own_libraries(libraries), certificate, key)
        ways: dict[str, Callable[[], object]] = {
            "without capture": nothing,
            "empty probes": lambda: empty_probes(folder, libraries),
            "capture": lambda: captured(folder, workload.process.pid),
        }
        found: dict[tuple[str, int], list[tuple[float, float]]] = {}
        for _ in range(TURNS):
            for way, enter in ways.items():
                with enter():  # type: ignore[attr-defined]
                    for size, rounds in SIZES.items():
                        found.setdefault((way, size), []).append(workload.run(rounds, size))
        workload.close()
        report(found)


def report(found: dict[tuple[str, int], list[tuple[float, float]]]) -> None:
    """Medians, and their ratio to the ones without capture."""
    print(f"TLS ping-pong between two Python processes, libssl of their own, median of {TURNS} turns")
    print(f"{'':18}{'bytes':>7}{'wall µs':>10}{'CPU µs':>10}{'wall':>9}{'CPU':>9}")
    for (way, size), turns in sorted(found.items(), key=lambda item: (item[0][1], list(found).index(item[0]))):
        wall, cpu = (statistics.median(column) for column in zip(*turns, strict=True))
        base_wall, base_cpu = (statistics.median(column) for column in zip(*found["without capture", size], strict=True))
        print(f"{way:18}{size:7}{wall:10.1f}{cpu:10.1f}{wall / base_wall:9.2f}{cpu / base_cpu:9.2f}")


if __name__ == "__main__":
    main()
