"""Slack, Teams, Telegram, PagerDuty, Opsgenie and Alertmanager: what each is really sent, by a real HTTP server."""

from __future__ import annotations

import json
from typing import Any

import pytest

from apps.alerts.delivery import deliver_due
from apps.alerts.models import DeliveryTry, Rule
from apps.alerts.receivers import RECEIVERS, chat, pagers
from apps.alerts.receivers.outcome import SettingsError
from apps.projects import audit
from tests.alerts.test_receivers import HOSTILE, hostile_incident
from tests.alerts.world import Request, Target, World, answer, at

KEY = "R0123456789ABCDEFGHIJ"
TOKEN = "123456789:AAEhBOweik9ai2o01234567890abcdefgh"


@pytest.fixture
def here(hook: Target, monkeypatch: pytest.MonkeyPatch) -> Target:
    """All services' APIs are the real server on the loopback."""
    base = f"http://127.0.0.1:{hook.port}"
    monkeypatch.setattr(chat, "TELEGRAM", base)
    monkeypatch.setattr(pagers, "PAGERDUTY", {"us": base, "eu": base})
    monkeypatch.setattr(pagers, "OPSGENIE", {"us": base, "eu": base})
    return hook


def story(world: World, target: Target, kind: str, **settings: str) -> list[Request]:
    """Two sagas get stuck, the receiver is told; they go on, and it is told that."""
    world.receiver("told", kind, **settings)
    Rule.objects.filter(project=world.project).delete()
    world.sweep(0)
    Rule.objects.filter(condition="stuck").update(runbook_url="https://wiki.example/stuck")
    world.start("a", "b", service="payments")
    world.sweep(31)
    assert deliver_due(at(32)).sent == 1
    world.complete("a", "b", seconds=90)
    world.sweep(91)
    assert deliver_due(at(92)).sent == 1
    return target.requests


def test_slack_gets_plain_text_blocks_and_buttons_to_page_and_runbook(world: World, here: Target) -> None:
    opened, resolved = story(world, here, "slack", url=here.url)
    header, facts, actions = opened.json["blocks"]
    assert header["text"]["type"] == facts["text"]["type"] == "plain_text"
    assert "2 order-fulfilment sagas wait for charge-payment" in header["text"]["text"]
    assert "Service: payments" in facts["text"]["text"]
    assert [button["url"] for button in actions["elements"]] == [
        "http://127.0.0.1:8000/incidents/1?project=shop",
        "https://wiki.example/stuck",
    ]
    assert "Resolved: " in resolved.json["blocks"][0]["text"]["text"]
    assert "Lasted: 1 min" in resolved.json["blocks"][1]["text"]["text"]


def test_slack_takes_no_name_from_outside_for_markup(world: World, here: Target) -> None:
    world.receiver("told", "slack", url=here.url)
    hostile_incident(world)
    assert deliver_due(at(32)).sent == 1
    said = here.requests[0].json
    assert "<" not in said["text"]
    assert "@everyone" not in json.dumps(said, ensure_ascii=False)
    assert {block["text"]["type"] for block in said["blocks"] if "text" in block} == {"plain_text"}
    assert "\u202e" not in json.dumps(said, ensure_ascii=False)


def test_teams_gets_an_adaptive_card_with_its_markdown_escaped(world: World, here: Target) -> None:
    opened, resolved = story(world, here, "teams", url=here.url)
    card = opened.json["attachments"][0]["content"]
    assert (opened.json["type"], card["type"], card["version"]) == ("message", "AdaptiveCard", "1.4")
    assert card["body"][0]["text"].startswith(r"2 order\-fulfilment sagas wait for charge\-payment")
    assert card["body"][0]["color"] == "Attention"
    assert card["actions"][0]["url"] == "http://127.0.0.1:8000/incidents/1?project=shop"
    assert resolved.json["attachments"][0]["content"]["body"][0]["color"] == "Good"


def test_teams_takes_no_name_from_outside_for_a_link(world: World, here: Target) -> None:
    world.receiver("told", "teams", url=here.url)
    world.start("[pay here](https://evil.test)", step="**bold** <at>everyone</at>", expires_at=at(5))
    world.sweep(31)
    assert deliver_due(at(32)).sent == 1
    text = json.dumps(here.requests[0].json["attachments"][0]["content"]["body"], ensure_ascii=False)
    assert "[pay here](" not in text
    assert "**bold**" not in text
    assert "<at>" not in text


def test_telegram_gets_text_without_a_parse_mode(world: World, here: Target) -> None:
    opened, resolved = story(world, here, "telegram", token=TOKEN, chat="-100123")
    assert opened.path == f"/bot{TOKEN}/sendMessage"
    assert opened.json["chat_id"] == "-100123"
    assert "parse_mode" not in opened.json
    assert opened.json["text"].endswith(
        "http://127.0.0.1:8000/incidents/1?project=shop\nRunbook: https://wiki.example/stuck"
    )
    assert (opened.json["disable_notification"], resolved.json["disable_notification"]) == (False, True)


def test_pagerduty_triggers_one_alert_and_resolves_it_by_its_key(world: World, here: Target) -> None:
    opened, resolved = story(world, here, "pagerduty", api_key=KEY, region="eu")
    assert opened.path == "/v2/enqueue"
    assert (opened.json["routing_key"], opened.json["event_action"]) == (KEY, "trigger")
    payload = opened.json["payload"]
    assert (payload["severity"], payload["source"]) == ("critical", "sagascope/shop")
    assert (payload["component"], payload["group"], payload["class"]) == ("payments", "order-fulfilment", "stuck")
    assert [link["text"] for link in opened.json["links"]] == ["Open in Sagascope", "Runbook"]
    assert resolved.json == {"routing_key": KEY, "event_action": "resolve", "dedup_key": opened.json["dedup_key"]}


