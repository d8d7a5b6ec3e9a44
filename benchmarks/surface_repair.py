"""A surface through four tampered models against every curve between two of them: `python benchmarks/surface_repair.py --suspects DIR`.

`--suspects` is the folder `cells` of the study repair-grid, with models of four triggers on Fashion-MNIST, one trigger in each: made by
`isthmus reproduce repair-grid --only 'auto-fashion-mnist-badnets-0.1-50-0' --out RUNS`, with blend, low-frequency and warp likewise. From
some clean images, with as many gradients each: a surface through the four (method `surface`), the curve between each two by the same
steps (`sharp-path`), the average of the four and `auto`. Every result is measured with all four triggers on the same test images. The
best of the curves is given twice: by accuracy on the clean validation images, as somebody without a trigger has to choose, and by attack
success, which nobody can. `--out FOLDER` keeps what is done, and goes on from there; `--table FILE` writes Markdown. Needs ISTHMUS_DATA.
"""

import argparse
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean

import torch
from torch import nn

from isthmus.data import Samples, Splits, load_data, split_roles
from isthmus.evaluate import correct, logits
from isthmus.files import write_json
from isthmus.models import build_model, load_weights
from isthmus.probes import Backdoor
from isthmus.randomness import seed_of, stream
from isthmus.rates import Rate
from isthmus.recipes.repair_grid_scales import THREATS
from isthmus.recipes.reserve import reserve
from isthmus.repair.methods import Budget, make
from isthmus.repair.protocol import Clean
from isthmus.tampering import parse_target, parse_trigger
from isthmus.training.session import Session

DATA, ARCH, WIDTH, HOLD_OUT, TEST = "fashion-mnist", "cnn", 16, 2500, 2500
CARRIED = tuple(t for t in THREATS if t.name in ("badnets", "blend", "low-frequency", "warp") and t.rate == 0.1)
EVERY = tuple(range(len(CARRIED)))
BUDGETS, SEEDS, EVALUATIONS, POINTS = (500, 50), (0, 1), 400, 31
CURVE = "sharp-path"
TOGETHER = ("surface", "average", "auto")
"""Methods that are given all four."""
JOBS = tuple((CURVE, pair) for pair in combinations(EVERY, 2)) + tuple((method, EVERY) for method in TOGETHER)


@dataclass(frozen=True)
class Result:
    """What one repair came to: accuracy on test and validation images, attack success of each trigger, all in [0, 1]."""

    method: str
    suspects: tuple[int, ...]
    clean: int
    seed: int
    accuracy: float
    validation: float
    attack: tuple[float, ...]
    seconds: float

    @property
    def mean(self) -> float:
        """Return the mean attack success over the four triggers."""
        return fmean(self.attack)


def build(seed: int = 0) -> nn.Module:
    """Return a fresh network of the suspects' architecture."""
    return build_model(ARCH, num_classes=10, input_shape=(1, 28, 28), width=WIDTH, seed=seed)


def suspects(cells: Path, seed: int) -> list[nn.Module]:
    """Return the four tampered models, of each threat the one that the seed names."""
    found: list[nn.Module] = []
    for one in CARRIED:
        module = build()
        load_weights(module, cells / f"{DATA}-{one.name}-{one.rate:g}-{seed}" / "model.safetensors")
        found.append(module.eval())
    return found


