"""Limits on guessing hold over all web processes; without Redis, each process still has its own."""

from __future__ import annotations

from typing import Any

import pytest
from django.conf import settings as django_settings
from django.test import Client

from apps.lib.shared_limits import LimitsCache
from tests.web.conftest import PASSWORD, SignIn

NOBODY = "redis://127.0.0.1:1/0"


def process(server: str) -> LimitsCache:
    """The cache of one web process."""
    cache = LimitsCache(server, {})
    # Caches of one name share their memory within a process: a second process would not.
    cache._cache, cache._expire_info = type(cache._cache)(), {}
    return cache


def test_what_limits_guessing_is_seen_by_all_processes(redis_client: Any) -> None:
    one, other = process(django_settings.REDIS_URL), process(django_settings.REDIS_URL)

    one.set("allauth:rl:login", [1.5, 0.25], 60)
    one.set("counts", {1: "own"}, 60)

    assert other.get("allauth:rl:login") == [1.5, 0.25]
    assert other.get("counts") is None
    assert one.get("counts") == {1: "own"}
    assert one.add("allauth:lock", True, 10)
    assert not other.add("allauth:lock", True, 10)
    assert other.delete("allauth:lock")
    assert one.get("allauth:lock", "free") == "free"
    assert 0 < redis_client.pttl(one.make_key("allauth:rl:login")) <= 60_000


def test_without_redis_each_process_counts_for_itself() -> None:
    one = process(NOBODY)

    assert one.add("allauth:lock", True, 10)
    assert not one.add("allauth:lock", True, 10)
    one.set("allauth:rl:login", [1.0], 60)
    assert one.get("allauth:rl:login") == [1.0]
    assert one.delete("allauth:lock")


@pytest.mark.parametrize("server", ["redis", NOBODY])
def test_five_wrong_passwords_are_counted_over_processes(
    sign_in: SignIn, redis_client: Any, settings: Any, server: str
) -> None:
    settings.CACHES = {
        "default": {
            "BACKEND": "apps.lib.shared_limits.LimitsCache",
            "LOCATION": django_settings.REDIS_URL if server == "redis" else server,
        }
    }
    sign_in("viewer")
    for _ in range(5):
        assert Client().post("/login", {"username": "viewer", "password": "wrong"}).status_code == 200

    assert Client().post("/login", {"username": "Viewer", "password": PASSWORD}).status_code == 429
    elsewhere = Client(REMOTE_ADDR="203.0.113.9")
    assert elsewhere.post("/login", {"username": "viewer", "password": PASSWORD}).status_code == 302


def test_right_passwords_between_wrong_ones_do_not_start_the_count_anew(sign_in: SignIn) -> None:
    sign_in("viewer")
    for name in ("viewer", *["admin"] * 3, "viewer", *["admin"] * 2):
        password = PASSWORD if name == "viewer" else "wrong"
        Client().post("/login", {"username": name, "password": password})

    assert Client().post("/login", {"username": "admin", "password": "wrong"}).status_code == 429