def test_opsgenie_makes_one_alert_and_closes_it_by_its_alias(world: World, here: Target) -> None:
    opened, closed = story(world, here, "opsgenie", api_key=KEY, region="us")
    assert (opened.path, opened.headers["authorization"]) == ("/v2/alerts", f"GenieKey {KEY}")
    assert (opened.json["priority"], opened.json["alias"]) == ("P1", "sagascope-shop-1")
    assert len(opened.json["message"]) <= 130
    assert closed.path == "/v2/alerts/sagascope-shop-1/close?identifierType=alias"


def test_an_alert_that_opsgenie_no_longer_has_is_as_good_as_closed(world: World, here: Target) -> None:
    here.reply = lambda request, handler: answer(404 if "/close" in request.path else 202)(request, handler)
    story(world, here, "opsgenie", api_key=KEY, region="us")


def test_the_webhook_as_of_alertmanager_has_every_key_of_version_4(world: World, here: Target) -> None:
    opened, resolved = story(world, here, "alertmanager_webhook", url=here.url, token="t0ken")
    said = opened.json
    assert opened.headers["authorization"] == "Bearer t0ken"
    assert set(said) == {
        *("version", "groupKey", "truncatedAlerts", "status", "receiver", "groupLabels", "commonLabels"),
        *("commonAnnotations", "externalURL", "alerts"),
    }
    assert (said["version"], said["status"], said["truncatedAlerts"]) == ("4", "firing", 0)
    (alert,) = said["alerts"]
    assert set(alert) == {"status", "labels", "annotations", "startsAt", "endsAt", "generatorURL", "fingerprint"}
    assert alert["labels"] == said["commonLabels"]
    assert alert["labels"] == {
        "alertname": "Sagascope stuck",
        "severity": "critical",
        "project": "shop",
        "incident": "1",
        "flow": "order-fulfilment",
        "step": "charge-payment",
        "service": "payments",
    }
    assert (alert["startsAt"], alert["endsAt"]) == ("2026-11-19T14:30:31.000000Z", "0001-01-01T00:00:00Z")
    assert alert["annotations"]["runbook_url"] == "https://wiki.example/stuck"
    over = resolved.json["alerts"][0]
    assert (resolved.json["status"], over["status"]) == ("resolved", "resolved")
    assert (over["labels"], over["fingerprint"]) == (alert["labels"], alert["fingerprint"])
    assert over["endsAt"] == "2026-11-19T14:31:31.000000Z"
    assert resolved.json["groupKey"] == said["groupKey"]


def test_alertmanager_itself_gets_an_alert_that_ends_when_the_incident_does(world: World, here: Target) -> None:
    url = f"http://127.0.0.1:{here.port}/am/"
    opened, resolved = story(world, here, "alertmanager", url=url)
    assert opened.path == "/am/api/v2/alerts"
    (alert,), (over,) = opened.json, resolved.json
    assert set(alert) == {"labels", "annotations", "startsAt", "endsAt", "generatorURL"}
    assert alert["endsAt"].startswith("2026-11-26T14:30:32")
    assert over["labels"] == alert["labels"]
    assert over["endsAt"] == "2026-11-19T14:31:31.000000Z"


@pytest.mark.parametrize("kind", ["slack", "teams", "telegram", "pagerduty", "opsgenie", "alertmanager"])
def test_what_a_target_answers_is_kept_without_anything_of_its_address(kind: str, world: World, here: Target) -> None:
    def reply(request: Request, handler: Any) -> None:
        body = f"bad key {KEY} {TOKEN} at {here.url}{HOSTILE}".encode()
        handler.send_response(400)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    here.reply = reply
    given = {"url": here.url, "api_key": KEY, "region": "us", "token": TOKEN, "chat": "@ops"}
    world.receiver("told", kind, **given)
    world.start("a")
    world.sweep(31)
    assert deliver_due(at(32)).failed == 1
    tried = DeliveryTry.objects.get()
    assert tried.http_status == 400
    assert tried.answer.startswith("bad key ")
    assert "\n" not in tried.answer
    if kind in {"pagerduty", "opsgenie"}:
        assert KEY not in tried.answer
    if kind == "telegram":
        assert TOKEN.split(":")[1] not in tried.answer
    if kind in {"slack", "teams"}:
        assert here.url not in tried.answer


@pytest.mark.parametrize(
    ("kind", "settings", "field"),
    [
        ("slack", {"url": "http://169.254.169.254/"}, "url"),
        ("teams", {"url": ""}, "url"),
        ("telegram", {"token": "../../x", "chat": "1"}, "token"),
        ("telegram", {"token": TOKEN, "chat": "x?y"}, "chat"),
        ("pagerduty", {"api_key": "short", "region": "us"}, "api_key"),
        ("opsgenie", {"api_key": KEY, "region": "moon"}, "region"),
        ("alertmanager", {"url": "http://127.0.0.1:9093"}, "url"),
        ("alertmanager_webhook", {"url": "https://93.184.216.34/", "token": "a\r\nb"}, "token"),
    ],
)
def test_settings_that_cannot_be_right_are_refused(kind: str, settings: dict[str, str], field: str) -> None:
    with pytest.raises(SettingsError) as refused:
        RECEIVERS[kind].check(settings)
    assert list(refused.value.problems) == [field]


@pytest.mark.parametrize("kind", list(RECEIVERS))
def test_the_audit_log_keeps_no_secret_of_a_receivers_form(kind: str) -> None:
    for field in RECEIVERS[kind].fields:
        if field.is_secret:
            kept = audit.harmless(
                {f"setting-{field.name}": f"https://{KEY}.test/{KEY}" if field.name == "url" else KEY}
            )
            assert KEY not in str(kept)
