from __future__ import annotations

import base64
import gzip
import json
import re
import zlib
from dataclasses import replace
from random import Random
from urllib.parse import parse_qsl, quote_plus, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.redaction import Redactor
from engine.redaction.originals import Originals
from engine.redaction.tokens import Tokens, is_luhn_valid, luhn_digit
from engine.rrpair import Message
from tests.engine.redaction.messages import REDACTOR, body_of, header_of, pair

STRIPE = b"sk_live_4eC39HqLyjWDarjtT1zdp7dc"
AWS_KEY = b"AKIAIOSFODNN7EXAMPLE"
CARD = b"4242424242424242"


def b64(text: bytes) -> bytes:
    return base64.urlsafe_b64encode(text).rstrip(b"=")


JWT = b64(b'{"alg":"HS256","typ":"JWT"}') + b"." + b64(b'{"sub":"42","exp":1700000000}') + b"." + b64(b"s" * 32)


# -- headers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [b"X-Api-Key", b"x-amz-security-token", b"PLAID-SECRET", b"Private-Token"])
def test_secret_headers(name: bytes) -> None:
    assert header_of(name, b"s3cret").startswith(b"REDACTED-secret-")


def test_authorization_keeps_its_scheme() -> None:
    assert header_of(b"Authorization", b"Bearer opaque").startswith(b"Bearer REDACTED-secret-")
    assert header_of(b"authorization", b"opaque").startswith(b"REDACTED-secret-")


def test_basic_stays_valid() -> None:
    scheme, _, value = header_of(b"Authorization", b"Basic " + base64.b64encode(STRIPE + b":")).partition(b" ")
    user, _, password = base64.b64decode(value, validate=True).partition(b":")
    assert scheme == b"Basic"
    assert user.startswith(b"REDACTED-key-")
    assert password == b""


def test_sigv4_keeps_scope_and_signed_headers() -> None:
    value = (
        b"AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20260101/us-east-1/dynamodb/aws4_request,"
        b" SignedHeaders=host;x-amz-date, Signature=" + b"ab" * 32
    )
    redacted = header_of(b"Authorization", value)
    assert AWS_KEY not in redacted
    assert b"ab" * 32 not in redacted
    assert b"/20260101/us-east-1/dynamodb/aws4_request, SignedHeaders=host;x-amz-date, Signature=5245444143544544" in redacted


def test_cookies_keep_names_and_attributes() -> None:
    redacted = header_of(b"Cookie", b"a=1; session=hunter2")
    assert [part.split(b"=")[0] for part in redacted.split(b"; ")] == [b"a", b"session"]
    assert b"hunter2" not in redacted
    assert header_of(b"Set-Cookie", b"sid=hunter2; Path=/; HttpOnly").endswith(b"; Path=/; HttpOnly")
    assert header_of(b"Set-Cookie", b"sid=; Max-Age=0") == b"sid=; Max-Age=0"


def test_a_jwt_stays_a_jwt_and_a_token_stands_for_itself() -> None:
    redacted = header_of(b"X-Custom", b"prefix " + JWT)
    head, payload, signature = redacted.split(b" ")[1].split(b".")
    assert head + b"." + payload == JWT.rpartition(b".")[0]
    assert signature.startswith(b"REDACTED-jwt-")
    base64.urlsafe_b64decode(signature)
    assert header_of(b"X-Custom", redacted) == redacted
    assert header_of(b"Authorization", b"Bearer " + JWT).split(b" ")[1] == redacted.split(b" ")[1]


def test_the_query_and_what_follows_from_it() -> None:
    redacted = REDACTOR.pair(pair(target=b"/o?id=7&X-Amz-Signature=abcdef&api_key=k%20k"))
    assert redacted.request.start_line.startswith(b"POST /o?id=7&X-Amz-Signature=REDACTED-")
    assert [name for name, _ in redacted.query] == ["id", "X-Amz-Signature", "api_key"]
    assert redacted.query[0] == ("id", "7")
    assert redacted.redacted == ("token",)
    redacted = REDACTOR.pair(pair(target=b"/files/" + STRIPE))
    assert STRIPE.decode() not in redacted.path + redacted.operation
    assert redacted.operation == "POST " + redacted.path


def test_secrets_in_a_location() -> None:
    assert b"hunter2" not in header_of(b"Location", b"https://a/cb?state=1&access_token=hunter2#x")


# -- bodies ------------------------------------------------------------------------------------------------------------


