"""The columns of an export: those that were asked for, in that order, and no formula among their cells."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from apps.sagas.events import EventKind
from tests.api.conftest import event
from tests.api.test_reading import body_of, problem

pytestmark = pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume:Warning")


def test_an_export_holds_the_columns_asked_for_in_their_order(reader: Any, store: Any) -> None:
    store(event("o-1", 1, EventKind.STEP_STARTED, "pay", attributes={"customer": "42"}, service="payments"))

    columns = "status,correlation_id,attr.customer,service,attr.unheard-of"
    text = body_of(reader("get", "/export.csv", columns=columns)).decode()
    assert text == f"{columns}\r\nrunning,o-1,42,payments,\r\n"
    (line,) = body_of(reader("get", "/export.ndjson", columns=columns)).splitlines()
    assert list(json.loads(line)) == columns.split(",")


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "＝"])
def test_a_fact_that_looks_like_a_formula_is_defused(reader: Any, store: Any, start: str) -> None:
    store(event("o-1", 1, EventKind.STEP_STARTED, "pay", attributes={"note": f"{start}1+1"}))

    (row,) = csv.DictReader(
        io.StringIO(body_of(reader("get", "/export.csv", columns="attr.note")).decode(), newline="")
    )

    assert row == {"attr.note": f"'{start}1+1"}


@pytest.mark.parametrize("columns", ["password", "state", "attr.", "__class__", "flow,nope", "a" * 129])
def test_an_unknown_column_is_refused_listing_those_that_exist(reader: Any, columns: str) -> None:
    answer = problem(reader("get", "/export.csv", columns=columns), 422)

    assert answer["errors"][0]["parameter"] == "columns"
    assert "correlation_id" in answer["detail"]
