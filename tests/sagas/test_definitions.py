"""A flow definition either reads as exactly what was written, or every problem is named with its line and field."""

from __future__ import annotations

import json
import string
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.sagas.definitions import (
    CompensationDefinition,
    CompensationOrder,
    DefinitionError,
    FlowDefinition,
    StepDefinition,
    StepRole,
    Style,
    duration_text,
    parse,
    to_dict,
    to_yaml,
)

EXAMPLES = sorted((Path(__file__).parents[2] / "docs" / "examples" / "flows").glob("*.yaml"))

ORDER = """\
flow: order-fulfilment
version: 3
style: choreography            # orchestration | choreography | hybrid
deadline: 24h
ends_on: [com.acme.OrderDelivered, com.acme.OrderCancelled]
steps:
  - name: charge-payment
    service: payments
    role: compensable          # compensable | pivot | retriable
    starts_on:    [com.acme.OrderPlaced]
    completes_on: [com.acme.PaymentCharged]
    fails_on:     [com.acme.PaymentDeclined]
    deadline: 30s
    max_attempts: 5
    compensation: {name: refund-payment, completes_on: [com.acme.RefundIssued]}
"""


def problems_of(text: str, **options: str) -> list[tuple[int | None, str]]:
    """(line, field) of every problem."""
    with pytest.raises(DefinitionError) as caught:
        parse(text, **options)
    return [(problem.line, problem.field) for problem in caught.value.problems]


def message_of(text: str, **options: str) -> str:
    with pytest.raises(DefinitionError) as caught:
        parse(text, **options)
    return str(caught.value)


def test_a_definition_reads_as_written_with_deadlines_in_microseconds() -> None:
    assert parse(ORDER, name="order-fulfilment") == FlowDefinition(
        flow="order-fulfilment",
        version="3",
        style=Style.CHOREOGRAPHY,
        deadline=86_400_000_000,
        ends_on=("com.acme.OrderDelivered", "com.acme.OrderCancelled"),
        steps=(
            StepDefinition(
                name="charge-payment",
                service="payments",
                role=StepRole.COMPENSABLE,
                starts_on=("com.acme.OrderPlaced",),
                completes_on=("com.acme.PaymentCharged",),
                fails_on=("com.acme.PaymentDeclined",),
                deadline=30_000_000,
                max_attempts=5,
                compensation=CompensationDefinition(name="refund-payment", completes_on=("com.acme.RefundIssued",)),
            ),
        ),
    )


def test_json_reads_as_the_same_definition() -> None:
    definition = parse(ORDER)
    assert parse(json.dumps(to_dict(definition), indent=1), media_type="application/json") == definition


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_a_valid_definition_and_survives_the_round_trip(path: Path) -> None:
    definition = parse(path.read_text(), name=path.stem)
    assert definition.steps
    assert parse(to_yaml(definition)) == definition


def test_there_are_examples() -> None:
    assert {"order-fulfilment", "travel-booking", "freight"} <= {path.stem for path in EXAMPLES}


def test_what_is_left_out_has_its_stated_default() -> None:
    definition = parse("flow: refunds\nsteps:\n  - name: pay-back\n")
    assert (definition.version, definition.deadline, definition.ends_on) == ("1", None, ())
    assert definition.compensation_order is CompensationOrder.PARTIAL
    assert definition.steps == (StepDefinition(name="pay-back"),)


def test_style_follows_from_the_event_types_when_it_is_left_out() -> None:
    assert parse("flow: a\nsteps: [{name: b}]").style is Style.ORCHESTRATION
    assert parse("flow: a\nsteps: [{name: b, completes_on: [done]}]").style is Style.CHOREOGRAPHY


def test_an_empty_value_counts_as_left_out() -> None:
    assert parse("flow: a\ndeadline:\nsteps: [{name: b, service: null}]").steps[0].service is None


def test_event_types_of_a_flow_are_all_that_it_names() -> None:
    assert parse(ORDER).event_types == {
        "com.acme.OrderPlaced",
        "com.acme.PaymentCharged",
        "com.acme.PaymentDeclined",
        "com.acme.RefundIssued",
        "com.acme.OrderDelivered",
        "com.acme.OrderCancelled",
    }


