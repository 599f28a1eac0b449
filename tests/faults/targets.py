"""Webhook targets that refuse, break off, hang, drip, flood, redirect or go for good, beside one that is well."""

from __future__ import annotations

import random
import socket
import ssl
import struct
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from apps.alerts.models import Delivery
    from tests.faults.run import Context

#: How soon a target that is well must hear, whatever the others do.
TOLD_WITHIN = 5.0
#: In all, for one call; and of an answer no more is read than 64 KiB and what lies in the sockets' buffers by then.
LONGEST_CALL = 15.5
MOST_TAKEN = 2**20
RETRY_AFTER = 120
_FLOOD = 10 * 2**30
#: Seconds between the end of one try and the begin of the next, each off by up to a fifth; and how late it may be seen
#: that one is due.
WAITS = (10.0, 20.0)
_SEEN_WITHIN = 4.0
#: Tries to wait for: one where no second is due, two where each takes long, else as many as there are waits, and one.
_TRIES = {"well": 1, "gone": 1, "busy": 1, "flood": 1, "hang": 2, "drip": 2}


class Targets:
    """A listener for each way to be bad. All of them count who called, and when."""

    def __init__(self, folder: Path) -> None:
        self._context = _signed_by_itself(folder)
        self.called: defaultdict[str, list[float]] = defaultdict(list)
        self.taken: Counter[str] = Counter()
        self._listeners: list[socket.socket] = []
        trap = self._listen("trap", _answer(b"200 OK"))
        self.urls = {
            "well": self._listen("well", _answer(b"204 No Content")),
            "reset": self._listen("reset", _reset),
            "error": self._listen("error", _answer(b"500 Internal Server Error")),
            "hang": self._listen("hang", _hang),
            "drip": self._listen("drip", self._drip),
            "flood": self._listen("flood", self._flood),
            "redirect": self._listen("redirect", _answer(b"301 Moved", f"Location: {trap}".encode())),
            "gone": self._listen("gone", _answer(b"410 Gone")),
            "busy": self._listen("busy", _answer(b"429 Too Many Requests", b"Retry-After: %d" % RETRY_AFTER)),
            "unknown": self._listen("unknown", self._tls).replace("http:", "https:"),
            "no TLS": self._listen("no TLS", _answer(b"200 OK")).replace("http:", "https:"),
            "refuse": self._closed(),
        }

    def close(self) -> None:
        for each in self._listeners:
            each.close()

    def _listen(self, name: str, answer: Callable[[socket.socket], None]) -> str:
        listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._listeners.append(listener)

        def serve() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    self.called[name].append(time.time())
                    threading.Thread(target=_served, args=(client, answer), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}/"

    def _closed(self) -> str:
        """A port that is ours, and at which nobody listens."""
        holder = socket.socket()
        holder.bind(("127.0.0.1", 0))
        self._listeners.append(holder)
        return f"http://127.0.0.1:{holder.getsockname()[1]}/"

    def _drip(self, client: socket.socket) -> None:
        _read_request(client)
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(60):
            client.sendall(b".")
            time.sleep(1)

    def _tls(self, client: socket.socket) -> None:
        """By a certificate that nobody has signed: whoever goes on all the same has told a stranger."""
        with self._context.wrap_socket(client, server_side=True) as wrapped:
            self.taken["unknown"] += len(wrapped.recv(65_536))

    def _flood(self, client: socket.socket) -> None:
        _read_request(client)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % _FLOOD)
        sent = 0
        try:
            while sent < _FLOOD:
                sent += client.send(b"\0" * 65_536)
        finally:
            self.taken["flood"] = max(self.taken["flood"], sent)


