"""Findings about repetition, causes, clocks, contracts and engines."""

from __future__ import annotations

from typing import Any

import pytest

from apps.sagas.event_schemas import delete_schema, save_schema
from apps.sagas.events import TimeQuality
from apps.sagas.models import Instance
from tests.findings.court import Court, proofs
from tests.sagas.stories import at, bare, completed, done, failed, retrying, saga, said, started

pytestmark = pytest.mark.django_db


class TestDuplicateEffect:
    def test_two_different_completions_of_one_step_execution(self, court: Court) -> None:
        first, second = completed("charge", 2), completed("charge", 5)
        court.tell(started("charge", 1), first, second)
        wrong = court.finding("duplicate_effect")
        assert (wrong.step, wrong.since, proofs(wrong)) == ("charge", at(5), {first.id, second.id})

    def test_the_same_event_again_is_only_counted(self, court: Court) -> None:
        event = completed("charge", 2)
        court.tell(started("charge", 1), event)
        court.tell(event)
        assert court.codes() == set()

    def test_one_key_and_the_same_data_is_one_effect_delivered_twice(self, court: Court) -> None:
        facts: dict[str, Any] = {"idempotency_key": "k1"}
        court.tell(
            started("charge", 1),
            completed("charge", 2, data='{"a": 1, "b": 2}', **facts),
            completed("charge", 5, data='{"b":2,"a":1}', **facts),
        )
        assert court.codes() == set()

    def test_one_key_and_other_data_are_two_effects(self, court: Court) -> None:
        facts: dict[str, Any] = {"idempotency_key": "k1"}
        court.tell(completed("charge", 2, data='{"a": 1}', **facts), completed("charge", 5, data='{"a": 2}', **facts))
        assert "idempotency key k1 with different data" in court.finding("duplicate_effect").explanation

    def test_with_payloads_that_were_cut_it_cannot_conclude(self, court: Court) -> None:
        facts: dict[str, Any] = {"idempotency_key": "k1", "flags": ("truncated",)}
        court.tell(completed("charge", 2, data='{"a": 1}', **facts), completed("charge", 5, data='{"a": 2}', **facts))
        assert court.codes() == set()
        assert court.finding("duplicate_effect", "inconclusive").step == "charge"

    def test_rounds_of_a_loop_with_ids_of_their_own_are_no_duplicates(self, court: Court) -> None:
        court.tell(completed("charge", 2, step_id="1"), completed("charge", 5, step_id="2"))
        assert court.codes() == set()


BOUNDED = "flow: order\nsteps: [{name: charge, max_attempts: 3}]"


def tries(count: int, apart: float, step: str = "charge") -> list:
    return [
        event
        for number in range(1, count + 1)
        for event in (
            started(step, number * (apart + 0.1), attempt=number),
            failed(step, number * (apart + 0.1) + 0.1, attempt=number),
        )
    ]


class TestRetryStorm:
    def test_more_attempts_than_declared(self, court: Court) -> None:
        court.define(BOUNDED)
        court.tell(*tries(4, apart=30))
        wrong = court.finding("retry_storm")
        assert (wrong.step, wrong.explanation) == ("charge", "charge was tried 4 times; 3 are allowed.")

    def test_as_many_as_declared(self, court: Court) -> None:
        court.define(BOUNDED)
        court.tell(*tries(3, apart=0))
        assert court.codes() == set()

    def test_a_number_beyond_the_limit_counts_though_the_others_were_not_seen(self, court: Court) -> None:
        court.define(BOUNDED)
        court.tell(started("charge", 9, attempt=7))
        assert court.finding("retry_storm").step == "charge"

    def test_twenty_with_hardly_a_pause_where_nothing_is_declared(self, court: Court) -> None:
        court.tell(*tries(20, apart=0.4))
        assert court.finding("retry_storm").step == "charge"

    def test_nineteen_or_twenty_that_back_off_are_no_storm(self, court: Court) -> None:
        court.tell(*tries(19, apart=0.4))
        court.tell(*tries(20, apart=1.0, step="ship"))
        assert court.codes() == set()


