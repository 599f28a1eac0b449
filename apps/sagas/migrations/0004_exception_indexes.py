from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ("sagas", "0003_list_indexes"),
    ]

    operations = [
        migrations.AddIndex(
            model_name="instance",
            index=models.Index(
                condition=models.Q(("error", ""), _negated=True),
                fields=["project", "-last_event_at", "id"],
                name="instance_error",
            ),
        ),
        migrations.AddIndex(
            model_name="instance",
            index=models.Index(
                condition=models.Q(("compensation_state", "none"), _negated=True),
                fields=["project", "compensation_state", "-last_event_at", "id"],
                name="instance_compensation",
            ),
        ),
    ]
