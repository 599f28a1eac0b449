"""Outgoing HTTP: what may be called, and what a target can do to us."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from apps.lib import http
from apps.lib.http import RefusedError, RequestError, check_url, is_open, networks, parse_url, post, resolve
from tests.alerts.world import answer, target

LOOPBACK = networks(["127.0.0.0/8"])


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "gopher://example.com/",
        "ftp://example.com/",
        "javascript:alert(1)",
        "",
        "example.com",
        "http://",
        "http:///path",
        "http://user@example.com/",
        "http://user:password@example.com/",
        "http://2130706433/",
        "http://127.1/",
        "http://0x7f000001/",
        "http://0x7f.1/",
        "http://0177.0.0.1/",
        "http://127.0.0.1./",
        "http://①②⑦.⓪.⓪.①/",
        "http://exämple.com/",
        "http://example.com:5432/",
        "http://example.com:6379/",
        "http://example.com:22/",
        "http://example.com:0/",
        "http://example.com:99999/",
        "http://example.com:x/",
        "http://example.com/a\r\nHost: evil",
        "http://example.com/a b",
        "http://example.com\\@127.0.0.1/",
        "http://[::1/",
        "http://[v1.x]/",
        "http://ex%41mple.com/",
        "http://-/" + "a" * 2100,
        "http://a..b/",
    ],
)
def test_urls_that_are_refused_as_such(url: str) -> None:
    with pytest.raises(RefusedError):
        parse_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://127.0.0.1:8000/",
        "http://[::1]/",
        "http://[::]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:7f00:1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[2002:7f00:1::]/",
        "http://[::127.0.0.1]/",
        "http://[fe80::1]/",
        "http://[fd00::1]/",
        "http://[ff02::1]/",
        "http://169.254.169.254/latest/meta-data",
        "http://10.0.0.1/",
        "http://172.16.0.1/",
        "http://192.168.0.1/",
        "http://100.64.0.1/",
        "http://0.0.0.0/",
        "http://224.0.0.1/",
        "http://240.0.0.1/",
        "http://255.255.255.255/",
        "http://localhost/",
        "http://localhost./",
        "http://LOCALHOST/",
    ],
)
def test_private_addresses_are_refused_at_save_and_at_connect(url: str) -> None:
    with pytest.raises(RefusedError):
        check_url(url, ())
    with pytest.raises(RefusedError):
        post(url, b"", {}, allowed=())


def test_public_addresses_are_open_and_the_operator_can_open_others() -> None:
    assert is_open("93.184.216.34")
    assert is_open("2606:2800:220:1:248:1893:25c8:1946")
    assert not is_open("10.1.2.3")
    assert is_open("10.1.2.3", networks(["10.1.0.0/16"]))
    assert is_open("::ffff:10.1.2.3", networks(["10.1.0.0/16"]))
    assert not is_open("10.2.0.1", networks(["10.1.0.0/16"]))
    assert not is_open("nonsense")


def test_ports_of_databases_stay_closed_in_opened_networks() -> None:
    with pytest.raises(RefusedError, match="port 5432"):
        post("http://127.0.0.1:5432/", b"", {}, allowed=LOOPBACK)


def test_only_the_open_ones_of_several_addresses_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in ("10.0.0.1", "93.184.216.34")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers)
    assert resolve("mixed.example", 80) == ["93.184.216.34"]


def test_a_name_that_changes_its_mind_reaches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: public when saved, ours when called; and it is asked once per call."""
    asked = []

    def rebinding(*_: object, **__: object) -> list:
        asked.append(1)
        address = "93.184.216.34" if len(asked) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80))]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    check_url("http://rebind.example/", ())
    with pytest.raises(RefusedError):
        post("http://rebind.example/", b"", {}, allowed=())
    assert len(asked) == 2


def test_the_checked_address_is_the_one_that_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    with target() as hook:
        looked_up = []
        real = socket.getaddrinfo

        def once(host: str, *rest: object, **more: object) -> list:
            looked_up.append(host)
            return real("127.0.0.1" if host == "hook.example" else host, *rest, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(socket, "getaddrinfo", once)
        got = post(f"http://hook.example:{hook.port}/x?y=1", b"{}", {"X-Test": "1"}, allowed=LOOPBACK)
    (request,) = hook.requests
    assert got.status == 204
    assert (request.path, request.body, request.headers["x-test"]) == ("/x?y=1", b"{}", "1")
    assert request.headers["host"] == f"hook.example:{hook.port}"
    assert looked_up.count("hook.example") == 1


def test_proxy_variables_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with target() as hook, target() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert post(hook.url, b"", {}, allowed=LOOPBACK).status == 204
        assert (len(hook.requests), len(proxy.requests)) == (1, 0)


def test_redirects_are_handed_back() -> None:
    with target() as hook:
        hook.reply = answer(302, location="http://127.0.0.1/")
        assert post(hook.url, b"", {}, allowed=LOOPBACK).status == 302


@contextmanager
def raw_server(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that speaks whatever `talk` makes it speak."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            try:
                connection, _ = server.accept()
                with connection:
                    connection.recv(65536)
                    talk(connection)
            except OSError:
                return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"


def test_a_target_that_drips_its_answer_is_left_in_time() -> None:
    stop = threading.Event()

    def drip(connection: socket.socket) -> None:
        for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"a" * 1000:
            connection.send(bytes([byte]))
            if stop.wait(0.02):
                return

    began = time.monotonic()
    with raw_server(drip) as url, pytest.raises(RequestError, match="no whole answer"):
        post(url, b"", {}, allowed=LOOPBACK, timeout=0.5)
    stop.set()
    assert time.monotonic() - began < 8


def test_an_endless_answer_is_read_only_in_part() -> None:
    sent = []

    def flood(connection: socket.socket) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n")
        while len(sent) < 10_000:
            connection.send(b"x" * 65536)
            sent.append(1)

    with raw_server(flood) as url:
        got = post(url, b"", {}, allowed=LOOPBACK)
    assert (got.status, len(got.body)) == (200, http.MAX_ANSWER_BYTES)
    assert len(sent) < 10_000


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"", "not HTTP"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000, "not HTTP"),
    ],
)
def test_answers_that_are_not_http_are_failures_with_a_reason(said: bytes, reason: str) -> None:
    with raw_server(lambda connection: connection.sendall(said)) as url, pytest.raises(RequestError, match=reason):
        post(url, b"", {}, allowed=LOOPBACK, timeout=5)


def test_nobody_listening_and_no_tls_are_failures_with_a_reason() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(RequestError, match="refused or could not be made"):
        post(f"http://127.0.0.1:{port}/", b"", {}, allowed=LOOPBACK)
    with target() as hook, pytest.raises(RequestError, match="TLS"):
        post(f"https://127.0.0.1:{hook.port}/", b"", {}, allowed=LOOPBACK)


def test_a_name_that_nobody_knows_is_a_failure_not_a_refusal() -> None:
    assert check_url("https://nobody.invalid/", ()).host == "nobody.invalid"
    with pytest.raises(RequestError, match="not known"):
        post("https://nobody.invalid/", b"", {}, allowed=())
