"""Rates against SciPy, sample sizes by search."""

from math import isnan

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from isthmus._check import InputError
from isthmus.rates import Rate, hits_of, mcnemar, samples_needed, samples_to_decide, spread, wilson


@pytest.mark.parametrize("n", [1, 2, 7, 60, 250, 3600, 100_000])
@pytest.mark.parametrize("share", [0.0, 0.013, 0.5, 0.92, 1.0])
def test_bounds_are_those_of_scipy(n: int, share: float) -> None:
    rate = Rate(round(share * n), n)
    expected = binomtest(rate.hits, n).proportion_ci(confidence_level=0.95, method="wilson")
    assert rate.low == pytest.approx(expected.low, abs=1e-12)
    assert rate.high == pytest.approx(expected.high, abs=1e-12)
    assert 0.0 <= rate.low <= rate.value <= rate.high <= 1.0


def test_no_hit_and_nothing_but_hits_end_exactly_at_the_box() -> None:
    assert Rate(0, 60).low == 0.0
    assert Rate(60, 60).high == 1.0
    # Closed form at no hit: z^2 / (n + z^2).
    assert Rate(0, 60).high == pytest.approx(1.959963984540054**2 / (60 + 1.959963984540054**2))


def test_text_has_bounds_and_count() -> None:
    assert str(Rate(43, 3600)) == "1.2 % (0.9-1.6, n = 3,600)"
    assert str(Rate(0, 5)) == "0.0 % (0.0-43.4, n = 5)"


@pytest.mark.parametrize("rate", [Rate(0, 1), Rate(1, 3), Rate(43, 3600), Rate(99_999, 100_000)])
def test_json_comes_back_equal(rate: Rate) -> None:
    document = rate.to_json()
    assert list(document) == ["value", "n", "low", "high"]
    assert document["low"] == rate.low
    assert Rate.from_json(document) == rate


def test_rate_of_outcomes_counts_true() -> None:
    assert Rate.of(torch.tensor([True, False, True])) == Rate(2, 3)
    with pytest.raises(InputError, match=r"`outcomes` should be a boolean tensor\. Found torch\.int64"):
        Rate.of(torch.tensor([1, 0]))


def test_impossible_rates_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"`n` should be at least 1, because a rate of no samples says nothing\. Found 0"
    ):
        Rate(0, 0)
    with pytest.raises(InputError, match=r"`hits` should be in 0\.\.3\. Found 4"):
        Rate(4, 3)
    with pytest.raises(InputError, match=r"`hits` should be in 0\.\.3\. Found -1"):
        Rate(-1, 3)
    with pytest.raises(InputError, match=r"`n` should be at least 1\. Found 0"):
        wilson(0.5, 0)
    with pytest.raises(InputError, match=r"`value` should be a share in \[0, 1\]\. Found 1\.2"):
        wilson(1.2, 5)
    with pytest.raises(InputError, match=r"`rate` should have 'value' and 'n'\. Found no n"):
        Rate.from_json({"value": 0.5})


def test_hits_are_recovered_and_others_refused() -> None:
    for n in (3, 7, 1797, 99_991):
        for hits in {0, 1, n // 3, n - 1, n}:
            assert hits_of(float(np.float32(hits / n)), n) == hits
    with pytest.raises(InputError, match=r"`value` should be a whole number of samples over n = 4\. Found 0\.3"):
        hits_of(0.3, 4)
    with pytest.raises(InputError, match=r"`value` should be a share in \[0, 1\]\. Found nan"):
        hits_of(float("nan"), 4)


def half_width(share: float, n: int) -> float:
    low, high = wilson(share, n)
    return (high - low) / 2


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.92])
@pytest.mark.parametrize("width", [0.2, 0.05, 0.01])
def test_samples_needed_is_the_smallest_that_does(share: float, width: float) -> None:
    n = samples_needed(share, width)
    assert half_width(share, n) <= width + 1e-9
    assert n == 1 or half_width(share, n - 1) > width - 1e-9


@pytest.mark.parametrize(("share", "limit"), [(0.0, 0.05), (0.02, 0.05), (0.97, 0.95), (0.5, 0.51)])
def test_samples_to_decide_is_the_smallest_that_leaves_the_limit_outside(share: float, limit: float) -> None:
    def outside(n: int) -> bool:
        low, high = wilson(share, n)
        return not low <= limit <= high

    n = samples_to_decide(share, limit)
    assert outside(n)
    assert not outside(n - 1)


def test_impossible_sample_sizes_are_refused() -> None:
    with pytest.raises(InputError, match=r"`half_width` should be in \(0, 0\.5\)\. Found 0\.0"):
        samples_needed(0.5, 0.0)
    with pytest.raises(InputError, match=r"`rate_value` should be a share in \[0, 1\]\. Found 50"):
        samples_needed(50, 0.1)
    with pytest.raises(InputError, match=r"`rate_value` should be a share in \[0, 1\]\. Found 50"):
        samples_to_decide(50, 0.1)
    with pytest.raises(InputError, match=r"`limit` should be in \(0, 1\)\. Found 1\.0"):
        samples_to_decide(0.5, 1.0)
    with pytest.raises(InputError, match=r"differ from the limit 0\.05, or no number of samples decides\. Found 0\.05"):
        samples_to_decide(0.05, 0.05)


def test_spread_is_mean_and_sample_deviation() -> None:
    values = [0.95, 0.97, 0.91, 0.99]
    mean, deviation = spread(values)
    assert mean == pytest.approx(np.mean(values))
    assert deviation == pytest.approx(np.std(values, ddof=1))
    alone = spread([0.5])
    assert alone[0] == 0.5
    assert isnan(alone[1])
    with pytest.raises(InputError, match=r"`values` should hold at least one number\. Found none"):
        spread([])


def test_mcnemar_is_the_binomial_test_of_the_discordant_pairs() -> None:
    first = torch.tensor([True] * 12 + [False] * 3 + [True] * 50 + [False] * 5)
    second = torch.tensor([False] * 12 + [True] * 3 + [True] * 50 + [False] * 5)
    found = mcnemar(first, second)
    # Two-sided exact p by hand: 2 x P[Binomial(15, 1/2) <= 3] = 2 x (1 + 15 + 105 + 455) / 2^15.
    assert found.p_value == pytest.approx(2 * 576 / 2**15)
    assert (found.only_first, found.only_second, found.n) == (12, 3, 70)
    assert found.change == pytest.approx(float(second.float().mean() - first.float().mean()))
    assert mcnemar(first, first).p_value == 1.0


def test_mcnemar_refuses_what_is_not_paired() -> None:
    yes = torch.tensor([True])
    with pytest.raises(InputError, match=r"`second` should have the shape \(1,\) of `first`\. Found \(2,\)"):
        mcnemar(yes, torch.tensor([True, False]))
    with pytest.raises(InputError, match=r"`outcomes` should be boolean\. Found torch\.bool, torch\.int64"):
        mcnemar(yes, torch.tensor([1]))
    with pytest.raises(InputError, match=r"`first` should hold at least one outcome\. Found none"):
        mcnemar(yes[:0], yes[:0])
