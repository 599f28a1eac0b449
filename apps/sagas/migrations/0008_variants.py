"""Which path each instance took, and how many took each."""

from django.contrib.postgres.fields import ArrayField
from django.db import migrations, models
from django.db.models.deletion import DO_NOTHING

#: What was recorded before is surveyed with its next judgement: have all of it judged again, little by little.
MARK_ALL = """
INSERT INTO finding_due (due_at, shards, correlation_uuids, project_ids)
SELECT (extract(epoch FROM now()) * 1000000)::bigint + k.number * 100000, array_agg(k.shard), array_agg(k.id),
       array_agg(k.project_id)
FROM (SELECT (row_number() OVER () - 1) / 100 AS number, shard, id, project_id FROM correlation) k
GROUP BY k.number
"""


def project():
    return models.ForeignKey(db_constraint=False, db_index=False, on_delete=DO_NOTHING, to="projects.project")


def key(*names):
    return models.CompositePrimaryKey(*names, blank=True, editable=False, primary_key=True, serialize=False)


class Migration(migrations.Migration):
    dependencies = [("projects", "0001_initial"), ("sagas", "0007_settled_facts")]

    operations = [
        migrations.CreateModel(
            name="Variant",
            fields=[
                ("pk", key("project", "flow", "variant")),
                ("flow", models.TextField()),
                ("variant", models.TextField(db_collation="C")),
                ("nodes", models.TextField()),
                ("marks", ArrayField(base_field=models.TextField(), size=None)),
                ("seen_at", models.BigIntegerField()),
                ("project", project()),
            ],
            options={"db_table": "variant"},
        ),
        migrations.CreateModel(
            name="VariantTally",
            fields=[
                ("pk", key("project", "flow", "hour", "variant")),
                ("flow", models.TextField()),
                ("hour", models.IntegerField()),
                ("variant", models.TextField(db_collation="C")),
                ("open", models.IntegerField(default=0)),
                ("completed", models.IntegerField(default=0)),
                ("compensated", models.IntegerField(default=0)),
                ("failed", models.IntegerField(default=0)),
                ("cancelled", models.IntegerField(default=0)),
                ("timed_out", models.IntegerField(default=0)),
                ("runs", ArrayField(base_field=models.IntegerField(), size=None)),
                ("pauses", ArrayField(base_field=models.IntegerField(), size=None)),
                ("project", project()),
            ],
            options={"db_table": "variant_tally"},
        ),
        migrations.CreateModel(
            name="InstancePath",
            fields=[
                ("pk", key("shard", "instance_id")),
                ("shard", models.IntegerField()),
                ("instance_id", models.UUIDField()),
                ("correlation_uuid", models.UUIDField()),
                ("flow", models.TextField()),
                ("variant", models.TextField(db_collation="C")),
                ("hour", models.IntegerField()),
                ("status", models.TextField()),
                ("run", models.IntegerField(null=True)),
                ("pauses", ArrayField(base_field=models.IntegerField(), size=None)),
                ("project", project()),
            ],
            options={
                "db_table": "instance_path",
                "indexes": [
                    models.Index(fields=["shard", "correlation_uuid"], name="path_correlation"),
                    models.Index(fields=["project", "flow", "variant"], name="path_variant"),
                ],
            },
        ),
        migrations.RunSQL(MARK_ALL, migrations.RunSQL.noop),
    ]
