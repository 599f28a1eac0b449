"""The Conductor poller: real HTTP against what a server answered, look after look; and against the server itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from apps.ingest.transports import conductor, polling
from apps.ingest.transports.options import OptionError, seal, unseal
from apps.ingest.transports.polling import EngineAwayError, Polling
from apps.projects.models import Project, Source, SourceKind
from apps.projects.tokens import create_token
from apps.sagas.correlation_view import find_correlation
from apps.sagas.shapes import InstanceView
from tests.ingest.formats import conductor_server
from tests.ingest.formats.engine_records import recorded_lines, step_of, tries_of
from tests.ingest.transports.conductor_answers import Answers, serving

DECLARED = (*conductor.OPTIONS, *polling.HISTORY_OPTIONS)


@pytest.fixture
def server() -> Iterator[Answers]:
    with serving() as running:
        yield running


@pytest.fixture(scope="module")
def recorded() -> list[dict[str, Any]]:
    return recorded_lines("conductor_3.32.3_answers")


class Reader:
    """A source that polls the server."""

    def __init__(self, url: str, **options: str) -> None:
        self.project = Project.objects.create(slug="conductor", name="Conductor")
        given = {"url": url, "requests_per_second": "1000", **options}
        self.source = Source.objects.create(
            project=self.project,
            name="conductor",
            kind=SourceKind.POLLER,
            system="conductor",
            settings=seal(DECLARED, given),
        )
        self.polling = self.restarted()

    def restarted(self) -> Polling:
        self.source.refresh_from_db()
        values = unseal(DECLARED, self.source.settings)
        self.polling = Polling(self.source, lambda: open_poller(values))
        return self.polling

    def round(self) -> tuple[int, int, int]:
        """accepted, duplicates, rejected."""
        before = self.polling.accepted, self.polling.duplicates, self.polling.rejected
        self.polling.round()
        after = self.polling.accepted, self.polling.duplicates, self.polling.rejected
        return after[0] - before[0], after[1] - before[1], after[2] - before[2]

    def flow(self, correlation_id: str, flow: str) -> InstanceView:
        view = find_correlation(self.project.pk, correlation_id)
        assert view is not None
        (instance,) = [each for each in view.instances if each.instance.flow == flow]
        return instance


def open_poller(values: dict[str, str]) -> polling.Poller:
    return conductor.KIND.open(values, polling.history_options(values), polling.pace(values))


@pytest.mark.django_db
@pytest.mark.slow
def test_sagas_are_followed_look_after_look(server: Answers, recorded: list[dict[str, Any]]) -> None:
    reader = Reader(server.url)
    for execution in recorded:
        server.show(execution)
        assert reader.round()[2] == 0
    order, undo = reader.flow("order-1", "order"), reader.flow("order-1", "undo_order")
    assert tries_of(step_of(order, "charge_payment")) == [
        ("failed", "card processor unavailable"),
        ("failed", "card processor timed out"),
        ("completed", None),
    ]
    assert (order.instance.status, undo.instance.compensation_state) == ("failed", "complete")
    assert reader.flow("order-4", "parcel").instance.parent_flow == "bulk"
    assert reader.flow("order-2", "order").instance.status == "completed"


@pytest.mark.django_db
def test_what_was_told_is_not_told_again_and_what_ended_is_not_read_again(
    server: Answers, recorded: list[dict[str, Any]]
) -> None:
    reader = Reader(server.url)
    bulk = [execution for execution in recorded if execution["workflowName"] == "bulk"]
    server.show(bulk[0])
    accepted, duplicates, rejected = reader.round()
    assert accepted > 0
    assert (duplicates, rejected) == (0, 0)
    assert reader.round() == (0, 0, 0)
    server.show(bulk[-1])
    assert reader.round()[1:] == (0, 0)
    # Some minutes later.
    server.show(bulk[-1], changed_at=bulk[-1]["updateTime"])
    server.read()
    assert reader.round() == (0, 0, 0)
    assert server.read() == []


@pytest.mark.django_db
def test_a_restarted_poller_goes_on_where_it_was(server: Answers, recorded: list[dict[str, Any]]) -> None:
    reader = Reader(server.url)
    first = [execution for execution in recorded if execution["correlationId"] == "order-1"]
    server.show(first[2])
    reader.round()
    reader.restarted()
    accepted, duplicates, _ = reader.round()
    assert (accepted, duplicates > 0) == (0, True)
    server.show(first[3])
    assert reader.round()[0] > 0


@pytest.mark.django_db
def test_workflows_without_correlation_id_belong_to_the_one_that_everything_began_with(
    server: Answers, recorded: list[dict[str, Any]]
) -> None:
    reader = Reader(server.url)
    bulk, parcel = (
        {**[each for each in recorded if each["workflowName"] == name][-1], "correlationId": None}
        for name in ("bulk", "parcel")
    )
    grandchild = {
        **parcel,
        "workflowId": "grandchild",
        "workflowName": "label",
        "parentWorkflowId": parcel["workflowId"],
    }
    for execution in (bulk, parcel, grandchild):
        server.show(execution)
    reader.round()
    for flow in ("bulk", "parcel", "label"):
        assert reader.flow(bulk["workflowId"], flow).instance.correlation_id == bulk["workflowId"]


@pytest.mark.django_db
def test_children_follow_their_root_where_its_input_correlates(server: Answers, recorded: list[dict[str, Any]]) -> None:
    reader = Reader(server.url, correlation_path="$.orderId")
    for name in ("bulk", "parcel"):
        server.show([each for each in recorded if each["workflowName"] == name][-1])
    reader.round()
    assert reader.flow("o-4", "parcel").instance.correlation_id == "o-4"


@pytest.mark.django_db
def test_only_the_workflows_that_are_asked_for_are_read(server: Answers, recorded: list[dict[str, Any]]) -> None:
    reader = Reader(server.url, query="workflowType IN (hangs,too_slow)")
    for execution in recorded:
        server.show(execution)
    reader.round()
    assert find_correlation(reader.project.pk, "order-1") is None
    assert reader.flow("order-6", "hangs").instance.status == "completed"


@pytest.mark.django_db
def test_a_workflow_that_is_removed_before_it_is_read_is_passed_over(
    server: Answers, recorded: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = Reader(server.url)
    listed = {"totalHits": 1, "results": [{"workflowId": "gone", "startTime": "1"}]}
    monkeypatch.setattr(server, "search", lambda *_: listed)
    assert reader.round() == (0, 0, 0)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("status", "words"), [(401, "does not let us in"), (429, "slow down"), (500, "HTTP 500"), (404, "ends in /api")]
)
def test_trouble_is_told_in_words(server: Answers, status: int, words: str) -> None:
    server.failure = status
    with pytest.raises(EngineAwayError, match=words):
        Reader(server.url).round()


@pytest.mark.django_db
def test_a_token_lets_us_in(server: Answers) -> None:
    server.token = "right"
    values = unseal(DECLARED, seal(DECLARED, {"url": server.url, "token": "right"}))
    assert open_poller(values).check() == f"Conductor at {server.url}, 0 open workflows"
    with pytest.raises(EngineAwayError, match="does not let us in"):
        open_poller({**values, "token": "wrong"}).check()


@pytest.mark.parametrize(
    "options", [{"url": "ftp://x"}, {"url": "nonsense"}, {"token": "a", "header": "X Y"}, {"lookback": "soon"}]
)
def test_options_that_cannot_be_are_refused(options: dict[str, str]) -> None:
    values = unseal(DECLARED, seal(DECLARED, {"url": "http://127.0.0.1:1/api", **options}))
    with pytest.raises(OptionError):
        open_poller(values)


def test_an_address_where_nobody_listens_is_told() -> None:
    values = unseal(DECLARED, seal(DECLARED, {"url": f"http://127.0.0.1:{conductor_server.free_port()}/api"}))
    with pytest.raises(EngineAwayError, match="cannot be reached"):
        open_poller(values).check()


@pytest.mark.interop
def test_a_real_server_is_polled_and_pushes(site: str, tmp_path: Any) -> None:
    """Everything that it does is polled; what it pushes meanwhile joins the same events."""
    project = Project.objects.create(slug="pushed", name="Pushed")
    token = create_token(project, ["ingest"], name="conductor")
    try:
        with conductor_server.running(tmp_path, f"{site}/api/v1/conductor", token) as engine:
            reader = Reader(engine.url, lookback="1h")
            for saga in conductor_server.SAGAS:
                for _ in saga(engine):
                    assert reader.round()[2] == 0
            reader.round()
    except conductor_server.UnavailableError as error:
        pytest.skip(str(error))
    order = reader.flow("order-1", "order")
    assert [len(step.attempts) for step in order.steps] == [1, 3, 1]
    assert reader.flow("order-1", "undo_order").instance.compensation_state == "complete"
    assert reader.flow("order-7", "too_slow").instance.status == "timed_out"
    pushed = find_correlation(project.pk, "order-1")
    assert pushed is not None
    flows = {each.instance.flow: each for each in pushed.instances}
    assert [outcome for outcome, _ in tries_of(step_of(flows["order"], "charge_payment"))] == [
        "failed",
        "failed",
        "completed",
    ]
    assert {step.compensates for step in flows["undo_order"].steps} == {"*"}
