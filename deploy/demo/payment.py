"""Payment: takes orders, keeps them in DynamoDB and charges cards through Stripe.

GET /health · POST /orders · GET /orders · GET /orders/ID · POST /orders/ID/refund
"""

from __future__ import annotations

import base64
import hmac
import json
import os
import re
import secrets
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import boto3
import stripe

TABLE = "Orders"
BY_CUSTOMER = "by-customer"
CURRENCY = "eur"

stripe.api_key = os.environ["STRIPE_API_KEY"]
dynamodb = boto3.client("dynamodb", region_name=os.environ.get("AWS_REGION", "us-east-1"))
bearer = os.environ["PAYMENT_TOKEN"]
basic = base64.b64encode(os.environ["PAYMENT_BASIC"].encode()).decode()

Answer = tuple[int, dict[str, Any]]


def create_order(wanted: dict[str, Any]) -> Answer:
    """Stores an order, charges its card, stores the outcome."""
    order = {
        "id": wanted["id"],
        "customer": wanted["email"],
        "item": wanted["item"],
        "amount": int(wanted["amount"]),
        "status": "new",
    }
    dynamodb.put_item(TableName=TABLE, Item=to_item(order), ConditionExpression="attribute_not_exists(id)")
    try:
        order["payment"] = charge(order, wanted["card"])
        order["status"] = "paid"
    except stripe.CardError:
        order["status"] = "declined"
    store_outcome(order)
    return (201 if order["status"] == "paid" else 402), order


def charge(order: dict[str, Any], card: dict[str, Any]) -> str:
    """Charges the card; the id of the payment. CardError where it is declined."""
    customer = stripe.Customer.create(email=order["customer"])
    method = stripe.PaymentMethod.create(type="card", card=card)  # type: ignore[arg-type]
    stripe.PaymentMethod.attach(method.id, customer=customer.id)
    intent = stripe.PaymentIntent.create(
        amount=order["amount"],
        currency=CURRENCY,
        customer=customer.id,
        payment_method=method.id,
        metadata={"order": order["id"]},
        idempotency_key=order["id"],
    )
    return stripe.PaymentIntent.confirm(intent.id).id


def refund_order(number: str) -> Answer:
    """Gives the money back."""
    order = find_order(number)
    if order is None:
        return 404, {"error": "no such order"}
    if order["status"] != "paid":
        return 409, {"error": f"order is {order['status']}"}
    stripe.Refund.create(payment_intent=order["payment"], idempotency_key=f"refund-{number}")
    order["status"] = "refunded"
    store_outcome(order)
    return 200, order


def get_order(number: str) -> Answer:
    """One order."""
    order = find_order(number)
    return (200, order) if order else (404, {"error": "no such order"})


def list_orders(customer: str) -> Answer:
    """All orders, or those of one customer."""
    if customer:
        found = dynamodb.query(
            TableName=TABLE,
            IndexName=BY_CUSTOMER,
            KeyConditionExpression="customer = :customer",
            ExpressionAttributeValues={":customer": {"S": customer}},
        )
    else:
        found = dynamodb.scan(TableName=TABLE, Limit=100)
    return 200, {"orders": [from_item(item) for item in found["Items"]]}


def find_order(number: str) -> dict[str, Any] | None:
    """The stored order, if there is one."""
    item = dynamodb.get_item(TableName=TABLE, Key={"id": {"S": number}}).get("Item")
    return from_item(item) if item else None


def store_outcome(order: dict[str, Any]) -> None:
    """Stores what became of an order."""
    values = {":status": {"S": order["status"]}, ":payment": {"S": order.get("payment", "-")}}
    dynamodb.update_item(
        TableName=TABLE,
        Key={"id": {"S": order["id"]}},
        UpdateExpression="SET #status = :status, payment = :payment",
        ExpressionAttributeNames={"#status": "status"},
        ExpressionAttributeValues=values,
    )


def to_item(order: dict[str, Any]) -> dict[str, dict[str, str]]:
    """An order as DynamoDB wants it."""
    return {key: {"N": str(value)} if isinstance(value, int) else {"S": value} for key, value in order.items()}


def from_item(item: dict[str, dict[str, str]]) -> dict[str, Any]:
    """An order as DynamoDB gives it."""
    return {key: int(value["N"]) if "N" in value else value["S"] for key, value in item.items()}


class Handler(BaseHTTPRequestHandler):
    """The HTTP side."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Health, one order, many orders."""
        url = urlsplit(self.path)
        if url.path == "/health":
            self.answer(200, {"status": "ok"})
        elif not self.allowed():
            self.answer(401, {"error": "who are you?"})
        elif url.path == "/orders":
            self.answer(*list_orders(parse_qs(url.query).get("customer", [""])[0]))
        elif found := re.fullmatch(r"/orders/([^/]+)", url.path):
            self.answer(*get_order(found[1]))
        else:
            self.answer(404, {"error": "no such page"})

    def do_POST(self) -> None:
        """A new order, a refund."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self.allowed():
            self.answer(401, {"error": "who are you?"})
        elif self.path == "/orders":
            self.answer(*create_order(json.loads(body)))
        elif found := re.fullmatch(r"/orders/([^/]+)/refund", self.path):
            self.answer(*refund_order(found[1]))
        else:
            self.answer(404, {"error": "no such page"})

    def allowed(self) -> bool:
        """Whether the caller may do this."""
        scheme, _, given = self.headers.get("Authorization", "").partition(" ")
        return hmac.compare_digest(given, {"Bearer": bearer, "Basic": basic}.get(scheme, secrets.token_hex()))

    def answer(self, status: int, content: dict[str, Any]) -> None:
        """Sends JSON."""
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Keeps quiet."""


def main() -> None:
    """Serves until SIGTERM."""
    server = ThreadingHTTPServer(("", int(os.environ.get("PORT", "8080"))), Handler)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever()


if __name__ == "__main__":
    main()
