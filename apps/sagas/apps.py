"""Django's registration of the sagas app."""

from django.apps import AppConfig


class SagasConfig(AppConfig):
    name = "apps.sagas"
    label = "sagas"
    default_auto_field = "django.db.models.BigAutoField"
