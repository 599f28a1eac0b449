"""Bearer tokens: their form, what they open, and how soon they stop doing so."""

from __future__ import annotations

import re
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from apps.projects import tokens
from apps.projects.models import Project, Source, Token
from apps.projects.tokens import authenticate, create_token, identify, is_well_formed, revoke_token

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The tokens' own clock, in seconds, moved by the test."""

    class Clock:
        seconds = 1000.0

        def __call__(self) -> float:
            return self.seconds

    clock = Clock()
    monkeypatch.setattr(tokens, "monotonic", clock)
    tokens.forget_cached()
    yield clock
    tokens.forget_cached()


@pytest.fixture
def project() -> Project:
    return Project.objects.create(slug="shop", name="Shop")


def test_a_token_has_the_published_form_and_only_its_hash_is_kept(project: Project) -> None:
    text = create_token(project, ["ingest"], name="orders")

    assert re.fullmatch(tokens.SCAN_PATTERN, text)
    assert text.startswith("sgo_ingest_")
    kept = Token.objects.get()
    assert text.startswith(kept.prefix)
    assert len(kept.prefix) <= 16
    assert text.encode() not in bytes(kept.hash)


def test_no_two_tokens_are_the_same(project: Project) -> None:
    assert len({create_token(project, ["read"]) for _ in range(20)}) == 20


def test_an_ingest_token_stands_for_a_source_of_its_own(project: Project) -> None:
    first = authenticate(create_token(project, ["ingest"], name="orders"), "ingest")
    second = authenticate(create_token(project, ["ingest"], name="orders"), "ingest")

    assert first is not None
    assert second is not None
    assert first.source_id != second.source_id
    assert first.project_id == project.pk


def test_a_named_source_is_shared_by_its_tokens(project: Project) -> None:
    create_token(project, ["ingest"], source_name="payments")
    create_token(project, ["ingest"], source_name="payments")

    assert Source.objects.filter(project=project).count() == 1


def test_a_read_token_needs_no_source(project: Project) -> None:
    create_token(project, ["read", "operate"])

    assert Source.objects.count() == 0


def test_a_token_opens_only_its_scopes(project: Project) -> None:
    text = create_token(project, ["read"])

    assert authenticate(text, "read") is not None
    assert authenticate(text, "ingest") is None
    assert authenticate(text, "operate") is None


@pytest.mark.parametrize("scopes", [[], ["admin"], ["read", "root"]])
def test_unknown_scopes_are_refused(project: Project, scopes: list[str]) -> None:
    with pytest.raises(ValueError, match="scopes are"):
        create_token(project, scopes)


def test_another_projects_source_is_refused(project: Project) -> None:
    foreign = Source.objects.create(project=Project.objects.create(slug="other", name="Other"), name="theirs")

    with pytest.raises(ValueError, match="another project"):
        create_token(project, ["ingest"], source=foreign)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:-1] + ("A" if text[-1] != "A" else "B"),
        lambda text: text[:20] + ("A" if text[20] != "A" else "B") + text[21:],
        lambda text: text + " ",
        lambda text: text + "\n",
        lambda text: text.upper(),
        lambda text: "",
        lambda text: "sgo_ingest_" + "é" * 32 + "_000000",
        lambda text: "Bearer " + text,
    ],
)
def test_a_misspelt_token_is_refused_without_asking_the_database(
    project: Project, django_assert_num_queries: Any, change: Any
) -> None:
    text = create_token(project, ["ingest"])

    with django_assert_num_queries(0):
        assert identify(change(text)) is None


def test_a_well_formed_but_unknown_token_is_refused(project: Project) -> None:
    text = create_token(project, ["ingest"])
    Token.objects.all().delete()

    assert is_well_formed(text)
    assert identify(text) is None


def test_answers_come_from_memory_for_five_seconds(
    project: Project, clock: Any, django_assert_num_queries: Any
) -> None:
    text = create_token(project, ["ingest"])
    identify(text)

    clock.seconds += 4.9
    with django_assert_num_queries(0):
        assert identify(text) is not None


def test_a_revoked_token_is_refused_within_five_seconds(project: Project, clock: Any) -> None:
    text = create_token(project, ["ingest"])
    assert identify(text) is not None

    Token.objects.update(revoked_at=timezone.now())  # as another process would
    clock.seconds += 5.0

    assert identify(text) is None


def test_a_token_revoked_here_is_refused_at_once(project: Project) -> None:
    text = create_token(project, ["ingest"])
    assert identify(text) is not None

    revoke_token(Token.objects.get())

    assert identify(text) is None


def test_a_new_token_works_at_once_even_if_it_was_tried_before(project: Project, clock: Any) -> None:
    text = create_token(project, ["ingest"])
    Token.objects.update(revoked_at=timezone.now())
    assert identify(text) is None

    Token.objects.update(revoked_at=None)
    clock.seconds += 5.0

    assert identify(text) is not None


def test_an_expired_token_is_refused(project: Project) -> None:
    text = create_token(project, ["ingest"], expires_at=timezone.now() - timedelta(seconds=1))

    assert identify(text) is None


def test_a_cached_answer_does_not_outlive_its_token(project: Project, clock: Any) -> None:
    text = create_token(project, ["ingest"], expires_at=timezone.now() + timedelta(seconds=2))
    assert identify(text) is not None

    Token.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    clock.seconds += 2.0

    assert identify(text) is None


def test_a_switched_off_source_takes_nothing(project: Project) -> None:
    text = create_token(project, ["ingest"])
    Source.objects.update(is_active=False)

    assert identify(text) is None


def test_the_use_is_noted_at_most_once_a_minute(project: Project, clock: Any) -> None:
    text = create_token(project, ["ingest"])
    identify(text)
    first = Token.objects.get().last_used_at
    assert first is not None

    clock.seconds += 6.0
    identify(text)
    assert Token.objects.get().last_used_at == first

    Token.objects.update(last_used_at=first - timedelta(seconds=61))
    clock.seconds += 6.0
    identify(text)
    assert Token.objects.get().last_used_at >= first


def test_the_command_prints_the_token_alone(project: Project) -> None:
    told = StringIO()
    call_command("token", "--project", "shop", "--scope", "read", "--scope", "ingest", "--source", "web", stdout=told)

    (line,) = told.getvalue().splitlines()
    identity = identify(line)
    assert identity is not None
    assert identity.scopes == {"read", "ingest"}
    assert Source.objects.get().name == "web"


def test_the_command_refuses_an_unknown_project(project: Project) -> None:
    with pytest.raises(CommandError, match="no project 'nope'") as refusal:
        call_command("token", "--project", "nope", "--scope", "read")
    assert refusal.value.returncode == 1