def test_json_fields_keep_everything_else() -> None:
    text = b'{ "user" : "bob", "Password":"hun\\"ter2" , "n":1.50,"nested":{"client_secret":"abc"},"cvc":123, "ok":null}'
    redacted = body_of(text, b"application/json; charset=utf-8")
    assert redacted.startswith(b'{ "user" : "bob", "Password":"REDACTED-secret-')
    assert b'" , "n":1.50,"nested":{"client_secret":"REDACTED-' in redacted
    assert redacted.endswith(b', "ok":null}')
    value = json.loads(redacted)
    assert value["cvc"] != 123
    assert isinstance(value["cvc"], int)


def test_dynamodb_values_and_arrays() -> None:
    text = b'{"Item":{"id":{"S":"7"},"password":{"S":"hunter2"},"token":["hunter2",{"value":"hunter2"}]}}'
    redacted = json.loads(body_of(text, b"application/x-amz-json-1.0"))
    token = redacted["Item"]["password"]["S"]
    assert token.startswith("REDACTED-")
    assert redacted["Item"]["token"] == [token, {"value": token}]
    assert redacted["Item"]["id"] == {"S": "7"}


def test_json_in_a_json_string() -> None:
    text = json.dumps({"Message": json.dumps({"password": "hunter2", "a": json.dumps({"secret": "hunter3"})})}).encode()
    redacted = body_of(text, b"application/json")
    assert b"hunter" not in redacted
    assert json.loads(json.loads(json.loads(redacted)["Message"])["a"])["secret"].startswith("REDACTED-")


def test_longer_names_that_end_in_one() -> None:
    text = b'{"DB_PASSWORD":"hunter2","stripeWebhookSecret":"hunter3","secretary":"Ann"}'
    redacted = body_of(text, b"application/json")
    assert b"hunter" not in redacted
    assert redacted.endswith(b'"secretary":"Ann"}')


def test_page_tokens_are_left_alone() -> None:
    text = b'{"NextToken":"abc","ClientRequestToken":"def","nextPageToken":"g","token_type":"bearer"}'
    assert body_of(text, b"application/json") == text


def test_forms() -> None:
    text = urlencode({"card[number]": CARD.decode(), "card[cvc]": "314", "name": "A B", "password": "p@ss w"}).encode()
    redacted = dict(parse_qsl(body_of(text, b"application/x-www-form-urlencoded").decode()))
    assert redacted["name"] == "A B"
    assert redacted["password"].startswith("REDACTED-")
    assert redacted["card[cvc]"] != "314"
    assert is_luhn_valid(redacted["card[number]"].encode())
    assert redacted["card[number]"] != CARD.decode()


def test_the_same_secret_is_the_same_token_everywhere() -> None:
    secret = 'p@ss "wörd" 1'
    found = {
        json.loads(body_of(json.dumps({"password": secret}).encode(), b"application/json"))["password"],
        json.loads(body_of(json.dumps({"token": secret}, ensure_ascii=False).encode(), b"application/json"))["token"],
        dict(parse_qsl(body_of(b"secret=" + quote_plus(secret).encode(), b"application/x-www-form-urlencoded").decode()))["secret"],
        header_of(b"X-Api-Key", secret.encode()).decode(),
    }
    assert len(found) == 1
    assert Redactor(b"j" * 32).pair(pair(headers=((b"X-Api-Key", secret.encode()),))).request.headers[0][1].decode() not in found


def test_xml_and_multipart() -> None:
    assert b"abc" not in body_of(b"<a><SecretAccessKey>abc</SecretAccessKey><b>d</b></a>", b"text/xml")
    part = b'--x\r\nContent-Disposition: form-data; name="password"\r\n\r\nhunter2\r\n--x--\r\n'
    redacted = body_of(part, b"multipart/form-data; boundary=x")
    assert b"hunter2" not in redacted
    assert redacted.endswith(b"\r\n--x--\r\n")


def test_card_numbers_are_known_by_their_field_and_ids_stay() -> None:
    text = b'{"card":{"number":4242424242424242},"card_number":"4000 0566 5566 5556","id":"4111111111111111","n":5555555555554444,'
    text += b'"t":1732270000000,"ns":1732270000000000003,"f":0.4242424242424242,"note":"card 4242424242424242 declined"}'
    redacted = body_of(text, b"application/json")
    value = json.loads(redacted)
    number = value["card"]["number"]
    assert is_luhn_valid(str(number).encode())
    assert number != 4242424242424242
    assert is_luhn_valid(value["card_number"].replace(" ", "").encode())
    assert value["card_number"] != "4000 0566 5566 5556"
    assert value["card_number"][4] == " "
    assert value["note"] == f"card {number} declined"
    assert b'"id":"4111111111111111","n":5555555555554444,"t":1732270000000,"ns":1732270000000000003,"f":0.424' in redacted


