"""What happened: correlations, their events, and the projections that `recording.record` keeps true.

Times are `Micros` (integers, microseconds since 1970 UTC) in every table of this app: they are compared, merged and
summed far more often than shown. Keys begin with `shard`, an int4 hash of (project, correlation ID), so that Citus can
distribute all tables by it without a change. `events` and `step executions` are partitioned by range of
`correlation_uuid`, a UUIDv7 given on first sight: one correlation lies in one partition, for ever.

No logic lives here. Only `recording` and `rebuild` write these tables; findings are `judging`'s.
"""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models

from apps.projects.models import Project, Source


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

    class Meta:
        db_table = "correlation"
        constraints = [models.UniqueConstraint("shard", "project", "correlation_id", name="correlation_once")]


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


class Rollup(models.Model):
    """Counts and latency histograms of one step (or, with step "", of the instances) in one minute.

    Rows are deltas, only ever added: the sum over a key is the truth and `rollups.compact` merges rows without changing
    it. Histograms are flat arrays [bucket, count, bucket, count …] of `histogram` buckets.
    """

    id = models.BigAutoField(primary_key=True)
    project = models.ForeignKey(Project, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False)
    flow = models.TextField()
    flow_version = models.TextField(default="")
    step = models.TextField()
    #: Minutes since 1970 UTC.
    minute = models.IntegerField()
    #: Attempts begun; for step "": instances started.
    started = models.IntegerField(default=0)
    completed = models.IntegerField(default=0)
    failed = models.IntegerField(default=0)
    timed_out = models.IntegerField(default=0)
    cancelled = models.IntegerField(default=0)
    retried = models.IntegerField(default=0)
    #: Attempts of a compensation; for step "": instances that ended compensated.
    compensated = models.IntegerField(default=0)
    waits = ArrayField(models.IntegerField())
    runs = ArrayField(models.IntegerField())
    #: Counted in `RollupHour`. What `record` adds is not yet; `compaction` sees to it.
    in_hours = models.BooleanField(default=False, db_default=False)

    class Meta:
        db_table = "rollup"
        indexes = [models.Index(fields=["project", "flow", "minute", "step"], name="rollup_key")]


class RollupHour(models.Model):
    """The sums of `Rollup` by hour, for windows of days; columns as there. Behind by seconds, see `compaction`."""

    pk = models.CompositePrimaryKey("project", "flow", "hour", "step", "flow_version")
    project = models.ForeignKey(Project, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False)
    flow = models.TextField()
    #: Hours since 1970 UTC.
    hour = models.IntegerField()
    step = models.TextField()
    flow_version = models.TextField(default="")
    started = models.IntegerField(default=0)
    completed = models.IntegerField(default=0)
    failed = models.IntegerField(default=0)
    timed_out = models.IntegerField(default=0)
    cancelled = models.IntegerField(default=0)
    retried = models.IntegerField(default=0)
    compensated = models.IntegerField(default=0)
    waits = ArrayField(models.IntegerField())
    runs = ArrayField(models.IntegerField())

    class Meta:
        db_table = "rollup_hour"


class CompactionProgress(models.Model):
    """How far `compaction` has come: every rollup up to `done_id` is counted by hour. One row."""

    id = models.IntegerField(primary_key=True)
    done_id = models.BigIntegerField(default=0)
    #: Takes the place of `done_id` once it was seen long enough ago for all transactions of then to be over.
    seen_id = models.BigIntegerField(default=0)
    seen_at = models.BigIntegerField(default=0)

    class Meta:
        db_table = "compaction_progress"


class SourceTally(models.Model):
    """What one source sent in one minute: deltas, like `Rollup`."""

    id = models.BigAutoField(primary_key=True)
    source = models.ForeignKey(Source, on_delete=models.CASCADE, db_constraint=False, db_index=False)
    minute = models.IntegerField()
    accepted = models.IntegerField(default=0)
    duplicates = models.IntegerField(default=0)
    conflicts = models.IntegerField(default=0)
    last_seen_at = models.BigIntegerField()
    last_event_at = models.BigIntegerField(null=True)

    class Meta:
        db_table = "source_tally"
        indexes = [models.Index(fields=["source", "minute"], name="source_tally_minute")]


