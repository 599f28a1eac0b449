"""RabbitMQ: depth by the management API where it is known, else by a passive declare over AMQP.

Messages are read from a queue of our own that is bound to the dead-letter exchange: each letter that dies after that
is copied there by the broker, the dead-letter queue itself is not touched. Letters that were there before, and queues
that are filled through the default exchange, can only be looked at by get and requeue. That is off by default: it marks
messages as redelivered, hides them from consumers for a moment, may change their order, and counts as a delivery in a
quorum queue, which drops a message for good that was delivered too often. A quorum queue is therefore never looked at.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import logging
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from apps.dlq.dialects import Death, death_of
from apps.dlq.messages import ParkedMessage, header_text, moment_of
from apps.dlq.options import Option, Settings
from apps.dlq.probes.reading import PATIENCE, BrokerError, Found, MissingClientError, Reading

logger = logging.getLogger(__name__)
# The client tells of every connection that it opens and closes; what matters reaches us as an exception.
logging.getLogger("pika").setLevel(logging.CRITICAL)

EXTRA = "rabbitmq"
_YES = (("no", "no"), ("yes", "yes"))
_LIMIT_OF_COPIES = 100_000
MAX_ANSWER_BYTES = 1024 * 1024

OPTIONS = (
    Option("url", "AMQP URL", "amqp://user:password@host:5672/vhost, or amqps://", is_required=True, is_secret=True),
    Option("queue", "Dead-letter queue", is_required=True),
    Option(
        "management_url", "Management API", "http://host:15672; without it only the depth of ready messages is known"
    ),
    Option(
        "dead_letter_exchange",
        "Dead-letter exchange",
        "we bind a queue of our own to it and read copies there; found by itself where the management API is known",
    ),
    Option("routing_key", "Routing key", "of that binding", default="#"),
    Option("copy_queue", "Our own queue", "made up when left empty"),
    Option(
        "look",
        "Look into the dead-letter queue itself",
        "get and requeue: marks messages as redelivered and may change their order; never done with quorum queues",
        default="no",
        choices=_YES,
    ),
    Option(
        "put_back",
        "A redrive publishes to",
        "the original exchange and routing key reach every queue bound there; the queue alone reaches one",
        default="exchange",
        choices=(("exchange", "the original exchange and routing key"), ("queue", "the queue that it died in")),
    ),
    Option("target", "Queue to redrive to", "for messages that do not say where they died"),
)


def describe(settings: Settings) -> str:
    """Host, virtual host and queue."""
    parts = urlsplit(settings["url"])
    return f"{settings['queue']} on {parts.hostname or '?'}{':' + str(parts.port) if parts.port else ''}{parts.path}"


def problems(settings: Settings) -> dict[str, str]:
    """What is wrong with the two URLs."""
    found = {}
    for name, schemes in (("url", ("amqp", "amqps")), ("management_url", ("http", "https"))):
        if not settings[name]:
            continue
        try:
            parts = urlsplit(settings[name])
            is_fine = parts.scheme in schemes and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            is_fine = False
        if not is_fine:
            found[name] = f"begins with {' or '.join(scheme + '://' for scheme in schemes)} and a host"
        elif name == "management_url" and (parts.username or parts.query or is_link_local(parts.hostname or "")):
            found[name] = "is a scheme, a host and a port: the user is that of the AMQP URL"
    return found


def is_link_local(host: str) -> bool:
    """True for addresses at which clouds serve their machines' secrets."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_link_local
    except ValueError:
        return False


def reads_messages(settings: Settings) -> bool:
    """True where we have a queue of copies, or may look."""
    return bool(settings["dead_letter_exchange"] or settings["management_url"] or settings["look"] == "yes")


def measure(settings: Settings) -> Reading:
    """Depth, and the age of the oldest message where its publisher wrote a timestamp."""
    if settings["management_url"]:
        try:
            return parse_queue(_management(settings, f"queues/{_names(settings)}"))
        except BrokerError as error:
            logger.info("the management API gave no depth: %s", error)
    with connected(settings) as channel:
        declared = channel.queue_declare(settings["queue"], passive=True)
        return Reading(declared.method.message_count, means="passive declare")


