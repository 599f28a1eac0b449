"""How people and machines are told. One module per kind; docs/adding-a-receiver.md shows how to add one.

A kind checks settings before they are stored and sends one message at a time. It knows no database, no retry and no
other receiver: it gets through (`Sent`) or raises `DeliveryError`, within 15 seconds or so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from apps.alerts.messages import Message
from apps.alerts.receivers.alertmanager import AlertmanagerReceiver, AlertmanagerWebhookReceiver
from apps.alerts.receivers.apprise import AppriseReceiver
from apps.alerts.receivers.chat import SlackReceiver, TeamsReceiver, TelegramReceiver
from apps.alerts.receivers.email import EmailReceiver
from apps.alerts.receivers.outcome import Field, Sent
from apps.alerts.receivers.pagers import OpsgenieReceiver, PagerDutyReceiver
from apps.alerts.receivers.webhook import WebhookReceiver

Settings = Mapping[str, str]


class Kind(Protocol):
    """A kind of receiver."""

    code: str
    label: str
    fields: tuple[Field, ...]

    def check(self, settings: Settings) -> dict[str, str]:
        """The settings as they are to be stored, defaults filled in. Raises SettingsError."""

    def describe(self, settings: Settings) -> str:
        """The settings in a few words, nothing secret in them."""

    def send(self, settings: Settings, message: Message) -> Sent:
        """Say it, once. Raises DeliveryError."""


_ALL: tuple[Kind, ...] = (
    EmailReceiver(),
    SlackReceiver(),
    TeamsReceiver(),
    PagerDutyReceiver(),
    OpsgenieReceiver(),
    TelegramReceiver(),
    WebhookReceiver(),
    AlertmanagerWebhookReceiver(),
    AlertmanagerReceiver(),
    AppriseReceiver(),
)
RECEIVERS: dict[str, Kind] = {kind.code: kind for kind in _ALL}


def takes_digests(kind: str) -> bool:
    """False for kinds that keep track of incidents one by one: a pager has to know which one is over."""
    return bool(getattr(RECEIVERS.get(kind), "takes_digests", True))
