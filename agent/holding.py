"""Answers openings for the agent, in a process that does nothing else. A process of its own, with the standard library alone.

    python -I -S -c 'from agent.holding import main; main()' SOCKET PID

In the agent, each opening would wait until the thread that decodes events lets go of the interpreter. What is no executable or
library is answered here; of others a descriptor goes to the agent by SOCKET, a pair of SOCK_SEQPACKET, and the answer comes back
(agent/holder.py). When the agent is gone, so is this process, and the kernel lets all go on.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import sys
import threading

from agent.failures import Failures, end_when_a_thread_dies
from agent.opens import Opens

CLOSE, FORGET, ASK_AGAIN = b"c", b"f", b"a"
"""What the agent says: to hold nothing any more, or of the file that it was given, whether it need be looked at again."""


class _Agent(Failures):
    """The agent, as Opens needs it."""

    def __init__(self, channel: socket.socket) -> None:
        super().__init__()
        self._channel = channel
        self.answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.untold = 0

    def examine(self, fd: int, pid: int) -> bool:
        """Have a file probed."""
        socket.send_fds(self._channel, [json.dumps({"opens": pid}).encode()], [fd])
        return self.answers.get() == FORGET

    def note(self, what: str, error: BaseException) -> None:
        """Tell of a failure."""
        self._tell(failed=what, why=f"{type(error).__name__}: {error}")

    def unmounted(self, devices: frozenset[int]) -> None:
        """Tell of file systems."""
        self._tell(unmounted=sorted(devices))

    def _tell(self, **said: object) -> None:
        try:  # whoever tells answers openings, and must not wait for an agent that is behind by hundreds of messages
            self._channel.send(json.dumps(said).encode(), socket.MSG_DONTWAIT)
        except BlockingIOError:
            self.untold += 1


def main() -> None:
    """Hold until told otherwise, or until the agent is gone."""
    end_when_a_thread_dies()
    channel, pid = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    agent = _Agent(channel)
    try:
        opens = Opens(pid, agent.examine, agent, agent.unmounted, ours=frozenset((os.getpid(), os.getppid())))
    except OSError as error:
        channel.send(json.dumps({"refused": str(error)}).encode())
        return
    channel.send(json.dumps({"holds": sorted(opens.held)}).encode())
    while said := channel.recv(1):
        if said == CLOSE:
            threading.Thread(target=_close, args=(opens, agent, channel), name="close").start()
        else:
            agent.answers.put(said)
    os._exit(0)


def _close(opens: Opens, agent: _Agent, channel: socket.socket) -> None:
    opens.close()
    channel.send(json.dumps({"closed": opens.not_waited + agent.untold}).encode())
    for thread in threading.enumerate():  # some wait for leases: what they open for the agent would be refused to who opens it
        if thread not in (threading.main_thread(), threading.current_thread()):
            thread.join()
    os._exit(0)