class Flow(models.Model):
    """A kind of saga: declared by somebody, or discovered because an event named it."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="flows")
    name = models.TextField()
    discovered_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        db_table = "flow"
        constraints = [models.UniqueConstraint(fields=["project", "name"], name="flow_once")]

    def __str__(self) -> str:
        return self.name


class FlowVersion(models.Model):
    """A definition of a flow, as written. Every version is kept; saving a version again replaces its text."""

    flow = models.ForeignKey(Flow, on_delete=models.CASCADE, related_name="versions")
    version = models.TextField()
    #: The YAML (or JSON) as its author wrote it.
    text = models.TextField()
    is_deleted = models.BooleanField(default=False)
    saved_at = models.DateTimeField(auto_now=True)
    saved_by = models.TextField(default="")

    class Meta:
        db_table = "flow_version"
        constraints = [models.UniqueConstraint(fields=["flow", "version"], name="flow_version_once")]


class Reprojection(models.Model):
    """A run over the past: re-reads events of every correlation because what they mean has changed."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="reprojections")
    reason = models.TextField()
    #: The project revision that asked for it.
    revision = models.BigIntegerField()
    created_at = models.DateTimeField(auto_now_add=True)
    finished_at = models.DateTimeField(null=True)
    #: Correlations to visit, counted at the start, and visited so far; `cursor` is the last one done.
    total = models.BigIntegerField(default=0)
    done = models.BigIntegerField(default=0)
    cursor_id = models.UUIDField(null=True)
    error = models.TextField(default="")

    class Meta:
        db_table = "reprojection"
        indexes = [
            models.Index(fields=["project"], name="reprojection_open", condition=models.Q(finished_at__isnull=True))
        ]


