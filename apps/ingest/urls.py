"""Routes of the ingest door."""

from __future__ import annotations

from django.urls import path

from apps.ingest import views

app_name = "ingest"
urlpatterns = [
    path("api/v1/events", views.events, name="events"),
    path("v1/traces", views.push, name="traces"),
    path("api/v1/histories/<str:name>", views.push, name="histories"),
    path("api/v1/openlineage", views.push, name="openlineage"),
    path("api/v1/lineage", views.push, name="lineage"),
    path("api/v1/conductor", views.push, name="conductor"),
    path("api/v1/sns", views.push, name="sns"),
    path("api/v1/eventbridge", views.push, name="eventbridge"),
    path("api/v1/access-logs", views.push, name="access-logs"),
]
