"""One dead service, ten thousand sagas: one incident, one message for each receiver."""

from __future__ import annotations

from django.db import connection

from apps.alerts.delivery import deliver_due
from apps.alerts.models import Delivery
from apps.alerts.receivers.stored import save_receiver
from apps.sagas.models import Instance
from tests.alerts.world import Target, World, at

MANY = 10_000


def copies_of_the_only_instance(count: int) -> None:
    """As many more instances that wait for the same, as `record` would have left them: written by the database."""
    names = [field.column for field in Instance._meta.concrete_fields]
    own = {
        "id": "gen_random_uuid()",
        "correlation_uuid": "gen_random_uuid()",
        "correlation_id": "'order-' || number",
        "deadline_at": "deadline_at + number",
    }
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO instance ({', '.join(names)}) SELECT {', '.join(own.get(name, name) for name in names)}"
            " FROM instance, generate_series(1, %s) AS number",
            [count],
        )


def test_ten_thousand_sagas_stuck_by_one_dead_service_are_one_message_for_each_receiver(
    world: World, hook: Target
) -> None:
    for name in ("team", "lead"):
        save_receiver(world.project.pk, name=name, kind="webhook", settings={"url": hook.url})
    world.start("order-0", service="payments")
    copies_of_the_only_instance(MANY - 1)

    world.sweep(31)
    world.sweep(33)
    assert world.incident().instance_count == MANY
    assert deliver_due(at(34)).sent == 2
    world.sweep(40)
    assert deliver_due(at(3600)).sent == 0

    assert sorted(Delivery.objects.values_list("receiver__name", "kind")) == [("lead", "opened"), ("team", "opened")]
    first, second = (request.json["data"] for request in hook.requests)
    assert first["message"].startswith("10,000 order-fulfilment sagas wait for charge-payment")
    assert first["incident"] == second["incident"]
    assert first["incident"]["sample"][0] == "order-0"
    assert len(first["incident"]["sample"]) == 5


def test_when_the_service_is_back_everybody_hears_it_once(world: World, hook: Target) -> None:
    save_receiver(world.project.pk, name="team", kind="webhook", settings={"url": hook.url})
    world.start("order-0", service="payments")
    copies_of_the_only_instance(MANY - 1)
    world.sweep(31)
    deliver_due(at(32))
    Instance.objects.update(deadline_at=None)

    world.sweep(90)
    world.sweep(92)
    assert deliver_due(at(93)).sent == 1
    assert [request.json["type"] for request in hook.requests] == ["incident.opened", "incident.resolved"]
    assert hook.requests[1].json["data"]["incident"]["peak_count"] == MANY
