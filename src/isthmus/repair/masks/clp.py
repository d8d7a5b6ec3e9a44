"""Channel Lipschitzness pruning (Zheng et al. 2022): close the channels that amplify their input more than their neighbours do."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from time import perf_counter

import torch
from torch import Tensor, nn

from isthmus._check import InputError, require
from isthmus.data import Samples
from isthmus.models.pairs import CONVOLUTIONS, Pair
from isthmus.repair.masks.masked import Channels, Knob, prune, trace_of
from isthmus.repair.protocol import Clean, Repaired
from isthmus.table import Column
from isthmus.training.session import Session

GRID = (6.0, 5.5, 5.0, 4.5, 4.0, 3.5, 3.0, 2.5, 2.0, 1.5, 1.0)
"""Deviations above the mean to choose from: around the published 3."""


@dataclass(frozen=True)
class CLP:
    """Channels of a convolution and its BatchNorm whose bound exceeds mean + u deviations of the layer's: gamma and beta become zero.

    Zheng et al. 2022, eq. 12 and 13; see :func:`bounds`. Nothing is trained. `settings` holds one u, 3 as published, for the data-free
    method (a clean image only shows which layers run), or falling ones of which validation accuracy takes one.
    margin: see :func:`isthmus.repair.strength.strongest_within`.
    """

    name: str = "clp"
    settings: tuple[float, ...] = GRID
    margin: float = 0.02

    def __post_init__(self) -> None:
        falling = bool(self.settings) and all(one > two for one, two in pairwise(self.settings))
        require(falling, "settings", "be one u or several falling ones", self.settings)

    def __call__(self, suspects: Sequence[nn.Module], clean: Clean, *, seed: int, session: Session) -> Repaired:
        """Return the first suspect with the outlying channels closed, all else bitwise as it was."""
        began = perf_counter()
        module = suspects[0]
        found = bounds(module, clean.train)
        channels = Channels({pair.norm: len(bound) for pair, bound in found.items()})
        shut = [torch.cat([bound > _bar(bound, u) for bound in found.values()]) for u in self.settings]
        values: list[float | None] = list(self.settings)
        if len(values) > 1:
            values, shut = [None, *values], [torch.zeros_like(shut[0]), *shut]
        column = Column(
            "u", about="channels whose bound exceeds mean + u standard deviations of their layer's are closed"
        )
        knob = Knob(column, values, shut, ("weight", "bias"))
        pruned = prune(module, channels, knob, clean, margin=self.margin)
        return Repaired(self.name, pruned.module, perf_counter() - began, 0, pruned.note, table=pruned.table)


def bounds(module: nn.Module, samples: Samples) -> dict[Pair, Tensor]:
    """Return for each convolution with a BatchNorm behind it an upper bound of each channel's Lipschitz constant, (channels,) float64.

    |gamma_k| / sqrt(var_k + eps) times the largest singular value of filter k as a matrix (channels in, positions). Zheng et al. 2022,
    whose code leaves eps out. Pairs are those that run as such (:func:`isthmus.models.pairs.traced`), not those next to each other in the
    definition. Raises InputError where there is none.
    """
    found = trace_of(module, samples)
    scored = {pair: _bound(module, pair) for pair in found.pairs if _is_scored(module, pair)}
    if not scored:
        raise InputError(
            f"`suspects` should have a convolution whose output goes straight into a BatchNorm with weights and running statistics. Found "
            f"none in {type(module).__name__}, of whose layers {len(found.layers)} convolutions or linear layers and {len(found.norms)} "
            "BatchNorm layers ran. CLP scores such pairs: use another method."
        )
    return scored


def _is_scored(module: nn.Module, pair: Pair) -> bool:
    layer, norm = module.get_submodule(pair.layer), module.get_submodule(pair.norm)
    return isinstance(layer, CONVOLUTIONS) and norm.weight is not None and norm.running_var is not None


def _bound(module: nn.Module, pair: Pair) -> Tensor:
    norm = module.get_submodule(pair.norm)
    filters = module.get_submodule(pair.layer).weight.detach().double().flatten(2)  # pyright: ignore[reportCallIssue]
    gain = norm.weight.detach().double().abs() / (norm.running_var.double() + norm.eps).sqrt()  # pyright: ignore
    return (gain * torch.linalg.matrix_norm(filters, ord=2)).cpu()


def _bar(bound: Tensor, u: float) -> Tensor:
    return bound.mean() + u * bound.std()
