"""A secret that was recognised becomes its token wherever else it stands in a pair. The oracle plants them in every coding; here is
what must hold besides: what stays, what an answer may know, and what it costs.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import json
import sys
from types import FrameType
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.redaction import Redactor
from engine.redaction.echoes import SECRETS_LIMIT
from engine.redaction.originals import fits
from engine.rrpair import Fields, Message
from tests.engine.redaction.messages import REDACTOR, all_bytes, header_of, pair

S = b"hunter2-9f8e7d6c"
TOKEN = header_of(b"X-Api-Key", S)


def answer_to(headers: Fields, body: bytes, media: bytes = b"application/json", request: bytes = b"") -> Message:
    fields = ((b"Content-Type", media), (b"Content-Length", b"%d" % len(body)))
    before = pair(request, b"application/json", headers, response=Message(b"HTTP/1.1 200 OK", fields, body))
    redacted = REDACTOR.pair(before)
    assert not redacted.missing
    assert REDACTOR.pair(redacted) == redacted
    assert redacted.response
    assert redacted.response.header(b"content-length") == b"%d" % len(redacted.response.body)
    return redacted.response


@pytest.mark.parametrize(
    ("headers", "request_body", "answer"),
    [
        (((b"Cookie", b"sid=%s" % S),), b"", b'{"cookies":{"sid":"%s"}}'),
        (((b"Authorization", b"Bearer %s" % S),), b"", b'{"msg":"invalid credential %s"}'),
        ((), b'{"password":"%s"}' % S, b'{"detail":[{"loc":["body","password"],"input":"%s"}]}'),
        ((), b'{"password":"%s"}' % S, b"you said (%s)."),
        (((b"X-Api-Key", S),), b"", b'{"%s":1}'),
    ],
)
def test_an_answer_repeats_what_the_request_told(headers: Fields, request_body: bytes, answer: bytes) -> None:
    assert answer_to(headers, answer % S, request=request_body).body == answer % TOKEN


def test_base64_holds_the_token() -> None:
    for coded in (base64.b64encode(b"user:" + S + b"?>"), base64.urlsafe_b64encode(b"ab?>" + S).rstrip(b"=")):
        (text,) = json.loads(answer_to(((b"X-Api-Key", S),), json.dumps([coded.decode()]).encode()).body)
        assert TOKEN in base64.urlsafe_b64decode(text.replace("+", "-").replace("/", "_") + "==")
    basic = base64.b64encode(b"user:" + S)
    redacted = REDACTOR.pair(
        pair(headers=((b"Authorization", b"Basic " + basic),), response=Message(b"HTTP/1.1 200 OK", (), b"it was " + basic))
    )
    assert redacted.response
    assert redacted.response.body.removeprefix(b"it was ") == redacted.request.headers[0][1].removeprefix(b"Basic ")


def strictly_decoded(coded: str) -> bytes:
    """What a client makes of it that takes no base64 but padded one."""
    return binascii.a2b_base64(coded, strict_mode=True)


LONGER = S + b"-3"
LONGER_TOKEN = header_of(b"X-Api-Key", LONGER)
"""It needs other padding than the secret."""
LENGTHS = pytest.mark.parametrize("before", [b"u: ", b"us: ", b"usr: "], ids=["0 modulo 3", "1 modulo 3", "2 modulo 3"])


@LENGTHS
@pytest.mark.parametrize("around", ['["%s"]', '["data:;base64,%s"]', '["{\\"a\\":\\"%s\\"}"]', '["%s\\n"]', '["it was %s."]'])
def test_padded_base64_stays_padded(before: bytes, around: str) -> None:
    coded = base64.b64encode(before + LONGER).decode()
    start, end = json.loads(around)[0].split("%s")
    (text,) = json.loads(answer_to(((b"X-Api-Key", LONGER),), (around % coded).encode()).body)
    assert text.startswith(start)
    assert text.endswith(end)
    assert strictly_decoded(text.removeprefix(start).removesuffix(end)) == before + LONGER_TOKEN


@LENGTHS
@pytest.mark.parametrize("padding", ["%3D", "%3d", "\\u003d"])
def test_padding_is_escaped_as_it_was(before: bytes, padding: str) -> None:
    coded = base64.b64encode(before + LONGER).decode()
    written = answer_to(((b"X-Api-Key", LONGER),), f'["{coded.replace("=", padding)}"]'.encode()).body.decode()
    assert ("=" in written) == ("=" not in coded), "nothing tells how it would be escaped"
    (text,) = json.loads(written)
    assert strictly_decoded(unquote(text)) == before + LONGER_TOKEN


@LENGTHS
@pytest.mark.parametrize("around", ["%s", "eyJhbGciOiJub25lIn0.%s.", "eyJhbGciOiJub25lIn0.%s", "%s.5af6c0"])
@pytest.mark.parametrize("more", [b"", b"~?>"])
def test_unpadded_base64_of_urls_stays_unpadded(before: bytes, around: str, more: bytes) -> None:
    coded = base64.urlsafe_b64encode(before + LONGER + more).rstrip(b"=").decode()
    start, end = around.split("%s")
    if not start and not end and "_" not in coded and len(coded) % 4 == 0:
        return  # it is padded base64 as well
    (text,) = json.loads(answer_to(((b"X-Api-Key", LONGER),), json.dumps([around % coded]).encode()).body)
    assert "=" not in text
    kept = text.removeprefix(start).removesuffix(end)
    assert base64.urlsafe_b64decode(kept + "=" * (-len(kept) % 4)) == before + LONGER_TOKEN + more


@LENGTHS
def test_padded_base64_of_urls_stays_padded(before: bytes) -> None:
    raw = before + b"~~~" + LONGER
    coded = base64.urlsafe_b64encode(raw).decode()
    if not coded.endswith("="):
        return  # as if it had no padding
    (text,) = json.loads(answer_to(((b"X-Api-Key", LONGER),), json.dumps([coded]).encode()).body)
    assert base64.urlsafe_b64decode(text) == raw.replace(LONGER, LONGER_TOKEN)


@LENGTHS
def test_a_client_that_codes_the_token_sends_what_was_recorded(before: bytes) -> None:
    def request(secret: bytes) -> Message:
        body = json.dumps({"password": secret.decode(), "config": base64.b64encode(before + secret).decode()}).encode()
        return Message(b"POST /x HTTP/1.1", ((b"Content-Type", b"application/json"),), body)

    recorded, _ = REDACTOR.request(request(LONGER))
    assert REDACTOR.request(request(LONGER_TOKEN))[0] == recorded


@pytest.mark.parametrize("behind", [b"=5", b"&a=5", b"==="])
def test_what_is_behind_base64_is_not_lost(behind: bytes) -> None:
    """Whose length needs no padding."""
    answer = answer_to((), b"a=" + base64.b64encode(b"us:" + S + b"-/") + behind, b"text/plain", b'{"password":"%s"}' % S)
    assert answer.body.endswith(behind)


@pytest.mark.parametrize(
    ("secret", "answer"),
    [
        (b"short-7", b'{"x":"short-7"}'),
        (b"--------", b"a\n--------\nb"),
        (b"12345678", b'{"x":1234567890,"y":0.12345678,"z":"123456789"}'),
        (b"customer", b'{"customer":1,"customers":"a","x":"my_customer"}'),
        (b"customer", b"<customer>7</customer>"),
    ],
)
def test_what_is_short_or_a_part_of_something_else_stays(secret: bytes, answer: bytes) -> None:
    assert answer_to(((b"X-Api-Key", secret),), answer).body == answer


THINGS = """user_id=10482213 account_id=48151623 device=iPhone15ProMax build=2024w31r4a cart=ab12cd34 cart_id=4815162342108
last_viewed=B08N5WRWNW assessment_id=10482213 order=48151623421084815 visitor_no=a1b2c3d4e5"""
"""Ids of things, which look random: answers have them in fields of any name."""
SESSIONS = """session session_id sessionid sid connect.sid JSESSIONID PHPSESSID ASP.NET_SessionId ASPSESSIONIDQQACTDBB
.AspNetCore.Session .AspNetCore.Cookies .AspNetCore.Identity.Application .ASPXAUTH laravel_session XSRF-TOKEN csrftoken _csrf
_myapp_session rack.session koa.sess koa:sess express:sess beaker.session.id SSESS0a1b SESS0a1b __session __Host-session
__Secure-next-auth.session-token next-auth.csrf-token authjs.session-token sb-access-token access_token id_token jwt auth
auth_token remember_token remember_user_token remember_web_59ba36 remember-me REMEMBERME grafana_session ory_kratos_session
KEYCLOAK_IDENTITY KEYCLOAK_SESSION AUTH_SESSION_ID user_session appSession PLAY_SESSION ring-session ci_session ssoToken CFTOKEN
_identity wordpress_logged_in_0a1b wordpress_sec_0a1b _oauth2_proxy LtpaToken2 SMSESSION MRHSession _gitlab_session
auth._token.local mod_auth_openidc_session"""
"""Cookies by which servers and frameworks know who asks."""


@pytest.mark.parametrize("cookie", THINGS.encode().split())
@pytest.mark.parametrize("by", [b"Cookie", b"Set-Cookie"])
def test_the_id_of_a_thing_stays_elsewhere(cookie: bytes, by: bytes) -> None:
    value = cookie.partition(b"=")[2]
    body = b'{"total_cents":%b,"model":"%b"}' % (value if value.isdigit() else b"1", value)
    _, shown, other = exchanges(by, cookie, body)
    assert shown == other == body


@pytest.mark.parametrize("name", SESSIONS.encode().split())
@pytest.mark.parametrize("value", [b"48151623", b"ab12cd34", S])
def test_what_the_cookie_of_a_session_has_is_known_elsewhere(name: bytes, value: bytes) -> None:
    body = b'{"x":"%b"}' % value
    header, shown, other = exchanges(b"Set-Cookie", name + b"=" + value, body)
    assert value not in header
    assert shown == other == b'{"x":"%b"}' % header.partition(b"=")[2]


@pytest.mark.parametrize("value", [b"5af6c0ff-ee81-4a5b-9c3d-2e1f0a9b8c7d", b"Zk3vT9qLm2xR7bNc", b"5af6c0ffee815af6"])
def test_what_is_long_and_random_is_known_elsewhere_whatever_its_cookie_is_called(value: bytes) -> None:
    header, shown, other = exchanges(b"Set-Cookie", b"cart=" + value, b'{"x":"%b"}' % value)
    assert value not in header
    assert value not in shown + other


def exchanges(by: bytes, cookie: bytes, body: bytes) -> tuple[bytes, bytes, bytes]:
    """What becomes of a cookie, of the body of its answer, and of that of another one."""
    redactor = Redactor(b"j" * 32)
    asked = ((by, cookie),) if by == b"Cookie" else ()
    first = pair(headers=asked, response=Message(b"HTTP/1.1 200 OK", () if asked else ((by, cookie),), body))
    one, two = (redactor.pair(each) for each in (first, pair(response=Message(b"HTTP/1.1 200 OK", (), body))))
    assert one.response
    assert two.response
    return (one.request if asked else one.response).header(by.lower()) or b"", one.response.body, two.response.body


@pytest.mark.parametrize("cookie", [b"lang=English-UK", b"tz=Europe/Berlin", b"day=2026-11-24"])
def test_a_cookie_that_identifies_nobody_is_no_secret_elsewhere(cookie: bytes) -> None:
    body = b'{"x":"%s"}' % cookie.partition(b"=")[2]
    assert answer_to(((b"Cookie", cookie),), body).body == body


def test_the_name_of_a_user_stays() -> None:
    body = b'{"user":"bob-the-builder"}'
    assert answer_to(((b"Authorization", b"Basic " + base64.b64encode(b"bob-the-builder:" + S)),), body).body == body
    assert b"bob-the" not in answer_to(((b"Authorization", b"Basic " + base64.b64encode(b"bob-the-builder:")),), body).body


def test_numbers_stay_numbers() -> None:
    for body in (b'{"pin":9988776655}', b'{"pin":"9988776655"}'):
        answer = json.loads(answer_to((), b'{"x":9988776655,"y":"pin 9988776655, no","z":[9988776655]}', request=body).body)
        assert isinstance(answer["x"], int)
        assert answer["x"] != 9988776655
        assert answer["z"] == [answer["x"]]
        assert "9988776655" not in answer["y"]


def test_a_request_knows_nothing_of_its_answer() -> None:
    asked = pair(b'{"x":"%s"}' % S, b"application/json", ((b"X-Key-Id", S),))
    answered = pair(
        asked.request.body,
        b"application/json",
        ((b"X-Key-Id", S),),
        response=Message(b"HTTP/1.1 200 OK", ((b"Set-Cookie", b"a=" + S),)),
    )
    redacted = REDACTOR.pair(answered)
    assert redacted.request.body == asked.request.body
    assert S not in all_bytes(redacted.response or redacted.request)


def test_a_live_request_becomes_what_was_recorded() -> None:
    recorded = pair(
        b'{"card":{"number":"4242424242424242"},"x":"4242424242424242 %s"}' % S, b"application/json", ((b"X-Api-Key", S),)
    )
    redacted = REDACTOR.pair(recorded)
    live, secrets = REDACTOR.request(recorded.request)
    assert live == redacted.request
    assert secrets.hex() == redacted.signature["secrets"]
    assert S not in all_bytes(live)


def test_short_tokens_in_other_places_are_told_apart() -> None:
    """A card number of a header is no part of what makes requests equal, but it is where it stands in the body as well."""
    first, second = (
        REDACTOR.request(Message(b"POST /x HTTP/1.1", ((b"X-Card-Key", card),), b'{"x":"%b"}' % card))
        for card in (b"4242424242424242", b"4000056655665556")
    )
    assert first[1]
    assert not fits(first[1], second[1])


def test_what_cannot_be_changed_is_not_stored() -> None:
    for body in (b"\x00\x01" + S, gzip.compress(b"\x00\x01" + S)):
        coding = ((b"Content-Encoding", b"gzip"),) if body[:1] == b"\x1f" else ()
        redacted = REDACTOR.pair(pair(headers=((b"X-Api-Key", S),), response=Message(b"HTTP/1.1 200 OK", coding, body)))
        assert redacted.missing
        assert redacted.response
        assert redacted.response.body.endswith(b"bytes not stored: binary content with a secret field or key]")


def calls(message: Message) -> int:
    """How many calls of functions, also of C, one redaction makes."""
    count = 0

    def note(frame: FrameType, event: str, arg: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        Redactor(b"j" * 32).message(message, set())
    finally:
        sys.setprofile(before)
    return count


@pytest.mark.parametrize(
    "repeated", [b"%s ", b"\\u0041 %s", b"%%41 %s", b"aHVudGVyMi05ZjhlN2Q2Yw==%s ", b"hunter2-\\u0039f8e ", b"ab%s"]
)
def test_calls_grow_with_the_text(repeated: bytes) -> None:
    headers = ((b"X-Api-Key", S),)
    unit = repeated.replace(b"%s", S)
    short, double = (Message(b"POST / HTTP/1.1", headers, unit * count) for count in (1000, 2000))
    calls(short)
    assert calls(double) < 2.2 * calls(short) + 2000


@pytest.mark.timeout(100)
def test_many_secrets_in_a_long_text() -> None:
    """What is looked for is bounded: the first secrets of a message, which are those of its head."""
    secrets = [b"secret-%06d-XYZ" % n for n in range(20 * SECRETS_LIMIT)]
    body = b'{"tokens":["' + b'","'.join(secrets) + b'"],"x":"' + b"a \\u0041 " * 200_000 + S + b'"}'
    redacted = REDACTOR.message(Message(b"POST / HTTP/1.1", ((b"X-Api-Key", S),), body), set())
    assert S not in redacted.body
    assert b"-XYZ" not in redacted.body


_secret = st.text(min_size=8, max_size=24).map(lambda text: text + "7q")


@given(_secret, st.sampled_from([json.dumps, lambda text: json.dumps(text, ensure_ascii=False)]))
def test_any_secret_is_found_in_json(secret: str, dumps: object) -> None:
    assert callable(dumps)
    body = dumps({"password": secret, "x": f"({secret})"}).encode("utf-8", "surrogatepass")
    redacted = json.loads(REDACTOR.pair(pair(body, b"application/json")).request.body.decode("utf-8", "surrogatepass"))
    assert redacted["x"] == f"({redacted['password']})"


@given(st.binary(min_size=8, max_size=40), st.binary(max_size=60), st.binary(max_size=60))
def test_redaction_is_idempotent(secret: bytes, before: bytes, after: bytes) -> None:
    value = secret.replace(b"\r", b"").replace(b"\n", b"")
    redacted = REDACTOR.pair(pair(before + secret + after, b"text/plain", ((b"X-Api-Key", value), (b"X-Other", before + value))))
    assert REDACTOR.pair(redacted) == redacted
