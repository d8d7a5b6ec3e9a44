"""Figures beside the rates, each against a count by hand or another way of computing it."""

from math import pi, sqrt
from statistics import NormalDist

import numpy as np
import pytest
import torch
from scipy.stats import binom

from isthmus._check import InputError
from isthmus.rates import Rate, wilson
from isthmus.recipes.quality import brier, by_class, calibration, changed, effectiveness, least_effectiveness
from isthmus.recipes.sample_sizes import below_with_power, sample_sizes
from isthmus.report import Entry, RateEntry

Z = 1.959963984540054


def logits_for(confidence: float) -> list[float]:
    """Two logits whose larger probability, of class 0, is `confidence`."""
    return [float(np.log(confidence / (1 - confidence))), 0.0]


def test_calibration_error_by_hand() -> None:
    """Ten bins. Three samples at 0.95 of which two are right, two at 0.65 of which one is right: (3 |2/3 - .95| + 2 |1/2 - .65|) / 5."""
    scores = torch.tensor([logits_for(c) for c in (0.95, 0.95, 0.95, 0.65, 0.65)], dtype=torch.float64)
    y = torch.tensor([0, 0, 1, 0, 1])
    found = calibration(scores, y, bins=10)
    assert found is not None
    assert found.error == pytest.approx((3 * abs(2 / 3 - 0.95) + 2 * abs(1 / 2 - 0.65)) / 5)
    assert found.confidence == pytest.approx((3 * 0.95 + 2 * 0.65) / 5)
    assert found.by_chance == pytest.approx((sqrt(2 * 3 * 0.95 * 0.05 / pi) + sqrt(2 * 2 * 0.65 * 0.35 / pi)) / 5)
    assert (found.bins, found.n) == (10, 5)
    held = {b: (part.n, part.confidence, part.accuracy) for b, part in enumerate(found.by_bin) if part.n}
    assert len(found.by_bin) == 10
    assert held[6] == (2, pytest.approx(0.65), 1 / 2)
    assert held[9] == (3, pytest.approx(0.95), 2 / 3)
    assert set(held) == {6, 9}
    one = calibration(scores, y, bins=1)  # a single bin: the difference of the means
    assert one is not None
    assert one.error == pytest.approx(abs(3 / 5 - found.confidence))


def test_brier_score_by_hand() -> None:
    """Sure and right 0, sure and wrong 2, undecided between k classes 1 - 1/k."""
    sure = torch.tensor([[50.0, -50.0], [50.0, -50.0]], dtype=torch.float64)
    assert brier(sure, torch.tensor([0, 1])) == pytest.approx(1.0)
    assert brier(torch.zeros(3, 4), torch.tensor([0, 1, 2])) == pytest.approx(3 / 4)
    scores = torch.tensor([logits_for(0.8)], dtype=torch.float64)
    assert brier(scores, torch.tensor([0])) == pytest.approx(2 * 0.2**2)
    assert brier(torch.tensor([[torch.nan, 0.0]]), torch.tensor([0])) is None


@pytest.mark.parametrize("bins", [1, 4, 15])
def test_calibration_error_written_with_loops(bins: int) -> None:
    generator = torch.Generator().manual_seed(3)
    scores, y = 3 * torch.randn(400, 5, generator=generator), torch.randint(5, (400,), generator=generator)
    expected = 0.0
    probabilities = np.exp(scores.double().numpy())
    probabilities /= probabilities.sum(1, keepdims=True)
    for b in range(bins):
        top = probabilities.max(1)
        inside = (top > b / bins) & (top <= (b + 1) / bins)
        if inside.any():
            right = probabilities.argmax(1)[inside] == y.numpy()[inside]
            expected += inside.mean() * abs(right.mean() - top[inside].mean())
    found = calibration(scores, y, bins=bins)
    assert found is not None
    assert found.error == pytest.approx(expected, abs=1e-12)
    parts = [(part.n, part.accuracy, part.confidence) for part in found.by_bin if part.n]
    again = sum(n * abs(a - c) for n, a, c in parts if a is not None and c is not None) / found.n
    assert again == pytest.approx(found.error, abs=1e-12)


