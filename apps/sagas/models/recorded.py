"""What happened: correlations, their events, and the projections of them that `recording.record` keeps true."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models

from apps.projects.models import Project


class Correlation(models.Model):
    """One business transaction: (project, correlation ID)."""

    pk = models.CompositePrimaryKey("shard", "id")
    shard = models.IntegerField()
    #: UUIDv7 of first sight: decides the partition of everything that belongs to the correlation.
    id = models.UUIDField()
    project = models.ForeignKey(Project, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False)
    correlation_id = models.TextField(db_collation="C")
    event_count = models.BigIntegerField(default=0)
    first_event_at = models.BigIntegerField(null=True)
    last_event_at = models.BigIntegerField(null=True)
    #: True once any step that undoes another was seen: only then must record() look for what it undoes.
    has_compensations = models.BooleanField(default=False)
    #: True once an event named a cause that had not been seen yet.
    has_awaited_causes = models.BooleanField(default=False)
    #: State of the instance that holds events of no flow, while declared instances hide it; JSON or "".
    undeclared_state = models.TextField(default="")
    #: Retention had forgotten it before: all that comes of it is a straggler; see `apps.sagas.expired`.
    is_straggler = models.BooleanField(default=False, db_default=False)

    class Meta:
        db_table = "correlation"
        constraints = [models.UniqueConstraint("shard", "project", "correlation_id", name="correlation_once")]
        # What is read anew goes from one to the next.
        indexes = [models.Index(fields=["project", "id"], name="correlation_in_order")]


class Event(models.Model):
    """An immutable fact as it was accepted; the only truth, from which every projection can be rebuilt."""

    pk = models.CompositePrimaryKey("shard", "correlation_uuid", "event_id", "source")
    shard = models.IntegerField()
    correlation_uuid = models.UUIDField()
    event_id = models.TextField(db_collation="C")
    source = models.TextField(db_collation="C")
    #: The connected system that sent it; 0 when that was deleted.
    source_ref = models.BigIntegerField()
    type = models.TextField()
    occurred_at = models.BigIntegerField()
    received_at = models.BigIntegerField()
    sequence = models.TextField(default="", db_collation="C")
    digest = models.BinaryField()
    #: The other fields of the SagaEvent as JSON, defaults left out; see `storage.decode_event`.
    attributes = models.TextField()
    data = models.TextField(null=True)

    class Meta:
        db_table = "event"


class Instance(models.Model):
    """One run of one flow inside a correlation. Lists read these flat columns and nothing else."""

    pk = models.CompositePrimaryKey("shard", "id")
    shard = models.IntegerField()
    #: Derived from the correlation, flow and run: rebuilding gives the same id.
    id = models.UUIDField()
    project = models.ForeignKey(Project, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False)
    correlation_uuid = models.UUIDField()
    correlation_id = models.TextField(db_collation="C")
    flow = models.TextField()
    flow_version = models.TextField(default="")
    run_id = models.TextField(default="")
    style = models.TextField(default="")
    #: running compensating completed compensated failed cancelled timed_out
    status = models.TextField()
    #: True when the end was concluded rather than stated.
    inferred = models.BooleanField(default=False)
    waiting_for = models.TextField(null=True)
    #: Fingerprint of the latest error seen, "" when none: groups what failed for one reason.
    error_fingerprint = models.TextField(default="")
    error = models.TextField(default="")
    service = models.TextField(default="")
    deadline_at = models.BigIntegerField(null=True)
    deadline_reason = models.TextField(null=True)
    started_at = models.BigIntegerField()
    last_event_at = models.BigIntegerField()
    ended_at = models.BigIntegerField(null=True)
    duration_us = models.BigIntegerField(null=True)
    current_steps = ArrayField(models.TextField())
    event_count = models.BigIntegerField()
    retry_count = models.IntegerField(default=0)
    #: The highest number of attempts of any of its step executions (`attempts>3`).
    max_attempts = models.IntegerField(default=0)
    #: none owed running complete partial failed
    compensation_state = models.TextField(default="none")
    owed_count = models.IntegerField(default=0)
    #: When the oldest thing that is owed was completed: age in the owed ledger.
    owed_since = models.BigIntegerField(null=True)
    dead_letter_count = models.IntegerField(default=0)
    finding_count = models.IntegerField(default=0)
    suspended = models.BooleanField(default=False)
    blocked = models.BooleanField(default=False)
    parent_flow = models.TextField(null=True)
    parent_run = models.TextField(null=True)
    #: The source of its latest event: its watermark decides what is late.
    source_ref = models.BigIntegerField()
    annotations = ArrayField(models.TextField())
    attributes = models.JSONField(default=dict)
    #: `projection.InstanceState` as JSON.
    state = models.TextField()

    class Meta:
        db_table = "instance"
        indexes = [
            models.Index(fields=["project", "-last_event_at", "id"], name="instance_recent"),
            models.Index(fields=["project", "flow", "-last_event_at", "id"], name="instance_flow_recent"),
            models.Index(fields=["project", "status", "-last_event_at", "id"], name="instance_status_recent"),
            models.Index(fields=["shard", "correlation_uuid"], name="instance_correlation"),
            models.Index(fields=["project", "correlation_id"], name="instance_correlation_id"),
            models.Index(
                fields=["deadline_at", "source_ref"],
                name="instance_deadline",
                condition=models.Q(deadline_at__isnull=False),
            ),
            models.Index(
                fields=["project", "owed_since"], name="instance_owed", condition=models.Q(owed_since__isnull=False)
            ),
            models.Index(
                fields=["project", "waiting_for", "-last_event_at"],
                name="instance_waiting",
                condition=models.Q(waiting_for__isnull=False),
            ),
            # Lists sorted by start, duration, deadline and attempts; what is open, by flow; see `queries.SORTS`.
            models.Index(fields=["project", "started_at", "id"], name="instance_started"),
            models.Index(
                fields=["project", "duration_us"],
                name="instance_duration",
                condition=models.Q(duration_us__isnull=False),
            ),
            models.Index(
                fields=["project", "deadline_at"],
                name="instance_due",
                condition=models.Q(deadline_at__isnull=False),
            ),
            models.Index(fields=["project", "-max_attempts", "-last_event_at", "id"], name="instance_attempts"),
            models.Index(
                fields=["project", "flow", "-last_event_at", "id"],
                name="instance_open",
                condition=models.Q(ended_at__isnull=True),
            ),
            # The exceptions among instances, which queries ask for by `error:` and `comp:`.
            models.Index(
                fields=["project", "-last_event_at", "id"], name="instance_error", condition=~models.Q(error="")
            ),
            models.Index(
                fields=["project", "compensation_state", "-last_event_at", "id"],
                name="instance_compensation",
                condition=~models.Q(compensation_state="none"),
            ),
            # `service:`. What has ended waits for no service and has none.
            models.Index(
                fields=["project", "service", "-last_event_at", "id"],
                name="instance_service",
                condition=~models.Q(service=""),
            ),
            # `is:finding`.
            models.Index(
                fields=["project", "-last_event_at", "id"],
                name="instance_finding",
                condition=models.Q(finding_count__gt=0),
            ),
        ]


class InstanceAttribute(models.Model):
    """A small fact to find instances by: `attr.customer=42`."""

    pk = models.CompositePrimaryKey("shard", "instance_id", "name")
    shard = models.IntegerField()
    instance_id = models.UUIDField()
    project = models.ForeignKey(Project, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False)
    name = models.TextField()
    value = models.TextField(db_collation="C")

    class Meta:
        db_table = "instance_attribute"
        indexes = [models.Index(fields=["project", "name", "value"], name="attribute_value")]


class StepExecution(models.Model):
    """A step in one instance; `state` holds the facts that its attempts are derived from."""

    pk = models.CompositePrimaryKey("shard", "correlation_uuid", "instance_id", "step", "step_id")
    shard = models.IntegerField()
    correlation_uuid = models.UUIDField()
    instance_id = models.UUIDField()
    step = models.TextField(db_collation="C")
    step_id = models.TextField(default="", db_collation="C")
    #: scheduled running retrying completed failed timed_out cancelled skipped
    status = models.TextField()
    service = models.TextField(default="")
    #: The step or step id that it undoes; NULL for forward steps.
    compensates = models.TextField(null=True)
    inferred = models.BooleanField(default=False)
    first_at = models.BigIntegerField()
    started_at = models.BigIntegerField(null=True)
    ended_at = models.BigIntegerField(null=True)
    wait_us = models.BigIntegerField(null=True)
    run_us = models.BigIntegerField(null=True)
    #: While it is open: when its first sign was seen. Its instance's ledger asks for the first of many.
    open_since = models.BigIntegerField(null=True)
    #: While it is open and more than scheduled: when it began to run.
    begun_at = models.BigIntegerField(null=True)
    #: While it would have to be undone if the instance turned back: when it completed.
    owed_at = models.BigIntegerField(null=True)
    #: When it completed, where no step of its own round is its counterpart; see `undoing`. NULL where nothing asks.
    unmatched_at = models.BigIntegerField(null=True)
    attempt_count = models.IntegerField()
    error = models.TextField(null=True)
    #: `projection.StepState` as JSON.
    state = models.TextField()

    class Meta:
        db_table = "step_execution"


class SettledFacts(models.Model):
    """Old facts of a step execution that has very many: only a late event, a page or a rebuild reads them again."""

    pk = models.CompositePrimaryKey("shard", "correlation_uuid", "instance_id", "step", "step_id", "place")
    shard = models.IntegerField()
    correlation_uuid = models.UUIDField()
    instance_id = models.UUIDField()
    step = models.TextField(db_collation="C")
    step_id = models.TextField(default="", db_collation="C")
    #: How many facts lie before these.
    place = models.IntegerField()
    #: `attempts.Fact`s as a JSON list, in order.
    facts = models.TextField()

    class Meta:
        db_table = "settled_facts"


class AwaitedCause(models.Model):
    """An event named a cause that is not known yet: it is looked up when it arrives, and is an orphan until then."""

    pk = models.CompositePrimaryKey("shard", "correlation_uuid", "cause_id", "event_id", "source")
    shard = models.IntegerField()
    correlation_uuid = models.UUIDField()
    cause_id = models.TextField()
    event_id = models.TextField()
    source = models.TextField()
    received_at = models.BigIntegerField()
    #: The step executions that its time matters to: JSON [[instance id, step, step id], …].
    steps = models.TextField(default="[]")

    class Meta:
        db_table = "awaited_cause"
        indexes = [models.Index(fields=["received_at"], name="awaited_since")]
