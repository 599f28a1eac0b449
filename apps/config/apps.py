"""Django's registration of the wiring: management commands and system checks live here."""

from django.apps import AppConfig


class ConfigConfig(AppConfig):
    name = "apps.config"
    label = "config"

    def ready(self) -> None:
        """Register our own checks, and what each new connection to PostgreSQL is told."""
        from django.db.backends.signals import connection_created

        from apps.config import security  # noqa: F401 - imported for its checks
        from apps.lib.sessions import prepare_on

        connection_created.connect(prepare_on, dispatch_uid="prepare_on")
