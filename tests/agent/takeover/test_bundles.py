"""Where bundles are found."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from agent.takeover import bundles
from agent.takeover.bundles import Command, Found
from agent.takeover.cover import Covered, variables

CA = trustme.CA().cert_pem.bytes()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with nothing on it."""
    monkeypatch.setattr(bundles, "SYSTEM_FILES", (str(tmp_path / "etc/cert.pem"),))
    monkeypatch.setattr(bundles, "SYSTEM_FOLDERS", (str(tmp_path / "etc/certs"),))
    monkeypatch.setattr(bundles, "_SOCKETS", (str(tmp_path / "run/nscd"),))
    return tmp_path


def find(command: Command) -> Found:
    """What is found, without its descriptors."""
    found = bundles.find(command)
    found.close()
    return found


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
    assert (list(found.files), list(found.folders), list(found.sockets)) == ([real], [root / "etc/certs"], [root / "run/nscd"])


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
    assert (list(found.files), list(found.folders)) == ([own], [root / "more"])


def test_bounds(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = environment_at(root / "venv", root / "usr")
    write(packages / "a/b/c/d/e/cacert.pem")
    assert len(find(Command((str(root / "venv/bin/python"),))).files) == 1
    write(packages / "a/b/c/d/e/f/cacert.pem")
    assert len(find(Command((str(root / "venv/bin/python"),))).files) == 1
    monkeypatch.setattr(bundles, "ENTRIES_MAX", 0)
    assert find(Command((str(root / "venv/bin/python"),))).files == {}
    monkeypatch.setattr(bundles, "BUNDLE_MAX", 10)
    assert find(Command(environment={"SSL_CERT_FILE": str(packages / "a/b/c/d/e/cacert.pem")})).files == {}


def test_a_link_to_above_does_not_lead_in_circles(root: Path) -> None:
    packages = environment_at(root / "venv", root / "usr")
    expected = write(packages / "a/cacert.pem")
    (packages / "a/up").symlink_to(packages)
    assert find(Command((str(root / "venv/bin/python"),))).files.keys() == {expected}


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
    assert found.files == {}


def test_files_that_a_person_names(root: Path) -> None:
    """Whatever they are called, and relative to the command's folder; what cannot be used is told."""
    own = write(root / "store/odd name")
    write(root / "text", b"no certificates\n")
    found = find(Command(folder=str(root), trust_files=("store/odd name", "text", "nothing", "store")))
    assert list(found.files) == [own]
    assert [Path(path).name for path, _ in found.failures] == ["text", "nothing", "store"]
    assert "no list of certificates" in found.failures[0][1]
    assert "no such file" in found.failures[1][1]


@pytest.mark.parametrize("how", ["argument", "trust file", "folder", "search path", "package path"])
def test_a_link_to_itself_and_names_that_are_too_long_are_nothing(root: Path, how: str) -> None:
    (root / "loop").symlink_to(root / "loop")
    for word in (str(root / "loop"), str(root / "loop/more"), "x" * 300):
        command = {
            "argument": Command(("cat", word, f"--ca={word}"), folder=str(root)),
            "trust file": Command(trust_files=(word,)),
            "folder": Command(environment={"SSL_CERT_DIR": word}),
            "search path": Command(("x",), environment={"PATH": word}),
            "package path": Command(("x",), environment={"PYTHONPATH": word, "VIRTUAL_ENV": word, "HOME": word}),
        }[how]
        found = find(command)
        assert (found.files, found.folders) == ({}, {})


@pytest.mark.parametrize("variable", ["PATH", "PYTHONPATH", "VIRTUAL_ENV", "HOME", "SSL_CERT_DIR"])
def test_folders_that_may_not_be_entered_are_nothing(root: Path, variable: str) -> None:
    """Nor do they keep others from being found."""
    own = write(root / "own.pem")
    write(root / "closed/bin/python3")
    (root / "closed").chmod(0o700)
    words = {"PATH": f"{root}/closed/bin:{root}/closed"}.get(variable, f"{root}/closed/bin")
    with as_nobody(root):
        found = find(Command((str(root / "closed/x"), str(own)), str(root), {variable: words}))
    assert list(found.files) == [own]


@contextlib.contextmanager
def as_nobody(root: Path) -> Iterator[None]:
    """With the rights of somebody else, who may enter the folders above."""
    above = [path for path in root.parents if path.stat().st_uid == os.geteuid() and path.stat().st_mode & 0o005 != 0o005]
    modes = [(path, path.stat().st_mode) for path in (root, *above)]
    for path, mode in modes:
        path.chmod(mode | 0o055)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        for path, mode in modes:
            path.chmod(mode & 0o7777)


def test_a_swap_after_a_file_was_opened_does_not_matter(root: Path) -> None:
    own, other = write(root / "own.pem"), write(root / "passwd", b"root::0:0::/:/bin/sh\n")
    found = bundles.find(Command(environment={"SSL_CERT_FILE": str(own)}))
    own.rename(root / "away")
    own.symlink_to(other)
    try:
        assert os.path.samestat(os.fstat(found.files[own].fd), (root / "away").stat())
    finally:
        found.close()


def test_what_only_contains_the_words_is_no_list(root: Path) -> None:
    """A field that a person fills in, as by chfn(1), makes nothing else of a file of root's."""
    line = b"us:x:1:1:-----BEGIN CERTIFICATE-----AAAA-----END CERTIFICATE-----:/:/bin/sh\n"
    path = write(root / "passwd.pem", line)
    assert find(Command(environment={"SSL_CERT_FILE": str(path)})).files == {}


def test_a_folder_is_read_with_what_its_links_lead_to(root: Path) -> None:
    write(root / "elsewhere.pem", CA + b"other\n")
    folder = root / "certs"
    write(folder / "a.pem")
    write(folder / "java/cacerts", b"a key store")
    (folder / "0.0").symlink_to("a.pem")
    (folder / "1.0").symlink_to(root / "elsewhere.pem")
    (folder / "gone").symlink_to(root / "nowhere")
    (folder / "up").symlink_to(root)
    os.mkfifo(folder / "fifo")
    found = find(Command(uid=os.geteuid(), environment={"SSL_CERT_DIR": str(folder)}))
    entries = {path: file and file.data for path, file in found.folders[folder].entries.items()}
    assert entries == {
        "a.pem": CA,
        "0.0": CA,
        "1.0": CA + b"other\n",
        "java": None,
        "java/cacerts": b"a key store",
    }


@pytest.mark.parametrize("other", ["passwd", "sub/a.pem", "link"])
def test_a_folder_of_somebody_else_s_must_hold_nothing_but_certificates(root: Path, other: str) -> None:
    """Else a copy could hide what the person may not remove."""
    folder = root / "certs"
    write(folder / "a.pem")
    command = Command(uid=os.geteuid() + 1, environment={"SSL_CERT_DIR": str(folder)})
    assert list(find(command).folders) == [folder]
    if other == "link":
        (folder / other).symlink_to(root)
    else:
        write(folder / other, CA if other == "sub/a.pem" else b"root:x:0:0::/:/bin/sh\n")
    found = find(command)
    assert found.folders == {}
    [(path, why)] = found.failures
    assert path == str(folder)
    assert "give a folder with nothing else" in why


@pytest.mark.parametrize("bound", ["FOLDER_ENTRIES_MAX", "FOLDER_BYTES_MAX"])
def test_bounds_of_a_folder(root: Path, monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    write(root / "certs/a.pem")
    write(root / "certs/b.pem")
    monkeypatch.setattr(bundles, bound, 1)
    found = find(Command(environment={"SSL_CERT_DIR": str(root / "certs")}))
    assert found.folders == {}
    assert [path for path, _ in found.failures] == [str(root / "certs")]


def test_the_bound_of_all_lists_together_is_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write(root / f"{name}.pem") for name in "ab"]
    monkeypatch.setattr(bundles, "BYTES_MAX", len(CA))
    found = find(Command(("x", *map(str, paths))))
    assert list(found.files) == paths[:1]
    assert [path for path, _ in found.failures] == [str(paths[1])]