def test_a_calibrated_model_shows_what_chance_gives() -> None:
    """Answers are right with exactly the probability of their confidence: the mean error over 300 draws is the one announced."""
    generator = torch.Generator().manual_seed(0)
    confidence = 0.55 + 0.43 * torch.rand(200, generator=generator, dtype=torch.float64)
    scores = torch.stack([(confidence / (1 - confidence)).log(), torch.zeros(200, dtype=torch.float64)], 1)
    errors = []
    for _ in range(300):
        y = (torch.rand(200, generator=generator, dtype=torch.float64) >= confidence).long()
        found = calibration(scores, y)
        assert found is not None
        errors.append(found.error)
    assert np.mean(errors) == pytest.approx(found.by_chance, rel=0.06)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_calibration_of_what_is_no_probability_is_none(bad: float) -> None:
    assert calibration(torch.tensor([[0.0, bad], [0.0, 1.0]]), torch.tensor([0, 1])) is None


def test_calibration_is_sure_at_probability_one_and_needs_a_bin() -> None:
    sure = calibration(torch.tensor([[1000.0, 0.0]]), torch.tensor([0]))
    assert sure is not None
    assert (sure.error, sure.by_chance, sure.confidence) == (0.0, 0.0, 1.0)
    with pytest.raises(InputError, match=r"`bins` should be at least 1\. Found 0"):
        calibration(torch.zeros(1, 2), torch.tensor([0]), bins=0)


def test_accuracy_by_class_is_counted() -> None:
    right, y = torch.tensor([True, False, True, True]), torch.tensor([2, 2, 0, 0])
    found = by_class(right, y, 4)
    assert [None if rate is None else (rate.value, rate.n) for rate in found] == [(1.0, 2), None, (0.5, 2), None]
    assert found[2] is not None
    assert (found[2].low, found[2].high) == pytest.approx(wilson(0.5, 2))


def pair(n: int, lost: int, won: int) -> tuple[torch.Tensor, torch.Tensor]:
    before, after = torch.ones(n, dtype=torch.bool), torch.ones(n, dtype=torch.bool)
    after[:lost] = False
    before[lost : lost + won] = False
    return before, after


@pytest.mark.parametrize(("n", "lost", "won"), [(1000, 60, 20), (50, 1, 4), (400, 0, 0), (30, 30, 0)])
def test_the_change_has_the_exact_p_and_the_paired_interval(n: int, lost: int, won: int) -> None:
    found = changed(*pair(n, lost, won), "suspect 1")
    # Two-sided exact binomial test of b against c at 1/2, summed here by hand.
    total = lost + won
    exact = sum(binom.pmf(k, total, 0.5) for k in range(total + 1) if abs(k - total / 2) >= abs(lost - total / 2))
    assert found.p_value == pytest.approx(min(1.0, exact) if total else 1.0)
    # The sample variance of the differences -1, 0, 1, of one discordant pair at least.
    differences = np.array([-1.0] * lost + [1.0] * won + [0.0] * (n - total))
    half = Z * sqrt(max(differences.var() * n, 1.0)) / n
    assert (found.value, found.low, found.high) == pytest.approx(
        (differences.mean(), differences.mean() - half, differences.mean() + half)
    )
    assert (found.against, found.n, found.lost, found.won) == ("suspect 1", n, lost, won)


def entry(accuracy: float, attack: float | None, name: str = "model") -> Entry:
    rates = [None if value is None else RateEntry.of(Rate(round(1000 * value), 1000)) for value in (accuracy, attack)]
    assert rates[0] is not None
    return Entry(name=name, clean_accuracy=rates[0], attack_success=rates[1])


