"""The sizes of the study `repair-grid`: threats, data sets with the networks trained on them, clean budgets, remedies."""

from collections.abc import Mapping
from dataclasses import dataclass

from isthmus.tampering.poison import Source
from isthmus.training.plan import Plan

HELD_OUT = 2500
SUSPECTS = 2


@dataclass(frozen=True)
class Threat:
    """A way of poisoning. rate: of all training images.

    cover: trigger of twice as many images that keep their labels. source: whose images are poisoned, see `isthmus.tampering.poison`.
    """

    name: str
    trigger: str
    rate: float
    target: str = "0"
    source: Source = "non-target"
    cover: str | None = None


THREATS = (
    Threat("badnets", "patch:size=3", 0.1),
    Threat("blend", "blend:alpha=0.2", 0.1),
    Threat("low-frequency", "low-frequency:amplitude=0.2", 0.1),
    Threat("warp", "warp:strength=0.5", 0.1, cover="warp:strength=0.5,noise=true"),
    Threat("clean-label", "sinusoid", 0.08, source="target"),
    Threat("all-to-all", "patch:size=3", 0.1, target="all-to-all"),
    Threat("badnets", "patch:size=5", 0.01),
    Threat("blend", "blend:alpha=0.2", 0.01),
    Threat("low-frequency", "low-frequency:amplitude=0.3", 0.01),
    Threat("clean-label", "sinusoid", 0.01, source="target"),
)
"""High rates first: they show soonest whether a grid is worth its hours. At 1 % the small networks of the grid do not learn a warp or
an all-to-all map in their epochs, with triggers twice as strong either, and the smaller patch and change not reliably."""


@dataclass(frozen=True)
class Block:
    """One data set of the grid and what is trained on it. epochs, plan: of the suspects.

    least: accuracy (%) that a suspect must have to count. hold_out: images that no model of the block was trained on; the clean images
    are drawn from them. untampered: models trained without tampering; the first two are repaired, and where there are more, all are
    inspected, and the suspects with them. label: in names of cells, the data set's name where empty.
    """

    data: str
    arch: str
    width: int
    epochs: float
    plan: Plan
    augment: str = "auto"
    threats: tuple[Threat, ...] = THREATS
    least: float = 0.0
    hold_out: int = HELD_OUT
    untampered: int = SUSPECTS
    label: str = ""

    @property
    def name(self) -> str:
        """Return the name that cells and tables use."""
        return self.label or self.data


@dataclass(frozen=True)
class Scale:
    """How large a grid is. budgets: numbers of clean images. remedies: names of `METHODS`, those not there are left out.

    evaluations: gradients of one batch that a remedy may take. test_n: test images of every rate, None for all; curve_n: of those along
    a path. points: along a path.
    trusted: remedies of which planted tamperings are compared with the real one; trusted_block, trusted_budget: on which block, by its
    name, and from how many clean images. One seed of each.
    """

    blocks: tuple[Block, ...]
    budgets: tuple[int, ...]
    remedies: tuple[str, ...]
    evaluations: int = 400
    batch_size: int = 128
    test_n: int | None = 2500
    curve_n: int = 0
    points: int = 16
    trusted: tuple[str, ...] = ()
    trusted_block: str = ""
    trusted_budget: int = 500


AUTO = "auto"
EVERY = (
    AUTO,
    "purify",
    "sharp-path",
    "polished-path",
    "path",
    "fine-tune",
    "ft-sam",
    "fst",
    "d3",
    "anp",
    "rnp",
    "sau",
    "i-bau",
    "fine-prune",
    "prune",
    "clp",
    "noise",
    "scratch",
    "average",
)
COSTLY = ("polished-path", "rnp", "prune", "noise")
"""Left out of the small grid: of the remedies that repeat another's idea or are known to fail, one each."""

TRUSTED = (AUTO, "sharp-path", "fine-tune", "anp", "average")
"""Of every kind one, from thorough to useless: an estimate that is to rank remedies needs some that differ."""

_FAST = Plan(learning_rate=0.2, schedule="triangular", warmup=0.1, precision="bf16-mixed")
_LONG = Plan(learning_rate=0.1, schedule="multistep", batch_size=128, precision="bf16-mixed")
_FEW = tuple(threat for threat in THREATS if threat.name in ("badnets", "blend", "low-frequency"))

SCALES: Mapping[str, Scale] = {
    "smoke": Scale(
        (
            Block(
                data="digits",
                arch="cnn",
                width=8,
                epochs=8,
                plan=Plan(batch_size=50, learning_rate=0.1),
                augment="none",
                threats=(Threat("badnets", "patch:size=3,at=0x0", 0.1),),
                hold_out=300,
                untampered=3,
            ),
        ),
        budgets=(200,),
        remedies=(AUTO, "fine-tune"),
        evaluations=20,
        batch_size=50,
        test_n=200,
        curve_n=20,
        points=3,
        trusted=(AUTO, "fine-tune"),
        trusted_block="digits",
        trusted_budget=200,
    ),
    "small": Scale(
        (
            Block("cifar10", "cnn:depth=4", 24, 8, _FAST, least=70),
            Block(
                "fashion-mnist",
                "cnn",
                16,
                4,
                _FAST.model_copy(update={"learning_rate": 0.1}),
                least=80,
                untampered=20,
            ),
        ),
        budgets=(2500, 500, 50),
        remedies=tuple(name for name in EVERY if name not in COSTLY),
        trusted=TRUSTED,
        trusted_block="fashion-mnist",
    ),
    "slice": Scale(
        (Block("cifar10", "resnet18", 16, 8, _FAST, threats=_FEW, least=70, label="cifar10-resnet18"),),
        budgets=(2500, 500, 50),
        remedies=(AUTO, "purify", "sharp-path", "fine-tune", "ft-sam", "sau"),
    ),
    "paper": Scale(
        (
            Block("cifar10", "preresnet", 16, 100, _LONG, least=80, untampered=20, label="cifar10-preresnet"),
            Block("cifar10", "vgg16-bn", 64, 100, _LONG, least=80, label="cifar10-vgg16"),
            Block("fashion-mnist", "resnet18", 64, 30, _LONG, least=80),
        ),
        budgets=(2500, 500, 50),
        remedies=EVERY,
        evaluations=2000,
        test_n=None,
        curve_n=1000,
        points=31,
        trusted=TRUSTED,
        trusted_block="fashion-mnist",
    ),
}
SEEDS = {"smoke": 1, "small": 2, "slice": 2, "paper": 3}
ABOUT = {
    "smoke": "digits, a small network, one threat, two remedies: does it run? A minute, its numbers mean nothing",
    "small": "CIFAR-10 (cnn:depth=4, width 24) and Fashion-MNIST (cnn, width 16), six threats, four of them at a "
    "low rate as well, 2,500, 500 and 50 clean images, 400 gradients of 128 images for every remedy; "
    "plants beside the trigger for five remedies on Fashion-MNIST; five to six hours with two jobs, and one or two for the plants",
    "slice": "CIFAR-10, resnet18 of width 16, three of the threats and six of the remedies, to confirm the small scale; about two hours "
    "with two jobs",
    "paper": "CIFAR-10 (preresnet, vgg16-bn of width 64) and Fashion-MNIST (resnet18 of width 64), trained to the end, all remedies, all "
    "test images; for GPUs",
}
