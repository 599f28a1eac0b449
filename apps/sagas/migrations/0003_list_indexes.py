from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ("sagas", "0002_awaited_steps"),
    ]

    operations = [
        migrations.AddIndex(
            model_name="instance",
            index=models.Index(fields=["project", "started_at", "id"], name="instance_started"),
        ),
        migrations.AddIndex(
            model_name="instance",
            index=models.Index(
                condition=models.Q(("duration_us__isnull", False)),
                fields=["project", "duration_us"],
                name="instance_duration",
            ),
        ),
        migrations.AddIndex(
            model_name="instance",
            index=models.Index(
                condition=models.Q(("deadline_at__isnull", False)),
                fields=["project", "deadline_at"],
                name="instance_due",
            ),
        ),
        migrations.AddIndex(
            model_name="instance",
            index=models.Index(
                fields=["project", "-max_attempts", "-last_event_at", "id"],
                name="instance_attempts",
            ),
        ),
        migrations.AddIndex(
            model_name="instance",
            index=models.Index(
                condition=models.Q(("ended_at__isnull", True)),
                fields=["project", "flow", "-last_event_at", "id"],
                name="instance_open",
            ),
        ),
    ]
