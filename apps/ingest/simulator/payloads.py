"""Who orders what: payloads as real services send them, a few sensitive values (all invented) among them.

The card numbers are the well-known test numbers of the card schemes; names, companies and domains do not exist.
"""

from __future__ import annotations

import random
from typing import Any

_NAMES = (
    "Mila Novak", "Tariq Haddad", "Ines Carvalho", "Jonas Lindqvist", "Aiko Tanaka", "Chidi Okafor", "Lena Brandt",
    "Mateo Rojas", "Sofia Rossi", "Noor Rahman", "Ewa Kowalska", "Liam Byrne", "Zsófia Nagy", "Thi Nguyen",
)  # fmt: skip
_GOODS = (
    ("SKU-1041", "espresso grinder", 189.0), ("SKU-2210", "linen sheets", 74.5), ("SKU-0077", "trail shoes", 129.9),
    ("SKU-3105", "desk lamp", 49.0), ("SKU-4420", "noise-cancelling headset", 219.0), ("SKU-0912", "wool scarf", 35.0),
    ("SKU-5008", "cast-iron pan", 62.0), ("SKU-6601", "bicycle light", 27.9), ("SKU-7719", "field notebook", 12.5),
)  # fmt: skip
_CARDS = ("4111111111111111", "5555555555554444", "378282246310005", "6011111111111117")
_CITIES = ("LIS", "CPH", "VIE", "NRT", "YUL", "GRU", "DUB", "HEL", "ICN", "CPT")
_PORTS = ("Rotterdam", "Santos", "Singapore", "Valparaíso", "Gdańsk", "Mombasa", "Busan")
_CARGO = ("coffee beans", "machine parts", "ceramic tiles", "bicycles", "medical devices", "timber")


def customer(rng: random.Random) -> dict[str, Any]:
    """A customer's id, name and mail address."""
    name = rng.choice(_NAMES)
    mail = name.lower().replace(" ", ".").encode("ascii", "ignore").decode()
    return {"customer": f"C-{rng.randrange(1000, 1400)}", "customer_name": name, "email": f"{mail}@example.com"}


def order(rng: random.Random) -> dict[str, Any]:
    """An order with its items, amount and the card it is paid with."""
    goods = rng.sample(_GOODS, rng.choice((1, 1, 2, 2, 3, 4)))
    items: list[dict[str, Any]] = [{"sku": sku, "name": name, "quantity": rng.choice((1, 1, 1, 2, 3)), "price": price}
             for sku, name, price in goods]  # fmt: skip
    return {
        "order": f"ORD-{rng.randrange(100_000, 999_999)}",
        **customer(rng),
        "amount": round(sum(item["price"] * item["quantity"] for item in items), 2),
        "currency": rng.choice(("EUR", "EUR", "EUR", "USD", "GBP", "SEK")),
        "items": items,
        "channel": rng.choice(("web", "web", "app", "store")),
    }


def payment(rng: random.Random, order_data: dict[str, Any]) -> dict[str, Any]:
    """A payment of that order; card and authorization are what must never be stored."""
    return {
        "amount": order_data["amount"],
        "currency": order_data["currency"],
        "card": {"number": rng.choice(_CARDS), "expiry": f"{rng.randrange(1, 13):02d}/29", "cvv": "123"},
        "authorization": f"Bearer pay_{rng.getrandbits(64):016x}",
        "processor": rng.choice(("northpay", "northpay", "cardhub")),
    }


def trip(rng: random.Random) -> dict[str, Any]:
    """A journey for one to four people."""
    here, there = rng.sample(_CITIES, 2)
    return {
        "booking": f"TRV-{rng.randrange(10_000, 99_999)}",
        **customer(rng),
        "from": here,
        "to": there,
        "nights": rng.randrange(2, 15),
        "travellers": rng.choice((1, 2, 2, 3, 4)),
        "amount": round(rng.uniform(380, 4_200), 2),
        "currency": rng.choice(("EUR", "USD", "GBP")),
        "passport_number": f"X{rng.randrange(10**7, 10**8)}",
    }


def shipment(rng: random.Random) -> dict[str, Any]:
    """A container between two ports."""
    here, there = rng.sample(_PORTS, 2)
    return {
        "consignment": f"CNS-{rng.randrange(10_000, 99_999)}",
        "container": f"ACMU{rng.randrange(10**6, 10**7)}",
        "from": here,
        "to": there,
        "cargo": rng.choice(_CARGO),
        "weight_kg": rng.randrange(800, 27_000),
        "declared_value": round(rng.uniform(9_000, 240_000), 2),
        "currency": "USD",
    }
