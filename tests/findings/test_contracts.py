"""Schemas of events: what is refused, what breaks them, what changes between them, what traffic suggests."""

from __future__ import annotations

import json
from typing import Any

import pytest

from apps.lib.redaction import FILTERED
from apps.sagas.contracts import CannotCheckError, Checker, SchemaError, compare, infer, read_schema


def schema(**keywords: Any) -> Any:
    return read_schema(json.dumps(keywords))


def problem(payload: Any, **keywords: Any) -> str:
    return Checker(schema(**keywords)).problem_of(json.dumps(payload))


class TestReading:
    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("{", "is not JSON"),
            ("[]", "is a JSON object"),
            ('{"type": "strange"}', "/type"),
            ('{"$ref": "https://example.org/other.json"}', "another document"),
            ('{"$ref": "#/$defs/gone"}', "does not exist"),
            ('{"$schema": "https://example.org/mine"}', "dialect"),
            ('{"pattern": "("}', "not a regular expression"),
            ('{"pattern": "(a+)+$"}', "repeat within a repeat"),
            ('{"pattern": "(a|ab)*$"}', "begin alike"),
            ('{"pattern": "a*b*c*d*"}', "unbounded repeats"),
            ('{"patternProperties": {"(x*)*": {}}}', "repeat within a repeat"),
            ('{"a":' * 40 + "1" + "}" * 40, "deep"),
            (json.dumps({"description": "x" * 300_000}), "bytes"),
        ],
    )
    def test_what_cannot_be_judged_safely_is_refused(self, text: str, why: str) -> None:
        with pytest.raises(SchemaError, match=why):
            read_schema(text)

    @pytest.mark.parametrize("pattern", ["^[A-Z]{3}$", r"^\d+\.\d+$", "^(foo|bar)+$", "^[^@]+@[^@]+$"])
    def test_ordinary_patterns_are_fine(self, pattern: str) -> None:
        assert schema(pattern=pattern)

    @pytest.mark.parametrize(
        "draft",
        [
            "http://json-schema.org/draft-04/schema#",
            "http://json-schema.org/draft-07/schema#",
            "https://json-schema.org/draft/2020-12/schema",
        ],
    )
    def test_dialects_in_use_are_read(self, draft: str) -> None:
        assert problem("x", **{"$schema": draft, "type": "integer"}) == "$ must be integer and is string"


class TestChecking:
    def test_it_names_places_and_rules_and_never_values(self) -> None:
        keywords: dict[str, Any] = {
            "required": ["id"],
            "properties": {"lines": {"items": {"properties": {"sku": {"type": "string"}}}}},
            "additionalProperties": False,
        }
        told = problem({"lines": [{"sku": 4111}], "secret": 1}, **keywords)
        assert told == (
            "$ has secret, which the schema does not know; $ lacks id; $.lines[].sku must be string and is integer"
        )

    def test_what_was_redacted_breaks_nothing(self) -> None:
        assert problem({"card": FILTERED}, properties={"card": {"type": "integer"}}) == ""

    def test_references_within_the_document_are_followed(self) -> None:
        keywords = {"$defs": {"id": {"type": "integer"}}, "properties": {"id": {"$ref": "#/$defs/id"}}}
        assert problem({"id": "x"}, **keywords) == "$.id must be integer and is string"

    def test_a_schema_that_multiplies_itself_is_given_up(self) -> None:
        defs: dict[str, Any] = {f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 10} for n in range(8)}
        defs["a8"] = {"type": "string"}
        with pytest.raises(CannotCheckError, match="too many steps"):
            problem(1, **{"$defs": defs, "$ref": "#/$defs/a0"})

    def test_a_schema_that_never_ends_is_given_up(self) -> None:
        with pytest.raises(CannotCheckError):
            problem(1, **{"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"})

    def test_long_texts_are_not_matched(self) -> None:
        with pytest.raises(CannotCheckError, match="characters"):
            problem("x" * 501, pattern="^x*y")


OBJECT: dict[str, Any] = {"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]}


class TestCompatibility:
    @pytest.mark.parametrize(
        ("change", "backward", "forward"),
        [
            ({}, True, True),
            ({"description": "words"}, True, True),
            ({"properties": {"id": {"type": "integer"}, "note": {"type": "string"}}}, True, True),
            ({"required": ["id", "note"]}, False, True),
            ({"required": []}, True, False),
            ({"properties": {}}, True, True),
            ({"properties": {"id": {"type": "string"}}}, False, False),
            ({"properties": {"id": {"type": "number"}}}, True, False),
            ({"properties": {"id": {"type": ["integer", "null"]}}}, True, False),
            ({"additionalProperties": False}, False, True),
            ({"properties": {"id": {"type": "integer", "minimum": 1}}}, False, True),
            ({"properties": {"id": {"type": "integer", "enum": [1, 2]}}}, False, True),
            ({"anyOf": [{"minProperties": 1}]}, False, True),
        ],
    )
    def test_what_a_change_breaks(self, change: dict[str, Any], backward: bool, forward: bool) -> None:
        found = compare(schema(**OBJECT), schema(**{**OBJECT, **change}))
        assert (found.is_backward, found.is_forward) == (backward, forward)
        opposite = compare(schema(**{**OBJECT, **change}), schema(**OBJECT))
        assert (opposite.is_backward, opposite.is_forward) == (forward, backward)

    def test_a_closed_object_reads_no_new_property(self) -> None:
        closed = {**OBJECT, "additionalProperties": False}
        more = {**closed, "properties": {**OBJECT["properties"], "note": {}}}
        found = compare(schema(**closed), schema(**more))
        assert (found.is_backward, found.is_forward) == (True, False)
        assert [(one.path, one.what) for one in found.changes] == [("$.note", "is new")]

    def test_the_differences_are_told_by_path(self) -> None:
        new = {**OBJECT, "properties": {"id": {"type": "string"}}, "required": ["id", "at"]}
        assert [(one.path, one.what) for one in compare(schema(**OBJECT), schema(**new)).changes] == [
            ("$.at", "is now required"),
            ("$.id", "may no longer be integer"),
            ("$.id", "may now also be string"),
        ]

    def test_differences_behind_references_are_found(self) -> None:
        def referring(kind: str) -> Any:
            return schema(**{"$defs": {"id": {"type": kind}}, "properties": {"id": {"$ref": "#/$defs/id"}}})

        assert not compare(referring("string"), referring("integer")).is_backward

    def test_schemas_that_refer_to_themselves_are_compared(self) -> None:
        tree = {"type": "object", "properties": {"child": {"$ref": "#"}}}
        assert compare(schema(**tree), schema(**{**tree, "required": ["child"]})).is_forward


class TestInference:
    def test_payloads_keep_to_what_they_suggest(self) -> None:
        payloads: list[Any] = [
            {"id": 1, "lines": [{"sku": "a", "price": 1}, {"sku": "b", "price": 1.5}], "note": None},
            {"id": 2, "lines": [], "note": "x"},
        ]
        suggested = infer(payloads)
        assert suggested["required"] == ["id", "lines", "note"]
        assert suggested["properties"]["note"]["type"] == ["null", "string"]
        assert suggested["properties"]["lines"]["items"]["properties"]["price"]["type"] == "number"
        checker = Checker(read_schema(json.dumps(suggested)))
        assert [checker.problem_of(json.dumps(payload)) for payload in payloads] == ["", ""]

    def test_an_object_with_very_many_names_is_a_map(self) -> None:
        assert "properties" not in infer([{f"k{n}": n for n in range(200)}])
