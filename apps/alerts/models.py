"""What is wrong and who is told: rules, incidents and their log, receivers, deliveries and their tries, silences.

Times are `Micros`. What must hold whatever runs at once is kept by the database: one unresolved incident per
fingerprint, one number per incident of a project, one delivery per receiver and round of an incident.
Only `sweeping`, `incidents`, `silences`, `delivery` and `rules` write these tables.
"""

from __future__ import annotations

from django.db import models

from apps.lib import micros
from apps.projects.models import Project


class Severity(models.TextChoices):
    """How much of a hurry a rule's incidents are."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


class ReceiverKind(models.TextChoices):
    """How a receiver is reached; each has a module in `apps.alerts.receivers`."""

    EMAIL = "email", "E-mail"
    SLACK = "slack", "Slack"
    TEAMS = "teams", "Microsoft Teams"
    PAGERDUTY = "pagerduty", "PagerDuty"
    OPSGENIE = "opsgenie", "Opsgenie"
    TELEGRAM = "telegram", "Telegram"
    WEBHOOK = "webhook", "Webhook"
    ALERTMANAGER_WEBHOOK = "alertmanager_webhook", "Webhook as of Alertmanager"
    ALERTMANAGER = "alertmanager", "Alertmanager"
    APPRISE = "apprise", "Others (Apprise)"


class Receiver(models.Model):
    """Somebody or something that is told."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="receivers")
    name = models.CharField(max_length=128)
    kind = models.CharField(max_length=24, choices=ReceiverKind.choices)
    #: The kind's settings as JSON, encrypted as a whole: addresses of chat rooms are secrets too.
    settings_token = models.TextField()
    #: The settings in words without anything secret, for lists.
    summary = models.CharField(max_length=256, default="", blank=True)
    #: Messages are gathered for so long and sent as one; 0 = each by itself, at once.
    digest_us = models.BigIntegerField(default=0)
    #: What is critical does not wait for the digest.
    is_critical_at_once = models.BooleanField(default=True)
    is_enabled = models.BooleanField(default=True)
    #: Why it was switched off; "" while it is on.
    disabled_reason = models.TextField(default="", blank=True)
    disabled_at = models.BigIntegerField(null=True, blank=True)
    #: Since when every try has failed; NULL when the last one succeeded.
    failing_since = models.BigIntegerField(null=True, blank=True)
    last_error = models.TextField(default="", blank=True)
    last_success_at = models.BigIntegerField(null=True, blank=True)
    #: Until when its target has asked to be left alone (`Retry-After`).
    waits_until = models.BigIntegerField(null=True, blank=True)
    created_at = models.BigIntegerField(default=micros.now)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["project", "name"], name="receiver_name_once")]

    def __str__(self) -> str:
        return self.name


