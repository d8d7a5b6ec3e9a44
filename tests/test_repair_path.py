"""Repair by path on small digits: what it returns is what it says, and it looks at nothing but the trusted images."""

from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from contracts.modules import assert_same_bits, tensors_of, untouched
from isthmus._check import InputError
from isthmus.data import Samples
from isthmus.geometry.bridge import Bridge
from isthmus.losses import cross_entropy
from isthmus.probes import Clean as CleanProbe
from isthmus.randomness import seed_of
from isthmus.repair.choose import farthest_within
from isthmus.repair.path import PathRepair
from isthmus.repair.protocol import Clean, Repaired
from isthmus.settle import Recalibrate
from isthmus.training.fit import fit_module
from isthmus.training.objective import Own
from isthmus.training.plan import Plan
from isthmus.training.session import Session
from repair_example import fresh, suspects, trusted

PLAN = Plan(steps=12, batch_size=20, learning_rate=0.02)


def run(repair: PathRepair, *, seed: int = 0, clean: Clean | None = None) -> Repaired:
    return repair(suspects(), clean or trusted(), seed=seed, session=Session())


@cache
def plain() -> Repaired:
    with untouched(*suspects()):
        return run(PathRepair(PLAN, points=5))


def curve(repaired: Repaired) -> Bridge:
    assert repaired.bridge is not None
    return repaired.bridge


def test_the_ends_of_the_path_are_the_suspects() -> None:
    for t, suspect in zip((0.0, 1.0), suspects(), strict=True):
        assert_same_bits(tensors_of(curve(plain()).at(t)), tensors_of(suspect))


def test_the_model_is_the_chosen_point_with_its_own_statistics() -> None:
    assert plain().choice is not None
    settle = Recalibrate(trusted().train)
    expected = curve(plain()).at(plain().choice.u[0], settle=settle)
    assert_same_bits(tensors_of(plain().module), tensors_of(expected))
    unsettled = tensors_of(curve(plain()).at(plain().choice.u[0]))
    assert not torch.equal(unsettled["bn1.running_mean"], expected.bn1.running_mean)


def test_the_model_has_the_accuracy_that_the_choice_reports() -> None:
    choice, validation = plain().choice, trusted().validation
    assert choice is not None
    error = CleanProbe(validation, split="validation")(plain().module)["validation_error"]
    assert choice.accuracy.value == pytest.approx(1 - error / 100)
    assert choice.accuracy.n == len(validation) == 40


def test_the_choice_is_that_of_the_rule_on_validation_columns_alone() -> None:
    table = plain().table
    assert table is not None
    assert table.frame["t"].tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert {c.split for c in table.columns if c.name != "t"} == {"validation"}
    assert plain().choice == farthest_within(table, margin=0.02)
    assert plain().note == f"t = {plain().choice.u[0]:g} of a bezier:2 curve"


def test_evaluations_history_and_seconds_are_those_of_the_training() -> None:
    assert plain().evaluations == PLAN.evaluations == 12
    assert plain().history is not None
    assert plain().history.frame["step"].iloc[-1] == 12
    assert plain().seconds > 0
    assert run(PathRepair(PLAN.model_copy(update={"sharpness": 0.5}), points=3)).evaluations == 24


def test_the_same_seed_gives_the_same_model_and_another_one_does_not() -> None:
    again, other = run(PathRepair(PLAN, points=5)), run(PathRepair(PLAN, points=5), seed=1)
    assert_same_bits(tensors_of(again.module), tensors_of(plain().module))
    assert again.choice == plain().choice
    assert not torch.equal(curve(other).free, curve(plain()).free)


def test_margin_and_points_and_geometry_matter() -> None:
    generous = run(PathRepair(PLAN, points=7, margin=1.0, geometry="chain:1"))
    assert generous.choice is not None
    assert (generous.choice.u[0], generous.choice.candidates) == (0.5, 5)  # everything inside is near enough
    assert generous.note == "t = 0.5 of a chain:1 curve"
    strict = run(PathRepair(PLAN, points=7, margin=0.0, geometry="chain:1"))
    assert strict.choice is not None
    assert strict.choice.bar > generous.choice.bar
    assert not torch.equal(curve(generous).free, curve(plain()).free)


def test_validation_images_choose_and_training_images_train() -> None:
    """Other validation labels move nothing but the table and the choice."""
    held = trusted()
    wrong = held.validation.replaced(y=(held.validation.y + 1) % 10)
    other = run(PathRepair(PLAN, points=5), clean=Clean(held.train, wrong))
    assert torch.equal(curve(other).free, curve(plain()).free)
    assert other.table is not None
    assert plain().table is not None
    assert not other.table.frame.equals(plain().table.frame)


