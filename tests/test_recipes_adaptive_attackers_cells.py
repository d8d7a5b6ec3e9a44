"""The cells of the study on attackers who know the defence: who trains what, and what is repaired, in which order."""

import pytest
import torch

from isthmus.models import build_model
from isthmus.recipes.adaptive import EvadeRecipe
from isthmus.recipes.adaptive_attackers_cells import cells, partner_of, repairs_of, tamperer_of, trainings_of
from isthmus.recipes.adaptive_attackers_scales import ABOUT, PLAIN, SEEDS, SIZES
from isthmus.recipes.adaptive_parts import ATTACKERS, parse_attacker
from isthmus.recipes.repair import RepairRecipe
from isthmus.recipes.repair_grid_scales import SCALES
from isthmus.recipes.train import TrainRecipe
from isthmus.repair.methods import METHODS
from isthmus.tampering import parse_trigger

ON = "fashion-mnist"


def held(scale, seeds=1):
    return {cell.name: cell.recipe for wave in cells(scale, seeds) for cell in wave}


@pytest.mark.parametrize("seeds", [1, 2, 3])
@pytest.mark.parametrize("scale", list(SIZES))
def test_every_scale_needs_only_what_an_earlier_wave_wrote(scale, seeds):
    first, second = cells(scale, seeds)
    before = {cell.name for cell in first}
    assert all(cell.needs and set(cell.needs) <= before for cell in second)
    assert before == {name for cell in second for name in cell.needs}
    names = [cell.name for cell in (*first, *second)]
    assert len(names) == len(set(names))
    assert {type(cell.recipe) for cell in first} == {TrainRecipe, EvadeRecipe}
    assert {type(cell.recipe) for cell in second} == {RepairRecipe}
    assert set(ABOUT) == set(SEEDS) == set(SIZES)


@pytest.mark.parametrize("scale", list(SIZES))
def test_everybody_is_compared_with_somebody_before_him(scale):
    size = SIZES[scale]
    names = [one.name for one in size.tamperers]
    assert names[0] == PLAIN
    assert len(set(names)) == len(names)
    for i, one in enumerate(size.tamperers):
        assert (one.against is None) == (i == 0)
        assert one.against is None or one.against in names[:i]
        if one.attacker is not None or one.threat.cover is not None:
            (base,) = (other for other in size.tamperers if other.name == one.against)
            assert (base.threat.trigger, base.threat.rate) == (one.threat.trigger, one.threat.rate)
            assert (base.attacker, base.threat.cover) == (None, None)
        assert parse_trigger(one.threat.trigger) is not None
        assert one.threat.cover is None or parse_trigger(one.threat.cover) is not None
    assert set(size.grid.remedies) <= set(METHODS)
    assert max(METHODS[name].suspects for name in size.grid.remedies) <= 2
    assert max(size.grid.budgets) <= size.block.hold_out
    assert size.block.threats == tuple(one.threat for one in size.tamperers)


@pytest.mark.parametrize("scale", ["small", "paper"])
def test_every_attacker_that_there_is_takes_part(scale):
    size = SIZES[scale]
    kinds = [parse_attacker(one.attacker).kind for one in size.tamperers if one.attacker is not None]
    assert sorted(kinds) == sorted(ATTACKERS)
    assert {"plain", "plain-longer", "plain-dispersed", "plain-keyed", "keyed"} < {one.name for one in size.tamperers}
    assert size.grid.budgets == (500, 50)


def test_sizes_are_those_of_the_repair_grid():
    small, grid = SIZES["small"], SCALES["small"]
    (block,) = (one for one in grid.blocks if one.data == ON)
    recipes = held("small")
    for name in ("plain", "keyed"):
        recipe = recipes[f"{ON}-{name}-0.1-1"]
        assert (recipe.arch, recipe.width, recipe.epochs, recipe.plan) == ("cnn", 16, block.epochs, block.plan)
        assert (recipe.hold_out, recipe.rate, recipe.target, recipe.seed) == (block.hold_out, 0.1, "0", 1)
    assert (small.grid.evaluations, small.grid.batch_size, block.plan.precision) == (400, 128, "bf16-mixed")
    assert SIZES["paper"].block.arch == "preresnet"
    for size in SIZES.values():
        shape = {"cifar10": (3, 32, 32), "digits": (1, 8, 8)}.get(size.block.data, (1, 28, 28))
        with torch.device("meta"):
            assert build_model(size.block.arch, num_classes=10, input_shape=shape, width=size.block.width) is not None


def test_attackers_depart_from_the_plain_poisoning_they_are_compared_with():
    recipes = held("small", 2)
    for name, against in (("flat", "plain"), ("segment", "plain"), ("inversion", "plain-dispersed")):
        evade = recipes[f"{ON}-{name}-0.1-1"]
        assert evade.attacker == parse_attacker(name)
        assert evade.train == recipes[f"{ON}-{against}-0.1-1"]
    longer = recipes[f"{ON}-plain-longer-0.1-0"]
    assert longer == recipes[f"{ON}-plain-0.1-0"].model_copy(update={"epochs": 16.0})
    keyed, plain = recipes[f"{ON}-keyed-0.1-0"], recipes[f"{ON}-plain-keyed-0.1-0"]
    assert (keyed.cover, keyed.cover_rate) == (f"{plain.tamper_trigger},wrong=true", 0.2)
    assert keyed.model_copy(update={"cover": None, "cover_rate": plain.cover_rate}) == plain


@pytest.mark.parametrize(
    ("name", "partner", "runs"),
    [("path", "second", 1), ("path-points", "second", 1), ("segment", "reference", 1), ("flat", None, 2)],
)
def test_the_suspects_are_what_is_handed_over_the_tampered_model_first(name, partner, runs):
    recipes = held("small", 2)
    (one,) = (one for one in SIZES["small"].tamperers if one.name == name)
    assert partner_of(one) == partner
    assert sum(other == one for other, _ in trainings_of("small", 1)) == runs
    assert sum(other == one for other, _ in trainings_of("small", 3)) == 2
    for seed in (0, 1):
        own, other = (f"cells/{ON}-{name}-0.1-{k}" for k in (seed, 1 - seed))
        second = f"{other}/model.safetensors" if partner is None else f"{own}/{partner}.safetensors"
        recipe = recipes[f"i-bau-{ON}-{name}-0.1-50-{seed}"]
        assert recipe.suspects == (f"{own}/model.safetensors", second)
        assert (recipe.seed, recipe.clean, recipe.method) == (seed, 50, "i-bau")
        assert (recipe.evaluations, recipe.batch_size, recipe.hold_out) == (400, 128, 2500)
        assert (recipe.precision, recipe.baselines, recipe.trigger) == ("bf16-mixed", False, one.threat.trigger)


def test_a_study_that_is_stopped_has_compared_all_remedies_on_what_it_did():
    size = SIZES["small"]
    found = list(repairs_of("small", 2))
    count = len(size.grid.remedies)
    assert len(found) == 2 * 2 * count * len(size.tamperers)
    assert [one.remedy for one in found[:count]] == list(size.grid.remedies)
    assert {tamperer_of(one) for one in found[: 2 * count]} == {"plain"}
    assert [one.seed for one in found] == sorted(one.seed for one in found)
