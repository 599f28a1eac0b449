"""What is taken out of events before they are stored, and who may see it again: all through HTTP."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import jsonschema
import pytest
from django.core.management import call_command
from django.db import connection
from django.test import Client, override_settings

from apps.config.erasure import erase, find_by_attribute
from apps.projects import privacy, tokens
from apps.projects.models import AuditEntry, Project, Source
from apps.projects.tokens import create_token
from apps.sagas.models import Event
from tests.web.conftest import SignIn, text_of

SECRETS = {
    "email": "ada@example.com",
    "customer": {"fullName": "Ada Lovelace", "id": 4711},
    "note": "call 07911 123456 at noon",
    "total": 12,
}
RULES = "hash key email\nremove key full name\nhash key customer id\nhash key id\nremove pattern \\b\\d{5} \\d{6}\\b\n"
PLANTED = ("ada@example.com", "Lovelace", "123456", "4711")


def send(source: Source, data: Any, *, event_id: str = "1", correlation: str = "order-1", **more: str) -> Any:
    """Post one event as the source."""
    token = create_token(source.project, ["ingest"], source=source, name="test")
    body = {
        "specversion": "1.0",
        "id": event_id,
        "source": "//shop/orders",
        "type": "OrderPlaced",
        "correlationid": correlation,
        "time": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        "data": data,
        **more,
    }
    return Client().post(
        "/api/v1/events",
        body,
        content_type="application/cloudevents+json",
        headers={"Authorization": f"Bearer {token}"},
    )


def stored() -> str:
    """All that is kept, in any table, as text."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
            " AND relname NOT LIKE 'django%' AND relname NOT LIKE 'auth%'"
        )
        texts = []
        for (table,) in cursor.fetchall():
            cursor.execute(f"SELECT coalesce(string_agg(t::text, chr(10)), '') FROM \"{table}\" t")
            texts.append(cursor.fetchone()[0])
    return "\n".join(texts)


@pytest.fixture
def ruled(source: Source, sign_in: SignIn) -> Source:
    """The source with rules, as an admin typed them."""
    answer = sign_in("admin").post(f"/sources/{source.pk}", {"action": "redaction", "redaction_rules": RULES})
    assert answer.status_code == 302
    return source


@pytest.fixture
def revealing(ruled: Source, sign_in: SignIn) -> Source:
    """The same in a project that keeps what was removed, for admins."""
    allow(sign_in, "admin")
    return ruled


def allow(sign_in: SignIn, whom: str) -> None:
    fields = {"name": "Corner shop", "retention_days": 30, "skew_tolerance_seconds": 1, "orphan_grace_seconds": 300}
    assert sign_in("admin").post("/settings", {**fields, "reveals_to": whom}).status_code == 302


def ask(client: Client, event_id: str = "1", reason: str = "complaint 2041 of the customer") -> Any:
    form = {"source": "//shop/orders", "event": event_id, "reason": reason}
    return client.post("/reveal/order-1", form)


def test_what_the_rules_name_is_never_stored(ruled: Source) -> None:
    assert send(ruled, SECRETS, sagaerror="07911 123456 does not answer").status_code == 200

    everything = stored()
    assert [each for each in PLANTED if each in everything] == []
    assert "12" in everything
    assert "[Filtered] does not answer" in everything


def test_a_refused_item_is_kept_without_what_the_rules_name(ruled: Source) -> None:
    answer = send(ruled, SECRETS, correlation="")

    assert answer.status_code == 422
    everything = stored()
    assert "total" in everything
    assert [each for each in PLANTED if each in everything] == []


def test_equal_values_stay_comparable_and_can_be_searched_for(ruled: Source, sign_in: SignIn) -> None:
    send(ruled, {"email": "ada@example.com"}, event_id="1", correlation="order-1")
    send(ruled, {"email": "ada@example.com"}, event_id="2", correlation="order-2")
    send(ruled, {"email": "bob@example.com"}, event_id="3", correlation="order-3")

    kept = {row.event_id: row.data for row in Event.objects.all()}
    assert kept["1"] == kept["2"] != kept["3"]
    hashed = kept["1"].split('"')[3]
    assert hashed.startswith("hashed:")
    page = text_of(sign_in("viewer").get("/instances", {"q": f'attr.email="{hashed}"'}))
    assert "order-1" in page
    assert "order-2" in page
    assert "order-3" not in page


def test_another_project_hashes_otherwise(ruled: Source, rival: Project) -> None:
    theirs = Source.objects.create(project=rival, name="theirs")
    privacy.save_rules(theirs, privacy.read_rules("hash key email"))

    send(ruled, {"email": "ada@example.com"})
    send(theirs, {"email": "ada@example.com"})

    first, second = Event.objects.values_list("data", flat=True)
    assert first != second


