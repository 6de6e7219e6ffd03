"""What becomes of what was there before a recording, and of a recording that cannot be written."""

from __future__ import annotations

import http.server
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.recording import TIMEOUT, pairs, record, start_recording, understudy
from tests.e2e.test_record_failures import assert_refused
from tests.engine.making import Exchange, write_snapshot

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left_behind")]

ASKING = """
import sys, urllib.request
from pathlib import Path
url, most, until = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
for _ in range(most):
    if until.exists():
        break
    urllib.request.urlopen(url, timeout=60).read()
"""


class _Noise(http.server.BaseHTTPRequestHandler):
    """Answers that no compression makes smaller."""

    body = random.Random(1).randbytes(64 * 1024)

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Noise) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "understudy-test", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def asking(url: str, times: int, until: Path) -> list[str]:
    return [sys.executable, "-c", ASKING, url, str(times), str(until)]


def test_a_recording_without_requests_replaces_none(tmp_path: Path) -> None:
    path = write_snapshot(tmp_path / "good.snapshot", Exchange("GET /a"))
    for _ in range(2):
        done = record(path, "false")
        assert done.status == 1
        assert f"{path} stays as it was, and this recording is in {path}.empty" in done.stderr
    assert [pair["path"] for pair in pairs(path)] == ["/a"]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["good.snapshot", "good.snapshot.empty"]


def test_what_was_there_is_kept_and_said(url: str, tmp_path: Path) -> None:
    path = write_snapshot(tmp_path / "good.snapshot", Exchange("GET /a"))
    done = record(path, *asking(url, 1, tmp_path / "never"))
    assert done.status == 0
    assert "what it was before is in good.snapshot.old" in done.stderr
    assert [pair["path"] for pair in pairs(tmp_path / "good.snapshot.old")] == ["/a"]


def test_what_is_no_snapshot_is_not_replaced(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("precious")
    assert_refused(record(notes, "touch", str(tmp_path / "ran")), "notes.txt is not a snapshot, and is not replaced")
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("notes.txt", "precious")]


def test_what_was_there_stays_where_nothing_can_be_captured(tmp_path: Path) -> None:
    path = write_snapshot(tmp_path / "good.snapshot", Exchange("GET /a"))
    write_snapshot(tmp_path / "good.snapshot.old", Exchange("GET /older"))
    assert_refused(understudy("record", "-o", path, "--pid", "999999999"), "captured")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["good.snapshot", "good.snapshot.old"]
    assert [pair["path"] for pair in pairs(path)] == ["/a"]
    assert [pair["path"] for pair in pairs(tmp_path / "good.snapshot.old")] == ["/older"]


def test_a_full_disk_is_told_of_while_the_command_runs(url: str, small_disk: Path, tmp_path: Path) -> None:
    """The command runs until it was told: were it told of at the end only, 5,000 requests would have been made."""
    told = tmp_path / "told"
    with start_recording(small_disk / "a.snapshot", *asking(url, 5_000, told)) as process:
        assert process.stderr
        for line in process.stderr:
            if b"cannot be written" in line:
                told.touch()
                break
        assert told.exists()
        _, rest = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 125
    assert b"the snapshot could not be finished" in rest
    assert b"full" in rest
    assert b"did not take everything" not in rest
