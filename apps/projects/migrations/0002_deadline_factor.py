"""What a learned deadline is a multiple of."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('projects', '0001_initial'),
    ]

    operations = [
        migrations.AddField(
            model_name='project',
            name='deadline_factor',
            field=models.FloatField(default=3.0),
        ),
    ]
