"""Comparison of two arms over people: against SciPy, published examples and simulated truth."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap, permutation_test

from forecasting.errors import InsufficientData, InvalidSetting
from trainer.comparison import Comparison, SignFlips, compare, holm, log_ratios, patient_bootstrap, sign_flip_test

LOGS = st.lists(st.integers(-40, 40).map(lambda k: k / 256), min_size=2, max_size=12)  # sums without rounding


def people(values: list[float] | np.ndarray) -> dict[str, float]:
    return {f"p{k}": float(value) for k, value in enumerate(values)}


def one_set(ratios: dict[str, float]) -> dict[str, str]:
    return dict.fromkeys(ratios, "one set")


@given(LOGS)
def test_up_to_sixteen_people_p_values_are_those_of_scipys_exact_test(values):
    theirs = {
        alternative: permutation_test(
            (np.array(values),), np.mean, permutation_type="samples", n_resamples=np.inf, alternative=alternative
        ).pvalue
        for alternative in ("less", "two-sided")
    }
    ours = sign_flip_test(people(values))
    assert ours == SignFlips(pytest.approx(theirs["less"]), pytest.approx(min(1.0, theirs["two-sided"])), True)


def test_eight_people_who_are_all_better_are_one_pattern_of_256():
    assert sign_flip_test(people([-0.01] * 8)) == SignFlips(1 / 256, 2 / 256, True)
    assert sign_flip_test(people([0.01] * 8)) == SignFlips(1.0, 2 / 256, True)
    assert sign_flip_test(people([0.0] * 8)) == SignFlips(1.0, 1.0, True)


def test_beyond_sixteen_people_patterns_are_drawn_and_come_near_the_exact_test():
    values = np.random.default_rng(3).normal(-0.01, 0.03, 17)
    exact = permutation_test((values,), np.mean, permutation_type="samples", n_resamples=np.inf)
    drawn = sign_flip_test(people(values), seed=5)
    assert not drawn.exact
    assert drawn.two_sided == pytest.approx(exact.pvalue, abs=0.005)
    assert drawn == sign_flip_test(people(values), seed=5)
    assert drawn != sign_flip_test(people(values), seed=6)


def test_a_drawn_p_value_is_never_zero():
    drawn = sign_flip_test(people([-0.1] * 40), draws=99)
    assert (drawn.less, drawn.two_sided) == (1 / 100, 1 / 100)


@pytest.mark.parametrize(("number", "draws"), [(8, 1), (20, 399)])
def test_where_no_arm_is_better_one_in_twenty_is_found_significant(number, draws):
    random = np.random.default_rng(11)
    p_values = [sign_flip_test(people(random.standard_t(3, number)), draws, seed=k).two_sided for k in range(1000)]
    assert 0.03 < np.mean(np.array(p_values) <= 0.05) < 0.065


def test_holm_adjusts_the_textbook_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.001, 0.2))
def test_holm_rejects_what_stepping_down_rejects(p_values, level):
    rejected, rest = set(), len(p_values)
    for k in sorted(range(len(p_values)), key=p_values.__getitem__):
        if p_values[k] * rest > level:
            break
        rejected.add(k)
        rest -= 1
    assert {k for k, p in enumerate(holm(p_values)) if p <= level} == rejected


def test_the_interval_is_scipys_percentile_bootstrap():
    values = np.random.default_rng(0).normal(-0.02, 0.05, 25)
    theirs = bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    ours = patient_bootstrap(people(values), one_set(people(values)), draws=20_000)
    assert ours == pytest.approx((math.exp(theirs.low), math.exp(theirs.high)), abs=0.001)


def test_people_are_drawn_within_their_set():
    ratios = people([-0.1] * 3 + [0.2] * 6)
    strata = {p: "small" if ratio < 0 else "large" for p, ratio in ratios.items()}
    assert patient_bootstrap(ratios, strata) == pytest.approx((math.exp(0.1), math.exp(0.1)))
    low, high = patient_bootstrap(ratios, one_set(ratios))
    assert low < 1.05 < math.exp(0.1) < 1.15 < high


def test_about_95_percent_intervals_hold_the_truth_with_33_people():
    random, strata, held = np.random.default_rng(2), {f"p{k}": "t1d_uom" if k < 8 else "azt1d" for k in range(33)}, 0
    for k in range(400):
        low, high = patient_bootstrap(people(random.normal(-0.02, 0.03, 33)), strata, draws=500, seed=k)
        held += low <= math.exp(-0.02) <= high
    assert 0.90 < held / 400 < 0.98


def test_a_wider_level_is_a_wider_interval():
    ratios = people(np.random.default_rng(4).normal(0, 0.05, 20))
    (low_50, high_50), (low_99, high_99) = (patient_bootstrap(ratios, one_set(ratios), level=x) for x in (0.5, 0.99))
    assert low_99 < low_50 < high_50 < high_99


def test_seeds_are_averaged_as_logarithms_before_people():
    given = log_ratios({"a": [10.0, 40.0], "b": [18.0]}, {"a": [20.0, 20.0], "b": [20.0]})
    assert given == {"a": pytest.approx(0.0), "b": pytest.approx(math.log(0.9))}


@given(st.permutations([19.0, 20.0, 23.0]), st.permutations([21.0, 20.0, 22.0]))
def test_swapping_arms_swaps_the_sign_and_no_pairing_of_seeds_matters(a, b):
    [ratio] = log_ratios({"p": a}, {"p": b}).values()
    assert ratio == pytest.approx(np.mean(np.log([19 / 20, 20 / 21, 23 / 22])))
    assert log_ratios({"p": b}, {"p": a}) == {"p": pytest.approx(-ratio)}


def test_a_baseline_without_seeds_is_given_once():
    assert log_ratios({"p": [18.0, 18.0]}, {"p": [20.0]}) == {"p": pytest.approx(math.log(0.9))}


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ({"p": [1.0], "q": [1.0]}, {"p": [1.0]}, "different people, q in one only; compare the same"),
        ({"p": [1.0, 2.0]}, {"p": [1.0, 2.0, 3.0]}, "patient p has 2 and 3 seeds; give as many for both arms, or one"),
        ({"p": []}, {"p": [1.0]}, "patient p has 0 and 1 seeds"),
        ({"p": [0.0]}, {"p": [1.0]}, "patient p has an RMSE that is not a positive number"),
        ({"p": [1.0]}, {"p": [math.nan]}, "patient p has an RMSE that is not a positive number"),
    ],
)
def test_arms_that_cannot_be_compared_are_refused(a, b, message):
    with pytest.raises(InvalidSetting, match=message):
        log_ratios(a, b)


def table(ratio_30: float, ratio_60: float, spread: float = 0.002) -> dict:
    """RMSE of three seeds of 8 people for two arms, their ratios about these."""
    random = np.random.default_rng(7)
    alone = {h: {f"p{k}": random.normal(level, 1, 3).tolist() for k in range(8)} for h, level in ((30, 20), (60, 33))}
    factors = {30: ratio_30 + random.normal(0, spread, 8), 60: ratio_60 + random.normal(0, spread, 8)}
    distilled = {
        h: {p: [x * factors[h][k] for x in seeds] for k, (p, seeds) in enumerate(own.items())}
        for h, own in alone.items()
    }
    return {"distilled": distilled, "alone": alone}


SETS = {f"p{k}": "t1d_uom" if k < 3 else "azt1d" for k in range(8)}


def test_a_known_ratio_is_told_with_its_interval_and_verdict():
    at_30, at_60 = compare(table(0.95, 1.03), "distilled", "alone", SETS, [30, 60])
    assert (at_30.ratio, at_60.ratio) == (pytest.approx(0.95, abs=0.002), pytest.approx(1.03, abs=0.002))
    assert at_30.interval[0] < at_30.ratio < at_30.interval[1] < 0.96
    assert (at_30.p, at_30.p_holm, at_30.better, at_30.people) == (2 / 256, 4 / 256, 8, 8)
    assert (at_30.verdict, at_60.verdict) == ("better", "worse")
    assert at_60.sentence.startswith("distilled against alone at 60 min: 1.03")
    assert at_60.sentence.endswith(", 0 of 8 people better, p 0.016 after Holm): worse")


def test_the_number_of_horizons_decides_what_is_significant():
    rmse = table(0.95, 0.95)
    rmse = {arm: dict.fromkeys(range(30, 240, 30), own[30]) for arm, own in rmse.items()}
    [alone] = compare(rmse, "distilled", "alone", SETS, [30])
    [first, *_] = compare(rmse, "distilled", "alone", SETS, list(rmse["alone"]))
    assert (alone.verdict, first.verdict) == ("better", "no benefit")
    assert first.p_holm == pytest.approx(7 * alone.p)


def test_an_arm_against_itself_is_no_benefit():
    rmse = table(0.95, 0.95)
    [same] = compare(rmse, "alone", "alone", SETS, [30])
    assert (same.ratio, same.interval, same.p, same.better, same.verdict) == (1.0, (1.0, 1.0), 1.0, 0, "no benefit")


@pytest.mark.parametrize(
    ("ratio", "p", "verdict"),
    [(0.996, 0.12, "no benefit"), (0.9, 0.05, "no benefit"), (0.9, 0.049, "better"), (1.1, 0.049, "worse")],
)
def test_the_sentence_says_plainly_what_was_found(ratio, p, verdict):
    found = Comparison("population distilled", "alone", 30, 33, ratio, (0.991, 1.001), 0.01, p, 20)
    assert found.sentence == (
        f"population distilled against alone at 30 min: {ratio:.3f} times the RMSE "
        f"(95 % 0.991 to 1.001, 20 of 33 people better, p {p:.2g} after Holm): {verdict}"
    )


def test_a_tiny_p_value_is_not_printed_as_digits():
    assert "p below 0.001 after Holm" in Comparison("a", "b", 30, 33, 0.9, (0.8, 0.95), 1e-5, 2e-5, 33).sentence


def test_what_is_missing_is_named():
    rmse = table(0.95, 0.95)
    with pytest.raises(InvalidSetting, match="there is no arm 'teacher'; there are distilled, alone"):
        compare(rmse, "teacher", "alone", SETS, [30])
    with pytest.raises(InvalidSetting, match="distilled has no RMSE at 90 minutes; it has them at 30, 60"):
        compare(rmse, "distilled", "alone", SETS, [90])
    with pytest.raises(InvalidSetting, match="patient p3 has no stratum"):
        compare(rmse, "distilled", "alone", dict(list(SETS.items())[:3]), [30])
    with pytest.raises(InsufficientData, match="there is nobody to compare on"):
        compare({"a": {30: {}}, "b": {30: {}}}, "a", "b", SETS, [30])