@pytest.mark.parametrize("coding", [b"gzip", b"deflate"])
def test_compressed_bodies_are_coded_again(coding: bytes) -> None:
    encode = gzip.compress if coding == b"gzip" else zlib.compress
    decode = gzip.decompress if coding == b"gzip" else zlib.decompress
    body = encode(b'{"secret":"hunter2"}' + b" " * 500)
    headers = ((b"Content-Encoding", coding), (b"X-Amz-Crc32", b"%d" % zlib.crc32(body)))
    redacted = REDACTOR.pair(pair(body, b"application/json", headers)).request
    assert b"hunter2" not in decode(redacted.body)
    assert redacted.header(b"content-length") == b"%d" % len(redacted.body)
    assert redacted.header(b"x-amz-crc32") == b"%d" % zlib.crc32(redacted.body)


def test_binary_bodies_without_secrets_are_not_touched() -> None:
    for media in (b"application/octet-stream", b"image/png", b"application/json", b""):
        before = pair(b"\x89PNG\x00\x01\xff\xfe" + bytes(range(256)) + b"pin cvc 4242424242424242 token.py" + CARD, media)
        assert REDACTOR.pair(before) is before


def test_nothing_to_do_gives_the_same_object() -> None:
    before = pair(b'{"a":1}', b"application/json", ((b"User-Agent", b"x"),), response=Message(b"HTTP/1.1 200 OK"))
    assert REDACTOR.pair(before) is before


def test_responses_and_interim_ones() -> None:
    answer = Message(
        b"HTTP/1.1 200 OK",
        ((b"Set-Cookie", b"s=hunter2"), (b"Content-Type", b"application/json")),
        b'{"id_token":"hunter3"}',
    )
    before = replace(pair(response=answer), interim=(Message(b"HTTP/1.1 103 x", ((b"Set-Cookie", b"a=hunter2"),)),))
    redacted = REDACTOR.pair(before)
    assert b"hunter" not in repr(redacted).encode()
    assert redacted.redacted == ("cookie", "token")


# -- properties --------------------------------------------------------------------------------------------------------

_digits = st.text("0123456789", min_size=13, max_size=15).map(lambda d: ("4" + d)[:15].encode())


@given(_digits, st.binary(min_size=1, max_size=8))
def test_card_tokens(digits: bytes, key: bytes) -> None:
    number = digits + luhn_digit(digits)
    token = Tokens(key).card(number, Originals())
    assert token != number or number[2:6] == b"0000"
    assert len(token) == len(number)
    assert is_luhn_valid(token)
    assert token == Tokens(key).card(number, Originals())


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats(allow_nan=False) | st.text('abé"\\{:', max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('abé"\\', max_size=6), inner, max_size=3),
    max_leaves=10,
)


@given(_json, st.text(min_size=6, max_size=20).filter(lambda s: s.strip("*x. ")), st.booleans(), st.sampled_from([None, 2]))
def test_a_json_body_changes_in_the_secret_only(value: object, secret: str, escaped: bool, indent: int | None) -> None:
    secret += "Z7"  # no value has these letters: a secret is replaced in other fields as well
    document = {"a": value, "password": secret, "z": value}
    text = json.dumps(document, ensure_ascii=escaped, indent=indent).encode("utf-8", "surrogatepass")
    redacted = json.loads(body_of(text, b"application/json").decode("utf-8", "surrogatepass"))
    assert redacted["password"].startswith("REDACTED-")
    assert {**redacted, "password": secret} == document


@given(
    st.binary(max_size=200),
    st.sampled_from([b"application/json", b"text/plain", b"application/x-www-form-urlencoded", b"text/xml", b"multipart/x", b""]),
)
def test_nothing_is_raised_on_any_body(body: bytes, media: bytes) -> None:
    REDACTOR.pair(pair(body + b'"password": ' + body, media, ((b"Cookie", body), (b"Authorization", b"Basic " + body))))


