"""Headers of every answer, and what `manage.py check --deploy` says about settings beyond Django's own checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Tags, register
from django.core.checks import Warning as Warned
from django.http import HttpRequest, HttpResponse

#: No page asks for any of these; copying a token needs `clipboard-write`, a security key `publickey-credentials-*`.
PERMISSIONS_POLICY = ", ".join(
    [
        *(
            f"{feature}=()"
            for feature in (
                *("accelerometer", "autoplay", "camera", "display-capture", "encrypted-media", "fullscreen"),
                *("geolocation", "gyroscope", "hid", "magnetometer", "microphone", "midi", "payment", "serial", "usb"),
                *("screen-wake-lock", "xr-spatial-tracking"),
            )
        ),
        *(f"{feature}=(self)" for feature in ("clipboard-write", "publickey-credentials-create")),
        "publickey-credentials-get=(self)",
    ]
)
#: What a browser may do with an answer of the API that somebody opened as if it were a page: nothing.
API_CSP = "default-src 'none'; frame-ancestors 'none'; sandbox"


def headers_middleware(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Django middleware: adds what neither Django nor django-csp sends."""

    def answered(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        response.headers.setdefault("Permissions-Policy", PERMISSIONS_POLICY)
        response.headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
        if request.path.startswith("/api/"):
            response.headers["Content-Security-Policy"] = API_CSP
            response.headers.setdefault("Cache-Control", "no-store")
        return response

    return answered


@register(Tags.security, deploy=True)
def check_hosts(app_configs: Sequence[Any] | None, **more: Any) -> list[CheckMessage]:
    """Any host name would be believed."""
    if "*" not in settings.ALLOWED_HOSTS:
        return []
    return [Warned("ALLOWED_HOSTS is *: name the hosts that people use.", id="sagascope.W001")]


@register(Tags.security, deploy=True)
def check_public_url(app_configs: Sequence[Any] | None, **more: Any) -> list[CheckMessage]:
    """Passwords and tokens would travel in the clear."""
    if settings.PUBLIC_URL.startswith("https://"):
        return []
    return [Warned("PUBLIC_URL does not begin with https://.", id="sagascope.W002")]
