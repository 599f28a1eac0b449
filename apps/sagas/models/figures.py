"""What is counted: rollups of steps and flows, tallies of sources, and the variants that instances took."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models

from apps.projects.models import Project, Source


class Rollup(models.Model):
    """Counts and latency histograms of one step (or, with step "", of the instances) in one minute.

    Rows are deltas, only ever added: the sum over a key is the truth and `compaction` merges rows without changing
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


class RollupName(models.Model):
    """A step or a version of a flow that is counted by its own name, or, where `name` is "", the flow itself.

    See `rollup_names`.
    """

    pk = models.CompositePrimaryKey("project", "flow", "is_version", "name")
    project = models.ForeignKey(Project, on_delete=models.CASCADE, db_index=False)
    flow = models.TextField()
    is_version = models.BooleanField()
    name = models.TextField()

    class Meta:
        db_table = "rollup_name"


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
