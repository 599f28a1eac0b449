"""A shop for stories, once for each way in which their events may arrive."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from apps.sagas import catalog
from tests.sagas.stories import ARRIVALS, Shop


@pytest.fixture(params=list(ARRIVALS))
def shop(request: pytest.FixtureRequest, db: None) -> Iterator[Shop]:
    """A project of its own. Whatever a story says must hold in whatever order its events arrive."""
    catalog.forget()
    yield Shop.open(request.param)
    catalog.forget()
