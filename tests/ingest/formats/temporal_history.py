"""Builds Temporal histories entry by entry, for what no recording shows."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

from apps.ingest.formats.histories import HistoryOptions
from apps.ingest.formats.temporal import decode
from apps.sagas.events import SagaEvent
from tests.ingest.formats.workflow_histories import RECEIVED_AT

RUN = "0195c0de-0000-7000-8000-000000000001"
NEXT_RUN = "0195c0de-0000-7000-8000-000000000002"
BEGIN = datetime(2026, 11, 19, 13, tzinfo=UTC)


class History:
    """Builds a history: a second per entry, beginning at 13:00:00 UTC on 19 Nov 2026."""

    def __init__(self, workflow: str = "order-7", run: str = RUN, begins_at: int = 0, **started: Any) -> None:
        self.events: list[dict[str, Any]] = []
        self._at = begins_at
        who = {"workflowId": workflow, "originalExecutionRunId": run, "firstExecutionRunId": run}
        what = {"workflowType": {"name": "order-fulfilment"}, "taskQueue": {"name": "orders"}}
        self.add("WORKFLOW_EXECUTION_STARTED", **who | what | started)

    def add(self, kind: str, **attributes: Any) -> int:
        """Add an entry, say its number."""
        number = len(self.events) + 1
        words = kind.lower().split("_")
        key = words[0] + "".join(word.capitalize() for word in words[1:]) + "EventAttributes"
        at = BEGIN + timedelta(seconds=self._at)
        self._at += 1
        self.events.append(
            {
                "eventId": str(number),
                "eventTime": f"{at:%Y-%m-%dT%H:%M:%S}.000000001Z",
                "eventType": f"EVENT_TYPE_{kind}",
                key: attributes,
            }
        )
        return number

    def activity(self, name: str, *, fails: str | None = None, attempt: int = 1) -> int:
        """An activity from its scheduling to its end."""
        scheduled = self.add(
            "ACTIVITY_TASK_SCHEDULED", activityId=str(len(self.events) + 1), activityType={"name": name}
        )
        started = self.add("ACTIVITY_TASK_STARTED", scheduledEventId=str(scheduled), attempt=attempt)
        about = {"scheduledEventId": str(scheduled), "startedEventId": str(started)}
        if fails is None:
            return self.add("ACTIVITY_TASK_COMPLETED", **about)
        return self.add("ACTIVITY_TASK_FAILED", failure={"message": fails}, **about)

    @property
    def document(self) -> dict[str, Any]:
        return {"events": self.events}


def decode_all(document: Any, **options: Any) -> list[SagaEvent]:
    """The events of a document of which nothing is refused."""
    decoded = decode(document, HistoryOptions(**options), RECEIVED_AT)
    assert decoded.rejections == []
    return decoded.events


def payload(value: Any) -> dict[str, Any]:
    """A value as Temporal's default converter packs it."""
    return {
        "metadata": {"encoding": base64.b64encode(b"json/plain").decode()},
        "data": base64.b64encode(json.dumps(value).encode()).decode(),
    }


def rolled_back() -> History:
    history = History()
    history.activity("reserve-stock")
    history.activity("charge-payment", fails="card declined", attempt=3)
    history.activity("release-stock")
    return history


def described(attempt: int, **pending: Any) -> dict[str, Any]:
    return {
        "workflowExecutionInfo": {
            "execution": {"workflowId": "order-7", "runId": RUN},
            "type": {"name": "order-fulfilment"},
            "startTime": "2026-11-19T13:00:00Z",
            "status": "WORKFLOW_EXECUTION_STATUS_RUNNING",
        },
        "pendingActivities": [
            {
                "activityId": "2",
                "activityType": {"name": "charge-payment"},
                "state": "PENDING_ACTIVITY_STATE_STARTED",
                "attempt": attempt,
                "lastStartedTime": f"2026-11-19T13:0{attempt}:00Z",
                "lastAttemptCompleteTime": f"2026-11-19T13:0{attempt}:00Z",
                "lastFailure": {"message": f"declined {attempt - 1}", "applicationFailureInfo": {"type": "Declined"}},
                **pending,
            }
        ],
    }
