"""Workflows of a shop, run by a real worker against a real Temporal server: what pollers are tried on."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError

QUEUE = "shop"
SHORT = timedelta(seconds=10)
#: Activities that wait until the test lets them go on, by name.
GATES: dict[str, asyncio.Event] = {}


@activity.defn(name="reserve-stock")
async def reserve_stock(order: dict[str, Any]) -> str:
    return f"reserved {order['id']}"


@activity.defn(name="charge-payment")
async def charge_payment(order: dict[str, Any]) -> None:
    raise ApplicationError(f"card declined, try {activity.info().attempt}", type="Declined")


@activity.defn(name="release-stock")
async def release_stock(order: dict[str, Any]) -> None:
    return None


@activity.defn(name="print-label")
async def print_label(fails: int) -> str:
    attempt = activity.info().attempt
    if attempt <= fails:
        raise ApplicationError(f"printer jammed, try {attempt}", type="Jammed")
    return "label"


@activity.defn(name="count-boxes")
async def count_boxes() -> None:
    activity.heartbeat({"boxes": 3})
    await GATES["count-boxes"].wait()


@activity.defn(name="weigh")
async def weigh() -> int:
    if activity.info().attempt < 3:
        raise ApplicationError("scale not ready")
    return 7


@workflow.defn(name="order-fulfilment")
class OrderFulfilment:
    """A saga: what was done is undone when the payment fails for good."""

    @workflow.run
    async def run(self, order: dict[str, Any]) -> None:
        await workflow.execute_activity(reserve_stock, order, start_to_close_timeout=SHORT)
        try:
            await workflow.execute_activity(
                charge_payment,
                order,
                start_to_close_timeout=SHORT,
                retry_policy=RetryPolicy(
                    initial_interval=timedelta(milliseconds=10), backoff_coefficient=1.0, maximum_attempts=3
                ),
            )
        except ActivityError:
            await workflow.execute_activity(release_stock, order, start_to_close_timeout=SHORT)
            raise


@workflow.defn(name="labelling")
class Labelling:
    """One activity that fails a few times, slowly enough to be watched."""

    @workflow.run
    async def run(self, fails: int) -> str:
        policy = RetryPolicy(initial_interval=timedelta(seconds=1), backoff_coefficient=1.0)
        return await workflow.execute_activity(print_label, fails, start_to_close_timeout=SHORT, retry_policy=policy)


@workflow.defn(name="payment-wait")
class PaymentWait:
    """Waits for a signal, an hour at most; an update changes the amount."""

    def __init__(self) -> None:
        self.paid = False
        self.amount = 0

    @workflow.run
    async def run(self) -> str:
        try:
            await workflow.wait_condition(lambda: self.paid, timeout=timedelta(hours=1))
        except TimeoutError:
            return "too late"
        return "paid"

    @workflow.signal
    def pay(self) -> None:
        self.paid = True

    @workflow.update
    def change(self, amount: int) -> int:
        self.amount = amount
        return amount


@workflow.defn(name="shipment")
class Shipment:
    """A parent and its child."""

    @workflow.run
    async def run(self) -> str:
        return await workflow.execute_child_workflow(Labelling.run, 0, id=f"{workflow.info().workflow_id}/label")


@workflow.defn(name="paging")
class Paging:
    """Continues as new until it has read all pages."""

    @workflow.run
    async def run(self, left: int) -> None:
        await workflow.execute_activity(reserve_stock, {"id": left}, start_to_close_timeout=SHORT)
        if left > 1:
            workflow.continue_as_new(left - 1)


@workflow.defn(name="weighing")
class Weighing:
    """A local activity that fails twice."""

    @workflow.run
    async def run(self) -> int:
        return await workflow.execute_local_activity(
            weigh,
            start_to_close_timeout=SHORT,
            retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=10), backoff_coefficient=1.0),
        )


@workflow.defn(name="counting")
class Counting:
    """An activity that heartbeats and waits."""

    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity(
            count_boxes, start_to_close_timeout=timedelta(minutes=5), heartbeat_timeout=timedelta(minutes=1)
        )


@workflow.defn(name="fragile")
class Fragile:
    """Fails as a whole at its first attempt; retried by its own policy."""

    @workflow.run
    async def run(self) -> int:
        if workflow.info().attempt < 2:
            raise ApplicationError("fell down", type="Broken")
        return workflow.info().attempt


@workflow.defn(name="buggy")
class Buggy:
    """Its code is wrong: the workflow task fails again and again."""

    @workflow.run
    async def run(self) -> None:
        raise RuntimeError("a mistake in the workflow's code")


WORKFLOWS = [
    *(OrderFulfilment, Labelling, PaymentWait, Shipment, Paging, Weighing, Counting, Fragile, Buggy),
]
ACTIVITIES = [reserve_stock, charge_payment, release_stock, print_label, count_boxes, weigh]
