"""Settled: versions of a flow's definition, and that a new one gives the past a new meaning."""

from __future__ import annotations

import pytest

from tests.sagas.stories import Shop, at, bare, completed, done, saga, started

pytestmark = pytest.mark.django_db

FIRST = """
flow: order
version: 1
style: orchestration
steps:
  - {name: reserve, service: stock, role: compensable, deadline: 30s, compensation: {name: release}}
"""
SECOND = """
flow: order
version: 2
style: orchestration
steps:
  - {name: reserve, service: warehouse, deadline: 60s}
"""


class TestVersions:
    @pytest.fixture(autouse=True)
    def both(self, shop: Shop) -> None:
        """Two versions; the second is the newest."""
        shop.define(FIRST)
        shop.define(SECOND)

    def test_an_events_version_picks_its_own(self, shop: Shop) -> None:
        shop.tell(saga("started", 0, flow_version="1"), started("reserve", 1))
        assert shop.instance().flow_version == "1"
        assert shop.instance().deadline_at == at(31)
        assert (shop.step("reserve").service, shop.step("reserve").role) == ("stock", "compensable")

    def test_else_the_newest(self, shop: Shop) -> None:
        shop.tell(saga("started", 0), started("reserve", 1))
        assert shop.instance().flow_version == ""
        assert shop.instance().deadline_at == at(61)
        assert (shop.step("reserve").service, shop.step("reserve").role) == ("warehouse", "")

    def test_a_version_that_nobody_declared_is_read_by_the_newest(self, shop: Shop) -> None:
        shop.tell(started("reserve", 1, flow_version="9"))
        assert shop.instance().flow_version == "9"
        assert shop.instance().deadline_at == at(61)

    def test_the_first_event_that_names_one_decides(self, shop: Shop) -> None:
        shop.tell(saga("started", 0), started("reserve", 1, flow_version="1"), saga("blocked", 2, flow_version="2"))
        assert shop.instance().flow_version == "1"
        assert shop.instance().deadline_at == at(31)

    def test_runs_may_have_different_versions(self, shop: Shop) -> None:
        shop.tell(started("reserve", 1, flow_version="1", run="a"), started("reserve", 1, flow_version="2", run="b"))
        assert shop.instance(run="a").deadline_at == at(31)
        assert shop.instance(run="b").deadline_at == at(61)

    def test_a_version_that_becomes_known_later_changes_what_is_owed(self, shop: Shop) -> None:
        shop.tell(done("reserve", 2), saga("failed", 5))
        assert shop.instance().compensation_state == "none"
        shop.tell(saga("started", 0, flow_version="1"))
        assert (shop.instance().compensation_state, shop.instance().status) == ("owed", "failed")


class TestANewMeaningForThePast:
    def test_roles_deadlines_and_services_of_events_with_their_own_attributes(self, shop: Shop) -> None:
        shop.tell(saga("started", 0), started("reserve", 1, source="//shop/orders"))
        assert (shop.instance().deadline_at, shop.step("reserve").service) == (None, "orders")
        shop.define(FIRST)
        assert (shop.instance().deadline_at, shop.step("reserve").service) == (at(31), "stock")
        shop.define(SECOND)
        assert (shop.instance().deadline_at, shop.step("reserve").service) == (at(61), "warehouse")

    def test_what_a_step_undoes_is_known_by_its_name(self, shop: Shop) -> None:
        shop.tell(done("reserve", 1), done("release", 3), saga("failed", 5))
        assert shop.instance().compensation_state == "none"
        shop.define(FIRST)
        assert (shop.instance().compensation_state, shop.instance().status) == ("complete", "compensated")

    def test_bare_events_move_to_the_flow_that_declares_them(self, shop: Shop) -> None:
        shop.tell(bare("ParcelPacked", 1), bare("Pinged", 2))
        assert shop.flows() == ["undeclared"]
        shop.define("flow: parcel\nsteps: [{name: pack, completes_on: [ParcelPacked]}, {name: carry}]")
        assert shop.flows() == ["parcel"]
        assert shop.step("pack", flow="parcel").inferred is False
        assert shop.instance("parcel").event_count == 2

    def test_and_back_when_it_is_deleted(self, shop: Shop) -> None:
        shop.define("flow: parcel\nsteps: [{name: pack, completes_on: [ParcelPacked]}, {name: carry}]")
        shop.tell(bare("ParcelPacked", 1))
        shop.forget("parcel")
        assert shop.flows() == ["undeclared"]
        assert shop.step("parcel", flow="undeclared").inferred is True

    def test_an_end_that_is_declared_later_ends_what_was_open(self, shop: Shop) -> None:
        shop.tell(completed("pack", 1, flow="parcel"), bare("ParcelDelivered", 9))
        assert shop.instance("parcel").status == "running"
        shop.define("flow: parcel\nends_on: [ParcelDelivered]\nsteps: [{name: pack}]")
        assert (shop.instance("parcel").status, shop.instance("parcel").ended_at) == ("completed", at(9))

    def test_steps_that_a_definition_names_and_that_have_not_begun_are_shown_as_unseen(self, shop: Shop) -> None:
        shop.define(FIRST)
        shop.tell(saga("started", 0))
        (view,) = shop.correlation().instances
        assert view.unseen == (("reserve", "stock", "compensable"),)
        shop.tell(started("reserve", 1))
        (view,) = shop.correlation().instances
        assert view.unseen == ()
