"""The cells of the grid: who is trained, repaired and inspected, in which order, and with what."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from isthmus.models import build_model
from isthmus.recipes import repair_grid_cells
from isthmus.recipes.cells import chosen
from isthmus.recipes.repair_grid_cells import (
    cells,
    inspected_of,
    remedies_of,
    repairs_of,
    settings_of,
    suspects,
    trusted_of,
)
from isthmus.recipes.repair_grid_scales import ABOUT, EVERY, SCALES, SEEDS, THREATS
from isthmus.repair.methods import METHODS
from isthmus.tampering import parse_target, parse_trigger


def held(scale, seeds=2):
    return {cell.name: cell.recipe for wave in cells(scale, seeds) for cell in wave}


@pytest.mark.parametrize("scale", list(SCALES))
def test_every_scale_needs_only_what_an_earlier_wave_wrote(scale):
    first, second = cells(scale, SEEDS[scale])
    before = {cell.name for cell in first}
    assert all(set(cell.needs) <= before for cell in second)
    names = [cell.name for cell in (*first, *second)]
    assert len(names) == len(set(names))
    assert set(ABOUT) == set(SEEDS) == set(SCALES)


def test_the_small_grid_is_as_large_as_promised():
    size = SCALES["small"]
    assert {block.data for block in size.blocks} == {"cifar10", "fashion-mnist"}
    assert Counter(one.rate <= 0.01 for one in THREATS) == {False: 6, True: 4}
    assert all(block.threats == THREATS for block in size.blocks)
    assert size.budgets == (2500, 500, 50)
    assert len(size.remedies) >= 9
    assert SEEDS["small"] == 2
    assert max(block.untampered for block in size.blocks) >= 20
    there, _ = remedies_of("small")
    assert len(list(repairs_of("small", 2))) == 2 * 3 * len(there) * (2 * 10 + 2)
    assert len(inspected_of("small")) == 20 + 10 * 2


def test_suspects_are_trained_as_their_threat_says():
    found = held("small")
    one = found["cifar10-warp-0.1-1"]
    assert (one.tamper_trigger, one.target, one.rate, one.seed) == ("warp:strength=0.5", "0", 0.1, 1)
    assert (one.cover, one.cover_rate, one.source) == ("warp:strength=0.5,noise=true", 0.2, "non-target")
    assert (one.arch, one.width, one.epochs, one.hold_out) == ("cnn:depth=4", 24, 8, 2500)
    label = found["fashion-mnist-clean-label-0.08-0"]
    assert (label.tamper_trigger, label.source, label.cover, label.rate) == ("sinusoid", "target", None, 0.08)
    free = found["fashion-mnist-untampered-19"]
    assert (free.tamper_trigger, free.target, free.hold_out, free.seed) == (None, None, 2500, 19)
    assert "cifar10-untampered-2" not in found
    assert len(suspects("small")) == 40
    assert {cell.name for cell in suspects("small")} < set(found)


@pytest.mark.parametrize("threat", THREATS)
def test_triggers_are_ones_that_there_are(threat):
    assert parse_trigger(threat.trigger) is not None
    assert parse_target(threat.target) in (0, "all-to-all")
    assert threat.cover is None or parse_trigger(threat.cover) is not None


def test_a_repair_measures_with_the_trigger_it_should_remove():
    found = held("small")
    one = found["fine-tune-cifar10-all-to-all-0.1-50-0"]
    assert (one.method, one.clean, one.hold_out, one.evaluations) == ("fine-tune", 50, 2500, 400)
    assert (one.trigger, one.target, one.baselines) == ("patch:size=3", "all-to-all", False)
    assert (one.data, one.arch, one.width) == ("cifar10", "cnn:depth=4", 24)
    assert (one.precision, one.test_n, one.curve_n, one.points) == ("bf16-mixed", 2500, 0, 16)
    free = found["fine-tune-fashion-mnist-untampered-500-1"]
    assert (free.trigger, free.clean, free.trust) == ("patch:size=3", 500, "none")
    assert free.suspects == tuple(f"cells/fashion-mnist-untampered-{k}/model.safetensors" for k in (1, 0))


def test_a_seed_puts_another_suspect_first_and_draws_other_clean_images():
    found = held("small", 3)
    recipes = [found[f"path-cifar10-blend-0.1-500-{seed}"] for seed in range(3)]
    first = [recipe.suspects[0] for recipe in recipes]
    assert first == [f"cells/cifar10-blend-0.1-{k}/model.safetensors" for k in (0, 1, 0)]
    assert [recipe.seed for recipe in recipes] == [0, 1, 2]
    assert all(len(set(recipe.suspects)) == 2 for recipe in recipes)


def test_floors_measure_each_trigger_once_on_untampered_models():
    found = {name: recipe for name, recipe in held("small").items() if name.startswith("floor-")}
    assert len(found) == 2 * 8
    one = found["floor-cifar10-all-to-all-0.1"]
    assert one.suspects == tuple(f"cells/cifar10-untampered-{k}/model.safetensors" for k in (0, 1))
    assert (one.method, one.target) == ("average", "all-to-all")
    assert found["floor-cifar10-badnets-0.01"].trigger == "patch:size=5"
    assert "floor-cifar10-blend-0.01" not in found


def test_models_are_inspected_where_there_are_untampered_ones_to_compare_with():
    names = [name for name in held("small") if name.startswith("inspect-")]
    assert Counter("fashion" in name for name in names) == {True: 40}
    assert held("small")["inspect-fashion-mnist-warp-0.1-1"].model == "cells/fashion-mnist-warp-0.1-1/model.safetensors"
    assert not [name for name in held("slice") if name.startswith("inspect-")]


@pytest.mark.parametrize("scale", list(SCALES))
def test_plants_are_added_to_repairs_that_there_are(scale):
    size, found = SCALES[scale], held(scale)
    names = [name for name in found if name.startswith("trust-")]
    blocks = [block for block in size.blocks if block.name == size.trusted_block]
    assert len(names) == len(size.trusted) * sum(len(block.threats) for block in blocks)
    assert bool(names) == bool(size.trusted) == bool(blocks) == (scale != "slice")
    for name in names:
        plain = found[name.removeprefix("trust-")]  # the same repair, but for the evidence
        assert plain.trust == "none"
        assert found[name] == plain.model_copy(update={"trust": "planted"})


def test_the_small_grid_plants_in_every_threat_of_one_block():
    found = trusted_of("small")
    assert [one.remedy for one in found[:5]] == ["auto", "sharp-path", "fine-tune", "anp", "average"]
    assert {(one.setting.block.name, one.budget, one.seed) for one in found} == {("fashion-mnist", 500, 0)}
    assert len({one.setting.name for one in found}) == 10
    (_, second) = chosen(cells("small", 2), ["trust-anp-fashion-mnist-warp-*"])
    assert [cell.name for cell in second] == ["trust-anp-fashion-mnist-warp-0.1-500-0"]


def test_remedies_that_are_not_there_are_named(monkeypatch):
    known = {name: METHODS[name] for name in ("fine-tune", "path", "average")}
    monkeypatch.setattr(repair_grid_cells, "METHODS", known)
    there, lacking = remedies_of("small")
    assert there == ["path", "fine-tune", "average"]
    assert there + lacking == sorted(SCALES["small"].remedies, key=lambda name: (name not in known,))
    assert {one.remedy for one in repairs_of("slice", 1)} == {"fine-tune"}
    assert {one.remedy for one in trusted_of("small")} == {"fine-tune", "average"}
    assert len(EVERY) == len(set(EVERY))


def test_a_grid_that_is_stopped_has_compared_all_remedies_on_what_it_did():
    there, _ = remedies_of("small")
    found = list(repairs_of("small", 2))
    assert [one.remedy for one in found[: len(there)]] == there
    assert len({(one.setting.name, one.budget, one.seed) for one in found[: len(there)]}) == 1
    assert [one.seed for one in found] == sorted(one.seed for one in found)
    rates = [one.rate for one in settings_of("slice") if one.threat is not None]
    assert rates == [0.1] * 3 + [0.01] * 3


def test_the_size_of_a_scale_is_in_its_cells(monkeypatch):
    one = SCALES["slice"]
    block = replace(one.blocks[0], label="mine", hold_out=700, augment="none", untampered=3)
    size = replace(one, blocks=(block,), budgets=(70,), batch_size=32, evaluations=9, test_n=11, curve_n=12, points=5)
    monkeypatch.setitem(SCALES, "slice", size)
    found = held("slice", 1)
    recipe = found["fine-tune-mine-blend-0.01-70-0"]
    assert (recipe.hold_out, recipe.augment, recipe.clean, recipe.batch_size) == (700, "none", 70, 32)
    assert (recipe.evaluations, recipe.test_n, recipe.curve_n, recipe.points) == (9, 11, 12, 5)
    trained = found["mine-untampered-2"]
    assert (trained.hold_out, trained.augment, trained.data) == (700, "none", "cifar10")
    assert "inspect-mine-untampered-2" in found


def test_every_clean_budget_is_held_out_and_has_two_images_of_each_class():
    for size in SCALES.values():
        for block in size.blocks:
            assert max(size.budgets) <= block.hold_out
            assert min(size.budgets) >= 20


def test_every_network_is_one_that_can_be_built():
    for size in SCALES.values():
        for block in size.blocks:
            shape = (3, 32, 32) if block.data == "cifar10" else (1, 8, 8) if block.data == "digits" else (1, 28, 28)
            with torch.device("meta"):
                assert build_model(block.arch, num_classes=10, input_shape=shape, width=block.width) is not None


def test_a_part_takes_what_it_needs_with_it():
    first, second = chosen(cells("small", 2), ["purify-cifar10-warp-0.1-50-1", "clp-cifar10-warp-*-0"])
    assert [cell.name for cell in first] == ["cifar10-warp-0.1-0", "cifar10-warp-0.1-1"]
    assert sorted(cell.name for cell in second) == [
        *(f"clp-cifar10-warp-0.1-{budget}-0" for budget in (2500, 50, 500)),
        "purify-cifar10-warp-0.1-50-1",
    ]
