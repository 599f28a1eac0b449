"""The Airflow poller: real HTTP against a server that gives a real Airflow's recorded answers, poll after poll."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from apps.ingest.transports import airflow, polling
from apps.ingest.transports.options import OptionError, seal, unseal
from apps.ingest.transports.polling import EngineAwayError, Polling
from apps.projects.models import Project, Source, SourceKind
from apps.sagas.correlation_view import find_correlation
from apps.sagas.shapes import InstanceView
from tests.ingest.formats.importing import sample
from tests.ingest.transports.airflow_server import Airflow, serving

DECLARED = (*airflow.OPTIONS, *polling.HISTORY_OPTIONS)


@pytest.fixture
def server() -> Iterator[Airflow]:
    with serving() as running:
        yield running


def show(server: Airflow, number: int) -> None:
    """What the real Airflow answered at its `number`-th poll, about two seconds after the one before."""
    server.tasks = sample(f"airflow/generated/poll_{number}.json")["task_instances"]
    run = sample("airflow/generated/rest_dagrun.json")
    tries = sample("airflow/generated/rest_tries.json")["task_instances"]
    current = next(task for task in server.tasks if task["task_id"] == "charge_card")
    # The tries before the present one, which its own row tells.
    server.tries = {"charge_card": [*(each for each in tries if each["try_number"] < current["try_number"]), current]}
    is_over = number == 7
    server.runs = [run if is_over else run | {"state": "running", "end_date": None}]


class Reader:
    """A source that polls the server."""

    def __init__(self, server: Airflow, **options: str) -> None:
        project = Project.objects.create(slug="airflow", name="Airflow")
        given = {"url": server.url, "username": "ann", "password": "right", "requests_per_second": "1000", **options}
        self.source = Source.objects.create(
            project=project, name="airflow", kind=SourceKind.POLLER, system="airflow", settings=seal(DECLARED, given)
        )
        self.polling = self.restarted()

    def restarted(self) -> Polling:
        self.source.refresh_from_db()
        values = unseal(DECLARED, self.source.settings)
        self.polling = Polling(self.source, lambda: open_poller(values))
        return self.polling

    def round(self) -> tuple[int, int, int]:
        before = self.polling.accepted, self.polling.duplicates, self.polling.rejected
        self.polling.round()
        after = self.polling.accepted, self.polling.duplicates, self.polling.rejected
        return after[0] - before[0], after[1] - before[1], after[2] - before[2]

    def only(self, correlation_id: str = "order-42") -> InstanceView:
        view = find_correlation(self.source.project_id, correlation_id)
        assert view is not None
        (instance,) = view.instances
        return instance


def open_poller(values: dict[str, str]) -> polling.Poller:
    return airflow.KIND.open(values, polling.history_options(values), polling.pace(values))


def outcomes(view: InstanceView) -> dict[str, list[str | None]]:
    return {step.step: [attempt.outcome for attempt in step.attempts] for step in view.steps}


@pytest.mark.django_db
def test_a_run_is_followed_with_every_try(server: Airflow) -> None:
    reader = Reader(server)
    statuses = []
    for number in range(1, 8):
        show(server, number)
        accepted, duplicates, rejected = reader.round()
        assert (duplicates, rejected) == (0, 0)
        statuses.append((accepted, reader.only().instance.status))

    view = reader.only()
    assert outcomes(view) == {
        "reserve_stock": ["completed"],
        "charge_card": ["failed", "failed", "failed"],
        "compensate_reserve_stock": ["completed"],
        "ship": [],
    }
    assert view.instance.ended_at is not None
    assert statuses[0][1] == "running"
    assert reader.round() == (0, 0, 0)


@pytest.mark.django_db
def test_a_restart_doubles_nothing(server: Airflow) -> None:
    reader = Reader(server)
    show(server, 4)
    first, _, _ = reader.round()
    reader.restarted()

    accepted, duplicates, rejected = reader.round()

    assert (accepted, duplicates, rejected) == (0, first, 0)
    since = [query for path, query in server.asked if "updated_at_gte" in query]
    assert since[0]["updated_at_gte"] < since[-1]["updated_at_gte"]


@pytest.mark.django_db
def test_long_lists_are_read_page_by_page(server: Airflow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(airflow, "PAGE", 2)
    reader = Reader(server)
    show(server, 7)

    reader.round()

    assert len(outcomes(reader.only())) == 4
    assert {query.get("offset", ["-"])[0] for path, query in server.asked if path.endswith("taskInstances")} == {
        "0",
        "2",
    }


@pytest.mark.django_db
def test_an_expired_token_is_renewed(server: Airflow) -> None:
    reader = Reader(server)
    show(server, 1)
    reader.round()
    server.tokens = {"another"}
    show(server, 7)

    accepted, _, _ = reader.round()

    assert accepted > 0


@pytest.mark.django_db
def test_options_find_the_correlation_id_and_the_flow(server: Airflow) -> None:
    reader = Reader(server, correlation_path="$.orderId", flow="fulfilment", dags="order_saga")
    show(server, 7)

    reader.round()

    view = reader.only("42")
    assert (view.instance.flow, view.instance.run_id) == ("fulfilment", "order-42")


@pytest.mark.django_db
def test_the_connection_is_tried_in_words(server: Airflow) -> None:
    reader = Reader(server, dags="order_saga")
    show(server, 7)
    values: dict[str, Any] = unseal(DECLARED, reader.source.settings)

    assert open_poller(values).check() == "Airflow 3.3.2"
    with pytest.raises(EngineAwayError, match="does not let us in"):
        open_poller(values | {"password": "wrong"}).check()
    with pytest.raises(EngineAwayError, match="does not know dags/other/dagRuns"):
        open_poller(values | {"dags": "other"}).check()
    with pytest.raises(EngineAwayError, match="cannot be reached"):
        open_poller(values | {"url": "http://127.0.0.1:9"}).check()
    with pytest.raises(OptionError, match="url"):
        open_poller(values | {"url": "airflow"})
    server.failure = 500
    with pytest.raises(EngineAwayError, match="answered HTTP 500"):
        open_poller(values).check()
