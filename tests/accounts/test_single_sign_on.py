"""Single sign-on against an OpenID provider that speaks for itself over HTTP: who is let in, as whom."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest
from allauth.socialaccount.models import SocialAccount, SocialToken
from cryptography.hazmat.primitives.asymmetric import rsa
from django.contrib.auth import get_user_model
from django.test import Client

from apps.projects import invitations
from apps.projects.models import Membership, Project
from tests.web.conftest import SignIn, text_of

CLIENT = "sagascope"
START, BACK = "/sign-on/sso/login/", "/sign-on/sso/login/callback/"


class Provider:
    """Signs in whoever `subject` says."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.issuer = self.url
        self.subject, self.name, self.email = "s-1", "mira", "mira@example.com"
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.asked: list[dict[str, list[str]]] = []
        #: Claims of the ID token, its header, and the issuer's description that are not as they should be.
        self.claims: dict[str, Any] = {}
        self.header: dict[str, Any] = {}
        self.described: dict[str, Any] = {}
        #: Signs instead of `key`, whose public half is published.
        self.signer: Any = self.key
        self.nonce = ""

    def answer(self, path: str) -> dict[str, Any]:
        if path.endswith("openid-configuration"):
            ends = {name: f"{self.url}/{name}" for name in ("authorization_endpoint", "token_endpoint", "jwks_uri")}
            return {"issuer": self.url, "userinfo_endpoint": f"{self.url}/userinfo", **ends, **self.described}
        if path == "/jwks_uri":
            published = jwt.algorithms.RSAAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
            return {"keys": [{**published, "kid": "k-1", "use": "sig"}]}
        who = {"sub": self.subject, "preferred_username": self.name, "email": self.email, "email_verified": True}
        if path == "/userinfo":
            return who
        now = int(time.time())
        claims = {"iss": self.issuer, "aud": CLIENT, "iat": now, "exp": now + 60, "nonce": self.nonce, **who}
        header = {"alg": "RS256", "kid": "k-1", **self.header}
        encoded = jwt.encode(claims | self.claims, self.signer, header["alg"], header)
        return {"access_token": "a", "token_type": "Bearer", "id_token": encoded}


