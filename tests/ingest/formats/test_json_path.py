"""JSONPath as far as sources are configured with it: one value of a document."""

from __future__ import annotations

import pytest

from apps.ingest.formats import json_path

ORDER = {
    "order": {"id": "o-7", "total": 12, "paid": True, "lines": [{"sku": "a"}, {"sku": "b"}]},
    "odd key": {"x.y": 1},
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("$.order.id", "o-7"),
        ("$['order']['id']", "o-7"),
        ('$["odd key"]["x.y"]', 1),
        ("$.order.lines[1].sku", "b"),
        ("$.order.lines[-1].sku", "b"),
        ("$.order.lines[*].sku", "a"),
        ("$.*.id", "o-7"),
        ("$", ORDER),
        ("$.order.lines[2].sku", None),
        ("$.order[0]", None),
        ("$.nothing.at.all", None),
    ],
)
def test_a_path_finds_the_first_value_that_it_names(path: str, value: object) -> None:
    assert json_path.find(path, ORDER) == value


@pytest.mark.parametrize("path", ["order.id", "", "$order", "$..id", "$[?(@.a)]", "$['open", "$.a b"])
def test_what_is_no_path_is_named_with_its_place(path: str) -> None:
    with pytest.raises(ValueError, match=r"is not a JSONPath"):
        json_path.parse(path)


@pytest.mark.parametrize(("value", "text"), [("o-7", "o-7"), (12, "12"), (True, None), (" ", None), ({}, None)])
def test_only_text_and_numbers_name_something(value: object, text: str | None) -> None:
    assert json_path.find_text("$.a", {"a": value}) == text
