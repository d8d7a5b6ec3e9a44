"""`evasion`: robustness and input curvature along paths between regular and adversarially trained models (Zhao et al. 2020)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from isthmus.plots import Panel, evasion_figure
from isthmus.recipes.cells import Cell, output
from isthmus.recipes.connect import ConnectRecipe
from isthmus.recipes.evasion_tables import PAIRS, Loss, Scan, summarise
from isthmus.recipes.scan import ScanRecipe
from isthmus.recipes.study import Findings, Study, keep_figure, output_of
from isthmus.recipes.train import TrainRecipe
from isthmus.runs import Run
from isthmus.table import Table
from isthmus.training.adversary import Adversary
from isthmus.training.plan import Plan

LOSSES: tuple[Loss, ...] = ("standard", "robust")
Key = tuple[str, int, Loss]
"""A path: which pair, from which seed, trained on which loss."""


@dataclass(frozen=True)
class Sizes:
    """How large the study is. plan, robust_plan: of the endpoints; path, robust_path: of the curves; points, n, hessian_n: of the scans."""

    data: str
    arch: str
    width: int | None
    eps: float
    plan: Plan
    robust_plan: Plan
    path: Plan
    robust_path: Plan
    adversary: Adversary
    points: int
    n: int | None
    hessian_n: int


_CIFAR = Plan(steps=2500, batch_size=64, learning_rate=0.1, weight_decay=5e-4, schedule="triangular", warmup=0.3)
_VGG = Plan(steps=200 * 391, batch_size=128, learning_rate=0.01, weight_decay=1e-4)

SIZES: dict[str, Sizes] = {
    "smoke": Sizes(
        data="digits",
        arch="cnn",
        width=8,
        eps=0.1,
        plan=Plan(steps=100, batch_size=64),
        robust_plan=Plan(steps=150, batch_size=64),
        path=Plan(steps=60, batch_size=64),
        robust_path=Plan(steps=60, batch_size=64),
        adversary=Adversary(method="n-fgsm", eps=(0.1,)),
        points=7,
        n=150,
        hessian_n=50,
    ),
    "small": Sizes(
        data="cifar10",
        arch="resnet18",
        width=8,
        eps=8 / 255,
        plan=_CIFAR,
        robust_plan=_CIFAR,
        path=_CIFAR.model_copy(update={"steps": 1000, "learning_rate": 0.05}),
        robust_path=_CIFAR.model_copy(update={"steps": 1000, "learning_rate": 0.05}),
        adversary=Adversary(method="n-fgsm", eps=(8 / 255,)),
        points=11,
        n=300,
        hessian_n=100,
    ),
    "paper": Sizes(
        data="cifar10",
        arch="vgg16:dropout=0.0",
        width=None,
        eps=8 / 255,
        plan=_VGG,
        robust_plan=_VGG,
        path=_VGG,
        robust_path=_VGG,
        adversary=Adversary(method="pgd", eps=(8 / 255,)),
        points=31,
        n=None,
        hessian_n=10_000,
    ),
}
ABOUT = {
    "smoke": "digits, a small network: does it run? A minute or two, its numbers mean little",
    "small": "CIFAR-10, resnet18 of width 8, single-step adversarial training",
    "paper": "CIFAR-10, VGG16, 200 epochs, PGD-10, 31 points, all test images; for a GPU",
}


def cells(scale: str, seeds: int) -> tuple[tuple[Cell, ...], ...]:
    """Return the waves: endpoints, two paths for each pair of them, a scan of each path."""
    sizes = SIZES[scale]
    ends = [Cell(f"{kind}-{k}", _endpoint(sizes, kind, k)) for kind in ("regular", "robust") for k in range(2 * seeds)]
    pairs = _keys(seeds)
    paths = [Cell(f"path-{_name(*key)}", _path(sizes, *key)) for key in pairs]
    scans = [Cell(f"scan-{_name(*key)}", _scan(sizes, *key)) for key in pairs]
    return tuple(ends), tuple(paths), tuple(scans)


def _keys(seeds: int) -> list[Key]:
    return [(pair, seed, loss) for seed in range(seeds) for pair in PAIRS for loss in LOSSES]


def _name(pair: str, seed: int, loss: Loss) -> str:
    return f"{pair}-{seed}-{loss}"


def ends_of(pair: str, seed: int) -> tuple[str, str]:
    """Return the names of the two endpoints of a pair.

    >>> ends_of("regular-regular", 1), ends_of("regular-robust", 1)
    (('regular-2', 'regular-3'), ('regular-2', 'robust-2'))
    """
    first, second = pair.split("-")
    return f"{first}-{2 * seed}", f"{second}-{2 * seed + (first == second)}"


def _endpoint(sizes: Sizes, kind: str, k: int) -> TrainRecipe:
    robust = kind == "robust"
    return TrainRecipe(
        arch=sizes.arch,
        data=sizes.data,
        width=sizes.width,
        adversary=sizes.adversary if robust else None,
        plan=sizes.robust_plan if robust else sizes.plan,
        # No two endpoints share their first weights: a pair that does is joined by less of a path.
        seed=1000 + k if robust else k,
    )


def _path(sizes: Sizes, pair: str, seed: int, loss: Loss) -> ConnectRecipe:
    return ConnectRecipe(
        models=tuple(output(name, "model.safetensors") for name in ends_of(pair, seed)),
        arch=sizes.arch,
        data=sizes.data,
        width=sizes.width,
        adversary=sizes.adversary if loss == "robust" else None,
        plan=sizes.robust_path if loss == "robust" else sizes.path,
        seed=seed,
    )


def _scan(sizes: Sizes, pair: str, seed: int, loss: Loss) -> ScanRecipe:
    return ScanRecipe(
        bridge=output(f"path-{_name(pair, seed, loss)}", "bridge.safetensors"),
        grid=str(sizes.points),
        n=sizes.n,
        probes=("clean", "robust", "input-hessian"),
        eps=sizes.eps,
        hessian_n=sizes.hessian_n,
        seed=seed,
    )


def findings(run: Run, scale: str, seeds: int, done: frozenset[str]) -> Findings:
    """Return what the finished scans say, after drawing them: one figure for each seed."""
    scans = [
        Scan(*key, Table.load(output_of(run, f"scan-{_name(*key)}", "table.json")))
        for key in _keys(seeds)
        if f"scan-{_name(*key)}" in done
    ]
    found = summarise(scans, seeds)
    return replace(found, files=_draw(scans, run), notes=(f"The scale: {ABOUT[scale]}.", *found.notes))


def _draw(scans: Sequence[Scan], run: Run) -> dict[str, str]:
    files: dict[str, str] = {}
    for seed in sorted({scan.seed for scan in scans}):
        figure = evasion_figure([Panel(scan.pair, scan.loss, scan.table) for scan in scans if scan.seed == seed])
        files |= keep_figure(run, f"evasion-{seed}", figure)
    return files


EVASION = Study(
    name="evasion",
    title="Robustness along paths between regular and robust models (Zhao et al. 2020)",
    scales=ABOUT,
    seeds=dict.fromkeys(ABOUT, 1),
    cells=cells,
    findings=findings,
)
