"""Mounts the doors: ingest, REST API, pages, health; and answers errors in the language of each."""

from __future__ import annotations

from django.urls import URLPattern, URLResolver, include, path

from apps.config import health

urlpatterns: list[URLPattern | URLResolver] = [
    path("healthz", health.healthz),
    path("readyz", health.readyz),
    path("metrics", health.metrics),
    # Before the API, which answers everything else below /api/v1/.
    path("", include("apps.ingest.urls")),
    path("api/v1/", include("apps.api.urls")),
    path("", include("apps.web.urls")),
    path("", include("apps.web.accounts.urls")),
]

handler400 = "apps.config.errors.bad_request"
handler403 = "apps.config.errors.forbidden"
handler404 = "apps.config.errors.not_found"
handler500 = "apps.config.errors.server_error"
