"""One target under atheris: `python -m tests.fuzz.guided TARGET LIBFUZZER-OPTION...`. Started by `python -m tests.fuzz`."""

from __future__ import annotations

import sys

import atheris

from tests.fuzz import targets


def main() -> None:
    """Instrument the product's code, not its libraries, and fuzz until the options say to stop."""
    name, options = sys.argv[1], sys.argv[2:]
    with atheris.instrument_imports(include=["agent", "engine"]):
        one = targets.load(name)
    atheris.Setup([sys.argv[0], *options], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
