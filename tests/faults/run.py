"""`make faults`: hurt a running Sagascope in every way of the plan, and judge what is left by C1 to C10.

    python -m tests.faults.run [--nightly] [--trials N] [--seed N] [--port N] [F1 F3 …]

Everything is real: `manage.py up` with its servers, HTTP, SIGKILL. Prints a table, writes it beside the ledgers of
failed runs into the data folder, and ends with 1 if anything does not hold.
"""

from __future__ import annotations

import argparse
import http.client
import http.server
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.ledger import BATCH
from tests.faults.system import System

STUCK = """
flow: {name}
version: 1
style: orchestration
steps:
  - {{name: wait-for-godot, service: theatre, deadline: 30s}}
"""


class Target(http.server.ThreadingHTTPServer):
    """A webhook's receiver that keeps what it was told."""

    daemon_threads = True

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        target = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                target.told.append((self.headers["webhook-id"], body.decode()))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


@dataclass
class Context:
    """What a fault may touch."""

    system: System
    token: str
    verdict: Any
    project_id: int
    slug: str
    is_nightly: bool = False
    #: Reads the project, as the ledger does.
    reader: str = ""
    slow: float = 1.0
    #: What the ledger sender was told so far.
    ledger: Any = None
    #: Ends, after the last trial of the fault, what `held` began.
    ends: ExitStack = field(default_factory=ExitStack)
    _held: dict[str, Any] = field(default_factory=dict)
    _cookies: dict[int, str] = field(default_factory=dict)

    def held(self, name: str, make: Callable[[], AbstractContextManager[Any]]) -> Any:
        """What all trials of a fault share: made by the first, ended after the last."""
        if name not in self._held:
            self._held[name] = self.ends.enter_context(make())
        return self._held[name]

    def until(self, holds: Callable[[], bool], seconds: float) -> float | None:
        """After how many seconds something came to hold; None when it did not in time, which `slow` stretches."""
        began = time.monotonic()
        while not holds():
            if time.monotonic() - began > seconds * self.slow:
                return None
            time.sleep(0.05)
        return time.monotonic() - began

    def post(self, events: list[dict[str, Any]], token: str = "") -> tuple[int, dict[str, Any], dict[str, str]]:
        """Send events beside the ledger: status (0 for no answer), body and headers."""
        body = json.dumps(events).encode()
        status, headers, answer = self._ask("POST", "/api/v1/events", token or self.token, body, BATCH)
        return status, json.loads(answer) if answer[:1] == b"{" else {}, headers

    def send(self, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send a document of JSON: status, headers and body of the answer."""
        return self._ask("POST", path, self.token, body)

    def read(self, path: str, token: str = "") -> dict[str, Any]:
        """The answer to a call of the API, {} when it is none."""
        status, answer = self.fetch(path, token)
        return json.loads(answer) if status == 200 else {}

    def fetch(self, path: str, token: str = "") -> tuple[int, bytes]:
        """Status and body of a call of the API."""
        status, _, answer = self._ask("GET", path, token or self.reader, None)
        return status, answer

    def page(self, path: str) -> tuple[int, str]:
        """Status and text of a page, as an administrator of the project sees it."""
        connection = http.client.HTTPConnection("127.0.0.1", self.system.port, timeout=30)
        try:
            connection.request("GET", path, headers={"Cookie": self.cookie()})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except (OSError, http.client.HTTPException):
            return 0, ""
        finally:
            connection.close()

    def cookie(self, number: int = 0) -> str:
        """The Cookie of an administrator who has signed in to the project; there are as many as are asked for."""
        from django.conf import settings
        from django.contrib.auth.models import User
        from django.test import Client

        from apps.projects.models import Membership, Role

        if number not in self._cookies:
            name = f"admin-{self.project_id}-{number}"
            user = User.objects.create_user(name, f"{name}@faults.example")
            Membership.objects.create(project_id=self.project_id, user=user, role=Role.ADMIN)
            client = Client()
            client.force_login(user)
            session = client.session
            session["project"] = self.slug
            session.save()
            self._cookies[number] = (
                f"{settings.SESSION_COOKIE_NAME}={client.cookies[settings.SESSION_COOKIE_NAME].value}"
            )
        return self._cookies[number]

    def _ask(
        self, method: str, path: str, token: str, body: bytes | None, content_type: str = "application/json"
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.system.port, timeout=60)
        try:
            headers = {"Authorization": f"Bearer {token}", "Content-Type": content_type}
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        except (OSError, http.client.HTTPException):
            return 0, {}, b""
        finally:
            connection.close()

    def post_one(self) -> tuple[int, float]:
        """Send an empty list; the status, 0 for none within 30 s, and how long it took."""
        began = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", self.system.port, timeout=30)
        event = {
            "specversion": "1.0", "id": f"probe-{time.time_ns()}", "source": "/probe", "type": "probe",
            "correlationid": "probes",
        }  # fmt: skip
        try:
            headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
            connection.request("POST", "/api/v1/events", json.dumps(event), headers)
            answer = connection.getresponse()
            answer.read()
            return answer.status, time.monotonic() - began
        except (OSError, http.client.HTTPException):
            return 0, time.monotonic() - began
        finally:
            connection.close()

    def get(self, path: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.system.port, timeout=10)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()


def main() -> int:
    """Run what was asked for; 1 if anything does not hold."""
    options = _options()
    data = Path(os.environ.get("SAGASCOPE_DATA") or tempfile.gettempdir()).resolve() / "faults"
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True)
    os.environ |= {
        "SAGASCOPE_DATA": str(data),
        "DJANGO_SETTINGS_MODULE": "apps.config.settings",
        "WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8",
    }
    os.environ.pop("DATABASE_URL", None)
    # Told to end, it takes what it started along.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    system = System(data, options.port)
    try:
        system.start()
        import django

        django.setup()
        return _run(system, options)
    finally:
        system.stop()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.faults.run")
    parser.add_argument("faults", nargs="*", help="only these, e.g. F1 F24; all of them when none is given")
    parser.add_argument("--nightly", action="store_true", help="ten times the trials")
    parser.add_argument("--trials", type=int, help="so many of each fault instead")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument(
        "--slow", type=float, default=1.0, help="times to come back are multiplied by this, on a machine that is busy"
    )
    parser.add_argument("--only", default="", help="of these, those with this word in their description, e.g. kafka")
    parser.add_argument("--port", type=int, default=8390)
    return parser.parse_args()


def _run(system: System, options: argparse.Namespace) -> int:
    from tests.faults.faults import FAULTS

    print(f"seed {options.seed}", flush=True)
    chosen = [
        fault for fault in FAULTS if fault.number in options.faults or not (options.faults or fault.needs_small_disk)
    ]
    chosen = [fault for fault in chosen if options.only in fault.about]
    target = Target()
    rows = []
    failed = 0
    for order, fault in enumerate(chosen):
        began = time.monotonic()
        row = _one(system, fault, options, target, order)
        rows.append(row)
        failed += bool(row["wrong"])
        print(_line(row, time.monotonic() - began), flush=True)
    report = system.data.parent / "faults-report.md"
    report.write_text(_table(rows, options.seed))
    print(f"\n{_table(rows, options.seed)}\nreport: {report}")
    return 1 if failed else 0


def _one(system: System, fault: Any, options: argparse.Namespace, target: Target, order: int) -> dict[str, Any]:
    from django.db import connections

    from apps.projects.models import Project, Source
    from apps.projects.tokens import create_token
    from tests.faults import checks
    from tests.faults.ledger import Sender

    system.await_ready(60)
    name = f"{fault.number.lower()}-{order}-{options.seed}"
    project = Project.objects.create(slug=name, name=name)
    source = Source.objects.create(project=project, name="ledger")
    probe = create_token(project, ["ingest"], source=Source.objects.create(project=project, name="probe"))
    token = create_token(project, ["ingest", "read"], source=source)
    if fault.tells:
        _receiver(project, target)
    connections.close_all()
    verdict = checks.Verdict()
    context = Context(system, probe, verdict, project.pk, name, options.nightly, token, options.slow)
    trials = options.trials or (fault.nightly if options.nightly else fault.trials)
    dice = random.Random(f"{options.seed}-{name}")
    log_at, told_at = system.log_size(), len(target.told)
    used = system.resources()
    moments: list[tuple[float, float]] = []
    sender = Sender(("127.0.0.1", system.port), token, seed=options.seed * 100 + order)
    context.ledger = sender.ledger
    sender.start()
    gaps: list[float] = []
    done = 0
    try:
        for trial in range(trials):
            time.sleep(fault.pause * (0.7 + 0.6 * dice.random()))
            if fault.tells:
                get_stuck(project, f"{name}-{trial}")
            begun = time.monotonic()
            fault.inject(context, dice, trial)
            moment = time.monotonic()
            gap = sender.first_answer_after(moment, fault.within * options.slow + 30)
            moments.append((begun, moment + (gap or 0.0)))
            gaps.append(fault.within * options.slow + 30 if gap is None else gap)
            verdict.hold("C8 not back", gap is not None and gap <= fault.within * options.slow, f"trial {trial}: {gap}")
            done += 1
    except Exception as error:
        verdict.wrong.append(f"trial {done}: {type(error).__name__}: {error}")
        traceback.print_exc()
    finally:
        system.disarm()
    try:
        sender.finish()
        context.ends.close()
        system.await_ready(60)
        connections.close_all()
        if fault.tells:
            _check_told(project, target, told_at, verdict, trials=done)
        checks.judge(
            project, source, sender.ledger, verdict, is_calm=not fault.tells, faults=moments, slow=options.slow
        )
    except Exception as error:
        verdict.wrong.append(f"{type(error).__name__}: {error}")
        traceback.print_exc()
    finally:
        context.ends.close()
    unhandled = system.unhandled(log_at)
    kept = system.back_to(used)
    verdict.figures |= {"back max s": round(max(gaps, default=0.0), 1), "tracebacks": len(unhandled), **kept.figures}
    verdict.hold("C9 unhandled", not unhandled, Counter(line[-160:] for line in unhandled).most_common(3))
    verdict.hold("C9 not given back", not kept.more, kept.more)
    if verdict.wrong:
        _keep(system, name, sender.ledger, verdict)
    return {"fault": fault, "trials": done, "wrong": verdict.wrong, "figures": verdict.figures}


def _receiver(project: Any, target: Target) -> None:
    from apps.alerts.receivers.stored import save_receiver

    save_receiver(project.pk, name="hook", kind="webhook", settings={"url": f"http://127.0.0.1:{target.server_port}/"})


def get_stuck(project: Any, flow: str) -> None:
    """One saga of a flow of its own stands still since an hour: the built-in rule opens one incident for it.

    The database may be away just now: then a little later.
    """
    from django.db import DatabaseError, connections

    from apps.lib import micros
    from apps.sagas.events import EventKind, SagaEvent, digest_of
    from apps.sagas.flows import save_definition
    from apps.sagas.recording import record

    source_id = project.sources.get(name="probe").pk
    long_ago = micros.now() - micros.HOUR
    event = SagaEvent(
        source="/probe", id=flow, type="probe", correlation_id=flow, occurred_at=long_ago, received_at=long_ago,
        kind=EventKind.STEP_STARTED, flow=flow, step="wait-for-godot", digest=digest_of({"flow": flow}),
    )  # fmt: skip
    for again in range(100):
        try:
            save_definition(project, flow, STUCK.format(name=flow), by="faults")
            record(project.pk, source_id, [event])
            return
        except DatabaseError:
            connections.close_all()
            if again == 99:
                raise
            time.sleep(0.2)


def _check_told(project: Any, target: Target, told_at: int, verdict: Any, *, trials: int) -> None:
    """C7: one incident for each stuck flow; somebody was told of it, at most once more, and by the same id."""
    from apps.alerts.models import Delivery, DeliveryStatus, Incident

    until = time.monotonic() + 90
    while time.monotonic() < until:
        incidents = list(Incident.objects.filter(project=project).values_list("flow", flat=True))
        waiting = Delivery.objects.filter(project=project, status=DeliveryStatus.PENDING).count()
        if len(set(incidents)) >= trials and not waiting:
            break
        time.sleep(0.5)
    incidents = [flow for flow in incidents if flow.startswith(project.slug)]
    doubled = [flow for flow, count in Counter(incidents).items() if count > 1]
    verdict.hold("C7 doubled incidents", not doubled, doubled[:3])
    verdict.hold("C7 missing incidents", len(set(incidents)) == trials, f"{len(set(incidents))} of {trials}")
    verdict.hold("C7 waiting messages", not waiting, waiting)
    sent = dict(Delivery.objects.filter(project=project).values_list("message_id", "status"))
    # Only now: most of it came while we waited.
    heard = Counter(webhook_id for webhook_id, _ in target.told[told_at:] if webhook_id in sent)
    # What was over before it could be told is dropped; everything else was heard.
    unheard = {name: status for name, status in sent.items() if name not in heard and status != DeliveryStatus.DROPPED}
    verdict.hold("C7 never told", not unheard, f"{len(unheard)} of {len(sent)}: {Counter(unheard.values())}")
    extra = sum(heard.values()) - len(heard)
    verdict.hold("C7 told too often", extra <= trials and max(heard.values(), default=0) <= 2, heard.most_common(2))
    verdict.figures |= {"incidents": len(incidents), "told again": extra}


def _keep(system: System, name: str, ledger: Any, verdict: Any) -> None:
    """The history of a failed run, to be looked at."""
    kept = {
        "wrong": verdict.wrong,
        "figures": verdict.figures,
        "statuses": dict(ledger.statuses),
        "unacknowledged": sorted(ledger.attempted.keys() - ledger.acknowledged)[:1000],
    }
    (system.data.parent / f"failed-{name}.json").write_text(json.dumps(kept, indent=1, default=str))


def _line(row: dict[str, Any], seconds: float) -> str:
    said = "ok" if not row["wrong"] else "FAILED " + " | ".join(row["wrong"][:4])[:900]
    fault = row["fault"]
    return f"{fault.number:4} {fault.about:45} {row['trials']:4} trials {seconds:5.0f} s  {said}  {row['figures']}"


def _table(rows: list[dict[str, Any]], seed: int) -> str:
    lines = [f"# Faults, seed {seed}", "", "| # | fault | trials | holds | figures |", "|---|---|---|---|---|"]
    for row in rows:
        figures = ", ".join(f"{name} {value}" for name, value in row["figures"].items())
        holds = "yes" if not row["wrong"] else "**no**: " + "; ".join(row["wrong"])[:300].replace("|", "/")
        lines.append(f"| {row['fault'].number} | {row['fault'].about} | {row['trials']} | {holds} | {figures} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