@given(st.binary(max_size=60), st.sampled_from([STRIPE, AWS_KEY, b"ghp_" + b"a1" * 18, JWT]), st.binary(max_size=60))
def test_known_shapes_never_stay(before: bytes, secret: bytes, after: bytes) -> None:
    assert secret not in REDACTOR.pair(pair(before + b" " + secret + b" " + after, b"text/plain")).request.body


# -- what stands beside a secret -------------------------------------------------------------------------------------------

BESIDE = """/cb?code=S#_=_
/cb?state=abc&code=S#access_token=S&token_type=bearer
/land?token=S&next=%2Fa#/dash?x=1
/lang?token=S&q=a%20b&r=c+d&e=%7bx%7D&u=~&flag&semi=a;b
/go?next=https%3a%2f%2fh%2f%3fq=+%3B%26token=S%26y=a%23%2fx%2fy&c=%zz
https://h/p?token=S#/x?y=1
https://h/p?pin=N#/x?y=1
https://h/p?a=1&token=S&b=c d#frag=2&z=%zz
see https://h/p?token=S, then call 5 & more = fun
see https://h/p?token=S,other=1
(https://h/p?token=S)
token=S expires=2026-11-24T17:00:00Z path=/x?y=z
pin=N expires=2026-11-24T17:00:00Z path=/x?y=z
password=S; other=1, third=two%20x
password=S,host=h,port=1
password=S;host=h&port=1
key=val;token=S;q=a+b c
user=bob&password=S&next=/a#frag
a=b%20c+d&url=https://h/?token=S#x/%2f%2F&z={}
DefaultEndpointsProtocol=https;AccountName=a;AccountKey=B;EndpointSuffix=core.windows.net
Endpoint=sb://ns.servicebus.windows.net/;SharedAccessKeyName=Root;SharedAccessKey=B;EntityPath=q
AccountKey=B;EndpointSuffix=core.windows.net
Server=tcp:h,1433;Database=d;User ID=u;Password=S;Encrypt=true;
host=db user=app password=S dbname=x sslmode=require"""
SECRETS = {b"S": b"sEcr3tW0rd9xQz7", b"N": b"48151623", b"B": base64.b64encode(b"\xff\xfb" * 20)}


@pytest.mark.parametrize("line", BESIDE.encode().split(b"\n"))
def test_what_stands_beside_a_secret_stays(line: bytes) -> None:
    tokens = Tokens(b"k" * 32)
    before = re.sub(rb"\b[SNB]\b", lambda found: SECRETS[found[0]], line)
    after = re.sub(rb"\b[SNB]\b", lambda found: tokens.value(SECRETS[found[0]], Originals()), line)
    assert json.loads(body_of(json.dumps({"text": before.decode()}).encode(), b"application/json"))["text"].encode() == after
    assert body_of(before, b"text/plain") == after
    assert header_of(b"Location", before) == after
    assert body_of(after, b"text/plain") == after


@pytest.mark.parametrize("value", ["a;b#c", "a,b c", "one two; three", "a&b"])
def test_a_password_of_a_line_is_replaced_to_its_end(value: str) -> None:
    assert re.fullmatch(rb"x: 1\nDB_PASSWORD=REDACTED-[a-z0-9-]+\ny=2\n", body_of(f"x: 1\nDB_PASSWORD={value}\ny=2\n".encode()))


_words = st.sampled_from(["x", "the end", "a,b", "2026-11-24T17:00:00Z", "h/p", "50%", "%2f", "ü", "a+b", "c%20d"])
_joints = st.sampled_from([" ", ", ", "; ", "&", "\n", ";", ","])
_names = st.sampled_from(["password", "api_key", "DB_PASSWORD", "access_token", "x", "path", "other"])
_pieces = st.tuples(_joints, _names, st.just("") | st.just("?"), _words)


@given(_words, st.lists(_pieces, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_nothing_beside_secrets_is_lost(first: str, pieces: list[tuple[str, str, str, str]], random: Random) -> None:
    """In pairs of a name and a value, whatever separates them, only the values of secret names change."""
    before = after = f"{first} "
    for joint, name, mark, word in pieces:
        secret = f"q{random.getrandbits(64):016x}Z7"
        hidden = name not in ("x", "path", "other")
        before += f"{joint}{mark}{name}={secret if hidden else word}"
        after += f"{joint}{mark}{name}={'T' if hidden else word}"
    for media in (b"text/plain", b"application/octet-stream"):
        assert re.sub(rb"REDACTED-secret-[0-9a-f]{15}", b"T", body_of(before.encode(), media)) == after.encode()
