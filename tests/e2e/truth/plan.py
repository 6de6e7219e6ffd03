"""What a client program does: the same steps for every client, with sizes that meet the edges of records and chunks."""

from __future__ import annotations

import enum
import gzip
import random
from dataclasses import dataclass

MARKER = "X-Marker"
"""Header that names an exchange in the request and again in its response."""


class Form(enum.StrEnum):
    """How a response says where it ends (RFC 9112, section 6)."""

    LENGTH = "length"
    CHUNKED = "chunked"
    GZIP = "gzip"
    GZIP_CHUNKED = "gzip-chunked"
    EOF = "eof"
    NO_CONTENT = "no-content"
    NOT_MODIFIED = "not-modified"


GZIPPED = (Form.GZIP, Form.GZIP_CHUNKED)
EMPTY = {Form.NO_CONTENT: 204, Form.NOT_MODIFIED: 304}


@dataclass(frozen=True, slots=True)
class Step:
    """One exchange to make. Sizes are bytes, the answer's before it is compressed."""

    marker: str
    method: str
    form: Form
    answer_size: int
    request_size: int = 0
    chunked: bool = False

    @property
    def target(self) -> str:
        """Request target; it tells the server what to answer."""
        return f"/{self.form}/{self.answer_size}/{self.marker}"

    @property
    def status(self) -> int:
        """Status code of the answer."""
        return EMPTY.get(self.form, 200)

    def body(self) -> bytes:
        """The request's body."""
        return material(f"request {self.marker}", self.request_size)


def material(seed: str, size: int) -> bytes:
    """Bytes that do not compress, the same for the same seed."""
    return random.Random(seed).randbytes(size)


def answer_body(form: Form, marker: str, size: int) -> bytes:
    """The response's body without transfer coding."""
    if form in EMPTY:
        return b""
    plain = material(f"answer {marker}", size)
    return gzip.compress(plain, compresslevel=1, mtime=0) if form in GZIPPED else plain


_SHAPES = (
    ("GET", Form.LENGTH, 1_000, 0, False),
    ("POST", Form.LENGTH, 0, 0, False),
    ("POST", Form.CHUNKED, 1, 1, False),
    ("GET", Form.NO_CONTENT, 0, 0, False),
    ("PUT", Form.LENGTH, 16_384, 16_383, False),
    ("POST", Form.CHUNKED, 16_385, 16_384, True),
    ("GET", Form.CHUNKED, 0, 0, False),
    ("HEAD", Form.LENGTH, 5_000, 0, False),
    ("POST", Form.GZIP, 30_000, 16_385, False),
    ("DELETE", Form.LENGTH, 12, 0, False),
    ("POST", Form.GZIP_CHUNKED, 8_191, 8_192, False),
    ("GET", Form.NOT_MODIFIED, 0, 0, False),
    ("POST", Form.LENGTH, 4_096, 65_537, False),
    ("GET", Form.LENGTH, 65_535, 0, False),
    ("POST", Form.LENGTH, 100, 3_000, True),
    ("PATCH", Form.LENGTH, 200, 150, False),
    ("HEAD", Form.CHUNKED, 0, 0, False),
    ("POST", Form.LENGTH, 700, 1_460, False),
    ("GET", Form.CHUNKED, 20_000, 0, False),
)
"""Method, form, answer's size, request's size, whether the request is chunked: what a connection does in turn."""

BIG = 4 * 1024 * 1024
_BIG_EVERY = 16
_EOF_EVERY = 5


def plan(connections: int, exchanges: int, name: str = "m") -> list[list[Step]]:
    """Steps of each connection, in order; `exchanges` in all, spread evenly.

    Some connections have a step of 4 MiB either way, some end with a response that ends with the connection.
    """
    share, rest = divmod(exchanges, connections)
    return [_steps(f"{name}-{number:03}", number, share + (number < rest)) for number in range(connections)]


def _steps(prefix: str, number: int, count: int) -> list[Step]:
    """`count` steps for one connection; each connection begins elsewhere in the shapes."""
    steps = [Step(f"{prefix}-{at:04}", *_shape(number + at)) for at in range(count)]
    if count > 1 and number % _BIG_EVERY == 0:
        steps[count // 2] = Step(f"{prefix}-big", "POST", Form.LENGTH, BIG, BIG)
    if count and number % _EOF_EVERY == 0:
        steps[-1] = Step(f"{prefix}-eof", "GET", Form.EOF, 40_000)
    return steps


def _shape(at: int) -> tuple[str, Form, int, int, bool]:
    method, form, answer, request, chunked = _SHAPES[at % len(_SHAPES)]
    return method, form, answer, request, chunked
