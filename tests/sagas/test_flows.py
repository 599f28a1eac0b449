"""Keeping flow definitions: each version, who saved it, and that the past is read anew."""

from __future__ import annotations

import pytest

from apps.projects.models import Project
from apps.sagas import catalog, flows
from apps.sagas.definitions import DefinitionError
from apps.sagas.models import Flow, FlowVersion, Reprojection

pytestmark = pytest.mark.django_db

FIRST = "flow: order\nversion: 1\nsteps:\n  - name: pay\n    deadline: 30s\n"
SECOND = FIRST.replace("version: 1", "version: 2").replace("30s", "60s")


@pytest.fixture(autouse=True)
def fresh_catalog():
    """Rolled-back revisions must not be taken for known ones."""
    catalog.forget()
    yield
    catalog.forget()


@pytest.fixture
def project() -> Project:
    return Project.objects.create(slug="shop", name="Shop")


def revision(project: Project) -> int:
    project.refresh_from_db()
    return project.revision


def test_a_saved_definition_is_kept_as_written_and_the_past_is_read_anew(project: Project) -> None:
    saved = flows.save_definition(project, "order", FIRST, "ada")
    assert (saved.version, saved.text, saved.saved_by) == ("1", FIRST, "ada")
    assert flows.definition_of(project, "order") == saved
    assert revision(project) == 1
    run = Reprojection.objects.get(project=project, finished_at=None)
    assert (run.revision, run.reason) == (1, "order version 1 was saved")


def test_every_version_is_kept_and_the_one_saved_last_is_the_newest(project: Project) -> None:
    flows.save_definition(project, "order", FIRST, "ada")
    flows.save_definition(project, "order", SECOND, "bob")
    newest = flows.definition_of(project, "order")
    assert newest is not None
    assert newest.version == "2"
    first = flows.definition_of(project, "order", "1")
    assert first is not None
    assert first.text == FIRST
    (entry,) = flows.list_flows(project.pk)
    assert (entry.version, entry.versions, entry.saved_by, entry.is_declared) == ("2", ("2", "1"), "bob", True)
    assert Reprojection.objects.filter(project=project, finished_at=None).count() == 1


def test_saving_a_version_again_replaces_it(project: Project) -> None:
    flows.save_definition(project, "order", FIRST, "ada")
    changed = FIRST.replace("30s", "45s")
    flows.save_definition(project, "order", changed, "bob")
    assert FlowVersion.objects.get(flow__name="order").text == changed
    assert revision(project) == 2


def test_saving_what_is_there_already_changes_nothing(project: Project) -> None:
    flows.save_definition(project, "order", FIRST, "ada")
    Reprojection.objects.all().delete()
    flows.save_definition(project, "order", FIRST, "bob")
    assert revision(project) == 1
    assert not Reprojection.objects.exists()


def test_a_bad_definition_changes_nothing(project: Project) -> None:
    with pytest.raises(DefinitionError, match=r"line 3: steps\[0\].naem"):
        flows.save_definition(project, "order", "flow: order\nsteps:\n  - naem: pay\n", "ada")
    assert revision(project) == 0
    assert not Flow.objects.exists()


def test_a_definition_of_another_flow_is_refused(project: Project) -> None:
    with pytest.raises(DefinitionError, match="'order'"):
        flows.save_definition(project, "travel", FIRST, "ada")


def test_without_a_name_the_definition_says_which_flow_it_is(project: Project) -> None:
    assert flows.save_definition(project, None, FIRST, "ada").flow.name == "order"


def test_json_that_yaml_reads_otherwise_is_kept_as_yaml(project: Project) -> None:
    text = '{\n\t"flow": "order",\n\t"steps": [{"name": "pay", "deadline": "30s"}]\n}'
    saved = flows.save_definition(project, "order", text, "ada", media_type="application/json")
    assert flows.read(saved).steps[0].deadline == 30_000_000
    assert catalog.current(project.pk).definitions.of("order", None) is not None


def test_deleting_forgets_every_version_but_keeps_the_flow(project: Project) -> None:
    flows.save_definition(project, "order", FIRST, "ada")
    flows.save_definition(project, "order", SECOND, "ada")
    assert flows.delete_definition(project, "order") is True
    assert flows.definition_of(project, "order") is None
    (entry,) = flows.list_flows(project.pk)
    assert (entry.name, entry.version, entry.is_declared) == ("order", None, False)
    assert revision(project) == 3
    assert flows.delete_definition(project, "order") is False
    assert revision(project) == 3


def test_a_deleted_version_can_be_saved_again(project: Project) -> None:
    flows.save_definition(project, "order", FIRST, "ada")
    flows.delete_definition(project, "order")
    flows.save_definition(project, "order", FIRST, "ada")
    assert flows.definition_of(project, "order") is not None


def test_who_saves_on_top_of_another_change_is_told(project: Project) -> None:
    seen = flows.save_definition(project, "order", FIRST, "ada")
    flows.save_definition(project, "order", SECOND, "bob")
    with pytest.raises(flows.StaleDefinitionError):
        flows.save_definition(project, "order", FIRST.replace("30s", "45s"), "ada", expected=seen)
    with pytest.raises(flows.StaleDefinitionError):
        flows.delete_definition(project, "order", expected=seen)


def test_projects_do_not_see_each_others_definitions(project: Project) -> None:
    other = Project.objects.create(slug="other", name="Other")
    flows.save_definition(other, "order", FIRST, "eve")
    assert flows.definition_of(project, "order") is None
    assert flows.list_flows(project.pk) == []
    assert flows.is_known(project.pk, "order") is False
    assert flows.delete_definition(project, "order") is False
    assert flows.definition_of(other, "order") is not None


@pytest.mark.parametrize("name", ["", "no such flow", "a\0b", "' OR 1=1"])
def test_an_unknown_flow_has_no_definition(project: Project, name: str) -> None:
    assert flows.definition_of(project, name) is None
    assert flows.is_known(project.pk, name) is False