class Rule(models.Model):
    """What opens incidents. Every project has the built-in rules from the start; see `rules`."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="rules")
    name = models.CharField(max_length=128)
    #: A key of `conditions.CONDITIONS`.
    condition = models.CharField(max_length=32)
    #: Settings of the condition, where it has any.
    parameters = models.JSONField(default=dict, blank=True)
    #: Only instances that this query finds; "" = all. See `apps.sagas.query`.
    query = models.TextField(default="", blank=True)
    #: How long the condition must hold before an incident opens.
    pending_us = models.BigIntegerField(default=0)
    severity = models.CharField(max_length=16, choices=Severity.choices, default=Severity.WARNING)
    #: Who is told; none = every receiver of the project.
    receivers = models.ManyToManyField(Receiver, blank=True, related_name="rules")
    #: At most one message per cause in this time (apart from the one that it is resolved).
    cooldown_us = models.BigIntegerField(default=15 * micros.MINUTE)
    #: What tells its causes apart, of `conditions.grouping.DIMENSIONS`; none = the condition's own choice.
    group_by = models.JSONField(default=list, blank=True)
    #: Who else is told when nobody acknowledges: [{"after_us": …, "receivers": [ids]}, …], the earliest first.
    escalation = models.JSONField(default=list, blank=True)
    #: Who answers for it: a person or a team, in words.
    owner = models.CharField(max_length=128, default="", blank=True)
    #: Where it is written what to do; http(s).
    runbook_url = models.CharField(max_length=500, default="", blank=True)
    #: Judges and shows its incidents, and tells nobody.
    is_dry_run = models.BooleanField(default=False)
    is_enabled = models.BooleanField(default=True)
    #: When it was last judged, where its condition is not judged by every sweep; NULL = judge it now.
    judged_at = models.BigIntegerField(null=True, blank=True)
    #: What its condition remembers from one time to the next, such as how long things usually take.
    memory = models.JSONField(default=dict, blank=True)
    is_built_in = models.BooleanField(default=False)
    created_at = models.BigIntegerField(default=micros.now)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["project", "name"], name="rule_name_once"),
            models.UniqueConstraint(
                fields=["project", "condition"], name="built_in_rule_once", condition=models.Q(is_built_in=True)
            ),
        ]

    def __str__(self) -> str:
        return self.name


class Incident(models.Model):
    """A condition that people are told about: opened once, acknowledged, snoozed, resolved."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="incidents")
    #: Counts from 1 in each project: what people say and what URLs hold.
    number = models.IntegerField()
    rule = models.ForeignKey(Rule, on_delete=models.SET_NULL, null=True, related_name="incidents")
    #: The rule's name and severity when it opened: history outlives rules.
    rule_name = models.CharField(max_length=128)
    severity = models.CharField(max_length=16, choices=Severity.choices)
    #: The rule's condition, runbook and whether it only tries, as of the last sweep.
    condition = models.CharField(max_length=32, default="")
    runbook_url = models.CharField(max_length=500, default="", blank=True)
    is_dry_run = models.BooleanField(default=False)
    fingerprint = models.CharField(max_length=64)
    title = models.TextField()
    flow = models.TextField(default="")
    step = models.TextField(default="")
    service = models.TextField(default="")
    error_fingerprint = models.TextField(default="")
    #: Why, in words: the deadline that passed, the last error.
    cause = models.TextField(default="")
    instance_count = models.BigIntegerField()
    peak_count = models.BigIntegerField()
    #: What is counted, in the singular: saga, finding, dead letter, failure ….
    unit = models.CharField(max_length=32, default="saga")
    #: Up to five correlation IDs, longest waiting first.
    sample = models.JSONField(default=list)
    #: Since when the condition holds, for the longest waiting.
    since = models.BigIntegerField()
    opened_at = models.BigIntegerField()
    changed_at = models.BigIntegerField()
    #: Who works on it: a name; "" = the rule's owner, if anybody.
    owner = models.CharField(max_length=128, default="", blank=True)
    acknowledged_at = models.BigIntegerField(null=True)
    acknowledged_by = models.TextField(default="")
    snoozed_until = models.BigIntegerField(null=True)
    snoozed_by = models.TextField(default="")
    #: How many it were when somebody snoozed or resolved it: what "worse" is measured by.
    set_aside_count = models.BigIntegerField(default=0)
    resolved_at = models.BigIntegerField(null=True)
    #: "" when it resolved by itself.
    resolved_by = models.TextField(default="")
    #: True while the last sweep found the condition; stays true when somebody resolves it all the same.
    holds = models.BooleanField(default=True)
    #: Deliveries wait until then because of a silence; NULL without one.
    silenced_until = models.BigIntegerField(null=True)
    #: Rounds of messages so far, the time of the last one that said how bad it is, and how bad that was.
    rounds = models.IntegerField(default=0)
    told_at = models.BigIntegerField(null=True)
    told_count = models.BigIntegerField(default=0)
    #: Since when nobody has acknowledged it, and the steps of its rule's escalation that were taken since.
    unattended_since = models.BigIntegerField(null=True)
    escalated_steps = models.IntegerField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["project", "fingerprint"],
                name="incident_open_once",
                condition=models.Q(resolved_at__isnull=True),
            ),
            models.UniqueConstraint(fields=["project", "number"], name="incident_number_once"),
        ]
        indexes = [
            # The sweep: is there an earlier incident of this cause?
            models.Index(fields=["project", "fingerprint", "-number"], name="incident_cause"),
            # The sweep: which incidents may have resolved? Also the list of unresolved ones.
            models.Index(
                fields=["project", "-number"], name="incident_unresolved", condition=models.Q(resolved_at__isnull=True)
            ),
            # The sweep: resolved by somebody while the condition went on.
            models.Index(
                fields=["project"],
                name="incident_set_aside",
                condition=models.Q(resolved_at__isnull=False, holds=True),
            ),
        ]

    def __str__(self) -> str:
        return f"#{self.number} {self.title}"

    @property
    def status(self) -> str:
        """open, acknowledged, snoozed or resolved."""
        if self.resolved_at is not None:
            return "resolved"
        if self.snoozed_until is not None:
            return "snoozed"
        return "acknowledged" if self.acknowledged_at is not None else "open"


class IncidentEntry(models.Model):
    """One line of an incident's log: who did what, when."""

    incident = models.ForeignKey(Incident, on_delete=models.CASCADE, related_name="log")
    at = models.BigIntegerField()
    #: A user or token name; "" = Sagascope itself.
    by = models.TextField(default="")
    #: opened, worse, acknowledged, assigned, note, snoozed, woke, escalated, resolved, reopened, told, not_told.
    what = models.CharField(max_length=16)
    detail = models.TextField(default="")

    class Meta:
        indexes = [models.Index(fields=["incident", "at", "id"], name="incident_log")]

    def __str__(self) -> str:
        return f"{self.what} {self.detail}"


