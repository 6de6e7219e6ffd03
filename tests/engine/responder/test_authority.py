from __future__ import annotations

import ssl
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509

from engine.responder.authority import LEAVES_LIMIT, Authority, Contexts
from engine.responder.tls import Layer, choosing_context


def connect(layer: Layer, client: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> None:
    for _ in range(5):
        try:
            client.do_handshake()
            done = True
        except ssl.SSLWantReadError:
            done = False
        if outgoing.pending:
            layer.receive(outgoing.read())
        incoming.write(layer.output)
        if done:
            return
    raise AssertionError("no handshake")


def shake(authority: Authority, name: str, address: str = "192.0.2.7", *, sni: bool = True) -> tuple[Layer, ssl.SSLObject]:
    trusting = ssl.create_default_context(cafile=str(authority.certificate_file))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(incoming, outgoing, server_hostname=name)
    layer = Layer(choosing_context(Contexts(authority)), address)
    connect(layer, client, incoming, outgoing)
    return layer, client


def test_the_key_is_the_owners_alone_and_stays(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "state"
    first = Authority(folder)
    key = folder / "ca-key.pem"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    before = key.read_bytes(), first.certificate_file.read_bytes()
    Authority(folder)
    assert (key.read_bytes(), first.certificate_file.read_bytes()) == before
    assert b"PRIVATE" not in before[1]


def test_two_at_once_make_one(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: Authority(tmp_path / "a").certificate_file.read_bytes(), range(8)))
    assert len(set(made)) == 1


def test_half_of_it_is_made_again(tmp_path: Path) -> None:
    Authority(tmp_path).certificate_file.unlink()
    shake(Authority(tmp_path), "a.example")


def test_damage_is_said(tmp_path: Path) -> None:
    Authority(tmp_path / "a")
    Authority(tmp_path / "b")
    (tmp_path / "a" / "ca.pem").write_bytes((tmp_path / "b" / "ca.pem").read_bytes())
    with pytest.raises(ValueError, match="not the key of"):
        Authority(tmp_path / "a")


@pytest.mark.parametrize("name", ["api.example.com", "a" * 60 + ".example", "xn--bcher-kva.example", "under_score.example"])
def test_clients_accept_the_leaf_of_any_name(authority: Authority, name: str) -> None:
    layer, client = shake(authority, name)
    assert layer.server_name == name
    found = client.getpeercert(binary_form=True)
    assert found
    leaf = x509.load_der_x509_certificate(found)
    assert leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False


@pytest.mark.parametrize("address", ["192.0.2.7", "2001:db8::1"])
def test_clients_by_address_get_a_leaf_of_it(authority: Authority, address: str) -> None:
    layer, _ = shake(authority, address, address)
    assert layer.server_name == ""


def test_contexts_are_kept_and_bounded(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.responder.authority.LEAVES_LIMIT", 2)
    contexts = Contexts(authority)
    one = contexts.named("one")
    contexts.named("two")
    assert contexts.named("one") is one
    contexts.named("three")
    assert contexts.named("one") is one
    assert len(contexts._made) == 2 < LEAVES_LIMIT


def test_bytes_go_both_ways(authority: Authority) -> None:
    trusting = ssl.create_default_context(cafile=str(authority.certificate_file))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(incoming, outgoing, server_hostname="a.example")
    layer = Layer(choosing_context(Contexts(authority)), "192.0.2.7")
    connect(layer, client, incoming, outgoing)
    big = bytes(range(256)) * 1000
    client.write(big)
    cipher = outgoing.read()
    got = b"".join(layer.receive(cipher[at : at + 5000]) for at in range(0, len(cipher), 5000))
    assert got == big
    layer.send(big)
    incoming.write(layer.output)
    back = b""
    while len(back) < len(big):
        back += client.read(65536)
    assert back == big
    layer.close()
    assert layer.output