class TestEventCycle:
    def test_a_type_that_follows_from_itself(self, court: Court) -> None:
        first = bare("Noted", 1)
        between = bare("Checked", 2, cause=first, source="//shop/audit")
        again = bare("Noted", 3, cause=between)
        court.tell(first, between, again)
        wrong = court.finding("event_cycle")
        assert proofs(wrong) == {first.id, again.id}

    def test_the_same_type_of_another_source_is_a_reaction(self, court: Court) -> None:
        first = bare("Noted", 1)
        court.tell(first, bare("Noted", 3, cause=first, source="//shop/audit"))
        assert court.codes() == set()

    def test_the_same_type_twice_side_by_side_is_no_cycle(self, court: Court) -> None:
        first = bare("Placed", 1)
        court.tell(first, bare("Noted", 2, cause=first), bare("Noted", 3, cause=first))
        assert court.codes() == set()

    @pytest.mark.parametrize("numbers", [(1, 2), (None, None)])
    def test_attempts_of_one_step_execution_are_no_cycle(self, court: Court, numbers: tuple) -> None:
        one = started("charge", 1, attempt=numbers[0])
        broke = retrying("charge", 2, cause=one, attempt=numbers[0])
        court.tell(one, broke, started("charge", 3, cause=broke, attempt=numbers[1]))
        assert court.codes() == set()

    def test_a_type_that_an_engine_uses_for_all_steps_is_no_cycle(self, court: Court) -> None:
        one = started("charge", 1, type="ActivityTaskStarted")
        end = completed("charge", 2, type="ActivityTaskCompleted", cause=one)
        court.tell(one, end, started("ship", 3, type="ActivityTaskStarted", cause=end))
        assert court.codes() == set()

    def test_a_first_message_that_names_itself_as_its_cause_is_no_cycle(self, court: Court) -> None:
        court.tell(bare("Placed", 1, id="m1", cause="m1"))
        assert court.codes() == set()

    def test_causes_in_a_ring(self, court: Court) -> None:
        court.tell(
            bare("Asked", 1, id="a", cause="c"),
            bare("Heard", 1.1, id="b", cause="a"),
            bare("Answered", 1.2, id="c", cause="b"),
            bare("Noted", 5, id="d", cause="c"),
        )
        assert proofs(court.finding("event_cycle")) == {"a", "b", "c"}


TYPED = """
flow: typed
ends_on: [Delivered]
steps:
  - {name: charge, starts_on: [Placed], completes_on: [Charged]}
"""
AMOUNT = '{"type": "object", "required": ["amount"], "properties": {"amount": {"type": "number"}}}'


class TestContractDrift:
    def test_a_type_that_the_definition_does_not_name(self, court: Court) -> None:
        court.define(TYPED)
        strange = bare("Chargd", 2)
        court.tell(bare("Placed", 1), strange)
        wrong = court.finding("contract_drift")
        assert (wrong.flow, proofs(wrong)) == ("typed", {strange.id})

    def test_an_event_that_says_what_it_means_needs_no_declaration(self, court: Court) -> None:
        court.define(TYPED)
        court.tell(bare("Placed", 1), said("info", 2, flow="typed", type="Chargd"))
        assert court.codes() == set()

    def test_a_flow_that_declares_no_types_asks_for_none(self, court: Court) -> None:
        court.define("flow: order\nsteps: [{name: charge}]")
        court.tell(started("charge", 1), bare("Chargd", 2))
        assert court.codes() == set()

    def test_a_new_definition_judges_the_past_anew(self, court: Court) -> None:
        court.define(TYPED)
        court.tell(bare("Placed", 1), bare("Packed", 2))
        assert court.codes() == {"contract_drift"}
        court.define(TYPED.replace("[Delivered]", "[Delivered, Packed]"))
        assert court.codes() == set()
        assert court.codes("resolved") == {"contract_drift"}

    def test_a_payload_that_breaks_its_schema(self, court: Court) -> None:
        save_schema(court.shop.project, "Charged", "1", AMOUNT, "ada")
        broken = bare("Charged", 2, data='{"amount": "ten"}')
        court.tell(broken)
        wrong = court.finding("contract_drift")
        assert proofs(wrong) == {broken.id}
        assert "$.amount must be number and is string" in wrong.explanation

    def test_a_payload_that_keeps_to_it(self, court: Court) -> None:
        save_schema(court.shop.project, "Charged", "1", AMOUNT, "ada")
        court.tell(bare("Charged", 2, data='{"amount": 10}'))
        assert court.codes() == set()

    def test_the_version_is_the_one_that_the_event_names(self, court: Court) -> None:
        save_schema(court.shop.project, "Charged", "1", AMOUNT, "ada")
        save_schema(court.shop.project, "Charged", "2", AMOUNT.replace('"number"', '"string"'), "ada")
        schema = "https://schemas.shop.example/Charged/1.json"
        court.tell(bare("Charged", 2, data='{"amount": 10}', data_schema=schema))
        assert court.codes() == set()
        court.tell(bare("Charged", 3, data='{"amount": 10}'))
        assert court.codes() == {"contract_drift"}

    def test_what_cannot_be_seen_cannot_be_judged(self, court: Court) -> None:
        save_schema(court.shop.project, "Charged", "1", AMOUNT, "ada")
        court.tell(bare("Charged", 2, data_ref="s3://shop/1"), bare("Charged", 3, data="{}", flags=("truncated",)))
        assert court.codes() == set()
        assert len(court.findings("contract_drift", "inconclusive")) == 2

    def test_a_schema_that_is_taken_back_has_no_findings(self, court: Court) -> None:
        save_schema(court.shop.project, "Charged", "1", AMOUNT, "ada")
        court.tell(bare("Charged", 2, data="{}"))
        assert court.codes() == {"contract_drift"}
        delete_schema(court.shop.project, "Charged", "1")
        court.judge()
        assert court.codes() == set()


