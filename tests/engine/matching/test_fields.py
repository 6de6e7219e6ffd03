from __future__ import annotations

import gzip
import json
import random
import zlib
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.matching.fields import Canonical, canonical, leaves
from engine.protocols.http1 import split_query
from engine.rrpair import Message

JSON_TYPE = (b"Content-Type", b"application/json")


def form(body: bytes = b"", *headers: tuple[bytes, bytes], target: str = "/p", method: str = "POST") -> Canonical:
    path, _, query = target.partition("?")
    return canonical(method, path, split_query(query), Message(b"", headers, body))


def equal(one: Canonical, other: Canonical) -> bool:
    return one.digest == other.digest


# -- what does not count -----------------------------------------------------------------------------------------------

documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def shuffled(value: Any, order: random.Random) -> Any:
    if isinstance(value, dict):
        items = [(key, shuffled(each, order)) for key, each in value.items()]
        order.shuffle(items)
        return dict(items)
    return [shuffled(each, order) for each in value] if isinstance(value, list) else value


@given(documents, st.randoms(use_true_random=False), st.booleans())
def test_json_key_order_white_space_and_escapes_do_not_count(document: Any, order: random.Random, ascii_only: bool) -> None:
    one = json.dumps(document).encode()
    other = json.dumps(shuffled(document, order), indent=1, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    assert equal(form(one, JSON_TYPE), form(other, JSON_TYPE))


@given(documents, documents)
def test_other_documents_differ(one: Any, other: Any) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert equal(form(json.dumps(one).encode(), JSON_TYPE), form(json.dumps(other).encode(), JSON_TYPE)) == same


@given(st.lists(st.tuples(st.sampled_from("abc"), st.text("xyz%+ é&=", max_size=3)), max_size=6), st.randoms(use_true_random=False))
def test_query_order_counts_among_equal_names_only(parameters: list[tuple[str, str]], order: random.Random) -> None:
    def written(pairs: list[tuple[str, str]], how: Any) -> str:
        return "/p?" + "&".join(f"{name}={how(value)}" for name, value in pairs)

    names = list(dict.fromkeys(name for name, _ in parameters))
    order.shuffle(names)
    regrouped = [pair for name in names for pair in parameters if pair[0] == name]
    one, other = form(target=written(parameters, quote)), form(target=written(regrouped, quote_plus))
    assert equal(one, other)
    if len({value for name, value in parameters if name == "a"}) > 1:
        turned = [p for p in reversed(parameters) if p[0] == "a"] + [p for p in parameters if p[0] != "a"]
        again = [p for p in parameters if p[0] == "a"]
        assert equal(one, form(target=written(turned, quote))) == (again == again[::-1])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (form(b"a=1&b=%20x", (b"content-type", b"application/x-www-form-urlencoded")),
         form(b"b=+x&a=1", (b"Content-Type", b"application/x-www-form-urlencoded; charset=utf-8"))),
        (form(gzip.compress(b'{"a":1}'), JSON_TYPE, (b"Content-Encoding", b"gzip")),
         form(gzip.compress(b'{ "a": 1 }', 1), JSON_TYPE, (b"content-encoding", b"GZIP"))),
        (form(zlib.compress(b"text"), (b"Content-Encoding", b"deflate")), form(b"text")),
        (form(target="/p?X-Amz-Signature=1&X-Amz-Date=2&q=1"), form(target="/p?q=1&X-Amz-Signature=3&X-Amz-Date=4")),
        (form(b"x", (b"User-Agent", b"1"), (b"traceparent", b"00-1")), form(b"x", (b"user-agent", b"2"))),
    ],
    ids=["form", "gzip", "deflate", "presigned", "headers"],
)  # fmt: skip
def test_equal(one: Canonical, other: Canonical) -> None:
    assert equal(one, other)