def parse_queue(answer: Mapping[str, Any]) -> Reading:
    """The management API's description of a queue. Raises BrokerError."""
    depth = answer.get("messages")
    if not isinstance(depth, int):
        # A queue that has just been declared has no statistics yet.
        raise BrokerError("the management API does not know the queue's depth yet")
    return Reading(depth, moment_of(answer.get("head_message_timestamp")), means="management API")


@contextlib.contextmanager
def read(settings: Settings, cursor: dict, limit: int) -> Iterator[Found]:
    """New copies, and what lies in the queue itself where that may be looked at.

    The queue is looked at again only when its depth has changed. Copies are acknowledged when the block ends well; what
    was looked at returns to the queue in any case.
    """
    messages: dict[str, ParkedMessage] = {}
    is_all, is_snapshot = True, False
    bindings = _bindings(settings)
    with connected(settings) as channel:
        copies: list[ParkedMessage] = []
        if bindings:
            _bind_copies(channel, settings["copy_queue"], bindings)
            copies = _get(channel, settings["copy_queue"], limit)
            is_all = len(copies) < limit
        after = cursor
        depth = channel.queue_declare(settings["queue"], passive=True).method.message_count
        if settings["look"] == "yes" and cursor.get("depth") != depth and not _is_quorum(settings):
            after = {"depth": depth}
            seen = _get(channel, settings["queue"], limit)
            is_snapshot = len(seen) < limit
            messages = {message.place: message for message in seen}
        messages |= {message.place: message for message in copies}
        yield Found(list(messages.values()), after, is_all=is_all, is_snapshot=is_snapshot)
        for message in copies:
            channel.basic_ack(message.handle[0])


def _bindings(settings: Settings) -> list[tuple[str, str, dict]]:
    """(exchange, routing key, arguments) by which letters reach the queue, apart from the default exchange."""
    if settings["dead_letter_exchange"]:
        return [(settings["dead_letter_exchange"], settings["routing_key"], {})]
    if not settings["management_url"]:
        return []
    try:
        answer = _management(settings, f"queues/{_names(settings)}/bindings")
    except BrokerError as error:
        logger.info("the management API gave no bindings: %s", error)
        return []
    return parse_bindings(answer)


def parse_bindings(answer: Any) -> list[tuple[str, str, dict]]:
    """The management API's list of a queue's bindings."""
    return [
        (each["source"], str(each.get("routing_key", "")), dict(each.get("arguments") or {}))
        for each in (answer if isinstance(answer, list) else [])
        if isinstance(each, dict) and each.get("source")
    ]


def _bind_copies(channel: Any, name: str, bindings: list[tuple[str, str, dict]]) -> None:
    """Our own queue: bounded, so that a Sagascope that is away fills no broker."""
    channel.queue_declare(name, durable=True, arguments={"x-max-length": _LIMIT_OF_COPIES, "x-overflow": "drop-head"})
    for exchange, key, arguments in bindings:
        channel.queue_bind(name, exchange, key, arguments=arguments or None)


def _get(channel: Any, queue: str, limit: int) -> list[ParkedMessage]:
    """Messages that are ours until they are acknowledged; closing the connection gives back all others."""
    found: list[ParkedMessage] = []
    while len(found) < limit:
        method, properties, body = channel.basic_get(queue, auto_ack=False)
        if method is None:
            break
        found.append(parse(method, properties, body))
    return found


def parse(method: Any, properties: Any, body: bytes) -> ParkedMessage:
    """A message as AMQP delivered it."""
    headers = dict(properties.headers or {})
    said = {
        name: header_text(getattr(properties, name, None))
        for name in ("message_id", "correlation_id", "type", "app_id", "user_id", "reply_to")
    }
    draft = ParkedMessage(place="", body=body, headers=headers)
    return ParkedMessage(
        place=place_of(death_of(draft), said["message_id"], properties.timestamp, body),
        body=body,
        headers=headers,
        properties={name: value for name, value in said.items() if value},
        content_type=(properties.content_type or "").partition(";")[0].strip().lower(),
        parked_at=moment_of(properties.timestamp),
        handle=(method.delivery_tag, properties),
    )


