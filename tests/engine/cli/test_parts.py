from __future__ import annotations

import signal
import subprocess
import sys
import tempfile

from engine.cli.parts import Part


def test_the_last_words_of_one_that_was_killed_just_now_are_its_status() -> None:
    """Its connections break before it can be waited for."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process, tempfile.TemporaryFile() as log:
        part = Part.__new__(Part)
        part.process, part._log = process, log
        process.send_signal(signal.SIGKILL)
        assert part.last_words() == "it ended with status -9"
