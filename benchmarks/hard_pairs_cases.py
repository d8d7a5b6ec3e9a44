"""The pairs, paths and sizes of `hard_pairs.py`, and its page."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap

APPROACH = 1.1  # times the training loss of the worse end: what a tick that ends by its loss has to come below
PIVOTS = 5.5  # of AutoNEB, about, in the mean over its cycles: it begins with 3
SLOWER = 3  # the walk's constant rate is this part of the curve's highest
WIDE = 140  # characters of a line of the page
LINE, WALK, INWARD = "line", "walk", "walk inward"


@dataclass(frozen=True)
class Pair:
    """An architecture, the weight decays of both models, and the highest rates of models and of paths."""

    name: str
    arch: str
    width: int
    rates: tuple[float, float]
    decays: tuple[float, float] = (5e-4, 5e-4)
    repeats: int = 1

    @property
    def paths(self) -> tuple["Way", ...]:
        """Return what lies between the two."""
        return PATHS if self.decays[0] != self.decays[1] else tuple(one for one in PATHS if not one.inward)


@dataclass(frozen=True)
class Way:
    """A path: its geometry, how often the gradients of the others it takes, whether its ticks end by their loss, or go inward."""

    name: str
    geometry: str
    times: int = 1
    until: bool = False
    inward: bool = False


PATHS = (
    Way(LINE, "line"),
    Way("curve", "bezier:2"),
    Way("chain", "chain:1"),
    Way("pivots", "neb:3"),
    Way(WALK, "llpf:{ticks}"),
    Way("walk to a loss", "llpf:{ticks}", until=True),
    Way(INWARD, "llpf:{ticks}", inward=True),
    Way("curve, 4x", "bezier:2", times=4),
    Way("walk, 4x", "llpf:{more}", times=4),
)


@dataclass(frozen=True)
class Scale:
    """Pairs, how they are trained and measured. steps: of a model; gradients: of a path. ticks: of the walk, and of the one of 4x."""

    data: str
    pairs: tuple[Pair, ...]
    steps: int
    gradients: int
    ticks: tuple[int, int]
    batch: int
    validation: int
    n: int
    settle_n: int
    points: int


SCALES = {
    "smoke": Scale(
        "digits",
        (Pair("cnn", "cnn", 4, (0.05, 0.05)), Pair("mlp-decay", "mlp:depth=1", 16, (0.05, 0.05), (5e-4, 5e-2))),
        steps=60,
        gradients=128,
        ticks=(6, 8),
        batch=64,
        validation=100,
        n=200,
        settle_n=100,
        points=11,
    ),
    "small": Scale(
        "cifar10",
        (
            Pair("resnet18", "resnet18", 8, (0.2, 0.1)),
            Pair("vgg11", "vgg11", 8, (0.05, 0.03), repeats=2),
            Pair("vgg11-decay", "vgg11", 8, (0.05, 0.03), (5e-4, 5e-3)),
        ),
        steps=1560,
        gradients=800,
        ticks=(40, 80),
        batch=128,
        validation=1000,
        n=1000,
        settle_n=500,
        points=31,
    ),
}


@dataclass(frozen=True)
class Measured:
    """One path. Losses (nat) on training images, errors (%) on test images; ends: of the worse. ratio: length over that of the line."""

    pair: str
    repeat: int
    path: str
    gradients: int
    seconds: float
    bends: int
    points: int
    loss: float
    ends: float
    entezari: float
    error: float
    end_error: float
    ratio: float

    @property
    def rise(self) -> float:
        """Return the highest loss minus that of the worse end (Draxler et al. 2018)."""
        return self.loss - self.ends


HEADS = (
    "path",
    "gradients",
    "bends",
    "highest training loss",
    "above the worse end",
    "above the line of both",
    "highest test error (%)",
    "length / segment",
    "seconds",
)
PUBLISHED = (
    "",
    "## Published",
    "",
    "Highest training loss on a path between CIFAR-10 networks, as Tian et al. 2025 quote them: different nets, quoted side by side, of",
    "standard widths and trained to the end. They are far below the ends of ours.",
    "",
    "| path | network | highest training loss |",
    "|---|---|---:|",
    "| layer-wise, about 21 hours on an H100 | ResNet18 | .006 |",
    "| AutoNEB | ResNet20 | .0324 |",
    "| curve | ResNet158 | .022 |",
)


def page(name: str, out: Path) -> str:
    """Return what is there as Markdown."""
    scale = SCALES[name]
    found = [Measured(**json.loads(place.read_text())) for place in sorted(out.glob("*/measured.json"))]
    lines = ["# Pairs on which a curve fails", "", *_conditions(name, scale)]
    for pair in scale.pairs:
        here = [one for one in found if one.pair == pair.name]
        lines += _table(pair, here) if here else []
    return "\n".join([*lines, *PUBLISHED, ""])


def _conditions(name: str, scale: Scale) -> list[str]:
    steps = max(16, round(scale.gradients / PIVOTS))
    trained = (
        f"Made by `python benchmarks/hard_pairs.py --scale {name} --out DIR --table FILE`. {scale.data}, models of {scale.steps:,} steps "
        f"of {scale.batch} images, {scale.validation:,} training images left out throughout. Paths take {scale.gradients:,} gradients of "
        f"as many images, or four times that; AutoNEB takes one for each pivot at each of {steps} steps, its number is what came of it. "
        f"Walks have {scale.ticks[0]} ticks, {scale.ticks[1]} at 4x, and a constant rate of a third of the highest of the others; no rate "
        f"was tuned. A walk to a loss ends a tick below {APPROACH:g} times the loss of the worse end."
    )
    measured = (
        f"Loss in nat on {scale.n:,} training images without augmentation, error on {scale.n:,} test images, in eval mode with BatchNorm "
        f"statistics from {scale.settle_n} training images at every point but the ends. Looked at on {scale.points} points; of a chain, "
        "which all but line and curves are, on every bend and evenly between each two as well. The highest of these points, and how far it "
        "is above the worse end (Draxler et al. 2018) and above the line between both ends' losses (Entezari et al. 2022). Each figure is "
        "of one pair; where there are several, their mean, and each behind it. Seconds of training by one thread, beside other work."
    )
    return [*wrap(trained, WIDE), "", *wrap(measured, WIDE)]


def _table(pair: Pair, here: Sequence[Measured]) -> list[str]:
    line = [one for one in here if one.path == LINE]
    loss, error = _shown(line, lambda one: one.ends, 3), _shown(line, lambda one: one.end_error, 1)
    rows = [_row(way.name, held) for way in PATHS if (held := [one for one in here if one.path == way.name])]
    return [
        "",
        f"## {pair.name}",
        "",
        f"`{pair.arch}` of width {pair.width}, weight decays {pair.decays[0]:g} and {pair.decays[1]:g}.",
        f"The worse end: loss {loss}, test error {error} %.",
        "",
        f"| {' | '.join(HEADS)} |",
        "|---|" + "---:|" * (len(HEADS) - 1),
        *rows,
    ]


def _shown(held: Sequence[Measured], value: Callable[[Measured], float], digits: int) -> str:
    """Return the mean, behind it each figure where there are several."""
    each = [value(one) for one in held]
    mean = f"{sum(each) / len(each):,.{digits}f}" if each else "-"
    return f"{mean} ({', '.join(f'{one:,.{digits}f}' for one in each)})" if len(each) > 1 else mean


def _row(name: str, held: Sequence[Measured]) -> str:
    values: tuple[tuple[Callable[[Measured], float], int], ...] = (
        (lambda one: one.gradients, 0),
        (lambda one: one.bends, 0),
        (lambda one: one.loss, 3),
        (lambda one: one.rise, 3),
        (lambda one: one.entezari, 3),
        (lambda one: one.error, 1),
        (lambda one: one.ratio, 2),
        (lambda one: one.seconds, 0),
    )
    return f"| {' | '.join([name, *(_shown(held, value, digits) for value, digits in values)])} |"
