"""Strict JSON: what is proven harmless quickly must be what the slow judge finds harmless too."""

from __future__ import annotations

import json
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.ingest import redaction
from apps.ingest.gzip_body import gunzip
from apps.ingest.strict_json import (
    Limits,
    Refused,
    Unreadable,
    bound,
    check_syntax,
    is_plain,
    is_small,
    read_item,
    read_plain,
    split_array,
)

LIMITS = Limits()

texts = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(['":', '\\":', " :", "\0", "[[", "}"])
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=20
)


def refusal(text: str | bytes, limits: Limits = LIMITS) -> str:
    """The code with which one item is refused; "" when it is not."""
    try:
        read_item(text.encode() if isinstance(text, str) else text, limits)
    except Refused as refused:
        return refused.code
    return ""


def nested(depth: int) -> str:
    """An object nested so deep, itself included."""
    return '{"a":' + "[" * (depth - 1) + "]" * (depth - 1) + "}"


def is_proven(body: bytes) -> bool:
    """Whether an object of one nested value passes the quick way, as a format uses it."""
    value = read_plain(body)
    if type(value) is not dict:
        return False
    encoded = b"".join(msgspec.json.encode(child) for child in value.values())
    flat = len(value)
    return is_small(encoded, LIMITS) and is_plain(body, flat_keys=flat, nested=encoded)


@given(values, st.booleans(), st.sampled_from([None, 1, (" ,", " :"), (", ", ": ")]))
def test_what_is_proven_quickly_is_what_the_slow_judge_reads(value: Any, ascii_only: bool, spacing: Any) -> None:
    layout = {"separators": spacing} if isinstance(spacing, tuple) else {"indent": spacing}
    body = json.dumps({"data": value}, ensure_ascii=ascii_only, **layout).encode()

    if is_proven(body):
        slow, flags = read_item(body, LIMITS)
        assert read_plain(body) == slow
        assert flags == ()


@given(st.lists(st.tuples(st.sampled_from(["a", 'b":', "c"]), scalars), min_size=1, max_size=5), st.booleans())
def test_a_duplicate_key_is_never_proven_harmless(pairs: list[tuple[str, Any]], spaced: bool) -> None:
    colon = " :" if spaced else ":"
    inside = ",".join(json.dumps(key) + colon + json.dumps(value) for key, value in pairs)
    has_duplicate = len({key for key, _ in pairs}) < len(pairs)

    if has_duplicate:
        assert not is_proven(b'{"data":{' + inside.encode() + b"}}")


@pytest.mark.parametrize(
    "body",
    [
        '{"data":{"a" :1,"a":2}}',
        '{"data":{"a":1,"\\u0061":2}}',
        '{"data":{"a":1,"a":2,"b":"x\\u0022:"}}',
        '{"data":{"a":1,"a":2,"b":"x\\"\\u003a"}}',
        '{"data":{"a":1,"a":2,"b":"x\\"\\u003A"}}',
        '{"data":1,"data":2}',
        '{"data":{"a"\n:1,"a":2}}',
        '{"data":{"a"\t:1,"a":2}}',
    ],
)
def test_tricks_that_hide_a_duplicate_key_from_counting(body: str) -> None:
    assert not is_proven(body.encode())
    assert refusal(body) == "duplicate_key"


def test_brackets_inside_strings_cannot_hide_depth() -> None:
    body = '{"data":' + '["]",' * 60 + "1" + ',"["]' * 60 + "}"

    assert not is_proven(body.encode())
    assert refusal(body) == "too_deep"


@pytest.mark.parametrize("depth", [1, 2, 31, 32])
def test_depth_up_to_the_limit_is_read(depth: int) -> None:
    assert refusal(nested(depth) if depth > 1 else "{}") == ""


@pytest.mark.parametrize("depth", [33, 100, 256])
def test_depth_beyond_the_limit_concerns_the_item(depth: int) -> None:
    assert refusal(nested(depth)) == "too_deep"


@pytest.mark.parametrize("text", [nested(1_000), nested(200_000), '{"a":[' * 100_000, '[{"a":' * 100_000])
def test_absurd_depth_is_refused_as_a_whole_in_no_time(text: str) -> None:
    body = text.encode()
    started = time.process_time()

    with pytest.raises(Unreadable) as refused:
        check_syntax(body)

    assert refused.value.code == "too_deep"
    assert time.process_time() - started < 0.05


@pytest.mark.parametrize("number", ["1e308", "-1.7976931348623157e308", "1e-310", "1e+0000000308"])
def test_numbers_at_the_edge_of_a_double_cost_no_more_than_others(number: str) -> None:
    body = f"[{','.join([number] * 20_000)}]".encode()
    started = time.process_time()

    assert read_plain(body) == [float(number)] * 20_000
    assert time.process_time() - started < 0.1


