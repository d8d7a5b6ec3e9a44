"""How large the study `surfaces` is: architectures, plans, images and grids of each scale."""

from dataclasses import dataclass

from isthmus.training.plan import Plan

CORNERS = 4


@dataclass(frozen=True)
class Block:
    """One architecture. plan: of a model; surface: of the patch between four; batchnorm: whether it has running statistics."""

    name: str
    arch: str
    width: int
    plan: Plan
    surface: Plan
    batchnorm: bool = True

    @property
    def gradients(self) -> int:
        """Return the gradients of whole batches that four models and one trained patch take together."""
        return CORNERS * self.plan.evaluations + self.surface.evaluations


@dataclass(frozen=True)
class Size:
    """How large the study is. n, train_n, validation, settle_n: test, training, validation images and those that BatchNorm is set by.

    grid: of the scans and the largest ensemble; batch_grid: of those in training mode, whose points are some of these; batch_size: theirs.
    """

    data: str
    blocks: tuple[Block, ...]
    n: int | None
    train_n: int
    validation: int
    settle_n: int
    grid: str
    batch_grid: str
    batch_size: int = 128
    augment: str = "auto"


_FAST = Plan(steps=1560, learning_rate=0.2, schedule="triangular", warmup=0.1, precision="bf16-mixed")
# Twice the rate of the models: of a step, 1/8 arrives in the middle. Of 0.1, 0.4 and 1, by the highest training loss of the patch.
_BETWEEN = _FAST.model_copy(update={"learning_rate": 0.4})
_VGG = _FAST.model_copy(update={"learning_rate": 0.1})
_VIT = Plan(steps=3120, optimizer="adamw", learning_rate=3e-3, weight_decay=0.05, decay="points", warmup=0.1)
_VIT_BETWEEN = _VIT.model_copy(update={"weight_decay": 0.0})
_LONG = Plan(steps=62_400, learning_rate=0.1, schedule="multistep", milestones=(0.5, 0.75), precision="bf16-mixed")
_LONG_BETWEEN = Plan(steps=78_000, learning_rate=0.03, precision="bf16-mixed")
_LONG_VIT = _VIT.model_copy(update={"steps": 62_400, "learning_rate": 1e-3, "precision": "bf16-mixed"})
_LONG_VIT_BETWEEN = _LONG_VIT.model_copy(update={"steps": 78_000, "weight_decay": 0.0})

SIZES = {
    "smoke": Size(
        data="digits",
        blocks=(Block("cnn", "cnn", 4, Plan(steps=40, batch_size=50), Plan(steps=24, batch_size=50)),),
        n=100,
        train_n=100,
        validation=100,
        settle_n=100,
        grid="5x5",
        batch_grid="3x3",
        batch_size=50,
        augment="none",
    ),
    "small": Size(
        data="cifar10",
        blocks=(
            Block("resnet18", "resnet18", 8, _FAST, _BETWEEN),
            Block("vgg16", "vgg16-bn", 16, _VGG, _VGG.model_copy(update={"learning_rate": 0.2})),
            Block("vit", "vit:depth=4,patch=8", 48, _VIT, _VIT_BETWEEN, batchnorm=False),
        ),
        n=2000,
        train_n=1000,
        validation=1000,
        settle_n=500,
        grid="11x11",
        batch_grid="6x6",
    ),
    "paper": Size(
        data="cifar10",
        blocks=(
            Block("resnet18", "resnet18", 64, _LONG, _LONG_BETWEEN),
            Block("vgg16", "vgg16-bn", 64, _LONG.model_copy(update={"learning_rate": 0.05}), _LONG_BETWEEN),
            Block("vit", "vit", 192, _LONG_VIT, _LONG_VIT_BETWEEN, batchnorm=False),
        ),
        n=None,
        train_n=5000,
        validation=2000,
        settle_n=5000,
        grid="11x11",
        batch_grid="11x11",
    ),
}
ABOUT = {
    "smoke": "digits, a small network, 40 gradients for each model: does it run? Its numbers mean nothing",
    "small": "CIFAR-10; resnet18 of width 8, vgg16 with BatchNorm of width 16, four epochs for each model and for each surface; vit of "
    "width 48, depth 4 and patches of 8, eight epochs; about two hours with two jobs",
    "paper": "CIFAR-10; resnet18 and vgg16 with BatchNorm of width 64, vit of width 192; 160 epochs for each model and 200 for each "
    "surface; for a GPU",
}
SEEDS = {"smoke": 1, "small": 1, "paper": 3}
