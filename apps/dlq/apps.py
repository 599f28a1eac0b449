"""Django's registration of the dlq app."""

from django.apps import AppConfig


class DlqConfig(AppConfig):
    name = "apps.dlq"
    label = "dlq"
    default_auto_field = "django.db.models.BigAutoField"
