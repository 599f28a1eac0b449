"""Names that rollups have already stay what their sums are counted as."""

import django.db.models.deletion
from django.db import migrations, models

SEED = """
INSERT INTO rollup_name (project_id, flow, is_version, name)
SELECT project_id, flow, false, step FROM rollup
UNION SELECT project_id, flow, false, step FROM rollup_hour
UNION SELECT project_id, flow, false, '' FROM rollup
UNION SELECT project_id, flow, false, '' FROM rollup_hour
UNION SELECT project_id, flow, true, flow_version FROM rollup WHERE flow_version <> ''
UNION SELECT project_id, flow, true, flow_version FROM rollup_hour WHERE flow_version <> ''
"""


class Migration(migrations.Migration):

    dependencies = [
        ("projects", "0006_privacy"),
        ("sagas", "0013_service_index"),
    ]

    operations = [
        migrations.CreateModel(
            name="RollupName",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "project",
                        "flow",
                        "is_version",
                        "name",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("flow", models.TextField()),
                ("is_version", models.BooleanField()),
                ("name", models.TextField()),
                (
                    "project",
                    models.ForeignKey(
                        db_index=False, on_delete=django.db.models.deletion.CASCADE, to="projects.project"
                    ),
                ),
            ],
            options={
                "db_table": "rollup_name",
            },
        ),
        migrations.RunSQL(SEED, migrations.RunSQL.noop),
    ]
