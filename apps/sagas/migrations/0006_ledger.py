"""What is open and what is owed is found among step executions; states are read anew from the events."""

from django.db import migrations, models

COLUMNS = """
ALTER TABLE step_execution ADD COLUMN open_since bigint, ADD COLUMN owed_at bigint;
CREATE INDEX step_open ON step_execution (shard, correlation_uuid, instance_id, step, open_since, step_id)
    WHERE open_since IS NOT NULL AND step_id <> '';
CREATE INDEX step_owed ON step_execution (shard, correlation_uuid, instance_id, step, owed_at, step_id)
    WHERE owed_at IS NOT NULL AND step_id <> '';
"""
NO_COLUMNS = """
DROP INDEX step_open;
DROP INDEX step_owed;
ALTER TABLE step_execution DROP COLUMN open_since, DROP COLUMN owed_at;
"""
#: States of the old shape are dropped; a re-projection makes those of the new one.
READ_ANEW = """
UPDATE instance SET state = '{}';
UPDATE correlation SET undeclared_state = '{}' WHERE undeclared_state <> '';
INSERT INTO reprojection (project_id, reason, revision, created_at, total, done, error)
SELECT c.project_id, 'a new release keeps states in another shape', p.revision, now(), count(*), 0, ''
FROM correlation c JOIN projects_project p ON p.id = c.project_id GROUP BY c.project_id, p.revision;
"""


class Migration(migrations.Migration):
    dependencies = [("sagas", "0005_findings")]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunSQL(COLUMNS, NO_COLUMNS)],
            state_operations=[
                migrations.AddField("stepexecution", "open_since", models.BigIntegerField(null=True)),
                migrations.AddField("stepexecution", "owed_at", models.BigIntegerField(null=True)),
            ],
        ),
        migrations.RunSQL(READ_ANEW, migrations.RunSQL.noop),
    ]
