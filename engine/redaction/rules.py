"""The tables of what is secret. To add a rule, add a line; a new shape also needs its hint."""

from __future__ import annotations

import re

SECRET_HEADERS = frozenset(
    (
        b"x-api-key api-key apikey x-auth-token x-access-token x-amz-security-token x-goog-api-key x-vault-token"
        b" private-token x-csrf-token x-xsrf-token plaid-secret ocp-apim-subscription-key x-shopify-access-token"
        b" x-functions-key x-github-token x-gitlab-token x-session-token x-slack-signature stripe-signature"
    ).split()
)
"""Headers whose whole value is secret."""

_NAMES = {
    "password": "password passwd pwd passphrase new_password old_password user_password",
    "token": (
        "secret token access_token refresh_token id_token auth_token session_token security_token public_token"
        " link_token bearer_token client_secret api_secret secret_key secret_access_key private_key api_key"
        " access_key authorization shared_secret signing_secret webhook_secret session_key credential"
        " x_amz_signature x_amz_credential x_amz_security_token client_assertion code_verifier"
    ),
    "card": "cvc cvv cvv2 cvc2 security_code card_number",
}
FIELD_NAMES = {name.replace("_", ""): kind for kind, names in _NAMES.items() for name in names.split()}
"""Fields of JSON and form bodies, parameters of queries, elements of XML: in lower case, without _ - and blanks."""

FIELD_SPELLINGS = frozenset(
    name.replace("_", joint).encode() + quote
    for names in _NAMES.values()
    for name in names.split()
    for joint in ("", "_", "-", " ")
    for quote in (b"", b"\\", b"\\\\\\")
)
"""The same in lower case as they stand between two quotes, also where the JSON is itself written in a JSON string."""

FIELD_ENDINGS = (
    ("password", "password"),
    ("passwd", "password"),
    ("secret", "token"),
    ("secretkey", "token"),
    ("secretaccesskey", "token"),
)
"""Ends of longer names, such as `db_password`, written as in the table above."""
STEMS = (b"passw", b"secret")
"""Lower-case parts, one of which is in every name with such an end."""

_PARAMETERS_ONLY = ("key", "sig", "signature", "code")
PARAMETER_NAMES: dict[str, str] = {**FIELD_NAMES, **dict.fromkeys(_PARAMETERS_ONLY, "token")}
"""Query parameters: of them `key` (Google), `sig` (Azure), `code` (OAuth) are secret only there."""
PARAMETER_SPELLINGS = FIELD_SPELLINGS.union(name.encode() for name in _PARAMETERS_ONLY)

NAME = rb"[A-Za-z0-9_.\- \[\]]{3,64}"
"""How a field's name is written."""

SHAPES: tuple[tuple[str, re.Pattern[bytes]], ...] = tuple(
    (kind, re.compile(rb"(?<![A-Za-z0-9_])(?:" + pattern + rb")"))
    for kind, pattern in (
        ("key", rb"(?:sk|rk)_(?:live|test)_[A-Za-z0-9]{8,}|whsec_[A-Za-z0-9+/=]{16,}"),  # Stripe
        ("key", rb"(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])"),  # AWS access key ids
        ("key", rb"gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}"),  # GitHub
        ("key", rb"xox[abeoprs]-[A-Za-z0-9-]{10,}"),  # Slack
        ("key", rb"glpat-[A-Za-z0-9_-]{16,}"),  # GitLab
        ("key", rb"AIza[A-Za-z0-9_-]{35}"),  # Google
        ("key", rb"pat-[a-z]{2}[0-9]-[0-9a-f-]{36}"),  # HubSpot
        ("key", rb"access-(?:sandbox|development|production)-[0-9a-f-]{36}"),  # Plaid
    )
)
"""Secrets that are known by their looks, wherever they stand in a text."""

SHAPE_HINTS: tuple[tuple[bytes, re.Pattern[bytes]], ...] = (
    (b"_", re.compile(rb"_(?:(?<=k_)(?:live|test)_|(?<=gh[pousr]_)|(?<=whsec_)|(?<=hub_)pat_)")),
    (b"-", re.compile(rb"-(?:(?<=pat-)|(?<=xox[a-z]-)|(?<=access-))")),
    (b"A", re.compile(rb"A(?:KIA|SIA|Iza)")),
    (b"J", re.compile(rb"J(?<=eyJ)")),
)
"""One of these is in every text that has a shape of the table or a JWT.

Each begins with one byte, so that a search runs at the speed of memchr: an alternation of all takes ten times as long.
"""

JWT = re.compile(rb"(?<![A-Za-z0-9_.-])(eyJ[A-Za-z0-9_-]{4,})((?:\.[A-Za-z0-9_-]*){1,3})\.([A-Za-z0-9_-]+)")
"""RFC 7519: header, payload, signature; RFC 7516 has two more parts. The last one is what makes it a credential."""

CARD = re.compile(
    rb"(?<![\w.%-])(?:"
    rb"4[0-9]{12}(?:[0-9]{3}(?:[0-9]{3})?)?|(?:5[1-5]|2[2-7])[0-9]{14}|3[47][0-9]{13}|3(?:0|6|8|9)[0-9]{12,17}"
    rb"|35[0-9]{14,17}|6(?:011|4[4-9]|5)[0-9]{12,13}|62[0-9]{14,17}|(?:50[123]|5893|6304|676[1-3]|6759)[0-9]{12,15}"
    rb"|[2-6][0-9]{3}([ +-])[0-9]{4}\1[0-9]{4}\1[0-9]{4}|3[47][0-9]{2}([ +-])[0-9]{6}\2[0-9]{5}"
    rb")(?![\w-]|\.[0-9])"
)
"""Card numbers by the ranges of the brands (ISO/IEC 7812), so that times, ids and counters are left alone."""

CARD_HINT_MAP = bytes(48 if 48 <= c <= 57 else 45 if c in b" +-" else c for c in range(256))
CARD_HINTS = (b"0" * 13, b"0000-0000-0000-0", b"0000-000000-0000")
"""With every digit made 0 and every separator -, one of these is in every text that has a card number."""

TEXTUAL = re.compile(
    rb"(?i)\s*(?:text/|multipart/|application/(?:[^;]*[+-])?(?:json|xml|x-www-form-urlencoded|javascript|graphql|x-ndjson))"
)
"""Media types whose bodies are text. Other bodies are never touched."""

PARAMETER_HEADERS = frozenset((b"location", b"referer", b"content-location", b"link", b"x-original-url"))
"""Headers that hold URLs."""

SPECIAL_HEADERS = SECRET_HEADERS | PARAMETER_HEADERS | {b"authorization", b"proxy-authorization", b"cookie", b"set-cookie"}
"""Headers that have a rule of their own."""