def test_sent_again_after_a_change_of_rules_it_is_the_same_event(ruled: Source) -> None:
    sent = {"time": "2026-11-20T10:00:00Z"}
    assert send(ruled, SECRETS, **sent).json()["accepted"] == 1

    privacy.save_rules(ruled, [])
    tokens.forget_cached()
    again = send(ruled, SECRETS, **sent).json()

    assert (again["accepted"], again["duplicates"], again["rejected"]) == (0, 1, [])


@pytest.mark.parametrize(
    ("rules", "problem"),
    [
        ("forget key email", "line 1"),
        ("remove key", "line 1"),
        ("remove key email\nremove pattern (", "line 2"),
        ("remove pattern a*", "finds nothing"),
        ("remove pattern (?=a)", "no pattern"),
        ("remove pattern " + "a" * 301, "300"),
        ("\n".join(["remove key a"] * 101), "100 rules"),
    ],
)
def test_a_rule_that_cannot_be_is_refused_and_shown_again(
    rules: str, problem: str, source: Source, sign_in: SignIn
) -> None:
    answer = sign_in("admin").post(f"/sources/{source.pk}", {"action": "redaction", "redaction_rules": rules})

    assert answer.status_code == 422
    assert problem in text_of(answer)
    source.refresh_from_db()
    assert source.redaction == []


def test_a_pattern_of_bad_will_costs_no_time(source: Source) -> None:
    privacy.save_rules(source, privacy.read_rules("remove pattern (a+)+$"))

    assert send(source, {"text": "a" * 60_000 + "b"}).status_code == 200


def test_a_key_of_many_words_is_found_by_its_whole_name(source: Source) -> None:
    words = "home phone number of next of kin"
    privacy.save_rules(source, privacy.read_rules(f"remove key {words}"))
    send(source, {"home_phone_number_of_next_of_kin": "07911 123456", "homePhoneNumber": "known"})
    assert "123456" not in stored()
    assert "known" in stored()


@pytest.mark.parametrize("text", ["a\nremove key b", "a ", " a", "a\u2028b"])
def test_a_rule_that_a_form_would_show_as_another_is_refused(text: str) -> None:
    with pytest.raises(privacy.RuleError, match="one line"):
        privacy.check_rules([privacy.RedactionRule("remove", "pattern", text)])


def test_programs_read_and_replace_the_rules(source: Source, shop: Project) -> None:
    read, operate = (create_token(shop, [scope], name=scope) for scope in ("read", "operate"))
    address = f"/api/v1/sources/{source.pk}/redaction"
    rules = {"rules": [{"action": "hash", "of": "key", "text": "customer id"}]}

    def put(token: str, body: Any) -> Any:
        headers = {"Authorization": f"Bearer {token}"}
        return Client().put(address, body, content_type="application/json", headers=headers)

    assert put(read, rules).status_code == 403
    assert put(operate, {"rules": [{"action": "hash", "of": "pattern", "text": "("}]}).status_code == 422
    assert put(operate, rules).json() == rules
    assert Client().get(address, headers={"Authorization": f"Bearer {read}"}).json() == rules


def test_nothing_is_kept_unless_the_project_asks_for_it(ruled: Source, sign_in: SignIn) -> None:
    send(ruled, SECRETS)

    assert "sealed" not in stored()
    assert "Nothing is kept to reveal" in text_of(ask(sign_in("admin")))


def test_an_admin_reveals_for_a_reason_which_the_audit_log_keeps(revealing: Source, sign_in: SignIn) -> None:
    send(revealing, SECRETS)
    everything = stored()
    assert "sealed" in everything
    assert [each for each in PLANTED if each in everything] == []

    page = sign_in("admin").get("/correlations/order-1?event=1&source=//shop/orders")
    assert "Reveal values" in text_of(page)
    assert "ada@example.com" not in text_of(page)
    answer = ask(sign_in("admin"))

    assert [each for each in PLANTED if each not in text_of(answer)] == []
    assert "no-store" in answer.headers["Cache-Control"]
    entry = AuditEntry.objects.get(action="reveal")
    assert (entry.actor, entry.project_id) == ("admin", revealing.project_id)
    assert entry.details["reason"] == "complaint 2041 of the customer"
    assert "$.customer.fullName" in entry.details["places"]
    assert [each for each in PLANTED if each in str(entry.details)] == []


def test_without_a_reason_nothing_is_revealed(revealing: Source, sign_in: SignIn) -> None:
    send(revealing, SECRETS)

    answer = ask(sign_in("admin"), reason="  why  ")

    assert answer.status_code == 422
    assert "ada@example.com" not in text_of(answer)
    assert not AuditEntry.objects.filter(action="reveal").exists()


