"""Shows what was recorded just now. A process of its own, with the rights of the person who called: the file is theirs.

    python -I -m engine.cli.summary FILE

It writes to the terminal; what goes wrong is its output.
"""

from __future__ import annotations

import sys
from pathlib import Path

from engine.cli import OWN_FAILURE
from engine.cli.render import render_snapshot
from engine.cli.terminal import console
from engine.snapshot import Snapshot, SnapshotError


def main(path: Path) -> int:
    """Show it; returns the exit status."""
    try:
        with Snapshot(path) as snapshot:
            render_snapshot(console(stderr=True), snapshot)
    except SnapshotError as error:
        print(error)
        return OWN_FAILURE
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
