"""Who may open which page: every route of the pages, generated from the URLconf, so that none is forgotten."""

from __future__ import annotations

import pytest
from django.urls import URLPattern, reverse

from apps.alerts.models import Receiver, Rule
from apps.alerts.receivers.stored import save_receiver
from apps.alerts.rules import ensure_built_in
from apps.dlq.models import DeadLetterQueue, Redrive
from apps.dlq.queues import save_queue
from apps.projects.models import Project, Source
from apps.web.urls import urlpatterns
from tests.web.conftest import SignIn, text_of

#: Pages that are there for people who have not signed in.
OPEN = {"login", "logout", "density", "embed", "join", "forgotten", "forgotten_choose"}
#: What a POST needs, where it changes anything at all.
CHANGES = {
    "flow": "operator",
    "flow_new": "operator",
    "incident": "operator",
    "share": "operator",
    "reveal": "operator",
    "source": "admin",
    "source_new": "admin",
    "settings": "admin",
    "settings_members": "admin",
    "settings_invitations": "admin",
    "settings_tokens": "admin",
    "settings_receivers": "admin",
    "settings_receiver": "admin",
    "settings_rules": "admin",
    "settings_rule": "admin",
    "settings_rule_new": "admin",
    "settings_silences": "operator",
    "dead_letters": "operator",
    "redrive": "operator",
    "dead_letter_queue": "admin",
    "dead_letter_queue_new": "admin",
}
#: What looking needs, where a viewer is not enough.
NEEDS = {
    "settings_rule_new": "admin",
    "flow_new": "operator",
    "share": "operator",
    "reveal": "operator",
    "source_new": "admin",
    "dead_letter_queue": "admin",
    "dead_letter_queue_new": "admin",
    "settings_audit": "admin",
    "settings_storage": "admin",
    "settings_invitations": "admin",
}
RANK = ("viewer", "operator", "admin")

NAMES = sorted(pattern.name for pattern in urlpatterns if isinstance(pattern, URLPattern) and pattern.name not in OPEN)


def watched(source: Source) -> DeadLetterQueue:
    """A dead-letter queue of the shop, and its first redrive."""
    queue = DeadLetterQueue.objects.filter(project=source.project).first()
    if queue is None:
        given = {"bootstrap_servers": "kafka:9092", "topic": "dlt"}
        queue = save_queue(source.project_id, name="dlt", system="kafka", given=given)
        facts = {"scope": "all", "selection": "all", "rate": 1, "ordered_by": "mira", "ordered_at": 1}
        Redrive.objects.create(project=source.project, number=1, queue=queue, **facts)
    return queue


def told(source: Source) -> Receiver:
    """A receiver of the shop."""
    found = Receiver.objects.filter(project=source.project).first()
    given = {"to": "oncall@example.com"}
    return found or save_receiver(source.project_id, name="mail", kind="email", settings=given)


def rule_of(source: Source) -> Rule:
    """A rule of the shop."""
    ensure_built_in()
    return Rule.objects.get(project=source.project, condition="stuck", is_built_in=True)


def address(name: str, source: Source) -> str:
    """An address of the route, of things that exist."""
    arguments = {
        "settings_receiver": [told(source).pk],
        "settings_rule": [rule_of(source).pk],
        "correlation": ["order-stuck"],
        "share": ["order-stuck"],
        "reveal": ["order-stuck"],
        "flow": ["order-fulfilment"],
        "incident": [1],
        "rejected": [source.pk],
        "dead_letter_queue": [watched(source).pk],
        "redrive": [1],
        "source": [source.pk],
    }
    return reverse(f"web:{name}", args=arguments.get(name, []))


def test_a_stranger_is_sent_to_the_sign_in_page(sign_in: SignIn, source: Source, trouble: None) -> None:
    stranger = sign_in("anonymous")

    for name in NAMES:
        answer = stranger.get(address(name, source))
        assert answer.status_code == 302, name
        assert answer.headers["Location"].startswith("/login?next="), name


@pytest.mark.parametrize("role", RANK)
def test_members_see_what_their_role_allows(role: str, sign_in: SignIn, source: Source, trouble: None) -> None:
    member = sign_in(role)

    for name in NAMES:
        answer = member.get(address(name, source))
        is_allowed = RANK.index(role) >= RANK.index(NEEDS.get(name, "viewer"))
        assert answer.status_code == (200 if is_allowed else 403), name
        assert "no-store" in answer.headers["Cache-Control"], name


@pytest.mark.parametrize("name", ["correlation", "flow", "incident", "rejected", "source"])
def test_what_belongs_to_another_project_looks_like_what_does_not_exist(
    name: str, sign_in: SignIn, source: Source, trouble: None
) -> None:
    rival = sign_in("foreign")

    assert rival.get(address(name, source)).status_code == 404
    assert rival.get(address(name, source) + "?project=shop").status_code == 404


def test_a_list_shows_nothing_of_another_project(sign_in: SignIn, source: Source, trouble: None) -> None:
    rival = sign_in("foreign")

    for name in ("overview", "instances", "flows", "incidents", "sources", "settings_tokens", "settings_members"):
        page = text_of(rival.get(reverse(f"web:{name}")))
        assert not [theirs for theirs in ("order-stuck", "order-owing", "Corner shop") if theirs in page]


@pytest.mark.parametrize("role", RANK)
def test_changes_need_their_role(role: str, sign_in: SignIn, source: Source, trouble: None) -> None:
    member = sign_in(role)

    for name, needed in CHANGES.items():
        answer = member.post(address(name, source), {"action": "nonsense", "project": "shop"})
        is_allowed = RANK.index(role) >= RANK.index(needed)
        assert (answer.status_code == 403) is not is_allowed, name


def test_a_form_of_one_project_never_changes_another(sign_in: SignIn, shop: Project, rival: Project) -> None:
    admin = sign_in("admin")
    admin.get("/?project=shop")

    answer = admin.post("/settings", {"project": "rival", "name": "Taken over", "retention_days": 1})

    assert answer.status_code == 404
    rival.refresh_from_db()
    assert rival.name == "Rival shop"


def test_somebody_without_a_project_is_told_so(sign_in: SignIn, shop: Project) -> None:
    client = sign_in("viewer")
    shop.memberships.all().delete()

    answer = client.get("/")

    assert answer.status_code == 403
    assert "not a member of any project" in text_of(answer)


def test_a_fragment_for_somebody_who_signed_out_moves_the_whole_page_to_the_sign_in_page(sign_in: SignIn) -> None:
    headers = {"HX-Request": "true", "HX-Current-URL": "http://testserver/instances?q=is:stuck"}

    answer = sign_in("anonymous").get("/instances/rows", headers=headers)

    assert answer.headers["HX-Redirect"] == "/login?next=/instances%3Fq%3Dis%3Astuck"


def test_the_project_of_the_address_is_kept_for_the_next_pages(sign_in: SignIn, shop: Project, rival: Project) -> None:
    client = sign_in("admin")
    rival.memberships.create(user=shop.memberships.get().user, role="viewer")

    client.get("/?project=rival")

    assert "Rival shop" in text_of(client.get("/sources"))


def test_pages_allow_no_inline_script_or_style(sign_in: SignIn, source: Source, trouble: None) -> None:
    client = sign_in("admin")

    for name in NAMES:
        answer = client.get(address(name, source))
        assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
        if answer.headers["Content-Type"].startswith("text/html"):
            page = text_of(answer)
            assert " style=" not in page
            assert "<style" not in page
            assert "<script>" not in page
            assert " onclick=" not in page