class DeliveryStatus(models.TextChoices):
    """Where a delivery stands. `given_up`: nothing got through in a day; `dropped`: no longer worth sending."""

    PENDING = "pending"
    SENT = "sent"
    GIVEN_UP = "given_up"
    DROPPED = "dropped"


class Delivery(models.Model):
    """The outbox: one message to one receiver, made in the transaction of the change that it tells of."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="deliveries")
    #: NULL for messages that are about no incident (a test, a receiver that was switched off).
    incident = models.ForeignKey(Incident, on_delete=models.CASCADE, null=True, related_name="deliveries")
    receiver = models.ForeignKey(Receiver, on_delete=models.CASCADE, related_name="deliveries")
    #: Stable over all tries: the `webhook-id` by which receivers know a message that comes twice.
    message_id = models.CharField(max_length=48, unique=True)
    #: opened, worse, reopened, reminder, escalated, resolved, receiver_disabled, test.
    kind = models.CharField(max_length=24)
    round = models.IntegerField(default=0)
    status = models.CharField(max_length=16, choices=DeliveryStatus.choices, default=DeliveryStatus.PENDING)
    created_at = models.BigIntegerField()
    due_at = models.BigIntegerField()
    #: What is said as JSON text, fixed by the first try so that every try says the same, byte for byte.
    message = models.TextField(null=True)
    tries = models.IntegerField(default=0)
    first_tried_at = models.BigIntegerField(null=True)
    #: Who is sending it now (random per claim), and until when nobody else may.
    claim = models.UUIDField(null=True)
    lease_until = models.BigIntegerField(null=True)
    #: Why the last try failed, or why it was dropped.
    detail = models.TextField(default="")
    finished_at = models.BigIntegerField(null=True)
    #: The delivery whose message, a digest, says this one's too.
    carried_by = models.ForeignKey("self", on_delete=models.SET_NULL, null=True, related_name="carried")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["incident", "receiver", "round"], name="delivery_once")]
        indexes = [
            # The deliverer: what is due?
            models.Index(fields=["due_at", "receiver"], name="delivery_due", condition=models.Q(status="pending")),
            models.Index(fields=["receiver", "-id"], name="delivery_receiver"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.message_id}"


class DeliveryTry(models.Model):
    """One try of a delivery: when, how long, what came of it. Never holds a secret."""

    delivery = models.ForeignKey(Delivery, on_delete=models.CASCADE, related_name="log")
    number = models.IntegerField()
    at = models.BigIntegerField()
    duration_us = models.BigIntegerField()
    succeeded = models.BooleanField()
    #: The HTTP status, where there was one.
    http_status = models.IntegerField(null=True)
    error = models.TextField(default="")
    #: How the target's answer begins, as one harmless line without anything of the receiver's settings.
    answer = models.TextField(default="")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["delivery", "number"], name="delivery_try_once")]

    def __str__(self) -> str:
        return f"try {self.number}"


class Silence(models.Model):
    """Incidents go on, messages about them wait: for a rule, a query, or both; from-until."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="silences")
    #: NULL = any rule.
    rule = models.ForeignKey(Rule, on_delete=models.CASCADE, null=True, blank=True, related_name="silences")
    #: Every instance behind an incident must be found by this query; "" = any.
    query = models.TextField(default="", blank=True)
    starts_at = models.BigIntegerField()
    ends_at = models.BigIntegerField()
    comment = models.TextField(default="", blank=True)
    created_by = models.TextField(default="")
    created_at = models.BigIntegerField(default=micros.now)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=models.Q(ends_at__gt=models.F("starts_at")), name="silence_has_length")
        ]
        indexes = [models.Index(fields=["project", "ends_at"], name="silence_active")]

    def __str__(self) -> str:
        return self.comment or f"silence {self.pk}"


class MaintenanceWindow(models.Model):
    """A silence that was planned: once, or each week on some days at the same time by the clock of a place."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="maintenance_windows")
    name = models.CharField(max_length=128)
    #: NULL = any rule.
    rule = models.ForeignKey(Rule, on_delete=models.CASCADE, null=True, blank=True, related_name="maintenance_windows")
    #: As for a silence.
    query = models.TextField(default="", blank=True)
    #: Of the IANA database, such as Europe/Berlin: what the local times are told by.
    time_zone = models.CharField(max_length=64)
    #: Monday = 0; none = once, at `starts_at`.
    weekdays = models.JSONField(default=list, blank=True)
    #: Minutes since midnight by the local clock; only of weekly ones.
    begins_minute = models.IntegerField(default=0)
    #: Of those that are held once.
    starts_at = models.BigIntegerField(null=True, blank=True)
    length_us = models.BigIntegerField()
    is_enabled = models.BooleanField(default=True)
    created_by = models.TextField(default="")
    created_at = models.BigIntegerField(default=micros.now)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["project", "name"], name="maintenance_name_once"),
            models.CheckConstraint(condition=models.Q(length_us__gt=0), name="maintenance_has_length"),
        ]

    def __str__(self) -> str:
        return self.name
