"""The tables of what is secret: names of headers and fields, and forms that are known wherever they stand.

To add a rule, add a line. `HINT` is made of the same tables, so that it cannot miss what a rule would change.
"""

from __future__ import annotations

import re
from base64 import b64encode
from functools import lru_cache

from engine.redaction.pattern import Pattern

TOKEN_AS_TEXT = rb"REDACTED-[a-z]+-[0-9a-f]{15}"
TOKEN_ITSELF = (
    rb"(?:" + TOKEN_AS_TEXT + rb"|52454441-4354-4544-8[0-9A-Fa-f]{3}-[0-9A-Fa-f]{12}|5245444143544544[0-9A-Fa-f]{16,}"
    rb"|UkVEQUNURUQA[A-Za-z0-9]{10,}={0,2})"
)
TOKEN_WHOLE = re.compile(TOKEN_ITSELF)
"""What stands in for a secret: it is none itself, nor the name of one. Its first bytes are REDACTED: as they are, in hexadecimal
digits (those of a UUID, too), and in base64, where a zero follows.
"""
TOKEN = rb"(?:" + TOKEN_ITSELF + rb"|UkVEQUNURUQt[A-Za-z0-9]{26,}={0,2})"
"""And text that begins with one, in base64. What else is in there only decoding it tells."""

# -- names of fields: JSON, forms, queries, XML, multipart, configuration files ------------------------------------------

NAME_LIMIT = 64
"""Bytes of a name that are looked at, from its end."""
NAMES_LIMIT = 4096
"""Names whose kind is remembered."""
NAME_LENGTH = 256
"""Longest name of a header that is remembered: none in use is longer."""

_ENDINGS = {
    "password": (
        "password passwd pwd passphrase passcode password_hash password_confirmation password_confirm password_again"
        " passwords password_digest"
    ),
    "token": (
        "secret secret_key access_key api_key api_keys app_key application_key private_key encryption_key signing_key"
        " master_key shared_key auth_key session_key account_key subscription_key license_key api_secret token token_secret"
        " token_value secret_value secret_string secret_binary secure_string authorization connection_string session_id"
        " sess_id client_assertion code_verifier amz_signature amz_credential goog_signature goog_credential csrf xsrf"
        " credential credentials plaintext bearer jwt secret_id secret_hash client_key tokens secrets device_code assertion"
        " saml_response saml_art mfa_code otp_code totp_code sms_code verification_code recovery_code"
        " recovery_codes backup_code backup_codes security_answer auth_code authorization_code mnemonic seed_phrase recovery_phrase"
    ),
    "card": "cvc cvv cvv2 cvc2 security_code card_number card_no cc_number",
}
"""Ends of names: `password` stands for `DB_PASSWORD` and `newPassword`, `api key` and `api-key` for `api_key`. Digits after it
are not looked at."""
_STEMS = (
    "password passwd pwd passphrase passcode secret token api_key access_key private_key client_key secret_key signing_key"
    " encryption_key credential"
)
"""Secret also before other words: `password_new`, `privateKeyData`, `secretAccessKeyV2`, but not before one of these:"""
_AFTER = """
id ids name names arn arns type types kind policy policies url urls uri uris endpoint endpoints host path file filename location
version versions stage stages count counts limit limits length size used usage total max min budget expiry expires expiration
expired expire exp ttl age lifetime at on date time timestamp created updated modified changed rotated rotation required enabled
disabled valid invalid verified status state method methods algorithm alg format field fields label placeholder hint message
error errors reset strength rule rules attempts supported issuer audience scope scopes index offset position mode provider
metadata description tags ref refs reference source remaining manager store stream class title pattern logprob logprobs
balance price amount supply cost costs rate symbol address decimals"""
_NOT_BEFORE = frozenset(_AFTER.split())
_COUNTED = ("tokens", "secrets")
"""Ends of names that hold secrets where these are texts, and counts where they are numbers: `max_tokens`."""
_WHOLE = {"password": "pass", "token": "pin otp totp auth session", "card": "pan csc"}
"""Short words that are secret only as a word of their own: `pass`, `user_pass`, `dbPass`, but not `bypass`."""
_PARAMETERS = "key sig signature code"
"""Query parameters of URLs that are secret only there: `key` (Google), `sig` (Azure), `code` (OAuth)."""
_PAGE = (
    "next page paging pagination continuation request idempotency idempotent cursor sync start starting marker scroll change "
    "resume skip delta batch"
)
"""Tokens of these words are places in lists, or names of requests, and no secrets: `NextToken`, `ClientRequestToken`."""
_TEXT_ONLY = frozenset(("credential", "credentials", "plaintext", "authorization", "bearer", "jwt", "auth", "session"))
"""Names that are secret where they hold a text; an object of that name says nothing of what is in it."""
_PER = frozenset(("k", "m", "b", "thousand", "million", "billion"))
"""What may stand between `per` and a unit: `cost_per_1k_tokens`."""

