"""Where secrets are found: one line a place. What is asserted is that the secret is gone and the rest is there."""

from __future__ import annotations

import base64
import gzip
import json
import quopri
import random
import zlib
from collections.abc import Callable
from dataclasses import replace

import brotli
import pytest
import zstandard

from engine.redaction import rules
from engine.rrpair import Message
from tests.engine.redaction.messages import REDACTOR, all_bytes, body_of, header_of, pair

S = b"hunter2-9f8e7d6c"
JSON = b"application/json"
FORM = b"application/x-www-form-urlencoded"
MULTIPART = b"multipart/form-data; boundary=x"


NAMES = """secret_id privateKeyData client-key-data SECRET_HASH password_new passwordOld passwordValue secretAccessKeyV2 tokens
secrets device_code assertion PASSWORD_2_NEW"""
NAMED = ((JSON, b'{"%s":"%s"}'), (FORM, b"a=1&%s=%s"), (b"text/plain", b"x %s=%s y"), (b"text/yaml", b"a: 1\n%s: %s\n"))


def nested(value: object) -> str:
    return json.dumps(json.dumps(value))[1:-1]


@pytest.mark.parametrize(
    ("media", "body"),
    [
        (JSON, b'{"ExpressionAttributeValues":{":password":{"S":"%s"}}}'),
        (JSON, b'{"ExpressionAttributeValues":{":token":{"S":"%s"}}}'),
        (JSON, b'{"SecretString":"%s"}'),
        (JSON, b'{"SecretString":"{\\"username\\":\\"u\\",\\"pass\\":\\"%s\\"}"}'),
        (JSON, b'{"Parameter":{"Type":"SecureString","Value":"%s"}}'),
        (JSON, b'{"aws_session_token":"%s"}'),
        (JSON, b'{"oauth_token":"%s"}'),
        (JSON, b'{"credentials":"%s"}'),
        (JSON, b'{"session":"%s"}'),
        (JSON, b'{"dbPass":"%s"}'),
        (JSON, b'{"password1":"%s"}'),
        (JSON, b'[{"name":"password","value":"%s"}]'),
        (JSON, b'[{"value":"%s","Key":"DB_PASSWORD"}]'),
        (JSON, b'{"name":"api_key","value":{"stringValue":"%s"}}'),
        (JSON, b'{"query":"mutation{login(password:\\"%s\\"){id}}"}'),
        (JSON, b'{"pass\\u0077ord":"%s"}'),
        (JSON, b'{"a":1,"password":"%s'),
        (JSON, b'{"a":"foo,"access_token":"%s"}'),
        (JSON, b'{"password":"x","password":"%s"}'),
        (JSON, b'{"a":1}\n{"token":"%s"}\n'),
        (JSON, b'{"secret":[[[["%s"]]]]}'),
        (JSON, b'{"m":"{\\"m\\":\\"{\\\\\\"token\\\\\\":[\\\\\\"%s\\\\\\"]}\\"}"}'),
        (JSON, b'{"url":"postgres:\\/\\/u:%s@db\\/x"}'),
        (JSON, b'{"url":"https://b/x?a=1\\u0026X-Amz-Signature=%s"}'),
        (JSON, b'{"form":"grant_type=x&client_secret=%s&b=1"}'),
        (JSON, b"a=1&password=%s"),
        (b"", b"a=1&password=%s"),
        (b"", b'{"password":"%s"}'),
        (b"binary/octet-stream", b'{"password":"%s"}'),
        (b"image/png", b'{"password":"%s"}'),
        (b"text/plain", b'6" pipe {"access_token":"%s"}'),
        (b"text/plain", b"login with password=%s now"),
        (b"text/plain", b"{'password': '%s'}"),
        (b"text/event-stream", b'data: {"token":"%s"}\n\n'),
        (b"application/yaml", b"user: bob\npassword: %s\n"),
        (b"text/yaml", b"db:\n  - password: correct %s\n"),
        (b"text/yaml", b"password: |\n  first\n  %s\nnext: 1\n"),
        (b"text/plain", b"[default]\naws_secret_access_key = %s\n"),
        (b"text/plain", b"export API_KEY='%s'\n"),
        (b"text/xml", b'<login password="%s"/>'),
        (b"text/xml", b"<password><![CDATA[%s]]></password>"),
        (b"text/xml", b"<password><v>%s</v></password>"),
        (b"text/xml", b"<a:Password xmlns:a='b'>%s</a:Password>"),
        (b"text/xml", b'<param name="password">%s</param>'),
        (b"text/xml", b'<add key="ApiKey" value="%s"/>'),
        (b"text/xml", b"<e><Name>password</Name><Value>%s</Value></e>"),
        (b"text/xml", b"<a>{&quot;password&quot;:&quot;%s&quot;}</a>"),
        (b"text/xml", b"<a><![CDATA[<b><token>%s</token></b>]]></a>"),
        (b"text/xml", b"<Url>https://b/x?X-Amz-Date=1&amp;X-Amz-Signature=%s</Url>"),
        (b"text/html", b'<input type="password" name="p" value="%s">'),
        (FORM, b"a=1&pass%%77ord=%s"),
        (FORM, b"RelayState=x&SAMLResponse=%s"),
        (JSON, b'{"mfaCode":"%s","username":"u"}'),
        (JSON, b'{"wallet":{"mnemonic":"%s"},"recovery_codes":[]}'),
        (JSON, b'{"recovery_codes":["a","%s"]}'),
        (FORM, b"Attribute.1.Name=Password&Attribute.1.Value=%s"),
        (FORM, b"payload=%%7B%%22token%%22%%3A%%22%s%%22%%7D"),
        (MULTIPART, b'--x\r\nContent-Disposition: form-data; name="private_key"; filename="id"\r\n\r\n%s\r\n--x--\r\n'),
        (MULTIPART, b"--x\r\nContent-Disposition: form-data; name=password\r\n\r\n%s\r\n--x--\r\n"),
        (
            MULTIPART,
            b'--x\r\nContent-Disposition: form-data; name="m"\r\nContent-Type: application/json\r\n\r\n{"token":"%s"}\r\n--x--',
        ),
        (
            b'multipart/mixed; boundary="a b"',
            b"--a b\r\nContent-Type: multipart/form-data; boundary=x\r\n\r\n"
            b'--x\r\nContent-Disposition: form-data; name="secret"\r\n\r\n%s\r\n--x--\r\n--a b--',
        ),
        (b"text/plain", b"-----BEGIN PRIVATE KEY-----\nMIIE%s\n-----END PRIVATE KEY-----\n"),
        (b"application/x-pem-file", b"-----BEGIN RSA PRIVATE KEY-----\nMIIE%s"),
        (JSON, b'{"pem":"-----BEGIN EC PRIVATE KEY-----\\nMIIE%s\\n-----END EC PRIVATE KEY-----"}'),
        (b"text/plain", b"GET https://u:%s@h/x"),
        (b"application/yaml", b"env:\n- name: DB_PASSWORD\n  value: correct %s\n- name: A\n  value: b\n"),
        (b"text/plain", b"x {name: 'password', type: {a: 1}, value: '%s'}"),
        (b"text/plain", b"x {'value': %s, 'name': 'password'}"),
        (b"text/event-stream", b'data: {"name":"api_key","value":{"stringValue":"%s"}}\n\n'),
        (JSON, b'[{"op":"replace","path":"/a/password","value":"%s"}]'),
        (JSON, b'[{"op":"replace","path":"\\/a\\/password","value":{"v":"%s"}}]'),
        (b"text/csv", b"id,password\n1,%s\n2,x\n"),
        (b"text/tab-separated-values", b"api key\tid\r\n%s\t1"),
        (b"text/xml", b"<plist><dict><key>password</key><string>%s</string></dict></plist>"),
        (b"text/xml", b"<plist><dict><key>secret</key><array><string>%s</string></array></dict></plist>"),
        (b"", b'a:1:{s:8:"password";s:16:"%s";}'),
        (JSON, b'{"session_data":"a:1:{s:8:\\"password\\";s:16:\\"%s\\";}"}'),
        (b"text/plain", b"(dp0\nVpassword\np1\nV%s\np2\ns."),
        (b"text/plain", b"(dp0\nS'password'\np1\nS'%s'\np2\ns."),
        (b"text/plain", b"back to https%%253A%%252F%%252Fh%%252F%%253Fcode%%253D%s"),
        (b"text/plain", b"curl -H 'Authorization: Bearer %s'"),
        *[(media, text % (name, b"%s")) for name in NAMES.encode().split() for media, text in NAMED],
        (JSON, b'{"tokens":["%s"],"secrets":[]}'),
        (JSON, b'{"tokens":[],"secrets":["a","%s"]}'),
        (JSON, b'{"grant_type":"authorization_code","code":"%s"}'),
        (FORM, b"code=%s&grant_type=authorization_code"),
        (JSON, b'{"sql":"ALTER USER u IDENTIFIED BY \'%s\'"}'),
        (b"text/plain", b"CREATE ROLE r LOGIN PASSWORD '%s';"),
        (b"application/graphql", b'mutation{login(password: """%s"""){id}}'),
        (JSON, b'{"query":"mutation{login(password: \\"\\"\\"%s\\"\\"\\"){id}}"}'),
    ],
)
def test_bodies(media: bytes, body: bytes) -> None:
    redacted = body_of(body % S, media)
    assert S not in redacted
    assert b"REDACTED-" in redacted
    assert body_of(redacted, media) == redacted


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'{"user":"bob","password":"%s","n":[1.50, 2]}', b'{"user":"bob","password":"T","n":[1.50, 2]}'),
        (b'{"m":"{\\"token\\":\\"%s\\",\\"u\\":\\"\\\\u00e9\\"}"}', b'{"m":"{\\"token\\":\\"T\\",\\"u\\":\\"\\\\u00e9\\"}"}'),
        (b"<a b='1'><password>%s</password> <c/></a>", b"<a b='1'><password>T</password> <c/></a>"),
        (b"a=1%%202&password=%s&b=%%C3%%A9", b"a=1%202&password=T&b=%C3%A9"),
        (b"a: 1\npassword: %s\nb: 2\n", b"a: 1\npassword: T\nb: 2\n"),
    ],
)
def test_the_rest_of_a_body_stays(before: bytes, after: bytes) -> None:
    token = header_of(b"X-Api-Key", S)
    assert body_of(before % S) == after.replace(b"T", token)


