"""What changed from one payload to the next."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from apps.sagas.state_diff import diff


def told(before: str, after: str) -> list[tuple[str, str | None, str | None]]:
    found = diff(before, after)
    assert found is not None
    return [(one.path, one.before, one.after) for one in found.told]


def test_leaves_that_came_went_and_changed() -> None:
    before = '{"state": "new", "amount": 12.5, "card": {"last": 1}}'
    after = '{"state": "done", "amount": 12.5, "receipt": {"no": "R-9"}}'
    assert told(before, after) == [
        ("state", '"new"', '"done"'),
        ("card.last", "1", None),
        ("receipt.no", None, '"R-9"'),
    ]


def test_numbers_are_compared_as_written() -> None:
    assert told('{"a": 1.10, "b": 9007199254740993}', '{"a": 1.1, "b": 9007199254740993}') == [("a", "1.10", "1.1")]


def test_lists_are_compared_by_place() -> None:
    assert told("[1, 2]", "[1, 3, 4]") == [("[1]", "2", "3"), ("[2]", None, "4")]


def test_a_value_of_another_type_is_a_change() -> None:
    assert told('{"a": {"b": 1}}', '{"a": "1"}') == [("a", "{…}", '"1"')]
    assert told('{"a": 1}', '{"a": "1"}') == [("a", "1", '"1"')]


def test_what_is_no_json_cannot_be_compared() -> None:
    assert diff("not json", "{}") is None


def test_very_many_changes_are_counted() -> None:
    found = diff("{}", json.dumps({str(n): n for n in range(100)}))
    assert found is not None
    assert (len(found.told), found.more) == (60, 40)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@given(JSON)
def test_alike_payloads_do_not_differ(one: object) -> None:
    found = diff(json.dumps(one), json.dumps(one, indent=2))
    assert found is not None
    assert found.told == ()


@given(st.dictionaries(st.text(min_size=1, max_size=3), st.integers(), max_size=6), st.integers())
def test_one_changed_leaf_is_one_change(before: dict[str, int], value: int) -> None:
    after = {**before, "the new one": value}
    assert told(json.dumps(before), json.dumps(after)) == [("the new one", None, str(value))]
