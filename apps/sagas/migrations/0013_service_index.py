from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ("sagas", "0012_vacuum_sooner"),
    ]

    operations = [
        migrations.AddIndex(
            model_name="instance",
            index=models.Index(
                condition=models.Q(("service", ""), _negated=True),
                fields=["project", "service", "-last_event_at", "id"],
                name="instance_service",
            ),
        ),
    ]
