"""What is left of plants after a remedy, and along a path: counted by hand, and the interval by enumeration."""

from collections.abc import Sequence
from functools import cache
from math import sqrt

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.stats import binom
from torch import nn

from contracts.modules import untouched
from isthmus._check import InputError
from isthmus.geometry.build import bezier
from isthmus.layout import Layout
from isthmus.rates import Paired, Rate
from isthmus.repair.protocol import Clean
from isthmus.repair.trust.planted import Errors, Implant, Plant, Planting, plant
from isthmus.repair.trust.removal import Removal, Removed, pooled, removal, share_removed, survival
from isthmus.settle import Keep, Recalibrate
from isthmus.tampering import Patch
from isthmus.training.plan import Plan
from repair_example import suspects, trusted

PLANTING = Planting(
    Plan(steps=15, batch_size=20, optimizer="adamw", learning_rate=3e-3, weight_decay=0.0), share=0.4, least=0.5
)


@cache
def corner() -> Plant:
    return plant(suspects(), trusted(), Implant("corner", Patch(2, at=(0, 0)), 3), PLANTING, seed=0)


@cache
def errors() -> Plant:
    return plant(suspects(), trusted(), Errors(4), PLANTING, seed=0)


def outcome(name: str, share: float, low: float, high: float) -> Removed:
    return Removed(name, Rate(9, 10), Rate(1, 10), Rate(8, 10), Paired(0, 0, 10, 1.0), share, low, high)


@pytest.mark.parametrize(
    ("before", "after", "share"),
    [(Rate(50, 50), Rate(0, 50), 1.0), (Rate(40, 50), Rate(10, 50), 0.75), (Rate(20, 50), Rate(30, 50), -0.5)],
)
def test_the_share_removed_is_what_is_gone_of_what_was_there(before: Rate, after: Rate, share: float) -> None:
    found, low, high = share_removed(before, after)
    assert found == pytest.approx(share)
    assert low <= found <= high <= 1.0


@pytest.mark.parametrize(("before", "after"), [(0.9, 0.1), (1.0, 0.5), (0.8, 0.02), (0.95, 0.95)])
def test_the_interval_covers_the_true_share(before: float, after: float) -> None:
    """Exact coverage of independent samples of 30, by enumeration of all outcomes."""
    n, truth, covered = 30, 1 - after / before, 0.0
    for i in range(1, n + 1):
        for j in range(n + 1):
            weight = binom.pmf(i, n, before) * binom.pmf(j, n, after)
            if weight > 1e-7:
                _, low, high = share_removed(Rate(i, n), Rate(j, n))
                covered += weight * (low - 1e-12 <= truth <= high + 1e-12)
    assert 0.93 < covered <= 1.0


def test_nothing_there_is_no_share() -> None:
    with pytest.raises(InputError, match=r"`before` should be above 0, or there was nothing to remove\. Found 0\.0 %"):
        share_removed(Rate(0, 10), Rate(0, 10))


def test_a_remedy_that_does_nothing_removes_nothing_and_costs_nothing() -> None:
    seen: list[tuple[Sequence[nn.Module], Clean]] = []

    def keep(modules: Sequence[nn.Module], clean: Clean) -> nn.Module:
        seen.append((modules, clean))
        best = max(range(2), key=lambda k: corner().success[k].value)
        return modules[best if len(seen) == 1 else 0]

    with untouched(*corner().modules):
        found = removal([corner()], keep)
    assert seen == [(corner().modules, corner().clean)]
    assert (found.outcomes[0].share, found.estimate, found.skipped) == (0.0, 0.0, ())
    assert found.outcomes[0].before == found.outcomes[0].after
    assert removal([corner()], keep).outcomes[0].cost.change == 0.0


def test_a_remedy_that_returns_the_suspect_removes_the_plant() -> None:
    found = removal([corner(), errors()], lambda *_: suspects()[0])
    first, second = found.outcomes
    assert first.after == corner().measure(suspects()[0])
    assert first.before.value == max(rate.value for rate in corner().success)
    assert first.share == pytest.approx(1 - first.after.value / first.before.value)
    assert second.after == Rate(0, 4)  # the suspect knows these images
    assert second.share == 1.0
    assert second.accuracy.n == 36
    assert first.accuracy == corner().before[0]


def test_plants_that_did_not_take_say_nothing() -> None:
    weak = plant(
        suspects()[:1],
        trusted(),
        Implant("weak", Patch(1), 1),
        Planting(Plan(steps=1, batch_size=20, learning_rate=1e-9)),
        seed=0,
    )
    assert removal([weak, corner()], lambda modules, _: modules[0]).skipped == ("weak",)
    with pytest.raises(InputError, match=r"`plants` should hold one that took\. Found 1 that did not"):
        removal([weak], lambda modules, _: modules[0])


