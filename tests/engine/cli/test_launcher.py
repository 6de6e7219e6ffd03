from __future__ import annotations

import os
import signal

from engine.cli.caller import caller
from engine.cli.launcher import Launcher


def test_a_command_that_is_ended_before_it_starts_has_the_status_of_the_signal() -> None:
    launcher = Launcher("/bin/true", ("true",), caller())
    launcher.signal(signal.SIGTERM)
    os.waitid(os.P_PID, launcher.process.pid, os.WEXITED | os.WNOWAIT)
    launcher.go()
    assert launcher.status(60) == 128 + signal.SIGTERM
