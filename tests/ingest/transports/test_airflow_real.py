"""A real Airflow with its OpenLineage provider: a saga that fails, told by push and by poll, seen as one.

Skipped unless an Airflow is installed: `airflow` on the PATH, or `SAGASCOPE_AIRFLOW=/path/to/bin/airflow`. It needs the
packages apache-airflow (3), apache-airflow-providers-standard and apache-airflow-providers-openlineage.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from apps.ingest.transports import airflow, polling
from apps.ingest.transports.options import seal, unseal
from apps.ingest.transports.polling import Polling
from apps.projects.models import Source, SourceKind
from apps.sagas.correlation_view import find_correlation
from tests.ingest.conftest import WebDoor
from tests.ingest.transports.brokers import free_port

PROGRAM = os.environ.get("SAGASCOPE_AIRFLOW") or shutil.which("airflow")
PATIENCE_SECONDS = 300.0

pytestmark = [
    pytest.mark.interop,
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="no Airflow is installed: see the file's first lines"),
]

DAG = """
import datetime
from airflow.sdk import DAG, task

with DAG("order_saga", schedule=None, start_date=datetime.datetime(2026, 1, 1), catchup=False):

    @task
    def reserve():
        return "reserved"

    @task(retries=1, retry_delay=datetime.timedelta(seconds=1))
    def charge():
        raise ValueError("card declined")

    @task
    def ship():
        return "shipped"

    @task(trigger_rule="one_failed")
    def give_back():
        return "given back"

    charged = charge()
    reserve() >> charged >> [ship(), give_back()]
"""


@dataclass
class Airflow:
    """A running Airflow."""

    url: str
    client: httpx.Client

    def run(self, name: str, conf: dict[str, Any]) -> str:
        """Trigger the DAG and wait until its run has ended; says how."""
        self.await_answer(lambda: self.client.patch("/dags/order_saga", json={"is_paused": False}).status_code == 200)
        asked = {"dag_run_id": name, "logical_date": None, "conf": conf}
        assert self.client.post("/dags/order_saga/dagRuns", json=asked).status_code == 200
        path = f"/dags/order_saga/dagRuns/{name}"
        self.await_answer(lambda: self.client.get(path).json()["state"] in {"success", "failed"})
        return str(self.client.get(path).json()["state"])

    @staticmethod
    def await_answer(is_there: Any) -> None:
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                if is_there():
                    return
            except httpx.HTTPError:
                pass
            assert time.monotonic() < give_up_at
            time.sleep(0.5)


@pytest.fixture
def running(web_door: WebDoor, tmp_path: Path) -> Iterator[Airflow]:
    assert PROGRAM is not None
    port = free_port()
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "order_saga.py").write_text(DAG)
    environment = {
        "PATH": f"{Path(PROGRAM).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__CORE__PARALLELISM": "2",
        "AIRFLOW__OPENLINEAGE__NAMESPACE": "shop",
        "OPENLINEAGE_URL": web_door.url,
        "OPENLINEAGE_API_KEY": web_door.token,
    }
    with (tmp_path / "standalone.log").open("wb") as log:
        process = subprocess.Popen(
            [PROGRAM, "standalone"], env=environment, stdout=log, stderr=log, start_new_session=True
        )
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v2", trust_env=False, timeout=30)
    found = Airflow(f"http://127.0.0.1:{port}", client)
    try:
        found.await_answer(lambda: httpx.get(f"{found.url}/auth/token", trust_env=False).status_code in {200, 201})
        token = httpx.get(f"{found.url}/auth/token", trust_env=False).json()["access_token"]
        client.headers["authorization"] = f"Bearer {token}"
        yield found
    finally:
        client.close()
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def seen(web_door: WebDoor) -> dict[str, tuple[str, list[str | None], str | None]]:
    view = find_correlation(web_door.project.pk, "order-7")
    assert view is not None
    (instance,) = view.instances
    return {
        step.step: (step.status, [attempt.outcome for attempt in step.attempts], step.compensates)
        for step in instance.steps
    }


EXPECTED = {
    "reserve": ("completed", ["completed"], None),
    "charge": ("failed", ["failed", "failed"], None),
    "give_back": ("completed", ["completed"], "*"),
    "ship": ("skipped", [], None),
}


@pytest.mark.django_db(transaction=True)
def test_push_and_poll_tell_the_same_saga(web_door: WebDoor, running: Airflow) -> None:
    assert running.run("run-7", {"orderId": "order-7"}) == "failed"
    web_door.source.settings = {"correlation_key": "orderId"}
    web_door.source.save()

    declared = (*airflow.OPTIONS, *polling.HISTORY_OPTIONS)
    given = {"url": running.url, "namespace": "shop", "correlation_key": "orderId", "requests_per_second": "1000"}
    source = Source.objects.create(
        project=web_door.project,
        name="poller",
        kind=SourceKind.POLLER,
        system="airflow",
        settings=seal(declared, given),
    )
    values = unseal(declared, source.settings)
    reader = Polling(source, lambda: airflow.KIND.open(values, polling.history_options(values), polling.pace(values)))
    reader.round()

    assert (reader.rejected, reader.duplicates) == (0, 0)
    polled = seen(web_door)
    # The REST API names no trigger rules, and give_back is no name that tells it.
    assert {name: step[:2] for name, step in polled.items()} == {name: step[:2] for name, step in EXPECTED.items()}

    # Pushed while it ran, by the run's own name: the source knew no better then.
    view = find_correlation(web_door.project.pk, "run-7")
    assert view is not None
    (pushed,) = view.instances
    assert {
        step.step: (step.status, [attempt.outcome for attempt in step.attempts], step.compensates)
        for step in pushed.steps
    } == EXPECTED
    charge = next(step for step in pushed.steps if step.step == "charge")
    assert charge.attempts[-1].error == "card declined"
    assert pushed.instance.status == "compensated"
