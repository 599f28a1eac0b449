"""Tables whose rows are rewritten with every event are vacuumed when a twentieth of them has died, not a fifth.

Rows of `correlation` change in columns that no index has: with some room left in each page their new versions stay
beside the old ones, and no index has to be written. In the others an indexed column changes nearly every time, and room
would only be lost.
"""

from django.db import migrations

from apps.sagas.partitions import REWRITTEN

_SOONER = ", ".join(f"{name} = {value}" for name, value in REWRITTEN.items())
_TABLES = ("instance", "instance_attribute", "instance_path")

#: One by one: Citus takes no two at once, where the tables are distributed already.
SET = [
    f"ALTER TABLE correlation SET ({_SOONER}, fillfactor = 80)",
    *(f"ALTER TABLE {table} SET ({_SOONER})" for table in _TABLES),
    f"""
DO $$ DECLARE name text; BEGIN
    FOR name IN SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'step_execution'::regclass LOOP
        EXECUTE format('ALTER TABLE %s SET ({_SOONER})', name);
    END LOOP;
END $$
""",  # noqa: S608 - our own names
]
_NAMES = ", ".join(REWRITTEN)
RESET = [
    f"ALTER TABLE correlation RESET ({_NAMES}, fillfactor)",
    *(f"ALTER TABLE {table} RESET ({_NAMES})" for table in _TABLES),
    f"""
DO $$ DECLARE name text; BEGIN
    FOR name IN SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'step_execution'::regclass LOOP
        EXECUTE format('ALTER TABLE %s RESET ({_NAMES})', name);
    END LOOP;
END $$
""",  # noqa: S608 - our own names
]


class Migration(migrations.Migration):
    dependencies = [("sagas", "0011_hourly_rollups")]

    operations = [migrations.RunSQL(SET, RESET)]
