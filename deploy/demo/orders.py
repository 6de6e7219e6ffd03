"""What the demo's customers do: a few dozen orders, with the secrets that real callers send along."""

from __future__ import annotations

import base64
import http.client
import json
import uuid
from dataclasses import dataclass, field
from typing import Any

ORDERS = 30
DECLINED_EVERY = 10
REFUND_EVERY = 6

TOKEN = "pay-bearer-5f1c0a9e7b3d42868c"
BASIC = "till-7:correct horse battery staple"
COOKIE = "c9b1f0a7d4e24a6f9f3b"
CARDS = ("4242424242424242", "5555555555554444", "4012888888881881")
DECLINED = "4000000000000002"
STRIPE_KEY = "sk_test_" + "4eC39HqLyjWDarjtT1zdp7dc"
AWS_TOKEN = "IQoJb3JpZ2luX2VjEDemoSessionTokenThatMustNotBeStored=="

SETTINGS = {
    "PAYMENT_TOKEN": TOKEN,
    "PAYMENT_BASIC": BASIC,
    "STRIPE_API_KEY": STRIPE_KEY,
    "AWS_ACCESS_KEY_ID": "AKIADEMODEMODEMODEMO",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMIK7MDENGbPxRfiCYDEMODEMODEMO",
    "AWS_SESSION_TOKEN": AWS_TOKEN,
}
"""Environment of the payment service."""

SECRETS = (
    TOKEN,
    BASIC,
    base64.b64encode(BASIC.encode()).decode(),
    COOKIE,
    *CARDS,
    DECLINED,
    STRIPE_KEY,
    AWS_TOKEN,
    SETTINGS["AWS_SECRET_ACCESS_KEY"],
)
"""What must not be found in a snapshot, in any form."""


@dataclass(slots=True)
class Shop:
    """Calls the payment service. `made` says of every call what it was and how it ended: (method, target, status); `answers` are
    the contents of the responses.
    """

    address: str
    port: int
    made: list[tuple[str, str, int]] = field(default_factory=list)
    answers: list[Any] = field(default_factory=list)

    def call(self, method: str, target: str, content: dict[str, Any] | None = None) -> Any:
        """One request on a connection of its own; the response's JSON."""
        connection = http.client.HTTPConnection(self.address, self.port, timeout=30)
        basic = base64.b64encode(BASIC.encode()).decode()
        credentials = f"Basic {basic}" if len(self.made) % 2 else f"Bearer {TOKEN}"
        headers = {"Authorization": credentials, "Cookie": f"session={COOKIE}", "Content-Type": "application/json"}
        body = None if content is None else json.dumps(content)
        try:
            connection.request(method, target, body, headers)
            response = connection.getresponse()
            self.made.append((method, target, response.status))
            answer = json.loads(response.read())
            self.answers.append(answer)
            return answer
        finally:
            connection.close()

    def order(self, number: int) -> str:
        """Makes an order and looks at it; its id."""
        card = DECLINED if number % DECLINED_EVERY == DECLINED_EVERY - 1 else CARDS[number % len(CARDS)]
        made = self.call(
            "POST",
            "/orders",
            {
                "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"order/{number}")),
                "email": f"customer-{number % 7}@example.org",
                "item": f"book-{number}",
                "amount": 900 + 37 * number,
                "card": {"number": card, "exp_month": "12", "exp_year": "2031", "cvc": "314"},
            },
        )
        self.call("GET", f"/orders/{made['id']}")
        return str(made["id"])

    def a_day(self) -> None:
        """Everything that the demo asks of the payment service."""
        self.call("GET", "/health")
        for number in range(ORDERS):
            order = self.order(number)
            if number % REFUND_EVERY == 0:
                self.call("POST", f"/orders/{order}/refund", {})
        for number in range(7):
            self.call("GET", f"/orders?customer=customer-{number}%40example.org")
        self.call("GET", "/orders")
        self.call("GET", "/orders/no-such-order")