class LearnedFlow(models.Model):
    """Where learning the deadlines of one flow stands; see `learned_deadlines`."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="learned_flows")
    flow = models.TextField()
    #: What p99 is multiplied by; NULL = as the project says.
    factor = models.FloatField(null=True)
    #: When its runs were last looked at, and the latest event that there was then.
    looked_at = models.BigIntegerField(default=0)
    seen_event_at = models.BigIntegerField(default=0)

    class Meta:
        db_table = "learned_flow"
        constraints = [models.UniqueConstraint(fields=["project", "flow"], name="learned_flow_once")]
        indexes = [models.Index(fields=["looked_at"], name="learned_flow_due")]


class LearnedDeadline(models.Model):
    """How long one step usually waits or runs. What is published of it is part of what a project's events mean.

    Published (`limit_us` and the evidence beside it) changes only together with `Project.revision`; the columns
    `latest_…` are what was seen at the last look and mean nothing to the projection.
    """

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="learned_deadlines")
    flow = models.TextField()
    flow_version = models.TextField(default="")
    step = models.TextField()
    #: wait (scheduled to begun), run (begun to ended) or whole (scheduled to ended, where nobody tells the begin).
    phase = models.TextField()
    #: NULL while nothing is published.
    limit_us = models.BigIntegerField(null=True)
    factor = models.FloatField(null=True)
    count = models.IntegerField(default=0)
    p50_us = models.BigIntegerField(null=True)
    p99_us = models.BigIntegerField(null=True)
    #: First signs of the earliest and the latest execution that it was learned from.
    since = models.BigIntegerField(null=True)
    until = models.BigIntegerField(null=True)
    published_at = models.BigIntegerField(null=True)
    latest_count = models.IntegerField(default=0)
    #: Open ones, not stuck, that counted as "at least so long".
    latest_open = models.IntegerField(default=0)
    latest_p50_us = models.BigIntegerField(null=True)
    latest_p99_us = models.BigIntegerField(null=True)
    latest_at = models.BigIntegerField(default=0)

    class Meta:
        db_table = "learned_deadline"
        constraints = [
            models.UniqueConstraint(
                fields=["project", "flow", "flow_version", "step", "phase"], name="learned_deadline_once"
            )
        ]


class Rejudgement(models.Model):
    """A run over the open instances of one flow, because its learned deadlines have changed."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="rejudgements")
    flow = models.TextField()
    #: Instances are visited by falling time of their last event; these two are the last one's that was done.
    cursor_event_at = models.BigIntegerField(null=True)
    cursor_id = models.UUIDField(null=True)
    done = models.BigIntegerField(default=0)
    created_at = models.DateTimeField(auto_now_add=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "rejudgement"
        indexes = [
            models.Index(fields=["project"], name="rejudgement_open", condition=models.Q(finished_at__isnull=True))
        ]


class SourceRhythm(models.Model):
    """How often a source usually sends, and whether it has fallen silent; see `rhythms`."""

    source = models.OneToOneField(Source, on_delete=models.CASCADE, primary_key=True, related_name="rhythm")
    #: Pauses between arrivals: a flat histogram, its sum, and the last arrival that was taken in.
    gaps = ArrayField(models.IntegerField(), default=list)
    gap_count = models.IntegerField(default=0)
    anchor_at = models.BigIntegerField(null=True)
    usual_us = models.BigIntegerField(null=True)
    #: A longer pause is silence; NULL until there are enough gaps.
    limit_us = models.BigIntegerField(null=True)
    #: Its last arrival before it fell silent; stays while it catches up.
    silent_since = models.BigIntegerField(null=True)
    #: When it came back; NULL while it is silent.
    back_at = models.BigIntegerField(null=True)

    class Meta:
        db_table = "source_rhythm"


class ServerClock(models.Model):
    """What the wall clock and the steady clock of one machine showed when it last swept; see `server_clock`."""

    #: Of the machine's boot: the steady clock begins anew with each.
    boot = models.TextField(primary_key=True)
    wall_at = models.BigIntegerField()
    steady_us = models.BigIntegerField()
    #: By how much the wall clock has jumped forward (negative: back), and when by the steady clock.
    jumped_us = models.BigIntegerField(default=0)
    jumped_at = models.BigIntegerField(null=True)

    class Meta:
        db_table = "server_clock"


class Finding(models.Model):
    """A rule of saga conduct that a correlation broke, or that could not be judged; kept when it is resolved.

    Written by `judging` alone. What it is about (`instance`, code and fingerprint) gives the id, so that judging again
    finds the same row.
    """

    pk = models.CompositePrimaryKey("shard", "id")
    shard = models.IntegerField()
    id = models.UUIDField()
    project = models.ForeignKey(Project, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False)
    correlation_uuid = models.UUIDField()
    correlation_id = models.TextField(db_collation="C")
    #: NULL where it is about events that belong to the correlation alone.
    instance_id = models.UUIDField(null=True)
    flow = models.TextField(default="")
    code = models.TextField()
    #: What it is about, among the findings of one code of one instance.
    fingerprint = models.TextField()
    step = models.TextField(default="")
    service = models.TextField(default="")
    #: open resolved inconclusive
    status = models.TextField()
    #: True when it rests on something concluded instead of declared.
    inferred = models.BooleanField(default=False)
    explanation = models.TextField()
    #: The events that prove it: [{source, event_id}, …].
    evidence = models.JSONField(default=list)
    #: When, by the events, the rule was broken; for what is owed, when it was done.
    since = models.BigIntegerField()
    opened_at = models.BigIntegerField()
    resolved_at = models.BigIntegerField(null=True)

    class Meta:
        db_table = "finding"
        indexes = [
            models.Index(fields=["shard", "correlation_uuid"], name="finding_correlation"),
            models.Index(fields=["project", "-opened_at", "id"], name="finding_recent"),
            models.Index(fields=["project", "status", "-opened_at", "id"], name="finding_status_recent"),
            models.Index(fields=["project", "code", "-opened_at", "id"], name="finding_code_recent"),
            # What is wrong now: counts by code and flow, the owed ledger by age, `finding:…` among instances.
            models.Index(
                fields=["project", "code", "flow", "since"],
                name="finding_open",
                condition=models.Q(status="open"),
            ),
            models.Index(
                fields=["shard", "instance_id", "code"],
                name="finding_instance",
                condition=models.Q(status="open"),
            ),
        ]


class FindingDue(models.Model):
    """Correlations that are to be judged from `due_at` on: one row for each transaction that changed any.

    `record` adds rows, `judging` takes them away.
    """

    id = models.BigAutoField(primary_key=True)
    due_at = models.BigIntegerField()
    #: Side by side: shard, UUID and project of each.
    shards = ArrayField(models.IntegerField())
    correlation_uuids = ArrayField(models.UUIDField())
    project_ids = ArrayField(models.BigIntegerField())

    class Meta:
        db_table = "finding_due"
        indexes = [models.Index(fields=["due_at"], name="finding_due_at")]


class CompensableStep(models.Model):
    """A step of a flow without declared roles that was compensated at least once. Rows are only ever added."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE)
    flow = models.TextField()
    step = models.TextField()
    seen_at = models.BigIntegerField()

    class Meta:
        db_table = "compensable_step"
        constraints = [models.UniqueConstraint(fields=["project", "flow", "step"], name="compensable_step_once")]


class EventSchema(models.Model):
    """What the payload of an event type promises to look like: JSON Schema, one per version."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="event_schemas")
    event_type = models.TextField()
    version = models.TextField()
    #: The JSON as its author wrote it.
    text = models.TextField()
    saved_at = models.DateTimeField(auto_now=True)
    saved_by = models.TextField(default="")

    class Meta:
        db_table = "event_schema"
        constraints = [models.UniqueConstraint(fields=["project", "event_type", "version"], name="event_schema_once")]


class Variant(models.Model):
    """A path that instances of a flow took (`variants.Path`); written once, by `surveying`."""

    pk = models.CompositePrimaryKey("project", "flow", "variant")
    project = models.ForeignKey(Project, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False)
    flow = models.TextField()
    #: Sixteen hexadecimal digits that follow from the path.
    variant = models.TextField(db_collation="C")
    #: The path as JSON, and what `via:` finds it by.
    nodes = models.TextField()
    marks = ArrayField(models.TextField())
    seen_at = models.BigIntegerField()

    class Meta:
        db_table = "variant"


class InstancePath(models.Model):
    """Which variant an instance is of, and what it counts for in `VariantTally`: taken back when that changes."""

    pk = models.CompositePrimaryKey("shard", "instance_id")
    shard = models.IntegerField()
    instance_id = models.UUIDField()
    correlation_uuid = models.UUIDField()
    project = models.ForeignKey(Project, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False)
    flow = models.TextField()
    variant = models.TextField(db_collation="C")
    #: Hours since 1970 UTC: when it started.
    hour = models.IntegerField()
    #: As in `VariantTally`: open or how it ended; the bucket of its duration; [edge, coarse bucket, …].
    status = models.TextField()
    run = models.IntegerField(null=True)
    pauses = ArrayField(models.IntegerField())

    class Meta:
        db_table = "instance_path"
        indexes = [
            models.Index(fields=["shard", "correlation_uuid"], name="path_correlation"),
            models.Index(fields=["project", "flow", "variant"], name="path_variant"),
        ]


class VariantTally(models.Model):
    """The instances of one variant that started in one hour: how they ended, how long they and their pauses took."""

    pk = models.CompositePrimaryKey("project", "flow", "hour", "variant")
    project = models.ForeignKey(Project, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False)
    flow = models.TextField()
    hour = models.IntegerField()
    variant = models.TextField(db_collation="C")
    open = models.IntegerField(default=0)
    completed = models.IntegerField(default=0)
    compensated = models.IntegerField(default=0)
    failed = models.IntegerField(default=0)
    cancelled = models.IntegerField(default=0)
    timed_out = models.IntegerField(default=0)
    #: [bucket, instances, …] of durations; [edge, coarse bucket, instances, …] of pauses.
    runs = ArrayField(models.IntegerField())
    pauses = ArrayField(models.IntegerField())

    class Meta:
        db_table = "variant_tally"
