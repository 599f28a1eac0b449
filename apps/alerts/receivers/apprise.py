"""Chat, pagers and 130 other services through Apprise: one Apprise URL is one receiver.

Apprise opens its own connections in many protocols and reads files where a URL asks for it. So it runs in a process
of its own (`apprise_process.py`) that may connect only to what our outgoing HTTP guard allows, may open no file but
Python's own, follows no redirects, knows no proxy and is ended after 20 seconds. URLs, which hold keys, go to it by
standard input and never into its arguments or into logs.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django.conf import settings as project_settings

from apps.alerts.causes import shown
from apps.alerts.messages import Message
from apps.alerts.receivers.outcome import DeliveryError, Field, Sent, SettingsError

SECONDS = 20.0
MAX_URL_LENGTH = 2048
_PROGRAM = Path(__file__).with_name("apprise_process.py")
#: What a child needs of our environment; no secrets, no proxies.
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "SSL_CERT_FILE", "SSL_CERT_DIR", "TZ", "SYSTEMROOT")
#: Mentions that chat programs turn into a ring for everybody: names come from outside.
_MENTION = re.compile(r"@(?=\w)")


class AppriseReceiver:
    """Whatever Apprise has a URL for."""

    code = "apprise"
    label = "Others (Apprise)"
    fields: tuple[Field, ...] = (
        Field(
            "url",
            "Apprise URL",
            "such as slack://…, msteams://…, pagerduty://…; see the list of services of Apprise",
            is_secret=True,
        ),
    )

    def check(self, settings: Mapping[str, str]) -> dict[str, str]:
        url = settings.get("url", "").strip()
        if not url or len(url) > MAX_URL_LENGTH or not url.isprintable():
            raise SettingsError({"url": f"an Apprise URL of at most {MAX_URL_LENGTH} printable characters"})
        try:
            answer = _run({"action": "check", "url": url})
        except DeliveryError as error:
            raise SettingsError({"url": str(error)}) from None
        if problem := answer.get("problem"):
            raise SettingsError({"url": str(problem)})
        return {"url": url, "service": str(answer.get("service", ""))[:60]}

    def describe(self, settings: Mapping[str, str]) -> str:
        """The service's name alone: everything after `://` may be a key."""
        scheme = settings["url"].partition(":")[0].lower()
        service = settings.get("service") or "Apprise"
        return f"{shown(service, 60)} ({shown(scheme, 30)}://…)"

    def send(self, settings: Mapping[str, str], message: Message) -> Sent:
        answer = _run(
            {
                "action": "send",
                "url": settings["url"],
                "title": _harmless(f"[{message.severity}] {message.subject}"),
                "body": _harmless(message.text().split("\n", 2)[-1].strip()),
                "type": _type(message),
            }
        )
        if problem := answer.get("problem"):
            raise DeliveryError(str(problem))
        return Sent()


def _type(message: Message) -> str:
    """Apprise's word for how bad it is."""
    if message.is_good_news:
        return "success"
    return {"critical": "failure", "warning": "warning"}.get(message.severity, "info")


def _harmless(text: str) -> str:
    """Chat programs read <!channel>, <@user> and @everyone; names from outside must not ring anybody."""
    return _MENTION.sub("@\u200b", text.replace("<", "‹").replace(">", "›"))


def _run(order: dict[str, Any]) -> dict[str, Any]:
    """Let the process do one thing. Raises DeliveryError when it breaks or takes too long."""
    order["allowed_networks"] = list(project_settings.WEBHOOK_ALLOWED_NETWORKS)
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "NETRC": os.devnull}
    try:
        done = subprocess.run(  # noqa: S603 - our own program, nothing of the URL in its arguments
            # -P: the program's own folder, which has an email.py, must not hide the standard library.
            [sys.executable, "-P", str(_PROGRAM)],
            input=json.dumps(order).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd="/",
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DeliveryError(f"the service did not answer within {SECONDS:g} s") from None
    except OSError as error:
        raise DeliveryError(f"the sending process did not start: {type(error).__name__}") from None
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        raise DeliveryError(f"the sending process broke off (exit {done.returncode})") from None
    return answer if isinstance(answer, dict) else {}