@pytest.mark.parametrize(
    ("before", "after", "rating"),
    [
        ((0.9, 1.0), (0.9, 0.0), 1.0),  # all removed at no cost
        ((0.9, 1.0), (0.9, 1.0), 0.5),  # nothing done
        ((0.9, 1.0), (0.8, 0.1), 0.9),  # (0.9 - 0.1 + 1) / 2
        ((0.9, 0.5), (0.95, 0.7), 0.5),  # neither a rise of accuracy nor one of attack success counts
        ((1.0, 0.2), (0.0, 0.2), 0.0),
    ],
)
def test_effectiveness_by_hand(before: tuple[float, float], after: tuple[float, float], rating: float) -> None:
    assert effectiveness(entry(*before), entry(*after)) == pytest.approx(rating)


def test_effectiveness_is_the_least_over_the_suspects_that_answer() -> None:
    after = entry(0.8, 0.1)
    strong, weak, idle = entry(0.9, 1.0), entry(0.8, 0.6), entry(0.9, 0.02)
    assert least_effectiveness([strong, weak, idle], after) == pytest.approx(0.75)
    assert least_effectiveness([idle], after) == pytest.approx(0.45)
    assert least_effectiveness([entry(0.9, None)], after) is None
    assert least_effectiveness([strong], entry(0.8, None)) is None


def chance_below(p: float, n: int, limit: float) -> float:
    """The exact chance that n samples of a true share p have a Wilson interval below the limit."""
    hits = [k for k in range(n + 1) if wilson(k / n, n)[1] < limit]
    return float(binom.cdf(max(hits), n, p)) if hits else 0.0


@pytest.mark.parametrize(("p", "limit"), [(0.02, 0.05), (0.06, 0.1), (0.01, 0.03)])
def test_four_in_five_samples_of_that_size_show_it(p: float, limit: float) -> None:
    assert chance_below(p, below_with_power(p, limit), limit) == pytest.approx(0.8, abs=0.06)


def test_published_number_of_pairs_for_one_point() -> None:
    """4 % discordant pairs, no difference, 80 % power, one point: about 3,100 pairs."""
    change = changed(*pair(1000, 20, 20), "x")
    sizes = {size.claim: size for size in sample_sizes(None, 0.05, Rate(920, 1000), change, 0.1)}
    found = sizes["accuracy fallen by less than 1 point"]
    normal = NormalDist()
    assert found.most == pytest.approx(0.04 * ((normal.inv_cdf(0.975) + normal.inv_cdf(0.8)) / 0.01) ** 2, abs=1)
    assert found.most == pytest.approx(3100, rel=0.02)
    assert found.half == pytest.approx(0.04 * (Z / 0.01) ** 2, abs=1)
    assert found.have == 1000


def test_claims_follow_the_limits_and_what_was_seen() -> None:
    change = changed(*pair(1000, 60, 20), "x")  # fell by 4 points
    sizes = {size.claim: size for size in sample_sizes(Rate(30, 1000), 0.05, Rate(900, 1000), change, 0.1)}
    assert list(sizes) == [
        "attack success below 5 %",
        "attack success below 1 %",
        "attack success known to ± 1 point",
        "accuracy fallen by less than 10 points",
        "accuracy fallen by less than 1 point",
        "accuracy known to ± 1 point",
    ]
    shown = sizes["attack success below 5 %"]
    assert shown.half is not None
    assert wilson(0.03, shown.half)[1] < 0.05 < wilson(0.03, shown.half - 1)[1]
    for claim in ("attack success below 1 %", "accuracy fallen by less than 1 point"):
        assert (sizes[claim].half, sizes[claim].most) == (None, None)  # contradicted by what was seen
    known = sizes["accuracy known to ± 1 point"].half
    assert known is not None
    low, high = wilson(0.9, known)
    assert (high - low) / 2 <= 0.01 < (wilson(0.9, known - 1)[1] - wilson(0.9, known - 1)[0]) / 2
    assert len(sample_sizes(Rate(30, 1000), 0.01, Rate(900, 1000), change, 0.01)) == 4  # the same claim once
    assert len(sample_sizes(None, 0.05, Rate(900, 1000), change, 0.1)) == 3