@pytest.mark.parametrize(
    ("written", "text"),
    [("3", "3"), ("'3'", "3"), ("1.10", "1.10"), ("2024-06", "2024-06"), ("v2", "v2"), ("007", "007"), ("on", "on")],
)
def test_the_version_is_kept_as_it_is_spelt(written: str, text: str) -> None:
    assert parse(f"flow: a\nversion: {written}").version == text


@pytest.mark.parametrize(
    ("written", "micros"),
    [
        ("250ms", 250_000),
        ("30s", 30_000_000),
        ("5m", 300_000_000),
        ("24h", 86_400_000_000),
        ("0s", 0),
        ("3650d", 315_360_000_000_000),
    ],
)
def test_durations(written: str, micros: int) -> None:
    definition = parse(f"flow: a\ndeadline: {written}")
    assert definition.deadline == micros
    assert parse(f"flow: a\ndeadline: {duration_text(micros)}").deadline == micros


@pytest.mark.parametrize(
    "written", ["30", "30 s", "s", "1.5h", "-1s", "1h30m", "PT30S", "3651d", "9999999999999999d", "[30s]", "true"]
)
def test_a_bad_duration_is_named_with_its_line_and_field(written: str) -> None:
    text = f"flow: a\nsteps:\n  - name: b\n    compensation:\n      name: c\n      deadline: {written}\n"
    assert problems_of(text) == [(6, "steps[0].compensation.deadline")]


def test_every_problem_is_named_at_once_in_the_order_of_the_text() -> None:
    text = """\
flow: order
version: [1]
style: anarchy
ends_on: com.acme.Done
colour: red
steps:
  - name: pay
    role: pivotal
    max_attempts: 0
  - service: stock
    deadline: soon
    compensation:
      name: pay
      max_attempts: 1.0
  - ship
"""
    assert problems_of(text, name="orders") == [
        (1, "flow"),
        (2, "version"),
        (3, "style"),
        (4, "ends_on"),
        (5, "colour"),
        (8, "steps[0].role"),
        (9, "steps[0].max_attempts"),
        (10, "steps[1].name"),
        (11, "steps[1].deadline"),
        (13, "steps[1].compensation.name"),
        (14, "steps[1].compensation.max_attempts"),
        (15, "steps[2]"),
    ]


def test_json_problems_have_lines_too() -> None:
    text = '{\n "flow": "a",\n "steps": [\n  {"name": "b",\n   "deadline": "soon",\n   "name": "c"}\n ]\n}'
    assert problems_of(text, media_type="application/json") == [(5, "steps[0].deadline"), (6, "steps[0].name")]


def test_a_problem_says_where_and_what_to_do() -> None:
    assert message_of("flow: a\ndeadline: 30") == (
        "line 2: deadline: must be a whole number and a unit: ms, s, m, h or d, such as 30s"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("flow: a\nflow: b", [(2, "flow")], id="duplicate key"),
        pytest.param("flow: a\nsteps: [{name: b}, {name: b}]", [(2, "steps[1].name")], id="step twice"),
        pytest.param("flow: a\nsteps: [{name: '*'}]", [(2, "steps[0].name")], id="wildcard as a name"),
        pytest.param("flow: 42", [(1, "flow")], id="number as a name"),
        pytest.param("flow: ''", [(1, "flow")], id="empty name"),
        pytest.param("flow: ' a'", [(1, "flow")], id="space before a name"),
        pytest.param('flow: "a\\0b"', [(1, "flow")], id="escaped NUL"),
        pytest.param('flow: "a\\nb"', [(1, "flow")], id="line break in a name"),
        pytest.param(f"flow: {'é' * 129}", [(1, "flow")], id="name of 258 bytes"),
        pytest.param("version: 1", [(1, "flow")], id="no name"),
        pytest.param("- flow: a", [(1, "")], id="a list"),
        pytest.param("just text", [(1, "")], id="a scalar"),
        pytest.param("flow: a\nends_on: [x, x]", [(2, "ends_on[1]")], id="type listed twice"),
        pytest.param("flow: a\nends_on: [1]", [(2, "ends_on[0]")], id="number as a type"),
        pytest.param("flow: a\nsteps: {name: b}", [(2, "steps")], id="steps not a list"),
        pytest.param("flow: a\n<<: {version: 2}", [(2, "<<")], id="merge key"),
        pytest.param("flow: a\nsteps: [{name: b, max_attempts: true}]", [(2, "steps[0].max_attempts")], id="boolean"),
        pytest.param(
            f"flow: a\nsteps: [{{name: b, max_attempts: {'9' * 5000}}}]", [(2, "steps[0].max_attempts")], id="huge"
        ),
    ],
)
def test_refused(text: str, expected: list[tuple[int, str]]) -> None:
    assert problems_of(text) == expected


