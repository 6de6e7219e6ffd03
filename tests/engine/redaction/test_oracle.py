"""An oracle for redaction that shares nothing with it: random secrets are planted in every place, in every kind of body, in
every coding; everything that Understudy writes or shows is then searched for them, byte by byte and by decoders of this file.

What is claimed, and so planted: values of fields whose name says that they are secret, in JSON, XML, HTML, forms, multipart, YAML,
other texts, queries and headers, at any depth and in any spelling of these; keys that are known by their form anywhere in a text;
passwords in URLs; cookies; credentials. What is not claimed: a word in a field with another name, and what is in archives, in
encrypted or in undocumented binary content without such a name.
"""

from __future__ import annotations

import base64
import bz2
import gzip
import html
import json
import pickle
import plistlib
import random
import secrets
import socket
import sqlite3
import urllib.parse
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import brotli
import pytest
import zstandard
from click.testing import CliRunner

from engine.cli import main
from engine.pairing import Conversation
from engine.responder.authority import Authority
from engine.responder.server import Responder
from engine.rrpair import Connection, Flow, Role, RRPair, Way
from engine.snapshot import SnapshotWriter

LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789"
HOST = "api.example.com"


def letters(count: int) -> str:
    return "".join(secrets.choice(LETTERS) for _ in range(count))


class Planter:
    """Makes secrets, each another one, and remembers them. All begin and end with a mark, so that two searches find any."""

    def __init__(self) -> None:
        self.first, self.last = letters(9), letters(9)
        self.cores: dict[str, str] = {}
        self.numbers: dict[str, str] = {}

    def plant(self, place: str, prefix: str = "", tail: str = "") -> str:
        core = self.first + letters(14) + self.last
        self.cores[core] = place
        return prefix + core + tail

    def number(self, place: str) -> str:
        digits = str(secrets.randbelow(9) + 1) + "".join(secrets.choice("0123456789") for _ in range(14))
        self.numbers[digits] = place
        return digits

    def card(self, place: str) -> str:
        body = "4" + "".join(secrets.choice("123456789") for _ in range(14))
        total = sum(sum(divmod(int(digit) * (2 - place % 2), 10)) for place, digit in enumerate(reversed(body)))
        digits = body + str(-total % 10)
        self.numbers[digits] = place
        return digits


def j(value: object) -> str:
    return json.dumps(value)


def u(value: str) -> str:
    return urllib.parse.quote_plus(value)


def escaped(value: str) -> str:
    return "".join(f"\\u{ord(char):04x}" for char in value)


def part(name: str, content: str, extra: str = "", quote: str = '"') -> str:
    return f"--sep\r\nContent-Disposition: form-data; name={quote}{name}{quote}{extra}\r\n\r\n{content}\r\n"