@pytest.mark.parametrize(
    ("whom", "role", "status"),
    [
        ("admin", "viewer", 403),
        ("admin", "operator", 403),
        ("operator", "viewer", 403),
        ("operator", "operator", 200),
        ("operator", "foreign", 200),
    ],
)
def test_only_who_the_project_names_may_reveal(
    whom: str, role: str, status: int, ruled: Source, sign_in: SignIn
) -> None:
    allow(sign_in, whom)
    send(ruled, SECRETS)
    client = sign_in(role)

    answer = ask(client)

    assert answer.status_code == status
    assert ("ada@example.com" in text_of(answer)) is (whom == role)
    link = text_of(client.get("/correlations/order-1?event=1&source=//shop/orders"))
    assert ("Reveal values" in link) is (whom == role)


def test_what_cannot_be_written_down_is_not_revealed(
    revealing: Source, sign_in: SignIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(revealing, SECRETS)
    client = sign_in("admin")
    client.raise_request_exception = False

    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("the log cannot be written")

    monkeypatch.setattr("apps.projects.audit.note", refuse)
    answer = ask(client)

    assert answer.status_code == 500
    assert "ada@example.com" not in text_of(answer)


def test_switched_off_what_was_kept_is_lost_for_good(revealing: Source, sign_in: SignIn) -> None:
    send(revealing, SECRETS)

    allow(sign_in, "")
    allow(sign_in, "admin")

    assert "The key is gone" in text_of(ask(sign_in("admin")))


def test_the_values_of_one_event_cannot_be_opened_as_anothers(revealing: Source, sign_in: SignIn) -> None:
    send(revealing, SECRETS)
    send(revealing, {"email": "bob@example.com"}, event_id="2")
    first = Event.objects.get(event_id="1")
    Event.objects.filter(event_id="2").update(attributes=first.attributes)

    assert "The key is gone" in text_of(ask(sign_in("admin"), event_id="2"))


def test_erasing_reaches_what_was_kept_to_reveal(revealing: Source, sign_in: SignIn) -> None:
    send(revealing, {**SECRETS, "tenant": "acme"}, subject="order/1")
    ids = find_by_attribute(revealing.project, "tenant", "acme")

    erase(revealing.project, ids, by="test", really=True)

    assert ids == ["order-1"]
    assert not Event.objects.exists()
    assert "Nothing is kept of this event" in text_of(ask(sign_in("admin")))


def test_a_new_encryption_key_takes_over_both_keys(revealing: Source, sign_in: SignIn, capsys: Any) -> None:
    send(revealing, SECRETS)
    before = Project.objects.get(pk=revealing.project_id)

    with override_settings(ENCRYPTION_KEYS=("a new key of more than fifty characters, made by nobody",)):
        call_command("rotate_secrets")
        after = Project.objects.get(pk=revealing.project_id)
        assert before.hash_key != after.hash_key
        assert before.seal_key != after.seal_key
        with override_settings(SECRET_KEY="another key, so that the first one is gone for good, really"):
            assert (
                privacy.reveal(
                    after, Event.objects.get().attributes.split('"sealed":"')[1].split('"')[0], "//shop/orders\x001"
                )["$.email"]
                == "ada@example.com"
            )


def test_an_engines_history_follows_the_rules_and_the_same_again_is_a_duplicate(revealing: Source) -> None:
    token = create_token(revealing.project, ["ingest"], source=revealing, name="history")
    document = {
        "workflowId": "w-1",
        "workflowType": "order",
        "status": "COMPLETED",
        "createTime": 1763600000000,
        "startTime": 1763600000000,
        "endTime": 1763600001000,
        "input": SECRETS,
        "tasks": [],
    }

    def post() -> Any:
        headers = {"Authorization": f"Bearer {token}"}
        return Client().post("/api/v1/histories/conductor", document, content_type="application/json", headers=headers)

    first, second = post().json(), post().json()

    assert first["accepted"] > 0
    assert first["rejected"] == second["rejected"] == []
    assert second["duplicates"] == first["accepted"]
    everything = stored()
    assert [each for each in PLANTED if each in everything] == []
    assert "sealed" in everything


def test_the_rules_are_answered_as_described(ruled: Source, shop: Project) -> None:
    token = create_token(shop, ["read"], name="reader")
    headers = {"Authorization": f"Bearer {token}"}
    document = Client().get("/api/v1/openapi.json").json()
    operation = document["paths"]["/api/v1/sources/{number}/redaction"]["get"]
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]

    body = Client().get(f"/api/v1/sources/{ruled.pk}/redaction", headers=headers).json()

    jsonschema.Draft202012Validator({**schema, "components": document["components"]}).validate(body)
    assert body["rules"][0] == {"action": "hash", "of": "key", "text": "email"}