@pytest.mark.parametrize(
    "body",
    [
        b'{"NextToken":"abc","ClientRequestToken":"def","nextPageToken":"g","token_type":"bearer","total_tokens":12}',
        b'{"resumeToken":{"_data":"8263a1"},"skipToken":"abc","$skiptoken":"abc","@odata.deltaToken":"abc","batchToken":"g"}',
        b'{"credentials":{"expires":"2026-01-01","user":"u"},"key":"k","code":"c","bypass":"b","secretary":"Ann"}',
        b'{"TableName":"t","Key":{"id":{"S":"7"}},"password":null,"token":true,"secret":"","pwd":"****"}',
        b'{"max_tokens":100,"tokens_used":5,"usage":{"prompt_tokens":3},"page_token":"p","secret_name":"n","secret_arn":"a",'
        b'"password_policy":"strict","token_type":"bearer","token_endpoint":"https://h/t","secretary":"Ann","tokenizer":"x","tokens":9}',
        b"code=7&max_tokens=100&token_type=mac",
        b"mutation($password: String!){login(password: $password){id}}",
        b"<form><label for='password'>Password</label></form>",
        b"metadata:\n  name: db-password\n  labels:\n    value: x\nkind: Secret\nvalue: 7\n",
        b"- name: DB_PASSWORD\n  valueFrom: x\n- name: A\n  value: b\n",
        b'x {"name":"password","a":{"value":"b"}} {"value":"c"}',
        b'{"method":"POST","path":"/users/password","data":"x","content":{"a":"b"}}',
        b"<ListBucketResult><Key>a/secret.token</Key><LastModified>2026</LastModified></ListBucketResult>",
    ],
)
def test_what_is_no_secret_stays(body: bytes) -> None:
    before = pair(body, b"application/graphql" if body.startswith(b"m") else b"")
    assert REDACTOR.pair(before) is before