KINDS: dict[str, tuple[str, Callable[[str], str]]] = {
    "json field": ("application/json", lambda s: j({"id": 7, "password": s, "ok": None})),
    "json camel": ("application/json", lambda s: j({"clientSecret": s})),
    "json dotted": ("application/json", lambda s: j({"db.password": s})),
    "json deep": ("application/json", lambda s: j({"a": [{"b": {"apiKey": {"v": [s]}}}]})),
    "json dynamodb": ("application/x-amz-json-1.0", lambda s: j({"ExpressionAttributeValues": {":password": {"S": s}}})),
    "json secretstring": ("application/x-amz-json-1.1", lambda s: j({"SecretString": j({"user": "u", "pw": s})})),
    "json secretstring deep": ("application/x-amz-json-1.1", lambda s: j({"SecretString": j([s, {"a_secret": {"b": {"c": s}}}])})),
    "json secretbinary": ("application/x-amz-json-1.1", lambda s: j({"SecretBinary": base64.b64encode(s.encode()).decode()})),
    "json base64 pair": ("application/json", lambda s: j({"authorizationToken": base64.b64encode(f"AWS:{s}".encode()).decode()})),
    "json base64 json": ("application/json", lambda s: j({"Plaintext": base64.b64encode(j({"a": s}).encode()).decode()})),
    "json connection": (
        "application/json",
        lambda s: j({"connectionString": f"Server=tcp:h,1;User ID=u;Password={s};Encrypt=True"}),
    ),
    "json ssm": ("application/x-amz-json-1.1", lambda s: j({"Parameter": {"Type": "SecureString", "Value": s}})),
    "json sts": ("application/json", lambda s: j({"Credentials": {"SessionToken": s, "Expiration": 1}})),
    "json named": ("application/json", lambda s: j({"env": [{"name": "DB_PASSWORD", "value": s}, {"name": "A", "value": "b"}]})),
    "json named late": ("application/json", lambda s: j([{"Value": s, "Key": "auth_token"}])),
    "json har": ("application/json", lambda s: j({"headers": [{"name": "Authorization", "value": f"Bearer {s}"}]})),
    "json in json": ("application/json", lambda s: j({"Message": j({"Records": j([{"secret": s}])})})),
    "json form": ("application/json", lambda s: j({"body": f"grant_type=x&client_secret={u(s)}&a=b"})),
    "json url": ("application/json", lambda s: j({"next": f"https://h/p?a=1&access_token={u(s)}"})),
    "json userinfo": ("application/json", lambda s: j({"dsn": f"postgres://user:{u(s)}@db/x"})),
    "json graphql": ("application/json", lambda s: j({"query": f"mutation {{ login(password: {j(s)}) {{ id }} }}"})),
    "json xml": ("application/json", lambda s: j({"soap": f"<e><Password>{html.escape(s)}</Password></e>"})),
    "json escaped key": ("application/json", lambda s: '{"pass\\u0077ord":' + j(s) + "}"),
    "json escaped value": ("application/json", lambda s: '{"password":"' + escaped(s) + '"}'),
    "json twice": ("application/json", lambda s: '{"token":"x","token":' + j(s) + "}"),
    "json lines": ("application/x-ndjson", lambda s: j({"a": 1}) + "\n" + j({"refresh_token": s}) + "\n"),
    "json cut": ("application/json", lambda s: '{"a":1,"password":' + j(s)[:-1]),
    "json hole": ("application/json", lambda s: '{"a":"foo,"password":' + j(s) + "}"),
    "json pretty": ("application/json", lambda s: json.dumps({"x": {"passphrase": s}}, indent=4)),
    "json mislabelled": ("image/png", lambda s: j({"password": s})),
    "json unlabelled": ("", lambda s: j({"password": s})),
    "sse": ("text/event-stream", lambda s: f"event: a\ndata: {j({'token': s})}\n\n"),
    "xml element": ("text/xml", lambda s: f"<a><Password>{html.escape(s)}</Password><b>1</b></a>"),
    "xml attribute": ("application/xml", lambda s: f'<a password="{html.escape(s)}"/>'),
    "xml cdata": ("application/soap+xml", lambda s: f"<a><secret><![CDATA[{s}]]></secret></a>"),
    "xml entities": ("text/xml", lambda s: "<token>" + "".join(f"&#{ord(c)};" for c in s) + "</token>"),
    "xml below": ("text/xml", lambda s: f"<n:credential-secret><v>{html.escape(s)}</v></n:credential-secret>"),
    "xml named": ("text/xml", lambda s: f"<p><Name>password</Name><Value>{html.escape(s)}</Value></p>"),
    "xml add": ("text/xml", lambda s: f'<add key="ApiKey" value="{html.escape(s)}"/>'),
    "html input": ("text/html", lambda s: f'<input type="hidden" name="csrf_token" value="{html.escape(s)}">'),
    "form": ("application/x-www-form-urlencoded", lambda s: f"a=1&password={u(s)}&b=2"),
    "form brackets": ("application/x-www-form-urlencoded", lambda s: f"user%5Bpassword%5D={u(s)}"),
    "form escaped name": ("application/x-www-form-urlencoded", lambda s: f"pass%77ord={u(s)}&a=1"),
    "form numbered": ("application/x-www-form-urlencoded", lambda s: f"A.1.Name=secret_key&A.1.Value={u(s)}"),
    "form json": ("application/x-www-form-urlencoded", lambda s: f"payload={u(j({'token': s}))}"),
    "form unlabelled": ("", lambda s: f"a=1&api_key={u(s)}"),
    "multipart": ("multipart/form-data; boundary=sep", lambda s: part("password", s) + "--sep--\r\n"),
    "multipart file": ("multipart/form-data; boundary=sep", lambda s: part("private_key", s, '; filename="k"') + "--sep--"),
    "multipart unquoted": ('multipart/form-data; boundary="sep"', lambda s: part("secret", s, quote="") + "--sep--"),
    "multipart blanks": ("multipart/form-data; boundary = sep", lambda s: part("secret", s) + "--sep--"),
    "multipart json": ("multipart/form-data; boundary=sep", lambda s: part("meta", j({"token": s})) + "--sep--"),
    "multipart open": ("multipart/form-data; boundary=sep", lambda s: part("a", "b") + part("password", s)),
    "multipart nested": (
        "multipart/mixed; boundary=out",
        lambda s: f"--out\r\nContent-Type: multipart/form-data; boundary=sep\r\n\r\n{part('token', s)}--sep--\r\n--out--",
    ),
    "multipart base64": (
        "multipart/mixed; boundary=sep",
        lambda s: (
            "--sep\r\nContent-Type: application/json\r\nContent-Transfer-Encoding: base64\r\n\r\n"
            + base64.b64encode(j({"password": s}).encode()).decode()
            + "\r\n--sep--"
        ),
    ),
    "pem": ("text/plain", lambda s: f"-----BEGIN RSA PRIVATE KEY-----\nMIIE\n{s}\n-----END RSA PRIVATE KEY-----\n"),
    "pem in json": ("application/json", lambda s: j({"k": f"-----BEGIN PRIVATE KEY-----\n{s}\n-----END PRIVATE KEY-----"})),
    "yaml": ("application/yaml", lambda s: f"a: 1\npassword: {s}\nb: 2\n"),
    "yaml quoted": ("text/yaml", lambda s: f"- api-key: '{s}'\n"),
    "yaml block": ("application/yaml", lambda s: f"a:\n  token: |\n    line\n    {s}\nb: 2\n"),
    "env file": ("text/plain", lambda s: f"export DB_PASSWORD='{s}'\nA=b\n"),
    "ini": ("", lambda s: f"[default]\naws_secret_access_key = {s}\n"),
    "log line": ("text/plain", lambda s: f'2026-01-01 12" pipe, login token={s} ok'),
    "python": ("text/plain", lambda s: f"{{'a': 1, 'password': '{s}'}}"),
    "bearer": ("text/plain", lambda s: f"curl -H 'Authorization: Bearer {s}' https://h/"),
    "json patch": ("application/json-patch+json", lambda s: j([{"op": "replace", "path": "/user/password", "value": s}])),
    "scim": ("application/scim+json", lambda s: j({"Operations": [{"op": "Replace", "path": "password", "value": s}]})),
    "yaml named": ("application/yaml", lambda s: f"env:\n- name: A\n  value: b\n- name: DB_PASSWORD\n  value: {s} two\nx: 1\n"),
    "yaml named late": ("text/yaml", lambda s: f"env:\n  - value: '{s}'\n    other: 1\n    name: api-key\n"),
    "yaml named block": ("", lambda s: f"- name: secret\n  type: x\n  value: |\n    line\n    {s}\n- name: b\n  value: c\n"),
    "yaml flow": ("text/plain", lambda s: f"env:\n- {{name: DB_PASSWORD, value: two {s}}}\n"),
    "sse named": ("text/event-stream", lambda s: f"event: a\ndata: {j({'name': 'password', 'value': s})}\n\n"),
    "sse named deep": ("text/event-stream", lambda s: f"data: {j({'value': {'stringValue': s}, 'name': 'password'})}\n\n"),
    "jsonp named": ("application/javascript", lambda s: f"call({json.dumps([{'key': 'token', 'value': s}], indent=1)});"),
    "log named": ("text/plain", lambda s: f'12" pipe {{x}} got {j({"a": {"value": s, "b": {}, "field": "password"}})} at 7\n'),
    "log named twice": ("text/plain", lambda s: f"got {j(j({'name': 'password', 'value': s}))} at 7\n"),
    "csv": ("text/csv", lambda s: f'id,password,note\r\n1,{s},"a ""b"", c"\r\n2,"x",y\r\n'),
    "csv quoted": ("text/csv; charset=utf-8", lambda s: f'"id";"api key"\n1;"a"\n"2";"{s}"\n'),
    "php": ("", lambda s: f'a:2:{{s:4:"user";s:3:"bob";s:8:"password";s:{len(s.encode())}:"{s}";}}'),
    "plist": (
        "application/xml",
        lambda s: f"<plist><dict><key>a</key><true/><key>password</key>\n<string>{html.escape(s)}</string></dict></plist>",
    ),
    "pickle text": ("", lambda s: pickle.dumps({"a": 1, "password": s, "b": 2}, 0).decode()),
}
"""Kind of body: its media type, and how it holds a secret."""