def clean_of(splits: Splits, count: int, seed: int) -> Clean:
    """Return clean images that no suspect was trained on, a fifth of them to choose by."""
    pool = reserve(splits, HOLD_OUT)[0]
    sizes = {"train": count - count // 5, "validation": count // 5}
    roles = split_roles(pool, sizes, seed=seed_of(seed, "clean"), avoid=splits.test)
    return Clean(roles["train"], roles["validation"])


def rate(module: nn.Module, samples: Samples) -> float:
    """Return the accuracy in [0, 1]."""
    return Rate.of(correct(logits(module, samples), samples.y)).value


def attacks(module: nn.Module, test: Samples) -> tuple[float, ...]:
    """Return the attack success of each trigger in [0, 1]."""
    probes = [Backdoor(test, parse_trigger(one.trigger), parse_target(one.target)) for one in CARRIED]
    return tuple(probe(module, generator=stream(0, "measure"))["attack_success"] / 100 for probe in probes)


def repaired(
    models: list[nn.Module], job: tuple[str, tuple[int, ...]], clean: Clean, test: Samples, seed: int
) -> Result:
    """Return what one repair of some of the suspects came to."""
    method, chosen = job
    budget = Budget(build, suspects=len(chosen), evaluations=EVALUATIONS, precision="bf16-mixed", points=POINTS)
    made = make(method, budget)(
        [models[k] for k in chosen], clean, seed=seed_of(seed, method, *chosen), session=Session()
    )
    figures = rate(made.module, test), rate(made.module, clean.validation), attacks(made.module, test)
    count = len(clean.train) + len(clean.validation)
    return Result(method, chosen, count, seed, *figures, made.seconds)


def results(cells: Path, out: Path) -> list[Result]:
    """Return all results, those in `out` as they are."""
    splits = load_data(DATA)
    test = splits.test.subset(TEST, generator=stream(0, "test"))
    found: list[Result] = []
    for seed in SEEDS:
        models = suspects(cells, seed)
        for count in BUDGETS:
            clean = clean_of(splits, count, seed)
            for job in JOBS:
                place = out / f"{job[0]}-{''.join(map(str, job[1]))}-{count}-{seed}.json"
                if not place.exists():
                    write_json(place, asdict(repaired(models, job, clean, test, seed)))
                held = json.loads(place.read_text())
                found.append(Result(**{**held, "suspects": tuple(held["suspects"]), "attack": tuple(held["attack"])}))
    return found


def best(curves: Iterable[Result], key: Callable[[Result], float]) -> list[Result]:
    """Return of each seed the curve with the smallest key."""
    held = list(curves)
    return [min((one for one in held if one.seed == seed), key=key) for seed in SEEDS]


def table(cells: Path, found: list[Result]) -> str:
    """Return everything as Markdown."""
    heads = [f"{one.name} (%)" for one in CARRIED]
    lines = [
        "# A surface through four tampered models",
        "",
        "Made by `python benchmarks/surface_repair.py --suspects DIR --out DIR --table FILE`. Fashion-MNIST, four models with a trigger",
        f"each, {EVALUATIONS} gradients of 128 images for every repair, {len(SEEDS)} seeds (other models and other clean images): means,",
        f"with the figure of each seed behind them. Rates on {TEST:,} test images, attack success of each trigger and their mean.",
        "",
        f"| clean images | repair | accuracy (%) | {' | '.join(heads)} | mean attack success (%) | seconds |",
        "|---:|---|---:|" + "---:|" * (len(heads) + 2),
    ]
    test = load_data(DATA).test.subset(TEST, generator=stream(0, "test"))
    for k, one in enumerate(CARRIED):
        group = [
            Result("suspect", (k,), 0, seed, rate(models[k], test), 0.0, attacks(models[k], test), 0.0)
            for seed in SEEDS
            for models in [suspects(cells, seed)]
        ]
        lines.append(row("-", f"suspect with {one.name}", group))
    for count in BUDGETS:
        here = [one for one in found if one.clean == count]
        curves = [one for one in here if one.method == CURVE]
        for method in TOGETHER:
            lines.append(row(f"{count:,}", method, [one for one in here if one.method == method]))
        lines.append(row(f"{count:,}", f"{CURVE}, mean over all pairs", curves))
        lines.append(row(f"{count:,}", f"{CURVE}, best pair by validation", best(curves, lambda one: -one.validation)))
        lines.append(
            row(f"{count:,}", f"{CURVE}, best pair by attack success (an oracle)", best(curves, lambda one: one.mean))
        )
    return "\n".join(lines) + "\n"


def row(count: str, name: str, group: list[Result]) -> str:
    """Return a row of means in %; behind those of accuracy and mean attack success the figure of each seed."""
    each = [[one for one in group if one.seed == seed] for seed in SEEDS]

    def spread(value: Callable[[Result], float]) -> str:
        figures = [100 * fmean(map(value, held)) for held in each]
        return f"{fmean(figures):.1f} ({', '.join(f'{figure:.1f}' for figure in figures)})"

    rates = [f"{100 * fmean(one.attack[k] for one in group):.1f}" for k in EVERY]
    cells = [count, name, spread(lambda one: one.accuracy), *rates, spread(lambda one: one.mean)]
    return f"| {' | '.join([*cells, f'{fmean(one.seconds for one in group):.0f}'])} |"


def main() -> None:
    """Make what is not there yet, then print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suspects", type=Path, required=True, help="folder with the cells of repair-grid")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--table", type=Path, help="write the Markdown page here")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    text = table(given.suspects, results(given.suspects, given.out))
    if given.table is None:
        print(text)
    else:
        given.table.write_text(text)


if __name__ == "__main__":
    main()
