"""No complete pair is a wrong one, whatever was seen of a connection; and what can be whole is whole.

`make test` tries some thousands of dialogues; UNDERSTUDY_EXAMPLES=200000 makes a long run of it, `--hypothesis-seed` another.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.pairing import Conversation
from engine.reassembly import LOST
from engine.rrpair import Connection, Role, RRPair, Way
from tests.engine.dialogue import Choices, check, settled, watch

EXAMPLES = int(os.environ.get("UNDERSTUDY_EXAMPLES", "4000"))
READ, WRITE = Way.READ, Way.WRITE

Said = tuple[Way, bytes, int]


@settings(max_examples=EXAMPLES)
@given(st.binary(min_size=60, max_size=60) | st.binary(min_size=240, max_size=240))
# A request that was seen in part was given a response of one that was seen whole; a body that was taken for a message.
@example(
    bytes.fromhex(
        "1faa24653a38709bcb504eb73c4e7220dcfa88edbb0e953a209e621783eca2824c7a4c1d2af31d7bc8dd3c1d38959008e0712b63f2a760f6a871d5df"
    )
)
@example(
    bytes.fromhex(
        "809fa683dc36b5d8829ad6273052f13881c59f7c378516b8e810b087b3e2a34aa6cfdd2cd568a0d69f5d13bedffa937c0b1fee6c1cd0a0c2450fa346"
    )
)
@example(
    bytes.fromhex(
        "3021f65a328a61277a8291c2490aba52e943313143a9e7436340cd07d0e0aa845676ad8adb0e78160f86ba2151743d5253ae6a903321455c11e892a6"
    )
)
# A loss among the requests that wait while out of step must end what a later turn proves.
@example(
    bytes.fromhex(
        "fa45e71d407d5c339502656134f94981c339de66f1daa9ffb89fe855c1248a46ad81acacb01329844c723733fcf3409467a6bc0b528272268d1f766595"
        "959309c88d05dfec1df3a9fdf81fc55a9042cec29bf98f504d1d06fc8fb3754318e673e9d253d4faa72669cecb77ad7867c81026a6495a46be746bb34a"
        "c3281568b9bb67a1598bc2c1b807b1f9ff7a26dc5250896c91096a5100c3fb23595370457d8896a2cc535f1f96a6233472ba40d857214a27b162915ab3"
        "4e5b54973bbdf428fb65970f19fda3571f20599e0222ea35a3911215dcba8bc155d24f77f9c222c76929f71a855438b5f999943a157cea05f4"
    )
)
def test_a_complete_pair_is_never_a_wrong_one(data: bytes) -> None:
    check(watch(Choices(data)))


def request(n: int) -> bytes:
    return b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % n


def response(n: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nX-N: %d\r\nContent-Length: 2\r\n\r\nok" % n


def hear(said: list[Said], *, role: Role = Role.CLIENT, start_known: bool = False) -> list[tuple[str, str, bool]]:
    """Request's path, response's number, complete."""
    conversation = Conversation(Connection("a:1", role=role), "shop", start_known)
    offsets = {READ: 0, WRITE: 0}
    found = []
    for way, data, time in said:
        found += conversation.data(way, offsets[way], data, time)
        offsets[way] += len(data)
    found = settled(found + conversation.close(99), conversation.take_refuted())
    pairs = [item for item in found if isinstance(item, RRPair)]
    return [(p.path[1:], (p.response.header(b"x-n") or b"").decode() if p.response else "", p.complete) for p in pairs]


def exchanges(count: int, first_cut: int = 0) -> list[Said]:
    """One after the other; the first response may come in two pieces."""
    said: list[Said] = []
    for n in range(count):
        answer = response(n)
        pieces = [answer[:first_cut], answer[first_cut:]] if n == 0 and first_cut else [answer]
        said += [(WRITE, request(n), 10 * n + 1), *[(READ, piece, 10 * n + 2) for piece in pieces]]
    return said


@pytest.mark.parametrize("first_cut", [0, 1, 9, 12, 30])
@pytest.mark.parametrize("role", [Role.CLIENT, Role.UNKNOWN])
@pytest.mark.parametrize("order", ["as it was", "responses first", "requests first"])
def test_joined_in_the_middle_every_request_after_the_first_is_whole(first_cut: int, role: Role, order: str) -> None:
    said = exchanges(6, first_cut)
    if order != "as it was":
        said.sort(key=lambda each: each[0] is (WRITE if order == "responses first" else READ))
    found = hear(said, role=role)
    assert all(number == answer for number, answer, complete in found if complete)
    whole = [number for number, _, complete in found if complete]
    assert whole[-4:] == ["2", "3", "4", "5"]
    if order == "as it was":
        assert whole == ["1", "2", "3", "4", "5"]


def test_joined_while_a_response_was_under_way() -> None:
    said = [(READ, b"the rest of a body", 5), *[(way, data, time + 10) for way, data, time in exchanges(4)]]
    assert [number for number, _, complete in hear(said) if complete] == ["1", "2", "3"]


def test_a_server_joined_while_a_request_came_in_pieces() -> None:
    said = [(READ, request(0)[:3], 1), (READ, request(0)[3:], 2), (WRITE, response(0), 3)]
    said += [(Way(3 - way), data, time + 10) for way, data, time in exchanges(4)[2:]]
    found = hear(said, role=Role.SERVER)
    assert [(number, answer) for number, answer, complete in found if complete] == [("1", "1"), ("2", "2"), ("3", "3")]


def test_of_a_pipeline_that_was_joined_nothing_is_whole() -> None:
    """Whose requests are answered before it asks again cannot be known of a client that does not wait."""
    said = [(READ, response(0), 1), (WRITE, request(2) + request(3), 2), (READ, response(1) + response(2), 3)]
    said += [(WRITE, request(4), 4), (READ, response(3), 5), (WRITE, request(5), 6), (READ, response(4), 7)]
    assert not any(complete for _, _, complete in hear(said))


def test_a_client_that_begins_to_pipeline_takes_back_what_its_turns_proved() -> None:
    said = [*exchanges(3), (WRITE, request(3), 41), (WRITE, request(4), 42), (READ, response(3), 43), (READ, response(4), 44)]
    found = hear([*said, *[(way, data, time + 50) for way, data, time in exchanges(2)]])
    assert not any(complete for _, _, complete in found)


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize("role", [Role.CLIENT, Role.UNKNOWN])
def test_a_client_with_always_as_many_requests_under_way_is_known_by_its_last_answers(depth: int, role: Role) -> None:
    """Until then it looks like one that waits for each answer."""
    said: list[Said] = []
    for n in range(8):
        said += [(WRITE, request(n + depth - 1), 10 * n + 1), (READ, response(n), 10 * n + 2)]
    before = hear(said[:-2], role=role)
    assert any(complete for _, _, complete in before)
    assert not any(complete for _, _, complete in hear([*said, (READ, response(8), 90)], role=role))


def test_what_was_counted_before_a_loss_stays_when_what_turns_proved_after_it_is_taken_back() -> None:
    conversation = Conversation(Connection("a:1", role=Role.CLIENT), "shop", True)
    found, offsets = [], {READ: 0, WRITE: 0}
    for way, data, time in [*exchanges(3), (WRITE, request(7), 30)]:
        found += conversation.data(way, offsets[way], data, time)
        offsets[way] += len(data)
    found += conversation.gap(READ, offsets[READ], 50, LOST)
    offsets[READ] += 50
    for way, data, time in [*exchanges(3), (READ, response(3), 30)]:
        found += conversation.data(way, offsets[way], data, time + 50)
        offsets[way] += len(data)
    found = settled(found + conversation.close(99), conversation.take_refuted())
    assert [(item.path, item.complete) for item in found if isinstance(item, RRPair) and item.complete] == [
        ("/0", True),
        ("/1", True),
        ("/2", True),
    ]
    assert conversation.take_refuted() is None


def test_from_the_start_a_pipeline_is_whole() -> None:
    said: list[Said] = [(READ, response(0) + response(1), 9), (WRITE, request(0) + request(1), 1)]
    assert hear(said, start_known=True) == [("0", "0", True), ("1", "1", True)]


def test_a_part_of_a_body_is_not_taken_for_the_request() -> None:
    """Joined while a body was sent that looks like a request, and whose server asked for it."""
    said: list[Said] = [(READ, b"HTTP/1.1 100 Continue\r\n\r\n", 1), (WRITE, request(666), 2), (READ, response(0), 3)]
    found = hear([*said, *[(way, data, time + 10) for way, data, time in exchanges(4)[2:]]])
    assert [number for number, _, complete in found if complete] == ["1", "2", "3"]


def test_what_tells_the_client_late_and_otherwise_ends_the_pairs() -> None:
    """Joined in the middle of a body that looks like a request, before it was known who connected."""
    conversation = Conversation(Connection("a:1"), "shop", False)
    found = conversation.data(READ, 0, request(666), 1)
    conversation.update(Connection("a:1", role=Role.CLIENT))
    found += conversation.data(WRITE, 0, request(1), 2) + conversation.data(READ, len(request(666)), response(1), 3)
    [flow] = [*found, *conversation.close(9)]
    assert not isinstance(flow, RRPair)
    assert (flow.reason, flow.read, flow.written) == (
        "what looked like requests came from the server",
        len(request(666) + response(1)),
        len(request(1)),
    )


def test_a_joined_stream_that_another_engine_goes_on_with_is_still_in_doubt() -> None:
    """Its offsets say what is committed, not that the order of what follows is known."""
    resumed = Conversation(Connection("a:1", role=Role.CLIENT), "shop", False, 100, 200)
    found = resumed.data(WRITE, 200, request(1), 1) + resumed.data(READ, 100, response(0), 2)
    found += resumed.data(WRITE, 200 + len(request(1)), request(2), 3)
    [pair] = found
    assert isinstance(pair, RRPair)
    assert pair.missing == ("pairing",)


def test_a_loss_before_a_response_leaves_open_what_it_is() -> None:
    """The answer to a HEAD that was not seen seems to have a body: what seems to be its end is the head of the next response."""
    head = b"HTTP/1.1 200 OK\r\nX-N: 1\r\nContent-Length: 46\r\n\r\n"
    conversation = Conversation(Connection("a:1", role=Role.CLIENT), "shop", False)
    first = b"HTTP/1.1 200 OK\r\nX-N: 0\r\nContent-Length: %d\r\n\r\n" % len(head)
    found = conversation.data(READ, 0, first, 1) + conversation.data(WRITE, 0, request(1), 2)
    found += conversation.gap(READ, len(first), len(head), LOST)
    found += conversation.data(READ, len(first + head), response(666), 3) + conversation.close(9)
    pairs = [item for item in found if isinstance(item, RRPair)]
    assert [pair.path for pair in pairs] == ["/", "/1"]
    assert not any(pair.complete for pair in pairs)


def test_a_response_of_which_the_head_was_lost_refutes_nothing() -> None:
    """It was not given its request, which began before it ended as that of any response does."""
    conversation = Conversation(Connection("a:1", role=Role.CLIENT), "shop", False)
    found, offsets = [], {READ: 0, WRITE: 0}
    for way, data, time in [*exchanges(3), (WRITE, request(3), 31), (READ, response(3)[:25], 32)]:
        found += conversation.data(way, offsets[way], data, time)
        offsets[way] += len(data)
    found += conversation.gap(READ, offsets[READ], 20, LOST) + conversation.close(99)
    assert conversation.take_refuted() is None
    assert [item.path for item in found if isinstance(item, RRPair) and item.complete] == ["/1", "/2"]


@pytest.mark.parametrize("first", [READ, WRITE])
@pytest.mark.parametrize("at", [1, 3, 4, 6, 15, 20])
def test_joined_where_start_lines_are_written_in_pieces(at: int, first: Way) -> None:
    said: list[Said] = [(WRITE, b"rest of a body", 1)]
    for n in range(3):
        said += [(WRITE, request(n)[:at], 4 * n + 2), (WRITE, request(n)[at:], 4 * n + 3), (READ, response(n), 4 * n + 4)]
    found = hear(sorted(said, key=lambda each: each[0] is not first))
    assert found == [("0", "0", False), ("1", "1", True), ("2", "2", True)]
