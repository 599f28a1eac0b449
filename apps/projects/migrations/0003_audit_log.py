"""The audit log, which PostgreSQL lets nobody change."""

import django.db.models.deletion
from django.db import migrations, models

_GUARD = """
CREATE FUNCTION audit_entry_is_final() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'entries of the audit log are never changed nor deleted';
END $$;
CREATE TRIGGER audit_entry_is_final BEFORE UPDATE OR DELETE ON audit_entry
FOR EACH ROW EXECUTE FUNCTION audit_entry_is_final();
"""


class Migration(migrations.Migration):

    dependencies = [
        ("projects", "0002_deadline_factor"),
    ]

    operations = [
        migrations.CreateModel(
            name="AuditEntry",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("at", models.BigIntegerField()),
                ("actor", models.TextField()),
                ("action", models.TextField()),
                ("details", models.JSONField(default=dict)),
                ("status", models.IntegerField(default=0)),
                ("address", models.TextField(default="")),
                (
                    "project",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="+",
                        to="projects.project",
                    ),
                ),
            ],
            options={
                "db_table": "audit_entry",
                "indexes": [models.Index(fields=["project", "-id"], name="audit_of_project")],
            },
        ),
        migrations.RunSQL(_GUARD, "DROP FUNCTION audit_entry_is_final() CASCADE"),
    ]
