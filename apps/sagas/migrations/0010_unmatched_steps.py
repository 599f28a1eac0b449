"""What was done and has no counterpart of its own is found among step executions; states are read anew."""

from django.db import migrations, models

COLUMN = """
ALTER TABLE step_execution ADD COLUMN unmatched_at bigint;
CREATE INDEX step_undoes ON step_execution (shard, correlation_uuid, compensates, instance_id, step_id)
    WHERE compensates IS NOT NULL;
CREATE INDEX step_undoes_unmatched ON step_execution
    (shard, correlation_uuid, compensates, instance_id, unmatched_at)
    WHERE compensates IS NOT NULL AND unmatched_at IS NOT NULL;
CREATE INDEX step_unmatched ON step_execution (shard, correlation_uuid, instance_id, step, unmatched_at)
    WHERE compensates IS NULL AND unmatched_at IS NOT NULL;
CREATE INDEX step_by_id ON step_execution (shard, correlation_uuid, step_id, instance_id)
    WHERE compensates IS NULL AND step_id <> '';
"""
NO_COLUMN = """
DROP INDEX step_undoes;
DROP INDEX step_undoes_unmatched;
DROP INDEX step_unmatched;
DROP INDEX step_by_id;
ALTER TABLE step_execution DROP COLUMN unmatched_at;
"""
#: Which step executions have a counterpart is kept from now on; a re-projection finds it out for those stored.
READ_ANEW = """
INSERT INTO reprojection (project_id, reason, revision, created_at, total, done, error)
SELECT c.project_id, 'a new release keeps what was undone in another shape', p.revision, now(), count(*), 0, ''
FROM correlation c JOIN projects_project p ON p.id = c.project_id
GROUP BY c.project_id, p.revision HAVING bool_or(c.has_compensations);
"""


class Migration(migrations.Migration):
    dependencies = [("sagas", "0009_learned_deadlines")]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunSQL(COLUMN, NO_COLUMN)],
            state_operations=[
                migrations.AddField("stepexecution", "unmatched_at", models.BigIntegerField(null=True)),
            ],
        ),
        migrations.RunSQL(READ_ANEW, migrations.RunSQL.noop),
    ]
