"""Every route of the URLconf, asked by everybody who may not have it: nothing is shown, nothing is changed.

Generated: a route that is added without a rule fails the first test, and is asked by all the others. What members see
of pages stands in `tests.web.test_access`, what tokens open in `tests.api.test_access`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from apps.api.urls import api
from apps.projects import invitations
from apps.projects.models import Project, Source, Token
from apps.projects.tokens import create_token
from tests.web.conftest import SignIn
from tests.web.test_access import CHANGES, NEEDS, OPEN, RANK, address, rule_of, told, watched

METHODS = ("GET", "POST", "PUT", "DELETE")
#: For everybody, and without anything of a project.
PUBLIC = {"healthz", "readyz", "metrics", "api/v1/openapi.json", "api/v1/", "api/v1/^"}
#: Ways in: they know nobody yet.
DOORS = {
    *("login", "logout", "join/<str:secret>", "embed/<str:token>"),
    *("forgotten", "forgotten/<str:number>/<str:token>"),
    *("sign-in/code", "sign-on/cancelled", "sign-on/failed"),
    *("sign-on/<str:provider_id>/login/", "sign-on/<str:provider_id>/login/callback/"),
    # How close together rows stand in this browser: no project's affair.
    "density",
}
#: One's own account: whose it is comes from the session alone.
OWN = re.compile(r"settings/account(/.*)?|sign-in/again(/.*)?")
#: What senders call, with an ingest token.
INGEST = {
    *("api/v1/events", "v1/traces", "api/v1/histories/<str:name>", "api/v1/openlineage", "api/v1/lineage"),
    *("api/v1/conductor", "api/v1/sns", "api/v1/eventbridge", "api/v1/access-logs"),
}
#: Names of things of the shop that nobody else may ever read.
MARKS = [b"order-stuck", b"order-good", b"order-owing", b"Corner shop", b"orders-service", b"oncall@example.com"]
#: Tables that keep what happened to requests, whoever made them.
_NOTED = {"audit_entry"}
#: Values for parts of addresses that name something of the shop.
_NAMED = {
    "correlation_id": "order-stuck",
    "name": "order-fulfilment",
    "flow": "order-fulfilment",
    "number": "1",
    "event_type": "com.acme.Happened",
    "version": "1",
    "secret": "guessed",
    "token": "guessed",
    "pk": "1",
    "provider_id": "sso",
}

Ask = Callable[[str, str], Any]


def routes(patterns: list[Any] | None = None, prefix: str = "") -> Iterator[tuple[str, URLPattern]]:
    """Every route of the product, as it is spelt in the URLconf."""
    for one in get_resolver().url_patterns if patterns is None else patterns:
        if isinstance(one, URLResolver):
            yield from routes(one.url_patterns, prefix + str(one.pattern))
        else:
            yield prefix + str(one.pattern), one


ROUTES = dict(routes())
API_RULES = {
    "api/v1" + path: operation.auth_callbacks
    for router in api._get_bound_routers()
    for path, view in router.path_operations.items()
    for operation in view.operations
}


def rule_of_route(route: str, pattern: URLPattern) -> str | None:
    """Who may have it; None for a route that nobody has thought about."""
    if route in PUBLIC:
        return "public"
    if route in DOORS:
        return "door"
    if route in INGEST:
        return "ingest"
    if OWN.fullmatch(route):
        return "own"
    spelt = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", route)
    if route.startswith("api/v1/"):
        known = {re.sub(r"{(?:\w+:)?(\w+)}", r"{\1}", path): rules for path, rules in API_RULES.items()}
        return "api" if known.get(spelt) else None
    is_gated = hasattr(pattern.callback, "__wrapped__")
    return "page" if pattern.name not in OPEN and is_gated else None


def test_every_route_has_a_rule() -> None:
    without = [route for route, pattern in ROUTES.items() if rule_of_route(route, pattern) is None]

    assert without == []
    assert len(ROUTES) > 100


def addresses(source: Source) -> dict[str, str]:
    """An address of each route, of things of the shop that exist."""
    ids = {"source_id": source.pk, "receiver_id": told(source).pk, "queue_id": watched(source).pk}
    ids |= {"rule_id": rule_of(source).pk}
    values = _NAMED | {name: str(number) for name, number in ids.items()}
    found = {}
    for route, pattern in ROUTES.items():
        if pattern.name in {*CHANGES, *NEEDS} and not route.startswith("api/"):
            found[route] = address(str(pattern.name), source)
            continue
        plain = re.sub(r"\(\?P<(\w+)>[^)]*\)", r"<\1>", route.replace("^", ""))
        found[route] = "/" + re.sub(r"<(?:\w+:)?(\w+)>", lambda part: values[part[1]], plain)
    return found


@pytest.fixture
def everything(source: Source, trouble: None) -> dict[str, str]:
    """Addresses of the shop's things, each of which exists."""
    invitations.invite(source.project, "viewer")
    create_token(source.project, ["read"], name="orders-service reads")
    return addresses(source)


