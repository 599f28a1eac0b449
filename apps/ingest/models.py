"""What came in and was refused: kept with its reason for people to look at, and counted for ever. No logic here."""

from __future__ import annotations

from django.db import models

from apps.projects.models import Project, Source


class RejectedEvent(models.Model):
    """One refused item. Of each source's day only the newest are kept, see `rejected.KEPT_PER_DAY`."""

    id = models.BigAutoField(primary_key=True)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, db_index=False, related_name="+")
    source = models.ForeignKey(Source, on_delete=models.CASCADE, db_index=False, related_name="+")
    #: `Micros`, and the day of it (days since 1970 UTC), by which the cap is kept.
    received_at = models.BigIntegerField()
    day = models.IntegerField()
    #: Its position in the request that brought it.
    index = models.IntegerField()
    #: The event's id where it could be read, else "".
    event_id = models.TextField(blank=True)
    code = models.CharField(max_length=32)
    detail = models.TextField()
    #: The beginning of what was sent, redacted.
    excerpt = models.TextField(blank=True)

    class Meta:
        db_table = "rejected_event"
        indexes = [
            # The list of a project, newest first; of one source; and the cap per source and day.
            models.Index(fields=["project", "-id"], name="rejected_recent"),
            models.Index(fields=["source", "-id"], name="rejected_source_recent"),
            models.Index(fields=["source", "day", "-id"], name="rejected_source_day"),
        ]

    def __str__(self) -> str:
        return f"{self.code} {self.event_id}"


class RejectedTally(models.Model):
    """How many items of a source were refused for one reason in one hour, kept or not."""

    id = models.BigAutoField(primary_key=True)
    source = models.ForeignKey(Source, on_delete=models.CASCADE, db_index=False, related_name="+")
    #: Hours since 1970 UTC.
    hour = models.IntegerField()
    code = models.CharField(max_length=32)
    count = models.BigIntegerField(default=0)

    class Meta:
        db_table = "rejected_tally"
        constraints = [models.UniqueConstraint(fields=["source", "hour", "code"], name="rejected_tally_once")]

    def __str__(self) -> str:
        return f"{self.count} × {self.code}"
