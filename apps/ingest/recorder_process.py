"""What recorder processes share: imported once by the server process that they are forked from."""

from __future__ import annotations

import os

import django
from django.apps import apps as installed

if not installed.ready:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "apps.config.settings")
    django.setup()

from apps.ingest import taking_in  # noqa: F401 - Django must be set up before models are imported
from apps.lib.interpreter import tune_for_serving
from apps.lib.sessions import plan_once

tune_for_serving()
plan_once()
