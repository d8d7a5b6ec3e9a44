"""The cells of the study `repair-grid`: what is tampered with, and by which remedy it is repaired from how many clean images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from isthmus.recipes.cells import Cell, output
from isthmus.recipes.inspect import InspectRecipe
from isthmus.recipes.repair import RepairRecipe
from isthmus.recipes.repair_grid_scales import SCALES, SUSPECTS, Block, Scale, Threat
from isthmus.recipes.train import TrainRecipe
from isthmus.repair.methods import METHODS

UNTAMPERED = "untampered"
MODEL = "model.safetensors"


@dataclass(frozen=True)
class Setting:
    """What is repaired: the suspects of a threat, or models without tampering (threat None)."""

    block: Block
    threat: Threat | None = None

    @property
    def name(self) -> str:
        """Return the name that cells use.

        >>> Setting(SCALES["small"].blocks[0]).name
        'cifar10-untampered'
        """
        kind = UNTAMPERED if self.threat is None else f"{self.threat.name}-{self.threat.rate:g}"
        return f"{self.block.name}-{kind}"

    @property
    def rate(self) -> float | None:
        """Return the share of all training images that is poisoned, None without tampering."""
        return None if self.threat is None else self.threat.rate

    @property
    def floor(self) -> tuple[str, str, str]:
        """Return what attack success on untampered models depends on: block, trigger and target, the latter two empty without threat."""
        if self.threat is None:
            return self.block.name, "", ""
        return self.block.name, self.threat.trigger, self.threat.target

    @property
    def models(self) -> int:
        """Return how many models of it are trained."""
        return self.block.untampered if self.threat is None else SUSPECTS


@dataclass(frozen=True)
class Repair:
    """One cell of the grid: a remedy, the setting it works on, how many clean images it has, and a seed.

    The seed also says which suspect stands first, which is the one that remedies of a single suspect repair, and draws the clean images.
    """

    setting: Setting
    remedy: str
    budget: int
    seed: int

    @property
    def name(self) -> str:
        """Return the name of the cell."""
        return f"{self.remedy}-{self.setting.name}-{self.budget}-{self.seed}"


def cells(scale: str, seeds: int) -> tuple[tuple[Cell, ...], ...]:
    """Return the waves: suspects and untampered models; then repairs, floors of attack success, inspections, and repairs of plants."""
    size = SCALES[scale]
    trained = [(one, k) for one in settings_of(scale) for k in range(one.models)]
    return (
        tuple(trained_cell(setting, k) for setting, k in trained),
        (
            *(Cell(f"floor-{one.name}", _floor(size, one)) for one in floors_of(scale)),
            *(Cell(one.name, repair_recipe(size, one)) for one in repairs_of(scale, seeds)),
            *(Cell(f"inspect-{name(one, k)}", _inspect(one, k)) for one, k in inspected_of(scale)),
            *(Cell(trusted_name(one), _planted(size, one)) for one in trusted_of(scale)),
        ),
    )


def settings_of(scale: str) -> list[Setting]:
    """Return what is repaired: the threats of each block in their order; models without tampering last."""
    found = [Setting(block, threat) for block in SCALES[scale].blocks for threat in block.threats]
    return found + [Setting(block) for block in SCALES[scale].blocks]


def remedies_of(scale: str) -> tuple[list[str], list[str]]:
    """Return the names of the scale's remedies that there are, and those of the ones that there are not."""
    wanted = SCALES[scale].remedies
    return [name for name in wanted if name in METHODS], [name for name in wanted if name not in METHODS]


def repairs_of(scale: str, seeds: int) -> Iterator[Repair]:
    """Yield the repairs, remedies innermost: a grid that is stopped has compared them on what it did."""
    there, _ = remedies_of(scale)
    for seed in range(seeds):
        for setting in settings_of(scale):
            for budget in SCALES[scale].budgets:
                for remedy in there:
                    yield Repair(setting, remedy, budget, seed)


def floors_of(scale: str) -> list[Setting]:
    """Return one setting for each trigger and target of each block: where nothing was planted the rate does not matter."""
    found: dict[tuple[str, str, str], Setting] = {}
    for setting in settings_of(scale):
        if setting.threat is not None:
            found.setdefault(setting.floor, setting)
    return list(found.values())


