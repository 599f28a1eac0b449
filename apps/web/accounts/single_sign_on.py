"""Single sign-on: allauth's OpenID Connect, with every check of the ID token made whatever way the token came.

OpenID Connect lets a client that fetched the token itself over TLS skip its signature. Here it is always checked, by a
list of algorithms and the keys of the one issuer that the settings name; a nonce binds the token to the sign-on that
asked for it, and it must be about the same person as what the issuer tells of the person.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable
from typing import Any

import jwt
from allauth.account.internal.decorators import login_not_required
from allauth.socialaccount.adapter import get_adapter
from allauth.socialaccount.internal import jwtkit
from allauth.socialaccount.models import SocialApp
from allauth.socialaccount.providers.oauth2.client import OAuth2Client, OAuth2Error
from allauth.socialaccount.providers.oauth2.views import OAuth2CallbackView, OAuth2LoginView
from allauth.socialaccount.providers.openid_connect.views import OpenIDConnectOAuth2Adapter
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.crypto import salted_hmac
from requests import RequestException

logger = logging.getLogger(__name__)

#: Signatures that only the issuer can make; never `none`, nor one by a secret that we share with it.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
#: What the header of an ID token may call it; access and logout tokens have types of their own.
_TYPES = (None, "", "JWT")
_WELL_KNOWN = "/.well-known/"


class OpenIDClient(OAuth2Client):
    """Sends people to the issuer."""

    def get_redirect_url(self, authorization_url: str, scope: list[str], extra_params: dict[str, Any]) -> str:
        """Where to, with the nonce of this sign-on."""
        params = {**extra_params, "nonce": nonce_of(self.state or "")}
        return str(super().get_redirect_url(authorization_url, scope, params))


class OpenIDAdapter(OpenIDConnectOAuth2Adapter):
    """What we ask of the issuer, and believe of its answers."""

    client_class = OpenIDClient

    @property
    def openid_config(self) -> dict[str, Any]:
        """The issuer's own description. Raises OAuth2Error when it is somebody else's."""
        config: dict[str, Any] = super().openid_config
        expected = str(self.get_provider().app.settings["server_url"]).partition(_WELL_KNOWN)[0]
        if not isinstance(config, dict) or str(config.get("issuer", "")).rstrip("/") != expected.rstrip("/"):
            raise OAuth2Error("the issuer that the document names is not the one that was asked")
        return config

    def complete_login(self, request: HttpRequest, app: SocialApp, token: Any, **kwargs: Any) -> Any:
        """Who has signed on. Raises OAuth2Error, RequestException."""
        encoded = kwargs["response"].get("id_token")
        if not isinstance(encoded, str):
            raise OAuth2Error("no ID token was given")
        claims = self._decode_id_token(app, encoded)
        expected = nonce_of(request.GET.get("state", ""))
        if not hmac.compare_digest(str(claims.get("nonce", "")).encode(), expected.encode()):
            raise OAuth2Error("the ID token is not the answer to this sign-on")
        person = self._fetch_user_info(token.token)
        if not isinstance(person, dict) or person.get("sub") != claims.get("sub"):
            raise OAuth2Error("the ID token and the user info are about different people")
        return self.get_provider().sociallogin_from_response(request, {"userinfo": person, "id_token": claims})

    def _decode_id_token(self, app: SocialApp, id_token: str) -> dict[str, Any]:
        config = self.openid_config
        try:
            header = jwt.get_unverified_header(id_token)
            if header.get("alg") not in ALGORITHMS or header.get("typ") not in _TYPES:
                raise OAuth2Error(f"an ID token is not signed by {header.get('alg')!r} as {header.get('typ')!r}")
            claims: dict[str, Any] = jwt.decode(
                id_token,
                key=_key(config["jwks_uri"], header),
                algorithms=[header["alg"]],
                issuer=config["issuer"],
                audience=app.client_id,
                options={"require": ["exp", "iat", "iss", "aud", "sub"]},
                leeway=60,
            )
            jwtkit.verify_jti(claims)
        except (jwt.PyJWTError, KeyError, TypeError, ValueError) as error:
            raise OAuth2Error("the ID token cannot be believed") from error
        return claims


def nonce_of(state: str) -> str:
    """The nonce of a sign-on by its state, which only its session knows."""
    return salted_hmac("apps.web.accounts.single_sign_on", state, algorithm="sha256").hexdigest()


def login(request: HttpRequest, provider_id: str) -> HttpResponse:
    """Go to the issuer."""
    return _unless_away(OAuth2LoginView, request, provider_id)


def callback(request: HttpRequest, provider_id: str) -> HttpResponse:
    """Come back from it."""
    return _unless_away(OAuth2CallbackView, request, provider_id)


login = login_not_required(login)
callback = login_not_required(callback)


def _unless_away(view: Any, request: HttpRequest, provider_id: str) -> HttpResponse:
    try:
        answer: Callable[[HttpRequest], HttpResponse] = view.adapter_view(OpenIDAdapter(request, provider_id))
        return answer(request)
    except SocialApp.DoesNotExist:
        raise Http404 from None
    except (RequestException, OAuth2Error, KeyError, ValueError) as error:
        logger.error("the single sign-on cannot be used: %s", error)
        return render(request, "web/sign_on_refused.html", status=503)


def _key(url: str, header: dict[str, Any]) -> Any:
    """The issuer's key that a token says it was signed by. Raises OAuth2Error, PyJWTError, ValueError."""
    with get_adapter().get_requests_session() as session:
        response = session.get(url)
        response.raise_for_status()
        keys = response.json()["keys"]
    named = [key for key in keys if header.get("kid") is None or key.get("kid") == header["kid"]]
    fitting = [
        key for key in named if key.get("use", "sig") == "sig" and key.get("alg", header["alg"]) == header["alg"]
    ]
    if len(fitting) != 1:
        raise OAuth2Error("the issuer has no such key")
    return jwt.PyJWK(fitting[0], algorithm=header["alg"]).key
