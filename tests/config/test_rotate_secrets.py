"""Changing the key of stored secrets: everything is written anew, and the old key can go."""

from __future__ import annotations

from typing import Any

import pytest
from allauth.mfa.models import Authenticator
from django.contrib.auth import get_user_model
from django.core.management import call_command

from apps.alerts.models import Receiver
from apps.alerts.receivers.stored import save_receiver, settings_of
from apps.dlq.models import DeadLetterQueue
from apps.dlq.queues import save_queue
from apps.ingest.transports.options import Option, seal, unseal
from apps.lib import secrets
from apps.projects.models import AuditEntry, Project, Source

pytestmark = pytest.mark.django_db

OPTIONS = (Option("url", "URL"), Option("password", "Password", is_secret=True))


@pytest.fixture
def stored(settings: Any) -> Project:
    """One secret of every kind, under the old key."""
    settings.ENCRYPTION_KEYS = ["the old key"]
    project = Project.objects.create(slug="shop", name="Shop")
    hook = {"url": "https://93.184.216.34/hook"}
    save_receiver(project.pk, name="hook", kind="webhook", settings=hook)
    save_queue(project.pk, name="dlt", system="kafka", given={"bootstrap_servers": "kafka:9092", "topic": "dlt"})
    sealed = seal(OPTIONS, {"url": "amqp://broker", "password": "hunter2"})
    Source.objects.create(project=project, name="orders", settings=sealed)
    Source.objects.create(project=project, name="plain", settings={"url": "x"})
    user = get_user_model().objects.create_user("ada")
    Authenticator.objects.create(user=user, type="totp", data={"secret": secrets.encrypt("JBSWY3DP")})
    seed = {"seed": secrets.encrypt("seed"), "used_mask": 5}
    Authenticator.objects.create(user=user, type="recovery_codes", data=seed)
    return project


def only_key(settings: Any, key: str) -> None:
    """No other key is known any more, not even by way of SECRET_KEY."""
    settings.ENCRYPTION_KEYS, settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = [key], key, []


def test_everything_is_readable_with_the_new_key_alone(stored: Project, settings: Any) -> None:
    before = settings_of(Receiver.objects.get())
    settings.ENCRYPTION_KEYS = ["the new key", "the old key"]

    call_command("rotate_secrets")

    only_key(settings, "the new key")
    assert settings_of(Receiver.objects.get()) == before
    secrets.decrypt(DeadLetterQueue.objects.get().settings_token)
    orders = Source.objects.get(name="orders").settings
    assert unseal(OPTIONS, orders) == {"url": "amqp://broker", "password": "hunter2"}
    assert Source.objects.get(name="plain").settings == {"url": "x"}
    assert secrets.decrypt(Authenticator.objects.get(type="totp").data["secret"]) == "JBSWY3DP"
    codes = Authenticator.objects.get(type="recovery_codes").data
    assert (secrets.decrypt(codes["seed"]), codes["used_mask"]) == ("seed", 5)
    assert AuditEntry.objects.get().action == "rotate_secrets"


def test_what_cannot_be_read_is_named_and_left_as_it_is(
    stored: Project, settings: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = Receiver.objects.get().settings_token
    only_key(settings, "the new key")

    with pytest.raises(SystemExit):
        call_command("rotate_secrets")

    assert "cannot be read with the present keys" in capsys.readouterr().err
    assert Receiver.objects.get().settings_token == kept
