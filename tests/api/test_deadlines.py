"""Learned deadlines by API and page: what they rest on, and the factor; what is known of a source's rhythm."""

from __future__ import annotations

import pytest

from apps.projects.models import Project, Source
from apps.sagas.learned_deadlines import learn
from apps.sagas.models import LearnedDeadline
from tests.api.conftest import Call
from tests.sagas.stories import Shop, at
from tests.sagas.test_learned_deadlines import runs


@pytest.fixture
def shop(project: Project, source: Source) -> Shop:
    """The callers' project, with sixty runs of `charge` and thirty of `ship`, as far as they teach anything."""
    shop = Shop(project, source)
    shop.tell(*runs([2.0] * 60), *runs([4.0] * 30, step="ship", since=20))
    learn(project.pk, "order", at(60))
    return shop


def test_every_step_tells_what_its_deadline_rests_on(shop: Shop, reader: Call) -> None:
    answer = reader("get", "/flows/order/deadlines").json()
    assert (answer["flow"], answer["factor"]) == ("order", 3.0)
    charge, ship = answer["items"]
    assert {name: charge[name] for name in ("step", "phase", "deadline_seconds", "factor", "count")} == {
        "step": "charge",
        "phase": "run",
        "deadline_seconds": 6.0,
        "factor": 3.0,
        "count": 60,
    }
    assert (charge["p50_seconds"], charge["p99_seconds"]) == (2.0, 2.0)
    assert (charge["since"], charge["until"]) == ("2026-11-19T14:00:00.000000Z", "2026-11-19T14:00:05.900000Z")
    assert (ship["deadline_seconds"], ship["count"], ship["latest"]["count"]) == (None, None, 30)
    assert (ship["latest"]["p50_seconds"], ship["latest"]["p99_seconds"]) == (4.0, None)


def test_an_operator_chooses_the_factor(shop: Shop, operator: Call) -> None:
    assert operator("put", "/flows/order/deadlines", '{"factor": 4.5}').json()["factor"] == 4.5
    learn(shop.project.pk, "order", at(61))
    assert LearnedDeadline.objects.get(step="charge").limit_us == 9_000_000
    assert operator("put", "/flows/order/deadlines", '{"factor": null}').json()["factor"] == 3.0


@pytest.mark.parametrize("body", ['{"factor": 0.5}', '{"factor": 1000}', '{"factor": "4"}', "{}", '{"factor":4,"x":1}'])
def test_what_makes_no_sense_is_refused(shop: Shop, operator: Call, body: str) -> None:
    assert operator("put", "/flows/order/deadlines", body).status_code == 422


def test_readers_choose_nothing_and_strangers_see_nothing(shop: Shop, reader: Call, rival: Call) -> None:
    assert reader("put", "/flows/order/deadlines", '{"factor": 4}').status_code == 403
    assert rival("get", "/flows/order/deadlines").status_code == 404


def test_sources_tell_their_rhythm(shop: Shop, reader: Call) -> None:
    (source,) = reader("get", "/sources").json()["items"]
    assert (source["silent_since"], source["usual_pause_seconds"], source["longest_pause_seconds"]) == (None,) * 3
