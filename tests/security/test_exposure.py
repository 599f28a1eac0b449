"""What is served, what is installed, and what strangers type."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from django.test import Client

from tests.web.conftest import SignIn

ROOT = Path(__file__).resolve().parents[2]
#: What browsers may remember: how things look, and whether to ring.
PREFERENCES = {"theme", "zone", "notify"}


UNROUTED = [
    *("/.git/HEAD", "/.git/", "/.env", "/static/", "/static/css/", "/static/../manage.py", "/static/%2e%2e/manage.py"),
    *("/admin/", "/manage.py", "/requirements.lock", "/docs", "/api/v1/docs", "/debug"),
]


@pytest.mark.parametrize("path", UNROUTED)
def test_only_what_is_routed_is_served(db: None, path: str) -> None:
    assert Client().get(path).status_code == 404


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-server.lock"])
def test_every_component_is_pinned_by_hash(name: str) -> None:
    entries = re.split(r"\n(?=[A-Za-z0-9])", re.sub(r"(?m)^\s*#.*\n", "", (ROOT / name).read_text()))

    assert len(entries) > 50
    for entry in filter(None, map(str.strip, entries)):
        assert re.match(r"[A-Za-z0-9._-]+(\[[\w,-]+\])?==\S+", entry), entry[:60]
        assert "--hash=sha256:" in entry, entry[:60]


def test_what_is_for_development_is_not_installed_in_production() -> None:
    shipped = {line.partition("==")[0] for line in (ROOT / "requirements-server.lock").read_text().splitlines()}

    assert {"django", "django-allauth", "uvicorn"} <= shipped
    assert not shipped & {"pytest", "mypy", "ruff", "playwright", "hypothesis", "moto", "coverage", "py-spy"}


def test_browsers_keep_preferences_and_nothing_else() -> None:
    kept = set()
    for script in (ROOT / "static" / "js").glob("*.js"):
        if script.name != "htmx.min.js":
            text = script.read_text()
            assert "sessionStorage" not in text
            assert "indexedDB" not in text
            kept |= set(re.findall(r"(?:localStorage\.setItem|remember|keep|save)\(\s*\"([\w-]+)\"", text))

    assert kept <= PREFERENCES
    assert "theme" in kept


@pytest.mark.parametrize("typed", ["' OR 1=1 --", '"; DROP TABLE event; --', "%", "_", "(a+)+$", "\\", "order-%"])
def test_what_is_typed_is_never_a_statement_nor_a_pattern(sign_in: SignIn, trouble: None, typed: str) -> None:
    client = sign_in("viewer")
    began = time.perf_counter()

    for query in (f'correlation:"{typed}"', f'flow:"{typed}"', typed):
        answer = client.get("/api/v1/instances", {"q": query})
        assert answer.status_code in {200, 422}
        if answer.status_code == 200:
            assert answer.json()["items"] == []

    assert time.perf_counter() - began < 10, "nothing is tried for ever"
    assert len(client.get("/api/v1/instances").json()["items"]) == 3
