"""Settings → Storage: what is stored, and what will be, for admins."""

from __future__ import annotations

import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client

from apps.projects.models import Membership
from tests.sagas.stories import Shop, done

pytestmark = pytest.mark.django_db


def page_of(shop: Shop, role: str = "admin") -> tuple[int, str]:
    """Status and text of the page for somebody of that role."""
    user = get_user_model().objects.create(username=role)
    Membership.objects.create(project=shop.project, user=user, role=role)
    client = Client()
    client.force_login(user)
    answer = client.get("/settings/storage")
    return answer.status_code, answer.content.decode()


def test_a_new_installation_says_that_it_cannot_tell_yet() -> None:
    status, text = page_of(Shop.open())
    assert status == 200
    assert "too few events yet" in text
    assert "of its disk are free" in text


def test_it_settles_by_the_retention_of_its_projects() -> None:
    shop = Shop.open()
    shop.tell(*(event for n in range(600) for event in done("charge", 1, correlation_id=f"c{n}")))
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE event")
    _, text = page_of(shop)
    assert "it settles at about" in text
    assert "keeps sagas for 30 days" in text
    assert "Events, as they were received" in text


def test_only_admins_look() -> None:
    assert page_of(Shop.open(), "operator")[0] == 403
