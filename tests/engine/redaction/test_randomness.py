"""What was made at random is told from what people name. The oracles are random generators, and the names of Python and of HTTP."""

from __future__ import annotations

import base64
import random
import string
import sys
import uuid
from collections.abc import Callable
from encodings.aliases import aliases
from http import HTTPStatus

import pytest

from engine.redaction.randomness import is_one_word, looks_random

ALNUM = string.ascii_letters + string.digits
RANDOM: dict[str, tuple[float, Callable[[random.Random], str]]] = {
    "16 hexadecimal digits": (0.99, lambda rnd: rnd.randbytes(8).hex()),
    "32 hexadecimal digits": (1, lambda rnd: rnd.randbytes(16).hex()),
    "UUID": (1, lambda rnd: str(uuid.UUID(bytes=rnd.randbytes(16), version=4))),
    "base64 of 128 bits": (0.96, lambda rnd: base64.urlsafe_b64encode(rnd.randbytes(16)).decode().strip("=")),
    "base64 of 256 bits": (0.98, lambda rnd: base64.urlsafe_b64encode(rnd.randbytes(32)).decode().strip("=")),
    "base32 of 128 bits": (0.98, lambda rnd: base64.b32encode(rnd.randbytes(16)).decode().strip("=")),
    "20 letters and digits": (0.96, lambda rnd: "".join(rnd.choices(ALNUM, k=20))),
    "24 letters of one case and digits": (0.99, lambda rnd: "".join(rnd.choices(string.ascii_lowercase + string.digits, k=24))),
    "8 digits": (0.98, lambda rnd: str(rnd.randrange(10**7, 10**8))),
    "12 digits": (0.98, lambda rnd: str(rnd.randrange(10**11, 10**12))),
}
ORDINARY = """
eu-west-1 us-east-1a en-US-u1 checkout-v2 2024-11-24-rc1 v2.10.3-rc1 octocat-99 ubuntu-22.04-lts-x86_64 c5d.24xlarge hunter2hunter2
unauthenticated too-short-password oauth2-authorization-code apiextensions-v1beta1 s3v4-signature InvalidAuthenticationToken
GetUserByIdV2 OAuth2CodeFlow correct-horse-battery-staple insufficient_permissions_for_this 20261124 20261124101112 2026-11-24
20241124T101112Z 2024-11-24T101112 1732456789 1732456789123 1732456789123456789 10000000 88888888 12121212 192.168.100.200
production-2024-w47 555-123-4567 aaaaaaaaaaaaaaaa
"""


@pytest.mark.parametrize("name", RANDOM)
def test_what_was_made_at_random_is_known_as_such(name: str) -> None:
    share, make = RANDOM[name]
    rnd = random.Random(7)
    assert sum(looks_random(make(rnd).encode()) for _ in range(2000)) >= share * 2000


@pytest.mark.parametrize("secret", ["48151623", "ab12cd34", "a1b2.c3d4.e5f6.a7b8", "tok-5af6c0ffee81", "4111-1111-1111-1111"])
def test_a_short_one_that_is_mixed_is_known_as_such(secret: str) -> None:
    assert looks_random(secret.encode())


@pytest.mark.parametrize("name", ORDINARY.split())
def test_what_means_something_is_not_random(name: str) -> None:
    assert not looks_random(name.encode())


def test_names_of_programs_are_not_random() -> None:
    names = {*sys.stdlib_module_names, *aliases, *(status.name for status in HTTPStatus), *vars(string), *vars(uuid), *vars(base64)}
    assert len(names) > 700
    assert {name for name in names if looks_random(name.encode())} <= {"_b32tab2", "_a85chars2", "_b85chars2", "cspc8codepage437"}


def test_many_letters_are_one_word_only_without_anything_between() -> None:
    assert is_one_word(b"kdkslfkjdlskfjqwpeoi")
    for name in (b"unauthenticated", b"password_must_not_be_blank", b"InvalidAuthenticationToken", b"kdkslfkjdlskfjqwpeo1"):
        assert not is_one_word(name)