SPECIAL = {"json field", "json in json", "json escaped value", "json twice", "json har", "xml element", "xml entities", "form"}
SPECIAL |= {"form json", "multipart", "json form", "json url", "xml attribute", "form brackets", "json named", "json pretty"}
"""Kinds that can hold a secret of any characters."""

FORMS = {
    "stripe": "sk_live_",
    "github": "ghp_",
    "slack": "xoxb-",
    "google": "AIzaSyA0123456789_",
    "openai": "sk-proj-",
    "gitlab": "glpat-",
    "jwt": "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI0MiJ9.",
}
IN_TEXT: dict[str, tuple[str, Callable[[str], str]]] = {
    "json": ("application/json", lambda s: j({"note": f"use {s} here"})),
    "json escaped": ("application/json", lambda s: j({"note": j({"x": s})})),
    "text": ("text/plain", lambda s: f"use {s}, please"),
    "xml": ("text/xml", lambda s: f"<note>{s}</note>"),
    "form": ("application/x-www-form-urlencoded", lambda s: f"a=b+{s}&c=d"),
    "html": ("text/html", lambda s: f"<p>key: {s}</p>"),
    "script": ("application/javascript", lambda s: f"const k = `{s}`;"),
}


def raw_deflate(text: bytes) -> bytes:
    encoder = zlib.compressobj(wbits=-15)
    return encoder.compress(text) + encoder.flush()


def chunked(text: bytes) -> bytes:
    parts = [text[at : at + 11] for at in range(0, len(text), 11)]
    return b"".join(b"%x;chunk-signature=ab\r\n%b\r\n" % (len(each), each) for each in parts) + b"0;chunk-signature=cd\r\n\r\n"


