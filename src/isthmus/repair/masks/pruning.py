"""Remedies that zero whole channels and train the rest: filter pruning (Li et al. 2017) and fine-pruning (Liu et al. 2018)."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor, nn

from isthmus._check import InputError, require
from isthmus.data import Samples
from isthmus.evaluate import correct, logits
from isthmus.rates import Rate
from isthmus.repair.protocol import Clean, Repaired
from isthmus.repair.strength import strongest_within
from isthmus.repair.wiring import Layer, layers_of
from isthmus.settle import Recalibrate
from isthmus.training.fit import fit_module
from isthmus.training.guide import Guided, Projected
from isthmus.training.objective import Supervised
from isthmus.training.plan import Plan
from isthmus.training.session import Session

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
_BATCH = 100


@dataclass(frozen=True)
class FilterPruning:
    """Zero the filters of least L1 norm in every convolution (Li et al. 2017), then train the rest on the clean samples.

    A filter goes with its bias and the scale and shift of the normalisation that follows it, and stays zero; the module keeps its shape.
    The same share goes of every convolution that is not the head; of every hidden linear layer, by units, where the module has no such
    convolution. The share is the largest of `shares` whose validation accuracy before training is within `margin` of the best, see
    :func:`isthmus.repair.strength.strongest_within`; one channel of each layer always stays.
    """

    plan: Plan
    name: str = "prune"
    margin: float = 0.08
    shares: tuple[float, ...] = SHARES

    def __post_init__(self) -> None:
        _require_shares(self.shares)

    def __call__(self, suspects: Sequence[nn.Module], clean: Clean, *, seed: int, session: Session) -> Repaired:
        """Return the first suspect without its smallest filters, trained further, statistics recomputed."""
        return _repaired(self, suspects[0], clean, seed=seed, session=session)

    def ranked(self, suspect: nn.Module, samples: Samples) -> "list[Channels]":
        """Return the layers whose channels may go, each with its channels in the order in which they go."""
        own = dict(suspect.named_parameters())
        layers = [(layer, layer.weight) for layer in prunable(suspect, samples)]
        sizes = [own[name].detach().abs().flatten(1).sum(1) for _, name in layers if name is not None]
        return [Channels.of(layer, size) for (layer, _), size in zip(layers, sizes, strict=True)]


@dataclass(frozen=True)
class FinePruning:
    """Zero the channels of the last convolution that are silent on the clean samples (Liu et al. 2018), then train the rest.

    Silent: of least mean |activation| over the training samples, normalised and past the activation (and past a shortcut that comes in
    before it). Without a convolution: units of the last hidden linear layer. The share is chosen, and channels are zeroed and kept at
    zero, as in :class:`FilterPruning`.
    """

    plan: Plan
    name: str = "fine-prune"
    margin: float = 0.08
    shares: tuple[float, ...] = SHARES

    def __post_init__(self) -> None:
        _require_shares(self.shares)

    def __call__(self, suspects: Sequence[nn.Module], clean: Clean, *, seed: int, session: Session) -> Repaired:
        """Return the first suspect without its most silent channels, trained further, statistics recomputed."""
        return _repaired(self, suspects[0], clean, seed=seed, session=session)

    def ranked(self, suspect: nn.Module, samples: Samples) -> "list[Channels]":
        """Return the layers whose channels may go, each with its channels in the order in which they go."""
        last = prunable(suspect, samples)[-1]
        return [Channels.of(last, activity(suspect, last, samples))]


def _require_shares(shares: tuple[float, ...]) -> None:
    inside = bool(shares) and all(0 <= share <= 1 for share in shares)
    require(inside, "shares", "be one or more shares in [0, 1]", shares)


@dataclass(frozen=True, eq=False)
class Channels:
    """The output channels of one layer: `tensors` with an entry for each along their first axis, `order` from the first to go."""

    tensors: tuple[str, ...]
    order: Tensor

    @classmethod
    def of(cls, layer: Layer, scores: Tensor) -> "Channels":
        """Return the channels of `layer` by rising score (C,); of equal ones the first goes first."""
        names = [layer.weight, layer.bias, *layer.norms]
        return cls(tuple(name for name in names if name is not None), scores.argsort(stable=True))

    def cut(self, share: float) -> dict[str, Tensor]:
        """Return which entries of which tensor a share takes: round(share x C) channels, at most C - 1."""
        count = min(round(share * len(self.order)), len(self.order) - 1)
        return dict.fromkeys(self.tensors, self.order[:count].sort().values) if count else {}


def prunable(module: nn.Module, samples: Samples) -> list[Layer]:
    """Return the layers whose channels may go, in the order of the forward pass: all convolutions or, without any, all linear layers.

    Never the last layer called, which makes the logits. A layer called twice comes once, with the norms after either call. Raises
    InputError where nothing is left.
    """
    layers, _ = layers_of(module, samples.inputs(torch.arange(min(2, len(samples)))), samples.num_classes)
    found: dict[str, Layer] = {}
    for layer in layers[:-1]:
        if layer.weight is not None and layer.weight != layers[-1].weight:
            norms = found.pop(layer.weight).norms if layer.weight in found else []
            layer.norms += [name for name in norms if name not in layer.norms]
            found[layer.weight] = layer
    convolutions = [layer for layer in found.values() if layer.kind == "convolution"]
    if not found:
        raise InputError(
            f"`model` should have a convolution or a linear layer of its own before its last layer. Found {len(layers)} layer(s) in all. "
            "Use a remedy that prunes nothing."
        )
    return convolutions or list(found.values())


def activity(module: nn.Module, layer: Layer, samples: Samples) -> Tensor:
    """Return the mean |activation| (C,) of the layer's channels over samples and places, in evaluation mode."""
    total = torch.zeros(layer.active.shape[layer.axis], dtype=torch.float64)
    for index in torch.arange(len(samples)).split(_BATCH):
        calls, _ = layers_of(module, samples.inputs(index), samples.num_classes)
        active = [call.active for call in calls if call.weight == layer.weight][-1].movedim(layer.axis, 0)
        total += active.flatten(1).abs().double().mean(1).cpu() * (len(index) / len(samples))
    return total


