"""Who answers whom."""

import pytest

from forecasting.errors import InvalidInput
from services.inference.routing import Routing

PEOPLE = [f"p{k}" for k in range(2000)]


def test_a_patients_own_champion_comes_before_the_populations():
    assert Routing("virtual").route("570", "").references == ("virtual-570@champion", "virtual-population@champion")


def test_a_named_model_is_asked_alone_whatever_the_shares():
    route = Routing("virtual", canary_share=1.0, shadow_share=1.0).route("570", "other-population/3")
    assert route.references == ("other-population/3",)
    assert not route.with_shadow


def test_the_canary_share_is_the_share_of_patients_and_each_stays_where_they_are():
    def tried(share: float) -> set[str]:
        routing = Routing("virtual", canary_share=share)
        return {p for p in PEOPLE if "challenger" in routing.route(p, "").references[0]}

    some = tried(0.1)
    assert 140 < len(some) < 260
    assert tried(0.1) == some
    assert some < tried(0.3)
    assert tried(0.0) == set()
    assert tried(1.0) == set(PEOPLE)


def test_another_namespace_draws_other_patients():
    first, second = (Routing(name, canary_share=0.5) for name in ("a", "b"))
    differing = [
        p for p in PEOPLE if len(set(first.route(p, "").references) & set(second.route(p, "").references)) == 0
    ]
    assert differing == PEOPLE  # names differ
    tried = [[("challenger" in r.route(p, "").references[0]) for p in PEOPLE] for r in (first, second)]
    assert 800 < sum(a != b for a, b in zip(*tried, strict=True)) < 1200


def test_a_tried_patient_falls_back_to_champions_their_own_first():
    assert Routing("virtual", canary_share=1.0).route("570", "").references == (
        "virtual-570@challenger",
        "virtual-570@champion",
        "virtual-population@challenger",
        "virtual-population@champion",
    )


def test_the_shadow_share_is_the_share_of_forecasts_and_never_of_tried_patients():
    routing = Routing("virtual", shadow_share=0.25)
    assert 350 < sum(routing.route(p, "").with_shadow for p in PEOPLE) < 650
    assert not any(Routing("virtual", 1.0, 1.0).route(p, "").with_shadow for p in PEOPLE)


@pytest.mark.parametrize("patient_id", ["", "a b", "population", "x" * 65, "a--b", "é"])
def test_what_cannot_name_a_patient_is_refused(patient_id):
    for model in ("", "virtual-population"):
        with pytest.raises(InvalidInput) as refused:
            Routing("virtual").route(patient_id, model)
        assert refused.value.field == "patient_id"


def test_only_ones_own_model_and_the_populations_are_not_foreign():
    routing = Routing("virtual")
    assert not routing.is_for_another_patient("virtual-population", "570")
    assert not routing.is_for_another_patient("other-population", "570")
    assert not routing.is_for_another_patient("virtual-570", "570")
    assert routing.is_for_another_patient("virtual-571", "570")
    assert routing.is_for_another_patient("other-570", "570")
