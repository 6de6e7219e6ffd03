"""`understudy mock` as a person runs it: a process of its own, ended by Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import grpc
import psutil
import pytest
import requests
from click.testing import CliRunner
from understudy.v1 import control_pb2

from engine.cli import OWN_FAILURE, Failure, main
from engine.cli.caller import Caller
from engine.cli.mock import MISSED, Said, Settings, _take_over
from engine.cli.parts import Parts
from engine.cli.render_mock import SHOWN
from engine.report import MockReport, More
from tests.engine.making import Exchange, write_snapshot

PROGRAM = [sys.executable, "-c", "from engine.cli import main; main()", "mock"]
EXCHANGES = (Exchange("GET /a", b"answer"), Exchange("GET /a", b"other", host="other.example"))


class Mock:
    """One that runs. `told` is what it has printed so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.told = ""
        assert process.stderr
        for line in process.stderr:
            self.told += line
            if "curl --cacert" in line:
                break

    def get(self, url: str) -> tuple[int, str]:
        found = re.search(r"listening on (\S+),", self.told)
        certificate = re.search(r"certificate authority: (.+)", self.told)
        assert found
        assert certificate
        with requests.Session() as client:
            client.trust_env = False
            client.proxies = {"https": f"http://{found[1]}"}
            got = client.get(url, verify=certificate[1])
            return got.status_code, got.text

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        self.told += self.process.communicate(timeout=60)[1]
        return self.process.returncode


@contextmanager
def mock(folder: Path, *arguments: str | Path) -> Iterator[Mock]:
    environment = {**os.environ, "XDG_DATA_HOME": str(folder / "data"), "PYTHONPATH": os.pathsep.join(["", *sys.path])}
    command = [*PROGRAM, *map(str, arguments)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, text=True) as process:
        try:
            yield Mock(process)
        finally:
            process.kill()


def test_answers_reports_and_ends(tmp_path: Path) -> None:
    path, report = write_snapshot(tmp_path / "a.snapshot", *EXCHANGES), tmp_path / "report.json"
    with mock(tmp_path, path, "--except", "other.example", "--report", report, "--fail-on-miss") as running:
        assert running.get("https://api.example.com/a") == (200, "answer")
        status, text = running.get("https://api.example.com/b")
        assert (status, json.loads(text)["understudy"]["differs"]) == (418, [{"field": "path.1", "recorded": "a", "live": "b"}])
        assert running.get("https://other.example/a")[0] == 418
        assert running.stop() == MISSED
    assert "left out, so not mocked: other.example:443" in running.told
    assert "NO_MATCH GET /b (api.example.com:443)" in running.told
    assert "Responder rate 33.3 %: 1 of 3 requests" in running.told
    kept = json.loads(report.read_text())
    assert (kept["format"], kept["service"], kept["requests"], kept["matches"]) == (1, "test", 3, 1)
    assert [(miss["path"], miss["times"]) for miss in kept["misses"]] == [("/b", 1), ("/a", 1)]


def test_without_misses_it_ends_well(tmp_path: Path) -> None:
    path = write_snapshot(tmp_path / "a.snapshot", *EXCHANGES)
    with mock(tmp_path, path, "--fail-on-miss") as running:
        assert running.get("https://other.example/a") == (200, "other")
        assert running.stop() == 0
    assert "Responder rate 100 %: 1 of 1 requests" in running.told
    assert (tmp_path / "data" / "understudy" / "ca-key.pem").stat().st_mode & 0o077 == 0


def test_nothing_is_left_where_it_is_killed(tmp_path: Path) -> None:
    path = write_snapshot(tmp_path / "a.snapshot", *EXCHANGES)
    with mock(tmp_path, path) as running:
        [engine] = psutil.Process(running.process.pid).children()
        [listen] = [word for word in engine.cmdline() if word.startswith("unix:")]
        running.process.kill()
        psutil.wait_procs([engine], 20)
    assert not Path(listen.removeprefix("unix:")).parent.parent.exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["no.snapshot"], "does not exist"),
        (["a.snapshot", "--listen", "nowhere"], "give ADDRESS:PORT"),
        (["make"], "`understudy mock SNAPSHOT -- make`"),
        (["."], "Is a directory"),
        (["a.snapshot", "--listen", "203.0.113.1:0"], "cannot listen on 203.0.113.1:0: Cannot assign requested address\n"),
        (["a.snapshot", "--timing", "slow"], "give none, recorded, or a speed"),
        (["a.snapshot", "--only", "nobody"], "nobody is no backend"),
    ],
)
def test_one_line_says_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], text: str) -> None:
    write_snapshot(tmp_path / "a.snapshot", *EXCHANGES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    done = CliRunner().invoke(main, ["mock", *arguments])
    assert done.exit_code == OWN_FAILURE, done.output
    assert text in done.output
    assert len(done.output.splitlines()) == 1


class Broken(grpc.RpcError):
    """As of an engine that is gone."""


def run_without_parts(monkeypatch: pytest.MonkeyPatch, folder: Path, trouble: str, report: Callable[[], MockReport]) -> Any:
    """Run a command to its end, with stand-ins for everything else; gives what `_take_over` does."""
    fields: dict[str, Any] = dict.fromkeys(("refused", "passed", "unrecorded", "local", "departed"), tuple)
    fields |= {"trouble": trouble, "trust_ended": "", "not_covered": [("/a", "why")] * 1000, "cgroup": folder, "variables": {}}
    takeover = SimpleNamespace(**fields, more=More, stop=lambda: None, with_bundles=None)
    launcher = SimpleNamespace(status=lambda _: 0, go=lambda _: None, signal=None)
    mocking = SimpleNamespace(responder=control_pb2.Responder(), report=report, stop=report)
    part = SimpleNamespace(alive=True, last_words=lambda: "killed, say")
    parts = SimpleNamespace(agent=part, engine=part, look_after=lambda _: None)
    for name, made in (("Takeover", takeover), ("Launcher", launcher), ("Mocking", mocking), ("on_signals", None)):
        monkeypatch.setattr(f"engine.cli.mock.{name}", lambda *_, made=made, **__: made)
    person = Caller(os.getuid(), os.getgid(), (), {})
    said = Said(quiet=False, fail_on_miss=False)
    return _take_over(cast("Parts", parts), Settings(folder / "a.snapshot"), "/bin/true", ("true",), person, said)


def test_an_engine_that_ends_while_it_is_asked_is_told_of_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It lived when it was looked at last, and is not waited for yet."""

    def report() -> MockReport:
        raise Broken

    with pytest.raises(Failure, match=r"^the engine ended: killed, say$"):
        run_without_parts(monkeypatch, tmp_path, "", report)
    assert "the engine ended: what CMD calls now fails" in capsys.readouterr().err


@pytest.mark.parametrize(("trouble", "status"), [("", 0), ("something of it could not be sent", OWN_FAILURE)])
def test_a_command_whose_calls_are_no_longer_answered_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], trouble: str, status: int
) -> None:
    """However it ends itself: the agent, which runs on, has refused what it called."""
    report = MockReport("test", 0, 0, (), (), 0, ())
    ended, found = run_without_parts(monkeypatch, tmp_path, trouble, lambda: report)
    assert (ended, found.news_ended, found.missed) == (status, trouble, bool(trouble))
    said = capsys.readouterr().err
    assert ("what CMD calls now fails" in said) is bool(trouble)
    assert said.count("does not trust the responder") == SHOWN
    assert "980 more" in said
