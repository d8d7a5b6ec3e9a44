"""`Sharpness` and `Trace`: how the loss curves in the weights."""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from isthmus._check import require
from isthmus.curvature.loss_at import LossAt
from isthmus.curvature.operator import hessian
from isthmus.curvature.spectrum import Search, top_eigenpairs
from isthmus.curvature.trace import trace
from isthmus.data.samples import Samples
from isthmus.layout import placement
from isthmus.losses import cross_entropy
from isthmus.problem import Pose, Posed, Problem
from isthmus.table import Column, Split

UNIT = "nat/weight²"


@dataclass(frozen=True, eq=False)
class Sharpness:
    """Largest eigenvalue of the Hessian of the mean loss in all weights, in nat per squared unit of weight, and its residual.

    sharpness_residual: ||H v - lambda v|| for the unit vector v found: within so much of `sharpness` lies an eigenvalue. At most `steps`
    products of Lanczos, fewer once the residual is `tolerance` of the eigenvalue. Evaluation mode; parameters that their owner froze
    count as well. pose: poses the same samples otherwise, for instance under attack: then the Hessian is that at the examples found at
    each model, kept fixed; cross-entropy on the samples unless given. name: appended to the columns, for several losses in one table.
    """

    samples: Samples
    pose: Pose | None = None
    tolerance: float = 1e-3
    steps: int = 100
    batch_size: int = 200
    split: Split = "test"
    name: str = ""

    def __post_init__(self) -> None:
        Search(self.tolerance, self.steps)  # which has requirements of its own
        require(self.batch_size >= 1, "batch_size", "be at least 1", self.batch_size)

    @property
    def columns(self) -> tuple[Column, ...]:
        """Return the eigenvalue and its residual."""
        n, names = len(self.samples), _names(("sharpness", "sharpness_residual"), self.split, self.name)
        what = f"largest eigenvalue of the Hessian of the mean loss in the weights, on {self.samples.name}"
        return (
            Column(names[0], UNIT, "lower", self.split, n, what),
            Column(names[1], UNIT, "lower", self.split, n, f"residual of the {what}"),
        )

    def __call__(self, model: nn.Module, *, generator: torch.Generator) -> Mapping[str, float]:
        """Return both; draws the start of Lanczos."""
        search = Search(self.tolerance, self.steps)
        found = top_eigenpairs(hessian(_loss(self, model)), 1, generator=generator, search=search)
        values = (float(found.values[0]), float(found.residuals[0]))
        return {column.name: value for column, value in zip(self.columns, values, strict=True)}


@dataclass(frozen=True, eq=False)
class Trace:
    """Trace of the Hessian of the mean loss in all weights, in nat per squared unit of weight, with its 99 % interval.

    Hutchinson's estimate of `products` products with random signs. Everything else as in :class:`Sharpness`.
    """

    samples: Samples
    pose: Pose | None = None
    products: int = 50
    batch_size: int = 200
    split: Split = "test"
    name: str = ""

    def __post_init__(self) -> None:
        require(self.products >= 2, "products", "be at least 2, so that there is an error", self.products)
        require(self.batch_size >= 1, "batch_size", "be at least 1", self.batch_size)

    @property
    def columns(self) -> tuple[Column, ...]:
        """Return the trace and the bounds of its interval."""
        n, names = len(self.samples), _names(("trace", "trace_low", "trace_high"), self.split, self.name)
        what = f"trace of the Hessian of the mean loss in the weights, on {self.samples.name}, {self.products} products"
        abouts = (what, f"lower bound, 99 %, of the {what}", f"upper bound, 99 %, of the {what}")
        return tuple(
            Column(name, UNIT, "lower", self.split, n, about) for name, about in zip(names, abouts, strict=True)
        )

    def __call__(self, model: nn.Module, *, generator: torch.Generator) -> Mapping[str, float]:
        """Return all three; draws the random signs."""
        found = trace(hessian(_loss(self, model)), products=self.products, generator=generator)
        assert found.error is not None
        values = (found.value, found.value - found.error, found.value + found.error)
        return {column.name: value for column, value in zip(self.columns, values, strict=True)}


def _names(names: Sequence[str], split: Split, suffix: str) -> list[str]:
    """Return the names of a probe's columns; bounds stay last, by which pages and figures know them."""
    before, after = "" if split == "test" else f"{split}_", f"_{suffix}" if suffix else ""
    first, *others = names
    return [f"{before}{first}{after}", *(f"{before}{first}{after}{name.removeprefix(first)}" for name in others)]


def _loss(probe: Sharpness | Trace, model: nn.Module) -> LossAt:
    """Return the loss that a probe is about, at a copy all of whose weights are differentiated: a scan freezes those of its module."""
    free = deepcopy(model)
    for parameter in free.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return LossAt(free, probe.pose or _clean(probe.samples, probe.batch_size))


def _clean(samples: Samples, batch_size: int) -> Pose:
    """Return what poses cross-entropy on the samples."""

    def pose(model: nn.Module) -> Iterator[Problem]:
        device, dtype = placement(model)
        for index in torch.arange(len(samples), device=samples.x.device).split(batch_size):
            yield Posed(model, (samples.inputs(index).to(device, dtype),), samples.y[index].to(device), _first_loss)

    return pose


def _first_loss(outputs: Sequence[Tensor], labels: Tensor) -> Tensor:
    return cross_entropy(outputs[0], labels)
