"""Learned deadlines and rhythms; when open steps began to run is read anew from the events."""

import django.contrib.postgres.fields
import django.db.models.deletion
from django.db import migrations, models


#: When an open step began is kept from now on; a re-projection finds it out for those that are stored.
READ_ANEW = """
INSERT INTO reprojection (project_id, reason, revision, created_at, total, done, error)
SELECT c.project_id, 'a new release keeps when open steps began', p.revision, now(), count(*), 0, ''
FROM correlation c JOIN projects_project p ON p.id = c.project_id GROUP BY c.project_id, p.revision;
"""


class Migration(migrations.Migration):

    dependencies = [
        ('projects', '0002_deadline_factor'),
        ('sagas', '0008_variants'),
    ]

    operations = [
        migrations.CreateModel(
            name='ServerClock',
            fields=[
                ('boot', models.TextField(primary_key=True, serialize=False)),
                ('wall_at', models.BigIntegerField()),
                ('steady_us', models.BigIntegerField()),
                ('jumped_us', models.BigIntegerField(default=0)),
                ('jumped_at', models.BigIntegerField(null=True)),
            ],
            options={
                'db_table': 'server_clock',
            },
        ),
        migrations.CreateModel(
            name='SourceRhythm',
            fields=[
                ('source', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, primary_key=True, related_name='rhythm', serialize=False, to='projects.source')),
                ('gaps', django.contrib.postgres.fields.ArrayField(base_field=models.IntegerField(), default=list, size=None)),
                ('gap_count', models.IntegerField(default=0)),
                ('anchor_at', models.BigIntegerField(null=True)),
                ('usual_us', models.BigIntegerField(null=True)),
                ('limit_us', models.BigIntegerField(null=True)),
                ('silent_since', models.BigIntegerField(null=True)),
                ('back_at', models.BigIntegerField(null=True)),
            ],
            options={
                'db_table': 'source_rhythm',
            },
        ),
        migrations.AddField(
            model_name='stepexecution',
            name='begun_at',
            field=models.BigIntegerField(null=True),
        ),
        migrations.CreateModel(
            name='LearnedDeadline',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('flow', models.TextField()),
                ('flow_version', models.TextField(default='')),
                ('step', models.TextField()),
                ('phase', models.TextField()),
                ('limit_us', models.BigIntegerField(null=True)),
                ('factor', models.FloatField(null=True)),
                ('count', models.IntegerField(default=0)),
                ('p50_us', models.BigIntegerField(null=True)),
                ('p99_us', models.BigIntegerField(null=True)),
                ('since', models.BigIntegerField(null=True)),
                ('until', models.BigIntegerField(null=True)),
                ('published_at', models.BigIntegerField(null=True)),
                ('latest_count', models.IntegerField(default=0)),
                ('latest_open', models.IntegerField(default=0)),
                ('latest_p50_us', models.BigIntegerField(null=True)),
                ('latest_p99_us', models.BigIntegerField(null=True)),
                ('latest_at', models.BigIntegerField(default=0)),
                ('project', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='learned_deadlines', to='projects.project')),
            ],
            options={
                'db_table': 'learned_deadline',
                'constraints': [models.UniqueConstraint(fields=('project', 'flow', 'flow_version', 'step', 'phase'), name='learned_deadline_once')],
            },
        ),
        migrations.CreateModel(
            name='LearnedFlow',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('flow', models.TextField()),
                ('factor', models.FloatField(null=True)),
                ('looked_at', models.BigIntegerField(default=0)),
                ('seen_event_at', models.BigIntegerField(default=0)),
                ('project', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='learned_flows', to='projects.project')),
            ],
            options={
                'db_table': 'learned_flow',
                'indexes': [models.Index(fields=['looked_at'], name='learned_flow_due')],
                'constraints': [models.UniqueConstraint(fields=('project', 'flow'), name='learned_flow_once')],
            },
        ),
        migrations.CreateModel(
            name='Rejudgement',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('flow', models.TextField()),
                ('cursor_event_at', models.BigIntegerField(null=True)),
                ('cursor_id', models.UUIDField(null=True)),
                ('done', models.BigIntegerField(default=0)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('finished_at', models.DateTimeField(null=True)),
                ('project', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='rejudgements', to='projects.project')),
            ],
            options={
                'db_table': 'rejudgement',
                'indexes': [models.Index(condition=models.Q(('finished_at__isnull', True)), fields=['project'], name='rejudgement_open')],
            },
        ),
        migrations.RunSQL(READ_ANEW, migrations.RunSQL.noop),
    ]