def place_of(death: Death, message_id: str, timestamp: Any, body: bytes) -> str:
    """RabbitMQ has no name for a message: ours is made of what a copy and the original have in common."""
    facts = [message_id, str(moment_of(timestamp)), death.origin, death.reason, str(death.count), str(death.died_at)]
    digest = hashlib.blake2b("\x1f".join(facts).encode(errors="replace") + b"\x1e" + body, digest_size=16)
    return digest.hexdigest()


def _is_quorum(settings: Settings) -> bool:
    if not settings["management_url"]:
        return False
    try:
        return _management(settings, f"queues/{_names(settings)}").get("type") == "quorum"
    except BrokerError:
        return True


def _names(settings: Settings) -> str:
    path = urlsplit(settings["url"]).path
    vhost = unquote(path[1:]) if len(path) > 1 else "/"
    return f"{quote(vhost, safe='')}/{quote(settings['queue'], safe='')}"


def _management(settings: Settings, path: str) -> Any:
    """GET from the management API. Raises BrokerError; never says what an unexpected server answered."""
    import httpx

    amqp = urlsplit(settings["url"])
    user = (unquote(amqp.username or "guest"), unquote(amqp.password or "guest"))
    url = f"{settings['management_url'].rstrip('/')}/api/{path}"
    try:
        with (
            httpx.Client(trust_env=False, timeout=PATIENCE, auth=user) as client,
            client.stream("GET", url) as answer,
        ):
            if answer.status_code != 200:
                known = {401: "the user may not use it", 404: "there is no such queue"}
                raise BrokerError(f"management API: {known.get(answer.status_code, f'status {answer.status_code}')}")
            body = bytearray()
            for chunk in answer.iter_bytes():
                body += chunk
                if len(body) > MAX_ANSWER_BYTES:
                    raise BrokerError("management API: the answer is too large")
        import msgspec

        return msgspec.json.decode(bytes(body))
    except (httpx.HTTPError, httpx.InvalidURL):
        raise BrokerError("the management API does not answer") from None
    except ValueError:
        raise BrokerError("the management API did not answer with JSON") from None


@contextlib.contextmanager
def connected(settings: Settings) -> Iterator[Any]:
    """An open channel. Raises BrokerError, also for what goes wrong inside."""
    try:
        import pika
        from pika.exceptions import AMQPError
    except ImportError:
        raise MissingClientError(EXTRA) from None

    try:
        parameters = pika.URLParameters(settings["url"])
    except (ValueError, TypeError):
        raise BrokerError("the AMQP URL cannot be read") from None
    parameters.connection_attempts = 1
    parameters.socket_timeout = parameters.stack_timeout = parameters.blocked_connection_timeout = PATIENCE
    parameters.client_properties = {"connection_name": "sagascope dead letters"}
    connection = None
    try:
        connection = pika.BlockingConnection(parameters)
        yield connection.channel()
    except (AMQPError, OSError) as error:
        raise BrokerError(reason_of(error)) from None
    finally:
        if connection is not None and connection.is_open:
            with contextlib.suppress(AMQPError, OSError):
                connection.close()


def reason_of(error: BaseException) -> str:
    """A client's error in words."""
    from pika import exceptions

    if isinstance(error, exceptions.ChannelClosedByBroker):
        return f"refused by the broker: {error.reply_code} {error.reply_text}"[:300]
    if isinstance(error, exceptions.ProbableAuthenticationError | exceptions.AuthenticationError):
        return "the user or password was not accepted"
    if isinstance(error, exceptions.ProbableAccessDeniedError | exceptions.ConnectionClosedByBroker):
        return "the broker closed the connection: may this user use this virtual host?"
    if isinstance(error, exceptions.AMQPConnectionError | OSError):
        return "the broker cannot be reached"
    return f"the broker broke off: {type(error).__name__}"
