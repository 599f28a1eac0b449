"""What is said about sagas: flows, their definitions, schemas of events, and runs over the past when that changes."""

from __future__ import annotations

from django.db import models

from apps.projects.models import Project


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
