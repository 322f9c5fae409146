"""What may become champion."""

import pytest

from forecasting.gate import decide, lower

BAR = {"30": 20.0, "60": 33.0}


@pytest.mark.parametrize(
    ("challenger", "champion", "passed"),
    [
        ({"30": 19.9, "60": 32.9}, None, True),
        ({"30": 20.0, "60": 32.9}, None, False),  # as good as the bar is not better
        ({"30": 15.0, "60": 33.1}, None, False),  # one horizon does not pay for the other
        ({"30": 19.0, "60": 32.0}, {"30": 19.0, "60": 32.0}, False),  # a tie keeps the champion
        ({"30": 18.9, "60": 32.0}, {"30": 19.0, "60": 32.0}, True),
        ({"30": 18.0, "60": 32.16}, {"30": 19.0, "60": 32.0}, True),  # 0.5 % worse at one horizon is allowed
        ({"30": 18.0, "60": 32.17}, {"30": 19.0, "60": 32.0}, False),
        ({"30": 19.05, "60": 32.05}, {"30": 19.0, "60": 32.0}, False),  # a little worse at both is no gain
        ({"30": 19.9}, None, True),
        ({"30": 19.0}, {"30": 19.5, "60": 30.0}, True),  # only horizons that both have
        ({"15": 10.0}, None, False),
        ({"30": 19.0}, {"60": 30.0}, False),
        ({"30": float("nan"), "60": 30.0}, None, False),
    ],
)
def test_a_challenger_must_beat_the_bar_and_not_fall_behind_the_champion(challenger, champion, passed):
    assert decide(challenger, BAR, "ridge", champion).passed is passed


def test_a_decision_says_every_comparison_with_its_numbers():
    decision = decide({"30": 19.0, "60": 34.0}, BAR, "ridge", {"30": 19.5, "60": 33.9})
    assert decision.reasons == (
        "30 min: 19.00 against ridge 20.00 mg/dL: passed",
        "60 min: 34.00 against ridge 33.00 mg/dL: not passed",
        "30 min: 19.00 against champion 19.50 mg/dL: passed",
        "60 min: 34.00 against champion 33.90 mg/dL: passed",
        "better than the champion at one horizon at least: passed",
    )


def test_the_bar_is_the_better_of_two_at_each_horizon():
    assert lower({"30": 20.0, "60": 33.0, "90": 1.0}, {"30": 21.0, "60": 32.0}) == {"30": 20.0, "60": 32.0}
