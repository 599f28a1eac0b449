"""Every story is told in each of the ways in which its events may arrive."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from apps.sagas import catalog
from tests.findings.court import ARRIVALS, Court


@pytest.fixture(params=ARRIVALS)
def court(request: pytest.FixtureRequest, db: None) -> Iterator[Court]:
    """A project of its own; whatever is found there must not depend on the order of arrival."""
    catalog.forget()
    yield Court(request.param)
    catalog.forget()
