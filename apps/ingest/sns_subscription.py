"""Amazon SNS over HTTPS: checks who signed a message, confirms subscriptions, and opens notifications.

Source: the SNS developer guide, "Verifying the signatures of Amazon SNS messages". The certificate is fetched from the
address that the message names, which must be Amazon's (or one of `SNS_HOSTS`), through the guard of `apps.lib.http`.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from django.conf import settings

from apps.ingest.formats import Decoded, broker_reading
from apps.ingest.formats.broker_message import BrokerMessage
from apps.ingest.formats.eventbridge import reading_of
from apps.ingest.formats.histories import HistoryOptions
from apps.ingest.strict_json import Limits
from apps.lib import http
from apps.sagas.events import Micros

_SIGNED_NOTIFICATION = ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type")
_SIGNED_SUBSCRIPTION = ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type")
#: SNS signs by SHA-1 (version 1) unless the topic was told to sign by SHA-256 (version 2).
_HASHES: Mapping[str, hashes.HashAlgorithm] = {"1": hashes.SHA1(), "2": hashes.SHA256()}  # noqa: S303 - Amazon's choice
_AMAZON = re.compile(r"sns\.[a-z0-9-]{3,32}\.amazonaws\.com(\.cn)?")
_SECONDS = 5.0
_SUBSCRIPTIONS = frozenset({"SubscriptionConfirmation", "UnsubscribeConfirmation"})


class SubscriptionError(Exception):
    """The message is not to be believed, or its subscription could not be confirmed; the message says why."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code


def decode(
    document: Any,
    body: bytes,
    headers: Mapping[str, str],
    options: HistoryOptions,
    received_at: Micros,
    limits: Limits,
) -> Decoded:
    """The events of what SNS posted; a subscription is confirmed and gives none. Raises SubscriptionError."""
    if headers.get("x-amz-sns-rawdelivery", "").lower() == "true":
        # Not signed, not wrapped: the token alone says who it is.
        return _read(body, headers, options, received_at, limits)
    if not isinstance(document, dict) or not isinstance(document.get("Type"), str):
        raise SubscriptionError(400, "not_sns", "sns: the body is no message of SNS: it has no Type")
    check_signature(document)
    if document["Type"] in _SUBSCRIPTIONS:
        if document["Type"] == "SubscriptionConfirmation":
            confirm(document)
        return Decoded([], [], [])
    return _read(body, headers, options, received_at, limits)


def check_signature(document: Mapping[str, Any]) -> None:
    """Raises SubscriptionError unless Amazon signed this."""
    algorithm = _HASHES.get(str(document.get("SignatureVersion")))
    names = _SIGNED_SUBSCRIPTION if document.get("Type") in _SUBSCRIPTIONS else _SIGNED_NOTIFICATION
    if algorithm is None:
        raise SubscriptionError(403, "invalid_signature", "the message has no signature of version 1 or 2")
    lines = [f"{name}\n{document[name]}\n" for name in names if isinstance(document.get(name), str)]
    url = document.get("SigningCertURL")
    _check_address(url, "SigningCertURL", ending=".pem")
    key = _certificate(str(url)).public_key()
    if not isinstance(key, rsa.RSAPublicKey):
        raise SubscriptionError(403, "invalid_signature", "the signing certificate has no RSA key")
    try:
        signature = base64.b64decode(str(document.get("Signature")), validate=True)
        key.verify(signature, "".join(lines).encode(errors="replace"), padding.PKCS1v15(), algorithm)
    except (binascii.Error, ValueError, InvalidSignature):
        raise SubscriptionError(403, "invalid_signature", "the signature is not that of the message") from None


def confirm(document: Mapping[str, Any]) -> None:
    """Tell SNS that we want the topic's messages. Raises SubscriptionError when it does not take that."""
    url = document.get("SubscribeURL")
    _check_address(url, "SubscribeURL")
    try:
        answer = http.get(str(url), timeout=_SECONDS)
    except (http.RefusedError, http.RequestError) as error:
        raise SubscriptionError(503, "not_confirmed", f"the subscription could not be confirmed: {error}") from None
    if answer.status >= 300:
        detail = f"the subscription could not be confirmed: SNS answered {answer.status}"
        raise SubscriptionError(503, "not_confirmed", detail)


def _read(
    body: bytes, headers: Mapping[str, str], options: HistoryOptions, received_at: Micros, limits: Limits
) -> Decoded:
    arn = headers.get("x-amz-sns-topic-arn", "")
    message = BrokerMessage(
        system="sns",
        source=arn or "urn:aws:sns",
        destination=arn.rpartition(":")[2] or "sns",
        body=body,
        place=headers.get("x-amz-sns-message-id", ""),
        content_type="application/json",
    )
    return broker_reading.read(message, reading_of(options), received_at, limits)


def _check_address(url: Any, name: str, *, ending: str = "") -> None:
    try:
        parts = urlsplit(url) if isinstance(url, str) else None
        host = (parts.hostname or "").lower() if parts is not None else ""
    except ValueError:
        parts, host = None, ""
    is_known = parts is not None and parts.netloc.lower() in settings.SNS_HOSTS
    is_amazon = parts is not None and parts.scheme == "https" and parts.netloc.lower() == host
    if parts is None or not (is_known or (is_amazon and _AMAZON.fullmatch(host))) or not parts.path.endswith(ending):
        raise SubscriptionError(403, "invalid_signature", f"{name} is no address of Amazon SNS")


@lru_cache(maxsize=64)
def _certificate(url: str) -> x509.Certificate:
    """The certificate at an address that was checked. Raises SubscriptionError."""
    try:
        answer = http.get(url, timeout=_SECONDS)
    except (http.RefusedError, http.RequestError) as error:
        raise SubscriptionError(503, "no_certificate", f"the signing certificate cannot be had: {error}") from None
    if answer.status != 200:
        detail = f"the signing certificate cannot be had: its server answered {answer.status}"
        raise SubscriptionError(503, "no_certificate", detail)
    try:
        return x509.load_pem_x509_certificate(answer.body)
    except ValueError:
        raise SubscriptionError(403, "invalid_signature", "the signing certificate cannot be read") from None