_DIGITS = {"password": 3, "card": 3, "token": 6}
_DIGITS_BY_ENDING = {"securitycode": 3, "pass": 5, "pin": 4, "otp": 4, "code": 4, "pan": 12}
"""Digits of the shortest number that is a secret, by its kind, but for names that end so: `"pass": 412` counts tests, `"pin": 17`
is one of a chip, `"token": 50256` a word of a model."""

NAMING = frozenset(
    b"name key field fieldname fieldid param parameter parametername header headername attribute type k id path".split()
)
"""In {"name": "password", "value": "…"} these say what the value is."""
JWK_TYPES = frozenset(b"oct RSA EC OKP AKP oct-HSM RSA-HSM EC-HSM".split())
JWK_PRIVATE = frozenset(b"k d p q dp dq qi oth priv key_hsm".split())
"""In an object whose `kty` is one of these, these are secret (RFC 7518 section 6, RFC 8037, and Azure's of hardware)."""
NAMING_AS_SPELT = (
    {b"kty"} | NAMING | {name.capitalize() for name in NAMING} | {name.upper() for name in NAMING} | {b"fieldName", b"FieldName"}
)
VALUES = frozenset(b"value values val v content data text stringvalue defaultvalue s n b".split())
"""And these hold it."""
HOLDERS = VALUES | frozenset(
    b"#text _text __text #cdata $t $ _ string raw plain current old new previous binaryvalue ns ss bs l m".split()
)
"""In an object of a secret name these hold the secret: `{"password": {"S": "…"}}`."""
PATCHED = frozenset((b"value",))
"""What holds it where the name is a `path` (JSON Patch, SCIM); requests have a path, too, beside their content."""


def values_of(naming: bytes) -> frozenset[bytes]:
    """Which fields beside a naming one hold the value."""
    return PATCHED if naming.lower() == b"path" else VALUES


def _either(names: frozenset[bytes]) -> bytes:
    longest_first: list[bytes] = sorted(names, key=len, reverse=True)
    return b"|".join(longest_first)


NAMING_EITHER, VALUES_EITHER = _either(NAMING), _either(VALUES)


