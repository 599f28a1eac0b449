"""E-mail to a real SMTP server, Apprise to a real HTTP server, and what neither may do."""

from __future__ import annotations

import email
import email.policy
import socket
from collections.abc import Iterator
from email.message import EmailMessage
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session
from django.core import mail

from apps.alerts.causes import shown
from apps.alerts.delivery import deliver_due, send_test
from apps.alerts.messages import Message
from apps.alerts.models import Delivery, Receiver
from apps.alerts.receivers import RECEIVERS
from apps.alerts.receivers.outcome import DeliveryError, SettingsError
from apps.alerts.receivers.stored import save_receiver, settings_of
from apps.sagas.events import EventKind
from tests.alerts.world import Target, World, at, target

HOSTILE = 'order"><img src=x onerror=alert(1)>\r\nBcc: eve@evil.test {{7*7}} <!channel> @everyone \u202e'


class Mailbox:
    """A real SMTP server's inbox."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.recipients: list[list[str]] = []
        self.refusal = ""

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self.refusal:
            return self.refusal
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        content = envelope.content
        assert isinstance(content, bytes)
        parsed = email.message_from_bytes(content, policy=email.policy.default)
        assert isinstance(parsed, EmailMessage)
        self.mails.append(parsed)
        self.recipients.append(list(envelope.rcpt_tos))
        return "250 OK"


@pytest.fixture
def mailbox(settings: Any) -> Iterator[Mailbox]:
    """Django's e-mail settings point to a running SMTP server."""
    box = Mailbox()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    controller = Controller(box, hostname="127.0.0.1", port=port)
    controller.start()
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", port
    settings.EMAIL_HOST_USER = settings.EMAIL_HOST_PASSWORD = ""
    yield box
    controller.stop()


def hostile_incident(world: World) -> None:
    """A stuck saga of which every name is an attack."""
    world.tell(
        world.event(HOSTILE, EventKind.SAGA_STARTED, 0, flow=HOSTILE),
        world.event(HOSTILE, EventKind.STEP_STARTED, 0, flow=HOSTILE, step=HOSTILE, service=HOSTILE, expires_at=at(5)),
    )
    world.sweep(31)
    assert world.incident().instance_count == 1


def test_a_mail_says_what_is_wrong_as_text_and_as_html_and_links_to_the_page(world: World, mailbox: Mailbox) -> None:
    world.receiver("people", "email", to="ops@shop.test, second@shop.test\nops@shop.test")
    world.start("order-1", "order-2", service="payments")
    world.sweep(31)
    assert deliver_due(at(32)).sent == 1

    (message,) = mailbox.mails
    assert mailbox.recipients == [["ops@shop.test", "second@shop.test"]]
    assert message["Subject"] == (
        "[Sagascope critical] 2 order-fulfilment sagas wait for charge-payment, overdue since 2026-11-19 14:30 UTC"
    )
    assert message["Message-ID"] == f"<{Delivery.objects.get().message_id}@localhost>"
    assert message["Auto-Submitted"] == "auto-generated"
    text, html = (message.get_body((kind,)) for kind in ("plain", "html"))
    assert text is not None
    assert html is not None
    for body in (text.get_content(), html.get_content()):
        assert "http://127.0.0.1:8000/incidents/1?project=shop" in body
        assert "order-1, order-2" in body
        assert "step charge-payment: declared 30s" in body


def test_hostile_names_in_a_mail_are_only_text(world: World, mailbox: Mailbox) -> None:
    world.receiver("people", "email", to="ops@shop.test")
    hostile_incident(world)
    deliver_due(at(32))
    (message,) = mailbox.mails
    assert mailbox.recipients == [["ops@shop.test"]]
    assert message["Bcc"] is None
    html = message.get_body(("html",))
    assert html is not None
    body = html.get_content()
    assert "<img" not in body
    assert "&lt;img src=x onerror=alert(1)&gt;" in body
    assert "{{7*7}}" in body
    assert "\u202e" not in body


def test_a_mail_server_that_refuses_everybody_for_good_ends_the_delivery(world: World, mailbox: Mailbox) -> None:
    receiver = world.receiver("people", "email", to="gone@shop.test")
    world.start("a")
    world.sweep(31)
    mailbox.refusal = "450 later"
    deliver_due(at(32))
    assert (Delivery.objects.get().status, Delivery.objects.get().detail) == (
        "pending",
        "the mail server refused every recipient (450)",
    )
    mailbox.refusal = "550 no such person"
    deliver_due(at(60))
    assert Delivery.objects.get().status == "given_up"
    receiver.refresh_from_db()
    assert receiver.is_enabled


def test_without_a_mail_server_the_try_fails_with_a_reason(world: World, settings: Any) -> None:
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", 9
    tested = send_test(world.receiver("people", "email", to="ops@shop.test"), at(0))
    assert tested.detail == "the mail could not be sent: ConnectionRefusedError"


def test_mail_goes_through_whatever_backend_is_configured(world: World) -> None:
    assert send_test(world.receiver("people", "email", to="ops@shop.test"), at(0)).status == "sent"
    assert mail.outbox[0].to == ["ops@shop.test"]


