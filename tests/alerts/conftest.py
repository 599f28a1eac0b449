"""Fixtures of the alert tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from apps.sagas import catalog
from tests.alerts.world import Target, World, target


@pytest.fixture(autouse=True)
def fresh_catalog() -> Iterator[None]:
    """Rolled-back revisions must not be taken for known ones."""
    catalog.forget()
    yield
    catalog.forget()


@pytest.fixture
def world(db: None) -> World:
    """A project with a flow and a source."""
    return World.create()


@pytest.fixture
def loopback(settings: Any) -> None:
    """The operator has opened the loopback network to outgoing calls."""
    settings.WEBHOOK_ALLOWED_NETWORKS = ["127.0.0.0/8"]


@pytest.fixture
def hook(loopback: None) -> Iterator[Target]:
    """A real HTTP server that webhooks may call."""
    with target() as running:
        yield running
