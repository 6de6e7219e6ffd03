"""`understudy mock`: stand in for the backends of a snapshot."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import sys
import threading
import uuid
from dataclasses import dataclass, replace
from pathlib import Path

import click
import grpc
from rich.console import Console
from rich.text import Text
from understudy.v1 import agent_pb2, control_pb2

from engine.cli import OWN_FAILURE, Failure, as_typed
from engine.cli.caller import Caller, caller
from engine.cli.capturing import Capturing
from engine.cli.launcher import Launcher, find_program, on_signals
from engine.cli.parts import Parts
from engine.cli.proxies import without_proxies
from engine.cli.remaining import left_behind, remaining
from engine.cli.render_mock import CA_VARIABLES, SHOWN, render_miss, render_not_mocked, render_summary, usage
from engine.cli.reports import merged, report_of
from engine.cli.takeover import Takeover
from engine.cli.terminal import console as terminal
from engine.cli.text import clean, counted
from engine.report import Miss, MockReport

MISSED = 3
"""Exit status where requests had no answer and --fail-on-miss was given."""
WATCH_SECONDS = 1.0
"""How soon a miss is shown."""
MISSES_SHOWN = 20
"""Misses that are shown as they happen: all of them are in the report."""

AUTHORITIES_MAX = 4 << 20
"""Bytes of a file of authorities; Mozilla's whole list has 0.2 million."""