def snapshot(project: Project) -> dict[str, str]:
    """A digest of all rows of the project, table by table."""
    digests = {}
    for model in apps.get_models(include_auto_created=True):
        columns = {field.column for field in model._meta.concrete_fields}
        table = model._meta.db_table
        where = "project_id = %s" if "project_id" in columns else "id = %s" if model is Project else ""
        if not where or table in _NOTED:
            continue
        with connection.cursor() as cursor:
            cursor.execute(
                f"SELECT md5(coalesce(string_agg(t::text, '|' ORDER BY t::text), '')) FROM {table} t WHERE {where}",
                [project.pk],
            )
            digests[table] = cursor.fetchone()[0]
    return digests


def with_session(client: Client) -> Ask:
    """A browser that also names the shop wherever a project can be named."""

    def ask(method: str, path: str) -> Any:
        joined = path + ("&" if "?" in path else "?") + "project=shop"
        data = {"project": "shop", "action": "delete", "name": "Taken", "role": "admin", "username": "admin"}
        if method in {"GET", "HEAD", "OPTIONS"}:
            return client.generic(method, joined, headers={"X-Project": "shop"})
        if method == "POST" and not path.startswith("/api/"):
            return client.post(joined, data, headers={"X-Project": "shop"})
        return client.generic(method, joined, b"{}", "application/json", headers={"X-Project": "shop"})

    return ask


def with_token(text: str) -> Ask:
    """A program with a token."""
    client = Client()

    def ask(method: str, path: str) -> Any:
        headers = {"Authorization": f"Bearer {text}", "X-Project": "shop"}
        return client.generic(method, path + "?project=shop", b"{}", "application/json", headers=headers)

    return ask


def body_of(answer: Any) -> bytes:
    return b"".join(answer.streaming_content) if answer.streaming else answer.content


OUTSIDERS = (
    "anonymous",
    "foreign admin",
    "member of nothing",
    "foreign token",
    "foreign ingest token",
    "revoked token",
)


@pytest.mark.filterwarnings("ignore:StreamingHttpResponse")
@pytest.mark.parametrize("who", OUTSIDERS)
def test_outsiders_see_and_change_nothing_of_the_shop_by_any_route(
    who: str, everything: dict[str, str], shop: Project, rival: Project, sign_in: SignIn
) -> None:
    nobody = Client()
    nobody.force_login(get_user_model().objects.create_user("nobody"))
    revoked = create_token(shop, ["read", "operate", "ingest"], name="revoked")
    Token.objects.filter(name="revoked").update(revoked_at="2020-01-01T00:00:00Z")
    ask = {
        "anonymous": lambda: with_session(Client()),
        "foreign admin": lambda: with_session(sign_in("foreign")),
        "member of nothing": lambda: with_session(nobody),
        "foreign token": lambda: with_token(create_token(rival, ["read", "operate"])),
        "foreign ingest token": lambda: with_token(create_token(rival, ["ingest"])),
        "revoked token": lambda: with_token(revoked),
    }[who]()
    before = snapshot(shop)
    has_session = who in {"foreign admin", "member of nothing"}

    for route, path in everything.items():
        rule = rule_of_route(route, ROUTES[route])
        for method in METHODS:
            answer = ask(method, path)
            said = body_of(answer)
            where = f"{who}: {method} {path} → {answer.status_code}"
            assert answer.status_code < 500 or path == "/readyz", where
            if rule != "public":
                assert not [mark for mark in MARKS if mark in said and mark.decode() not in path], where
            if rule in {"page", "own"} and not has_session:
                assert answer.status_code in {302, 405}, where
            if rule == "api" and who in {"anonymous", "revoked token", "foreign ingest token"}:
                assert answer.status_code in {401, 403, 405}, where

    assert snapshot(shop) == before


@pytest.mark.parametrize("role", RANK[:2])
def test_a_role_that_is_too_small_changes_nothing_by_any_page(
    role: str, everything: dict[str, str], shop: Project, sign_in: SignIn
) -> None:
    client = sign_in(role)
    ask = with_session(client)
    too_small = [
        route
        for route, pattern in ROUTES.items()
        if rule_of_route(route, pattern) == "page"
        and pattern.name in CHANGES
        and RANK.index(role) < RANK.index(CHANGES[pattern.name])
    ]
    client.get("/?project=shop")
    before = snapshot(shop)

    for route in too_small:
        for method in ("POST", "PUT", "DELETE"):
            assert ask(method, everything[route]).status_code in {403, 405}, f"{role}: {method} {route}"

    assert snapshot(shop) == before
    assert too_small


@pytest.mark.parametrize(("scope", "opens"), [("ingest", set()), ("read", {"GET", "HEAD"}), ("operate", set())])
def test_a_token_of_one_scope_changes_nothing_that_needs_another(
    scope: str, opens: set[str], everything: dict[str, str], shop: Project
) -> None:
    ask = with_token(create_token(shop, [scope], name="one scope"))
    before = snapshot(shop)
    reading = {route for route in everything if rule_of_route(route, ROUTES[route]) == "api"}

    for route in sorted(reading):
        for method in ("GET", "POST", "PUT", "DELETE") if scope != "operate" else ("GET",):
            status = ask(method, everything[route]).status_code
            may = method in opens or (scope == "read" and route == "api/v1/check")
            assert may or status in {401, 403, 405}, f"{scope}: {method} {route} → {status}"

    changed = {table for table, digest in snapshot(shop).items() if digest != before[table]}
    assert changed <= {"projects_token"}, "its last use is noted, and nothing else"
