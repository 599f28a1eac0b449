"""Rollups by hour beside those by minute, and sums of histograms in the database."""

from django.contrib.postgres.fields import ArrayField
from django.db import migrations, models
from django.db.models.deletion import DO_NOTHING

#: [bucket, count, …] with every bucket once, sorted, without those that count nothing.
FUNCTIONS = """
CREATE FUNCTION merge_histogram(flat integer[]) RETURNS integer[] LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT coalesce(array_agg(v ORDER BY bucket, place), '{}') FROM (
        SELECT flat[i] AS bucket, sum(flat[i + 1])::integer AS n
        FROM generate_series(1, cardinality(flat), 2) AS i GROUP BY 1 HAVING sum(flat[i + 1]) <> 0
    ) sums, LATERAL (VALUES (1, bucket), (2, n)) x(place, v)
$$;
CREATE AGGREGATE sum_histograms(integer[]) (
    sfunc = array_cat, stype = integer[], initcond = '{}', finalfunc = merge_histogram, parallel = safe
);
INSERT INTO compaction_progress (id, done_id, seen_id, seen_at) VALUES (1, 0, 0, 0);
"""
DROP_FUNCTIONS = "DROP AGGREGATE sum_histograms(integer[]); DROP FUNCTION merge_histogram(integer[]);"


def counts():
    names = ("started", "completed", "failed", "timed_out", "cancelled", "retried", "compensated")
    return [(name, models.IntegerField(default=0)) for name in names]


class Migration(migrations.Migration):
    dependencies = [("projects", "0001_initial"), ("sagas", "0010_unmatched_steps")]

    operations = [
        migrations.AddField("rollup", "in_hours", models.BooleanField(db_default=False, default=False)),
        migrations.CreateModel(
            name="RollupHour",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        *("project", "flow", "hour", "step", "flow_version"),
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("flow", models.TextField()),
                ("hour", models.IntegerField()),
                ("step", models.TextField()),
                ("flow_version", models.TextField(default="")),
                *counts(),
                ("waits", ArrayField(base_field=models.IntegerField(), size=None)),
                ("runs", ArrayField(base_field=models.IntegerField(), size=None)),
                (
                    "project",
                    models.ForeignKey(
                        db_constraint=False, db_index=False, on_delete=DO_NOTHING, to="projects.project"
                    ),
                ),
            ],
            options={"db_table": "rollup_hour"},
        ),
        migrations.CreateModel(
            name="CompactionProgress",
            fields=[
                ("id", models.IntegerField(primary_key=True, serialize=False)),
                ("done_id", models.BigIntegerField(default=0)),
                ("seen_id", models.BigIntegerField(default=0)),
                ("seen_at", models.BigIntegerField(default=0)),
            ],
            options={"db_table": "compaction_progress"},
        ),
        migrations.RunSQL(FUNCTIONS, DROP_FUNCTIONS),
    ]
