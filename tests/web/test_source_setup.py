"""Connecting a source on the page: a form for every system, secrets kept, the connection tried, the first event."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.management import call_command
from django.test import Client

from apps.ingest.transports.connecting import options_of
from apps.ingest.transports.polling import WATERMARK
from apps.ingest.transports.systems import SYSTEMS
from apps.projects.models import Project, Source, SourceKind
from tests.web.conftest import SignIn, text_of

ROOT = Path(__file__).resolve().parent.parent.parent
STREAM = "orders-of-the-form"
EVENT = b'{"correlation_id": "order-1", "type": "com.acme.OrderPlaced"}'


@pytest.fixture
def stream(redis_client: Any) -> Any:
    """A real Redis with a stream that the application has made."""
    redis_client.xgroup_create(STREAM, "application", mkstream=True)
    return redis_client


def connect(client: Client, name: str = "orders", system: str = "redis", **options: str) -> Any:
    """Send the form for a new source and go where it leads."""
    given = {"url": settings.REDIS_URL, "streams": STREAM} if system == "redis" else {}
    fields = {f"option-{option}": value for option, value in (given | options).items()}
    return client.post("/sources/new", {"project": "shop", "system": system, "name": name, **fields}, follow=True)


def change(client: Client, source: Source, action: str, **fields: str) -> Any:
    return client.post(f"/sources/{source.pk}", {"project": "shop", "action": action, **fields}, follow=True)


def test_every_system_is_offered_beside_http(sign_in: SignIn) -> None:
    page = text_of(sign_in("admin").get("/sources/new"))

    assert {"kafka", "rabbitmq", "sqs", "nats", "redis", "temporal", "airflow"} <= SYSTEMS.keys()
    assert [name for name in SYSTEMS if f'href="?system={name}"' not in page] == []
    assert 'href="/settings/tokens"' in page


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_form_has_every_option_and_names_a_page_that_is_there(name: str, sign_in: SignIn) -> None:
    system = SYSTEMS[name]
    page = text_of(sign_in("admin").get(f"/sources/new?system={name}"))

    assert [option.name for option in system.options if f'name="option-{option.name}"' not in page] == []
    assert page.count('type="password"') == sum(option.is_secret for option in system.options)
    assert system.page in page
    assert (ROOT / system.page).is_file()


def test_a_source_is_made_tried_and_shows_its_first_event(sign_in: SignIn, stream: Any) -> None:
    admin = sign_in("admin")

    page = text_of(connect(admin))

    source = Source.objects.get(name="orders")
    assert "It works: connected: Redis" in page
    assert "No event yet" in page
    stream.xadd(STREAM, {"payload": EVENT})
    call_command("consume", str(source.pk), project="shop", once=True)
    part = text_of(admin.get(f"/sources/{source.pk}", headers={"HX-Request": "true"}))
    assert "Events arrive" in part
    assert "1 accepted" in part
    assert "<html" not in part


def test_a_secret_is_encrypted_and_never_shown_again(sign_in: SignIn, stream: Any) -> None:
    admin = sign_in("admin")
    secret = "a-very-secret-password"

    made = text_of(connect(admin, schema_registry_password=secret))
    refused = text_of(connect(admin, name="", schema_registry_password=secret))

    source = Source.objects.get()
    assert options_of(source)["schema_registry_password"] == secret
    assert secret not in str(source.settings)
    assert settings.REDIS_URL not in str(source.settings)
    for page in (made, refused, text_of(admin.get(f"/sources/{source.pk}"))):
        assert secret not in page


def test_a_broker_that_is_away_is_said_so_and_the_source_is_kept(sign_in: SignIn, db: None) -> None:
    page = text_of(connect(sign_in("admin"), url="redis://127.0.0.1:1/0"))

    assert "No connection:" in page
    assert "127.0.0.1:1" in page
    assert Source.objects.get().settings["streams"] == STREAM


def test_an_engine_that_is_away_is_said_so(sign_in: SignIn) -> None:
    page = text_of(connect(sign_in("admin"), system="cadence", address="http://127.0.0.1:1", domain="shop"))

    source = Source.objects.get()
    assert (source.kind, source.system) == (SourceKind.POLLER, "cadence")
    assert "No connection:" in page


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": " "}, "must be text of 1 to 128 characters"),
        ({"streams": ""}, "is needed"),
        ({"start": "yesterday"}, "must be one of earliest, latest"),
        ({"system": "cadence", "domain": "d", "every": "often"}, "every:"),
        ({"system": "cadence", "domain": "d", "requests_per_second": "-1"}, "is a number from"),
    ],
)
def test_what_cannot_be_is_said_at_its_field_and_nothing_is_kept(
    fields: dict[str, str], said: str, sign_in: SignIn
) -> None:
    answer = connect(sign_in("admin"), **fields)

    assert answer.status_code == 422
    assert said in text_of(answer)
    assert 'aria-invalid="true"' in text_of(answer) or "start" in fields
    assert not Source.objects.exists()


def test_a_name_is_taken_once(sign_in: SignIn, source: Source, stream: Any) -> None:
    answer = connect(sign_in("admin"), name=source.name)

    assert answer.status_code == 422
    assert "is taken by another source" in text_of(answer)


def test_a_change_keeps_what_was_left_empty(sign_in: SignIn, stream: Any, shop: Project) -> None:
    admin = sign_in("admin")
    connect(admin, schema_registry_password="hidden")
    source = Source.objects.get()
    before = options_of(source)

    fields = {"option-url": "", "option-streams": f"{STREAM}, more", "option-group": ""}
    page = text_of(change(admin, source, "save", name="all-orders", default_flow="order-fulfilment", **fields))

    source.refresh_from_db()
    assert (source.name, source.default_flow) == ("all-orders", "order-fulfilment")
    assert options_of(source) == before | {"streams": f"{STREAM}, more"}
    assert "there is no stream more yet" in page
    revision = shop.revision
    shop.refresh_from_db()
    assert shop.revision == revision + 1


def test_a_change_keeps_how_far_an_engine_was_read(sign_in: SignIn) -> None:
    admin = sign_in("admin")
    connect(admin, system="cadence", address="http://127.0.0.1:1", domain="shop")
    source = Source.objects.get()
    source.settings[WATERMARK] = {"since": 5}
    source.save()

    fields = {"option-address": "http://127.0.0.1:1", "option-domain": "market"}
    change(admin, source, "save", name="orders", **fields)

    source.refresh_from_db()
    assert source.settings["domain"] == "market"
    assert source.settings[WATERMARK] == {"since": 5}


def test_a_source_is_switched_off_on_and_deleted(sign_in: SignIn, stream: Any) -> None:
    admin = sign_in("admin")
    connect(admin)
    source = Source.objects.get()

    assert "switched off" in text_of(change(admin, source, "disable"))
    source.refresh_from_db()
    assert not source.is_active
    change(admin, source, "enable")
    source.refresh_from_db()
    assert source.is_active
    assert "is deleted" in text_of(change(admin, source, "delete"))
    assert not Source.objects.exists()


@pytest.mark.parametrize("role", ["viewer", "operator"])
def test_only_admins_change_a_source_or_see_its_options(role: str, sign_in: SignIn, stream: Any) -> None:
    connect(sign_in("admin"))
    source = Source.objects.get()
    member = sign_in(role)

    assert connect(member, name="second").status_code == 403
    for action in ("save", "disable", "delete", "test"):
        assert change(member, source, action).status_code == 403
    page = text_of(member.get(f"/sources/{source.pk}"))
    assert "No event yet" in page
    assert "option-streams" not in page
    assert Source.objects.get().is_active


def test_a_source_of_another_project_is_not_there(sign_in: SignIn, source: Source) -> None:
    rival = sign_in("foreign")

    answer = rival.post(f"/sources/{source.pk}", {"project": "rival", "action": "delete"})

    assert answer.status_code == 404
    assert Source.objects.filter(pk=source.pk).exists()
