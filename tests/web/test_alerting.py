"""Pages of rules, receivers, silences and causes: what people do there, and who may."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from apps.alerts import queries
from apps.alerts.models import Delivery, Incident, MaintenanceWindow, Receiver, Rule, Silence
from apps.alerts.receivers.stored import save_receiver, settings_of
from apps.alerts.rules import RuleDraft, ensure_built_in, save_rule
from apps.alerts.sweeping import sweep
from apps.lib import micros
from apps.lib.micros import HOUR, MINUTE
from apps.projects.models import Project
from tests.alerts.world import Target, target
from tests.web.conftest import SignIn, text_of

RULE = {"condition": "stuck", "pending": "2m", "cooldown": "30m", "severity": "warning", "enabled": "on"}


@pytest.fixture
def mail(shop: Project) -> Receiver:
    """Somebody who is told by mail."""
    return save_receiver(shop.pk, name="On call", kind="email", settings={"to": "oncall@example.org"})


@pytest.fixture
def hook(shop: Project, settings: Any) -> Any:
    """A webhook into a real server, and that server."""
    settings.WEBHOOK_ALLOWED_NETWORKS = ["127.0.0.0/8"]
    with target() as running:
        save_receiver(shop.pk, name="Pager", kind="webhook", settings={"url": running.url})
        yield running


def post(client: Client, path: str, **fields: Any) -> Any:
    return client.post(path, fields)


# Rules


def test_a_rule_is_made_with_thresholds_grouping_escalation_owner_and_runbook(
    sign_in: SignIn, shop: Project, mail: Receiver
) -> None:
    fields = RULE | {
        "name": "Many wait",
        "set-at_least": "5",
        "group_by": ["flow", "service"],
        "query": "flow:order*",
        "after-0": "15m",
        "escalate-0": [mail.pk],
        "owner": "team",
        "runbook_url": "https://wiki.example/",
        "dry_run": "on",
        "receivers": [mail.pk],
        "action": "save",
    }
    answer = post(sign_in("admin"), "/settings/rules/new", **fields)

    assert answer.status_code == 302
    rule = Rule.objects.get(name="Many wait")
    assert (rule.parameters, rule.group_by) == ({"at_least": 5}, ["flow", "service"])
    assert rule.escalation == [{"after_us": 15 * MINUTE, "receivers": [mail.pk]}]
    assert (rule.owner, rule.runbook_url, rule.is_dry_run) == ("team", "https://wiki.example/", True)


def test_a_form_shows_what_a_rule_holds_and_saving_it_unchanged_changes_nothing(sign_in: SignIn, shop: Project) -> None:
    draft = RuleDraft(name="Fails", condition="failure_rate", parameters={"limit": 0.25, "window": 600})
    rule = save_rule(shop.pk, draft)
    page = text_of(sign_in("admin").get(f"/settings/rules/{rule.pk}"))
    assert 'name="set-limit" value="25%"' in page
    assert 'name="set-window" value="10m"' in page

    fields = {"set-limit": "25%", "set-window": "10m", "set-minimum": "20", "name": "Fails", **RULE}
    post(sign_in("admin"), f"/settings/rules/{rule.pk}", **fields | {"condition": "failure_rate", "action": "save"})
    rule.refresh_from_db()
    assert rule.parameters == {"limit": 0.25, "window": 600.0}


def test_a_rule_is_tried_on_the_past_and_not_saved(sign_in: SignIn, trouble: None, shop: Project) -> None:
    answer = post(sign_in("admin"), "/settings/rules/new", **RULE | {"name": "New", "pending": "0s", "action": "try"})

    page = text_of(answer)
    assert answer.status_code == 200
    assert "It would have opened 1 incident" in page
    assert "/correlations/order-stuck" in page
    assert not Rule.objects.filter(name="New").exists()


def test_a_rule_that_found_nothing_in_the_past_says_so(sign_in: SignIn, trouble: None) -> None:
    fields = RULE | {"name": "New", "query": "flow:nothing", "action": "try"}
    assert "It would have opened no incident." in text_of(post(sign_in("admin"), "/settings/rules/new", **fields))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("set-at_least", "many", "is not a number"),
        ("after-0", "1s", "between 1m and 7d"),
        ("runbook_url", "javascript:alert(1)", "an http or https address"),
        ("query", "staus:x", "Did you mean status?"),
    ],
)
@pytest.mark.parametrize("action", ["save", "try"])
def test_what_cannot_be_judged_is_refused_where_it_was_typed(
    action: str, field: str, value: str, words: str, sign_in: SignIn, mail: Receiver
) -> None:
    fields = RULE | {"name": "New", "escalate-0": [mail.pk] if field == "after-0" else [], field: value}
    answer = post(sign_in("admin"), "/settings/rules/new", **fields | {"action": action})

    assert answer.status_code == 422
    assert words in text_of(answer)
    assert not Rule.objects.filter(name="New").exists()


def test_every_kind_of_rule_has_a_form(sign_in: SignIn, shop: Project) -> None:
    from apps.alerts.conditions import CONDITIONS

    admin = sign_in("admin")
    for code, condition in CONDITIONS.items():
        page = text_of(admin.get(f"/settings/rules/new?condition={code}"))
        assert f'name="condition" value="{code}"' in page
        assert condition.label in page


def test_viewers_see_a_rule_and_no_form(sign_in: SignIn, shop: Project) -> None:
    ensure_built_in()
    rule = Rule.objects.get(project=shop, condition="stuck")
    assert "<textarea" not in (page := text_of(sign_in("viewer").get(f"/settings/rules/{rule.pk}")))
    assert "Admins can change rules." in page


# Receivers


def test_a_receiver_is_changed_and_what_is_left_empty_is_kept(sign_in: SignIn, hook: Target) -> None:
    receiver = Receiver.objects.get()
    before = settings_of(receiver)
    admin = sign_in("admin")

    fields = {"action": "save", "name": "Night pager", "setting-url": "", "setting-secret": "", "digest": "1h"}
    assert post(admin, f"/settings/receivers/{receiver.pk}", **fields).status_code == 302
    receiver.refresh_from_db()
    assert (receiver.name, settings_of(receiver)) == ("Night pager", before)
    assert (receiver.digest_us, receiver.is_critical_at_once) == (HOUR, False)
    page = text_of(admin.get(f"/settings/receivers/{receiver.pk}"))
    assert before["url"] not in page
    assert before["secret"] not in page


def test_a_new_secret_is_shown_once_and_the_old_one_signs_for_a_day(sign_in: SignIn, hook: Target) -> None:
    receiver = Receiver.objects.get()
    old = settings_of(receiver)["secret"]
    admin = sign_in("admin")

    page = text_of(post(admin, f"/settings/receivers/{receiver.pk}", action="rotate"))
    receiver.refresh_from_db()
    new = settings_of(receiver)["secret"]
    assert new != old
    assert new in page
    again = text_of(admin.get(f"/settings/receivers/{receiver.pk}"))
    assert new not in again
    assert "The old secret goes on signing beside the new one" in again

    post(admin, f"/settings/receivers/{receiver.pk}", action="test")
    assert len(hook.requests[0].headers["webhook-signature"].split()) == 2


def test_the_log_shows_every_try_with_its_answer_and_sends_again(sign_in: SignIn, hook: Target) -> None:
    receiver = Receiver.objects.get()

    def reply(request: Any, handler: Any) -> None:
        handler.send_response(500)
        handler.send_header("Content-Length", "9")
        handler.end_headers()
        handler.wfile.write(b"<b>no</b>")

    hook.reply = reply
    admin = sign_in("admin")
    post(admin, f"/settings/receivers/{receiver.pk}", action="test")
    page = text_of(admin.get(f"/settings/receivers/{receiver.pk}"))
    assert "&lt;b&gt;no&lt;/b&gt;" in page
    assert "given up" in page

    post(admin, f"/settings/receivers/{receiver.pk}", action="again", delivery=Delivery.objects.get().message_id)
    assert Delivery.objects.get().status == "pending"


def test_a_message_to_another_receiver_is_not_sent_again_from_here(
    sign_in: SignIn, hook: Target, mail: Receiver
) -> None:
    admin = sign_in("admin")
    post(admin, f"/settings/receivers/{mail.pk}", action="test")
    theirs = Delivery.objects.get().message_id
    other = Receiver.objects.get(name="Pager")
    post(admin, f"/settings/receivers/{other.pk}", action="again", delivery=theirs)
    assert Delivery.objects.get().status == "sent"


def test_every_kind_of_receiver_has_a_form(sign_in: SignIn, shop: Project) -> None:
    from apps.alerts.receivers import RECEIVERS

    admin = sign_in("admin")
    for code, kind in RECEIVERS.items():
        page = text_of(admin.get(f"/settings/receivers?kind={code}"))
        assert all(f'name="setting-{field.name}"' in page for field in kind.fields)


# Silences and maintenance windows


def test_an_operator_silences_a_rule_and_ends_it(sign_in: SignIn, trouble: None, shop: Project) -> None:
    sweep(micros.now())
    rule = Rule.objects.get(project=shop, condition="stuck")
    operator = sign_in("operator")
    fields = {"action": "silence", "rule": rule.pk, "query": "flow:order*", "for": "4h", "comment": "upgrade"}
    assert post(operator, "/settings/silences", **fields).status_code == 302
    silence = Silence.objects.get()
    assert (silence.rule, silence.query, silence.created_by) == (rule, "flow:order*", "operator")
    assert silence.ends_at - silence.starts_at == 4 * HOUR
    page = text_of(operator.get("/settings/silences"))
    assert "upgrade" in page

    post(operator, "/settings/silences", action="lift", silence=silence.pk)
    silence.refresh_from_db()
    assert silence.ends_at <= micros.now()


def test_a_silence_with_a_misspelt_query_is_refused_with_the_reason(sign_in: SignIn) -> None:
    answer = post(sign_in("operator"), "/settings/silences", action="silence", query="staus:x", **{"for": "1h"})
    assert answer.status_code == 422
    assert "Did you mean status?" in text_of(answer)


def test_a_weekly_window_is_planned_and_called_off(sign_in: SignIn, shop: Project) -> None:
    operator = sign_in("operator")
    fields = {
        "action": "window",
        "name": "Night",
        "repeats": "weekly",
        "weekdays": ["5", "6"],
        "begins": "02:00",
        "length": "2h",
        "time_zone": "Europe/Berlin",
    }
    post(operator, "/settings/silences", **fields)
    page = text_of(operator.get("/settings/silences"))
    assert "Saturday, Sunday at 02:00 for 2h, Europe/Berlin" in page
    post(operator, "/settings/silences", action="delete", window=MaintenanceWindow.objects.get().pk)
    assert not MaintenanceWindow.objects.exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"weekdays": []}, "at least one day"),
        ({"time_zone": "Moon"}, "a time zone such as"),
        ({"length": "long"}, "is not a duration"),
        ({"repeats": "once"}, "a day and time such as"),
    ],
)
def test_a_window_that_makes_no_sense_is_refused(changes: dict[str, Any], words: str, sign_in: SignIn) -> None:
    fields = {
        "action": "window",
        "name": "Night",
        "repeats": "weekly",
        "weekdays": ["6"],
        "begins": "02:00",
        "length": "2h",
        "time_zone": "UTC",
    }
    answer = post(sign_in("operator"), "/settings/silences", **fields | changes)
    assert answer.status_code == 422
    assert words in text_of(answer)


def test_silences_of_another_project_are_out_of_reach(sign_in: SignIn, rival: Project) -> None:
    now = micros.now()
    theirs = Silence.objects.create(project=rival, starts_at=now, ends_at=now + HOUR)
    assert post(sign_in("operator"), "/settings/silences", action="lift", silence=theirs.pk).status_code == 404


# Incidents and causes


@pytest.fixture
def stuck(trouble: None, shop: Project) -> Incident:
    """The incident about the stuck saga of the shop."""
    sweep(micros.now())
    return Incident.objects.get(project=shop, condition="stuck")


def test_an_operator_takes_an_incident_on_and_writes_a_note(sign_in: SignIn, stuck: Incident) -> None:
    operator = sign_in("operator")
    address = f"/incidents/{stuck.number}"
    post(operator, address, action="assign", me="1")
    post(operator, address, action="note", note="<b>restarting</b> payments")
    page = text_of(operator.get(address))
    assert "assigned by operator" in page
    assert "&lt;b&gt;restarting&lt;/b&gt; payments" in page
    stuck.refresh_from_db()
    assert stuck.owner == "operator"
    assert "Not saved: a note has 1 to" in text_of(post(operator, address, action="note", note="").client.get(address))


def test_an_incident_links_to_the_runbook_and_to_a_silence_for_it(sign_in: SignIn, stuck: Incident) -> None:
    Incident.objects.update(runbook_url="https://wiki.example/stuck")
    page = text_of(sign_in("operator").get(f"/incidents/{stuck.number}"))
    assert 'href="https://wiki.example/stuck" rel="noopener noreferrer"' in page
    assert f"rule={stuck.rule_id}" in page
    Incident.objects.update(runbook_url="javascript:alert(1)")
    assert "javascript:" not in text_of(sign_in("operator").get(f"/incidents/{stuck.number}"))


def test_a_dry_run_is_marked_and_counts_for_nobody(sign_in: SignIn, stuck: Incident, shop: Project) -> None:
    before = queries.count_unresolved(shop.pk)
    Incident.objects.filter(pk=stuck.pk).update(is_dry_run=True)
    assert queries.count_unresolved(shop.pk) == before - 1
    assert "dry run: nobody is told" in text_of(sign_in("viewer").get(f"/incidents/{stuck.number}"))


def test_stuck_sagas_are_listed_by_cause(sign_in: SignIn, stuck: Incident) -> None:
    page = text_of(sign_in("viewer").get("/incidents/stuck"))
    assert "1 saga is stuck, for 1 cause" in page
    assert "/correlations/order-stuck" in page
    assert f"INC-{stuck.number}" in page
    fragment = text_of(sign_in("viewer").get("/incidents/stuck", headers={"HX-Request": "true"}))
    assert "<html" not in fragment
    assert "order-stuck" in fragment


def test_nothing_stuck_says_so(sign_in: SignIn) -> None:
    assert "Nothing is stuck" in text_of(sign_in("viewer").get("/incidents/stuck"))