def inspected_of(scale: str) -> list[tuple[Setting, int]]:
    """Return the models that are inspected: all of the blocks that have more untampered models than are repaired."""
    held = [one for one in settings_of(scale) if one.block.untampered > SUSPECTS]
    return [(one, k) for one in held for k in range(one.models)]


def trusted_of(scale: str) -> list[Repair]:
    """Return the repairs that are made again with planted tamperings beside the real one, remedies innermost; seed 0 alone."""
    size = SCALES[scale]
    held = [one for one in settings_of(scale) if one.threat is not None and one.block.name == size.trusted_block]
    there = [remedy for remedy in size.trusted if remedy in METHODS]
    return [Repair(one, remedy, size.trusted_budget, 0) for one in held for remedy in there]


def trusted_name(repair: Repair) -> str:
    """Return the name of the cell that makes a repair again with planted tamperings.

    >>> trusted_name(trusted_of("smoke")[0])
    'trust-auto-digits-badnets-0.1-200-0'
    """
    return f"trust-{repair.name}"


def suspects(scale: str) -> Sequence[Cell]:
    """Return the cells of all suspects of a scale."""
    return [trained_cell(one, k) for one in settings_of(scale) if one.threat is not None for k in range(one.models)]


def name(setting: Setting, k: int) -> str:
    """Return the name of the cell that trains model `k`."""
    return f"{setting.name}-{k}"


def trained_cell(setting: Setting, k: int) -> Cell:
    """Return the cell that trains model `k` of a setting: its own first weights, poisoned images and order."""
    block, threat = setting.block, setting.threat
    recipe = TrainRecipe(
        arch=block.arch,
        data=block.data,
        width=block.width,
        hold_out=block.hold_out,
        epochs=block.epochs,
        augment=block.augment,
        plan=block.plan,
        seed=k,
    )
    if threat is not None:
        tampering = {
            "tamper_trigger": threat.trigger,
            "target": threat.target,
            "rate": threat.rate,
            "source": threat.source,
            "cover": threat.cover,
            "cover_rate": 0.1 if threat.cover is None else 2 * threat.rate,
        }
        recipe = TrainRecipe.model_validate({**recipe.model_dump(), **tampering})
    return Cell(name(setting, k), recipe)


def repair_recipe(scale: Scale, repair: Repair) -> RepairRecipe:
    """Return the recipe of a repair of both suspects of its setting.

    Untampered models are measured with the block's first trigger, a small patch that hardly hides anything.
    """
    block = repair.setting.block
    threat = repair.setting.threat or block.threats[0]
    order = [(repair.seed + k) % SUSPECTS for k in range(SUSPECTS)]
    return RepairRecipe(
        suspects=tuple(output(name(repair.setting, k), MODEL) for k in order),
        arch=block.arch,
        data=block.data,
        width=block.width,
        clean=repair.budget,
        hold_out=block.hold_out,
        method=repair.remedy,
        evaluations=scale.evaluations,
        batch_size=scale.batch_size,
        augment=block.augment,
        points=scale.points,
        trigger=threat.trigger,
        target=threat.target,
        test_n=scale.test_n,
        curve_n=scale.curve_n,
        baselines=False,
        trust="none",
        precision=block.plan.precision,
        seed=repair.seed,
    )


def _planted(scale: Scale, repair: Repair) -> RepairRecipe:
    """Return the recipe of the repair with the evidence of planted tamperings, which changes nothing of the repaired model."""
    return repair_recipe(scale, repair).model_copy(update={"trust": "planted"})


def _floor(scale: Scale, setting: Setting) -> RepairRecipe:
    """Return the recipe whose report has the attack success of a trigger on untampered models: as suspects that nobody trains."""
    untampered = Repair(Setting(setting.block), "average", scale.budgets[-1], 0)
    assert setting.threat is not None
    given = {"trigger": setting.threat.trigger, "target": setting.threat.target}
    return repair_recipe(scale, untampered).model_copy(update=given)


def _inspect(setting: Setting, k: int) -> InspectRecipe:
    block = setting.block
    return InspectRecipe(model=output(name(setting, k), MODEL), arch=block.arch, data=block.data, width=block.width)