@pytest.mark.parametrize(
    ("key", "members"),
    [
        ({"kty": "oct", "kid": "a", "k": S.decode()}, "k"),
        ({"kty": "EC", "crv": "P-256", "x": "eHg", "y": "eXk", "d": S.decode()}, "d"),
        ({"kty": "OKP", "crv": "Ed25519", "d": S.decode(), "x": "eHg"}, "d"),
        ({"n": "bm4", "e": "AQAB", "kty": "RSA", "d": f"{S.decode()}0", "p": f"{S.decode()}1", "dp": f"{S.decode()}2"}, "d p dp"),
        ({"n": "bm4", "e": "AQAB", "kty": "RSA", "q": f"{S.decode()}0", "dq": f"{S.decode()}1", "qi": f"{S.decode()}2"}, "q dq qi"),
        ({"kty": "RSA", "n": "bm4", "oth": [{"r": "cnI", "d": S.decode(), "t": "dHQ"}]}, ""),
        ({"kty": "AKP", "alg": "ML-DSA-44", "pub": "cHVi", "priv": S.decode()}, "priv"),
    ],
)
@pytest.mark.parametrize("around", ['{"keys":[%s]}', '{"jwk":%s,"d":"x"}', "%s"])
def test_private_members_of_a_jwk(key: dict[str, object], members: str, around: str) -> None:
    """RFC 7518 section 6, RFC 8037."""
    text = body_of((around % json.dumps(key)).encode(), JSON)
    assert S not in text
    redacted = json.loads(text)
    made = redacted["keys"][0] if "keys" in redacted else redacted.get("jwk", redacted)
    assert {name for name, value in key.items() if made[name] != value} == set(members.split() or ["oth"])
    assert redacted.get("d", "x") in ("x", made.get("d"))


def test_public_keys_and_other_letters_stay() -> None:
    for text in (b'{"kty":"RSA","n":"bm5ubm4","e":"AQAB","kid":"a"}', b'{"d":"day","k":"key","p":1}', b'{"kty":"other","d":"x1"}'):
        assert body_of(text, JSON) == text