@pytest.fixture
def provider(settings: Any) -> Iterator[Provider]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            if length:
                provider.asked.append(parse_qs(self.rfile.read(length).decode()))
            body = json.dumps(provider.answer(urlsplit(self.path).path)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - called so by http.server

        def log_message(self, *args: Any) -> None:
            """Tell nobody."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    provider = Provider(server.server_port)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    app = {"provider_id": "sso", "name": "Acme", "client_id": CLIENT, "secret": "x"}
    app["settings"] = {"server_url": provider.url}  # type: ignore[assignment]
    settings.OIDC_ISSUER, settings.OIDC_ID, settings.OIDC_NAME = provider.url, "sso", "Acme"
    settings.SOCIALACCOUNT_PROVIDERS = {"openid_connect": {"OAUTH_PKCE_ENABLED": True, "APPS": [app]}}
    yield provider
    server.shutdown()
    server.server_close()


def sign_on(client: Client, provider: Provider, *, process: str = "login", target: str = "") -> Any:
    """Go to the provider and come back."""
    sent = client.post(f"{START}?process={process}&next={target}")
    assert sent.status_code == 302
    asked = parse_qs(urlsplit(sent.headers["Location"]).query)
    assert asked["code_challenge_method"] == ["S256"]
    provider.nonce = asked["nonce"][0]
    return client.get(BACK, {"code": "c", "state": asked["state"][0]})


def test_a_stranger_with_a_good_sign_on_has_no_account_here(provider: Provider, shop: Project) -> None:
    client = Client()

    answer = sign_on(client, provider)

    assert "There is no account for you here yet" in text_of(answer)
    assert not get_user_model().objects.exists()
    assert client.get("/").status_code == 302


def test_somebody_with_an_invitation_joins_by_it(provider: Provider, shop: Project) -> None:
    client = Client()
    secret = invitations.invite(shop, "operator")
    assert "Join with Acme" in text_of(client.get(f"/join/{secret}"))

    sign_on(client, provider, target=f"/join/{secret}")

    assert Membership.objects.get(user__username="mira").role == "operator"
    assert client.get("/").status_code == 200
    assert not get_user_model().objects.get().has_usable_password()
    again = Client()
    sign_on(again, provider)
    assert again.get("/").status_code == 200


def test_an_invitation_opens_for_one_person_only(provider: Provider, shop: Project) -> None:
    secret = invitations.invite(shop, "viewer")
    first, second = Client(), Client()
    for client in (first, second):
        client.get(f"/join/{secret}")
    sign_on(first, provider)

    provider.subject, provider.name = "s-2", "another"
    sign_on(second, provider)

    assert second.get("/").status_code == 302
    assert get_user_model().objects.count() == 1


def test_the_same_mail_address_is_not_the_same_person(provider: Provider, shop: Project) -> None:
    get_user_model().objects.create_user("mira", email="mira@example.com", password="something")

    client = Client()
    sign_on(client, provider)

    assert client.get("/").status_code == 302


def test_an_account_is_connected_by_its_owner_and_opened_from_then_on(provider: Provider, sign_in: SignIn) -> None:
    owner = sign_in("viewer")
    assert "Connect Acme" in text_of(owner.get("/settings/account"))

    sign_on(owner, provider, process="connect")

    client = Client()
    sign_on(client, provider)
    assert "viewer" in text_of(client.get("/settings/account"))
    assert "mira" in text_of(owner.get("/settings/account/sign-on"))


def test_the_word_of_another_issuer_is_not_taken(provider: Provider, shop: Project) -> None:
    secret = invitations.invite(shop, "viewer")
    client = Client()
    client.get(f"/join/{secret}")
    provider.issuer = "https://evil.example"

    answer = sign_on(client, provider)

    assert answer.status_code in {200, 302, 401}
    assert not get_user_model().objects.exists()


def test_an_answer_that_nobody_asked_for_opens_nothing(provider: Provider, shop: Project) -> None:
    answer = Client().get(BACK, {"code": "c", "state": "invented"})

    assert answer.status_code in {302, 401}
    assert not provider.asked


def test_going_there_needs_a_form(provider: Provider, shop: Project) -> None:
    assert Client().get(START).status_code == 200
    assert Client(enforce_csrf_checks=True).post(START).status_code == 403


def test_without_an_issuer_there_is_no_button(db: None) -> None:
    assert "Sign in with" not in text_of(Client().get("/login"))


def test_no_token_of_the_provider_is_kept(provider: Provider, sign_in: SignIn) -> None:
    sign_on(sign_in("viewer"), provider, process="connect")

    assert SocialAccount.objects.count() == 1
    assert not SocialToken.objects.exists()


@pytest.mark.parametrize(
    "claims",
    [{"aud": "another-client"}, {"aud": None}, {"exp": 1_700_000_000}, {"exp": None}, {"nbf": 4_000_000_000}],
    ids=["for somebody else", "for nobody", "over", "without an end", "not yet"],
)
def test_an_id_token_that_is_not_for_us_or_not_now_lets_nobody_in(
    claims: dict[str, Any], provider: Provider, shop: Project
) -> None:
    secret = invitations.invite(shop, "viewer")
    client = Client()
    client.get(f"/join/{secret}")
    provider.claims = claims

    sign_on(client, provider)

    assert client.get("/").status_code == 302
    assert not get_user_model().objects.exists()


def joins_nobody(provider: Provider, shop: Project) -> bool:
    secret = invitations.invite(shop, "viewer")
    client = Client()
    client.get(f"/join/{secret}")
    sign_on(client, provider)
    return client.get("/").status_code == 302 and not get_user_model().objects.exists()


def test_an_id_token_that_the_issuer_did_not_sign_lets_nobody_in(provider: Provider, shop: Project) -> None:
    provider.signer = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    assert joins_nobody(provider, shop)


@pytest.mark.parametrize(
    ("header", "signer"),
    [({"alg": "none"}, ""), ({"alg": "HS256"}, "a secret that is shared, of 32 bytes or more"), ({"kid": "k-2"}, None)],
    ids=["unsigned", "by a shared secret", "by an unknown key"],
)
def test_an_id_token_is_signed_by_an_algorithm_of_the_list_and_a_key_of_the_issuer(
    header: dict[str, Any], signer: str | None, provider: Provider, shop: Project
) -> None:
    provider.header = header
    provider.signer = provider.key if signer is None else signer
    assert joins_nobody(provider, shop)


@pytest.mark.parametrize("kind", ["at+jwt", "logout+jwt"])
def test_a_token_for_something_else_is_no_id_token(kind: str, provider: Provider, shop: Project) -> None:
    provider.header = {"typ": kind}
    assert joins_nobody(provider, shop)


def test_the_id_token_of_another_sign_on_lets_nobody_in(provider: Provider, shop: Project) -> None:
    provider.claims = {"nonce": "of another session"}
    assert joins_nobody(provider, shop)


def test_what_is_told_of_another_person_lets_nobody_in(provider: Provider, shop: Project) -> None:
    provider.claims = {"sub": "s-2"}
    assert joins_nobody(provider, shop)


def test_a_description_of_another_issuer_is_not_followed(provider: Provider, shop: Project) -> None:
    provider.described = {"issuer": "https://evil.example"}
    answer = Client().post(f"{START}?process=login")
    assert answer.status_code == 503
    assert "Signing in failed" in text_of(answer)
    assert not provider.asked


def test_a_provider_that_is_away_is_no_error_of_ours(provider: Provider, shop: Project, settings: Any) -> None:
    app = settings.SOCIALACCOUNT_PROVIDERS["openid_connect"]["APPS"][0]
    app["settings"]["server_url"] = "http://127.0.0.1:1"
    assert Client().post(f"{START}?process=login").status_code == 503
