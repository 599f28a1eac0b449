"""Addresses that people type in must not turn us on our own network: refused when saved and again when called."""

from __future__ import annotations

import socket
import time
from typing import Any

import pytest

from apps.alerts.models import Receiver
from apps.lib.http import RefusedError, RequestError, networks, post
from tests.alerts.world import answer, target
from tests.web.conftest import SignIn, text_of

URLS = {
    "a file": "file:///etc/passwd",
    "gopher": "gopher://example.com:70/1",
    "the cloud's own data": "http://169.254.169.254/latest/meta-data/",
    "IPv4 within IPv6": "http://[::ffff:127.0.0.1]/",
    "one decimal number": "http://2130706433/",
    "a short address": "http://127.1/",
    "circled digits": "http://①②⑦.⓪.⓪.①/",
    "a user before the host": "http://user@example.com/",
    "PostgreSQL": "http://example.com:5432/",
    "Redis": "http://example.com:6379/",
    "a dot behind": "http://localhost./",
    "NAT64": "http://[64:ff9b::7f00:1]/",
    "a carrier's network": "http://100.64.0.1/",
    "a second header": "http://example.com/a\r\nHost: evil",
    "ourselves": "http://127.0.0.1:8000/api/v1/instances",
    "octal": "http://0177.0.0.1/",
    "hexadecimal": "http://0x7f000001/",
    "any address": "http://0.0.0.0/",
    "IPv6 of this machine": "http://[::1]/",
    "link-local": "http://[fe80::1]/",
    "unique local": "http://[fd00::1]/",
    "6to4": "http://[2002:7f00:1::]/",
    "no host": "http:///path",
    "script": "javascript:alert(1)",
    "a backslash": "http://example.com\\@127.0.0.1/",
}


@pytest.mark.parametrize("url", URLS.values(), ids=URLS)
def test_the_form_refuses_it_and_says_nothing_of_what_is_there(sign_in: SignIn, settings: Any, url: str) -> None:
    settings.WEBHOOK_ALLOWED_NETWORKS = []
    fields = {"action": "create", "kind": "webhook", "name": "hook", "setting-url": url, "project": "shop"}

    page = text_of(sign_in("admin").post("/settings/receivers", fields))

    assert 'class="errors"' in page
    assert not Receiver.objects.exists()
    assert "Connection refused" not in page


@pytest.mark.parametrize("url", URLS.values(), ids=URLS)
def test_the_call_refuses_it(url: str) -> None:
    with pytest.raises(RefusedError):
        post(url, b"{}", {}, allowed=())


def test_a_name_that_changes_its_mind_between_saving_and_calling_reaches_nothing(
    sign_in: SignIn, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.WEBHOOK_ALLOWED_NETWORKS = []
    said = {"address": "93.184.216.34"}

    def resolver(*_: object, **__: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (said["address"], 80))]

    with target() as hook:
        url = f"http://rebind.example:{hook.port}/"
        monkeypatch.setattr(socket, "getaddrinfo", resolver)
        fields = {"action": "create", "kind": "webhook", "name": "hook", "setting-url": url, "project": "shop"}
        sign_in("admin").post("/settings/receivers", fields)
        assert Receiver.objects.filter(kind="webhook").count() == 1

        said["address"] = "127.0.0.1"
        with pytest.raises(RefusedError):
            post(url, b"{}", {}, allowed=())
        assert hook.requests == []


def test_a_redirect_to_the_inside_is_not_followed() -> None:
    with target() as inside, target() as hook:
        hook.reply = answer(302, location=f"http://127.0.0.1:{inside.port}/secret")
        assert post(hook.url, b"{}", {}, allowed=networks(["127.0.0.0/8"])).status == 302
        assert inside.requests == []


def test_whether_anybody_listens_inside_cannot_be_told_from_the_refusal() -> None:
    with target() as hook, socket.create_server(("127.0.0.1", 0)) as silent:
        told, took = [], []
        for port in (hook.port, silent.getsockname()[1], 9):
            began = time.perf_counter()
            with pytest.raises((RefusedError, RequestError)) as refusal:
                post(f"http://127.0.0.1:{port if port != 9 else 65000}/", b"{}", {}, allowed=())
            took.append(time.perf_counter() - began)
            told.append(str(refusal.value))
        assert len(set(told)) == 1
        assert max(took) < 5, "nobody is waited for"
        assert hook.requests == []
