"""A consumer that the machine takes down between COMMIT and acknowledgement: a program for `test_killed_consumer`.

Arguments: the source's id, and before which acknowledgement it dies (0 = never: then it reads to the end).
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

import django

django.setup()

from apps.ingest.transports import consuming  # noqa: E402
from apps.ingest.transports.connecting import consuming_of  # noqa: E402
from apps.projects.models import Source  # noqa: E402


def main(source_id: int, dies_before: int) -> None:
    """Read the source, in batches that are small enough for several."""
    consuming.BATCH = 4
    reader = consuming_of(Source.objects.get(pk=source_id))
    connect = reader.connect
    count = 0

    def mortal() -> Any:
        consumer = connect()
        acknowledge = consumer.acknowledge

        def die(deliveries: Sequence[consuming.Delivery]) -> None:
            nonlocal count
            count += 1
            if count == dies_before:
                os.kill(os.getpid(), signal.SIGKILL)
            acknowledge(deliveries)

        consumer.acknowledge = die  # type: ignore[method-assign]
        return consumer

    reader.connect = mortal
    reader.run(once=True)
    print(reader.accepted, reader.duplicates, reader.rejected)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
