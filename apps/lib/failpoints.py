"""Named points in the code at which the fault suite may end the process, as the kernel would: at once, without a word.

Off, and free of cost but for one comparison, unless SAGASCOPE_FAILPOINTS names a folder when the process starts. Then a
point is armed by a file of its name in there; whoever reaches the point first takes the file away and dies.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

#: Every point there is: where it lies, so that the suite visits all of them.
POINTS = {
    "door.admitted": "the body is read, nothing is decoded",
    "record.locked": "the correlations are locked, nothing is stored",
    "record.stored": "the events are stored, nothing is projected",
    "record.projected": "the projections are saved, before COMMIT",
    "record.committed": "after COMMIT, before anybody is told",
    "door.answered": "the answer is made and not yet sent",
    "consume.stored": "a broker's messages are committed, and not yet acknowledged",
    "judge.judged": "findings are judged, before COMMIT",
    "rebuild.projected": "a slice of the past is projected anew, before COMMIT",
    "rebuild.committed": "a slice of the past is committed, before the next",
    "sweep.swept": "incidents and their messages are made, before COMMIT",
    "deliver.claimed": "deliveries are claimed, none is sent",
    "deliver.sent": "a message is sent, and not yet marked as such",
    "deliver.marked": "a message is marked as sent",
}

_FOLDER = os.environ.get("SAGASCOPE_FAILPOINTS")


def reach(point: str) -> None:
    """Die here if the point is armed."""
    if _FOLDER is None:
        return
    try:
        Path(_FOLDER, point).unlink()
    except OSError:
        return
    os.kill(os.getpid(), signal.SIGKILL)