def test_an_objective_of_ones_own_is_trained_on_trusted_images_only() -> None:
    seen: list[Tensor] = []

    def objective(model: nn.Module, x: Tensor, y: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        seen.append(x)
        logits = model(x)
        return 2 * cross_entropy(logits, y), logits

    found = run(PathRepair(PLAN, points=3, objective=Own(objective)))
    assert len(seen) == 12
    contents = set(trusted().train.contents())
    bytes_seen = (torch.cat(seen) * 255).round().byte()
    assert set(Samples(bytes_seen, torch.zeros(len(bytes_seen), dtype=torch.int64), 10).contents()) <= contents
    assert not torch.equal(curve(found).free, curve(plain()).free)


def test_a_polish_trains_the_chosen_point_further(tmp_path: Path) -> None:
    polish = Plan(steps=5, batch_size=20, sharpness=0.5)
    session = Session(checkpoint=tmp_path / "checkpoint.pt")
    found = PathRepair(PLAN, points=5, polish=polish)(suspects(), trusted(), seed=0, session=session)
    assert torch.equal(curve(found).free, curve(plain()).free)
    assert found.choice == plain().choice
    expected, _ = fit_module(plain().module, trusted().train, polish, seed=seed_of(0, "polish"))
    Recalibrate(trusted().train)(expected)
    assert_same_bits(tensors_of(found.module), tensors_of(expected))
    assert found.evaluations == 12 + 10
    assert found.note == f"{plain().note}, trained further"
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.pt", "checkpoint-polish.pt"}
    again = PathRepair(PLAN, points=5, polish=polish)(
        suspects(), trusted(), seed=0, session=session
    )  # taken up at the end
    assert_same_bits(tensors_of(again.module), tensors_of(expected))


@pytest.mark.parametrize("count", [1, 3])
def test_a_path_has_two_ends(count: int) -> None:
    many = (suspects() * 2)[:count]
    with pytest.raises(InputError, match=rf"`suspects` should be 2 models for bezier:2\. Found {count}"):
        PathRepair(PLAN)(many, trusted(), seed=0, session=Session())


TUNE = Plan(steps=4, batch_size=20, learning_rate=0.02)


@cache
def patched() -> Repaired:
    with untouched(*suspects()):
        return run(PathRepair(PLAN, "surface", "surface:2x2", 4, TUNE, points=3, margin=1.0))


def test_a_surface_has_the_suspects_and_their_tuned_copies_at_its_corners() -> None:
    bridge = curve(patched())
    tuned = [fit_module(one, trusted().train, TUNE, seed=seed_of(0, "tune", k))[0] for k, one in enumerate(suspects())]
    for u, expected in zip([(0, 0), (0, 1), (1, 0), (1, 1)], [*suspects(), *tuned], strict=True):
        assert_same_bits(tensors_of(bridge.at(u)), tensors_of(expected))
    assert bridge.names == ("suspect 0", "suspect 1", "suspect 0, fine-tuned", "suspect 1, fine-tuned")
    assert patched().evaluations == 12 + 2 * 4


def test_of_a_surface_the_middle_is_farthest_from_all_corners() -> None:
    found = patched()
    assert found.choice is not None
    assert (found.choice.u, found.choice.candidates) == ((0.5, 0.5), 5)  # of nine the corners are none
    assert found.note == "u = 0.5, v = 0.5 of a surface:2x2 patch"
    expected = curve(found).at((0.5, 0.5), settle=Recalibrate(trusted().train))
    assert_same_bits(tensors_of(found.module), tensors_of(expected))


def test_enough_suspects_take_all_corners() -> None:
    four = [fresh(seed).eval() for seed in range(4)]
    found = PathRepair(PLAN, geometry="surface:2x2", joins=4, points=3)(four, trusted(), seed=0, session=Session())
    assert found.evaluations == 12
    for u, expected in zip([(0, 0), (0, 1), (1, 0), (1, 1)], four, strict=True):
        assert_same_bits(tensors_of(curve(found).at(u)), tensors_of(expected))


@pytest.mark.parametrize(("tune", "count", "wanted"), [(None, 3, "4"), (TUNE, 1, "2 to 4"), (TUNE, 5, "2 to 4")])
def test_a_surface_takes_four_suspects_or_tunes_copies(tune: Plan | None, count: int, wanted: str) -> None:
    remedy = PathRepair(PLAN, geometry="surface:2x2", joins=4, tune=tune)
    with pytest.raises(InputError, match=rf"`suspects` should be {wanted} models for surface:2x2\. Found {count}"):
        remedy((suspects() * 3)[:count], trusted(), seed=0, session=Session())


@pytest.mark.parametrize("geometry", ["star", "neb", "llpf:5"])
def test_a_path_is_a_curve(geometry: str) -> None:
    with pytest.raises(
        InputError, match=rf"`geometry` should name a curve or surface whose points .* at once\. Found {geometry}\."
    ):
        PathRepair(PLAN, geometry=geometry)(suspects(), trusted(), seed=0, session=Session())


def test_trusted_images_have_one_role_each() -> None:
    held = trusted()
    overlapping = held.validation.take(torch.arange(3))
    both = Samples(
        torch.cat([held.train.x, overlapping.x]), torch.cat([held.train.y, overlapping.y]), 10, held.train.name
    )
    with pytest.raises(InputError, match=r"`train` should share no sample with `validation` .*Found 3 in both"):
        Clean(both, held.validation)


def test_trusted_images_have_the_same_classes() -> None:
    held = trusted()
    fewer = Samples(held.validation.x, held.validation.y, 12)
    with pytest.raises(InputError, match=r"`validation` should have 10 classes like the training samples\. Found 12"):
        Clean(held.train, fewer)
