from django.db import migrations, models


class Migration(migrations.Migration):
    """When a source's lag was told: a reader that has stopped tells none."""

    dependencies = [("projects", "0003_audit_log")]

    operations = [
        migrations.AddField(model_name="source", name="lag_at", field=models.DateTimeField(blank=True, null=True)),
    ]
