"""Writes tests/corpus/snapshot-v<FORMAT_VERSION>.snapshot: the sample of a format, made once, before it changes.

Run `python -m tests.corpus.make_snapshot`. The file is committed and never made again for an old version.
"""

from __future__ import annotations

from pathlib import Path

from engine.pairing import Conversation
from engine.rrpair import Connection, Role, Way
from engine.snapshot import SnapshotWriter
from engine.store.files import FORMAT_VERSION

START = 1_767_225_600_000_000_000

DYNAMODB = (
    b"POST / HTTP/1.1\r\nHost: dynamodb.us-east-1.amazonaws.com\r\nX-Amz-Target: DynamoDB_20120810.GetItem\r\n"
    b"Content-Type: application/x-amz-json-1.0\r\nContent-Length: 51\r\n\r\n"
    b'{"TableName":"Orders","Key":{"id":{"S":"order-7"}}}',
    b"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: 2\r\n\r\n{}",
)
STRIPE = (
    b"POST /v1/charges HTTP/1.1\r\nHost: api.stripe.com\r\nAuthorization: Bearer sk_test_0123456789abcdef\r\n"
    b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 23\r\n\r\namount=100&currency=usd",
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n" + b'{"paid":true}',
)


def main() -> None:
    """Write the sample."""
    target = Path(__file__).parent / f"snapshot-v{FORMAT_VERSION}.snapshot"
    writer = SnapshotWriter.create(target, service="payment", capture_id="sample", created=START, tool_version="0.1.0")
    for n, (request, response) in enumerate((DYNAMODB, STRIPE)):
        connection = Connection(f"sample:{n}", tls=True, role=Role.CLIENT, remote_port=443, tls_version="TLS 1.3")
        conversation = Conversation(connection, "payment", True)
        conversation.data(Way.WRITE, 0, request, START + n * 1_000_000)
        writer.add(conversation.data(Way.READ, 0, response, START + n * 1_000_000 + 400_000))
    postgres = Conversation(Connection("sample:2", role=Role.CLIENT, remote_port=5432), "payment", True)
    postgres.data(Way.WRITE, 0, b"\x00\x00\x00\x08\x04\xd2\x16\x2f", START)
    writer.add(postgres.close(START))
    writer.set_ledger({"seen": 600, "delivered": 600, "lost": 0})
    writer.finish()


if __name__ == "__main__":
    main()
