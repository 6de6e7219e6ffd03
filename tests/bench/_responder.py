"""A responder in a process of its own: `python -m tests.bench._responder SNAPSHOT STATE`. Prints its port; ends with its input."""

from __future__ import annotations

import sys
from pathlib import Path

from engine.responder.authority import Authority
from engine.responder.server import Responder

if __name__ == "__main__":
    responder = Responder(Path(sys.argv[1]), Authority(Path(sys.argv[2])))
    responder.start()
    print(responder.port, flush=True)
    sys.stdin.read()
    responder.stop()
