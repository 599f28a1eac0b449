"""Variants of a flow over the API."""

from __future__ import annotations

import pytest

from apps.lib import micros
from apps.lib.micros import MINUTE
from apps.sagas import judging
from apps.sagas.events import EventKind
from tests.api.conftest import event, rollback
from tests.api.test_reading import problem

pytestmark = pytest.mark.django_db


def test_variants_say_which_path_was_taken_by_how_many(reader, store) -> None:
    store(*rollback("o-1"), event("o-1", 9, EventKind.STEP_COMPLETED, "refund", compensates="pay"))
    store(*rollback("o-2"), event("o-2", 9, EventKind.STEP_COMPLETED, "refund", compensates="pay"))
    store(event("o-3", 1, EventKind.STEP_STARTED, "pay"))
    judging.judge_due(micros.now() + MINUTE)
    undone, begun = reader("get", "/flow-variants/order", window="7d").json()["items"]
    assert (undone["count"], begun["count"], begun["statuses"]) == (2, 1, {"open": 1})
    refund = undone["steps"][-1]
    assert (refund["step"], refund["outcome"], refund["compensates"]) == ("refund", "completed", ["pay"])
    assert refund["after"]
    listed = reader("get", "/instances", q=f"variant:{undone['variant']}").json()["items"]
    assert {each["correlation_id"] for each in listed} == {"o-1", "o-2"}


def test_a_flow_that_nobody_knows_has_no_variants(reader) -> None:
    problem(reader("get", "/flow-variants/nobody"), 404)
    problem(reader("get", "/flow-variants/order", window="soon"), 422)
