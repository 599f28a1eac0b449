"""What a production installation sends and refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from apps.projects.models import Source
from tests.web.conftest import SignIn

ROOT = Path(__file__).resolve().parents[2]
PRODUCTION = {
    "SECRET_KEY": "k7Qw-Zr2n_5fXcV9bTt8yLm4PsE1uHd6gJaK0oRi3BvNqWxMzYcUlSpOeDf",
    "PUBLIC_URL": "https://sagas.example.org",
    "ALLOWED_HOSTS": "sagas.example.org",
    "TRUST_PROXY": "true",
    "DATABASE_URL": "postgresql://sagascope@localhost/sagascope",
    "REDIS_URL": "redis://localhost",
}


def check(**changed: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], **PRODUCTION, **changed}
    command = [sys.executable, "manage.py", "check", "--deploy", "--fail-level", "WARNING"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_settings_of_production_pass_every_check() -> None:
    done = check()

    assert done.returncode == 0, done.stderr
    assert "no issues" in done.stdout


def test_cookies_of_production_belong_to_this_host_and_https() -> None:
    names = ("SESSION_COOKIE_NAME", "CSRF_COOKIE_NAME", "SESSION_COOKIE_SECURE", "CSRF_COOKIE_SECURE")
    program = f"from apps.config import settings; print(*(getattr(settings, name) for name in {names!r}))"
    command = [sys.executable, "-c", program]
    environment = {"PATH": os.environ["PATH"], **PRODUCTION}
    said = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout

    assert said.split() == ["__Host-session", "__Host-csrf", "True", "True"]


WEAK = [
    ("SECRET_KEY", "secret", "security.W009"),
    ("DEBUG", "1", "security.W018"),
    ("ALLOWED_HOSTS", "*", "sagascope.W001"),
    ("PUBLIC_URL", "http://sagas.example.org", "sagascope.W002"),
    ("TRUST_PROXY", "", "security.W008"),
]


def test_weak_settings_are_named() -> None:
    done = check(**{name: value for name, value, _ in WEAK})

    assert done.returncode != 0
    assert [code for _, _, code in WEAK if code not in done.stderr] == []


@pytest.mark.slow
@pytest.mark.parametrize(("name", "value", "code"), WEAK)
def test_each_weak_setting_is_named(name: str, value: str, code: str) -> None:
    done = check(**{name: value})

    assert done.returncode != 0
    assert code in done.stderr


HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
PAGE_CSP = {
    *("default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self' data:", "connect-src 'self'"),
    *("font-src 'self'", "manifest-src 'self'", "form-action 'self'", "base-uri 'none'", "object-src 'none'"),
    "frame-ancestors 'none'",
}


@pytest.mark.parametrize("path", ["/", "/login", "/settings/account", "/nowhere", "/join/x", "/api/v1/instances"])
def test_every_answer_has_the_headers(sign_in: SignIn, path: str) -> None:
    answer = sign_in("admin").get(path)

    expected = HEADERS | ({"Referrer-Policy": "no-referrer"} if path.startswith("/join/") else {})
    assert {name: answer.headers.get(name) for name in HEADERS} == expected
    assert "camera=()" in answer.headers["Permissions-Policy"]
    policy = {part.strip() for part in answer.headers["Content-Security-Policy"].split(";")}
    if path.startswith("/api/"):
        assert policy == {"default-src 'none'", "frame-ancestors 'none'", "sandbox"}
        assert answer.headers["Content-Type"] == "application/json", "which is UTF-8 by definition"
    else:
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        assert policy == PAGE_CSP


@pytest.mark.parametrize("path", ["/", "/instances", "/settings/account", "/api/v1/instances"])
def test_data_is_kept_by_no_cache(sign_in: SignIn, path: str) -> None:
    assert "no-store" in sign_in("admin").get(path).headers["Cache-Control"]


def test_https_is_kept_to_once_it_is_there(sign_in: SignIn, settings: Any) -> None:
    settings.SECURE_HSTS_SECONDS, settings.SECURE_HSTS_INCLUDE_SUBDOMAINS = 31536000, True

    assert sign_in("admin").get("/", secure=True).headers["Strict-Transport-Security"] == (
        "max-age=31536000; includeSubDomains"
    )


def test_pages_are_sent_on_to_https_and_programs_are_not(db: None, settings: Any) -> None:
    settings.SECURE_SSL_REDIRECT = True

    page = Client().get("/login")
    assert (page.status_code, page.headers["Location"]) == (301, "https://testserver/login")
    assert Client().get("/api/v1/instances").status_code == 401
    assert Client().get("/healthz").status_code == 200


def test_a_host_that_nobody_named_is_refused(db: None) -> None:
    assert Client(headers={"host": "evil.example"}).get("/login").status_code == 400


def test_what_a_client_says_of_its_way_is_not_believed(db: None) -> None:
    """Without TRUST_PROXY nobody can claim to have come by https, nor from another address."""
    answer = Client(headers={"x-forwarded-proto": "https", "x-forwarded-for": "203.0.113.9"}).get("/login")

    assert "Strict-Transport-Security" not in answer.headers


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "PROPFIND"])
def test_other_methods_are_not_served(sign_in: SignIn, source: Source, method: str) -> None:
    assert sign_in("admin").generic(method, "/api/v1/instances").status_code == 405