def test_a_strange_key_is_shown_in_short_and_printable() -> None:
    ((line, field),) = problems_of('flow: a\n"\\e[31m' + "x" * 500 + '": 1')
    assert line == 2
    assert field.isprintable()
    assert len(field) < 100


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        pytest.param(
            "[{name: a, completes_on: [x]}, {name: b, completes_on: [x]}]", "steps[1].completes_on", id="two steps"
        ),
        pytest.param("[{name: a, completes_on: [x], fails_on: [x]}]", "steps[0].fails_on", id="both outcomes"),
        pytest.param("[{name: a, starts_on: [x], completes_on: [x]}]", "steps[0].completes_on", id="start and end"),
        pytest.param(
            "[{name: a, fails_on: [x]}, {name: b, compensation: {name: c, completes_on: [x]}}]",
            "steps[1].compensation.completes_on",
            id="failure and compensation",
        ),
        pytest.param(
            "[{name: a, starts_on: [x], compensation: {name: c, starts_on: [x]}}]",
            "steps[0].compensation.starts_on",
            id="step and its own undoing",
        ),
    ],
)
def test_an_event_type_cannot_mean_two_things_in_one_flow(steps: str, expected: str) -> None:
    assert problems_of(f"flow: f\nsteps: {steps}") == [(2, expected)]


