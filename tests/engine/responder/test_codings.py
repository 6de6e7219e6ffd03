"""Which coding a client gets: what it takes, as real clients decode it."""

from __future__ import annotations

import gzip
import http.client
import json
import zlib

import brotli
import pytest
import zstandard

from tests.engine.making import Exchange
from tests.engine.responder.conftest import Serve

CONTENT = json.dumps({"items": [{"id": n, "name": f"item {n}"} for n in range(50)]}).encode()
CODED = {"gzip": gzip.compress, "br": brotli.compress, "zstd": zstandard.compress, "deflate": zlib.compress}


def exchange(coding: str, asked: str | None) -> Exchange:
    body = CODED[coding](CONTENT)
    headers = (("Content-Type", "application/json"), ("Content-Encoding", coding), ("Content-MD5", "x"), ("ETag", '"e"'))
    request = (("Accept-Encoding", asked),) if asked is not None else ()
    return Exchange("GET /a", body, headers=request, answer_headers=headers, tls=False, port=80)


def ask(serve: Serve, recorded: Exchange, accept: str | None) -> tuple[dict[str, str], bytes]:
    """What http.client gets: it decodes nothing itself."""
    responder = serve(recorded)
    client = http.client.HTTPConnection(responder.address, responder.port, timeout=20)
    client.putrequest("GET", "/a", skip_host=True, skip_accept_encoding=True)
    client.putheader("Host", "api.example.com")
    if accept is not None:
        client.putheader("Accept-Encoding", accept)
    client.endheaders()
    answer = client.getresponse()
    found = {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    client.close()
    return found


@pytest.mark.parametrize("coding", CODED)
@pytest.mark.parametrize("accept", [None, "", "identity", "compress", "gzip;q=0, br;q=0, zstd;q=0, deflate;q=0, *", "*;q=0"])
def test_a_client_that_does_not_take_the_coding_gets_the_content(serve: Serve, coding: str, accept: str | None) -> None:
    headers, body = ask(serve, exchange(coding, "gzip, deflate, br, zstd"), accept)
    assert body == CONTENT
    assert headers["content-length"] == str(len(CONTENT))
    assert {"content-encoding", "content-md5"}.isdisjoint(headers)
    assert headers["etag"] == '"e"'


@pytest.mark.parametrize("coding", CODED)
@pytest.mark.parametrize("accept", ["gzip, deflate, br, zstd", "GZIP;q=0.1,BR , Zstd;q=1, deflate", "*", "identity;q=0, *;q=0.5"])
def test_a_client_that_takes_the_coding_gets_what_was_recorded(serve: Serve, coding: str, accept: str) -> None:
    recorded = exchange(coding, "gzip, deflate, br, zstd")
    headers, body = ask(serve, recorded, accept)
    assert body == recorded.answer
    assert headers["content-encoding"] == coding


@pytest.mark.parametrize("asked", [None, "identity", "br"])
@pytest.mark.parametrize("accept", [None, "identity", "gzip"])
def test_what_the_server_codes_unasked_stays(serve: Serve, asked: str | None, accept: str | None) -> None:
    """An object that was put into a store as gzip comes so, whatever is asked for."""
    headers, body = ask(serve, exchange("gzip", asked), accept)
    assert (headers["content-encoding"], gzip.decompress(body)) == ("gzip", CONTENT)


def test_both_kinds_of_clients_are_answered_in_one_run(serve: Serve) -> None:
    recorded = exchange("gzip", "gzip")
    responder = serve(recorded)
    for accept, coded in [("gzip", True), ("identity", False), ("gzip", True), ("x-gzip", True), ("identity", False)]:
        client = http.client.HTTPConnection(responder.address, responder.port, timeout=20)
        client.request("GET", "/a", headers={"Host": "api.example.com", "Accept-Encoding": accept})
        assert client.getresponse().read() == (recorded.answer if coded else CONTENT)
        client.close()


def test_a_third_client_is_answered_where_the_others_got_the_same_content(serve: Serve) -> None:
    responder = serve(exchange("gzip", "gzip, deflate"), exchange("br", "br"), Exchange("GET /b", b"other"))
    for accept, content in [("gzip, br, zstd", None), ("identity", CONTENT), ("zstd", CONTENT)]:
        client = http.client.HTTPConnection(responder.address, responder.port, timeout=20)
        client.request("GET", "/a", headers={"Host": "api.example.com", "Accept-Encoding": accept})
        answer = client.getresponse()
        assert answer.status == 200
        assert answer.read() == content or content is None
        client.close()


def test_an_answer_without_a_body_keeps_its_fields(serve: Serve) -> None:
    fields = (("Content-Encoding", "gzip"), ("Content-Length", "7"))
    head = Exchange("HEAD /a", b"", headers=(("Accept-Encoding", "gzip"),), answer_headers=fields, tls=False, port=80)
    responder = serve(head)
    client = http.client.HTTPConnection(responder.address, responder.port, timeout=20)
    client.request("HEAD", "/a", headers={"Host": "api.example.com"})
    answer = client.getresponse()
    assert (answer.getheader("Content-Encoding"), answer.getheader("Content-Length")) == ("gzip", "7")
    client.close()
