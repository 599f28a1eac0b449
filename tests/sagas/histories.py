"""Histories of events for the laws: every kind, bare and attributed, numbered and not, caused and compensating."""

from __future__ import annotations

import random

from hypothesis import strategies as st

from apps.sagas.events import SECOND, EventKind, SagaEvent, digest_of

#: The moment that every history begins at: 2026-11-19T14:00:00Z.
NOON = 1_795_096_800 * SECOND

TRIP = """
flow: trip
version: 1
style: hybrid
deadline: 1h
ends_on: [TripConfirmed]
steps:
  - name: flight
    role: compensable
    service: air
    starts_on: [TripRequested]
    completes_on: [FlightBooked]
    fails_on: [FlightDeclined]
    deadline: 30s
    compensation: {name: cancel-flight, completes_on: [FlightReleased], deadline: 10s}
  - name: hotel
    role: compensable
    starts_on: [FlightBooked]
    completes_on: [HotelBooked]
    deadline: 20s
    compensation: {name: cancel-hotel, completes_on: [HotelReleased]}
"""
BARE_TYPES = [
    *("TripRequested", "FlightBooked", "FlightDeclined", "FlightReleased", "HotelBooked", "HotelReleased"),
    *("TripConfirmed", "PaymentCharged", "PaymentDeclined", "PaymentRefunded", "Pinged"),
]
STEPS = ["flight", "hotel", "cancel-flight", "label"]


@st.composite
def events(draw: st.DrawFn, correlations: int = 3) -> SagaEvent:
    """One event; ids are few, so that causes are found, and sometimes are not."""
    number = draw(st.integers(0, 40))
    at = NOON + draw(st.integers(0, 90)) * SECOND
    bare = draw(st.booleans())
    kind = None if bare else draw(st.sampled_from(EventKind))
    fields: dict = {
        "source": draw(st.sampled_from(["/orders", "/air", "urn:acme:hotel"])),
        "id": f"e{number}",
        "type": draw(st.sampled_from(BARE_TYPES)),
        "correlation_id": f"order-{draw(st.integers(1, correlations))}",
        "occurred_at": at,
        "received_at": NOON + 60 * SECOND,
        "sequence": draw(st.sampled_from(["", "1", "2"])),
        "kind": kind,
        "causation_ids": tuple(draw(st.lists(st.integers(0, 44).map("e{}".format), max_size=2, unique=True))),
        "attributes": draw(st.dictionaries(st.sampled_from("abc"), st.sampled_from("xyz"), max_size=2)),
    }
    if not bare:
        fields |= {
            "flow": draw(st.sampled_from([None, "trip", "customs"])),
            "flow_version": draw(st.sampled_from([None, None, "1", "2"])),
            "run": draw(st.sampled_from(["", "", "r2"])),
            "step": draw(st.sampled_from([None, *STEPS])),
            "step_id": draw(st.sampled_from([None, None, "s1", "hotel"])),
            "attempt": draw(st.sampled_from([None, None, 1, 2, 3])),
            "compensates": draw(st.sampled_from([None, None, None, "flight", "s1", "*"])),
            "error": draw(st.sampled_from([None, None, "timeout after 30 s", "declined"])),
            "expires_at": draw(st.sampled_from([None, None, at + 5 * SECOND, at + 50 * SECOND])),
            "service": draw(st.sampled_from([None, None, "air"])),
        }
    return SagaEvent(**fields, digest=digest_of({name: repr(value) for name, value in fields.items()}))


def random_history(dice: random.Random, size: int) -> list[SagaEvent]:
    """The same making from a seeded generator: a long history, always the same."""
    made = {}
    for _ in range(size):
        bare = dice.random() < 0.5
        at = NOON + dice.randrange(90) * SECOND
        fields: dict = {
            "source": dice.choice(["/orders", "/air", "urn:acme:hotel"]),
            "id": f"e{dice.randrange(41)}",
            "type": dice.choice(BARE_TYPES),
            "correlation_id": f"order-{dice.randrange(3)}",
            "occurred_at": at,
            "received_at": NOON + 60 * SECOND,
            "kind": None if bare else dice.choice(list(EventKind)),
            "causation_ids": tuple(f"e{dice.randrange(45)}" for _ in range(dice.randrange(2))),
        }
        if not bare:
            fields |= {
                "flow": dice.choice([None, "trip", "customs"]),
                "flow_version": dice.choice([None, None, "1", "2"]),
                "step": dice.choice([None, *STEPS]),
                "attempt": dice.choice([None, None, 1, 2]),
                "compensates": dice.choice([None, None, None, "flight"]),
            }
        event = SagaEvent(**fields, digest=digest_of({name: repr(value) for name, value in fields.items()}))
        made[event.correlation_id, event.source, event.id] = event
    return list(made.values())


@st.composite
def histories(draw: st.DrawFn, size: int = 16) -> list[SagaEvent]:
    """Events with different (source, id) in each correlation, so that none is in conflict."""
    drawn = draw(st.lists(events(), min_size=1, max_size=size))
    return list({(event.correlation_id, event.source, event.id): event for event in drawn}.values())