CODINGS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "plain": ("", bytes),
    "identity": ("identity", bytes),
    "gzip": ("gzip", gzip.compress),
    "gzip members": ("gzip", lambda t: b"".join(gzip.compress(t[at : at + 9]) for at in range(0, len(t), 9))),
    "gzip stored": ("gzip", lambda t: gzip.compress(t, 0)),
    "gzip cut": ("gzip", lambda t: gzip.compress(t, 0)[:-9]),
    "gzip and more": ("gzip", lambda t: gzip.compress(t, 0) + b"\x01"),
    "gzip unnamed": ("", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "deflate raw": ("deflate", raw_deflate),
    "zstd": ("zstd", zstandard.compress),
    "zstd cut": ("zstd", lambda t: zstandard.compress(t)[:-2]),
    "br": ("br", brotli.compress),
    "br cut": ("br", lambda t: brotli.compress(t)[:-2]),
    "identity, gzip": ("identity, gzip", gzip.compress),
    "deflate, gzip": ("deflate, gzip", lambda t: gzip.compress(zlib.compress(t))),
    "br, zstd": ("br, zstd", lambda t: zstandard.compress(brotli.compress(t))),
    "aws-chunked": ("aws-chunked", chunked),
    "unknown": ("x-unknown", lambda t: bz2.compress(t)),
    "unknown and plain": ("x-unknown", bytes),
    "mislabelled": ("gzip", bytes),
    "utf-16": ("", lambda t: t.decode().encode("utf-16")),
    "utf-32": ("", lambda t: t.decode().encode("utf-32")),
    "controls": ("", lambda t: b"\x00\x01" + t + b"\x02"),
}

WHOLE = """X-Api-Key DD-API-KEY CF-Access-Client-Secret X-Amz-Security-Token anthropic-api-key X-Hub-Signature Private-Token
X-Vault-Token X-Shopify-Access-Token X-Session-Id Cookie Cookie2"""
HEADERS = {
    **dict.fromkeys(WHOLE.split(), "{}"),
    "Authorization": "Bearer {}",
    "authorization": "{}",
    "AUTHORIZATION": "Token {}",
    "X-Authorization": "Custom {}",
    "Proxy-Authorization": "Basic {b64}",
    "cookie": 'a=b; sid={}; c="{}"',
    "Set-Cookie": "session={}; Path=/; HttpOnly",
    "Set-Cookie2": 'session="{}"',
    "Location": "https://user:{}@h/",
    "Referer": "https://h/?code={}",
    "Link": "<https://h/?sig={}>; rel=next",
    "Content-Location": "/x?X-Goog-Signature={}",
    "X-Original-URL": "/x?token={}",
    "X-Forwarded-Uri": "/x?next=https%3A%2F%2Fh%2F%3Fapi_key%3D{}",
}
TARGETS = [
    "/x?a=1&X-Amz-Signature={}&b=2", "/x?key={}", "/x?pass%77ord={}", "/x?u=https%3A%2F%2Fh%2F%3Ftoken%3D{}",
    "/p;jsessionid={}?a=1", "https://user:{}@api.example.com/x", "/x?j=%7B%22secret%22%3A%22{}%22%7D",
    "/x#access_token={}", "/services/T0/B0/{}", "/x?u=https%253A%252F%252Fh%252F%253Fcode%253D{}%2526a%253Db",
    "/x?u=%25252Fp%25253Fa%25253Db%252526sig%25253D{}",
]  # fmt: skip


