"""CloudEvents to SagaEvents: every mode, every attribute, every decision about time."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.ingest.formats import FORMATS, Decoded, Payload
from apps.ingest.formats.event_time import parse_time, parse_usual_time
from apps.ingest.strict_json import Limits, Unreadable
from apps.lib.micros import from_datetime, isoformat
from apps.sagas.events import EventKind, SagaEvent, TimeQuality
from tests.ingest.sending import BATCH, JSON, NDJSON, STRUCTURED, event, text_of

RECEIVED_AT = from_datetime(datetime(2026, 11, 19, 15, 0, tzinfo=UTC))
LIMITS = Limits()


def decode(body: bytes | Any, content_type: str = JSON, attributes: dict[str, str] | None = None) -> Decoded:
    text = body if isinstance(body, bytes) else text_of(body)
    payload = Payload(body=text, content_type=content_type, attributes=attributes or {})
    return FORMATS["cloudevents"](payload, RECEIVED_AT, LIMITS)


def one(**changes: Any) -> SagaEvent:
    """The event that a good one with these changes becomes; the same by the quick and by the close way."""
    item = event(**changes)
    (quick,) = decode(item).events
    # Spaces before colons prove nothing, so this spelling is always judged closely.
    (close,) = decode(json.dumps(item, separators=(" , ", " : ")).encode()).events
    assert quick == close
    return quick


def refused(**changes: Any) -> str:
    (rejection,) = decode(event(**changes)).rejections
    return rejection.code


def test_every_attribute_finds_its_place() -> None:
    found = one(
        subject="o-1",
        causationid="c-1, c-2",
        traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        sequence="7",
        expirytime="2026-11-20T00:00:00Z",
        dataref="https://store.example/1",
        dataschema="https://schema.example/1",
        sagaflowversion="3",
        sagarun="r-1",
        sagastepid="s-1",
        sagaattempt=2,
        sagaservice="payments",
        sagaerror="declined",
        idempotencykey="k-1",
        data={"amount": 5, "note": "ü", "paid": True, "lines": [1], "none": None},
    )

    assert found == SagaEvent(
        source="https://shop.example/payments",
        id="e-1",
        type="com.acme.PaymentCharged",
        correlation_id="order-1",
        occurred_at=from_datetime(datetime(2026, 11, 19, 14, 29, 30, 123456, tzinfo=UTC)),
        received_at=RECEIVED_AT,
        sequence="00000000000000000007",
        causation_ids=("c-1", "c-2"),
        kind=EventKind.STEP_COMPLETED,
        flow="order-fulfilment",
        flow_version="3",
        run="r-1",
        step="charge-payment",
        step_id="s-1",
        attempt=2,
        service="payments",
        error="declined",
        expires_at=from_datetime(datetime(2026, 11, 20, tzinfo=UTC)),
        idempotency_key="k-1",
        trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
        span_id="00f067aa0ba902b7",
        subject="o-1",
        data_schema="https://schema.example/1",
        data_ref="https://store.example/1",
        attributes={"amount": "5", "note": "ü", "paid": "true"},
        data='{"amount":5,"note":"ü","paid":true,"lines":[1],"none":null}',
        digest=found.digest,
    )


def test_a_bare_event_says_nothing_about_sagas() -> None:
    found = one(sagaflow=None, sagastep=None, sagakind=None, data=None)

    assert (found.kind, found.flow, found.step, found.data) == (None, None, None, None)


@pytest.mark.parametrize("kind", list(EventKind))
def test_every_kind_is_known(kind: EventKind) -> None:
    assert one(sagakind=str(kind)).kind is kind
    assert one(sagakind=str(kind)).flags == ()


def test_an_unknown_kind_is_kept_as_info_and_flagged() -> None:
    for kind in ("step.exploded", "compensation.exploded", "STEP.STARTED", "compensation"):
        found = one(sagakind=kind)
        assert (found.kind, found.flags) == (EventKind.INFO, ("unknown_kind",))


def test_compensation_is_another_spelling_of_a_step_that_undoes() -> None:
    found = one(sagakind="compensation.completed")
    assert (found.kind, found.compensates) == (EventKind.STEP_COMPLETED, "*")
    assert one(sagakind="compensation.failed", sagacompensates="charge").compensates == "charge"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"id": None}, "missing_id"),
        ({"source": None}, "missing_source"),
        ({"type": None}, "missing_type"),
        ({"specversion": None}, "missing_specversion"),
        ({"correlationid": None}, "missing_correlation"),
        ({"specversion": "0.3"}, "unsupported_specversion"),
        ({"specversion": 1.0}, "wrong_type"),
        ({"id": ""}, "empty_value"),
        ({"id": "  \t"}, "empty_value"),
        ({"correlationid": "\u2003"}, "empty_value"),
        ({"id": 5}, "wrong_type"),
        ({"id": True}, "wrong_type"),
        ({"id": ["a"]}, "wrong_type"),
        ({"id": "x" * 257}, "too_long"),
        ({"id": "é" * 129}, "too_long"),
        ({"correlationid": "x" * 100_000}, "too_long"),
        ({"sagastep": "x" * 257}, "too_long"),
        ({"source": "x" * 1025}, "too_long"),
        ({"causationid": "x" * 257}, "too_long"),
        ({"causationid": ",".join(map(str, range(101)))}, "too_many_causes"),
        ({"sagaattempt": 0}, "invalid_attempt"),
        ({"sagaattempt": -1}, "invalid_attempt"),
        ({"sagaattempt": 2**31}, "invalid_attempt"),
        ({"sagaattempt": 2**63}, "invalid_attempt"),
        ({"sagaattempt": True}, "wrong_type"),
        ({"sagaattempt": "5"}, "wrong_type"),
        ({"sagaattempt": 1.0}, "wrong_type"),
        ({"sagaflow": {"name": "x"}}, "wrong_type"),
        ({"data_base64": "AA=="}, "data_twice"),
        ({"data": None, "data_base64": "A"}, "invalid_base64"),
        ({"data": None, "data_base64": 5}, "wrong_type"),
        ({"data": None, "data_base64": "ew=="}, "invalid_data"),
    ],
)
def test_what_is_refused_names_its_reason(changes: dict[str, Any], code: str) -> None:
    assert refused(**changes) == code


def test_details_do_not_repeat_what_was_sent() -> None:
    planted = "<script>planted"
    for changes in ({"id": planted * 30}, {"time": planted}, {"sagaattempt": planted}, {"specversion": planted}):
        (rejection,) = decode(event(**changes)).rejections
        assert "planted" not in rejection.detail


@pytest.mark.parametrize(
    ("text", "expected", "flags"),
    [
        ("2026-11-19T14:29:30Z", "2026-11-19T14:29:30.000000Z", ()),
        ("2026-11-19t14:29:30z", "2026-11-19T14:29:30.000000Z", ()),
        ("2026-11-19T16:29:30.5+02:00", "2026-11-19T14:29:30.500000Z", ()),
        ("2026-11-19T09:59:30-04:30", "2026-11-19T14:29:30.000000Z", ()),
        ("2026-11-19T14:29:30.123456789Z", "2026-11-19T14:29:30.123456Z", ()),
        ("2026-11-19T14:29:30", "2026-11-19T14:29:30.000000Z", ("assumed_utc",)),
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00.000000Z", ("leap_second",)),
        ("2017-01-01T01:59:60.5+02:00", "2017-01-01T00:00:00.000000Z", ("leap_second",)),
        ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00.000000Z", ("clock_skew",)),
        ("1999-12-31T23:59:59Z", "1999-12-31T23:59:59.000000Z", ("clock_skew",)),
        ("2026-11-20T15:00:00Z", "2026-11-20T15:00:00.000000Z", ()),
        ("2026-11-20T15:00:00.000001Z", "2026-11-20T15:00:00.000001Z", ("clock_skew",)),
        ("2036-11-19T14:29:30Z", "2036-11-19T14:29:30.000000Z", ("clock_skew",)),
        ("9999-12-30T23:59:59.999999Z", "9999-12-30T23:59:59.999999Z", ("clock_skew",)),
    ],
)
def test_times_that_are_read(text: str, expected: str, flags: tuple[str, ...]) -> None:
    found = one(time=text)

    assert isoformat(found.occurred_at) == expected
    assert (found.flags, found.time_quality) == (flags, TimeQuality.EXACT)


@pytest.mark.parametrize(
    "text",
    [
        "", "now", "infinity", "-infinity", "10000-01-01T00:00:00Z", "-0044-03-15T00:00:00Z", "1969-12-31T23:59:59Z",
        "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59-14:00", "2026-02-30T00:00:00Z",
        "2026-11-19T24:00:00Z", "2026-11-19T14:60:00Z", "2026-11-19T14:29:60Z", "2026-11-19T14:29:61Z",
        "2026-11-19T14:29:30+99:00", "2026-11-19T14:29:30+02:60", "2026-11-19T14:29:30+0200", "2026-11-19", "20261119",
        "2026-11-19T14:29Z", "2026-11-19T142930Z", "2026-11-19T14:29:30,5Z", "2026-11-19T14:29:30.Z", "1795098570",
        "2026-W47-4T14:29:30Z", "２０２６-11-19T14:29:30Z", "2026-11-19T14:29:30Z ", "2026-11-19T14:29:30.1.1Z",
    ],
)  # fmt: skip
def test_times_that_are_refused(text: str) -> None:
    assert refused(time=text) == "invalid_time"
    assert refused(expirytime=text) == "invalid_time"


@pytest.mark.parametrize("number", [1795098570, 1795098570123, 1795098570.5, True])
def test_a_number_is_no_time(number: Any) -> None:
    assert refused(time=number) == "wrong_type"


@given(st.text("0123456789-:TZ.+ tzW", max_size=30) | st.datetimes().map(lambda at: at.isoformat() + "Z"))
def test_the_quick_reading_of_times_is_the_exact_one(text: str) -> None:
    def outcome(read: Any) -> Any:
        try:
            return read(text)
        except ValueError:
            return None

    assert outcome(parse_usual_time) == outcome(parse_time)


def test_an_event_without_time_happened_when_it_came() -> None:
    found = one(time=None)

    assert (found.occurred_at, found.time_quality) == (RECEIVED_AT, TimeQuality.RECEIVED)


def test_nanoseconds_are_kept_beside_the_time() -> None:
    assert one(time="2026-11-19T14:29:30.123456789Z").attributes["time"] == "2026-11-19T14:29:30.123456789Z"


def test_sequences_order_as_numbers_do() -> None:
    texts = [one(sequence=value).sequence for value in ("9", "10", 11, "100")]
    assert texts == sorted(texts)
    assert one(sequence="shard-a:7").sequence == "shard-a:7"


def test_null_means_absent() -> None:
    item = event() | {"subject": None, "sagaattempt": None, "tenant": None}

    assert decode(item).events == decode(event()).events


@pytest.mark.parametrize(
    "traceparent",
    ["x", "00-" + "0" * 32 + "-00f067aa0ba902b7-01", "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"],
)
def test_an_invalid_traceparent_is_flagged_not_refused(traceparent: str) -> None:
    found = one(traceparent=traceparent)
    assert (found.trace_id, found.flags) == (None, ("invalid_traceparent",))


def test_unknown_attributes_are_kept() -> None:
    found = one(tenant="acme", priority=5, urgent=False, nested={"a": [1]}, data=None)
    assert found.attributes == {"tenant": "acme", "priority": "5", "urgent": "false", "nested": '{"a":[1]}'}


def test_attributes_are_bounded() -> None:
    found = one(long="x" * 300, **{f"a{n}": "v" for n in range(30)})
    assert len(found.attributes) == 20
    assert found.flags == ("truncated",)
    assert len(one(data={"long": "x" * 257, "short": "y"}).attributes) == 1


def test_long_error_texts_are_cut() -> None:
    found = one(sagaerror="x" * 5000)
    assert (len(found.error or ""), found.flags) == (4096, ("truncated",))


def test_secrets_are_not_kept_but_still_compared() -> None:
    first = one(data={"card": "planted-1", "order": "o"}, authtoken="x", customeremail="planted", apikey="planted")
    second = one(data={"card": "planted-2", "order": "o"}, authtoken="x", customeremail="planted", apikey="planted")

    assert json.loads(first.data or "") == {"card": "[Filtered]", "order": "o"}
    assert first.attributes["apikey"] == "[Filtered]"
    assert "card" not in first.attributes
    assert "planted-1" not in repr(first)
    assert first.digest != second.digest


@pytest.mark.parametrize(
    "other",
    [
        lambda item: dict(reversed(item.items())),
        lambda item: item | {"time": "2026-11-19T15:29:30.123456+01:00"},
        lambda item: item | {"datacontenttype": "application/json"},
        lambda item: item | {"data": dict(reversed(item["data"].items()))},
        lambda item: item | {"subject": None},
    ],
)
def test_the_same_event_spelt_otherwise_is_the_same(other: Any) -> None:
    item = event(data={"a": 1, "b": "ü"})

    assert decode(item).events[0].digest == decode(other(item)).events[0].digest
    escaped = json.dumps(other(item), indent=2).encode()
    assert decode(item).events[0].digest == decode(escaped).events[0].digest


@pytest.mark.parametrize("change", [{"data": {"amount": 6}}, {"time": "2026-11-19T14:29:30Z"}, {"tenant": "x"}])
def test_another_content_is_another_event(change: dict[str, Any]) -> None:
    assert one().digest != one(**change).digest


def test_the_same_message_in_every_mode_is_the_same_event() -> None:
    item = event(sagaattempt=2, sequence="5", data={"a": [1, {"b": None}]})
    attributes = {name: str(value) for name, value in item.items() if name != "data"}
    (structured,) = decode(item, STRUCTURED).events

    assert decode([item], BATCH).events == [structured]
    assert decode([item], JSON).events == [structured]
    assert decode(text_of(item) + b"\n\n", NDJSON).events == [structured]
    (binary,) = decode(text_of(item["data"]), JSON, attributes).events
    assert binary.digest == structured.digest
    assert (binary.data, binary.attempt, binary.attributes) == (structured.data, 2, structured.attributes)


def test_base64_data_is_unpacked_where_it_can_be_read() -> None:
    encoded = base64.b64encode(b'{"amount": 5}').decode()
    assert one(data=None, data_base64=encoded).data == '{"amount":5}'
    text = one(data=None, data_base64=base64.b64encode("grüezi".encode()).decode(), datacontenttype="text/plain")
    assert text.data == '"grüezi"'
    image = one(data=None, data_base64="/9g=", datacontenttype="image/jpeg")
    assert (image.data, image.flags) == ('"/9g="', ("base64",))


def test_a_batch_names_its_bad_items_by_position_and_keeps_the_others() -> None:
    items = [event(n) for n in range(50)]
    items[25] = event(25, id=None)
    items[30] = event(30, time="yesterday")
    decoded = decode(items)

    assert [(r.index, r.id, r.code) for r in decoded.rejections] == [
        (25, "", "missing_id"),
        (30, "e-30", "invalid_time"),
    ]
    assert decoded.positions == [n for n in range(50) if n not in {25, 30}]
    assert [found.id for found in decoded.events] == [f"e-{n}" for n in decoded.positions]


@pytest.mark.parametrize("item", [b"[]", b"3", b'"x"', b"null"])
def test_an_item_that_is_no_object_is_refused_alone(item: bytes) -> None:
    decoded = decode(b"[" + text_of(event()) + b"," + item + b"]")
    assert [(r.index, r.code) for r in decoded.rejections] == [(1, "not_an_object")]
    assert len(decoded.events) == 1


@pytest.mark.parametrize("line", [b"{", b"[NaN]", b'{"a":"\x01"}', b'{"a":"\\ud800"}', b"[" * 1000, b"{} {}", b"x"])
def test_a_line_that_is_no_json_is_refused_alone(line: bytes) -> None:
    decoded = decode(text_of(event(1)) + b"\n" + line + b"\n\r\n" + text_of(event(2)), NDJSON)

    assert [found.id for found in decoded.events] == ["e-1", "e-2"]
    assert [rejection.index for rejection in decoded.rejections] == [1]


def test_lines_are_not_glued_together() -> None:
    first, second = text_of(event(1))[:-1], b'"subject":"x"}'
    assert len(decode(first + b",\n" + second, NDJSON).rejections) == 2


def test_excerpts_hold_no_secret() -> None:
    (rejection,) = decode(event(id=None, data={"password": "planted"})).rejections
    assert "planted" not in rejection.excerpt
    assert "com.acme.PaymentCharged" in rejection.excerpt
    (rejection,) = decode(b'{"password":"planted-without-end', NDJSON).rejections
    assert "planted" not in rejection.excerpt


def test_large_batches_bound_each_event() -> None:
    big = event(2, data={"a": ["x" * 60_000] * 20})
    decoded = decode([event(1), big, event(3)])
    assert [(r.index, r.code) for r in decoded.rejections] == [(1, "event_too_large")]


def test_a_large_but_allowed_payload_is_kept_whole() -> None:
    lines = [{"sku": f"s-{n}", "note": "x" * 100} for n in range(500)]
    assert json.loads(one(data={"lines": lines}).data or "") == {"lines": lines}


@pytest.mark.parametrize(("content_type", "status"), [("text/plain", 415), ("", 415), ("application/xml", 415)])
def test_other_types_are_not_read(content_type: str, status: int) -> None:
    with pytest.raises(Unreadable) as refusal:
        decode(event(), content_type)
    assert refusal.value.status == status