@dataclass(frozen=True, eq=False)
class _Zeroed:
    """Sets the named entries along the first axis of each tensor to zero."""

    entries: Mapping[str, Tensor]

    def __call__(self, weights: Mapping[str, Tensor]) -> None:
        for name, index in self.entries.items():
            weights[name][index] = 0


def _without(module: nn.Module, entries: Mapping[str, Tensor], samples: Samples) -> nn.Module:
    """Return a copy with the entries at zero and its statistics recomputed."""
    cut = deepcopy(module)
    with torch.no_grad():
        _Zeroed(entries)(dict(cut.named_parameters()))
    Recalibrate(samples)(cut)
    return cut


def _repaired(
    remedy: FilterPruning | FinePruning, suspect: nn.Module, clean: Clean, *, seed: int, session: Session
) -> Repaired:
    began = perf_counter()
    layers = remedy.ranked(suspect, clean.train)
    cuts = [_joined(layers, share) for share in remedy.shares]
    rates: list[Rate] = []
    for cut in cuts:
        scores = logits(_without(suspect, cut, clean.train), clean.validation)
        rates.append(Rate.of(correct(scores, clean.validation.y)))
    place = strongest_within(remedy.shares, rates, margin=remedy.margin)
    objective = Guided(Supervised(), Projected(_Zeroed(cuts[place])))
    start = _without(suspect, cuts[place], clean.train)
    module, fitted = fit_module(start, clean.train, remedy.plan, seed=seed, objective=objective, session=session)
    Recalibrate(clean.train)(module)
    note = (
        f"{100 * remedy.shares[place]:g} % of the channels of {len(layers)} layer(s) at zero; validation accuracy before training "
        f"{100 * rates[place].value:.1f} %, at best {100 * max(rate.value for rate in rates):.1f} %; last step"
    )
    return Repaired(remedy.name, module, perf_counter() - began, fitted.evaluations, note, history=fitted.history)


def _joined(layers: Sequence[Channels], share: float) -> dict[str, Tensor]:
    return {name: index for layer in layers for name, index in layer.cut(share).items()}
