"""The past is read anew: the same rows as before, beside writers, from where it stopped, and all can see how far."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from io import StringIO
from typing import Any

import psycopg
import pytest
from django.contrib.auth import get_user_model
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connection
from django.test import Client

from apps.projects.models import Membership
from apps.projects.tokens import create_token
from apps.sagas import catalog, queries, rebuild, settling
from apps.sagas.events import SagaEvent
from apps.sagas.models import AwaitedCause, Instance, InstanceAttribute, Reprojection, SettledFacts, StepExecution
from tests.sagas.stored import projections
from tests.sagas.stories import (
    ARRIVALS,
    Shop,
    bare,
    completed,
    done,
    failed,
    message,
    retrying,
    saga,
    said,
    started,
)
from tests.sagas.test_settling import facts_of

PARCEL = "flow: parcel\nends_on: [Delivered]\nsteps: [{name: pack, completes_on: [Packed], deadline: 30s}]"


@pytest.fixture(autouse=True)
def fresh_catalog() -> Iterator[None]:
    """Revisions that were rolled back must not be remembered."""
    catalog.forget()
    yield
    catalog.forget()


def rebuild_all(shop: Shop) -> Reprojection:
    """Read all of a shop's past anew; the run, finished."""
    run = rebuild.start(shop.project.pk, "asked for")
    while rebuild.run_open_reprojections():
        pass
    run.refresh_from_db()
    assert run.finished_at is not None
    return run


def orders(count: int) -> list[SagaEvent]:
    """So many sagas of one step each."""
    return [event for number in range(count) for event in done("charge", 1, correlation_id=f"c{number}")]


def visited(monkeypatch: pytest.MonkeyPatch, before: Callable[[Sequence[str]], None] = lambda _: None) -> list[str]:
    """The names of the correlations that runs visit from now on; `before` is called ahead of each batch."""
    names: list[str] = []
    reproject = rebuild.reproject

    def noted(project_id: int, correlation_ids: Sequence[str]) -> None:
        before(correlation_ids)
        reproject(project_id, correlation_ids)
        names.extend(correlation_ids)

    monkeypatch.setattr(rebuild, "reproject", noted)
    return names


@pytest.fixture(params=list(ARRIVALS))
def shop(request: pytest.FixtureRequest, db: None) -> Shop:
    """A shop with its events in either order of arrival."""
    return Shop.open(request.param)


