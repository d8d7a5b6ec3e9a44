"""The cells of the study `adaptive-attackers`: what each attacker trains, and the repairs of what he hands over."""

from collections.abc import Iterator, Mapping

from isthmus.recipes.adaptive import EvadeRecipe
from isthmus.recipes.adaptive_attackers_scales import SIZES, Size, Tamperer
from isthmus.recipes.adaptive_parts import parse_attacker
from isthmus.recipes.cells import Cell, output
from isthmus.recipes.repair import RepairRecipe
from isthmus.recipes.repair_grid_cells import MODEL, Repair, Setting, name, repair_recipe, trained_cell
from isthmus.recipes.repair_grid_scales import SUSPECTS
from isthmus.recipes.train import TrainRecipe

PARTNERS: Mapping[str, str] = {"path": "second", "path-points": "second", "segment": "reference"}
"""Kinds of attackers who hand over two models: what they call the other one. Of the others there are two runs."""


def cells(scale: str, seeds: int) -> tuple[tuple[Cell, ...], ...]:
    """Return the waves: what is tampered with; then the repairs."""
    size = SIZES[scale]
    named = {one.name: one for one in size.tamperers}
    return (
        tuple(tampered_cell(size, one, k) for one, k in trainings_of(scale, seeds)),
        tuple(Cell(one.name, _repair(size, one, named[tamperer_of(one)])) for one in repairs_of(scale, seeds)),
    )


def trainings_of(scale: str, seeds: int) -> list[tuple[Tamperer, int]]:
    """Return who tampers, by which seed: two runs of those who hand over one model, one for each seed of the others."""
    found: list[tuple[Tamperer, int]] = []
    for one in SIZES[scale].tamperers:
        count = SUSPECTS if partner_of(one) is None else min(seeds, SUSPECTS)
        found += [(one, k) for k in range(count)]
    return found


def repairs_of(scale: str, seeds: int) -> Iterator[Repair]:
    """Yield the repairs, remedies innermost: a study that is stopped has compared them on what it did."""
    size = SIZES[scale]
    for seed in range(seeds):
        for one in size.tamperers:
            for budget in size.grid.budgets:
                for remedy in size.grid.remedies:
                    yield Repair(setting_of(size, one), remedy, budget, seed)


def setting_of(size: Size, tamperer: Tamperer) -> Setting:
    """Return what is repaired, as the tables of the repair grid take it."""
    return Setting(size.block, tamperer.threat)


def tamperer_of(repair: Repair) -> str:
    """Return the name of who made what is repaired."""
    assert repair.setting.threat is not None
    return repair.setting.threat.name


def partner_of(tamperer: Tamperer) -> str | None:
    """Return what the attacker calls the model that he hands over with `model`; None where there is none."""
    return None if tamperer.attacker is None else PARTNERS.get(parse_attacker(tamperer.attacker).kind)


def tampered_cell(size: Size, tamperer: Tamperer, k: int) -> Cell:
    """Return the cell that makes what a tamperer hands over in run `k`: images, plan and seed are those of plain poisoning."""
    cell = trained_cell(setting_of(size, tamperer), k)
    recipe = cell.recipe
    assert isinstance(recipe, TrainRecipe)
    recipe = recipe.model_copy(update={"epochs": tamperer.times * size.block.epochs})
    if tamperer.attacker is None:
        return Cell(cell.name, recipe)
    return Cell(cell.name, EvadeRecipe(attacker=parse_attacker(tamperer.attacker), train=recipe))


def suspects_of(size: Size, tamperer: Tamperer, seed: int) -> tuple[str, str]:
    """Return the files of the two suspects; the tampered `model` of run `seed` (of the two there are) stands first."""
    setting, partner = setting_of(size, tamperer), partner_of(tamperer)
    first, second = (name(setting, (seed + k) % SUSPECTS) for k in range(2))
    if partner is not None:
        return output(first, MODEL), output(first, f"{partner}.safetensors")
    return output(first, MODEL), output(second, MODEL)


def _repair(size: Size, repair: Repair, tamperer: Tamperer) -> RepairRecipe:
    suspects = suspects_of(size, tamperer, repair.seed)
    return repair_recipe(size.grid, repair).model_copy(update={"suspects": suspects})
