"""Routes of the ingest door."""

from __future__ import annotations

from django.urls import path

from apps.ingest import views

app_name = "ingest"
urlpatterns = [path("api/v1/events", views.events, name="events")]
