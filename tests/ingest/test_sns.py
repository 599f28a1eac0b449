"""SNS over HTTPS: signatures are checked with real keys, subscriptions confirmed at a real server."""

from __future__ import annotations

import base64
import copy
import datetime as dt
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from django.test import Client

from apps.projects.models import Project, Source
from apps.projects.tokens import create_token
from apps.sagas import queries
from tests.ingest.formats.importing import sample

TOPIC = "arn:aws:sns:eu-west-1:111122223333:orders"
_SIGNED = ("Message", "MessageId", "SubscribeURL", "Subject", "Timestamp", "Token", "TopicArn", "Type")


@dataclass
class Amazon:
    """A server that serves a certificate and takes confirmations, and the key that belongs to it."""

    key: rsa.RSAPrivateKey
    certificate: bytes
    url: str = ""
    confirmed: list[str] = field(default_factory=list)
    status: int = 200

    def message(self, kind: str = "Notification", version: str = "2", **fields: Any) -> dict[str, Any]:
        """A signed message."""
        made = {
            "Type": kind,
            "MessageId": "m-1",
            "TopicArn": TOPIC,
            "Message": json.dumps({"type": "PaymentCharged", "correlationId": "order-7"}),
            "Timestamp": "2026-11-20T10:00:00.123Z",
            "SigningCertURL": f"{self.url}/cert.pem",
            "SignatureVersion": version,
        }
        if kind != "Notification":
            made |= {"Token": "t", "SubscribeURL": f"{self.url}/confirm?Token=t"}
        made |= fields
        text = "".join(f"{name}\n{made[name]}\n" for name in _SIGNED if name in made)
        algorithm = hashes.SHA256() if version == "2" else hashes.SHA1()
        made["Signature"] = base64.b64encode(self.key.sign(text.encode(), padding.PKCS1v15(), algorithm)).decode()
        return made


def make_certificate() -> tuple[rsa.RSAPrivateKey, bytes]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "sns.amazonaws.com")])
    begin = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(begin).not_valid_after(begin + dt.timedelta(days=3650))
    return key, made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.fixture(scope="module")
