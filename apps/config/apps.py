"""Django's registration of the wiring: management commands and system checks live here."""

from django.apps import AppConfig


class ConfigConfig(AppConfig):
    name = "apps.config"
    label = "config"