FORM_TYPE = (b"Content-Type", b"application/x-www-form-urlencoded")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("i[][id]=1&i[][q]=2&i[][id]=3&i[][q]=4", "i[][id]=1&i[][id]=3&i[][q]=2&i[][q]=4", False),
        ("i[][id]=1&i[][q]=2&i[][id]=3", "i[][id]=1&i[][id]=3&i[][q]=2", False),
        ("i%5B%5D%5Bid%5D=1&i[][q]=2&i[][id]=3", "i[][id]=1&i[][q]=2&i%5b%5d[id]=3", True),
        ("b=1&i[][id]=1&i[][q]=2&a=1", "a=1&i[][id]=1&b=1&i[][q]=2", True),
        ("i[]=1&j[]=2&i[]=3", "j[]=2&i[]=1&i[]=3", True),
        ("i[0][id]=1&i[0][q]=2", "i[0][q]=2&i[0][id]=1", True),
    ],
)
def test_the_order_of_the_fields_of_a_list_counts(one: str, other: str, same: bool) -> None:
    """As Rack reads them: a field that is there already begins the next thing."""
    assert equal(form(one.encode(), FORM_TYPE), form(other.encode(), FORM_TYPE)) is same
    assert equal(form(target=f"/p?{one}"), form(target=f"/p?{other}")) is same


def test_the_multipart_boundary_does_not_count() -> None:
    def parts(boundary: str, value: str = "1") -> Canonical:
        body = f'--{boundary}\r\nContent-Disposition: form-data; name="x"\r\n\r\n{value}\r\n--{boundary}--\r\n'
        return form(body.encode(), (b"Content-Type", f'multipart/form-data; boundary="{boundary}"'.encode()))

    assert equal(parts("A"), parts("----WebKit7"))
    assert not equal(parts("A"), parts("A", "2"))
    assert ("part.x", "1") in list(leaves(parts("A")))


def test_percent_encoding_of_a_path_does_not_count_but_where_segments_part() -> None:
    assert equal(form(target="/a%7Eb"), form(target="/a%7eb"))
    assert not equal(form(target="/a%2Fb"), form(target="/a/b"))


# -- what counts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b'{"a":1}', b'{"a":"1"}'),
        (b'{"a":18446744073709551616}', b'{"a":18446744073709551617}'),
        (b'{"a":1}', b'{"a":1.0}'),
        (b'{"a":1}', b'{"a":1,"a":1}'),
        (b'{"a":1,"a":2}', b'{"a":2,"a":1}'),
        (b"[1,2]", b"[2,1]"),
        (b'{"a":null}', b"{}"),
        (b"{}", b"[]"),
        (b'{"a":{}}', b'{"a":[]}'),
        (b'[["a",["1"]]]', b'{"a":1}'),
        (b'"x"', b"x"),
    ],
)
def test_json_that_differs(one: bytes, other: bytes) -> None:
    assert not equal(form(one, JSON_TYPE), form(other, JSON_TYPE))


def test_method_path_media_and_operation_count() -> None:
    base = form(b"{}", JSON_TYPE)
    assert not equal(base, form(b"{}", JSON_TYPE, method="PUT"))
    assert not equal(base, form(b"{}", JSON_TYPE, target="/q"))
    assert not equal(base, form(b"{}", (b"Content-Type", b"application/xml")))
    scan, delete = ((JSON_TYPE, (b"X-Amz-Target", b"DynamoDB_20120810." + name)) for name in (b"Scan", b"DeleteTable"))
    assert not equal(form(b'{"TableName":"T"}', *scan), form(b'{"TableName":"T"}', *delete))


def typed(content_type: bytes, body: bytes = b"{}") -> Canonical:
    return form(body, (b"Content-Type", content_type))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b"application/json; version=1", b"application/json; version=2"),
        (b"application/json; version=1", b"application/json"),
        (b"application/json; version", b"application/json"),
        (b"application/json; charset=utf-16", b"application/json"),
        (b"text/plain; charset=utf-8", b"text/plain; charset=iso-8859-1"),
        (b'application/ld+json; profile="http://a.example/x"', b'application/ld+json; profile="http://a.example/X"'),
        (b'a/b; x="1;y=2"', b"a/b; x=1; y=2"),
        (b'multipart/related; boundary=b; type="text/xml"', b'multipart/related; boundary=b; type="text/html"'),
    ],
)
def test_parameters_of_the_content_type_count(one: bytes, other: bytes) -> None:
    assert not equal(typed(one), typed(other))
    assert leaves_of(one) != leaves_of(other)


def leaves_of(content_type: bytes) -> str:
    return dict(leaves(typed(content_type)))["header.content-type"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b"application/json; charset=utf-8", b"application/json"),
        (b'application/problem+json;Charset="UTF-8" ; v=1', b"application/problem+json; v=1"),
        (b'application/json; b="2"; A=1;', b"Application/JSON;a=1;b=2"),
        (b"text/plain; charset=UTF-8", b'text/plain; charset="utf-8"'),
    ],
)
def test_how_a_content_type_is_written_does_not_count(one: bytes, other: bytes) -> None:
    assert equal(typed(one), typed(other))