class Recorder:
    """Brings exchanges through the real path, in pieces, into a snapshot."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.writer = SnapshotWriter.create(path, service="test", capture_id="c", created=0, tool_version="0")
        self.requests: list[bytes] = []
        self.count = 0

    def add(self, request: bytes, answer: bytes) -> None:
        self.count += 1
        connection = Connection(f"c:{self.count}", role=Role.CLIENT, remote_address="192.0.2.1", remote_port=80)
        conversation = Conversation(connection, "test", True)
        found: list[RRPair | Flow] = []
        for way, data in ((Way.WRITE, request), (Way.READ, answer)):
            middle = random.Random(self.count).randrange(1, len(data))
            found += conversation.data(way, 0, data[:middle], 1)
            found += conversation.data(way, middle, data[middle:], 2)
        found += conversation.half_close(Way.READ, 3)
        found += conversation.close(4)
        assert [type(each) for each in found] == [RRPair], found
        self.writer.add(found)
        self.requests.append(request)

    def finish(self) -> None:
        self.writer.set_ledger({"seen": 1, "delivered": 1, "lost": 0})
        self.writer.finish()


def message(line: str, headers: list[tuple[str, str]], body: bytes, *, chunks: bool, trailers: str = "") -> bytes:
    framing = ("Transfer-Encoding", "chunked") if chunks else ("Content-Length", str(len(body)))
    head = "".join(f"{name}: {value}\r\n" for name, value in [*headers, framing] if value)
    if not chunks:
        return f"{line}\r\n{head}\r\n".encode() + body
    pieces = [body[at : at + 7] for at in range(0, len(body), 7)]
    coded = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n" + trailers.encode() + b"\r\n"
    return f"{line}\r\n{head}\r\n".encode() + coded


def simple_answer() -> bytes:
    return message("HTTP/1.1 200 OK", [], b"{}", chunks=False)


def plant_bodies(recorder: Recorder, planter: Planter) -> None:
    for kind, (media, render) in KINDS.items():
        for coding, (encoding, encode) in CODINGS.items():
            for side in ("request", "response"):
                place = f"{side} body, {kind}, {coding}"
                tail = ' p@ss/+=&<%"é' if kind in SPECIAL else ""
                body = encode(render(planter.plant(place, tail=tail)).encode())
                chunks = recorder.count % 2 == 0
                headers = [("Host", HOST), ("Content-Type", media), ("Content-Encoding", encoding)]
                if side == "request":
                    recorder.add(message(f"POST /b/{recorder.count} HTTP/1.1", headers, body, chunks=chunks), simple_answer())
                else:
                    request = message(f"GET /b/{recorder.count} HTTP/1.1", [("Host", HOST)], b"", chunks=False)
                    recorder.add(request, message("HTTP/1.1 200 OK", headers[1:], body, chunks=chunks))


def plant_forms(recorder: Recorder, planter: Planter) -> None:
    for form, prefix in FORMS.items():
        for kind, (media, render) in IN_TEXT.items():
            for encoding, encode in (("", bytes), ("gzip", gzip.compress)):
                body = encode(render(planter.plant(f"{form} in {kind} {encoding}", prefix)).encode())
                headers = [("Host", HOST), ("Content-Type", media), ("Content-Encoding", encoding)]
                recorder.add(message("POST /f HTTP/1.1", headers, body, chunks=False), simple_answer())
        path = planter.plant(f"{form} in the path", prefix)
        headers = [("Host", HOST), ("X-Note", planter.plant(f"{form} in a header", prefix))]
        recorder.add(message(f"GET /{path} HTTP/1.1", headers, b"", chunks=False), simple_answer())


def plant_numbers(recorder: Recorder, planter: Planter) -> None:
    bodies = [
        ("application/json", '{"pin":' + planter.number("pin") + ',"a":1}'),
        ("application/json", j({"m": '{"cvc":' + planter.number("cvc in json") + "}"})),
        ("application/json", j({"card": {"number": planter.card("card")}})),
        ("application/json", '{"card_number":' + planter.card("card number") + "}"),
        ("application/x-www-form-urlencoded", f"card[number]={planter.card('card form')}"),
        ("text/plain", f"card number {planter.card('card text')} declined"),
    ]
    for media, body in bodies:
        headers = [("Host", HOST), ("Content-Type", media)]
        recorder.add(message("POST /n HTTP/1.1", headers, body.encode(), chunks=True), simple_answer())


def plant_heads(recorder: Recorder, planter: Planter) -> None:
    for name, template in HEADERS.items():
        for side in ("request", "response", "interim", "trailer"):
            secret = planter.plant(f"{side} header {name}")
            value = template.replace("{}", secret).replace("{b64}", base64.b64encode(f"user:{secret}".encode()).decode())
            request = [("Host", HOST), *([(name, value)] if side == "request" else [])]
            answer = message(
                "HTTP/1.1 200 OK", [(name, value)] if side == "response" else [], b"{}", chunks=True,
                trailers=f"{name}: {value}\r\n" if side == "trailer" else "",
            )  # fmt: skip
            interim = f"HTTP/1.1 103 Early Hints\r\n{name}: {value}\r\n\r\n".encode() if side == "interim" else b""
            recorder.add(message(f"GET /h/{recorder.count} HTTP/1.1", request, b"", chunks=False), interim + answer)
    for template in TARGETS:
        target = template.format(planter.plant(f"target {template}"))
        recorder.add(message(f"GET {target} HTTP/1.1", [("Host", HOST)], b"", chunks=False), simple_answer())
    host = f"user:{planter.plant('host')}@{HOST}"
    recorder.add(message("GET /host HTTP/1.1", [("Host", host)], b"", chunks=False), simple_answer())
    target = f"bob:{planter.plant('connect')}@h:443"
    answer = message("HTTP/1.1 407 No", [], b"{}", chunks=False)
    recorder.add(message(f"CONNECT {target} HTTP/1.1", [("Host", "h:443")], b"", chunks=False), answer)


TOLD: dict[str, Callable[[str], tuple[str, list[tuple[str, str]], str]]] = {
    "cookie": lambda s: ("/e", [("Cookie", f"a=b; sid={s}")], ""),
    "bearer": lambda s: ("/e", [("Authorization", f"Bearer {s}")], ""),
    "basic": lambda s: ("/e", [("Authorization", f"Basic {base64.b64encode(f'bob:{s}'.encode()).decode()}")], ""),
    "custom scheme": lambda s: ("/e", [("Authorization", f"Custom {s}")], ""),
    "api key": lambda s: ("/e", [("X-Api-Key", s)], ""),
    "query": lambda s: (f"/e?access_token={u(s)}", [], ""),
    "json": lambda s: ("/e", [("Content-Type", "application/json")], j({"password": s})),
    "form": lambda s: ("/e", [("Content-Type", "application/x-www-form-urlencoded")], f"password={u(s)}"),
    "xml": lambda s: ("/e", [("Content-Type", "text/xml")], f"<a><password>{html.escape(s)}</password></a>"),
    "user": lambda s: (f"https://bob:{u(s)}@{HOST}/e", [], ""),
}
"""How a request tells a secret: target, header fields, body."""

AGAIN: dict[str, tuple[str, Callable[[str], str]]] = {
    "json": ("application/json", lambda s: j({"cookies": {"sid": s}})),
    "json message": ("application/json", lambda s: j({"msg": f"invalid credential {s}"})),
    "json list": ("application/json", lambda s: j({"detail": [{"loc": ["body", "password"], "input": s}]})),
    "json name": ("application/json", lambda s: j({"sessions": {s: {"user": 7}}})),
    "json ascii": ("application/json", lambda s: j({"é": s})),
    "json utf-8": ("application/json", lambda s: json.dumps({"é": s}, ensure_ascii=False)),
    "json slashes": ("application/json", lambda s: j({"x": s}).replace("/", "\\/")),
    "json escapes": ("application/json", lambda s: '{"x":"' + escaped(s) + '"}'),
    "json in json": ("application/json", lambda s: j({"x": j({"y": j([s])})})),
    "form": ("application/x-www-form-urlencoded", lambda s: f"a=1&said={u(s)}"),
    "url": ("text/plain", lambda s: f"see https://h/{urllib.parse.quote(s, safe='')}/x"),
    "url in json": ("application/json", lambda s: j({"next": f"https://h/?said={u(s)}"})),
    "percent": ("text/plain", lambda s: "".join(f"%{byte:02x}" for byte in s.encode())),
    "percent twice": ("text/plain", lambda s: u(u(s))),
    "text": ("text/plain", lambda s: f"you said <{s}>"),
    "html": ("text/html", lambda s: f"<p>you said {html.escape(s)}</p>"),
    "entities": ("text/html", lambda s: "".join(f"&#x{ord(c):X};" for c in s)),
    "base64": ("application/json", lambda s: j({"x": base64.b64encode(f"bob:{s}".encode()).decode()})),
    "base64 alone": ("text/plain", lambda s: base64.b64encode(s.encode()).decode()),
    "base64 within": ("text/plain", lambda s: "x " + base64.urlsafe_b64encode(f"{{'said':'{s}'}}".encode()).decode().rstrip("=")),
    "multipart": ("multipart/form-data; boundary=sep", lambda s: part("said", s) + "--sep--\r\n"),
    "multipart base64": (
        "multipart/mixed; boundary=sep",
        lambda s: (
            "--sep\r\nContent-Type: text/plain\r\nContent-Transfer-Encoding: base64\r\n\r\n"
            + base64.encodebytes(f"you said {s}".encode()).decode() + "--sep--"
        ),
    ),
    "controls": ("application/octet-stream", lambda s: f"\0\1{s}\0"),
}  # fmt: skip
"""How an answer, or another part of the request, has a secret that no rule is for there."""


def prefixed(size: Callable[[int], bytes], *texts: str) -> bytes:
    return b"".join(size(len(text.encode())) + text.encode() for text in texts)


def byte(length: int) -> bytes:
    return bytes((length,))


def zigzag(length: int) -> bytes:
    return bytes((2 * length,)) if length < 64 else bytes((2 * length & 0x7F | 0x80, length >> 6))


BINARY: dict[str, Callable[[str, str], bytes]] = {
    "pickle 1": lambda n, s: pickle.dumps({"a": 1, n: s}, 1),
    "pickle 2": lambda n, s: pickle.dumps({n: s}, 2),
    "pickle 3": lambda n, s: pickle.dumps([{n: s}], 3),
    "pickle 4": lambda n, s: pickle.dumps({n: s}, 4),
    "java": lambda n, s: b"\xac\xed\x00\x05sr\x00\x01x\x00t" + prefixed(lambda size: size.to_bytes(2, "big"), n) + b"t"
    + prefixed(lambda size: size.to_bytes(2, "big"), s),
    "ubjson": lambda n, s: b"{i\x01aTi" + prefixed(byte, n) + b"Si" + prefixed(byte, s) + b"}",
    "thrift": lambda n, s: b"\x0d\x0b\x0b\0\0\0\1" + prefixed(lambda size: size.to_bytes(4, "big"), n, s) + b"\0",
    "thrift compact": lambda n, s: b"\x1b\x01\x88" + prefixed(byte, n, s),
    "avro": lambda n, s: b"\x02" + prefixed(zigzag, n, s) + b"\0",
    "avro short": lambda n, s: b"\x02" + zigzag(len(n)) + n.encode() + zigzag(23) + s[9:].encode(),
    "message pack": lambda n, s: b"\x81" + prefixed(lambda size: bytes((0xA0 + size,)) if size < 32 else bytes((0xD9, size)), n, s),
    "cbor": lambda n, s: b"\xa1" + prefixed(lambda size: bytes((0x60 + size,)) if size < 24 else bytes((0x78, size)), n, s),
    "binary plist": lambda n, s: plistlib.dumps({n: s, "a": "b"}, fmt=plistlib.FMT_BINARY),
}  # fmt: skip
BINARY_NAMES = ["password", "api_key_v2", "password_new", "privateKeyData", "clientSecret"]


def plant_binary(recorder: Recorder, planter: Planter) -> None:
    for form, render in BINARY.items():
        for name in BINARY_NAMES:
            body = render(name, planter.plant(f"{name} in {form}"))
            recorder.add(message("POST /y HTTP/1.1", [("Host", HOST)], body, chunks=True), simple_answer())


AGAIN_CODINGS = ["plain", "gzip", "gzip unnamed", "br", "zstd", "deflate, gzip", "utf-16"]


def plant_echoes(recorder: Recorder, planter: Planter) -> None:
    for told, request_of in TOLD.items():
        for again, (media, render) in AGAIN.items():
            secret = planter.plant(f"{told}, then {again}", tail=' p@ss/+&<"é' if told in ("json", "form", "xml", "basic") else "")
            target, headers, body = request_of(secret)
            request = message(f"POST {target} HTTP/1.1", [("Host", HOST), *headers], body.encode(), chunks=False)
            coding, encode = CODINGS["gzip" if again == "controls" else AGAIN_CODINGS[recorder.count % len(AGAIN_CODINGS)]]
            answer = [("Content-Type", media), ("Content-Encoding", coding)]
            recorder.add(request, message("HTTP/1.1 422 No", answer, encode(render(secret).encode()), chunks=False))
            secret = planter.plant(f"{told}, and {again}")
            target, headers, _ = request_of(secret)
            if told not in ("json", "form", "xml"):
                head = [("Host", HOST), *headers, ("Content-Type", media), ("Content-Encoding", coding)]
                line = f"POST {target} HTTP/1.1"
                recorder.add(message(line, head, encode(render(secret).encode()), chunks=False), simple_answer())
        plant_in_heads(recorder, planter, told)


def plant_in_heads(recorder: Recorder, planter: Planter, told: str) -> None:
    secret = planter.plant(f"{told}, then in the heads of answers")
    target, headers, body = TOLD[told](secret)
    request = message(f"POST {target} HTTP/1.1", [("Host", HOST), *headers], body.encode(), chunks=False)
    interim = f"HTTP/1.1 103 Early {secret}\r\nX-Said: {secret}\r\n\r\n".encode()
    said = [("X-Said", f"it was {secret}"), ("Location", f"/said/{u(secret)}")]
    answer = message(f"HTTP/1.1 401 No {secret}", said, b"{}", chunks=True, trailers=f"X-Said: {secret}\r\n")
    recorder.add(request, interim + answer)
    secret = planter.plant(f"{told}, and in the head of the request")
    target, headers, body = TOLD[told](secret)
    target += f"{'&' if '?' in target else '?'}said={secret}"
    request = message(f"POST {target} HTTP/1.1", [("X-Said", secret), ("Host", HOST), *headers], body.encode(), chunks=False)
    recorder.add(request, simple_answer())
    secret = planter.plant("a cookie of an answer, and its body")
    interim = f"HTTP/1.1 103 Early\r\nX-Said: {secret}\r\n\r\n".encode()
    answer = message("HTTP/1.1 200 OK", [("Set-Cookie", f"sid={secret}; Path=/")], j({"said": secret}).encode(), chunks=True)
    recorder.add(message("GET /e HTTP/1.1", [("Host", HOST)], b"", chunks=False), interim + answer)


# -- what is searched --------------------------------------------------------------------------------------------------------


def spellings(core: str) -> Iterator[bytes]:
    """Forms in which a secret could still be there."""
    raw = core.encode()
    yield raw
    yield "".join(f"%{byte:02X}" for byte in raw).encode()
    yield escaped(core).encode()
    yield "".join(f"&#{byte};" for byte in raw).encode()
    yield raw.hex().encode()
    yield raw.hex().upper().encode()
    yield core.encode("utf-16-le")
    for shift in range(3):
        coded = base64.b64encode(b"\0" * shift + raw)
        yield coded[-(-8 * shift // 6) : len(raw) * 8 // 6 - 2]
        yield base64.urlsafe_b64encode(b"\0" * shift + raw)[-(-8 * shift // 6) : len(raw) * 8 // 6 - 2]


def decoded(body: bytes, depth: int = 3) -> Iterator[bytes]:
    """A text and all that can be decoded from it, whatever it says of itself."""
    yield body
    if depth == 0:
        return
    for decode in (_zlib(31), _zlib(15), _zlib(-15), _zstd, _brotli, _dechunk):
        with suppress(zlib.error, zstandard.ZstdError, brotli.error, ValueError):
            text = decode(body)
            if text and text != body:
                yield from decoded(text, depth - 1)


def _zlib(window: int) -> Callable[[bytes], bytes]:
    def decode(body: bytes) -> bytes:
        parts = []
        while body:
            decoder = zlib.decompressobj(window)
            parts.append(decoder.decompress(body))
            if body == decoder.unused_data:
                break
            body = decoder.unused_data
        return b"".join(parts)

    return decode


def _zstd(body: bytes) -> bytes:
    if not body.startswith(b"\x28\xb5\x2f\xfd"):
        raise ValueError
    return zstandard.ZstdDecompressor().stream_reader(body, read_across_frames=True).read(1 << 24)


def _brotli(body: bytes) -> bytes:
    return bytes(brotli.Decompressor().process(body, output_buffer_limit=1 << 20))


def _dechunk(body: bytes) -> bytes:
    parts = []
    while b"\r\n" in body:
        line, _, body = body.partition(b"\r\n")
        size = int(line.partition(b";")[0], 16)
        parts.append(body[:size])
        body = body[size + 2 :]
    return b"".join(parts)


def file_texts(path: Path) -> Iterator[bytes]:
    """The file's bytes, and every value of every table, decompressed."""
    yield path.read_bytes()
    with closing(sqlite3.connect(path)) as database:
        database.text_factory = bytes
        for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for row in database.execute(f"SELECT * FROM {table.decode()}"):
                for value in row:
                    if isinstance(value, bytes):
                        yield from decoded(value)
                    elif value is not None:
                        yield str(value).encode()