def test_an_event_type_may_end_one_step_start_others_and_end_the_flow() -> None:
    text = """\
flow: f
ends_on: [x]
steps:
  - {name: a, completes_on: [x]}
  - {name: b, starts_on: [x], fails_on: [y]}
  - {name: c, starts_on: [x], compensation: {name: undo-c, starts_on: [y]}}
"""
    assert len(parse(text).steps) == 3


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        pytest.param("", 1, "empty", id="nothing"),
        pytest.param("# only a comment\n", 1, "empty", id="comment"),
        pytest.param("flow: a\nsteps: [", 3, "not YAML", id="cut off"),
        pytest.param("flow: a\n\tversion: 1", 2, "not YAML", id="tab"),
        pytest.param("flow: !!python/object/apply:os.system [id]", 1, "tag", id="tag"),
        pytest.param("flow: !secret a", 1, "tag", id="own tag"),
        pytest.param("flow: a\n---\nflow: b", 2, "second document", id="two documents"),
        pytest.param("flow: a\nsteps: &s [*s]", 2, "refers to itself", id="recursive alias"),
        pytest.param("flow: a\nsteps: *s", 2, "no anchor", id="alias without anchor"),
        pytest.param("flow: a\n? [x]\n: 1", 2, "key must be plain text", id="list as a key"),
        pytest.param("flow: a\nversion: \x07", 2, "U+0007", id="control character"),
        pytest.param("flow: a\nversion: \ud800", 2, "U+D800", id="lone surrogate"),
        pytest.param("flow: " + "[" * 33, 1, "deeper", id="depth"),
        pytest.param("[" * 100_000, 1, "deeper", id="depth bomb"),
        pytest.param("flow: a\nends_on: [" + "x," * 10_001 + "]", 2, "10000", id="too many values"),
    ],
)
def test_unreadable_yaml_is_one_problem_with_its_line(text: str, line: int, words: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        parse(text)
    (problem,) = caught.value.problems
    assert (problem.line, problem.field) == (line, "")
    assert words in problem.message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("{", "missing"),
        ('{"flow": "a"} {}', "follows"),
        ('{"flow": "a",}', "key in double quotes"),
        ("{'flow': 'a'}", "key in double quotes"),
        ('{"flow" "a"}', "':' is missing"),
        ('{"flow": NaN}', "value is missing"),
        ('{"flow": "a\nb"}', "bad string"),
        ('{"flow": "a', "bad string"),
        ("[" * 100_000, "deeper"),
        ("[" + "1," * 10_001 + "1]", "10000"),
        ("flow: a", "not JSON"),
    ],
)
def test_unreadable_json_is_one_problem(text: str, words: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        parse(text, media_type="application/json")
    (problem,) = caught.value.problems
    assert problem.line is not None
    assert words in problem.message


def test_an_escaped_lone_surrogate_in_json_is_refused() -> None:
    assert problems_of('{"flow": "a\\ud800"}', media_type="application/json") == [(1, "flow")]


def test_json_text_outside_the_basic_plane_is_read() -> None:
    assert parse('{"flow": "\\ud83d\\ude9a"}', media_type="application/json").flow == "\U0001f69a"


def test_more_than_256_kib_is_refused_even_if_it_is_a_comment() -> None:
    assert "256 KiB" in message_of("flow: a\n#" + "é" * 131_072)
    assert parse("flow: a\n#" + "x" * 100_000).flow == "a"


def test_an_alias_bomb_is_refused_at_once() -> None:
    lines = ["a: &l0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"k{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 10)]
    before = time.process_time()
    assert "more than" in message_of("\n".join(lines))
    assert time.process_time() - before < 1


def test_a_modest_alias_is_read() -> None:
    text = "flow: a\nsteps:\n  - {name: b, completes_on: [x], deadline: &d 5m}\n  - {name: c, deadline: *d}"
    assert parse(text).steps[1].deadline == 300_000_000


def test_more_than_a_thousand_steps_are_refused() -> None:
    steps = "\n".join(f"  - name: s{n}" for n in range(1_001))
    assert problems_of(f"flow: a\nsteps:\n{steps}") == [(3, "steps")]


_names = st.one_of(
    st.sampled_from(["on", "no", "~", "null", "1", "1.5", "1e5", "0x1F", "22:30", "2024-01-01", "a: b", "#c", "- d"]),
    st.text(alphabet=string.ascii_letters + string.digits + " .:-_#&*!|>'\"%@`é日🚚{}[],", min_size=1, max_size=20),
).filter(lambda name: name == name.strip() and name != "*")
_deadlines = st.none() | st.integers(0, 10**9).map(lambda milliseconds: milliseconds * 1_000)
_attempts = st.none() | st.integers(1, 1_000_000)


@st.composite
def definitions(draw: st.DrawFn) -> FlowDefinition:
    names = draw(st.lists(_names, unique=True, min_size=2, max_size=8))
    types = iter(draw(st.lists(_names, unique=True, min_size=24, max_size=24)))

    def work(name: str) -> dict:
        return {
            "name": name,
            "service": draw(st.none() | _names),
            "starts_on": tuple(next(types) for _ in range(draw(st.integers(0, 1)))),
            "completes_on": tuple(next(types) for _ in range(draw(st.integers(0, 1)))),
            "fails_on": tuple(next(types) for _ in range(draw(st.integers(0, 1)))),
            "deadline": draw(_deadlines),
            "max_attempts": draw(_attempts),
        }

    steps = []
    while names:
        forward = work(names.pop())
        undo = CompensationDefinition(**work(names.pop())) if names and draw(st.booleans()) else None
        steps.append(StepDefinition(**forward, role=draw(st.none() | st.sampled_from(StepRole)), compensation=undo))
    return FlowDefinition(
        flow=draw(_names),
        version=draw(_names),
        style=draw(st.sampled_from(Style)),
        deadline=draw(_deadlines),
        compensation_order=draw(st.sampled_from(CompensationOrder)),
        steps=tuple(steps),
    )


@settings(max_examples=60, deadline=None)
@given(definitions())
def test_any_definition_survives_the_way_through_yaml_and_json(definition: FlowDefinition) -> None:
    assert parse(to_yaml(definition), name=definition.flow) == definition
    assert parse(json.dumps(to_dict(definition)), media_type="application/json") == definition


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200), st.sampled_from(["application/yaml", "application/json"]))
def test_any_text_is_read_or_refused_with_problems(text: str, media_type: str) -> None:
    try:
        parse(text, media_type=media_type)
    except DefinitionError as error:
        assert error.problems  # noqa: PT017 (most texts are refused, a few are not)
