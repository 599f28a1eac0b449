"""What got parked: dead-letter queues with their history of depth, the letters in them, and the redrives of those.

Times are `Micros`. Only `queues`, `probing`, `keeping` and `redriving` write these tables. A letter is tied to its
saga by project and correlation ID; whether that saga has moved on is asked when it matters, never stored.
"""

from __future__ import annotations

from django.db import models

from apps.lib import micros
from apps.projects.models import Project, Source


class System(models.TextChoices):
    """What a queue lives in; each has a module in `apps.dlq.probes` and one in `apps.dlq.movers`."""

    RABBITMQ = "rabbitmq", "RabbitMQ"
    KAFKA = "kafka", "Kafka"
    SQS = "sqs", "SQS"
    REDIS_STREAMS = "redis_streams", "Redis Streams"
    NATS = "nats", "NATS JetStream"


class DeadLetterQueue(models.Model):
    """A place where a transport puts what it gave up on, and how to reach it."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="dead_letter_queues")
    system = models.CharField(max_length=16, choices=System.choices)
    name = models.CharField(max_length=128)
    #: The connection's options as JSON, encrypted as a whole.
    settings_token = models.TextField()
    #: The connection in words without anything secret, for lists.
    summary = models.CharField(max_length=256, default="", blank=True)
    #: The source that the events about its letters are recorded under.
    source = models.OneToOneField(Source, on_delete=models.SET_NULL, null=True, related_name="dead_letter_queue")
    is_enabled = models.BooleanField(default=True)
    created_at = models.BigIntegerField(default=micros.now)
    #: Buildup, as the built-in rule judges it; NULL = this is not judged.
    most_depth = models.BigIntegerField(null=True, default=10)
    most_growth = models.FloatField(null=True, default=1.0)
    most_age_us = models.BigIntegerField(null=True, default=micros.HOUR)
    #: Messages a second that a redrive sends unless it says otherwise.
    redrive_rate = models.FloatField(default=5.0)

    # What the latest probe found.
    depth = models.BigIntegerField(null=True)
    #: Since when the oldest message has been there. `oldest_is_known` False: it is at least this old.
    oldest_at = models.BigIntegerField(null=True)
    oldest_is_known = models.BooleanField(default=False)
    growth_per_minute = models.FloatField(null=True)
    #: The time of the latest probe that got an answer.
    probed_at = models.BigIntegerField(null=True)
    #: Since when the queue has not been empty, as far as we have looked.
    filled_since = models.BigIntegerField(null=True)
    due_at = models.BigIntegerField(default=0)
    failing_since = models.BigIntegerField(null=True)
    last_error = models.TextField(default="", blank=True)
    #: Where reading goes on; the system's own words.
    cursor = models.JSONField(default=dict, blank=True)
    #: False when messages cannot be read without a side effect and nobody has allowed it.
    reads_messages = models.BooleanField(default=False)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["project", "name"], name="dead_letter_queue_name_once")]
        # The probe's tick: which queues are due?
        indexes = [models.Index(fields=["due_at"], name="queue_due", condition=models.Q(is_enabled=True))]

    def __str__(self) -> str:
        return self.name


class DepthReading(models.Model):
    """How a queue stood at the end of one minute, and its highest depth in it."""

    queue = models.ForeignKey(DeadLetterQueue, on_delete=models.CASCADE, related_name="readings")
    #: Minutes since 1970 UTC.
    minute = models.IntegerField()
    at = models.BigIntegerField()
    depth = models.BigIntegerField()
    peak = models.BigIntegerField()
    oldest_at = models.BigIntegerField(null=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["queue", "minute"], name="depth_reading_once")]

    def __str__(self) -> str:
        return f"{self.depth} at {micros.isoformat(self.at)}"


class LetterStatus(models.TextChoices):
    """Where a letter is: still parked; put back by us; given up by somebody for good; or gone by other hands."""

    PARKED = "parked"
    REDRIVEN = "redriven"
    DISCARDED = "discarded"
    GONE = "gone"


class DeadLetter(models.Model):
    """A message that its transport gave up on. What is kept of it is bounded and redacted."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="dead_letters")
    queue = models.ForeignKey(DeadLetterQueue, on_delete=models.CASCADE, related_name="letters")
    #: Its place in the queue: a redrive finds it by this.
    place = models.TextField(db_collation="C")
    status = models.CharField(max_length=16, choices=LetterStatus.choices, default=LetterStatus.PARKED)
    #: NULL when nothing says which business transaction it belongs to.
    correlation_id = models.TextField(null=True, db_collation="C")
    #: The event on its saga's timeline that says that it died; "" without a correlation.
    event_id = models.TextField(default="")
    event_source = models.TextField(default="")
    message_id = models.TextField(default="")
    message_type = models.TextField(default="")
    flow = models.TextField(default="")
    run = models.TextField(default="")
    step = models.TextField(default="")
    service = models.TextField(default="")
    error_type = models.TextField(default="")
    error = models.TextField(default="")
    error_fingerprint = models.TextField(default="")
    reason = models.TextField(default="")
    #: Where it died, and the header that says so.
    origin = models.TextField(default="")
    exchange = models.TextField(default="")
    routing_key = models.TextField(default="")
    written_in = models.TextField(default="")
    tries = models.IntegerField(null=True)
    died_at = models.BigIntegerField()
    #: False when `died_at` is its arrival in the queue, or the first time that we saw it.
    died_at_is_stated = models.BooleanField(default=False)
    first_seen_at = models.BigIntegerField()
    settled_at = models.BigIntegerField(null=True)
    headers = models.JSONField(default=dict)
    body = models.TextField(default="")
    body_is_cut = models.BooleanField(default=False)
    size = models.BigIntegerField(default=0)
    content_type = models.TextField(default="")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["queue", "place"], name="dead_letter_once")]
        indexes = [
            # The page: a queue's letters, newest first, and its groups.
            models.Index(fields=["queue", "status", "-died_at", "-id"], name="letter_of_queue"),
            models.Index(fields=["project", "status", "-died_at", "-id"], name="letter_of_project"),
            # The correlation page.
            models.Index(
                fields=["project", "correlation_id"],
                name="letter_of_saga",
                condition=models.Q(correlation_id__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.queue_id}:{self.place}"


class RedriveStatus(models.TextChoices):
    """How far a redrive is. `failed`: it could not go on; what it did stays done and is in its report."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    CANCELLED = "cancelled"
    FAILED = "failed"


class Action(models.TextChoices):
    """What is done with dead letters: put back to work, or taken out of their queue for good."""

    REDRIVE = "redrive"
    DISCARD = "discard"


class Redrive(models.Model):
    """One order to put dead letters back, or to discard them: who, which, how fast, and what became of each."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="redrives")
    #: Counts from 1 in each project: what people say and what URLs hold.
    number = models.IntegerField()
    queue = models.ForeignKey(DeadLetterQueue, on_delete=models.CASCADE, related_name="redrives")
    action = models.CharField(max_length=8, choices=Action.choices, default=Action.REDRIVE)
    status = models.CharField(max_length=16, choices=RedriveStatus.choices, default=RedriveStatus.WAITING)
    #: one, group, all (letters that we know) or queue (whatever lies there).
    scope = models.CharField(max_length=8)
    #: The selection in words, as it was confirmed.
    selection = models.TextField()
    rate = models.FloatField()
    ordered_by = models.TextField()
    note = models.TextField(default="")
    ordered_at = models.BigIntegerField()
    started_at = models.BigIntegerField(null=True)
    finished_at = models.BigIntegerField(null=True)
    cancelled_by = models.TextField(default="")
    #: Messages it is about; of scope `queue` the depth when it was ordered.
    total = models.IntegerField(default=0)
    sent = models.IntegerField(default=0)
    discarded = models.IntegerField(default=0)
    held_back = models.IntegerField(default=0)
    failed = models.IntegerField(default=0)
    missing = models.IntegerField(default=0)
    uncertain = models.IntegerField(default=0)
    #: The broker's own name of a task that moves messages for us (SQS); "" without one.
    broker_task = models.TextField(default="")
    #: Who works on it now (random per claim), and until when nobody else may.
    claim = models.UUIDField(null=True)
    lease_until = models.BigIntegerField(null=True)
    interruptions = models.IntegerField(default=0)
    error = models.TextField(default="")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["project", "number"], name="redrive_number_once")]
        indexes = [
            # The tick: what is there to do?
            models.Index(
                fields=["ordered_at"],
                name="redrive_open",
                condition=models.Q(status__in=["waiting", "running"]),
            )
        ]

    def __str__(self) -> str:
        return f"redrive {self.number}"

    @property
    def done(self) -> int:
        """Messages that something became of."""
        return self.through + self.held_back + self.failed + self.missing + self.uncertain

    @property
    def through(self) -> int:
        """Messages with which was done what was ordered."""
        return self.sent + self.discarded

    @property
    def is_discard(self) -> bool:
        """True when its letters are given up."""
        return self.action == Action.DISCARD

    @property
    def is_open(self) -> bool:
        """True while there may be more to do."""
        return self.status in {RedriveStatus.WAITING, RedriveStatus.RUNNING}


