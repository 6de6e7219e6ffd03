"""Where the engine may listen."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from engine.__main__ import check_listen, main


@pytest.mark.parametrize(
    "listen",
    ["0.0.0.0:50051", "[::]:50051", ":50051", "10.1.2.3:50051", "engine.example:50051", "dns:///0.0.0.0:1", "ipv4:0.0.0.0:1",
     "unix-abstract:engine", "vsock:-1:1", "127.0.0.1", "127.0.0.1.example.com:1", ""],
)  # fmt: skip
def test_nobody_else_can_connect(listen: str) -> None:
    done = CliRunner().invoke(main, ["--listen", listen])
    assert done.exit_code == 1
    assert "serves this machine only: give unix:PATH, or 127.0.0.1:PORT" in done.output
    assert len(done.output.splitlines()) == 1


@pytest.mark.parametrize(
    "listen", ["unix:/run/x.sock", "unix:///run/x.sock", "127.0.0.1:0", "127.8.8.8:1", "[::1]:1", "localhost:1"]
)
def test_this_machine_can(listen: str) -> None:
    try:
        check_listen(listen)
    except click.ClickException as error:
        pytest.fail(error.message)