class TestOrphanEvent:
    def test_a_cause_that_does_not_come(self, court: Court) -> None:
        lost = bare("Charged", 2, cause="nobody")
        court.tell(lost)
        wrong = court.finding("orphan_event")
        assert proofs(wrong) == {lost.id}
        assert "nobody" in wrong.explanation

    def test_within_the_grace_time_it_may_still_come(self, court: Court) -> None:
        court.now = 301
        court.tell(bare("Charged", 2, cause="nobody"))
        assert court.codes() == set()
        court.judge(302)
        assert court.codes() == {"orphan_event"}

    def test_it_is_resolved_when_the_cause_comes(self, court: Court) -> None:
        court.tell(bare("Charged", 2, cause="somebody"))
        court.tell(bare("Placed", 1, id="somebody", source="//elsewhere"))
        assert court.codes() == set()
        assert court.finding("orphan_event", "resolved").resolved_at == at(court.now)

    def test_each_of_several_causes_must_be_known(self, court: Court) -> None:
        placed = bare("Placed", 1)
        court.tell(placed, bare("Charged", 2, cause=[placed.id, "nobody"]))
        assert court.codes() == {"orphan_event"}

    def test_the_project_decides_how_long_is_too_long(self, court: Court) -> None:
        court.shop.project.orphan_grace_seconds = 900
        court.shop.project.save()
        court.tell(bare("Charged", 2, cause="nobody"))
        assert court.codes() == set()


class TestClockSkew:
    def test_an_effect_before_its_cause(self, court: Court) -> None:
        cause = bare("Placed", 5)
        effect = bare("Charged", 3.9, cause=cause, source="//shop/payments", received=6)
        court.tell(cause, effect)
        wrong = court.finding("clock_skew")
        assert proofs(wrong) == {cause.id, effect.id}
        assert "1.1 s before Placed" in wrong.explanation

    def test_within_the_tolerance(self, court: Court) -> None:
        cause = bare("Placed", 5)
        court.tell(cause, bare("Charged", 4, cause=cause, source="//shop/payments", received=6))
        assert court.codes() == set()

    def test_times_that_nobody_stated_prove_nothing(self, court: Court) -> None:
        cause = bare("Placed", 5, time_quality=TimeQuality.RECEIVED)
        court.tell(cause, bare("Charged", 2, cause=cause, source="//shop/payments", received=6))
        assert court.codes() == set()
        assert court.codes("inconclusive") == {"clock_skew"}

    def test_a_source_whose_order_contradicts_its_times(self, court: Court) -> None:
        court.tell(bare("Placed", 5, sequence="1"), bare("Charged", 2, sequence="2"))
        assert "numbered it later" in court.finding("clock_skew").explanation

    def test_sequences_of_different_sources_have_nothing_to_do_with_each_other(self, court: Court) -> None:
        court.tell(bare("Placed", 5, sequence="1"), bare("Charged", 2, sequence="2", source="//shop/payments"))
        assert court.codes() == set()


class TestEngineDisagrees:
    def test_completed_while_a_step_is_open(self, court: Court) -> None:
        end, open_step = saga("completed", 9), started("ship", 3)
        court.tell(saga("started", 0), done("charge", 1), open_step, end)
        wrong = court.finding("engine_disagrees")
        assert proofs(wrong) == {end.id, open_step.id}
        assert court.shop.instance().status == "completed"

    def test_an_open_compensation_or_a_step_that_ended_is_no_contradiction(self, court: Court) -> None:
        court.tell(
            saga("started", 0), done("charge", 1), started("undo", 3, compensates="charge"), saga("completed", 9)
        )
        assert "engine_disagrees" not in court.codes()

    def test_an_engine_that_gave_up_may_leave_steps_open(self, court: Court) -> None:
        court.tell(saga("started", 0), started("ship", 3), saga("failed", 9))
        assert court.codes() == set()

    def test_the_events_have_ended_and_the_engine_is_running(self, court: Court) -> None:
        court.define(TYPED)
        court.tell(bare("Placed", 1), bare("Charged", 2), bare("Delivered", 3))
        court.tell(saga("started", 0, flow="typed", run="r1"))
        wrong = court.finding("engine_disagrees")
        assert "the engine says that it is running" in wrong.explanation
        court.tell(saga("completed", 4, flow="typed", run="r1"))
        assert court.codes() == set()

    def test_the_engine_has_ended_and_the_events_are_waiting(self, court: Court) -> None:
        court.define(TYPED)
        court.tell(
            bare("Placed", 1), saga("started", 0, flow="typed", run="r1"), saga("completed", 4, flow="typed", run="r1")
        )
        assert "by its events it is running" in court.finding("engine_disagrees").explanation

    def test_where_no_definition_says_what_ends_a_flow_it_cannot_conclude(self, court: Court) -> None:
        court.tell(done("charge", 1), saga("started", 0, run="r1"), saga("completed", 4, run="r1"))
        assert court.codes() == set()
        assert court.codes("inconclusive") == {"engine_disagrees"}


def test_lists_count_open_findings(court: Court) -> None:
    court.tell(completed("charge", 2), completed("charge", 5), completed("ship", 2), completed("ship", 6))
    assert Instance.objects.get(project=court.shop.project).finding_count == 2
