"""Findings where people look for them: queries, alerts."""

from __future__ import annotations

import pytest

from apps.alerts.models import Incident
from apps.alerts.rules import RuleDraft, save_rule
from apps.alerts.sweeping import sweep
from apps.sagas.finding_queries import groups, list_findings, list_owed, owed_groups
from apps.sagas.queries import list_instances
from apps.sagas.query import parse
from tests.findings.court import Court
from tests.sagas.stories import at, completed, done, failed, saga

pytestmark = pytest.mark.django_db

DECLARED = "flow: order\nsteps: [{name: charge, role: compensable, service: payments}]"


@pytest.fixture
def court(db: None) -> Court:
    return Court("together")


def twice(correlation: str) -> tuple:
    return completed("charge", 2, correlation_id=correlation), completed("charge", 5, correlation_id=correlation)


def owing(correlation: str, when: float) -> tuple:
    return (
        *done("charge", when, correlation_id=correlation),
        failed("ship", when + 2, correlation_id=correlation),
        saga("failed", when + 3, correlation_id=correlation),
    )


def found(court: Court, query: str) -> list[str]:
    page = list_instances(court.shop.project.pk, parse(query), now=at(700))
    return sorted(instance.correlation_id for instance in page.items)


class TestQueries:
    def test_instances_are_found_by_the_rules_that_they_broke(self, court: Court) -> None:
        court.define(DECLARED)
        court.tell(twice("a"), owing("b", 1), done("charge", 1, correlation_id="c"))
        assert found(court, "finding:duplicate_effect") == ["a"]
        assert found(court, "finding:duplicate_effect,compensation_owed") == ["a", "b"]
        assert found(court, "is:finding") == ["a", "b"]
        assert found(court, "-is:finding") == ["c"]
        assert found(court, "finding:late_success") == []

    def test_where_many_broke_a_rule_rows_are_checked_one_by_one(
        self, court: Court, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("apps.sagas.conditions.FEW", 0)
        court.tell(twice("a"), done("charge", 1, correlation_id="c"))
        assert found(court, "finding:duplicate_effect") == ["a"]

    def test_what_is_owed_counts_also_where_nobody_declared_it(self, court: Court) -> None:
        undone = (
            *done("pay", 1, correlation_id="u"),
            *done("pay-back", 4, correlation_id="u", compensates="pay"),
        )
        court.tell(undone)
        court.tell(done("pay", 1, correlation_id="o"), saga("failed", 9, correlation_id="o"))
        assert found(court, "is:owed") == ["o"]


class TestLists:
    def test_findings_page_by_page_in_both_directions(self, court: Court) -> None:
        for moment, name in enumerate("abcde"):
            court.now = 600 + moment
            court.tell(twice(name))
        project = court.shop.project.pk
        first = list_findings(project, limit=2)
        second = list_findings(project, limit=2, cursor=first.next_cursor)
        back = list_findings(project, limit=2, cursor=second.previous_cursor)
        assert [row.correlation_id for row in first.items + second.items] == ["e", "d", "c", "b"]
        assert [row.correlation_id for row in back.items] == ["e", "d"]

    def test_they_can_be_narrowed(self, court: Court) -> None:
        court.define(DECLARED)
        court.tell(twice("a"), owing("b", 1))
        project = court.shop.project.pk
        assert [row.correlation_id for row in list_findings(project, code="duplicate_effect").items] == ["a"]
        assert list_findings(project, status="resolved").items == []
        assert list_findings(project, flow="other").items == []
        assert [(group.code, group.flow, group.count) for group in groups(project)] == [
            ("compensation_owed", "order", 1),
            ("duplicate_effect", "order", 1),
        ]

    def test_the_owed_ledger_has_the_oldest_debt_first(self, court: Court) -> None:
        court.define(DECLARED)
        court.tell(owing("young", 100), owing("old", 1))
        project = court.shop.project.pk
        assert [row.correlation_id for row in list_owed(project).items] == ["old", "young"]
        (group,) = owed_groups(project)
        assert (group.flow, group.service, group.step, group.count, group.since) == (
            *("order", "payments", "charge", 2),
            at(2),
        )


class TestAlerts:
    def incidents(self, court: Court, query: str) -> list[Incident]:
        draft = RuleDraft("conduct", "finding", query=query)
        save_rule(court.shop.project.pk, draft)
        report = sweep(at(700))
        assert not report.failures
        return list(Incident.objects.filter(project=court.shop.project, rule__name="conduct").order_by("title"))

    def test_one_incident_for_each_flow_and_rule(self, court: Court) -> None:
        court.tell(twice("a"), twice("b"), completed("x", 2, flow="f"), completed("x", 3, flow="f"))
        incidents = self.incidents(court, "finding:duplicate_effect")
        assert [(one.flow, one.instance_count) for one in incidents] == [("f", 1), ("order", 2)]
        assert incidents[1].title == "Duplicate effect in order: 2 findings"

    def test_only_the_findings_that_the_query_names_count(self, court: Court) -> None:
        court.define(DECLARED)
        court.tell(twice("a"), owing("b", 1))
        assert self.incidents(court, "finding:late_success") == []

    def test_without_a_name_every_finding_counts(self, court: Court) -> None:
        court.define(DECLARED)
        court.tell(twice("a"), owing("b", 1))
        assert len(self.incidents(court, "flow:order")) == 2

    def test_it_is_over_when_the_finding_is_resolved(self, court: Court) -> None:
        court.define(DECLARED)
        court.tell(owing("b", 1))
        (incident,) = self.incidents(court, "finding:compensation_owed")
        court.tell(done("refund", 20, correlation_id="b", compensates="charge"))
        sweep(at(701))
        incident.refresh_from_db()
        assert incident.resolved_at == at(701)