def test_absurd_depth_that_the_parser_bears_is_refused_as_a_whole_too() -> None:
    with pytest.raises(Unreadable, match="too deeply"):
        read_item(nested(400).encode(), LIMITS)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('{"a":1e400}', "number_out_of_range"),
        ('{"a":-1e400}', "number_out_of_range"),
        ('{"a":1e131071}', "number_out_of_range"),
        ('{"a":' + "9" * 5000 + "}", "number_out_of_range"),
        ('{"a":"\\u0000"}', "nul_character"),
        ('{"a\\u0000":1}', "nul_character"),
        ('{"' + "k" * 257 + '":1}', "key_too_long"),
        ('{"' + "é" * 129 + '":1}', "key_too_long"),
        ('{"a":[' + ",".join("1" * 10_000) + "]}", "too_many_nodes"),
        ('{"a":1,"a":2}', "duplicate_key"),
        ('{"a":[{"b":1,"b":1}]}', "duplicate_key"),
        ('{"a":"' + "x" * 1_048_576 + '"}', "event_too_large"),
        (b'{"a":"\xff"}', "invalid_utf8"),
        (b'{"a":"\xc0\xaf"}', "invalid_utf8"),
        (b'{"a":"\xed\xa0\x80"}', "invalid_utf8"),
    ],
)
def test_what_is_refused_of_one_item(text: str | bytes, code: str) -> None:
    assert refusal(text) == code


@pytest.mark.parametrize(
    "text",
    [
        '{"' + "k" * 256 + '":1}',
        '{"a":[' + ",".join("1" * 9_998) + "]}",
        '{"a":-0.0,"b":1E-400}',
        '{"a":9223372036854775807,"b":-9223372036854775808}',
        '{"__proto__":1,"constructor":2}',
        '{"a":"\ufffe\U0010ffff","b":"\\ud83d\\ude00"}',
    ],
)
def test_what_is_read(text: str) -> None:
    assert refusal(text) == ""


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**30 - 1, 12345678901234567890])
def test_an_integer_that_readers_would_round_becomes_its_decimal_text(number: int) -> None:
    value, flags = read_item(json.dumps({"n": number, "l": [number]}).encode(), LIMITS)

    assert value == {"n": str(number), "l": [str(number)]}
    assert flags == ("big_integer",)
    assert not is_proven(json.dumps({"data": {"n": number}}).encode())


@pytest.mark.parametrize(("text", "kept"), [("x" * 65_537, 65_536), ("é" * 40_000, 32_768), ("x" * 65_536, 65_536)])
def test_a_long_string_is_cut_in_whole_characters(text: str, kept: int) -> None:
    value, flags = bound({"s": text}, LIMITS)

    assert value["s"] == text[:kept]
    assert flags == (("truncated",) if kept < len(text) else ())


@pytest.mark.parametrize(
    "body",
    [
        b"[1,]", b"[1 2]", b"[1]x", b"[1][2]", b"['a']", b"[+1]", b"[01]", b"[0x10]", b"[.5]", b"[1.]", b"[/**/1]",
        b"[NaN]", b"[Infinity]", b"[-Infinity]", b'["a\x01"]', b'["a\nb"]', b'["\\ud800"]', b'["\\udc00"]',
        b'[{"\\ud800":1}]', b'["\\x"]', b'["a', b"[", b"nul", "[1]".encode("utf-16"), "[1]".encode("utf-32"),
        b"\xff\xfe[1]",
    ],
)  # fmt: skip
def test_what_is_no_json_is_refused_as_a_whole(body: bytes) -> None:
    with pytest.raises(Unreadable) as refused:
        split_array(body)
    assert refused.value.code == "invalid_json"
    assert read_plain(body) is None


def test_many_keys_cost_little() -> None:
    body = json.dumps({f"{n:016x}": 0 for n in range(9_000)}).encode()
    started = time.process_time()

    read_item(body, LIMITS)

    assert time.process_time() - started < 1.0


@pytest.mark.parametrize(
    "key",
    ["password", "Password", "userPassword", "client_secret", "API-Key", "apiKey", "api_key", "X-Api-Key",
     "accessToken", "Authorization", "card", "cardNumber", "card_number", "cvv", "IBAN", "ssn", "customer.email",
     "PRIVATE_KEY"],
)  # fmt: skip
def test_sensitive_keys_are_filtered_at_any_depth(key: str) -> None:
    value = {"a": [{key: "planted", "other": 1}], key: {"inner": "planted"}}

    assert redaction.may_hold(json.dumps(value).encode())
    assert "planted" not in json.dumps(redaction.redact(value))
    assert "planted" not in redaction.redact_text(json.dumps({"x": {key: "planted"}})[:-3])


@pytest.mark.parametrize("key", ["discard", "session", "cardinality", "secretary", "tokens_used", "assn", "order"])
def test_words_inside_words_are_not_sensitive(key: str) -> None:
    assert redaction.redact({key: "kept"}) == {key: "kept"}


def test_null_stays_null() -> None:
    assert redaction.redact({"token": None}) == {"token": None}


def test_gzip_members_are_joined_and_bounded() -> None:
    import gzip

    assert gunzip(gzip.compress(b"[1,") + gzip.compress(b"2]"), 100) == b"[1,2]"
    with pytest.raises(Unreadable) as refused:
        gunzip(gzip.compress(b"[") + gzip.compress(b" " * 1000), 1000)
    assert refused.value.status == 413