class Outcome(models.TextChoices):
    """What became of one message of a redrive.

    `held_back`: its saga has moved on. `missing`: it was no longer in the queue. `uncertain`: the worker stopped while
    it was being sent, and the queue does not tell whether it was.
    """

    PENDING = "pending"
    SENDING = "sending"
    SENT = "sent"
    DISCARDED = "discarded"
    HELD_BACK = "held_back"
    FAILED = "failed"
    MISSING = "missing"
    UNCERTAIN = "uncertain"


class RedriveItem(models.Model):
    """One message of a redrive: the audit of what was done with it and in which state its saga was."""

    redrive = models.ForeignKey(Redrive, on_delete=models.CASCADE, related_name="items")
    letter = models.ForeignKey(DeadLetter, on_delete=models.CASCADE, related_name="redrives")
    position = models.IntegerField()
    outcome = models.CharField(max_length=16, choices=Outcome.choices, default=Outcome.PENDING)
    #: Somebody decided that it goes out although its saga has moved on.
    is_overridden = models.BooleanField(default=False)
    #: The saga's status at that moment; "" when it was not known.
    saga_status = models.TextField(default="")
    target = models.TextField(default="")
    detail = models.TextField(default="")
    at = models.BigIntegerField(null=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["redrive", "letter"], name="redrive_item_once")]
        indexes = [models.Index(fields=["redrive", "position"], name="redrive_items")]

    def __str__(self) -> str:
        return f"{self.outcome} {self.letter_id}"
