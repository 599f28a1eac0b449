"""The query language: what is understood, what is refused and where, and that spelling is stable."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.lib.micros import MINUTE, SECOND
from apps.sagas.query import Pattern, Query, QueryError, Term, Value, parse, to_text
from apps.sagas.query_keys import CLAIMS, KEYS, STATUSES, ValueKind


def exactly(text: str) -> Pattern:
    return Pattern((text,))


@pytest.mark.parametrize(
    ("text", "term"),
    [
        ("flow:order", Term("flow", "=", (exactly("order"),))),
        ("FLOW:order", Term("flow", "=", (exactly("order"),))),
        ("flow=order", Term("flow", "=", (exactly("order"),))),
        ("flow:order*", Term("flow", "=", (Pattern(("order", "")),))),
        ('flow:"order*"', Term("flow", "=", (exactly("order*"),))),
        ('flow:"a b"*c', Term("flow", "=", (Pattern(("a b", "c")),))),
        ('flow:""', Term("flow", "=", (exactly(""),))),
        ("flow!=order", Term("flow", "=", (exactly("order"),), is_negated=True)),
        ("-flow!=order", Term("flow", "=", (exactly("order"),))),
        ("status:failed,timed_out", Term("status", "=", (exactly("failed"), exactly("timed_out")))),
        ("attempts>3", Term("attempts", ">", (3,))),
        ("attempts=3", Term("attempts", "=", (3,))),
        ("age>15m", Term("age", ">", (15 * MINUTE,))),
        ("duration<=5s", Term("duration", "<=", (5 * SECOND,))),
        ("started>=1970-01-02", Term("started", ">=", (86_400 * SECOND,))),
        ("started>=1970-01-01T01:00+01:00", Term("started", ">=", (0,))),
        ("attr.customer=42", Term("attr", "=", (exactly("42"),), name="customer")),
        ('attr."a b":x', Term("attr", "=", (exactly("x"),), name="a b")),
        ("attr.eu.vat!=x", Term("attr", "=", (exactly("x"),), is_negated=True, name="eu.vat")),
        ("-is:stuck", Term("is", "=", (exactly("stuck"),), is_negated=True)),
        ("NOT is:stuck", Term("is", "=", (exactly("stuck"),), is_negated=True)),
        ("comp:owed", Term("comp", "=", (exactly("owed"),))),
        ("7f3a", Term("text", "=", (exactly("7f3a"),))),
        ("-7f3a", Term("text", "=", (exactly("7f3a"),), is_negated=True)),
        ('"urn:order:7"', Term("text", "=", (exactly("urn:order:7"),))),
        (r'"say \"hi\" \\"', Term("text", "=", (exactly('say "hi" \\'),))),
        ("-", Term("text", "=", (exactly("-"),))),
        ("*", Term("text", "=", (exactly("*"),))),
    ],
)
def test_a_term_means(text: str, term: Term) -> None:
    assert parse(text) == Query((term,))


def test_terms_stand_side_by_side() -> None:
    query = parse(
        "  flow:order status:running\twaiting:payment attempts>3 age>15m attr.customer=42 is:stuck comp:owed "
    )
    assert [term.key for term in query.terms] == ["flow", "status", "waiting", "attempts", "age", "attr", "is", "comp"]


def test_an_empty_query_asks_for_everything() -> None:
    assert parse("") == parse("  ") == Query()


@pytest.mark.parametrize("text", ["' OR 1=1", "%", "_", "(a+)+$", "'; DROP TABLE instance; --", "{{7*7}}"])
def test_what_looks_like_code_is_text(text: str) -> None:
    assert all(term.key == "text" for term in parse(text).terms)


@pytest.mark.parametrize(
    ("text", "position", "says"),
    [
        ("flw:order", 0, "Did you mean flow?"),
        ("is:open xyzzy:order", 8, "There are: flow, status"),
        ("is:open order:7", 8, "quotes"),
        ("status:fail", 7, "Did you mean failed?"),
        ("status:failed,nope", 14, "not a value of status"),
        ("is:*", 3, "not a value of is"),
        ("attempts>many", 9, "whole number"),
        ("attempts>99999999999999999999", 9, "whole number"),
        ("attempts>-1", 9, "whole number"),
        ("attempts>1,2", 10, "only one value"),
        ("age>15", 4, "not a duration"),
        ("age:15m", 0, "age>15m"),
        ("started>yesterday", 8, "not a time"),
        ("started>0000-01-01", 8, "not a time"),
        ("flow>order", 0, "compared with : or !="),
        ("flow:", 5, "value is missing"),
        ("flow:a,", 7, "value is missing"),
        ("flow: order", 5, "value is missing"),
        ('flow:"order', 5, "not closed"),
        ('is:open "order', 8, "not closed"),
        ('"order\\"', 0, "not closed"),
        ("attr:42", 0, "attr.customer=42"),
        ("attr.=42", 0, "attr.customer=42"),
        ("is:open NOT", 8, "NOT stands before"),
        ("status:failed OR status:running", 14, "joined by a comma"),
        ("7f3a OR status:running", 5, "joined by a comma"),
        ("flow:a\x00b", 6, "control characters"),
        ("flow:\ud800", 5, "control characters"),
        ("x" * 2001, 2000, "longer than"),
        ("a " * 51, 100, "at most 50 terms"),
        ("flow:" + "a," * 101, 204, "at most 100 alternatives"),
    ],
)
def test_a_query_that_cannot_be_understood_is_refused_where_it_goes_wrong(text: str, position: int, says: str) -> None:
    with pytest.raises(QueryError) as caught:
        parse(text)
    assert says in caught.value.message
    assert caught.value.position == position


@pytest.mark.parametrize("key", KEYS.values(), ids=lambda key: key.name)
def test_every_key_is_described_by_an_example_that_uses_it(key) -> None:
    (term,) = parse(key.example).terms
    assert term.key == key.name
    assert key.description


def test_the_documentation_names_every_key_with_its_example_and_every_claim() -> None:
    text = (Path(__file__).parents[2] / "docs/query-language.md").read_text()
    rows = set(re.findall(r"^\| `(\w+)` \|.*\| `(.+)` \|$", text, re.MULTILINE))
    assert {row for row in rows if row[0] in KEYS} == {(key.name, key.example) for key in KEYS.values()}
    claims = text.partition("## Claims")[2]
    for claim in CLAIMS.keys() - set(STATUSES):
        assert f"`{claim}`" in claims


PIECES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8)
INSTANTS = st.integers(min_value=0, max_value=4_000_000_000_000_000)


def _values(key: str) -> st.SearchStrategy[tuple[str, tuple[Value, ...]]]:
    known = KEYS[key]
    orders = st.sampled_from(["<", "<=", ">", ">="])
    if known.kind is ValueKind.TEXT:
        patterns = st.builds(_pattern, st.lists(PIECES, min_size=1, max_size=3))
        return st.tuples(st.just("="), st.lists(patterns, min_size=1, max_size=3).map(tuple))
    if known.kind is ValueKind.WORD:
        words = st.sampled_from(known.words).map(exactly)
        return st.tuples(st.just("="), st.lists(words, min_size=1, max_size=3).map(tuple))
    if known.kind is ValueKind.NUMBER:
        return st.tuples(orders | st.just("="), st.tuples(st.integers(min_value=0, max_value=2**63 - 1)))
    if known.kind is ValueKind.DURATION:
        return st.tuples(orders, st.tuples(st.integers(min_value=0, max_value=10**12 - 1).map(lambda ms: ms * 1000)))
    return st.tuples(orders, st.tuples(INSTANTS))


def _pattern(pieces: list[str]) -> Pattern:
    """Two wildcards side by side are one."""
    return Pattern((pieces[0], *(piece for piece in pieces[1:-1] if piece), *pieces[1:][-1:]))


@st.composite
def terms(draw: st.DrawFn) -> Term:
    is_negated = draw(st.booleans())
    key = draw(st.sampled_from(["text", *KEYS]))
    if key == "text":
        return Term("text", "=", (exactly(draw(PIECES)),), is_negated)
    operator, values = draw(_values(key))
    name = draw(PIECES.filter(bool)) if key == "attr" else ""
    return Term(key, operator, values, is_negated, name)


@given(st.lists(terms(), max_size=5).map(lambda each: Query(tuple(each))))
def test_the_canonical_spelling_is_read_back_as_the_same_query(query: Query) -> None:
    assert parse(to_text(query)) == query


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_with_a_position_inside_it(text: str) -> None:
    try:
        query = parse(text)
    except QueryError as refused:
        error = refused
    else:
        assert parse(to_text(query)) == query
        return
    assert 0 <= error.position <= len(text)
    assert error.message