def _plain(table: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", ""): kind for kind, names in table.items() for name in names.split()}


_KINDS_BY_ENDING = tuple(sorted(_plain(_ENDINGS).items(), key=lambda item: -len(item[0])))
_ENDINGS_ALONE = tuple(name for name, _ in _KINDS_BY_ENDING)
_KINDS_BY_WORD = _plain(_WHOLE)
_KINDS_OF_PARAMETERS = dict.fromkeys(_PARAMETERS.split(), "token")
_NO_TOKENS = tuple(f"{word}token" for word in _PAGE.split())
_STEMS_ALONE = tuple(_STEMS.replace("_", "").split())
_VERSION = re.compile(r"[^A-Za-z0-9]?[vV]?[0-9]+$")
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


def kind_of(name: bytes, *, parameter: bool = False, container: bool = False) -> str | None:
    """Say which kind of secret a field of that name holds; of `card[number]` and `user.password` the last part counts.

    `parameter`: of a URL's query. `container`: it holds an object or a list.
    """
    return _kind_of(name[-NAME_LIMIT:], parameter, container)


@lru_cache(NAMES_LIMIT)
def _kind_of(name: bytes, parameter: bool, container: bool) -> str | None:
    if TOKEN_WHOLE.fullmatch(name):
        return None
    last = _VERSION.sub("", re.split(rb"[\[.:;/@]", name.rstrip(b"] \t\r\n"))[-1].decode("latin-1"))
    word = re.sub("[^a-z0-9]", "", last.lower()).rstrip("0123456789")
    if parameter and word in _KINDS_OF_PARAMETERS:
        return _KINDS_OF_PARAMETERS[word]
    words = _words(last)
    if "per" in words[-2:-1] or ("per" in words[-3:-2] and words[-2] in _PER):
        return None  # a unit
    if word.endswith(_ENDINGS_ALONE):
        if word.endswith(_NO_TOKENS) or (container and (word in _TEXT_ONLY or word.endswith(_COUNTED))):
            return None
        return next(kind for ending, kind in _KINDS_BY_ENDING if word.endswith(ending))
    if not words or (container and words[-1] in _TEXT_ONLY):
        return None
    return _KINDS_BY_WORD.get(words[-1]) or (None if container else _kind_before(words))


def _words(name: str) -> list[str]:
    return [word.lower() for word in _WORDS.findall(name)]


def _kind_before(words: list[str]) -> str | None:
    """Which kind it is by a secret name that other words come after."""
    for end in range(len(words) - 1, 0, -1):
        if words[end] in _NOT_BEFORE:
            return None
        start = "".join(words[:end])
        if start.endswith(_STEMS_ALONE):
            return None if start.endswith(_NO_TOKENS) else next(kind for name, kind in _KINDS_BY_ENDING if start.endswith(name))
    return None


@lru_cache(NAMES_LIMIT)
def describes(name: bytes) -> bool:
    """Whether a field of that name says something of what it stands in, as names, times, states and the like do."""
    words = _words(name[-NAME_LIMIT:].decode("latin-1"))
    return bool(words) and words[-1] in _NOT_BEFORE


def is_secret_number(name: bytes, kind: str, number: bytes) -> bool:
    """Whether a JSON number is a secret where its name, or that of what it stands in, is one of a kind."""
    if not number.isdigit() or is_count(name, number):
        return False
    word = re.sub("[^a-z]", "", name[-NAME_LIMIT:].decode("latin-1").lower())
    return len(number) >= next((digits for end, digits in _DIGITS_BY_ENDING.items() if word.endswith(end)), _DIGITS[kind])


def is_count(name: bytes, value: bytes) -> bool:
    """Whether a name of the plural holds a number: `max_tokens` is no secret."""
    return value[:1].isdigit() and value.isdigit() and name[-7:].lower().endswith(tuple(each.encode() for each in _COUNTED))


def is_connection(name: bytes) -> bool:
    """Whether a name says that its value has parts, as in `Endpoint=x;Password=y`."""
    return re.sub(b"[^a-z]", b"", name[-NAME_LIMIT:].lower()).endswith(b"connectionstring")


def is_about_cards(name: bytes) -> bool:
    """Whether a name says that what it holds, or is below it, may be a card: `card[number]`, `CardNumber`, `ccnum`, `pan`."""
    lower = name[-NAME_LIMIT:].lower()
    return b"card" in lower or lower.startswith(b"cc") or lower.endswith(b"pan")


def _spelt(names: str) -> bytes:
    return "|".join(name.replace("_", r"[_\-. ]?") for name in sorted(names.split(), key=len, reverse=True)).encode()


_NAME = rb"(?i:" + _spelt(" ".join([*_ENDINGS.values(), *_WHOLE.values()])) + rb")[0-9]{0,4}"
_LONGER = rb"(?i:" + _spelt(_STEMS) + rb")[A-Za-z0-9_\-]{0,32}"
NAME = Pattern(rb"(" + _LONGER + rb"|" + _NAME + rb")(?:[^A-Za-z0-9_\-]|$)")
"""A name that may be secret, to its end (group 1). Where it begins, and so whether it is one, `kind_of` must tell."""
NAME_AT_END = Pattern(rb"(" + _NAME + rb")(?:[^A-Za-z0-9_\-]|$)")
"""The same of what ends in a secret word: in binary content longer names are words of programs."""

NAME_ANYWHERE = Pattern(rb"(?i:" + _spelt(" ".join([*_ENDINGS.values(), _STEMS])) + rb")")
"""A secret word with anything behind it."""

NAMED = Pattern(
    rb"(?i:" + NAMING_EITHER + rb")(?:\\{0,16}[\"'`])?[ \t]*[:=][ \t]*(?:\\{0,16}[\"'`])?"
    rb"[^\s\"'`\\,;{}<>&]*(?:" + _LONGER + rb"|" + _NAME + rb")"
)  # fmt: skip
"""A field that may say that another one is secret, in any text."""

SQL = Pattern(rb"(?i:\bidentified\s{1,8}(?:with\s{1,8}\S{1,64}\s{1,8})?by|\bpassword)\s{1,8}'([^']+)'")
"""What statements set passwords to."""

PARAMETER = Pattern(rb"(?:[?&#]|&amp;)([^=&#;?\s\"'<>\\]{1,100})=([^?&#;\s\"'<>\\]*)")
"""A parameter of a URL in a text: name and value."""

PHP = Pattern(rb"\"([^\"\\;]{1,64})\";(?:s:([0-9]{1,7}:\")|i:([0-9]{1,18});)")
"""PHP's serialization: a name, and the length of the text that follows it (group 2), or a number (group 3)."""
PICKLE = Pattern(rb"[VS]'?([A-Za-z0-9_.\-]{1,64})'?\np[0-9]{1,9}\n[VS]('[^\n]*'|[^'\n][^\n]*)\n")
"""Python's pickle in protocol 0: name and value."""

QUOTED_RUN = Pattern(rb"([A-Za-z0-9%._~+*()!/:,;@\-]*%(?:25)*3[dD][A-Za-z0-9%._~+*()!/:,;@\-]*)")
"""What may be a query with percent-encoding, in a text."""

USERINFO = Pattern(rb":\\?/\\?/(?:[^\s/?#\"'<>@\\:]*:([^\s/\"'<>\\]+)|([^\s/?#\"'<>@\\:]{20,}))@")
"""RFC 3986 section 3.2.1: the password in a URL (group 1), or a user that is as long as a token (group 2)."""

# -- forms ---------------------------------------------------------------------------------------------------------------

_KEYS = (
    rb"(?:sk|rk)_(?:live|test)_[A-Za-z0-9]{8,}|whsec_[A-Za-z0-9+/=]{16,}",  # Stripe
    rb"(?:AKIA|ASIA)[A-Z0-9]{16}",  # AWS access key ids
    rb"gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}",  # GitHub
    rb"xox[abeoprs]-[A-Za-z0-9\-]{10,}|xapp-[A-Za-z0-9\-]{10,}",  # Slack
    rb"gl(?:pat|rt|cbt|ptt|dt|soat|ft|imt|agent)-[A-Za-z0-9_\-]{16,}",  # GitLab
    rb"AIza[A-Za-z0-9_\-]{35,}|ya29\.[A-Za-z0-9_\-]{20,}|GOCSPX-[A-Za-z0-9_\-]{20,}",  # Google
    rb"pat-[a-z]{2}[0-9]-[0-9a-f\-]{36}",  # HubSpot
    rb"access-(?:sandbox|development|production)-[0-9a-f\-]{36}",  # Plaid
    rb"sk-(?:proj-|ant-|svcacct-)?[A-Za-z0-9_\-]{20,}",  # OpenAI, Anthropic
    rb"SG\.[A-Za-z0-9_\-]{16,}\.[A-Za-z0-9_\-]{16,}",  # SendGrid
    rb"npm_[A-Za-z0-9]{36}|pypi-[A-Za-z0-9_\-]{50,}",  # npm, PyPI
    rb"hvs\.[A-Za-z0-9_\-]{20,}|dop_v1_[0-9a-f]{64}",  # Vault, DigitalOcean
    rb"shp(?:at|ss|ca|pa)_[0-9a-fA-F]{32}|sq0(?:atp|csp)-[A-Za-z0-9_\-]{22,}",  # Shopify, Square
    rb"key-[0-9a-f]{32}|[0-9]{8,10}:AA[A-Za-z0-9_\-]{30,}",  # Mailgun, Telegram
    rb"hf_[A-Za-z0-9]{30,}|gsk_[A-Za-z0-9]{40,}|xai-[A-Za-z0-9]{40,}|r8_[A-Za-z0-9]{36,}",  # Hugging Face, Groq, xAI, Replicate
    rb"EAA[B-Z][A-Za-z0-9]{40,}",  # Facebook
    rb"ATATT3[A-Za-z0-9_=\-]{50,}|lin_api_[A-Za-z0-9]{40}|ntn_[A-Za-z0-9]{40,}",  # Atlassian, Linear, Notion
    rb"glsa_[A-Za-z0-9]{32}_[0-9a-f]{8}|NRAK-[A-Z0-9]{27}|dapi[0-9a-f]{32}",  # Grafana, New Relic, Databricks
    rb"PMAK-[0-9a-f]{24}-[0-9a-f]{34}|dckr_pat_[A-Za-z0-9_\-]{20,}|dp\.pt\.[A-Za-z0-9]{40,}",  # Postman, Docker, Doppler
    rb"[0-9a-f]{32}-us[0-9]{1,2}|sk\.eyJ[A-Za-z0-9_\-]{20,}\.[A-Za-z0-9_\-]{16,}",  # Mailchimp, Mapbox
    rb"AGE-SECRET-KEY-1[A-Z0-9]{58}",  # age
)
_KEY = rb"|".join(_KEYS)
KEY = Pattern(rb"(?:" + _KEY + rb")")
KEYS = Pattern(rb"(?:^|[^A-Za-z0-9_])((?:bot)?(?:" + _KEY + rb"))\b")
"""Keys that are known by their form, wherever they stand (group 1)."""

AWS_SECRET = Pattern(rb"A[KS]IA[A-Z0-9]{16}[\s,:;|\"'=\\]{1,4}([A-Za-z0-9/+]{40})(?:[^A-Za-z0-9/+=]|$)")
"""The secret that stands beside an AWS access key id, as in a list of credentials."""

_HOOK = rb"/services/T[A-Z0-9]+/B[A-Z0-9]+/|/(?:workflows|triggers)/T[A-Z0-9]+/|/webhooks/[0-9]+/|/IncomingWebhook/"
HOOK = Pattern(rb"(?:" + _HOOK + rb")([A-Za-z0-9_\-]{16,}|[A-Z0-9]+/[A-Za-z0-9_\-/]{16,})")
"""The path of a webhook (Slack, Discord, Teams) is a credential."""

BEARER = Pattern(rb"(?i:bearer)(?:\s|\+|%20){1,4}([A-Za-z0-9._~+/\-]{16,}=*)")
"""RFC 6750 credentials in a text."""

JWT = Pattern(rb"(?:^|[^A-Za-z0-9_.\-])(eyJ[A-Za-z0-9_\-]{4,})(?:\.[A-Za-z0-9_\-]*){1,3}\.([A-Za-z0-9_\-]+)")
JWT_WHOLE = re.compile(rb"(eyJ[A-Za-z0-9_-]{4,})(?:\.[A-Za-z0-9_-]*){1,3}\.([A-Za-z0-9_-]+)")
"""RFC 7519: header, payload, signature; RFC 7516 has two more parts. The last one is what makes it a credential."""

_CODED = [
    b64encode(b"-----BEGIN " + kind + b"PRIVATE KEY-----") for kind in (b"", b"RSA ", b"EC ", b"DSA ", b"OPENSSH ", b"ENCRYPTED ")
]
PRIVATE_KEY_CODED = Pattern(rb"((?:" + rb"|".join(each[:28] for each in _CODED) + rb")(?:\\?[A-Za-z0-9+/_\-]){16,}={0,2})")
"""The same in base64, by what no certificate begins with."""

CRYPT = Pattern(
    rb"(?:^|[^A-Za-z0-9$])(\$2[abxy]?\$[0-9]{2}\$(?:\\?[A-Za-z0-9./]){53}"
    rb"|\$(?:[156]|y)\$(?:rounds=[0-9]{1,9}\$)?(?:\\?[A-Za-z0-9./]){1,32}\$(?:(?:\\?[A-Za-z0-9./]){1,64}\$)?(?:\\?[A-Za-z0-9./]){22,86}"
    rb"|\$argon2(?:id|i|d)\$(?:v=[0-9]{1,4}\$)?[mtp=0-9,]{1,64}\$(?:\\?[A-Za-z0-9+/]){8,128}\$(?:\\?[A-Za-z0-9+/]){16,256})"
)
"""Hashes of passwords as crypt(3) writes them."""

_CODED_BEGIN, _CRYPT_BEGIN = rb"LS0tLS1CRUdJTi", rb"\$(?:2[abxy]?|[156y]|argon2(?:id|i|d))\$"

COMMAND = Pattern(
    rb"--(?:[a-z]{1,16}-){0,3}(?:password|passwd|pass|token|secret|key|passphrase)[ \t]{1,4}(?:\\?[\"'])?"
    rb"([^\s\"'\\,;<>(){}$\-][^\s\"'\\,;<>(){}]*)"
    rb"|\bcurl\s(?:[^\n\"']{0,200}\s)?(?:-u|--user)[ \t=]?(?:\\?[\"'])?[^\s:\"'\\]{1,64}:([^\s\"'\\]+)"
    rb"|\b(?:mysql|mariadb)[a-z\-]{0,8}\s(?:[^\n\"']{0,200}\s)?-p([^\s\"'\\]+)"
)
"""Passwords in command lines, behind a blank (group 1; only those with digits, for the next word of a text may be there) or as some
programs take them (groups 2, 3)."""

PRIVATE_KEY = Pattern(rb"-----BEGIN [A-Z0-9 ]{0,32}PRIVATE KEY[A-Z ]{0,16}-----")
"""RFC 7468."""

_GROUPED = b"|".join(
    rb"[2-6][0-9]{3}(?:S[0-9]{4}){3}|3[47][0-9]{2}S[0-9]{6}S[0-9]{5}".replace(b"S", joint) for joint in (rb" ", rb"-")
)
CARD_GROUPED = Pattern(rb"(?:^|[^\w.%\-+])(" + _GROUPED + rb")(?:[^\w\-]|$)")
"""A card number in the groups that are printed on a card."""
CARD_NAMED = Pattern(rb"(?i:card|\bpan\b|\bccnum)[^0-9\n]{0,24}([2-6][0-9]{12,18})\b")
"""A card number in a text that says so. Others are ids, which stay as they are although one in ten is Luhn-valid."""
FORMS = Pattern(
    rb"(?:^|[^A-Za-z0-9_])(?:bot)?(?:" + _KEY + rb")|A[KS]IA[A-Z0-9]{16}|" + _HOOK + rb"|(?i:bearer)(?:\s|\+|%20)|"
    + _CODED_BEGIN + rb"|" + _CRYPT_BEGIN + rb"|"
    + _GROUPED + rb"|(?i:card|pan|ccnum)[^0-9\n]{0,24}[2-6][0-9]{12}"
)  # fmt: skip
"""One of these is in every text with a key or a card number."""
CARD_WHOLE = re.compile(rb"[2-6][0-9]{12,18}|" + _GROUPED)
CARD_AT_LEAST = 13

# -- headers -------------------------------------------------------------------------------------------------------------

PLAIN_HEADER, SECRET_HEADER, COOKIE_HEADER, SET_COOKIE_HEADER, HOST_HEADER = range(5)

_SECRET_HEADER_ENDINGS = tuple(
    b"token secret key apikey signature password passwd authorization authentication credential credentials auth session"
    b" session-id sessionid assertion jwt csrf xsrf keys secrets passwords otp".split()
)
"""Ends of the names of headers whose whole value is secret: `DD-API-KEY`, `CF-Access-Client-Secret`, `X-Hub-Signature`."""
_SECRET_HEADERS = frozenset(
    b"x-honeycomb-team x-hub-signature-256 x-ms-authorization-auxiliary x-forwarded-authorization signature".split()
)
_NO_SECRET_HEADERS = frozenset(
    b"sec-websocket-key sec-websocket-accept idempotency-key x-idempotency-key surrogate-key x-surrogate-key cache-key x-cache-key"
    b" x-ms-continuation-token www-authenticate proxy-authenticate authentication-info proxy-authentication-info"
    b" access-control-request-headers x-amz-server-side-encryption-context x-ms-session-token"
    b" access-control-allow-credentials surrogate-keys cache-keys".split()
)
"""Names that end so and hold no secret."""
_COOKIE_HEADERS = {
    b"cookie": COOKIE_HEADER,
    b"cookie2": COOKIE_HEADER,
    b"set-cookie": SET_COOKIE_HEADER,
    b"set-cookie2": SET_COOKIE_HEADER,
    b"host": HOST_HEADER,
}

SCHEMES = frozenset(
    b"bearer token apikey api-key negotiate ntlm digest hmac dpop aws sharedkey sharedkeylite googlelogin splunk key jwt"
    b" sso-key oauth".split()
)
"""Authentication schemes that stay before their credentials. What begins with another word is replaced whole."""


class _Headers(dict[bytes, int]):
    """Header names as spelt to what their values are."""

    def __missing__(self, name: bytes) -> int:
        lower = name.lower()
        rule = _COOKIE_HEADERS.get(lower, PLAIN_HEADER)
        no_secret = lower in _NO_SECRET_HEADERS or lower.replace(b"-", b"").endswith(tuple(w.encode() for w in _NO_TOKENS))
        plain = _VERSION.sub("", lower.decode("latin-1")).encode("latin-1")
        ends = plain.endswith(_SECRET_HEADER_ENDINGS) or lower in _SECRET_HEADERS
        named = b"limit" not in lower and kind_of(lower)
        if rule == PLAIN_HEADER and not no_secret and plain not in _NO_SECRET_HEADERS and (ends or named):
            rule = SECRET_HEADER
        if len(self) < NAMES_LIMIT and len(name) <= NAME_LENGTH:
            self[name] = rule
        return rule


HEADERS = _Headers()


class _Notes(dict[bytes, bool]):
    """Header names as spelt to whether a message with one must be looked at: its value is secret, or its body is coded."""

    def __missing__(self, name: bytes) -> bool:
        noted = HEADERS[name] not in (PLAIN_HEADER, HOST_HEADER) or name.lower() in (b"content-encoding", b"transfer-encoding")
        if len(self) < NAMES_LIMIT and len(name) <= NAME_LENGTH:
            self[name] = noted
        return noted


NOTES = _Notes()


def is_no_coding(name: bytes, value: bytes) -> bool:
    """Whether it says that a body is in chunks and nothing more: these are off when it is looked at."""
    return name.lower() == b"transfer-encoding" and value.lower() in (b"chunked", b"identity")


# -- hints ---------------------------------------------------------------------------------------------------------------

_LETTER = rb"(?:[46][1-9A-Fa-f]|[57][0-9Aa]|3[0-9]|5[Ff]|2[Dd])"
_PLACE = (
    rb"/secrets/|"
    rb"/(?:keys|certificates)/[^\s?\"]+(?:/backup|/import|crypt|wrapkey)|/(?:keys|certificates)/restore|(?i:/(?:list|regenerate)[a-z]*key)"
    rb"|"
    rb"/v1/(?:secret|kv|cubbyhole)/|/v1/[^\s?\"]+/data/|/v3/configs/config/secret|/namespaces/[^\s?\"]+/secrets"
)
PLACE = Pattern(_PLACE)
"""One of these is in every target of a request that tells what its bodies are."""
_MANAGED = (
    rb"secrets\\?/|keyName|secondaryKey|\blease_id\b|\bCONCEALED\b|\"(?:PASSWORD|OTP)\\?\"|\bcomputed\\?\"|\bkind\\?[\"']?\s*:\s*\\?[\"']?Secret"
    rb"|\bredirect_uri\b|\bservice\\?\"\s*:\s*\\?\"(?:common|object)|(?i:\bexp(?:iry|iration)?[_\-]?(?:month|date|mm)|\bcard_?exp|\bexpiry\b)"
)
MANAGED = Pattern(_MANAGED + rb"|\baccessor\b|\bvariables\b|(?i:cvc|cvv|csc|security_?code)")
"""One of these is in every text in which `engine.redaction.managers` finds something whatever the path."""
_HINTS = (
    rb"(?:" + _LONGER + rb"|" + _NAME + rb")(?:[^A-Za-z0-9_\-]|$)",
    rb"grant_type|(?i:identified)\s|\bkty\b",
    rb"(?:[?&#]|amp;|u0026|%(?:25)*(?:26|3[fF]))(?i:" + _spelt(_PARAMETERS) + rb")(?:=|%(?:25)*3[dD]|\\u003[dD])",
    rb"(?i:\\u00)" + _LETTER + rb"|%" + _LETTER,  # a name may be spelt with escapes of ordinary letters
    rb"&#",
    rb"[:\n]\\?/\\?/[^\s/\"'<>\\]*@|(?i:%3a%2f%2f)[^\s\"'<>\\]*%40",
    rb"(?:^|[\n ])[^\s/:@]*:[^\s/@]+@",
    rb"\b(?:sk|rk)_(?:live|test)_|whsec_|A[KS]IA[A-Z0-9]|gh[pousr]_|github_pat_|xox[a-z]-|xapp-|gl[a-z]{2,5}-|AIza|ya29\.|GOCSPX-",
    rb"pat-[a-z]{2}[0-9]|access-(?:sandbox|development|production)|\bsk-[A-Za-z0-9]|SG\.|npm_|pypi-|hvs\.|dop_v1_|shp[a-z]{2}_",
    rb"sq0[a-z]|key-[0-9a-f]{32}|[0-9]{8,10}:AA|\bhf_|\bgsk_|xai-|\br8_|\bEAA[B-Z]|ATATT3|lin_api_|ntn_|glsa_|NRAK-",
    rb"dapi[0-9a-f]{32}|PMAK-|dckr_|dp\.pt\.|[0-9a-f]{32}-us|AGE-SECRET|" + _HOOK,
    rb"eyJ[A-Za-z0-9]|PRIVATE KEY",
    rb"(?i:bearer)(?:\s|\+|%20|\\u)",
    _GROUPED,
    rb"(?i:card|pan|ccnum)[^0-9\n]{0,24}[2-6][0-9]{12}",
    _CODED_BEGIN + rb"|" + _CRYPT_BEGIN + rb"|(?:\bcurl|\bmysql|\bmariadb)[a-z\-]*\s[^\n]*-[up]|\bcurl\s[^\n]*--user",
    _MANAGED,
    _PLACE,
)
HINT = Pattern(rb"|".join(_HINTS))
"""One pass that tells that there is nothing secret in a text. Most texts have nothing: this is what they cost."""

_CONTROL = rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]"
BINARY = Pattern(_CONTROL + rb"|\A[\x80-\xbf]")
"""Controls that no text has, and bytes that none in UTF-8 begins with: CBOR and MessagePack do."""
BINARY_NAME = Pattern(rb"(?:" + _LONGER + rb"|" + _NAME + rb")[\x80-\xff]")
"""A name before what may be the length of a value: MessagePack needs no controls for it."""
HINT_OR_BINARY = Pattern(rb"|".join((_CONTROL, rb"(?:\A|\n)[\x80-\xbf]", rb"(?i:cbor|content-transfer-encoding)", *_HINTS)))
"""And one that tells it of a body, which may be no text, or have parts that are coded."""
