"""Second endpoints made from the suspect itself, each built again step by step from its definition."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from contracts.modules import assert_same_bits, tensors_of, untouched
from isthmus._check import InputError
from isthmus.evaluate import correct, logits
from isthmus.geometry.build import bezier
from isthmus.geometry.matching import match_activations
from isthmus.geometry.symmetry import symmetry_of
from isthmus.randomness import seed_of, stream
from isthmus.rates import Rate
from isthmus.repair.protocol import Clean, Repaired
from isthmus.repair.self_path import Extrapolate, PermutedPath, SelfPath
from isthmus.repair.strength import strongest_within
from isthmus.settle import Recalibrate
from isthmus.training.fit import fit, fit_module
from isthmus.training.plan import Plan
from isthmus.training.session import Session
from repair_example import suspects, trusted

TUNE = Plan(steps=10, batch_size=20, learning_rate=0.05)
CURVE = Plan(steps=8, batch_size=20, learning_rate=0.02)
SELF = SelfPath(TUNE, CURVE, points=5)


def run(remedy: SelfPath | Extrapolate | PermutedPath, *, seed: int = 0, session: Session | None = None) -> Repaired:
    return remedy(suspects(), trusted(), seed=seed, session=session or Session())


@cache
def ran(remedy: SelfPath | Extrapolate | PermutedPath) -> Repaired:
    with untouched(*suspects()):
        return run(remedy)


@cache
def tuned() -> nn.Module:
    """The fine-tuned copy that both remedies make with seed 0."""
    module, _ = fit_module(suspects()[0], trusted().train, TUNE, seed=seed_of(0, "tune"))
    Recalibrate(trusted().train)(module)
    return module


def extrapolated(t: float) -> nn.Module:
    """theta_0 + t (theta_tuned - theta_0), tensor by tensor, with its own statistics."""
    first, second = dict(suspects()[0].named_parameters()), dict(tuned().named_parameters())
    module = run(replace(EXTRAPOLATE, points=2, reach=1.0)).module
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(first[name].double() + t * (second[name].double() - first[name].double()))
    Recalibrate(trusted().train)(module)
    return module


EXTRAPOLATE = Extrapolate(TUNE, points=7)

# ---- the fine-tuned copy --------------------------------------------------------------------------------------------


def test_a_path_to_the_fine_tuned_copy_is_the_curve_between_the_two() -> None:
    found = ran(SELF)
    train, validation = trusted().train, trusted().validation
    curve = fit(bezier((suspects()[0], tuned())), train, CURVE, seed=seed_of(0, "path")).bridge
    places = [0.0, 0.25, 0.5, 0.75, 1.0]
    models = [curve.at(t, settle=Recalibrate(train)) for t in places]
    rates = [Rate.of(correct(logits(m, validation), validation.y)) for m in models]
    chosen = strongest_within(places, rates, margin=SELF.margin)
    assert_same_bits(tensors_of(found.module), tensors_of(models[chosen]))
    assert found.choice is not None
    assert (found.choice.u[0], found.choice.accuracy) == (places[chosen], rates[chosen])
    assert found.evaluations == TUNE.evaluations + CURVE.evaluations
    assert (
        found.note == f"t = {places[chosen]:.3g} of the bezier:2 curve from the suspect (0) to its fine-tuned copy (1)"
    )
    assert found.name == "self-path"
    assert found.seconds > 0


def test_both_plans_and_the_seed_matter() -> None:
    curve = ran(SELF).bridge
    assert curve is not None
    others = [
        run(replace(SELF, tune=TUNE.model_copy(update={"learning_rate": 0.01}))),
        run(replace(SELF, curve=CURVE.model_copy(update={"learning_rate": 0.1}))),
        run(SELF, seed=1),
    ]
    for other in others:
        assert other.bridge is not None
        assert not torch.equal(other.bridge.free, curve.free)


def test_every_fit_has_a_checkpoint_of_its_own_and_is_taken_up_from_it(tmp_path: Path) -> None:
    session = Session(checkpoint=tmp_path / "checkpoint.pt", every_seconds=0)
    for remedy in (SELF, PermutedPath(CURVE, rounds=1)):
        first, again = run(remedy, session=session), run(remedy, session=session)
        for found in (first, again):
            assert_same_bits(tensors_of(found.module), tensors_of(ran(remedy).module))
    names = sorted(path.name for path in tmp_path.iterdir())
    stages = ("amplify-0", "path", "recover-0", "tune")
    assert names == [f"checkpoint-{stage}.pt" for stage in stages]


# ---- past it --------------------------------------------------------------------------------------------------------


def test_a_point_past_the_copy_is_that_of_the_straight_line() -> None:
    found = ran(EXTRAPOLATE)
    assert found.choice is not None
    expected = tensors_of(extrapolated(found.choice.u[0]))
    for name, tensor in tensors_of(found.module).items():
        assert torch.allclose(tensor, expected[name], rtol=1e-4, atol=1e-5), name
    assert found.evaluations == TUNE.evaluations


def test_t_is_the_strongest_by_validation_accuracies_measured_again() -> None:
    found = ran(EXTRAPOLATE)
    assert found.table is not None
    assert found.choice is not None
    places = found.table.frame["t"].tolist()
    assert places == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1.25, 1.5])
    validation = trusted().validation
    rates = [Rate.of(correct(logits(extrapolated(t), validation), validation.y)) for t in places[1:]]
    rates = [
        Rate.of(correct(logits(suspects()[0], validation), validation.y)),
        *rates,
    ]  # a given end keeps its statistics
    chosen = strongest_within(places, rates, margin=EXTRAPOLATE.margin)
    assert found.choice.u[0] == places[chosen]
    assert found.choice.accuracy == rates[chosen]
    assert found.choice.best.value == max(rate.value for rate in rates)
    assert found.choice.candidates == sum(rate.value >= found.choice.bar - 1e-12 for rate in rates)
    assert {column.split for column in found.table.columns if column.name != "t"} == {"validation"}


def test_the_ends_of_the_line_are_the_suspect_and_its_copy() -> None:
    line = ran(EXTRAPOLATE).bridge
    assert line is not None
    assert line.names == ("suspect 0", "fine-tuned")
    assert_same_bits(tensors_of(line.at(0.0)), tensors_of(suspects()[0]))
    assert_same_bits(tensors_of(line.at(1.0)), tensors_of(tuned()))


def test_reach_points_and_margin_matter() -> None:
    end = run(replace(SELF, points=3, margin=1.0))
    assert end.choice is not None
    assert end.choice.u[0] == 1
    assert_same_bits(tensors_of(end.module), tensors_of(tuned()))
    far = run(Extrapolate(TUNE, reach=40.0, points=5, margin=1.0))
    assert far.choice is not None
    assert far.choice.u[0] == 40  # nothing is too weak
    assert far.note == "t = 40 of the line through the suspect (0) and its fine-tuned copy (1)"
    near = run(Extrapolate(TUNE, reach=40.0, points=5, margin=0.0))
    assert near.choice is not None
    assert near.choice.u[0] < 40
    assert "the larger of 0.0 points and 1 standard error, n = 40" in near.choice.rule


def test_settings_of_the_line_are_checked() -> None:
    with pytest.raises(InputError, match=r"`reach` should be at least 1, the fine-tuned copy. Found 0.5."):
        Extrapolate(TUNE, reach=0.5)
    with pytest.raises(InputError, match=r"`reach` should be at least 1, the fine-tuned copy. Found inf."):
        Extrapolate(TUNE, reach=float("inf"))
    with pytest.raises(InputError, match=r"`points` should be at least 2. Found 1."):
        SelfPath(TUNE, CURVE, points=1)
    with pytest.raises(InputError, match=r"`points` should be at least 2. Found 1."):
        Extrapolate(TUNE, points=1)


# ---- the permuted copy ----------------------------------------------------------------------------------------------


def test_a_round_is_the_published_one_done_step_by_step() -> None:
    found = ran(PermutedPath(CURVE, rounds=1))
    first, train = suspects()[0], trusted().train
    settle = Recalibrate(train)
    symmetry = symmetry_of(first, train.inputs(torch.arange(2)), generator=stream(0, "symmetry"))
    seen = train.subset(len(train), generator=stream(0, "matched"))
    far = match_activations(first, first, symmetry, seen, goal="misalign")
    curve = fit(bezier((first, far.module)), train, CURVE, seed=seed_of(0, "amplify-0")).bridge
    amplified = curve.at(0.4, settle=settle)
    near = match_activations(amplified, first, symmetry, seen, goal="align")
    back = fit(bezier((near.module, amplified)), train, CURVE, seed=seed_of(0, "recover-0"))
    assert_same_bits(tensors_of(found.module), tensors_of(back.bridge.at(0.4, settle=settle)))
    assert far.before > 0.99 > far.after
    assert near.after >= near.before
    told = f"{far.before:.2f} to {far.after:.2f}, {near.before:.2f} to {near.after:.2f}"
    assert found.note == f"t = 0.4 of 2 curves, 3 groups permuted; correlation of units {told}"
    assert found.evaluations == 2 * CURVE.evaluations


def test_rounds_t_and_the_images_matched_on_matter() -> None:
    one = ran(PermutedPath(CURVE, rounds=1))
    two = run(PermutedPath(CURVE, rounds=2))
    assert two.evaluations == 4 * CURVE.evaluations
    assert two.note.count(";") == 2
    others = [two, run(PermutedPath(CURVE, rounds=1, t=0.2)), run(PermutedPath(CURVE, rounds=1, matched=5))]
    for other in others:
        assert not torch.equal(other.module.get_parameter("fc.weight"), one.module.get_parameter("fc.weight"))


class Ranked(nn.Module):
    """Sorts its first hidden units, which no rule covers."""

    def __init__(self, *, units: bool) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 12), nn.Linear(12, 10)
        self.between = nn.Linear(12, 12) if units else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.between(torch.sort(self.first(x.flatten(1)), dim=1).values)))


def test_what_stays_unpermuted_is_told() -> None:
    torch.manual_seed(0)
    found = PermutedPath(CURVE, rounds=1)([Ranked(units=True)], trusted(), seed=0, session=Session())
    assert "left unpermuted: first.weight[0]: sort" in found.warnings


def test_a_model_without_units_to_permute_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"`model` should have hidden units that may be permuted. Found none \(first.weight"
    ):
        PermutedPath(CURVE)([Ranked(units=False)], trusted(), seed=0, session=Session())
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(InputError, match=r"Found none \(no hidden units\). Use a remedy that permutes nothing."):
        PermutedPath(CURVE)([linear], trusted(), seed=0, session=Session())


def test_settings_of_the_permuted_path_are_checked() -> None:
    with pytest.raises(InputError, match=r"`rounds` should be at least 1. Found 0."):
        PermutedPath(CURVE, rounds=0)
    with pytest.raises(InputError, match=r"`t` should be strictly between 0 and 1. Found 1.0."):
        PermutedPath(CURVE, t=1.0)
    with pytest.raises(InputError, match=r"`matched` should be at least 2 images. Found 1."):
        PermutedPath(CURVE, matched=1)


def test_validation_images_choose_and_do_not_train() -> None:
    other = Clean(trusted().train, trusted(train=60, validation=30).validation)
    for remedy in (PermutedPath(CURVE, rounds=1),):
        found = remedy(suspects(), other, seed=0, session=Session())
        assert_same_bits(tensors_of(found.module), tensors_of(ran(remedy).module))
