"""Django's registration of the wiring: management commands and system checks live here."""

from django.apps import AppConfig


class ConfigConfig(AppConfig):
    name = "apps.config"
    label = "config"

    def ready(self) -> None:
        """Register our own checks."""
        from apps.config import security  # noqa: F401 - imported for its checks
