"""Every parser of what strangers send, as a function of bytes: it may only fail in the ways that it declares.

A target returns for good, or raises one of the errors it names; anything else is a finding, and so is an answer that
takes longer than `SLOWEST_SECONDS`. Where two readers of one thing exist, they must agree.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from apps.ingest import documents, redaction
from apps.ingest.formats import HISTORIES, cloudevents, json_path, openlineage, otlp
from apps.ingest.formats.broker_message import BrokerMessage
from apps.ingest.formats.broker_reading import Reading, read
from apps.ingest.formats.decoding import Decoded, Payload
from apps.ingest.formats.histories import HistoryOptions
from apps.ingest.gzip_body import gunzip
from apps.ingest.strict_json import Limits, Refused, Unreadable, check_syntax, read_item, read_plain
from apps.lib import secrets
from apps.lib.keyset import CursorError, decode_cursor
from apps.lib.redaction import FILTERED, HASHED, Policy, normal_key
from apps.projects import privacy, tokens
from apps.projects.models import Project, Source
from apps.sagas import definitions, query

SLOWEST_SECONDS = 2.0
NOW = 1_795_098_600_000_000
LIMITS = Limits()
OPTIONS = HistoryOptions()
#: Hashes what its rules say, and seals what they take out.
_PROJECT = Project(reveals_to="admin", hash_key=secrets.new_key(), seal_key=secrets.new_key())
Target = Callable[[bytes], object]


def strict_json(data: bytes) -> None:
    """What our strict reader takes, Python's takes too and reads alike; what is proven harmless quickly is read so."""
    try:
        check_syntax(data)
        value, flags = read_item(data, LIMITS)
    except (Unreadable, Refused):
        return
    plain = read_plain(data)
    if not flags:
        assert json.loads(data) == value
        assert plain is None or plain == value


def cloudevent_structured(data: bytes) -> None:
    _checked(
        lambda: cloudevents.decode_structured(Payload(body=data, content_type=cloudevents.STRUCTURED), NOW, LIMITS)
    )


def cloudevent_batch(data: bytes) -> None:
    _checked(lambda: cloudevents.decode_batch(Payload(body=data, content_type=cloudevents.BATCH), NOW, LIMITS))


def cloudevent_lines(data: bytes) -> None:
    _checked(lambda: cloudevents.decode_ndjson(Payload(body=data, content_type=cloudevents.NDJSON), NOW, LIMITS))


def cloudevent_headers(data: bytes) -> None:
    """Names and values of headers, one a line, then the body."""
    head, _, body = data.partition(b"\n\n")
    pairs = (line.partition(b":") for line in head.split(b"\n"))
    attributes = {name.decode("latin-1"): value.decode("latin-1") for name, _, value in pairs if name}
    _checked(
        lambda: cloudevents.decode_binary(
            Payload(body=body, content_type=cloudevents.JSON, attributes=attributes), NOW, LIMITS
        )
    )


def traces_protobuf(data: bytes) -> None:
    _checked(lambda: otlp.decode_protobuf(data, OPTIONS, NOW))


def traces_json(data: bytes) -> None:
    _checked(lambda: otlp.decode_json(data, OPTIONS, NOW))


def gzip_limiter(data: bytes) -> None:
    try:
        content = gunzip(data, 1_000_000)
    except Unreadable:
        return
    assert len(content) <= 1_000_000


def broker_message(data: bytes) -> None:
    """The first line are headers as JSON if it can be read so; never raises for what a message holds."""
    head, _, body = data.partition(b"\n")
    try:
        headers = json.loads(head)
    except (ValueError, RecursionError):
        headers, body = {}, data
    if not isinstance(headers, dict):
        headers = {}
    content_type = headers.get("content-type", "")
    message = BrokerMessage(
        system="kafka", source="kafka://x", destination="orders", body=body, place="0/1",
        headers={str(name): value for name, value in headers.items()},
        content_type=content_type if isinstance(content_type, str) else "",
    )  # fmt: skip
    _readable(read(message, Reading(), NOW, LIMITS))


