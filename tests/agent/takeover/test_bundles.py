"""Where bundles are found."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import trustme

from agent.takeover import bundles
from agent.takeover.bundles import Command, find
from agent.takeover.cover import Covered, variables

CA = trustme.CA().cert_pem.bytes()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with nothing on it."""
    monkeypatch.setattr(bundles, "SYSTEM_FILES", (str(tmp_path / "etc/cert.pem"),))
    monkeypatch.setattr(bundles, "SYSTEM_FOLDERS", (str(tmp_path / "etc/certs"),))
    monkeypatch.setattr(bundles, "_SOCKETS", (str(tmp_path / "run/nscd"),))
    return tmp_path


def write(path: Path, content: bytes = CA) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def environment_at(prefix: Path, base: Path) -> Path:
    """A virtual environment, whose python is a link to that of `base`."""
    write(base / "bin/python3.11", b"")
    (prefix / "bin").mkdir(parents=True)
    (prefix / "bin/python").symlink_to(base / "bin/python3.11")
    return prefix / "lib/python3.11/site-packages"


def test_the_system_s(root: Path) -> None:
    real = write(root / "usr/bundle.pem")
    (root / "etc/certs").mkdir(parents=True)
    (root / "etc/cert.pem").symlink_to(real)
    (root / "run").mkdir()
    with socket.socket(socket.AF_UNIX) as nscd:
        nscd.bind(str(root / "run/nscd"))
        found = find(Command())
    assert (found.files, found.folders, found.sockets) == ([real], [root / "etc/certs"], [root / "run/nscd"])


def test_those_of_an_environment_and_its_base(root: Path) -> None:
    packages = environment_at(root / "venv", root / "usr")
    expected = [
        write(packages / "certifi/cacert.pem"),
        write(packages / "pip/_vendor/certifi/cacert.pem"),
        write(packages / "stripe/data/ca-certificates.crt"),
        write(packages / "grpc/_cython/_credentials/roots.pem"),
        write(root / "usr/lib/python3.11/site-packages/botocore/cacert.pem"),
    ]
    write(packages / "mine/other.pem")
    write(packages / "empty/cacert.pem", b"")
    write(packages / "keys/cacert.pem", CA + b"-----BEGIN PRIVATE KEY-----\n")
    for command in (
        Command((str(root / "venv/bin/python"), "app.py")),
        Command(("python", "app.py"), environment={"PATH": f"/nowhere:{root}/venv/bin"}),
        Command(("sh", "-c", "python x"), environment={"VIRTUAL_ENV": str(root / "venv"), "PATH": str(root / "usr/bin")}),
    ):
        if "VIRTUAL_ENV" in command.environment:
            expected = expected[:-1]  # there is no python by that name in the base
        assert sorted(find(command).files) == sorted(expected)


def test_those_beside_the_program(root: Path) -> None:
    expected = [
        write(environment_at(root / "app/.venv", root / "usr") / "certifi/cacert.pem"),
        write(root / "app/node_modules/some/ca-bundle.crt"),
    ]
    write(root / "app/bin/main.py", b"")
    assert sorted(find(Command(("python", "bin/main.py"), str(root / "app"))).files) == sorted(expected)
    assert sorted(find(Command((str(root / "app/bin/main.py"),))).files) == sorted(expected)


def test_those_that_variables_name(root: Path) -> None:
    own = write(root / "own.pem")
    (root / "more").mkdir()
    environment = {"SSL_CERT_FILE": "own.pem", "SSL_CERT_DIR": f"/nowhere:{root}/more", "AWS_CA_BUNDLE": "/nowhere"}
    found = find(Command(folder=str(root), environment=environment))
    assert (found.files, found.folders) == ([own], [root / "more"])


def test_bounds(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = environment_at(root / "venv", root / "usr")
    write(packages / "a/b/c/d/e/cacert.pem")
    assert len(find(Command((str(root / "venv/bin/python"),))).files) == 1
    write(packages / "a/b/c/d/e/f/cacert.pem")
    assert len(find(Command((str(root / "venv/bin/python"),))).files) == 1
    monkeypatch.setattr(bundles, "ENTRIES_MAX", 0)
    assert find(Command((str(root / "venv/bin/python"),))).files == []
    monkeypatch.setattr(bundles, "BUNDLE_MAX", 10)
    assert find(Command(environment={"SSL_CERT_FILE": str(packages / "a/b/c/d/e/cacert.pem")})).files == []


def test_a_link_to_above_does_not_lead_in_circles(root: Path) -> None:
    packages = environment_at(root / "venv", root / "usr")
    expected = write(packages / "a/cacert.pem")
    (packages / "a/up").symlink_to(packages)
    assert find(Command((str(root / "venv/bin/python"),))).files == [expected]


def test_variables(root: Path) -> None:
    own = write(root / "own.pem")
    system = str(root / "etc/cert.pem")
    command = Command(environment={"SSL_CERT_FILE": str(own), "PIP_CERT": "/nowhere"})
    covered = Covered(files=["/x", system, str(own)], folders=[str(root)], single="/ca.pem")
    found = variables(command, covered)
    assert "SSL_CERT_FILE" not in found  # it trusts by now
    assert (found["PIP_CERT"], found["REQUESTS_CA_BUNDLE"], found["NODE_EXTRA_CA_CERTS"]) == (system, system, "/ca.pem")
    assert variables(command, Covered()) == {}


def test_what_is_no_file_on_a_disk_is_left_alone(root: Path) -> None:
    """Words name anything: what would wait for somebody, or is a device. None of it is opened for reading."""
    os.mkfifo(root / "fifo.pem")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket.pem"))
        words = (
            "/proc/kmsg",
            "/dev/zero",
            "/dev/stdin",
            str(root / "fifo.pem"),
            str(root / "socket.pem"),
            "/proc/self/mem",
            str(root),
        )
        found = find(Command(("cat", *words), environment={f"V{number}": word for number, word in enumerate(words)}))
    assert found.files == []


def test_files_that_a_person_names(root: Path) -> None:
    """Whatever they are called, and relative to the command's folder; what cannot be used is told."""
    own = write(root / "store/odd name")
    write(root / "text", b"no certificates\n")
    found = find(Command(folder=str(root), trust_files=("store/odd name", "text", "nothing", "store")))
    assert found.files == [own]
    assert [Path(path).name for path, _ in found.failures] == ["text", "nothing", "store"]
    assert "no list of certificates" in found.failures[0][1]
    assert "no such file" in found.failures[1][1]