# -- robust ------------------------------------------------------------------------------------------------------------


@given(
    st.binary(max_size=200),
    st.sampled_from([b"application/json", b"application/x-www-form-urlencoded", b"multipart/form-data; boundary=-", b"x", b""]),
    st.sampled_from([b"", b"gzip", b"deflate", b"br"]),
    st.text(st.characters(max_codepoint=255), max_size=30),
)
def test_nothing_raises_and_every_field_is_text(body: bytes, media: bytes, coding: bytes, target: str) -> None:
    found = form(body, (b"Content-Type", media), (b"Content-Encoding", coding), target=target)
    assert len(found.digest) == 16
    places = [place for place, _ in leaves(found)]
    assert len(places) == len(set(places))


def test_deep_nesting_is_compared_as_bytes() -> None:
    for depth in (400, 3000, 100_000):
        deep = b"[" * depth + b"]" * depth
        found = form(deep, JSON_TYPE)
        assert equal(found, form(deep, JSON_TYPE))
        assert not equal(found, form(deep + b" ", JSON_TYPE)) or found.kind == "json"
        assert list(leaves(found))


def test_leaves_name_every_field() -> None:
    found = form(
        b'{"Key":{"id":{"S":"x"}},"n":[1,{"a/b":true},{}],"n":null}',
        JSON_TYPE,
        (b"X-Amz-Target", b"DynamoDB_20120810.GetItem"),
        target="/v1/x?b=2&a=1&b=3",
    )
    assert list(leaves(found)) == [
        ("method", "POST"), ("path.1", "v1"), ("path.2", "x"), ("query.a", "1"), ("query.b", "2"), ("query.b#2", "3"),
        ("header.x-amz-target", "DynamoDB_20120810.GetItem"), ("header.content-type", "application/json"),
        ("body/Key/id/S", '"x"'), ("body/n/0", "1"), ("body/n/1/a~1b", "true"), ("body/n/2", "{}"), ("body/n", "null"),
    ]  # fmt: skip


# -- bounds ------------------------------------------------------------------------------------------------------------

GZIP = (b"Content-Encoding", b"gzip")


@pytest.mark.parametrize(
    ("body", "media"),
    [
        (b"[" + b"1," * 400_000 + b"1]", b"application/json"),
        (b"[" + b"{}," * 300_000 + b"1]", b"application/json"),
        (b'{"a":' * 100_000, b"application/json"),
        (b"a=&" * 100_000, b"application/x-www-form-urlencoded"),
        (b'"' + b"x" * 17_000_000 + b'"', b"application/json"),
    ],
    ids=["numbers", "objects", "nested", "form", "long"],
)
def test_a_body_of_too_many_fields_is_compared_as_bytes(body: bytes, media: bytes) -> None:
    """A few hundred bytes of gzip hold millions of fields: each would become an object."""
    packed = gzip.compress(body)
    headers = ((b"Content-Type", media), GZIP)
    found = form(packed, *headers)
    assert (found.kind, found.body) == ("bytes", packed)
    assert equal(found, form(packed, *headers))
    assert form(body, headers[0]).kind == "bytes"


def test_parts_of_a_multipart_body_are_bounded() -> None:
    found = form(b"\r\n--x\r\n\r\n" * 100_000, (b"Content-Type", b"multipart/form-data; boundary=x"))
    assert len(found.body) <= 50_001


def test_names_of_nested_fields_are_bounded() -> None:
    """Each name holds the names around it: without a bound, 800 KB of JSON name 300 MB."""
    name = "n" * 1000
    deep: Any = list(range(50))
    for _ in range(800):
        deep = {name: deep}
    found = form(json.dumps(deep).encode(), JSON_TYPE)
    places = [place for place, _ in leaves(found)]
    assert len(places) > 50
    assert sum(map(len, places)) < 50 * 250
    assert len(set(places)) == len(places)


def test_percent_encoding_of_what_needs_none_does_not_count() -> None:
    assert equal(form(target="/a%7Eb"), form(target="/a~b"))
    assert equal(form(target="/caf%C3%A9"), form(target="/caf\xc3\xa9"))
