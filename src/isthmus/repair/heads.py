"""Remedies that give the model a new head and train all of it away from the old one: FST (2023) and D3 (2025)."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import isfinite
from time import perf_counter

import torch
from torch import Tensor, nn

from isthmus._check import InputError, require
from isthmus.data import Samples
from isthmus.losses import cross_entropy
from isthmus.randomness import stream
from isthmus.repair.protocol import Clean, Repaired
from isthmus.repair.wiring import Layer, layers_of
from isthmus.settle import Recalibrate
from isthmus.training.fit import fit_module
from isthmus.training.guide import Guided, Projected
from isthmus.training.objective import Losses, Own
from isthmus.training.plan import Plan
from isthmus.training.session import Session

_REQUIREMENT = "end in a linear layer or a convolution of its own whose output is the logits"
_FIX = "Use a remedy that needs no head, such as ft-sam."


@dataclass(frozen=True, eq=False)
class Head:
    """The layer that makes the logits: the names of its tensors in the module, and the weights W, (C, F) or (C, F, ...), as they are."""

    weight: str
    bias: str | None
    old: Tensor

    @property
    def radius(self) -> float:
        """Return the Frobenius norm of W."""
        return self.old.norm().item()


def head_of(module: nn.Module, samples: Samples) -> Head:
    """Return the head of `module`: the last layer called on `samples` whose output, or its mean over space or tokens, is the logits.

    A convolution that ends in the mean over space is a linear layer on the mean of its input. Raises InputError where nothing like
    that is found, and where its weights are no parameter (a parametrisation), are used under two names, are frozen or all zero.

    >>> from isthmus.data import load_data
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 10))
    >>> head_of(model, load_data("digits").train).weight
    '3.weight'
    """
    layers, scores = layers_of(module, samples.inputs(torch.arange(min(4, len(samples)))), samples.num_classes)
    ends = [layer for layer in layers if _makes(layer, scores)]
    last = f"the last of {len(layers)}, {layers[-1].weight!r}, gives something else" if layers else "no such layer"
    require(bool(ends), "model", _REQUIREMENT, last, _FIX)
    weight = ends[-1].weight
    if weight is None:
        raise InputError(f"`model` should {_REQUIREMENT}. Found one whose weights are made of other tensors. {_FIX}")
    parameter = dict(module.named_parameters())[weight]
    names = [name for name, p in module.named_parameters(remove_duplicate=False) if p is parameter]
    require(len(names) == 1, "model", _REQUIREMENT, f"weights shared by {' and '.join(map(repr, names))}", _FIX)
    require(parameter.requires_grad, "model", "have a head that trains", f"{weight!r} frozen", "Unfreeze it.")
    head = Head(weight, ends[-1].bias, parameter.detach().clone())
    require(head.radius > 0, "model", "have a head whose weights are not all zero", f"{weight!r} of norm 0")
    return head


def _makes(layer: Layer, scores: Tensor) -> bool:
    """Return whether the logits are the layer's output, or its mean over all axes but those of images and channels."""
    if layer.result.ndim < 2:
        return False
    found = layer.result.movedim(layer.axis, 1)
    if found.shape[:2] != scores.shape:
        return False
    gap = found.reshape(*scores.shape, -1).mean(2) - scores
    return bool(gap.abs().max() <= 1e-4 * scores.abs().max())


@dataclass(frozen=True)
class FeatureShift:
    """FST, feature shift tuning (Min et al. 2023): a fresh head, held away from the old one, and all weights trained.

    Weights and bias of the head start uniform on +-1 / sqrt(F). Minimises mean cross-entropy + alpha <W, W_old> over ||W|| = ||W_old||:
    after each step W is scaled to that norm, as in the authors' code. alpha: at least 0; published 0.1 to 0.2.
    """

    plan: Plan
    name: str = "fst"
    alpha: float = 0.1

    def __post_init__(self) -> None:
        require(isfinite(self.alpha) and self.alpha >= 0, "alpha", "be at least 0", self.alpha)

    def __call__(self, suspects: Sequence[nn.Module], clean: Clean, *, seed: int, session: Session) -> Repaired:
        """Return the first suspect with another head, trained on the clean samples, statistics recomputed on them."""
        return _trained(self, suspects[0], clean, seed=seed, session=session)

    def start(self, module: nn.Module, head: Head, generator: torch.Generator) -> Losses:
        """Return what is minimised, after writing a fresh head into `module`."""
        bound = head.old[0].numel() ** -0.5
        _fill(module, head.weight, _uniform(head.old.shape, bound, generator))
        if head.bias is not None:
            _fill(module, head.bias, _uniform(head.old.shape[:1], bound, generator))
        return _Inner(head.weight, head.old, self.alpha)