def shown_texts(path: Path, count: int) -> Iterator[bytes]:
    """What `inspect` shows."""
    runner = CliRunner()
    lines = runner.invoke(main, ["inspect", str(path), "--json"], catch_exceptions=False).output
    yield lines.encode()
    for line in lines.splitlines():
        pair = json.loads(line)
        for each in (pair["request"], pair["response"], *pair["interim"]):
            yield from decoded(base64.b64decode(each["body"]))
            yield b"\n".join(f"{name}: {value}".encode("latin-1") for name, value in [*each["headers"], *each["trailers"]])
            for _, value in each["headers"]:
                with suppress(ValueError):
                    yield base64.b64decode(value.rpartition(" ")[2], validate=True)
    yield runner.invoke(main, ["inspect", str(path), "--all"], catch_exceptions=False).output.encode()
    for number in range(1, count + 1, 67):
        yield runner.invoke(main, ["inspect", str(path), str(number)], catch_exceptions=False).output.encode()


def mock_texts(path: Path, requests: list[bytes], folder: Path) -> Iterator[bytes]:
    """What a run says: the report, and the answers to requests that were not recorded."""
    responder = Responder(path, Authority(folder))
    responder.start("127.0.0.1")
    try:
        for request in requests:
            live = request.replace(b" HTTP/1.1\r\n", b" HTTP/1.1\r\nConnection: close\r\nX-Amz-Target: other\r\n", 1)
            with socket.create_connection(("127.0.0.1", responder.port), timeout=20) as client, suppress(ConnectionError):
                client.sendall(live)
                while answer := client.recv(65536):
                    yield answer
    finally:
        report = responder.stop()
    assert report.requests
    assert report.misses
    yield json.dumps(report.to_json()).encode()
    yield json.dumps(report.to_json(), ensure_ascii=False).encode()