def test_without_a_mail_server_a_mail_is_one_line_in_the_log(world: World, settings: Any, caplog: Any) -> None:
    settings.EMAIL_BACKEND = "apps.alerts.receivers.logged_mail.EmailBackend"
    world.receiver("people", "email", to="ops@shop.test, second@shop.test")
    world.start("a")
    world.sweep(31)
    deliver_due(at(32))
    (line,) = [record.getMessage() for record in caplog.records if record.name.endswith("logged_mail")]
    assert "\n" not in line
    assert "mail to ops@shop.test, second@shop.test: [Sagascope critical] 1 order" in line
    assert line.endswith("/incidents/1?project=shop")


@pytest.mark.parametrize(
    "to", ["", "nobody", "a@b.test\r\nBcc: eve@evil.test", ", ".join(f"a{number}@b.test" for number in range(21))]
)
def test_addresses_that_are_none_are_refused(to: str) -> None:
    with pytest.raises(SettingsError):
        RECEIVERS["email"].check({"to": to})


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000/", "http://169.254.169.254/", "file:///etc/passwd", "http://localhost./"]
)
def test_a_webhook_into_our_own_network_is_refused_at_save_and_at_send(world: World, url: str) -> None:
    with pytest.raises(SettingsError):
        world.receiver(url=url)
    message = Message("msg_1", "test", at(0), "info", "x", "http://x", "shop")
    with pytest.raises(DeliveryError, match="not called"):
        RECEIVERS["webhook"].send({"url": url, "secret": "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"}, message)


def test_a_webhook_shows_its_host_but_neither_path_nor_secret(world: World, loopback: None) -> None:
    receiver = world.receiver(url="http://127.0.0.1:8160/services/T000/KEY")
    assert receiver.summary == "http://127.0.0.1:8160/…"
    assert "KEY" not in receiver.settings_token
    assert settings_of(receiver)["secret"].startswith("whsec_")


@pytest.mark.parametrize("secret", ["short", "whsec_", "whsec_AAAA", "whsec_!!!!"])
def test_a_weak_signing_secret_is_refused(world: World, loopback: None, secret: str) -> None:
    with pytest.raises(SettingsError):
        world.receiver(url="http://127.0.0.1:8160/", secret=secret)


def test_changing_a_receiver_keeps_what_is_left_empty(world: World, loopback: None) -> None:
    receiver = world.receiver(url="http://127.0.0.1:8160/")
    before = settings_of(receiver)
    save_receiver(world.project.pk, name="renamed", kind="email", settings={"url": "", "secret": ""}, receiver=receiver)
    changed = Receiver.objects.get()
    assert (changed.name, changed.kind, settings_of(changed)) == ("renamed", "webhook", before)


def test_names_are_unique_and_printable(world: World, loopback: None) -> None:
    world.receiver(url="http://127.0.0.1:8160/")
    for name in ("hook", "", "a\nb"):
        with pytest.raises(SettingsError) as error:
            world.receiver(name, url="http://127.0.0.1:8160/")
        assert set(error.value.problems) == {"name"}


def test_apprise_delivers_and_its_url_stays_secret(world: World, hook: Target) -> None:
    receiver = world.receiver("chat", "apprise", url=f"json://user:S3cret@127.0.0.1:{hook.port}/room")
    assert receiver.summary == "JSON (json://…)"
    assert "S3cret" not in receiver.settings_token
    hostile_incident(world)
    assert deliver_due(at(32)).sent == 1

    (request,) = hook.requests
    assert request.path == "/room"
    said = request.json
    assert said["type"] == "failure"
    assert said["title"].startswith("[critical] 1 order")
    assert "http://127.0.0.1:8000/incidents/1?project=shop" in said["message"]
    for text in (said["title"], said["message"]):
        assert "<" not in text
        assert "@everyone" not in text
        assert "\u202e" not in text
    assert "S3cret" not in repr([*Delivery.objects.values_list(), *Receiver.objects.values_list()])


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "syslog://",
        "json://[::ffff:127.0.0.1]/",
        "json://2130706433/",
        "",
        "json://example.com/\r\nx",
    ],
)
def test_apprise_urls_that_reach_into_our_machine_or_network_are_refused_at_save(url: str) -> None:
    with pytest.raises(SettingsError):
        RECEIVERS["apprise"].check({"url": url})


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("json://127.0.0.1:{port}/", "private or reserved network"),
        ("rsyslog://127.0.0.1/", "private or reserved network"),
    ],
)
def test_apprise_checks_again_at_what_it_really_connects_to(url: str, reason: str, settings: Any) -> None:
    settings.WEBHOOK_ALLOWED_NETWORKS = []
    message = Message("msg_1", "test", at(0), "info", "x", "http://x", "shop", facts=[("a", "b")])
    with target() as hook:
        stored = {"url": url.format(port=hook.port), "service": ""}
        # Rendering the text needs Django's templates, not the database.
        with pytest.raises(DeliveryError, match=reason):
            RECEIVERS["apprise"].send(stored, message)
        assert hook.requests == []


def test_what_is_shown_is_one_short_harmless_line() -> None:
    assert shown("a\r\nb\u202ec\x00\x1b[31m\u2028") == "a\ufffd\ufffdb\ufffdc\ufffd\ufffd[31m\ufffd"
    assert len(shown("x" * 10_000)) == 200
