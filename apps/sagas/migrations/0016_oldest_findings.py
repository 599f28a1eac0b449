from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ("sagas", "0015_straggler"),
    ]

    operations = [
        migrations.AddIndex(
            model_name="finding",
            index=models.Index(
                condition=models.Q(("status", "open")),
                fields=["project", "code", "since", "id"],
                include=["flow", "service", "step"],
                name="finding_oldest",
            ),
        ),
    ]
