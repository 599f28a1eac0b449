"""Processes beside this one, for work that takes more than one core."""

from __future__ import annotations

import multiprocessing
import signal
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from django.db import connections

from apps.lib import sessions
from apps.lib.interpreter import tune_for_serving


def pool(workers: int) -> ProcessPoolExecutor:
    """So many processes with Django set up, on the database that this one uses.

    Started afresh, not forked: no connection or lock of ours goes along. They end with the pool, or when we do.
    """
    databases = {alias: connections[alias].settings_dict for alias in connections}
    return ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=_begin, initargs=(databases,)
    )


def _begin(databases: dict[str, dict[str, Any]]) -> None:
    import django

    # Ctrl-C reaches all of us; the one who holds the pool says when we end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    django.setup()
    tune_for_serving()
    sessions.plan_once()
    for alias, known in databases.items():
        connections[alias].settings_dict.update(known)
