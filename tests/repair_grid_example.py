"""Made-up repairs of the grid, whose means are known on paper."""

from isthmus.recipes.repair_grid_cells import Repair, Setting
from isthmus.recipes.repair_grid_scales import SCALES
from isthmus.recipes.repair_grid_tables import Rates, Result

CIFAR, FASHION = SCALES["small"].blocks


def setting(threat: str | None = "badnets", level: int = 0, block=CIFAR) -> Setting:
    """A threat at its high rate (level 0) or its low one; None: nothing was tampered with."""
    if threat is None:
        return Setting(block)
    return Setting(block, [one for one in block.threats if one.name == threat][level])


def result(
    remedy: str,
    attack: float,
    drop: float,
    of: Setting | None = None,
    *,
    budget: int = 500,
    seed: int = 0,
    before: tuple[Rates, ...] = (Rates(79.0, 95.0, 4.0), Rates(80.0, 90.0, 8.0)),
    recovery: float = 70.0,
    effectiveness: float | None = 95.0,
) -> Result:
    """A repair that leaves such an attack success (%) and costs so much accuracy (points)."""
    after = Rates(max(one.accuracy for one in before) - drop, attack, recovery)
    return Result(Repair(of or setting(), remedy, budget, seed), before, after, effectiveness, 10.0, 400)