def running() -> Iterator[Amazon]:
    amazon = Amazon(*make_certificate())

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = amazon.certificate if self.path == "/cert.pem" else b"<ConfirmSubscriptionResponse/>"
            if self.path != "/cert.pem":
                amazon.confirmed.append(self.path)
            self.send_response(200 if self.path == "/cert.pem" else amazon.status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Quietly."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    amazon.url = f"http://127.0.0.1:{server.server_port}"
    yield amazon
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def amazon(running: Amazon, settings: Any) -> Amazon:
    settings.SNS_HOSTS = [running.url.removeprefix("http://")]
    settings.WEBHOOK_ALLOWED_NETWORKS = ["127.0.0.0/8"]
    running.confirmed.clear()
    running.status = 200
    return running


@dataclass
class Door:
    """The route as SNS meets it: its content type is text/plain."""

    client: Client
    project: Project
    token: str

    def post(self, message: Any, kind: str = "Notification", **headers: str) -> Any:
        return self.client.post(
            "/api/v1/sns",
            message if isinstance(message, bytes) else json.dumps(message),
            content_type="text/plain; charset=UTF-8",
            headers={
                "authorization": f"Bearer {self.token}",
                "x-amz-sns-message-type": kind,
                "x-amz-sns-topic-arn": TOPIC,
                **headers,
            },
        )

    def stored(self, correlation_id: str) -> list[Any]:
        page = queries.list_events(self.project.pk, correlation_id, limit=10)
        return page.items if page else []


@pytest.fixture
def door(transactional_db: None) -> Door:
    project = Project.objects.create(slug="sns", name="SNS")
    source = Source.objects.create(project=project, name="topic")
    return Door(Client(), project, create_token(project, ["ingest"], source=source))


@pytest.mark.parametrize("version", ["1", "2"])
def test_a_signed_notification_is_an_event(door: Door, amazon: Amazon, version: str) -> None:
    message = amazon.message(version=version, Subject="News")

    answer = door.post(message)

    assert (answer.status_code, answer.json()["accepted"]) == (200, 1)
    (event,) = door.stored("order-7")
    assert (event.type, event.source) == ("PaymentCharged", TOPIC)
    assert door.post(message).json() == {"accepted": 0, "duplicates": 1, "rejected": []}


@pytest.mark.parametrize(
    "change",
    [
        {"Message": '{"correlationId": "order-7", "amount": 1}'},
        {"TopicArn": "arn:aws:sns:eu-west-1:111122223333:others"},
        {"Signature": base64.b64encode(b"x" * 256).decode()},
        {"Signature": "%"},
        {"Signature": None},
        {"SignatureVersion": "3"},
        {"SigningCertURL": None},
        {"SigningCertURL": "https://sns.eu-west-1.amazonaws.com.example.org/cert.pem"},
        {"SigningCertURL": "https://example.org/sns.eu-west-1.amazonaws.com/cert.pem"},
        {"SigningCertURL": "https://sns.eu-west-1.amazonaws.com@example.org/cert.pem"},
        {"SigningCertURL": "http://sns.eu-west-1.amazonaws.com/cert.pem"},
        {"SigningCertURL": "https://sns.eu-west-1.amazonaws.com:8443/cert.pem"},
        {"SigningCertURL": "file:///cert.pem"},
        {"SigningCertURL": "https://[::1"},
    ],
)
def test_what_amazon_did_not_sign_is_not_believed(door: Door, amazon: Amazon, change: dict[str, Any]) -> None:
    answer = door.post(amazon.message() | change)

    assert (answer.status_code, answer.json()["code"]) == (403, "invalid_signature")
    assert door.stored("order-7") == []


def test_another_key_signs_nothing(door: Door, amazon: Amazon) -> None:
    forger = copy.copy(amazon)
    forger.key, _ = make_certificate()

    assert door.post(forger.message()).status_code == 403


def test_a_subscription_is_confirmed_once_its_signature_is_right(door: Door, amazon: Amazon) -> None:
    kind = "SubscriptionConfirmation"
    answer = door.post(amazon.message(kind), kind)

    assert (answer.status_code, answer.json()["accepted"]) == (200, 0)
    assert amazon.confirmed == ["/confirm?Token=t"]

    forged = amazon.message(kind) | {"SubscribeURL": f"{amazon.url}/confirm?Token=other"}
    assert door.post(forged, kind).status_code == 403
    elsewhere = amazon.message(kind, SubscribeURL="http://169.254.169.254/latest/meta-data")
    assert door.post(elsewhere, kind).status_code == 403
    assert len(amazon.confirmed) == 1


def test_a_confirmation_that_is_not_taken_is_to_be_sent_again(door: Door, amazon: Amazon) -> None:
    amazon.status = 500

    answer = door.post(amazon.message("SubscriptionConfirmation"), "SubscriptionConfirmation")

    assert (answer.status_code, answer.json()["code"]) == (503, "not_confirmed")


def test_leaving_a_topic_is_only_noted(door: Door, amazon: Amazon) -> None:
    answer = door.post(amazon.message("UnsubscribeConfirmation"), "UnsubscribeConfirmation")

    assert (answer.status_code, amazon.confirmed) == (200, [])


def test_raw_messages_have_no_signature_and_are_known_by_the_token(door: Door, amazon: Amazon) -> None:
    body = b'{"type": "PaymentCharged", "correlationId": "order-8"}'

    answer = door.post(body, **{"x-amz-sns-rawdelivery": "true", "x-amz-sns-message-id": "m-9"})

    assert answer.json()["accepted"] == 1
    assert len(door.stored("order-8")) == 1


def test_recorded_messages_of_aws_itself_are_refused_for_their_scrubbed_signatures(door: Door) -> None:
    recorded = next(iter(sample("sqs_sns/dev/localstack__sns_http.json").values()))
    texts = json.dumps(recorded)

    assert "SubscriptionConfirmation" in texts
    answer = door.post(sample("sqs_sns/dev/aws-lambda-go__sns-event.json")["Records"][0]["Sns"])
    assert answer.status_code == 403


@pytest.mark.parametrize(
    ("body", "status"), [(b" ", 400), (b"{", 400), (b"7", 400), (b'{"Type": 7}', 400), (b"{}", 400)]
)
def test_what_is_no_message_of_sns_is_refused(door: Door, body: bytes, status: int) -> None:
    assert door.post(body).status_code == status