ORDINARY = {
    "kubernetes": {
        "spec": {
            "volumes": [
                {"name": "tls", "secret": {"secretName": "web-tls", "defaultMode": 420, "items": [{"key": "a.crt", "path": "c"}]}},
                {"name": "api", "projected": {"sources": [{"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}}]}},
            ]
        }
    },
    "tgi": {"token": {"id": 22557, "text": " Hello", "logprob": -0.3, "special": False}, "generated_text": None},
    "tgi word": {"token": {"id": 22557, "text": "Understanding", "logprob": -3, "special": False}},
    "logprobs": {
        "choices": [
            {
                "message": {"content": "Understanding is deep understanding."},
                "logprobs": {
                    "content": [
                        {"token": "Understanding", "logprob": -0.1, "bytes": [85, 110], "top_logprobs": []},
                        {"token": " understanding", "logprob": -2e-07, "bytes": [32], "top_logprobs": []},
                        {"token": ".", "logprob": -1, "top_logprobs": [{"token": "9", "logprob": 0.0}]},
                        {"bytes": None, "logprob": -9999.0, "token": "2026", "top_logprobs": None},
                    ]
                },
            }
        ]
    },
    "completions": {"logprobs": {"tokens": [" Hello", "!"], "token_logprobs": [-0.3, None], "text_offset": [0, 6]}},
    "tokenize": {"tokens": ["▁under", "stand", "##ing", "Ġdeep", " deep", "你好", "..."], "count": 7},
    "fill mask": [{"score": 0.9, "token": 101996, "token_str": "understanding", "sequence": "deep understanding"}],
    "analyze": {"tokens": [{"token": "elasticsearch", "start_offset": 0, "end_offset": 13, "type": "word", "position": 0}]},
    "lite llm": {"model_info": {"max_tokens": 4096, "input_cost_per_token": 2.5e-06, "output_cost_per_token": 1}},
    "rates": {"cost_per_1k_tokens": 700000, "costPerMillionTokens": "0.25", "cost_per_token": "0.01", "pagesPerSession": 1234567},
    "test report": {"summary": {"pass": 412, "fail": 3, "total": 415}, "session": 12},
    "gpio": {"pin": 17, "value": 1, "pan": -0.5, "tilt": 12},
    "defi": {
        "token": {
            "address": "0xA0b86991c6218b36c1d19D4a2e9Eb0cE3606eB48", "symbol": "USDC", "name": "USD Coin", "decimals": 6,
            "totalSupply": 26000000000, "logoURI": "https://example.com/usdc.png", "tags": ["stablecoin"], "category": "defi",
        },
        "price": 1.0,
    },
    "schema": {"properties": {"password": {"type": "string", "minLength": 8, "description": "At least 8", "title": "Password"}}},
    "session": {"session": {"user": "bob", "started": 1764000000}, "session_id": 42},
    "base64": {"etag": "DluQQplL8NNagPwdQVgVLA==", "md5": "bd0HKyOSpABzHNkTpwD2fQ==", "a": "/s/bd0HKyOSpABzHNkTpwD2fQ==/x"},
    "base64 in a path": {"b": "/bd0HKyOSpABzHNkTpwD2fQ==?c"},
    "counts": {"secret": {"version": 1234567, "createdTime": "2026-01-01T00:00:00Z"}, "tokens": 123456, "secrets": 7},
}  # fmt: skip
"""What answers hold that no secret is in, under names of secrets."""
STREAMED = ("tgi", "tgi word", "logprobs", "analyze")


@pytest.mark.parametrize("name", ORDINARY)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_ordinary_answers_stay(name: str, ascii_only: bool) -> None:
    text = json.dumps(ORDINARY[name], ensure_ascii=ascii_only)
    compact = json.dumps(ORDINARY[name], ensure_ascii=ascii_only, separators=(",", ":"))
    pretty = json.dumps(ORDINARY[name], ensure_ascii=ascii_only, indent=4)
    in_text = json.dumps({"message": text, "other": json.dumps({"m": compact})})
    for body in (text, compact, pretty, f"{text}\n{text}\n", in_text):
        assert body_of(body.encode(), JSON).decode() == body
    if name in STREAMED:
        for body in (f"data: {text}\n\ndata: {compact}\n\ndata: [DONE]\n\n", f"event: a\r\nid: 1\r\ndata:{compact}\r\n\r\n"):
            assert body_of(body.encode(), b"text/event-stream").decode() == body


HOLDERS = [
    {"token": {"value": "%s"}}, {"token": {"id": 7, "text": "%s"}}, {"password": {"S": "%s"}}, {"secret": {"stringValue": "%s"}},
    {"password": {"#text": "%s", "@type": "x"}}, {"api_key": {"v": ["%s"]}}, {"password": {"L": [{"S": "%s"}]}},
    {"apiToken": {"production": "%s"}}, {"secrets": [{"token": {"current": {"data": "%s"}}}]}, {"passwords": {"alice": "%s"}},
    {"token": [["a", "%s"]]}, {"secret": {"old": "%s", "new": "x"}}, {"accessToken": {"token": "%s", "expires": 1764000000}},
    {"token": "%s", "logprob": -0.1}, {"token": " %s", "start_offset": 0}, {"tokens": ["%s"]}, {"password": {"S": "one two %s"}},
    {"developer_token": "%s"}, {"helperToken": "%s"}, {"per_user_token": "%s"},
]  # fmt: skip


@pytest.mark.parametrize("held", HOLDERS)
@pytest.mark.parametrize("stream", [False, True])
def test_what_holds_a_secret_in_an_object(held: dict[str, object], stream: bool) -> None:
    text = json.dumps(held).encode() % S
    redacted = body_of(b"data: %b\n\n" % text if stream else text, b"text/event-stream" if stream else JSON)
    assert S not in redacted
    assert b"REDACTED-" in redacted


@pytest.mark.parametrize("word", ["sunshine", "correct horse", "hunter2", "x", "Wort"])
@pytest.mark.parametrize(
    "held",
    [
        {"password": {"old": "W", "new": "W"}}, {"password": {"value": "W"}}, {"password": ["W"]}, {"db_password": {"S": "W"}},
        {"secret": {"value": "W"}}, {"api_key": "W"}, {"access_token": "W"}, {"credentials": {"password": "W", "user": "bob"}},
    ],
)  # fmt: skip
def test_words_are_secret_where_their_name_leaves_no_doubt(held: object, word: str) -> None:
    redacted = body_of(json.dumps(held).replace("W", word).encode(), JSON)
    assert f'"{word}"'.encode() not in redacted


NUMBERS = """pin 1234 y; pin 123456789012 y; pin 17 n; pin -1234 n; user_pin 4711 y; cvc 123 y; csc 1234 y; cvv2 12 n;
security_code 123 y; otp 123456 y; otp 0 n; totp 1234 y; sms_code 4711 y; password 123 y; password 12.5 n; passcode 4711
y; dbPass 12345 y; pass 123456 y; pass 1412 n; token 123456 y; token 50256 n; token -123456 n; session_id 48151623 y;
session 12 n; api_key 1234567 y; pan 4000056655665556 y; pan 180 n; access_token 123456.5 n; max_tokens 123456 n;
cost_per_token 123456 n"""
"""Name, number, and whether it is a secret."""


@pytest.mark.parametrize("line", NUMBERS.replace("\n", " ").split("; "))
def test_numbers_under_secret_names(line: str) -> None:
    name, lexeme, secret = line.split()
    number = json.loads(lexeme)
    for before in (
        json.dumps({name: number}),
        json.dumps({name: {"value": number, "N": number}}),
        json.dumps({name: [number]}),
        json.dumps([{"name": name, "value": number}]),
        f"data: {json.dumps({name: number})}\n\n",
    ):
        redacted = body_of(before.encode(), JSON if before[0] in "{[" else b"text/event-stream").decode()
        assert (redacted != before) == (secret == "y"), before
        assert redacted == before or lexeme not in redacted


def test_long_names_are_not_kept() -> None:
    before = len(rules.HEADERS), len(rules.NOTES)
    name = b"x-" + b"a" * 5000 + b"-token"
    assert header_of(name, S).startswith(b"REDACTED-")
    assert (len(rules.HEADERS), len(rules.NOTES)) == before
    kept = rules._kind_of.cache_info().currsize
    for n in range(20):
        assert rules.kind_of(b"%d" % n * 1000 + b"a" * rules.NAME_LIMIT + b"_password") == "password"
    assert rules._kind_of.cache_info().currsize <= kept + 1


@pytest.mark.parametrize("name", ["password", "cvc", "pin", "token", "secret"])
def test_numbers_stay_numbers(name: str) -> None:
    redacted = json.loads(body_of(json.dumps({name: 998877665544, "n": {"m": json.dumps({name: 123456})}}).encode(), JSON))
    assert redacted[name] != 998877665544
    assert redacted[name] < 2**53, "a double holds it exactly"
    inner = json.loads(redacted["n"]["m"])[name]
    assert isinstance(inner, int)
    assert inner != 123456


@pytest.mark.parametrize("charset", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_wide_charsets(charset: str) -> None:
    text = json.dumps({"password": S.decode(), "é": "€"}, ensure_ascii=False)
    redacted = body_of(text.encode(charset), b"application/json").decode(charset)
    assert json.loads(redacted)["password"].startswith("REDACTED-")
    assert json.loads(redacted)["é"] == "€"


@pytest.mark.parametrize("charset", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize(
    "before", ["表", "表" * 1000, "一\u3000Ā" * 1000, "é表", "", "a"], ids=["one", "many", "zeros", "second", "none", "ascii"]
)
@pytest.mark.parametrize("text", ['{"password":"%s"}', "password=%s", "no secret, max_tokens: 7"])
def test_utf_16_whose_order_nothing_tells(charset: str, before: str, text: str) -> None:
    """RFC 2781 section 4.3 has it big-endian then, but .NET writes it in the order of the machine."""
    whole = (before + text.replace("%s", S.decode())).encode(charset)
    redacted = body_of(whole, b"text/plain; charset=utf-16").decode(charset)
    assert redacted.startswith(before)
    assert S.decode() not in redacted
    assert ("REDACTED-" in redacted) == ("%s" in text)


@pytest.mark.parametrize("media", [b"application/json; charset=utf-16", b"text/plain; charset=utf-16le"])
@pytest.mark.parametrize("mark", [b"", b"\xfe\xff", b"\xff\xfe"])
def test_text_that_is_not_in_the_charset_that_it_is_said_to_be_in(media: bytes, mark: bytes) -> None:
    for blank in (b"", b" "):
        assert S not in body_of(mark + b'{"password": "%b"}' % S + blank, media)
        assert S not in body_of(mark + b"password=%b" % S + blank, media)


@pytest.mark.parametrize(
    "key",
    [
        b"sk_live_4eC39HqLyjWDarjtT1zdp7dc",
        b"AKIAIOSFODNN7EXAMPLE",
        b"ghp_" + b"a1" * 18,
        b"xoxb-1234567890-abcdef",
        b"AIza" + b"b" * 35,
        b"sk-proj-abcdefghijklmnopqrstuvwxyz0123456789",
        b"SG.abcdefghijklmnopqrstuv.abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG",
        b"glpat-" + b"x" * 20,
        b"glrt-" + b"x" * 20,
        b"hf_" + b"aB" * 17,
        b"gsk_" + b"aB3" * 17,
        b"xai-" + b"aB3" * 26,
        b"r8_" + b"aB3" * 12 + b"x",
        b"EAAG" + b"aB3" * 40,
        b"ATATT3xFfGF0" + b"a_B-3=" * 20,
        b"lin_api_" + b"aB3d" * 10,
        b"ntn_" + b"aB3" * 15,
        b"glsa_" + b"aB3d" * 8 + b"_0123abcd",
        b"NRAK-" + b"AB3" * 9,
        b"dapi" + b"0a1b" * 8,
        b"PMAK-" + b"0a1b" * 6 + b"-" + b"ab" * 17,
        b"dckr_pat_" + b"aB_-" * 6,
        b"dp.pt." + b"aB3d" * 10,
        b"0a1b" * 8 + b"-us21",
        b"sk.eyJ1IjoiYWJjZGVmZ2hpamtsbW5vcCJ9.abcdefghijklmnopqrst",
        b"AGE-SECRET-KEY-1" + b"AB" * 29,
    ],
)
@pytest.mark.parametrize("text", [b'{"x":"%s"}', b"x %s y", b"a=%s&b=1", b"<a>%s</a>", b'{"x":"a \\"%s\\""}'])
def test_keys_are_known_by_their_form(key: bytes, text: bytes) -> None:
    assert key not in body_of(text % key, b"")
    assert key not in REDACTOR.pair(pair(target=b"/" + key)).request.start_line
    assert key not in header_of(b"X-Other", b"v " + key)


@pytest.mark.parametrize(
    "path",
    [
        b"/services/T0AB/B0CD/%s",
        b"/workflows/T0AB/A0CD/12345/%s",
        b"/triggers/T0AB/12345/%s",
        b"/api/webhooks/123456789012345678/%s",
        b"/api/v10/webhooks/123456789012345678/%s?wait=true",
        b"/webhookb2/2f1c@9d/IncomingWebhook/%s/5b7a-11",
    ],
)
def test_paths_of_webhooks(path: bytes) -> None:
    secret = b"q8Zr4tXw1NbV6mLk"
    assert secret not in REDACTOR.pair(pair(target=path % secret)).request.start_line
    assert secret not in body_of(b'{"hook":"https://hooks.example.com' + path % secret + b'"}', JSON)


def test_paths_beside_webhooks_stay() -> None:
    for path in (b"/webhooks/7/deliveries", b"/services/T1/B2/short", b"/repos/a/b/hooks/1234567890123456789"):
        assert path in REDACTOR.pair(pair(target=path)).request.start_line


def test_an_aws_secret_beside_its_id() -> None:
    secret = b"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
    assert secret not in body_of(b"Access key ID,Secret access key\r\nAKIAIOSFODNN7EXAMPLE," + secret + b"\r\n", b"text/csv")


# -- headers -------------------------------------------------------------------------------------------------------------


SECRET_HEADERS = """
Authorization Proxy-Authorization X-Authorization Authentication X-Auth X-Api-Key Api-Token DD-API-KEY DD-APPLICATION-KEY
CF-Access-Client-Secret anthropic-api-key X-MBX-APIKEY X-Hub-Signature X-Hub-Signature-256 X-Twilio-Signature X-Session-Id
X-Amz-Server-Side-Encryption-Customer-Key X-Honeycomb-Team PLAID-SECRET Circle-Token Grpc-Metadata-Authorization
X-Api-Keys X-Auth-Token-V2 X-Secret1 X-GitHub-OTP X-Password-New
X-Auth-Token X-Amz-Security-Token X-JWT-Assertion X-Sentry-Auth
Cookie2 X-CSRF-Token"""


@pytest.mark.parametrize("name", SECRET_HEADERS.split())
def test_headers_by_their_ends(name: str) -> None:
    redacted = header_of(name.encode(), S)
    assert redacted.startswith(b"REDACTED-")
    assert S not in header_of(name.encode(), b"Bearer " + S)
    assert S not in header_of(name.encode(), b"two words " + S)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"WWW-Authenticate", b'Digest realm="a", nonce="b"'),
        (b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ=="),
        (b"Idempotency-Key", b"5b7a3f0e"),
        (b"X-Request-Id", b"5b7a3f0e"),
        (b"X-Continuation-Token", b"abc"),
        (b"X-RateLimit-Remaining-Tokens", b"149984"),
        (b"Access-Control-Allow-Credentials", b"true"),
        (b"Link", b'<https://a/?page=2>; rel="next"'),
    ],
)
def test_headers_that_stay(name: bytes, value: bytes) -> None:
    assert header_of(name, value) == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"Location", b"https://u:%s@h/"),
        (b"Location", b"https://h/cb?state=1&code=%s#x"),
        (b"Referer", b"https://h/?X-Goog-Signature=%s"),
        (b"X-Other", b"https://h/?sig=%s&x=1"),
        (b"Link", b"<https://h/?access_token=%s>; rel=next"),
        (b"Host", b"u:%s@h"),
        (b"Cookie", b"%s"),
        (b"Cookie", b'a=x"%s'),
        (b"Set-Cookie", b'a="%s"; Path=/'),
    ],
)
def test_secrets_in_headers(name: bytes, value: bytes) -> None:
    redacted = header_of(name, value % S)
    assert S not in redacted
    assert header_of(name, redacted) == redacted


@pytest.mark.parametrize(
    "target",
    [
        b"/x?AWSAccessKeyId=1&Signature=%s&Expires=1",
        b"/x?X-Goog-Signature=%s",
        b"/x?a=1&pass%%77ord=%s",
        b"/x?redirect=https%%3A%%2F%%2Fh%%2F%%3Ftoken%%3D%s",
        b"/x?password=a'%s",
        b"/x?password=a;%s",
        b"/x;jsessionid=%s?a=1",
        b"http://u:%s@h/x",
        b"/services/T00000000/B00000000/%s",
        b"/bot1234567890:AAE-hunter2hunter2%s12/sendMessage",
    ],
)
def test_targets(target: bytes) -> None:
    secret = S.replace(b"-", b"") + b"a" if b"services" in target else S
    redacted = REDACTOR.pair(pair(target=target % secret))
    assert secret not in all_bytes(redacted.request)
    assert secret.decode() not in repr((redacted.path, redacted.query, redacted.operation))


def test_connect_with_a_password() -> None:
    message = REDACTOR.message(Message(b"CONNECT u:%s@h:443 HTTP/1.1" % S, ((b"Host", b"h"),)), set())
    assert S not in message.start_line
    assert message.start_line.endswith(b"@h:443 HTTP/1.1")


def test_trailers() -> None:
    message = REDACTOR.message(Message(b"HTTP/1.1 200 OK", (), b"", ((b"X-Token", S), (b"X-Other", b"?sig=" + S))), set())
    assert S not in all_bytes(message)


# -- codings -------------------------------------------------------------------------------------------------------------


def raw_deflate(text: bytes) -> bytes:
    encoder = zlib.compressobj(wbits=-15)
    return encoder.compress(text) + encoder.flush()


def chunks(text: bytes) -> bytes:
    middle = len(text) // 2
    first, second = text[:middle], text[middle:]
    return b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n" % (len(first), first, len(second), second)


def unchunk(body: bytes) -> bytes:
    parts = []
    while body:
        size, _, body = body.partition(b"\r\n")
        if int(size, 16) == 0:
            break
        parts.append(body[: int(size, 16)])
        body = body[int(size, 16) + 2 :]
    return b"".join(parts)


def same(body: bytes) -> bytes:
    return body


CODINGS: list[tuple[bytes, Callable[[bytes], bytes], Callable[[bytes], bytes]]] = [
    (b"gzip", gzip.compress, gzip.decompress),
    (b"x-gzip", lambda text: gzip.compress(text[:14]) + gzip.compress(text[14:]), gzip.decompress),
    (b"identity, gzip", gzip.compress, gzip.decompress),
    (b"GZIP ,identity", gzip.compress, gzip.decompress),
    (b"deflate", zlib.compress, zlib.decompress),
    (b"deflate", raw_deflate, zlib.decompress),
    (b"zstd", zstandard.compress, zstandard.decompress),
    (b"zstd", lambda text: zstandard.compress(text[:9]) + zstandard.compress(text[9:]), zstandard.decompress),
    (b"br", brotli.compress, brotli.decompress),
    (b"deflate, gzip", lambda text: gzip.compress(zlib.compress(text)), lambda body: zlib.decompress(gzip.decompress(body))),
    (b"aws-chunked", chunks, unchunk),
    (b"gzip, aws-chunked", lambda text: chunks(gzip.compress(text)), lambda body: gzip.decompress(unchunk(body))),
    (b"", gzip.compress, gzip.decompress),
]


@pytest.mark.parametrize(("coding", "encode", "decode"), CODINGS)
def test_codings(coding: bytes, encode: Callable[[bytes], bytes], decode: Callable[[bytes], bytes]) -> None:
    text = b'{"password":"%s","x":"%s"}' % (S, b"q" * 50)
    headers = ((b"Content-Encoding", coding),) if coding else ()
    redacted = body_of(encode(text), JSON, headers)
    assert json.loads(decode(redacted))["password"].startswith("REDACTED-")
    assert body_of(redacted, JSON, headers) == redacted


def test_two_headers_of_codings_are_one_list() -> None:
    headers = ((b"Content-Encoding", b"deflate"), (b"content-encoding", b"gzip"))
    redacted = body_of(gzip.compress(zlib.compress(b'{"password":"%s"}' % S)), JSON, headers)
    assert S not in zlib.decompress(gzip.decompress(redacted))


@pytest.mark.parametrize(("coding", "encode", "decode"), CODINGS[:-1])
def test_transfer_codings(coding: bytes, encode: Callable[[bytes], bytes], decode: Callable[[bytes], bytes]) -> None:
    """RFC 9112 section 7: they are the same codings, and lie on top of those of the content."""
    headers = ((b"transfer-encoding", coding + b", Chunked"),)
    redacted = REDACTOR.pair(pair(encode(b'{"password":"%s"}' % S), JSON, headers))
    assert not redacted.missing
    assert json.loads(decode(redacted.request.body))["password"].startswith("REDACTED-")


def test_a_transfer_coding_lies_on_top_of_a_content_coding() -> None:
    headers = ((b"Transfer-Encoding", b"gzip"), (b"Transfer-Encoding", b"chunked"), (b"Content-Encoding", b"deflate"))
    redacted = REDACTOR.pair(pair(gzip.compress(zlib.compress(b'{"password":"%s"}' % S)), JSON, headers))
    assert json.loads(zlib.decompress(gzip.decompress(redacted.request.body)))["password"].startswith("REDACTED-")


def test_an_unknown_transfer_coding_is_not_stored() -> None:
    assert REDACTOR.pair(pair(b"\x1f\x9d{}", JSON, ((b"Transfer-Encoding", b"compress, chunked"),))).missing


@pytest.mark.parametrize("value", [b"chunked", b"Chunked", b"identity"])
def test_no_transfer_coding_costs_nothing(value: bytes) -> None:
    before = pair(b'{"a":1}', JSON, ((b"Transfer-Encoding", value),))
    assert REDACTOR.pair(before) is before


SMALL = b'{"password":"%s"}' % S
UNNAMED: list[tuple[bytes, str]] = [
    (gzip.compress(SMALL + b" " * (17 << 20), mtime=0), "too long when decoded"),
    (zstandard.compress(SMALL + b" " * (17 << 20)), "too long when decoded"),
    (gzip.compress(SMALL, mtime=0) + b"\ntrailer", "damaged content coding"),
    (gzip.compress(SMALL, mtime=0)[:-3], "damaged content coding"),
    (gzip.compress(SMALL, mtime=0)[:-8] + bytes(8), "damaged content coding"),
    (zstandard.compress(SMALL) + b"trailer", "damaged content coding"),
    (gzip.compress(SMALL.decode().encode("utf-16"), mtime=0) + b"x", "damaged content coding"),
    (gzip.compress(SMALL, mtime=0) * 1100, "too many compressed members"),
]


@pytest.mark.parametrize(("body", "reason"), UNNAMED)
def test_a_text_below_an_unnamed_coding_that_cannot_be_taken_off_is_not_stored(body: bytes, reason: str) -> None:
    redacted = REDACTOR.pair(pair(body, JSON))
    assert redacted.missing == (f"request body: {len(body)} bytes not stored, {reason}",)


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
def test_an_archive_is_stored_whatever_its_length(compress: Callable[[bytes], bytes]) -> None:
    """Archives are not opened, as README says."""
    archive = b"a.txt" + bytes(600) + b"ustar" + random.Random(1).randbytes(17 << 20)
    for body in (compress(archive), compress(archive)[:-9]):
        before = pair(body, b"application/octet-stream")
        assert REDACTOR.pair(before).request.body == body


ENCODED = """password=%s&user=bob
<password>%s</password>
api_key: %s
{"password":"%s"}"""


@pytest.mark.parametrize("content", ENCODED.encode().split(b"\n"))
@pytest.mark.parametrize("coding", ["base64", "unpadded base64", "quoted-printable"])
def test_encoded_parts(content: bytes, coding: str) -> None:
    """Nothing in the clear hints at what is in such a part."""
    coded = base64.encodebytes(content % S) if "base64" in coding else (content % S).replace(b"a", b"=61").replace(b"h", b"=68")
    coded = coded.replace(b"=", b"") if coding == "unpadded base64" else coded
    head = b'--x\r\nContent-Disposition: form-data; name="d"\r\ncontent-transfer-encoding: ' + coding.split()[-1].encode()
    redacted = body_of(head + b"\r\n\r\n" + coded + b"\r\n--x--\r\n", MULTIPART)
    kept = redacted.split(b"\r\n\r\n")[1].split(b"\r\n--x--")[0]
    decoded = base64.b64decode(kept) if "base64" in coding else quopri.decodestring(kept)
    assert decoded.startswith(content.partition(b"%s")[0])
    assert S not in decoded
    assert b"REDACTED-" in decoded
    assert body_of(redacted, MULTIPART) == redacted


def test_a_part_that_is_no_base64_is_not_stored() -> None:
    body = b'--x\r\nContent-Transfer-Encoding: base64\r\n\r\n{"password":"%s"}\r\n--x--\r\n' % S
    assert REDACTOR.pair(pair(body, MULTIPART)).missing[0].endswith("damaged content coding")


@pytest.mark.parametrize(
    ("coding", "body", "reason"),
    [
        (b"compress", b"\x1f\x9d{}", "unknown content coding"),
        (b"gzip", b"plain", "damaged content coding"),
        (b"gzip", gzip.compress(b'{"password":"%s"}' % S, mtime=0)[:-12], "damaged content coding"),
        (b"gzip", gzip.compress(b"{}", mtime=0) + b"rest", "damaged content coding"),
        (b"gzip", gzip.compress(b"", mtime=0) * 2000, "too many compressed members"),
        (b"gzip", gzip.compress(b"1," * (9 << 20), mtime=0), "too long when decoded"),
        (b"deflate", zlib.compress(bytes(17 << 20)), "too long when decoded"),
        (b"zstd", zstandard.compress(b"{}")[:-1], "damaged content coding"),
        (b"zstd", zstandard.compress(bytes(17 << 20)), "too long when decoded"),
        (b"br", brotli.compress(bytes(17 << 20)), "too long when decoded"),
        (b"br", brotli.compress(b"{}" * 50)[:-2], "damaged content coding"),
        (b"aws-chunked", b"5\r\nabc\r\n", "damaged content coding"),
        (b", ".join([b"gzip"] * 5), b"x", "too many content codings"),
    ],
)
@pytest.mark.parametrize("media", [JSON, b"image/png", b""])
def test_what_cannot_be_decoded_is_not_stored(coding: bytes, body: bytes, reason: str, media: bytes) -> None:
    redacted = REDACTOR.pair(pair(body, media, ((b"Content-Encoding", coding),)))
    assert redacted.request.body == f"[{len(body)} bytes not stored: {reason}]".encode()
    assert redacted.missing == (f"request body: {len(body)} bytes not stored, {reason}",)
    assert not redacted.complete
    assert REDACTOR.pair(redacted) == redacted


@pytest.mark.parametrize(
    "body",
    [
        b'\x00{"secret":"hunter2"}',
        b"\x82\xa4user\xa3bob\xa8password\xa7hunter2",  # MessagePack
        b"\xa1hpasswordghunter2\x00",  # CBOR
        b"\n\x08password\x12\x09\x1a\x07hunter2",  # protobuf
        b"\x00\x01AKIAIOSFODNN7EXAMPLE\x02",
        b"\x00\x01-----BEGIN PRIVATE KEY-----\nMII",
        b"\x00\xffamqp://guest:s3cret-word@rabbit/\xff",
        b"\x00\x01\x02" + "password=x".encode("utf-16-le"),
    ],
)
def test_binary_content_with_a_secret_is_not_stored(body: bytes) -> None:
    redacted = REDACTOR.pair(pair(body, b"application/octet-stream"))
    assert redacted.missing == (f"request body: {len(body)} bytes not stored, binary content with a secret field or key",)
    assert body not in redacted.request.body


def test_no_body_passes_for_the_note_of_one_that_was_not_stored() -> None:
    key = b"AKIAIOSFODNN7EXAMPLE"
    assert key not in body_of(b"[1 bytes not stored: " + key + b"]")


def test_random_bytes_are_stored() -> None:
    """What a compressor or a cipher gives: `://` and `@` in it say nothing. In these there was a URL's password."""
    body = random.Random("answer m-2290-eof").randbytes(40_000)
    assert b"://" in body
    assert body_of(body, b"application/octet-stream") == body


def test_cbor_is_binary() -> None:
    assert REDACTOR.pair(pair(b"\xa1hpasswordghunter2", b"application/cbor")).missing
    assert not REDACTOR.pair(pair(b"\xa1duserchbob", b"application/cbor")).missing


def test_too_many_fields_are_not_stored() -> None:
    redacted = REDACTOR.pair(pair(b'{"password":"x","a":[' + b"1," * 200_000 + b"1]}", JSON))
    assert redacted.missing[0].endswith("too many fields")
    plain = pair(b"[" + b"1," * 2_000_000 + b"1]", JSON)
    assert REDACTOR.pair(plain) is plain


def test_texts_nested_too_deeply_are_not_stored() -> None:
    value = b"a=1&password=x"
    for _ in range(20):
        value = b"u=" + value.replace(b"%", b"%25").replace(b"&", b"%26").replace(b"=", b"%3D")
    assert REDACTOR.pair(pair(value, FORM)).missing[0].endswith("texts nested too deeply")
    redacted = REDACTOR.pair(pair(target=b"/x?" + value))
    assert redacted.missing == ("request headers: not stored, texts nested too deeply",)
    assert redacted.path == "/REDACTED"
    assert b"password" not in redacted.request.start_line


def test_a_live_request_that_cannot_be_searched_equals_none_without_a_body() -> None:
    headers = ((b"Content-Encoding", b"compress"),)
    assert REDACTOR.message(Message(b"POST / HTTP/1.1", headers, b"\x1f\x9d"), set()).body


def test_basic_in_a_field() -> None:
    value = b"Basic " + base64.b64encode(b"u:" + S)
    redacted = json.loads(body_of(json.dumps({"headers": {"Authorization": value.decode()}}).encode(), JSON))
    assert redacted["headers"]["Authorization"].encode() == header_of(b"Authorization", value)


def test_what_php_serializes_keeps_its_lengths() -> None:
    redacted = body_of(b'a:2:{s:8:"password";s:16:"%s";s:3:"pin";i:12345;}' % S)
    length, text = redacted.split(b";s:")[1].split(b":", 1)
    assert text.startswith(b'"REDACTED-')
    assert int(length) == len(text.strip(b'"'))
    assert b"i:12345;" not in redacted


def test_csv_changes_in_the_column_only() -> None:
    before = b'a;password;"b ""c"";"\r\n1;"x ""y"" z";2\r\n"3";;4\r\n'
    after = body_of(before, b"text/csv")
    assert after.startswith(b'a;password;"b ""c"";"\r\n1;"REDACTED-secret-')
    assert after.endswith(b'";2\r\n"3";;4\r\n')


def test_the_password_of_a_tunnel_is_not_in_its_operation() -> None:
    line = b"CONNECT u:%s@h:443 HTTP/1.1" % S
    before = pair()
    before = replace(before, path="", operation=f"CONNECT u:{S.decode()}@h:443", request=replace(before.request, start_line=line))
    redacted = REDACTOR.pair(before)
    assert S.decode() not in redacted.operation
    assert redacted.operation.endswith("@h:443")
