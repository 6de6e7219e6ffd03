"""What an answer hands out as a secret is the same request when a client sends it back, whatever it looks like, wherever it goes.

The oracle is the way of a recording itself: pairs are recorded and written, read again and indexed, and a client that knows nothing
but what the mock answered asks again.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from engine.matching.index import Index, Request
from engine.protocols.http1 import request_line, split_query, split_target
from engine.redaction import Redactor
from engine.rrpair import Message
from engine.snapshot import Snapshot
from tests.engine.making import Exchange, Headers, write_snapshot

JSON: Headers = (("Content-Type", "application/json"),)
FORM: Headers = (("Content-Type", "application/x-www-form-urlencoded"),)
Told = str | int

_letters = st.text("abcdefghijklmnopqrstuvwxyz", min_size=20, max_size=24).filter(lambda text: len(set(text)) > 4)
_mixed = st.from_regex(r"([a-z]{1,2}[0-9]{1,2}){2,3}", fullmatch=True)
_hashes = st.integers().map(lambda given: hashlib.sha256(b"%d" % given).digest())
_bytes = st.tuples(_hashes, st.sampled_from([16, 17, 20, 32])).map(lambda given: given[0][: given[1]])
_WORD = re.compile("(?=.*[0-9])[A-Za-z0-9]{12,}=*")
_numbers = st.integers(10**7, 10**15).filter(lambda number: len(set(str(number))) > 3 and str(number)[0] in "3456789")
"""None is a date or a time."""
SECRETS: dict[str, st.SearchStrategy[Told]] = {
    "number": _numbers,
    "digits": _numbers.map(str),
    "card": st.sampled_from(["4000056655665556", "378282246310005"]).map(str),
    "short": _mixed.filter(lambda text: 8 <= len(text) < 12),
    "letters": _letters,
    "dotted": st.lists(st.from_regex(r"[a-z][0-9][a-z][0-9]", fullmatch=True), min_size=3, max_size=5).map(".".join),
    "dashed": st.from_regex(r"[0-9]{3}[a-f]{5}-[0-9a-f]{4}-[0-9a-f]{4}", fullmatch=True).filter(lambda text: len(set(text)) > 6),
    "uuid": st.uuids(version=4).map(str),
    "uuid in capitals": st.uuids(version=4).map(lambda made: str(made).upper()),
    "hex": st.binary(min_size=16, max_size=32).map(bytes.hex).filter(lambda text: not text.isdigit()),
    "base64 without padding": st.sampled_from(["UqM1ZkS8ZsQF2PbnD7XeJ0aW", "q0Bv7Yk2Rz9LxT4mHc1WnE6uPd3sGa8J"]),
    "base64": _bytes.map(lambda secret: base64.b64encode(secret).decode()).filter(_WORD.fullmatch),
    "text in base64": _letters.map(lambda text: base64.b64encode(f"{text} {text}".encode()).decode()).filter(_WORD.fullmatch),
    "user in base64": _letters.map(lambda text: base64.b64encode(f"{text}:{text}".encode()).decode()).filter(_WORD.fullmatch),
    "long": st.from_regex(r"([A-Z]{1,3}[a-z]{0,2}[0-9]{1,3}){8,10}", fullmatch=True),
}
USES: dict[str, Callable[[Told], Exchange]] = {
    "path": lambda told: Exchange(f"GET /sessions/{told}/items"),
    "end of a path": lambda told: Exchange(f"GET /sessions/{told}?a=1"),
    "query": lambda told: Exchange(f"GET /items?a=1&session_id={told}"),
    "other query": lambda told: Exchange(f"GET /items?a=1&sid={told}&b=2"),
    "url in a query": lambda told: Exchange(f"GET /items?u={quote(f'/s/{told}/x', safe='')}"),
    "form": lambda told: Exchange("POST /items", headers=FORM, body=f"session_id={told}&a=1".encode()),
    "other form": lambda told: Exchange("POST /items", headers=FORM, body=f"a=1&sid={told}".encode()),
    "json as it is": lambda told: Exchange("POST /items", headers=JSON, body=json.dumps({"session_id": told}).encode()),
    "other json as it is": lambda told: Exchange("POST /items", headers=JSON, body=json.dumps({"a": [1, {"sid": told}]}).encode()),
    "json string": lambda told: Exchange("POST /items", headers=JSON, body=json.dumps({"session_id": str(told)}).encode()),
    "other json string": lambda told: Exchange("POST /items", headers=JSON, body=json.dumps({"sid": str(told)}).encode()),
    "link in json": lambda told: Exchange("POST /items", headers=JSON, body=json.dumps({"next": f"/s/{told}/x"}).encode()),
    "header": lambda told: Exchange("GET /items", headers=(("X-Session-Id", str(told)),)),
    "range of another header": lambda told: Exchange("GET /items", headers=(("x-amz-meta-sid", str(told)),)),
    "cookie": lambda told: Exchange("GET /items", headers=(("Cookie", f"sid={told}"),)),
}
NAMES = ("session_id", "access_token")


def ask(index: Index, redactor: Redactor, exchange: Exchange) -> bytes | None:
    """The body of the answer that a mock gives; None for a miss."""
    head, _, body = exchange.request_bytes().partition(b"\r\n\r\n")
    line, *lines = head.split(b"\r\n")
    fields = [each.partition(b": ") for each in lines]
    message, secrets = redactor.request(Message(line, tuple([(name, value) for name, _, value in fields]), body))
    method, target = request_line(message.start_line)
    _, path, query = split_target(method, target)
    found = index.find(Request.of(method, path, split_query(query), message, secrets))
    if found is None or not hasattr(found, "next"):
        return None
    response = index.load(found.next()).response
    assert response
    return response.body


@pytest.mark.timeout(100)
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("kind", SECRETS)
@settings(max_examples=3, deadline=None, phases=(Phase.reuse, Phase.generate))
@given(data=st.data())
def test_what_was_handed_out_matches_when_it_is_sent_back(kind: str, use: str, data: st.DataObject) -> None:
    told = data.draw(SECRETS[kind])
    name = data.draw(st.sampled_from(NAMES))
    login = Exchange("POST /login", json.dumps({name: told, "ok": True}).encode())
    other = Exchange("GET /health", b'{"up":true}')
    again = USES[use](told)
    with tempfile.TemporaryDirectory() as folder:
        path = write_snapshot(Path(folder) / "a.snapshot", login, other, Exchange(again.request, b"2", again.headers, again.body))
        written = path.read_bytes()
        snapshot = Snapshot(path)
        assert not any(pair.missing for pair in snapshot.pairs())
        index = Index(snapshot.at, snapshot.heads)
        for entry in snapshot.entries():
            index.add(entry)
        redactor = snapshot.redactor()
        answer = ask(index, redactor, login)
        assert answer
        handed_out = json.loads(answer)[name]
        assert type(handed_out) is type(told)
        assert handed_out != told
        assert ask(index, redactor, USES[use](handed_out)) == b"2"
        assert not re.search(rb"(?<![0-9A-Za-z])" + re.escape(str(told).encode()) + rb"(?![0-9A-Za-z])", written)