@dataclass(frozen=True)
class DistanceDriven:
    """D3, distance-driven detoxification (Wei et al. 2025): a random head of the old norm, moved away from the old one.

    Minimises weight x mean max(0, cross-entropy - slack) - ||W - W_old|| over ||W|| = ||W_old||, divided by weight + 1 where weight > 1;
    after each step W is scaled to that norm. All weights are trained; only the head's distance counts. weight: above 0, called lambda in
    the paper, 0.5 in the authors' code. slack: in nats; below it a sample's loss counts nothing.
    """

    plan: Plan
    name: str = "d3"
    weight: float = 0.5
    slack: float = 0.1

    def __post_init__(self) -> None:
        require(isfinite(self.weight) and self.weight > 0, "weight", "be above 0", self.weight)
        require(isfinite(self.slack) and self.slack >= 0, "slack", "be at least 0", self.slack)

    def __call__(self, suspects: Sequence[nn.Module], clean: Clean, *, seed: int, session: Session) -> Repaired:
        """Return the first suspect with another head, trained on the clean samples, statistics recomputed on them."""
        return _trained(self, suspects[0], clean, seed=seed, session=session)

    def start(self, module: nn.Module, head: Head, generator: torch.Generator) -> Losses:
        """Return what is minimised, after writing a random head of the old norm into `module`; the bias stays."""
        fresh = _uniform(head.old.shape, 0.5, generator)
        _fill(module, head.weight, fresh * (head.radius / fresh.norm()))
        return _Distance(head.weight, head.old, self.weight, self.slack)


def _trained(
    remedy: FeatureShift | DistanceDriven, suspect: nn.Module, clean: Clean, *, seed: int, session: Session
) -> Repaired:
    began = perf_counter()
    head, module = head_of(suspect, clean.train), deepcopy(suspect)
    losses = remedy.start(module, head, stream(seed, "head"))
    objective = Guided(Own(losses), Projected(_OnSphere(head.weight, head.radius)))
    module, fitted = fit_module(module, clean.train, remedy.plan, seed=seed, objective=objective, session=session)
    Recalibrate(clean.train)(module)
    new = dict(module.named_parameters())[head.weight].detach().to(head.old)
    cosine = ((new * head.old).sum() / (new.norm() * head.old.norm())).item()
    return Repaired(
        remedy.name,
        module,
        perf_counter() - began,
        fitted.evaluations,
        f"last step; cosine of the new head {head.weight!r} with the old one {cosine:.2f}",
        history=fitted.history,
    )


def _uniform(shape: Sequence[int], bound: float, generator: torch.Generator) -> Tensor:
    return (2 * torch.rand(tuple(shape), generator=generator) - 1) * bound


def _fill(module: nn.Module, name: str, values: Tensor) -> None:
    with torch.no_grad():
        dict(module.named_parameters())[name].copy_(values)


@dataclass(frozen=True, eq=False)
class _Inner:
    """FST's losses: cross-entropy + alpha <W, W_old>."""

    head: str
    old: Tensor
    alpha: float

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        logits = model(x)
        inner = (_weight(model, self.head) * self.old.to(x.device)).sum()
        return cross_entropy(logits, y) + self.alpha * inner, logits


@dataclass(frozen=True, eq=False)
class _Distance:
    """D3's losses: a hinge on the cross-entropy, minus the distance of W from W_old."""

    head: str
    old: Tensor
    weight: float
    slack: float

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        logits = model(x)
        distance = (_weight(model, self.head) - self.old.to(x.device)).norm()
        losses = self.weight * (cross_entropy(logits, y) - self.slack).clamp_min(0) - distance
        return losses / (self.weight + 1 if self.weight > 1 else 1), logits


def _weight(model: nn.Module, name: str) -> Tensor:
    return dict(model.named_parameters())[name]


@dataclass(frozen=True)
class _OnSphere:
    """Scales the tensor `name` to the norm `radius`."""

    name: str
    radius: float

    def __call__(self, weights: Mapping[str, Tensor]) -> None:
        weight = weights[self.name]
        weight.mul_(self.radius / weight.norm().clamp_min(1e-12))