def leaks(planter: Planter, texts: Iterator[bytes]) -> set[str]:
    """Where secrets are still found: the name of the place where it is whole, else what is around a part of it."""
    haystack = b"\n".join(dict.fromkeys(texts))
    found: set[str] = set()
    for text in (haystack, haystack.replace(b"\0", b"")):
        for needle in (*spellings(planter.first), *spellings(planter.last), *(n for d in planter.numbers for n in spellings(d))):
            at = text.find(needle)
            while at >= 0:
                around = text[max(0, at - 60) : at + 60]
                whole = next((place for core, place in planter.cores.items() if core.encode() in around), "a part")
                found.add(f"{planter.numbers.get(needle.decode('latin-1'), whole)}: {around!r}")
                at = text.find(needle, at + 1) if len(found) < 50 else -1
    return found


PLANTS = [plant_bodies, plant_forms, plant_numbers, plant_heads, plant_echoes, plant_binary]


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_no_planted_secret_is_anywhere(
    plant: Callable[[Recorder, Planter], None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    planter, recorder = Planter(), Recorder(tmp_path / "a.snapshot")
    plant(recorder, planter)
    recorder.finish()
    (path,) = [each for each in tmp_path.iterdir() if each.is_file()]
    assert not leaks(planter, file_texts(path))
    assert not leaks(planter, shown_texts(path, recorder.count))
    assert not leaks(planter, mock_texts(path, recorder.requests[::17], tmp_path / "state"))
    assert not leaks(planter, iter([repr(capfd.readouterr()).encode()]))


def test_the_oracle_sees_what_is_not_hidden(tmp_path: Path) -> None:
    """The same for a field that no rule is for: found in the file, by inspect, and in the report."""
    planter, recorder = Planter(), Recorder(tmp_path / "a.snapshot")
    for encode, coding in ((bytes, ""), (gzip.compress, "gzip"), (brotli.compress, "br"), (zstandard.compress, "zstd")):
        body = encode(j({"colour": planter.plant(coding), "x": "y" * 3000}).encode())
        headers = [("Host", HOST), ("Content-Type", "application/json"), ("Content-Encoding", coding)]
        recorder.add(message("POST /x HTTP/1.1", headers, body, chunks=True), simple_answer())
    recorder.finish()
    path = tmp_path / "a.snapshot"
    for texts in (file_texts(path), shown_texts(path, 4)):
        found = leaks(planter, texts)
        assert {place for place in planter.cores.values() if any(leak.startswith(f"{place}:") for leak in found)} == {
            *planter.cores.values()
        }
