"""What people leave on the pages: saved views, their own choices, notes on sagas, links that show a timeline to others.

None of it is part of what happened: no projection reads it, and dropping all of it changes no saga.
"""

from __future__ import annotations

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models

from apps.lib import micros
from apps.projects.models import Project


class SavedView(models.Model):
    """A query of the instances page under a name, with its sort and columns: its owner's, or shared in the project."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="saved_views")
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="saved_views")
    name = models.CharField(max_length=64)
    query = models.TextField(blank=True)
    #: A sort of the list, never "".
    sort = models.CharField(max_length=32)
    #: Names of columns in their order; none = whatever the reader chose.
    columns = ArrayField(models.CharField(max_length=128), default=list, blank=True)
    is_shared = models.BooleanField(default=False)
    created_at = models.BigIntegerField(default=micros.now)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["project", "owner", "name"], name="saved_view_name_once"),
            # A shared view is known to everybody by its name alone.
            models.UniqueConstraint(
                fields=["project", "name"], name="shared_view_name_once", condition=models.Q(is_shared=True)
            ),
        ]

    def __str__(self) -> str:
        return self.name


class PageChoice(models.Model):
    """What one person chose in one project, and how far they have looked."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="page_choices")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="page_choices")
    #: Columns of the instances page where an address names none; none = the usual ones.
    columns = ArrayField(models.CharField(max_length=128), default=list, blank=True)
    #: The highest incident number that the person has been shown; later ones are unread.
    incident_seen = models.BigIntegerField(default=0)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["project", "user"], name="page_choice_once")]

    def __str__(self) -> str:
        return f"{self.user} in {self.project}"


class Note(models.Model):
    """What a person wrote about one saga. Beside the events, never among them: it moves no deadline."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="notes")
    correlation_id = models.TextField(db_collation="C")
    by = models.CharField(max_length=150)
    at = models.BigIntegerField()
    text = models.CharField(max_length=500)

    class Meta:
        indexes = [models.Index(fields=["project", "correlation_id", "at"], name="note_of_correlation")]

    def __str__(self) -> str:
        return self.text


class EmbedLink(models.Model):
    """A signed link that shows the timeline of one correlation to whoever has it, until it expires or is revoked."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="embed_links")
    correlation_id = models.TextField(db_collation="C")
    created_by = models.CharField(max_length=150)
    created_at = models.BigIntegerField()
    expires_at = models.BigIntegerField()
    revoked_at = models.BigIntegerField(null=True, blank=True)
    revoked_by = models.CharField(max_length=150, default="", blank=True)
    #: When it was last opened, to the minute.
    last_used_at = models.BigIntegerField(null=True, blank=True)

    class Meta:
        indexes = [models.Index(fields=["project", "correlation_id", "expires_at"], name="embed_of_correlation")]

    def __str__(self) -> str:
        return f"{self.correlation_id} until {micros.isoformat(self.expires_at)}"