def test_the_headline_is_the_worst_the_estimate_the_mean_and_the_interval_that_of_one_more() -> None:
    shares = (0.9, 0.5, 0.7)
    found = Removal(
        tuple(outcome(name, share, share, share) for name, share in zip("abc", shares, strict=True)), skipped=()
    )
    assert found.worst.name == "b"
    assert found.estimate == pytest.approx(0.7)
    half = stats.t(df=2, scale=0.2 * sqrt(4 / 3)).ppf(0.9)  # a fifth outside, both sides alike
    assert found.interval == (pytest.approx(0.7 - half), 1.0)
    assert pooled([(share, share, share) for share in shares], level=0.6)[2] == pytest.approx(
        0.7 + stats.t(df=2, scale=0.2 * sqrt(4 / 3)).ppf(0.8)
    )
    with pytest.raises(InputError, match=r"`shares` should hold that of one plant at least\. Found none"):
        pooled([])


def test_the_interval_holds_one_more_of_the_same_as_often_as_it_says() -> None:
    drawn = np.random.default_rng(0).normal(0.2, 0.1, (4000, 4))
    bounds = [pooled([(float(share),) * 3 for share in row[:3]])[1:] for row in drawn]
    held = [low <= row[3] <= high for row, (low, high) in zip(drawn, bounds, strict=True)]
    assert np.mean(held) == pytest.approx(0.8, abs=0.03)  # five standard errors


def test_shares_that_agree_are_no_more_certain_than_each_of_them() -> None:
    assert pooled([(1.0, 0.75, 1.0), (1.0, 0.5, 1.0)]) == (1.0, 0.5, 1.0)
    assert pooled([(0.5, 0.25, 0.625), (0.5, 0.375, 0.75)]) == (0.5, 0.25, 0.75)


def test_a_single_plant_says_nothing_about_the_spread() -> None:
    assert pooled([(0.9, 0.8, 1.0)]) == (0.9, 0.0, 1.0)
    assert pooled([(-0.1, -0.3, 0.1)]) == (-0.1, -0.3, 1.0)


def test_survival_moves_the_ends_of_the_path_and_nothing_else() -> None:
    bridge = bezier(suspects())
    bridge = bridge.with_free(bridge.free + 0.01)  # stands for training
    table = survival([corner(), errors()], bridge, [0.0, 0.3, 1.0], settle=Keep()).frame
    ends = [100 * corner().measure(module).value for module in corner().modules]
    assert table["corner_success"].iloc[[0, 2]].tolist() == pytest.approx(ends)
    layout = Layout.of(suspects()[0])
    theta = bridge.theta(0.3)
    for weight, planted, suspect in zip((0.49, 0.09), corner().modules, suspects(), strict=True):
        one, two = (layout.flatten(dict(module.named_parameters())) for module in (planted, suspect))
        theta = theta + weight * (one - two)
    module = bridge.at(0.0)
    with torch.no_grad():
        for name, value in layout.unflatten(theta).items():
            module.get_parameter(name).copy_(value)
        for name, buffer in corner().modules[0].named_buffers():
            module.get_buffer(name).copy_(buffer)
    assert table["corner_success"].iloc[1] == pytest.approx(100 * corner().measure(module).value)
    assert list(table.columns[:2]) == ["t", "corner_success"]
    assert {"errors_success", "errors_success_low"} <= set(table.columns)


def test_one_end_may_be_planted_and_the_settling_counts() -> None:
    bridge = bezier(suspects())
    table = survival([corner()], bridge, [0.0, 0.5, 1.0], settle=Keep(), ends=[0]).frame["corner_success"]
    assert table.iloc[2] == pytest.approx(100 * corner().measure(suspects()[1]).value)
    assert table.iloc[0] == pytest.approx(100 * corner().success[0].value)
    other = survival([corner()], bridge, [0.5], settle=Recalibrate(trusted().train), ends=[0]).frame["corner_success"]
    assert other.iloc[0] != table.iloc[1]


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda b: survival([], b, [0.5], settle=Keep()), "`plants` should be at least one"),
        (lambda b: survival([corner()], b, [0.5], settle=Keep(), ends=[2]), r"`ends` should lie in 0\.\.1\. Found 2"),
        (
            lambda b: survival(
                [plant(suspects()[:1], trusted(), Errors(2), PLANTING, seed=0)], b, [0.5], settle=Keep()
            ),
            r"`plants` should have 2 copies, one per fixed point\. Found 1",
        ),
    ],
)
def test_plants_that_do_not_fit_the_path_are_refused(act, message) -> None:
    with pytest.raises(InputError, match=message):
        act(bezier(suspects()))
