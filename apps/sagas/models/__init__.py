"""The tables of sagas: what is recorded, counted, declared and judged.

Times are `Micros` (integers, microseconds since 1970 UTC) in every table of this app: they are compared, merged and
summed far more often than shown. Keys begin with `shard`, an int4 hash of (project, correlation ID), so that Citus can
distribute all tables by it without a change. `events` and `step executions` are partitioned by range of
`correlation_uuid`, a UUIDv7 given on first sight: one correlation lies in one partition, for ever.

No logic lives here. Only `recording` and `rebuild` write the tables of `recorded`; findings are `judging`'s.
"""

from __future__ import annotations

from apps.sagas.models.declared import (
    EventSchema,
    Flow,
    FlowVersion,
    Rejudgement,
    Reprojection,
)
from apps.sagas.models.figures import (
    CompactionProgress,
    InstancePath,
    Rollup,
    RollupHour,
    RollupName,
    SourceTally,
    Variant,
    VariantTally,
)
from apps.sagas.models.judged import (
    CompensableStep,
    Finding,
    FindingDue,
    LearnedDeadline,
    LearnedFlow,
    ServerClock,
    SourceRhythm,
)
from apps.sagas.models.recorded import (
    AwaitedCause,
    Correlation,
    Event,
    Instance,
    InstanceAttribute,
    SettledFacts,
    StepExecution,
)

__all__ = [
    "AwaitedCause",
    "CompactionProgress",
    "CompensableStep",
    "Correlation",
    "Event",
    "EventSchema",
    "Finding",
    "FindingDue",
    "Flow",
    "FlowVersion",
    "Instance",
    "InstanceAttribute",
    "InstancePath",
    "LearnedDeadline",
    "LearnedFlow",
    "Rejudgement",
    "Reprojection",
    "Rollup",
    "RollupHour",
    "RollupName",
    "ServerClock",
    "SettledFacts",
    "SourceRhythm",
    "SourceTally",
    "StepExecution",
    "Variant",
    "VariantTally",
]