@pytest.mark.django_db
class TestTheSameRows:
    def told(self, *shops: Shop) -> None:
        """All that is kept beside plain rows: settled facts, hidden instances, awaited causes, what is undone."""
        story = (
            *(
                event
                for n in range(30)
                for event in (started("reserve", 2 * n), failed("reserve", 2 * n + 1, error="full"))
            ),
            retrying("reserve", 100, cause="unheard-of"),
            *done("charge", 3, service="payments"),
            *done("refund", 120, compensates="charge", cause="unheard-of"),
            said("info", 5, attributes={"customer": "42"}),
            bare("Noticed", 2),
            message("dead_lettered", 70),
            saga("failed", 130),
            bare("Packed", 4, correlation_id="order-2"),
            bare("Noticed", 3, correlation_id="order-2"),
            bare("Noticed", 3, correlation_id="order-3", cause="never-sent"),
        )
        for shop in shops:
            shop.define(PARCEL)
            shop.tell(*story)

    def test_whatever_lies_beside_them(self, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(settling, "WINDOW", 4)
        self.told(shop)
        before = projections(shop.project.pk), facts_of(shop)
        ids = sorted(Instance.objects.filter(project=shop.project).values_list("id", flat=True))
        assert SettledFacts.objects.exists()
        assert AwaitedCause.objects.count() == 4
        assert shop.flows("order-2") == ["parcel"], "events of no flow hide beside one"
        for _ in range(2):
            assert rebuild_all(shop).error == ""
            assert (projections(shop.project.pk), facts_of(shop)) == before
        assert sorted(Instance.objects.filter(project=shop.project).values_list("id", flat=True)) == ids

    def test_what_comes_after_finds_all_that_it_needs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Late causes, attempts behind what has settled, compensations: as if nobody had rebuilt."""
        monkeypatch.setattr(settling, "WINDOW", 4)
        late = (
            said("info", 1, id="unheard-of"),
            started("reserve", 0.5),
            completed("reserve", 200),
            done("undo", 210, compensates="reserve"),
            bare("Delivered", 9, correlation_id="order-2"),
        )
        plain, rebuilt = Shop.open(), Shop.open()
        self.told(plain, rebuilt)
        rebuild_all(rebuilt)
        for shop in (plain, rebuilt):
            shop.tell(*late)
        assert projections(rebuilt.project.pk) == projections(plain.project.pk)

    def test_what_was_spoilt_is_right_again(self, shop: Shop) -> None:
        self.told(shop)
        before = projections(shop.project.pk)
        Instance.objects.filter(project=shop.project).update(waiting_for="Godot", current_steps=["?"], owed_count=7)
        StepExecution.objects.update(status="lost", run_us=1)
        InstanceAttribute.objects.filter(project=shop.project).update(value="?")
        attribute = InstanceAttribute.objects.filter(project=shop.project).values().first()
        InstanceAttribute.objects.create(**{**attribute, "name": "nobody-told-of-it"})
        AwaitedCause.objects.all().delete()
        assert projections(shop.project.pk) != before
        rebuild_all(shop)
        assert projections(shop.project.pk) == before

    def test_what_is_right_is_not_written(self, shop: Shop) -> None:
        def versions() -> list[tuple]:
            with connection.cursor() as cursor:
                tables = ("correlation", "instance", "instance_attribute", "step_execution")
                union = " UNION ALL ".join(f"SELECT tableoid::regclass::text, ctid::text FROM {one}" for one in tables)
                cursor.execute(f"{union} ORDER BY 1, 2")
                return cursor.fetchall()

        self.told(shop)
        rebuild_all(shop)
        before = versions()
        rebuild_all(shop)
        assert versions() == before


@pytest.mark.django_db
class TestAChangeOfMeaning:
    def test_a_definition_starts_a_run_and_shows_the_past_anew(self, shop: Shop) -> None:
        shop.tell(bare("Packed", 4), bare("Delivered", 9))
        before = projections(shop.project.pk)
        assert queries.list_reprojections(shop.project.pk) == []
        shop.define(PARCEL)
        (run,) = queries.list_reprojections(shop.project.pk)
        assert (run.reason, run.done, run.total) == ("parcel version 1 was saved", 1, 1)
        assert shop.flows() == ["parcel"]
        assert shop.instance("parcel").status == "completed"
        shop.forget("parcel")
        assert queries.list_reprojections(shop.project.pk)[0].reason == "the definition of parcel was deleted"
        assert projections(shop.project.pk) == before, "rows, attributes and rollups of the flow are gone"

    def test_saving_what_is_there_starts_none(self, shop: Shop) -> None:
        shop.define(PARCEL)
        shop.define(PARCEL)
        assert len(queries.list_reprojections(shop.project.pk)) == 1

    def test_a_change_in_the_middle_of_a_run_begins_anew(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rebuild, "BATCH", 1)
        shop = Shop.open()
        shop.tell(*(bare("Packed", 4, correlation_id=f"c{number}") for number in range(3)))
        first = rebuild.start(shop.project.pk, "first")
        changed: list[str] = []

        def shop_changes(names: Sequence[str]) -> None:
            if not changed:
                changed.extend(names)
                rebuild.start(shop.project.pk, "second")

        names = visited(monkeypatch, shop_changes)
        rebuild.run_open_reprojections()
        assert sorted(names) == sorted([*changed, "c0", "c1", "c2"])
        runs = queries.list_reprojections(shop.project.pk)
        assert [(run.reason, run.done, run.finished_at is None) for run in runs] == [
            ("second", 3, False),
            ("first", 1, False),
        ]
        assert runs[1].pk == first.pk


@pytest.mark.django_db
class TestInterrupted:
    def test_the_next_one_goes_on_where_it_stopped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rebuild, "BATCH", 2)
        shop = Shop.open()
        shop.tell(*orders(7))
        run = rebuild.start(shop.project.pk, "asked for")
        with monkeypatch.context() as patched:
            names = visited(patched, lambda _: stop_after(names, 4))
            with pytest.raises(KeyboardInterrupt):
                rebuild.run_open_reprojections()
        run.refresh_from_db()
        assert (run.done, run.total, run.finished_at) == (4, 7, None)
        rest = visited(monkeypatch)
        assert rebuild.run_open_reprojections() == 3
        assert (len(names), len(rest), len({*names, *rest})) == (4, 3, 7)
        run.refresh_from_db()
        assert (run.done, run.total) == (7, 7)
        assert run.finished_at is not None
        assert rebuild.run_open_reprojections() == 0

    def test_one_that_cannot_be_read_holds_up_nobody(self, monkeypatch: pytest.MonkeyPatch) -> None:
        shop, other = Shop.open(), Shop.open()
        for each in (shop, other):
            each.tell(*orders(4))
        before = projections(shop.project.pk)
        StepExecution.objects.filter(correlation_uuid=shop.correlation("c3").correlation_uuid).update(error="stale")

        def choke(names: Sequence[str]) -> None:
            if "c2" in names:
                raise ValueError("not read by this release")

        run = rebuild.start(shop.project.pk, "asked for")
        next_run = rebuild.start(other.project.pk, "asked for")
        with monkeypatch.context() as patched:
            names = visited(patched, choke)
            rebuild.run_open_reprojections()
        for each in (run, next_run):
            each.refresh_from_db()
        assert (run.error, run.done) == ("c2: ValueError: not read by this release", 4)
        assert (next_run.error, next_run.done) == ("c2: ValueError: not read by this release", 4)
        assert sorted(names) == sorted(["c0", "c1", "c3"] * 2)
        assert projections(shop.project.pk) == before, "what could not be read stays, what was stale is right"


def stop_after(names: list[str], count: int) -> None:
    """A worker that is stopped before its next batch."""
    if len(names) == count:
        raise KeyboardInterrupt


@pytest.mark.django_db(transaction=True)
class TestOnline:
    @pytest.fixture(autouse=True)
    def no_error_unseen(self) -> Iterator[None]:
        self.errors: list[BaseException] = []
        yield
        assert not self.errors

    def beside(self, work: Callable[[], Any]) -> threading.Thread:
        """Something that another process does meanwhile, on a connection of its own."""

        def run() -> None:
            try:
                work()
            except BaseException as error:
                self.errors.append(error)
            finally:
                connection.close()

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def test_what_is_recorded_meanwhile_is_right_afterwards(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Into what was visited, into what was not, into what is new, and into what is being visited right now."""
        monkeypatch.setattr(rebuild, "BATCH", 2)
        alone, busy = Shop.open(), Shop.open()
        story = orders(4)
        for shop in (alone, busy):
            shop.define(PARCEL)
            shop.tell(*story)
        waiting: list[threading.Thread] = []
        late: list[SagaEvent] = []
        reproject = rebuild.reproject

        def crowded(project_id: int, names: Sequence[str]) -> None:
            number = len(waiting)
            free = [
                *(completed("ship", 20 + number, correlation_id=f"c{each}") for each in range(4)),
                bare("Packed", 3 + number, correlation_id="new"),
                failed("charge", 30 + number, correlation_id="new"),
            ]
            self.beside(lambda: busy.tell(*free)).join()
            reproject(project_id, names)
            held = [completed("charge", 40 + number, correlation_id=name) for name in names]
            late.extend([*free, *held])
            waiting.append(self.beside(lambda: busy.tell(*held)))
            until_blocked()

        monkeypatch.setattr(rebuild, "reproject", crowded)
        run = rebuild_all(busy)
        for thread in waiting:
            thread.join()
        alone.tell(*late)
        assert (len(waiting), run.done) == (3, 5)
        assert projections(busy.project.pk) == projections(alone.project.pk)

    def test_two_workers_at_once_are_kept_apart(self, monkeypatch: pytest.MonkeyPatch) -> None:
        shop = Shop.open()
        shop.tell(*orders(3))
        others: list[int] = []
        names = visited(
            monkeypatch, lambda _: self.beside(lambda: others.append(rebuild.run_open_reprojections())).join()
        )
        rebuild_all(shop)
        assert (sorted(names), others) == (["c0", "c1", "c2"], [0])

    def test_several_processes_do_it_as_one_does(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rebuild, "BATCH", 2)
        shop = Shop.open()
        shop.define(PARCEL)
        shop.tell(*orders(7), bare("Packed", 3, correlation_id="parcel"))
        before = projections(shop.project.pk)
        StepExecution.objects.update(status="lost", run_us=1)
        run = rebuild.start(shop.project.pk, "asked for")
        seen: list[int] = []
        assert rebuild.run_in_processes(run, 2, lambda run: seen.append(run.done))
        assert (seen, run.total, run.finished_at is not None) == ([2, 4, 6, 8], 8, True)
        assert projections(shop.project.pk) == before

    def test_a_killed_worker_leaves_its_batch_to_the_next(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rebuild, "BATCH", 2)
        shop = Shop.open()
        shop.tell(*orders(5))
        before = projections(shop.project.pk)
        run = rebuild.start(shop.project.pk, "asked for")
        reproject = rebuild.reproject
        batches: list[Sequence[str]] = []

        def killed(project_id: int, names: Sequence[str]) -> None:
            batches.append(names)
            reproject(project_id, names)
            if len(batches) == 2:
                with connection.cursor() as cursor:
                    cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

        with monkeypatch.context() as patched:
            patched.setattr(rebuild, "reproject", killed)
            with pytest.raises((DatabaseError, psycopg.Error)):
                rebuild.run_open_reprojections()
        connection.close()
        run.refresh_from_db()
        assert (run.done, run.error, run.finished_at) == (2, "", None)
        assert projections(shop.project.pk) == before
        names = visited(monkeypatch)
        rebuild.run_open_reprojections()
        assert sorted([*batches[0], *names]) == [f"c{number}" for number in range(5)]
        assert projections(shop.project.pk) == before


def until_blocked() -> None:
    """Wait until somebody waits for a lock that this connection holds."""
    with connection.cursor() as cursor:
        for _ in range(100_000):
            # Unlike pg_stat_activity, this is not the same all through a transaction.
            cursor.execute(
                "SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))"
            )
            if cursor.fetchone()[0]:
                return
    raise AssertionError("nobody waits")


@pytest.mark.django_db
class TestProgress:
    @pytest.fixture
    def half_way(self, monkeypatch: pytest.MonkeyPatch) -> Shop:
        """A shop whose past is being read: two of four."""
        monkeypatch.setattr(rebuild, "BATCH", 2)
        shop = Shop.open()
        shop.tell(*orders(4))
        rebuild.start(shop.project.pk, "order version 2 was saved")
        with monkeypatch.context() as patched:
            names = visited(patched, lambda _: stop_after(names, 2))
            with pytest.raises(KeyboardInterrupt):
                rebuild.run_open_reprojections()
        return shop

    def test_of_the_api(self, half_way: Shop) -> None:
        token = create_token(half_way.project, ["read"])

        def runs() -> list[dict[str, Any]]:
            answer = Client().get("/api/v1/reprojections", headers={"Authorization": f"Bearer {token}"})
            found: list[dict[str, Any]] = answer.json()["items"]
            return found

        (run,) = runs()
        assert (run["reason"], run["done"], run["total"]) == ("order version 2 was saved", 2, 4)
        assert (run["finished_at"], run["error"]) == (None, None)
        rebuild.run_open_reprojections()
        (run,) = runs()
        assert (run["done"], run["total"]) == (4, 4)
        assert run["finished_at"].endswith("Z")

    def test_of_the_page_of_a_flow(self, half_way: Shop) -> None:
        user = get_user_model().objects.create(username="ada")
        Membership.objects.create(project=half_way.project, user=user, role="viewer")
        client = Client()
        client.force_login(user)
        page = client.get("/flows/order").content.decode()
        assert "order version 2 was saved: 2 of 4 correlations" in page
        assert '<progress value="2" max="4">' in page
        rebuild.run_open_reprojections()
        assert "<progress" not in client.get("/flows/order").content.decode()


@pytest.mark.django_db
class TestTheCommand:
    def told(self, *arguments: str) -> list[str]:
        out = StringIO()
        call_command("rebuild", *arguments, stdout=out, no_color=True)
        return out.getvalue().splitlines()

    def test_says_how_far_it_is(self) -> None:
        shop, other = Shop.open(), Shop.open()
        shop.tell(*orders(3))
        other.tell(*orders(2))
        before = [projections(each.project.pk) for each in (shop, other)]
        assert self.told() == [
            f"{shop.project.slug}: 3 of 3 correlations",
            f"{other.project.slug}: 2 of 2 correlations",
            "rebuilt",
        ]
        assert [projections(each.project.pk) for each in (shop, other)] == before

    def test_reads_one_project_alone(self) -> None:
        shop, other = Shop.open(), Shop.open()
        assert self.told("--project", shop.project.slug) == [f"{shop.project.slug}: 0 of 0 correlations", "rebuilt"]
        assert queries.list_reprojections(other.project.pk) == []

    def test_goes_on_with_what_was_interrupted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rebuild, "BATCH", 2)
        shop = Shop.open()
        shop.tell(*orders(3))
        with monkeypatch.context() as patched:
            names = visited(patched, lambda _: stop_after(names, 2))
            with pytest.raises(KeyboardInterrupt):
                self.told()
        rest = visited(monkeypatch)
        assert self.told() == [f"{shop.project.slug}: 3 of 3 correlations", "rebuilt"]
        assert (len(names), len(rest)) == (2, 1)
        assert len(queries.list_reprojections(shop.project.pk)) == 1

    def test_names_what_could_not_be_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        shop = Shop.open()
        shop.tell(*orders(2))

        def choke(names: Sequence[str]) -> None:
            if "c1" in names:
                raise ValueError("not read by this release")

        visited(monkeypatch, choke)
        with pytest.raises(CommandError, match=rf"{shop.project.slug}: c1: ValueError: not read by this release"):
            self.told()

    def test_knows_no_other_project(self) -> None:
        with pytest.raises(CommandError, match="there is no project 'nowhere'"):
            self.told("--project", "nowhere")