def _signed_by_itself(folder: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = folder / "signed-by-itself.pem"
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(secret + certificate.public_bytes(Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


def _served(client: socket.socket, answer: Callable[[socket.socket], None]) -> None:
    with client, suppress(OSError):
        client.settimeout(90)
        answer(client)


def _read_request(client: socket.socket) -> None:
    """As much as is sent at once: head and body of a message are small."""
    client.recv(65_536)


def _answer(status: bytes, *headers: bytes) -> Callable[[socket.socket], None]:
    def answer(client: socket.socket) -> None:
        _read_request(client)
        time.sleep(0.05)
        lines = (b"HTTP/1.1 " + status, *headers, b"Connection: close", *([] if b"204" in status else [_EMPTY]))
        client.sendall(b"\r\n".join(lines) + b"\r\n\r\n")

    return answer


_EMPTY = b"Content-Length: 0"


def _reset(client: socket.socket) -> None:
    client.recv(1)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _hang(client: socket.socket) -> None:
    _read_request(client)
    time.sleep(60)


@contextmanager
def _listening(context: Context) -> Iterator[Targets]:
    """They are told of our own flows only, and not of what becomes of the ledger's sagas meanwhile."""
    from apps.alerts import rules
    from apps.alerts.models import Rule

    rules.ensure_built_in()
    of_project = Rule.objects.filter(project=context.project_id)
    of_project.update(is_enabled=False)
    of_project.create(project_id=context.project_id, name="ours", condition="stuck", query="flow:targets-*")
    targets = Targets(context.system.data)
    try:
        yield targets
    finally:
        targets.close()


def bad_targets(context: Context, dice: random.Random, trial: int) -> None:
    """F23: one incident is told to all of them at once."""
    from apps.alerts.models import Delivery, Receiver
    from apps.alerts.receivers.stored import save_receiver
    from apps.projects.models import Project
    from tests.faults.run import get_stuck

    project = Project.objects.get(pk=context.project_id)
    targets: Targets = context.held("targets", lambda: _listening(context))
    targets.called.clear()
    targets.taken.clear()
    Receiver.objects.filter(project=project).delete()
    for name in dice.sample(sorted(targets.urls), len(targets.urls)):
        save_receiver(project.pk, name=name, kind="webhook", settings={"url": targets.urls[name]})
    flow = f"targets-{time.time_ns()}"
    get_stuck(project, flow)
    told = Delivery.objects.filter(project=project, incident__flow=flow, kind="opened").select_related("receiver")
    until = context.until(
        lambda: (
            sum(_tried(each) >= _TRIES.get(each.receiver.name, len(WAITS) + 1) for each in told.all())
            == len(targets.urls)
        ),
        90,
    )
    tries = {each.receiver.name: each.tries for each in told}
    context.verdict.hold("F23 not tried again", until is not None, tries)
    for each in told:
        _judge(context, targets, each)
    _judge_pages(context)


def _tried(delivery: Delivery) -> int:
    """Tries that have come to their end, and have not only begun."""
    return delivery.log.count()


def _judge(context: Context, targets: Targets, delivery: Delivery) -> None:
    name, hold, slow = delivery.receiver.name, context.verdict.hold, context.slow
    tries = list(delivery.log.order_by("number"))
    longest = max((each.duration_us for each in tries), default=0) / 1_000_000
    figures = context.verdict.figures
    figures["longest call s"] = max(figures.get("longest call s", 0), round(longest, 1))
    hold("F23 a call lasts", longest <= LONGEST_CALL * slow, f"{name}: {longest:.1f} s")
    if name == "well":
        late = targets.called[name][0] - delivery.created_at / 1_000_000 if targets.called[name] else 1e9
        figures["well told s"] = max(figures.get("well told s", 0), round(late, 1))
        hold("F23 the well one waits for the others", late <= TOLD_WITHIN * slow, f"{late:.1f} s")
        hold("F23 the well one", delivery.status == "sent" and len(tries) == 1, (delivery.status, len(tries)))
        return
    if name == "flood":
        # So much of a success is enough to know that it is one.
        hold("F23 read too much", targets.taken[name] <= MOST_TAKEN, targets.taken[name])
        return
    hold("F23 taken for success", not any(each.succeeded for each in tries), name)
    hold("F23 the reason is not kept", all(each.error for each in tries), name)
    if name == "gone":
        hold("F23 gone for good", delivery.status == "given_up" and not delivery.receiver.is_enabled, delivery.status)
    elif name == "busy":
        wait = (delivery.due_at - tries[0].at) / 1_000_000
        hold("F23 Retry-After", wait >= RETRY_AFTER and len(targets.called[name]) == 1, (wait, targets.called[name]))
    else:
        hold("F23 stays pending", delivery.status == "pending" and delivery.receiver.is_enabled, delivery.status)
        for planned, before, after in zip(WAITS, tries, tries[1:], strict=False):
            began = after.at - after.duration_us
            wait = (began - before.at) / 1_000_000
            late = wait - max(1.2 * planned, (_free_from(delivery, before.at, began) - before.at) / 1_000_000)
            is_kept = wait >= 0.8 * planned and late <= _SEEN_WITHIN * slow
            hold("F23 schedule", is_kept, f"{name}: {wait:.1f} s instead of {planned:.0f} s")
    if name == "unknown":
        hold("F23 told to a stranger", targets.called[name] and not targets.taken[name], targets.taken[name])
    if name == "redirect":
        hold("F23 a redirect was followed", not targets.called["trap"], "the trap was called")


def _free_from(delivery: Delivery, since: int, until: int) -> int:
    """When the last call to the target about another message was over: it gets one at a time."""
    from apps.alerts.models import DeliveryTry

    others = DeliveryTry.objects.filter(delivery__receiver=delivery.receiver, at__range=(since, until))
    return max(others.exclude(delivery=delivery).values_list("at", flat=True), default=since)


def _judge_pages(context: Context) -> None:
    """Whoever looks at the receivers sees which of them are dead, and why."""
    status, page = context.page("/settings/receivers")
    context.verdict.hold("F23 page", status == 200, status)
    rows = {row.split("<b>", 1)[1].split("</b>", 1)[0]: row for row in page.split("<tr>") if "data-row" in row}
    for name, said in _SHOWN.items():
        context.verdict.hold("F23 not shown", said in rows.get(name, ""), f"{name}: {said}")


#: What is said of each target on the page.
_SHOWN = {
    "well": ">works<", "flood": ">works<", "gone": "gone for good (410)", "refuse": "refused", "hang": "within 15 s",
    "drip": "within 15 s", "reset": "failing", "error": "answered 500", "redirect": "redirects are not followed",
    "busy": "answered 429", "no TLS": "TLS", "unknown": "TLS certificate",
}  # fmt: skip
