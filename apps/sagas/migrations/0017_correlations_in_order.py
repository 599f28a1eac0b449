from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ("sagas", "0016_oldest_findings"),
    ]

    operations = [
        migrations.AddIndex(
            model_name="correlation",
            index=models.Index(fields=["project", "id"], name="correlation_in_order"),
        ),
    ]
