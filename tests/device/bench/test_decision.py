# SPDX-License-Identifier: Apache-2.0
"""What counts as worse: chosen numbers, and numbers with noise."""

from __future__ import annotations

import numpy as np
import pytest

from pocketrec.errors import ConfigError
from pocketrec_device.bench.decision import Rule, Verdict, judge, judge_counts

RULE = Rule(n_resamples=1000)
STEADY = [100.0, 101.0, 99.0, 100.5, 99.5, 100.0, 100.2, 99.8]


def verdict(base: list[float], head: list[float], *, is_paired: bool = False) -> Verdict:
    """Return the verdict on one number."""
    return judge(base, head, RULE, n_judged=1, is_paired=is_paired).verdict


class TestTimes:
    def test_the_same_is_equal(self) -> None:
        """Nothing changed, and the interval leaves no room for a change."""
        assert verdict(STEADY, STEADY) is Verdict.EQUAL

    @pytest.mark.parametrize(
        ("factor", "expected"),
        [
            (1.15, Verdict.REGRESSION),
            (1.04, Verdict.EQUAL),
            (0.97, Verdict.EQUAL),
            (0.85, Verdict.IMPROVEMENT),
        ],
    )
    def test_the_threshold_decides_where_noise_is_small(
        self, factor: float, expected: Verdict
    ) -> None:
        """Changes beyond 5 % count, smaller ones do not, in both directions."""
        assert verdict(STEADY, [factor * value for value in STEADY]) is expected

    def test_a_change_within_the_noise_is_unsure(self) -> None:
        """The medians differ by 10 %, but processes of one side differ by more."""
        base = [80.0, 120.0, 90.0, 130.0, 100.0, 75.0]
        head = [value * 1.1 for value in base]

        assert verdict(base, head) is Verdict.UNSURE

    def test_turns_cancel_what_slows_both_down(self) -> None:
        """The same numbers in turns are a clear regression: each turn is 10 % slower."""
        base = [80.0, 120.0, 90.0, 130.0, 100.0, 75.0]
        head = [value * 1.1 for value in base]

        found = judge(base, head, RULE, n_judged=1, is_paired=True)

        assert found.verdict is Verdict.REGRESSION
        assert found.ratio == pytest.approx(1.1)

    def test_few_processes_decide_nothing(self) -> None:
        """Twice as slow, but only in four processes."""
        assert verdict(STEADY[:4], [2 * value for value in STEADY[:4]]) is Verdict.UNSURE

    def test_one_wild_process_changes_nothing(self) -> None:
        """A process that was ten times slower is outvoted."""
        assert verdict(STEADY, [*STEADY[:-1], 1000.0]) is Verdict.EQUAL

    def test_more_numbers_need_wider_intervals(self) -> None:
        """What 40 numbers are judged by is wider than what one is."""
        rng = np.random.default_rng(1)
        base, head = rng.normal(100, 5, (2, 10)).tolist()

        one, many = (judge(base, head, RULE, n_judged=n, is_paired=False) for n in (1, 40))

        assert many.low < one.low < one.high < many.high

    def test_error_rates_hold_under_noise(self) -> None:
        """With 5 % noise per process, ten processes and seven numbers, both rates hold."""
        rng = np.random.default_rng(0)
        alarms = caught = 0
        for _ in range(40):
            base, head = np.exp(rng.normal(0, 0.05, (2, 7, 10)))
            planted = [
                judge(list(b), list(1.15 * h), RULE, n_judged=7, is_paired=False).verdict
                for b, h in zip(base, head, strict=True)
            ]
            same = [
                judge(list(b), list(h), RULE, n_judged=7, is_paired=False).verdict
                for b, h in zip(base, head, strict=True)
            ]
            caught += Verdict.REGRESSION in planted
            alarms += bool({Verdict.REGRESSION, Verdict.IMPROVEMENT} & set(same))

        assert alarms <= 4
        assert caught >= 36

    @pytest.mark.parametrize("head", [[], [1.0]], ids=["none", "fewer"])
    def test_pairs_must_match(self, head: list[float]) -> None:
        """A turn without its other half is no pair."""
        with pytest.raises(ConfigError, match="as many where paired"):
            judge([1.0, 2.0], head, RULE, n_judged=1, is_paired=True)


class TestCounts:
    @pytest.mark.parametrize(
        ("base", "head", "expected"),
        [
            (100, 100, Verdict.EQUAL),
            (100, 105, Verdict.EQUAL),
            (100, 106, Verdict.REGRESSION),
            (106, 100, Verdict.IMPROVEMENT),
            (0, 1, Verdict.REGRESSION),
            (0, 0, Verdict.EQUAL),
        ],
    )
    def test_bytes_need_no_statistics(self, base: int, head: int, expected: Verdict) -> None:
        """They do not vary, so the threshold alone decides."""
        assert judge_counts(base, head, RULE).verdict is expected


@pytest.mark.parametrize(
    "wrong", [{"threshold": 0}, {"alpha": 1}, {"n_resamples": 1}, {"min_processes": 1}]
)
def test_rules_that_decide_nothing_are_refused(wrong: dict[str, float]) -> None:
    """A threshold of 0 would call every rounding a regression."""
    with pytest.raises(ConfigError):
        Rule(**wrong)