ON_MISS = {
    "fail": control_pb2.ON_MISS_FAIL,
    "passthrough": control_pb2.ON_MISS_PASSTHROUGH,
    "record": control_pb2.ON_MISS_RECORD,
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What to stand in for, and how. `speed`: of recorded delays; 0 for none. `authorities`: of real backends, PEM.
    `trusted`: files of certificates that a command reads. `taken_over_only`: nobody but a command is answered."""

    snapshot: Path
    address: str = ""
    port: int = 0
    only: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    speed: float = 0.0
    on_miss: control_pb2.OnMiss.ValueType = control_pb2.ON_MISS_FAIL
    authorities: bytes = b""
    trusted: tuple[Path, ...] = ()
    taken_over_only: bool = False

    @property
    def passes(self) -> bool:
        """Whether what was not recorded is real."""
        return self.on_miss != control_pb2.ON_MISS_FAIL


class Mocking:
    """A responder in the engine of this command, from its start to its report."""

    def __init__(self, parts: Parts, settings: Settings) -> None:
        """Start it. Raises Failure."""
        self._control = parts.control_service
        self.capture_id = uuid.uuid4().hex
        request = control_pb2.StartResponderRequest(
            snapshot=settings.snapshot.name,
            address=settings.address,
            port=settings.port,
            only=settings.only,
            excluded=settings.excluded,
            speed=settings.speed,
            on_miss=settings.on_miss,
            real_authorities=settings.authorities,
            capture_id=self.capture_id,
            taken_over_only=settings.taken_over_only,
        )
        try:
            self.responder = self._control.StartResponder(request).responder
        except grpc.RpcError as error:
            raise Failure(error.details() or str(error)) from error

    def report(self) -> MockReport:
        """What happened so far. Raises grpc.RpcError where the engine is gone."""
        return report_of(merged(self._control.GetResponder(control_pb2.GetResponderRequest(responder_id=self.responder.id))))

    def stop(self) -> MockReport:
        """End it. Raises Failure."""
        try:
            return report_of(merged(self._control.StopResponder(control_pb2.StopResponderRequest(responder_id=self.responder.id))))
        except grpc.RpcError as error:
            raise Failure(error.details() or str(error)) from error


class Said:
    """Where goes what is said: failures, misses, all else. With `quiet` only the failures, and the misses where they are one."""

    def __init__(self, *, quiet: bool, fail_on_miss: bool) -> None:
        self.failures = terminal(stderr=True)
        self.misses = terminal(stderr=True, quiet=quiet and not fail_on_miss)
        self.rest = terminal(stderr=True, quiet=quiet)


class MissWatch:
    """Tells of misses as they happen, each once."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._told = 0

    def tell(self, misses: tuple[Miss, ...]) -> None:
        """Show those that are new."""
        for miss in misses[self._told : MISSES_SHOWN]:
            render_miss(self._console, miss)
        if self._told < MISSES_SHOWN <= len(misses):
            self._console.print("more misses are not shown here; --report FILE has them", style="dim")
        self._told = max(self._told, len(misses))


@click.command(name="mock")
@click.argument("snapshot", type=click.Path(path_type=Path))
@click.option("--listen", default="127.0.0.1:0", help="ADDRESS:PORT to listen on.  [default: a free port of 127.0.0.1]")
@click.option(
    "--only",
    multiple=True,
    metavar="HOST",
    help="Mock this backend only: the others that were recorded keep their real connection. HOST or HOST:PORT; may be given again.",
)
@click.option(
    "--except",
    "excluded",
    multiple=True,
    metavar="HOST",
    help="Let this backend keep its real connection. HOST or HOST:PORT; one that was not recorded as HOST:PORT.",
)
@click.option(
    "--timing", default="none", show_default=True, help="none, recorded, or a speed: 2x answers in half the recorded time."
)
@click.option(
    "--on-miss",
    type=click.Choice(list(ON_MISS)),
    default="fail",
    show_default=True,
    help="What becomes of what was not recorded: it is refused; or real; or real, and added to SNAPSHOT.",
)
@click.option(
    "--trust",
    "trusted",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="A list of certificates that CMD reads where nobody would look; may be given again.",
)
@click.option("--report", type=click.Path(dir_okay=False, path_type=Path), help="Write what happened to FILE, as JSON.")
@click.option("--fail-on-miss", is_flag=True, help=f"Exit with {MISSED} if anything that was called had no recorded answer.")
@click.option("-q", "--quiet", is_flag=True, help="Show failures only; with --fail-on-miss, misses too.")
@click.argument("cmd", nargs=-1, type=click.UNPROCESSED, metavar="[-- CMD...]")
def command(
    snapshot: Path,
    listen: str,
    only: tuple[str, ...],
    excluded: tuple[str, ...],
    timing: str,
    on_miss: str,
    trusted: tuple[Path, ...],
    report: Path | None,
    fail_on_miss: bool,
    quiet: bool,
    cmd: tuple[str, ...],
) -> None:
    """Stand in for the backends of SNAPSHOT: for CMD, with nothing changed in it; or, without CMD, until Ctrl-C.

    CMD runs as you, also under sudo, and what it calls is answered from the recording. Everything else is refused and reported,
    also what was recorded but cannot be stood in for, such as a database: --except lets it through. Only programs on the loopback
    are left alone, and listed, and CMD itself where it calls itself. Exit status is that of CMD; 125 where mocking failed.

    Without CMD, one port takes HTTP and HTTPS for all backends, directly and as a proxy. What was not recorded gets an answer that
    says so, and which recording is nearest. Nothing reaches a real backend, unless --on-miss says so.
    """
    path = snapshot.absolute()
    if not cmd and not path.exists() and shutil.which(str(snapshot)):
        raise Failure(f"{snapshot} is a command, and SNAPSHOT is missing: `understudy mock SNAPSHOT -- {snapshot}`")
    address, port = _listening(listen)
    person = caller()
    authorities = _authorities(person) if on_miss != "fail" else b""
    settings = Settings(path, address, port, only, excluded, _speed(timing), ON_MISS[on_miss], authorities, trusted, bool(cmd))
    for each in trusted:
        _check_trusted(each, person)
    if cmd and os.geteuid() != 0:
        raise Failure(f"taking over a command's calls needs root: run `sudo {as_typed()}`")
    program = find_program(person, cmd) if cmd else ""
    said = Said(quiet=quiet, fail_on_miss=fail_on_miss)
    with contextlib.closing(ReportFile(report, person)) as file:
        status, found = _run(settings, program, cmd, person, said)
        file.write(found)
    if fail_on_miss and found.missed and status != OWN_FAILURE:
        if status:
            click.echo(f"understudy: something was missed, so the exit status is {MISSED}; that of {cmd[0]} was {status}", err=True)
        status = MISSED
    sys.exit(status)


def _run(settings: Settings, program: str, cmd: tuple[str, ...], person: Caller, said: Said) -> tuple[int, MockReport]:
    parts = Parts(person, settings.snapshot.parent, with_agent=bool(cmd))
    try:
        return _take_over(parts, settings, program, cmd, person, said) if cmd else (0, _serve(parts, settings, said))
    finally:
        parts.stop()


def _take_over(
    parts: Parts, settings: Settings, program: str, cmd: tuple[str, ...], person: Caller, said: Said
) -> tuple[int, MockReport]:
    """Run a command against the responder; its exit status, or that of a failure of ours, and the report."""
    mocking = Mocking(parts, settings)
    launcher = Launcher(program, cmd, replace(person, environment=without_proxies(person.environment)), own_mounts=True)
    capturing = None
    try:
        if settings.on_miss == control_pb2.ON_MISS_RECORD:
            target = agent_pb2.Target(launched_pid=launcher.process.pid)
            capturing = Capturing(parts, mocking.capture_id, target, lambda text: _say(said.rest, text, "yellow"))
        trusted = [str(path.absolute()) for path in settings.trusted]
        words = (program, *cmd[1:])
        takeover = Takeover(parts, mocking.responder, launcher, words, person, passes=settings.passes, trusted=trusted)
        parts.look_after(takeover.cgroup)
        on_signals(launcher.signal)
        launcher.go(takeover.variables)
    except BaseException:
        launcher.abandon()
        raise
    for where, why in takeover.not_covered[:SHOWN]:
        _say(said.rest, f"{where} does not trust the responder: {why}", "yellow")
    if more := takeover.not_covered[SHOWN:]:
        _say(said.rest, f"nor do {len(more):,} more of such files and folders", "yellow")
    render_not_mocked(said.rest, mocking.responder, passes=settings.passes)
    backends = len(mocking.responder.backends)
    _say(said.rest, f"standing in for {counted(backends, 'backend')} of {settings.snapshot.name}", "" if backends else "yellow")
    watch, troubles, status = MissWatch(said.misses), [], None

    def lose(name: str) -> None:
        troubles.append(name)
        _say(said.failures, f"the {name} ended: what CMD calls now fails", "red")

    while status is None:
        status = launcher.status(WATCH_SECONDS)
        for name, part in (("agent", parts.agent), ("engine", parts.engine)):
            if not part.alive and name not in troubles:
                lose(name)
        if takeover.trouble and not troubles:
            troubles.append("news")
            _say(said.failures, f"what CMD calls now fails, and is not told of: {takeover.trouble}", "red")
        if not {"agent", "engine"}.intersection(troubles):
            try:
                watch.tell(mocking.report().misses)
            except grpc.RpcError:
                lose("engine")
    if takeover.trust_ended:
        _say(said.rest, f"lists of certificates that showed late do not trust the responder: {takeover.trust_ended}", "yellow")
    if "engine" in troubles:
        raise Failure(f"the engine ended: {parts.engine.last_words()}")
    if capturing and (trouble := capturing.settle()):
        troubles.append(trouble)
        _say(said.failures, trouble, "red")
    processes = remaining(takeover.cgroup)
    takeover.stop()
    if takeover.trouble and not troubles:
        troubles.append("news")
        _say(said.failures, f"the last of what CMD called is not told of: {takeover.trouble}", "red")
    if processes:
        fate = f"what they call from now on is refused: keep {cmd[0]} running until they end"
        _say(said.rest, left_behind(cmd[0], processes, fate), "yellow")
    return (OWN_FAILURE if troubles else status), _conclude(said, mocking, settings, watch, takeover)


def _conclude(said: Said, mocking: Mocking, settings: Settings, watch: MissWatch, takeover: Takeover | None = None) -> MockReport:
    """End the responder; show what came of it."""
    found = mocking.stop()
    if takeover:
        found = replace(
            found,
            refused=takeover.refused(),
            passed=takeover.passed(),
            unrecorded=takeover.unrecorded(),
            local=takeover.local(),
            departed=takeover.departed(),
            more=takeover.more(),
            news_ended=takeover.trouble,
            failed_handshakes=tuple(map(takeover.with_bundles, found.failed_handshakes)),
        )
    watch.tell(found.misses)
    render_summary(said.misses if found.missed else said.rest, found)
    if found.added_pairs:
        path = settings.snapshot
        _say(said.rest, f"added {counted(found.added_pairs, 'pair')} to {path}; what it was before is {path.name}.old")
    return found


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(Text(clean(f"understudy: {text}"), style), soft_wrap=True)


def _serve(parts: Parts, settings: Settings, said: Said) -> MockReport:
    """Run until a signal; the report. Where it listens is what it was started for."""
    mocking, watch = Mocking(parts, settings), MissWatch(said.misses)
    stop = threading.Event()
    on_signals(lambda _: stop.set())
    render_not_mocked(said.rest, mocking.responder, passes=settings.passes)
    said.failures.print(usage(mocking.responder), markup=False, soft_wrap=True)
    try:
        while not stop.wait(WATCH_SECONDS):
            watch.tell(mocking.report().misses)
        return _conclude(said, mocking, settings, watch)
    except grpc.RpcError as error:
        raise Failure(f"the engine ended: {parts.engine.last_words()}") from error


def _listening(text: str) -> tuple[str, int]:
    address, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise Failure(f"--listen {text}: give ADDRESS:PORT, such as 127.0.0.1:8443")
    return address.strip("[]"), int(port)


def _authorities(person: Caller) -> bytes:
    """The authorities that a person's programs are told to trust."""
    found = []
    for path in {person.variable(name) for name in CA_VARIABLES}:
        with contextlib.suppress(OSError):  # not set, a folder, or not there: their programs do without it, too
            found.append(person.read(Path(path), AUTHORITIES_MAX))
    return b"\n".join(found)


def _check_trusted(path: Path, person: Caller) -> None:
    """Failure where a command could trust nobody by a file."""
    try:
        data = person.read(path.absolute(), AUTHORITIES_MAX)
    except OSError as error:
        raise Failure(f"--trust {path}: {error.strerror}: give a list of certificates (PEM) that you may read") from error
    if b"-----BEGIN CERTIFICATE-----" not in data or b"PRIVATE KEY-----" in data:
        raise Failure(f"--trust {path}: it is no list of certificates: give one in PEM, without a key")


def _speed(timing: str) -> float:
    if timing in ("none", "recorded"):
        return float(timing == "recorded")
    try:
        speed = float(timing.removesuffix("x"))
    except ValueError:
        speed = 0.0
    if not 0 < speed < float("inf"):
        raise Failure(f"--timing {timing}: give none, recorded, or a speed such as 2x")
    return speed


class ReportFile:
    """Where the report goes: opened before anything starts, so that nobody runs a command for a report that cannot be written."""

    def __init__(self, path: Path | None, person: Caller) -> None:
        """Open it with the person's rights. Raises Failure."""
        self._path, self._file = path, None
        if path:
            try:
                fd = person.open(path.absolute(), os.O_WRONLY | os.O_CREAT)
                os.set_blocking(fd, True)  # a pipe may have to wait for its reader
                self._file = os.fdopen(fd, "w")
            except OSError as error:
                raise Failure(f"the report cannot be written to {path}: {error.strerror}: choose another file") from error

    def write(self, report: MockReport) -> None:
        """Write it, in the place of what was there. Raises Failure."""
        if self._file is None:
            return
        try:
            if stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
                self._file.truncate(0)
            self._file.write(json.dumps(report.to_json(), indent=1) + "\n")
            self._file.flush()
        except OSError as error:
            raise Failure(f"the report cannot be written to {self._path}: {error.strerror}") from error

    def close(self) -> None:
        """No more."""
        if self._file:
            with contextlib.suppress(OSError):  # what could not be written was told
                self._file.close()
