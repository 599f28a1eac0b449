"""Who owns what: projects, their members, the sources that send events and the tokens that open the doors.

Everything else in Sagascope belongs to a project. `Project.revision` counts every change that alters what events
mean (flow definitions, source rules): whoever projects events compares it to know that its cache is still true.
"""

from __future__ import annotations

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models


class Project(models.Model):
    """A tenant."""

    slug = models.SlugField(max_length=64, unique=True)
    name = models.CharField(max_length=128)
    created_at = models.DateTimeField(auto_now_add=True)
    #: Bumped in the same transaction as any change of definitions, rules or learned deadlines.
    revision = models.BigIntegerField(default=0)
    skew_tolerance_seconds = models.FloatField(default=1.0)
    orphan_grace_seconds = models.FloatField(default=300.0)
    retention_days = models.PositiveIntegerField(default=30)
    #: A learned deadline is this many times what 99 % of the runs did not exceed; flows may have their own.
    deadline_factor = models.FloatField(default=3.0)
    #: Who may see what was taken out of payloads: "" = nobody, and then it is not kept; see `apps.projects.privacy`.
    reveals_to = models.CharField(max_length=16, default="", blank=True)
    #: Keys for hashing values and for sealing what may be revealed, each encrypted; "" until needed.
    hash_key = models.TextField(default="", blank=True)
    seal_key = models.TextField(default="", blank=True)
    #: Key of the digests by which erased correlations are known again, encrypted; "" while there are none.
    erasure_key = models.TextField(default="", blank=True)

    def __str__(self) -> str:
        return self.slug


class Role(models.TextChoices):
    """What a member may do: look, act on sagas and incidents, or change the project."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


class Membership(models.Model):
    """A user's role in a project."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="memberships")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=16, choices=Role.choices, default=Role.VIEWER)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["project", "user"], name="membership_once")]

    def __str__(self) -> str:
        return f"{self.user} is {self.role} of {self.project}"


class SourceKind(models.TextChoices):
    """How a source's events reach us; it decides what the source's watermark means."""

    HTTP = "http"
    CONSUMER = "consumer"
    POLLER = "poller"


class Source(models.Model):
    """A connected system that sends events: behind an ingest token, a broker consumer or an engine poller."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="sources")
    name = models.CharField(max_length=128)
    kind = models.CharField(max_length=16, choices=SourceKind.choices, default=SourceKind.HTTP)
    #: Which transport or poller: "" for http, else e.g. "kafka", "rabbitmq", "temporal".
    system = models.CharField(max_length=32, default="", blank=True)
    #: The transport's own settings; secrets are kept apart, encrypted.
    settings = models.JSONField(default=dict, blank=True)
    #: Flow of events that name none; "" = no default.
    default_flow = models.CharField(max_length=256, default="", blank=True)
    #: Ordered rules that give bare events a meaning; see `apps.sagas.interpretation.SourceRule`.
    rules = models.JSONField(default=list, blank=True)
    #: What is removed or hashed before it is stored, beside the values of sensitive keys; see `apps.projects.privacy`.
    redaction = models.JSONField(default=list, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    #: How far this source has been read, in event time; NULL for sources that are judged by the clock.
    watermark_at = models.DateTimeField(null=True, blank=True)
    #: Messages not read yet, as the transport reports; NULL when it cannot tell.
    lag = models.BigIntegerField(null=True, blank=True)
    #: When it reported that; see `apps.projects.lags` for how long it is believed.
    lag_at = models.DateTimeField(null=True, blank=True)
    is_active = models.BooleanField(default=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["project", "name"], name="source_name_once")]

    def __str__(self) -> str:
        return self.name


class Scope(models.TextChoices):
    """What a token opens."""

    INGEST = "ingest"
    READ = "read"
    OPERATE = "operate"


class Token(models.Model):
    """A bearer token, kept only as a hash. An ingest token stands for exactly one source."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="tokens")
    source = models.ForeignKey(Source, on_delete=models.CASCADE, null=True, blank=True, related_name="tokens")
    name = models.CharField(max_length=128)
    #: The first characters, shown so that people can tell tokens apart.
    prefix = models.CharField(max_length=16)
    #: SHA-256 of the whole token; its 190 bits of randomness make a slow hash needless.
    hash = models.BinaryField(max_length=32, unique=True)
    scopes = ArrayField(models.CharField(max_length=16, choices=Scope.choices))
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=~models.Q(scopes__contains=["ingest"]) | models.Q(source__isnull=False),
                name="ingest_token_has_source",
            )
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"


class Invitation(models.Model):
    """A link that lets one person in, once: as a member of a project, or as the first administrator.

    Only the hash of the link's secret is kept; see `apps.projects.invitations`.
    """

    #: NULL for the link of the first start, which makes an administrator.
    project = models.ForeignKey(Project, on_delete=models.CASCADE, null=True, related_name="invitations")
    role = models.CharField(max_length=16, choices=Role.choices, default=Role.VIEWER)
    #: Whom it was sent to; "" when the link was handed over otherwise.
    email = models.CharField(max_length=254, default="", blank=True)
    hash = models.BinaryField(max_length=32, unique=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField()
    accepted_at = models.DateTimeField(null=True, blank=True)
    accepted_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    revoked_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"{self.role} of {self.project}" if self.project else "the first administrator"


class ExpiredCorrelation(models.Model):
    """A correlation that retention has forgotten, as a digest; see `apps.sagas.expired`."""

    digest = models.BinaryField(primary_key=True, max_length=16)
    project = models.ForeignKey(
        Project, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False, related_name="+"
    )
    #: Microseconds since 1970 UTC.
    expired_at = models.BigIntegerField()

    class Meta:
        db_table = "expired_correlation"
        indexes = [models.Index(fields=["project", "expired_at"], name="expired_of_project")]

    def __str__(self) -> str:
        return bytes(self.digest).hex()


class ErasedCorrelation(models.Model):
    """A correlation that was erased on demand, as a digest; see `apps.sagas.erased`."""

    digest = models.BinaryField(primary_key=True, max_length=16)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="+")
    #: Microseconds since 1970 UTC.
    erased_at = models.BigIntegerField()

    class Meta:
        db_table = "erased_correlation"

    def __str__(self) -> str:
        return bytes(self.digest).hex()


class AuditEntry(models.Model):
    """Something that somebody did or tried: written once, never changed, never deleted (PostgreSQL sees to that)."""

    id = models.BigAutoField(primary_key=True)
    #: Microseconds since 1970 UTC.
    at = models.BigIntegerField()
    #: NULL for what belongs to no project: signing in, an account.
    project = models.ForeignKey(
        Project, null=True, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False, related_name="+"
    )
    #: A user's name, `token NAME`, or `command` for what was typed on the server.
    actor = models.TextField()
    #: The route and what it was asked: `POST web:incident acknowledge`, `PUT /api/v1/flows/order`, `erase`.
    action = models.TextField()
    #: What was said with it; the values of sensitive fields are not kept.
    details = models.JSONField(default=dict)
    #: HTTP status of the answer: 4xx = refused. 0 for commands.
    status = models.IntegerField(default=0)
    #: Where the request came from.
    address = models.TextField(default="")

    class Meta:
        db_table = "audit_entry"
        indexes = [models.Index(fields=["project", "-id"], name="audit_of_project")]

    def __str__(self) -> str:
        return f"{self.actor}: {self.action}"
