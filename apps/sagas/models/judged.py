"""What is concluded: findings, what deadlines and rhythms were learned, and the clock that they are judged by."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models

from apps.projects.models import Project, Source


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
            # The owed ledger by age, and how much of it lies where.
            models.Index(
                fields=["project", "code", "since", "id"],
                include=["flow", "service", "step"],
                name="finding_oldest",
                condition=models.Q(status="open"),
            ),
            # What is wrong now: counts by code and flow, `finding:…` among instances.
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