def histories(data: bytes) -> None:
    """The first byte chooses the engine."""
    if not data:
        return
    name = sorted(HISTORIES)[data[0] % len(HISTORIES)]
    try:
        document, _ = documents.read(data[1:], documents.JSON, name, is_history=True)
    except Unreadable:
        return
    _readable(documents.decode_history(name, document, OPTIONS, NOW))


def lineage(data: bytes) -> None:
    try:
        document, _ = documents.read(data, documents.JSON, "openlineage")
    except Unreadable:
        return
    _readable(openlineage.decode(document, OPTIONS, NOW))


def cursor(data: bytes) -> None:
    try:
        decode_cursor(data.decode("latin-1"), secret="s", bound_to=("p", "q"), width=2)
    except CursorError:
        return
    raise AssertionError("a cursor that we did not make was believed")


def token(data: bytes) -> None:
    tokens.is_well_formed(data.decode("utf-8", "replace"))


def queries(data: bytes) -> None:
    """What is read, is written back and read again as the same."""
    text = data.decode("utf-8", "replace")
    try:
        found = query.parse(text)
    except query.QueryError as refused:
        position = refused.position
    else:
        assert query.parse(query.to_text(found)) == found
        return
    assert 0 <= position <= len(text)


def flow_definitions(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    for media_type in ("application/yaml", "application/json"):
        try:
            found = definitions.parse(text, name="f", media_type=media_type)
        except definitions.DefinitionError:
            continue
        assert definitions.parse(definitions.to_yaml(found), name="f") == found


def redacted(data: bytes) -> None:
    """Redacting is stable, and what is planted under a sensitive key is gone."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        redaction.redact_text(data.decode("utf-8", "replace"))
        return
    clean = redaction.redact({"a": value, "password": value})
    assert redaction.redact(clean) == clean
    assert clean["password"] in (None, "[Filtered]")


def redaction_policies(data: bytes) -> None:
    """Rules, as a form sends them or as JSON, an empty line, and a payload: what they name is nowhere kept."""
    head, _, body = data.partition(b"\n\n")
    try:
        rules = _rules(head)
        check_syntax(body or b"null")
        value, _ = read_item(body or b"null", LIMITS)
    except (privacy.RuleError, Refused, Unreadable):
        return
    source = Source(redaction=msgspec.to_builtins(rules), project=_PROJECT)
    assert privacy.read_rules(privacy.show_rules(source)) == rules, "a form would change what it shows"
    policy = privacy.policy_of(privacy.portable(source))
    assert policy is not None
    first_of_keys = {normal_key(rule.text): rule for rule in reversed(rules) if rule.of == "key"}
    named = {rule.text: value for rule in first_of_keys.values()}
    clean, taken = policy.redact(named)
    for rule in first_of_keys.values():
        mark = clean[rule.text]
        assert value is None or mark == FILTERED or mark.startswith(HASHED)
        assert value is None or (mark == FILTERED) == (rule.action == "remove")
    if policy.seal is not None and taken:
        sealed = policy.seal("/shop\0e-1", taken)
        assert privacy.reveal(_PROJECT, sealed, "/shop\0e-1").keys() <= taken.keys()
    _without_what_is_planted(policy, value)


def _rules(head: bytes) -> list[privacy.RedactionRule]:
    """With one more, whose pattern finds what is planted. Raises RuleError."""
    planted = privacy.RedactionRule("remove", "pattern", r"zq9\d{6}qz")
    try:
        given = msgspec.json.decode(head, type=list[privacy.RedactionRule])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        given = privacy.read_rules(head.decode("utf-8", "replace"))
    return privacy.check_rules([*given, planted])


def _without_what_is_planted(policy: Policy, value: Any) -> None:
    planted = "zq9123456qz"
    payload = {"given": value, "deep": [{"x": f"before {planted} after"}], "number": planted, "card": planted}
    sent = {
        "specversion": "1.0", "id": "e-1", "source": "/shop", "type": "Paid", "correlationid": "order-1",
        "subject": f"customers/{planted}", "sagaerror": f"{planted} failed", "fact": planted, "data": payload,
    }  # fmt: skip
    body = msgspec.json.encode(sent)
    with redaction.applying(policy):
        decoded = cloudevents.decode_structured(Payload(body=body, content_type=cloudevents.STRUCTURED), NOW, LIMITS)
        broken = redaction.redact_text(body.decode()[:-2])
    _readable(decoded)
    kept = [msgspec.json.encode(msgspec.structs.replace(event, digest=b"", sealed="")) for event in decoded.events]
    kept += [msgspec.json.encode(rejection) for rejection in decoded.rejections]
    assert planted.encode() not in b"".join(kept)
    assert planted not in broken


def paths(data: bytes) -> None:
    try:
        json_path.parse(data.decode("utf-8", "replace"))
    except ValueError:
        return


def _checked(decode: Callable[[], Decoded]) -> None:
    try:
        decoded = decode()
    except Unreadable:
        return
    _readable(decoded)


def _readable(decoded: Decoded) -> None:
    """Whatever was accepted can be written to PostgreSQL and read back."""
    for event in decoded.events:
        for text in (event.id, event.source, event.type, event.correlation_id, event.step, event.error, event.data):
            if text is not None:
                assert "\0" not in text
                text.encode()
        assert event.id
        assert event.correlation_id
        assert len(event.id.encode()) <= 1024
        assert -(2**63) <= event.occurred_at < 2**63
    for rejection in decoded.rejections:
        assert rejection.code
        rejection.detail.encode()
        assert "\0" not in rejection.detail + rejection.id + rejection.excerpt


TARGETS: Mapping[str, Target] = {
    each.__name__: each
    for each in (
        strict_json, cloudevent_structured, cloudevent_batch, cloudevent_lines, cloudevent_headers, traces_protobuf,
        traces_json, gzip_limiter, broker_message, histories, lineage, cursor, token, queries, flow_definitions,
        redacted, redaction_policies, paths,
    )
}  # fmt: skip


def seeds() -> dict[str, list[bytes]]:
    """What each target begins with: the rows of the bad-input contract, and good examples."""
    import gzip

    from tests.hostile.rows import DOCUMENTS, ITEMS
    from tests.ingest.formats import test_otlp as spans
    from tests.ingest.sending import event, text_of

    items: list[Any] = [row.item for row in (*ITEMS, *DOCUMENTS) if len(row.item) < 4_000]
    good = text_of(event())
    headers = b"\n".join(f"{name}:{value}".encode() for name, value in event(data=None).items()) + b"\n\n{}"
    flow = b"flow: f\nversion: 1\nsteps:\n  - {name: a, deadline: 30s, role: compensable, compensation: {name: b}}\n"
    return {
        **{name: [*items, good] for name in ("strict_json", "cloudevent_structured", "redacted", "lineage")},
        "cloudevent_batch": [b"[" + item + b"]" for item in items],
        "cloudevent_lines": [b"\n".join(items[:5]), *items],
        "cloudevent_headers": [headers],
        "traces_protobuf": [spans.protobuf(lambda _: None)],
        "traces_json": [spans.request(spans.span())],
        "gzip_limiter": [gzip.compress(good), gzip.compress(good) * 2],
        "broker_message": [b'{"content-type":"application/cloudevents+json"}\n' + item for item in items],
        "histories": [bytes([number]) + b'{"events":[]}' for number in range(len(HISTORIES))],
        "queries": [b'flow:order* is:stuck -step:"a b" started:>2026-11-01 duration:>5s x'],
        "flow_definitions": [flow],
        "redaction_policies": [
            b"remove key customer name\nhash key email\n\n" + good,
            b"hash pattern \\b\\d{5} \\d{6}\\b\nremove pattern [a-z]+@[a-z.]+\n\n" + good,
            b'[{"action":"hash","of":"key","text":"customer"}]\n\n' + good,
            *(b"remove key amount\n\n" + item for item in items[::7]),
        ],
        "paths": [b"$.a.b[0]", b"$['a']"],
    }
