"""Old facts of long step executions, kept aside."""

from django.db import migrations, models

PARTITIONED_TABLE = """
CREATE TABLE settled_facts (
    shard integer NOT NULL,
    correlation_uuid uuid NOT NULL,
    instance_id uuid NOT NULL,
    step text COLLATE "C" NOT NULL,
    step_id text COLLATE "C" NOT NULL,
    place integer NOT NULL,
    facts text NOT NULL,
    PRIMARY KEY (shard, correlation_uuid, instance_id, step, step_id, place)
) PARTITION BY RANGE (correlation_uuid);
CREATE TABLE settled_facts_default PARTITION OF settled_facts DEFAULT;
"""


def make_partitions(apps, schema_editor):
    from apps.sagas import partitions

    partitions.ensure()


class Migration(migrations.Migration):
    dependencies = [("sagas", "0006_ledger")]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunSQL(PARTITIONED_TABLE, "DROP TABLE settled_facts;")],
            state_operations=[
                migrations.CreateModel(
                    name="SettledFacts",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                *("shard", "correlation_uuid", "instance_id", "step", "step_id", "place"),
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("shard", models.IntegerField()),
                        ("correlation_uuid", models.UUIDField()),
                        ("instance_id", models.UUIDField()),
                        ("step", models.TextField(db_collation="C")),
                        ("step_id", models.TextField(db_collation="C", default="")),
                        ("place", models.IntegerField()),
                        ("facts", models.TextField()),
                    ],
                    options={"db_table": "settled_facts"},
                )
            ],
        ),
        migrations.RunPython(make_partitions, migrations.RunPython.noop),
    ]
