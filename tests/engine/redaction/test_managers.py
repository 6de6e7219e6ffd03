"""What secret managers hand out, by the shape of their answers and the paths of their requests, and what looks alike and stays."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import pytest

from engine.redaction import Redactor
from engine.redaction.tokens import is_luhn_valid
from engine.rrpair import Message, RRPair
from tests.engine.redaction.messages import pair

SECRET = "Innocent1x-Va1ue"
IN_BASE64 = base64.b64encode(SECRET.encode()).decode()
PEM = "-----BEGIN {}PRIVATE KEY-----\nMHcCAQEEIFxxAbCdEfGh1234567890abcdef\n-----END {}PRIVATE KEY-----\n"
BCRYPT = "$2b$12$abcdefghijklmnopqrstuuBcryptHash1234567890abcdefghijk"


def answered(answer: object, target: str = "/x", asked: object = None, method: str = "GET") -> RRPair:
    """Give a redacted pair; what is no text is written as JSON."""
    media = b"application/json"
    body = b"" if asked is None else json.dumps(asked).encode()
    text = answer if isinstance(answer, str) else json.dumps(answer)
    given = pair(
        body, media, target=target.encode(), response=Message(b"HTTP/1.1 200 OK", ((b"Content-Type", media),), text.encode())
    )
    line = f"{method} {target} HTTP/1.1".encode()
    given = replace(given, method=method, request=replace(given.request, start_line=line))
    redactor = Redactor(b"k" * 32)  # one of its own: what others were told would be replaced here
    redacted = redactor.pair(given)
    assert not redacted.missing
    assert redactor.pair(redacted) == redacted
    return redacted


def body_of(text: bytes, media: bytes) -> bytes:
    return Redactor(b"k" * 32).pair(pair(text, media)).request.body


def answer_of(answer: object, target: str = "/x") -> Any:
    response = answered(answer, target).response
    assert response
    return json.loads(response.body)


def envelope(data: object) -> dict[str, object]:
    return {
        "request_id": "6cc1e9d5-3b16-0a40-b7c8-0e7a1cbd35a9",
        "lease_id": "",
        "renewable": False,
        "lease_duration": 2764800,
        "data": data,
        "wrap_info": None,
        "warnings": None,
        "auth": None,
    }


METADATA = {
    "created_time": "2026-01-01T00:00:00.1Z",
    "deletion_time": "",
    "destroyed": False,
    "version": 1,
    "custom_metadata": None,
}
AZURE = "https://v.vault.azure.net"
HANDED_OUT: dict[str, tuple[str, object]] = {
    "Azure Key Vault": ("/x", {"value": SECRET, "id": f"{AZURE}/secrets/dbpw/abc", "attributes": {"enabled": True}}),
    "Azure Key Vault, escaped": ("/x", f'{{"id":"https:\\/\\/v.vault.azure.net\\/secrets\\/dbpw","value":"{SECRET}"}}'),
    "Azure Key Vault, by path": ("/secrets/dbpw/abc?api-version=7.4", {"value": SECRET}),
    "Azure backup": ("/keys/k/backup?api-version=7.4", {"value": SECRET}),
    "Azure decrypt": ("/keys/k/1/decrypt?api-version=7.4", {"kid": f"{AZURE}/keys/k/1", "value": SECRET}),
    "Azure HSM key": ("/x", {"key": {"kty": "RSA-HSM", "n": "AQAB", "d": SECRET}}),
    "Azure Storage": ("/x", {"keys": [{"keyName": "key1", "value": SECRET + "==", "permissions": "FULL"}]}),
    "Azure listKeys": ("/subscriptions/s/providers/p/listKeys?api-version=1", {"key1": SECRET, "key2": SECRET}),
    "Cosmos": ("/x", {"primaryMasterKey": SECRET, "secondaryReadonlyMasterKey": SECRET}),
    "Service Bus": ("/x", {"primaryKey": SECRET, "secondaryKey": SECRET, "keyName": "Root"}),
    "Google": ("/x", {"name": "projects/1/secrets/db/versions/1", "payload": {"data": IN_BASE64, "dataCrc32c": "123"}}),
    "Vault KV v1": ("/v1/apps/x", envelope({"dsnx": SECRET, "nested": {"a": [SECRET]}})),
    "Vault KV v1, a url": ("/v1/apps/x", envelope({"url": SECRET, "id": SECRET})),
    "Vault KV v2": ("/v1/apps/data/x", envelope({"data": {"dsnx": SECRET}, "metadata": METADATA})),
    "Vault KV v2, short": ("/v1/secret/data/app", {"data": {"data": {"dsnx": SECRET}}}),
    "Vault unwrap": ("/v1/sys/wrapping/unwrap", envelope({"dsnx": SECRET})),
    "Vault accessor": ("/v1/auth/token/create", {"auth": {"client_token": "hvs.AbCdEfGhIjKlMnOpQrStUv", "accessor": SECRET}}),
    "1Password": ("/x", {"fields": [{"type": "CONCEALED", "label": "a", "value": SECRET}]}),
    "1Password's password": ("/x", {"fields": [{"purpose": "PASSWORD", "label": "a", "value": SECRET}]}),
    "Doppler": ("/x", {"secrets": {"FOO_X": {"raw": SECRET, "computed": SECRET}}}),
    "Doppler, one": ("/v3/configs/config/secret?name=A", {"name": "A", "value": {"raw": SECRET, "computed": SECRET}}),
    "Doppler, all": ("/v3/configs/config/secrets/download?format=json", {"FOO_X": SECRET}),
    "Infisical": ("/x", {"secret": {"secretKey": "A", "secretValue": SECRET}}),
    "Kubernetes": ("/x", {"kind": "Secret", "data": {"a": IN_BASE64}, "stringData": {"b": SECRET}}),
    "Kubernetes, last": ("/x", {"data": {"a": IN_BASE64}, "apiVersion": "v1", "kind": "Secret"}),
    "Kubernetes list": ("/x", {"kind": "SecretList", "items": [{"metadata": {"name": "a"}, "data": {"a": IN_BASE64}}]}),
    "Kubernetes watch": ("/x", {"type": "ADDED", "object": {"kind": "Secret", "data": {"a": IN_BASE64}}}),
    "Kubernetes YAML": (
        "/x",
        f"apiVersion: v1\nkind: Secret\nmetadata:\n  name: x\ndata:\n  tls.key: {IN_BASE64}\n"
        f"stringData:\n  b: |\n    {SECRET}\n  c: {SECRET}\n",
    ),
    **{
        f"PEM in base64: {kind}": ("/x", {"blob": base64.b64encode(PEM.format(kind, kind).encode()).decode()})
        for kind in ("", "RSA ", "EC ", "OPENSSH ", "ENCRYPTED ")
    },
    "bcrypt": ("/x", {"user": {"hash": BCRYPT}}),
    "sha512-crypt": ("/x", {"hash": "$6$rounds=5000$salt$" + "aB3." * 21 + "xY"}),
    "argon2": ("/x", {"hash": "$argon2id$v=19$m=65536,t=3,p=4$c2FsdHNhbHQ$" + "aB3+" * 10}),
    "security answer": ("/x", {"security_answer": SECRET}),
}  # fmt: skip


@pytest.mark.parametrize("name", HANDED_OUT)
def test_what_managers_hand_out_is_replaced(name: str) -> None:
    target, answer = HANDED_OUT[name]
    response = answered(answer, target).response
    assert response
    for text in (SECRET, IN_BASE64, "MHcCAQEE", "LS0tLS1CRUdJTiBSU0EgUFJJVkFURSBLRVk", "BcryptHash", "aB3"):
        assert text.encode() not in response.body
    assert b"REDACTED" in response.body or b"UkVEQUNURUQ" in response.body


SENT: dict[str, tuple[str, str, object]] = {
    "Azure": ("PUT", "/secrets/dbpw?api-version=7.4", {"value": SECRET}),
    "Azure restore": ("POST", "/secrets/restore?api-version=7.4", {"value": SECRET}),
    "Azure import": ("POST", "/certificates/c/import?api-version=7.4", {"value": SECRET}),
    "Google": ("POST", "/v1/projects/p/secrets/db:addVersion", {"payload": {"data": IN_BASE64}}),
    "Vault KV v1": ("POST", "/v1/secret/app", {"dsnx": SECRET}),
    "Vault KV v2": ("POST", "/v1/apps/data/x/y", {"options": {"cas": 0}, "data": {"dsnx": SECRET}}),
    "Doppler": ("POST", "/v3/configs/config/secrets", {"project": "p", "secrets": {"A": SECRET}}),
    "Kubernetes": ("PATCH", "/api/v1/namespaces/d/secrets/tls", {"data": {"a": IN_BASE64}}),
    "Kubernetes' JSON Patch": (
        "PATCH",
        "/api/v1/namespaces/d/secrets/tls",
        [{"op": "replace", "path": "/data/a", "value": IN_BASE64}, {"op": "add", "path": "/data/b", "value": IN_BASE64}],
    ),
    "OAuth": ("POST", "/x", {"code": SECRET, "redirect_uri": "https://app/cb"}),
    "GraphQL": ("POST", "/x", {"query": "mutation($p:String!){login(password:$p){id}}", "variables": {"p": SECRET}}),
    "Odoo": ("POST", "/x", {"params": {"service": "common", "method": "login", "args": ["db", "admin", SECRET]}}),
    "Odoo's object": ("POST", "/x", {"params": {"service": "object", "method": "execute_kw", "args": ["db", 2, SECRET, "m"]}}),
    "a token in a command": ("POST", "/x", {"command": f"tool --token {SECRET} run"}),
    "a password in a command": ("POST", "/x", {"command": f"tool --password {SECRET}"}),
    "curl": ("POST", "/x", {"command": f"curl -s -u user:{SECRET} https://h/"}),
    "mysql": ("POST", "/x", {"command": f"mysql -u root -p{SECRET} db"}),
}


@pytest.mark.parametrize("name", SENT)
def test_what_is_sent_to_managers_is_replaced(name: str) -> None:
    method, target, asked = SENT[name]
    request = answered({"ok": True}, target, asked, method).request
    assert SECRET.encode() not in request.body
    assert IN_BASE64.encode() not in request.body
    json.loads(request.body)


ORDINARY: dict[str, tuple[str, object]] = {
    "a value": ("/items/1", {"value": SECRET, "id": "https://v.example.com/items/1"}),
    "a list of Azure": ("/secrets?api-version=7.4", {"value": [{"id": f"{AZURE}/secrets/a", "contentType": "text"}]}),
    "versions of Azure": ("/secrets/a/versions", {"value": [{"id": f"{AZURE}/secrets/a/1", "attributes": {"created": 1}}]}),
    "a public key of Azure": ("/keys/k/1", {"key": {"kid": f"{AZURE}/keys/k/1", "kty": "RSA", "n": SECRET, "e": "AQAB"}}),
    "names of keys": ("/x", {"keyName": "color", "value": "red"}),
    "a table": ("/x", {"primaryKey": "id", "secondaryKey": "name"}),
    "GraphQL": ("/graphql", {"data": {"item": {"dsnx": SECRET}}}),
    "JSON:API": ("/v1/articles/1", {"data": {"type": "articles", "id": "1", "attributes": {"dsnx": SECRET}}}),
    "a path with data": ("/v1/articles/data/1", {"data": {"type": "articles", "attributes": {"dsnx": SECRET}}}),
    "ConfigMap": ("/x", {"kind": "ConfigMap", "data": {"a": IN_BASE64}}),
    "a reference": ("/x", {"kind": "SecretStore", "data": {"a": "plain-value"}}),
    "Secret's metadata": ("/x", {"kind": "Secret", "type": "Opaque", "metadata": {"name": "app", "uid": "u-1"}, "immutable": True}),
    "list of names": ("/v1/apps/metadata/?list=true", envelope({"keys": ["app/", "db"]})),
    "keys of KV v1": ("/v1/apps/?list=true", envelope({"keys": ["app/", "db"]})),
    "KV's metadata": ("/v1/apps/metadata/x", envelope({"current_version": 1, "oldest": "v-abc", "versions": {"1": METADATA}})),
    "what was written": ("/v1/apps/data/x", envelope(METADATA)),
    "health": ("/v1/sys/health", {"initialized": True, "sealed": False, "cluster_name": "vault-cluster-1", "version": "1.15.0"}),
    "mounts": ("/v1/sys/mounts", envelope({"kv/": {"type": "kv", "accessor": "kv_12345678", "options": {"version": "2"}}})),
    "a measure": ("/x", {"raw": "1.51", "computed": "1.50"}),
    "a certificate in base64": ("/x", {"ca": base64.b64encode(b"-----BEGIN CERTIFICATE-----\nMIIB\n").decode()}),
    "glTF": ("/x", {"accessor": "a-1", "bufferView": 1}),
    "an error": ("/x", {"error": {"code": "invalid"}, "redirect_uri": "https://app/cb"}),
    "help": ("/x", {"help": "use --token or --password to log in"}),
    "a dollar": ("/x", {"price": "$2b$12", "path": "$1$a"}),
    "a service": ("/x", {"service": "mail", "method": "login", "args": ["a", "b", "word-and-word"]}),
    "a text element": ("/x", {"type": "STRING", "label": "a", "value": SECRET}),
    "variables": ("/x", {"query": "query($p:Int!){items(first:$p, name:$n){id}}", "variables": {"p": 10, "n": SECRET}}),
}  # fmt: skip


@pytest.mark.parametrize("name", ORDINARY)
def test_what_only_looks_like_them_stays(name: str) -> None:
    target, answer = ORDINARY[name]
    assert answer_of(answer, target) == answer


def test_the_metadata_beside_a_secret_stays() -> None:
    redacted = answer_of(envelope({"data": {"dsnx": SECRET}, "metadata": METADATA}), "/v1/apps/data/x")
    expected = envelope({"data": redacted["data"]["data"], "metadata": METADATA})
    assert redacted == expected
    secret = {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": {"name": "app", "labels": {"a": "b"}}}
    redacted = answer_of({**secret, "data": {"a": IN_BASE64}})
    assert {**redacted, "data": None} == {**secret, "data": None}


@pytest.mark.parametrize("secret", [b"x", b"hunter2", SECRET.encode(), b"\0\xff\x80binary"])
def test_what_was_base64_is_so_still(secret: bytes) -> None:
    redacted = answer_of({"kind": "Secret", "data": {"a": base64.b64encode(secret).decode()}})["data"]["a"]
    assert base64.b64decode(redacted, validate=True).startswith(b"REDACTED")


def test_a_certificate_in_a_secret_stays() -> None:
    crt = base64.b64encode(b"-----BEGIN CERTIFICATE-----\nMIIBAAAA\n-----END CERTIFICATE-----\n").decode()
    key = base64.b64encode(PEM.format("", "").encode()).decode()
    redacted = answer_of({"kind": "Secret", "data": {"tls.crt": crt, "tls.key": key}})["data"]
    assert redacted["tls.crt"] == crt
    assert b"MHcCAQEE" not in base64.b64decode(redacted["tls.key"], validate=True)


@pytest.mark.parametrize(
    "beside",
    [
        {"cvc": "737"}, {"expiryMonth": "03"}, {"exp_month": 3}, {"expMonth": 3}, {"expirationDate": "03/30"},
        {"securityCode": "737"}, {"expiry": {"month": 3}},
    ],
)  # fmt: skip
@pytest.mark.parametrize("number", ["4111111111111111", 4111111111111111, "4111 1111 1111 1111"])
def test_a_number_beside_what_cards_have_is_a_card(beside: dict[str, object], number: object) -> None:
    for fields in ({"number": number, **beside}, {**beside, "number": number}):
        redacted = json.loads(body_of(json.dumps({"paymentMethod": fields}).encode(), b"application/json"))["paymentMethod"][
            "number"
        ]
        assert redacted != number
        assert is_luhn_valid(str(redacted).replace(" ", "").encode())


@pytest.mark.parametrize(
    "text",
    [
        {"number": "4111111111111112", "cvc": ""},  # not Luhn-valid
        {"number": "4111111111111111", "size": 1},
        {"id": "4111111111111111", "expirationDate": "2030-01-01"},
        {"number": "4111111111111111", "offer": {"expirationDate": "2030-01-01"}},
    ],
)
def test_other_numbers_are_no_cards(text: dict[str, object]) -> None:
    assert answer_of(text) == text


def test_a_card_in_a_form_and_in_xml() -> None:
    assert b"4111111111111111" not in body_of(b"number=4111111111111111&expiryMonth=03", b"application/x-www-form-urlencoded")
    assert b"4111111111111111" not in body_of(b"<p><number>4111111111111111</number><cvc>737</cvc></p>", b"text/xml")


def test_a_config_map_in_yaml_stays() -> None:
    text = "apiVersion: v1\nkind: ConfigMap\ndata:\n  dsnx: b3RoZXI=\n---\nkind: Secret\ndata:\n  dsnx: " + IN_BASE64 + "\n"
    kept, _, changed = body_of(text.encode(), b"application/yaml").partition(b"---")
    assert kept == text.partition("---")[0].encode()
    assert IN_BASE64.encode() not in changed
