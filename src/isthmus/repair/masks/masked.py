"""Masks on the output channels of any module: tried on a private copy, closed for good by zeroing weights of an ordinary one."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.func import functional_call

from isthmus._check import require
from isthmus.data import Samples
from isthmus.geometry.bridge import Settle
from isthmus.layout import placement
from isthmus.models.pairs import Traced, traced
from isthmus.probes import Clean as CleanProbe
from isthmus.rates import Rate, hits_of
from isthmus.repair.masks.rounds import Rounds, Turn
from isthmus.repair.protocol import Clean
from isthmus.repair.strength import strongest_within
from isthmus.table import Cell, Column, Table


@dataclass(frozen=True)
class Channels:
    """The output channels of a module that can be closed: layer -> how many. A mask is one vector (K,), layer after layer."""

    counts: Mapping[str, int]

    @property
    def total(self) -> int:
        """Return K."""
        return sum(self.counts.values())

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """Return the part of a vector (K,) that belongs to each layer."""
        return dict(zip(self.counts, flat.split(list(self.counts.values())), strict=True))


def trace_of(module: nn.Module, samples: Samples) -> Traced:
    """Return what of `module` runs on the first two samples: a layer that normalises by the batch needs more than one."""
    device, dtype = placement(module)
    return traced(module, samples.inputs(torch.arange(min(2, len(samples)))).to(device, dtype))


def channels_of(module: nn.Module, samples: Samples) -> Channels:
    """Return the channels of `module` that a mask can close.

    They are those of every BatchNorm that has weights, as published for ANP and RNP, and of every convolution and linear layer that no
    such BatchNorm follows, so that modules without BatchNorm have masks as well. The layer that runs last computes the logits and keeps
    its channels. Tied weights count once, weights that are computed from others (parametrisations) not at all; frozen ones count.
    Raises InputError where nothing is left.
    """
    found = trace_of(module, samples)
    head = found.layers[-1:]
    norms = [name for name in found.norms if _rows(module, name) and not _follows(found, name, head)]
    followed = {pair.layer for pair in found.pairs if pair.norm in norms}
    names = [*norms, *(name for name in found.layers if name not in {*followed, *head} and _rows(module, name))]
    own = {id(module.get_submodule(name).weight): name for name in reversed(names)}
    counts = {name: _rows(module, name) for name in names if name in own.values()}
    require(
        bool(counts),
        "suspects",
        "have BatchNorm, convolutions or linear layers with weights of their own before the layer that computes the logits",
        f"none in {type(module).__name__}",
    )
    return Channels(counts)


def _follows(found: Traced, norm: str, layers: Sequence[str]) -> bool:
    return any(pair.norm == norm and pair.layer in layers for pair in found.pairs)


def _rows(module: nn.Module, name: str) -> int:
    """Return how many output channels the layer's weight has; 0 where it has no weight of its own."""
    weight = dict(module.get_submodule(name).named_parameters(recurse=False)).get("weight")
    return 0 if weight is None else len(weight)


class Masked:
    """A working copy of a module whose channels are scaled, and the masks (K,) that are learned: `values`, all 1 at first.

    The weights of channel k, gamma of a BatchNorm or the filter of a convolution, are multiplied by scale_k, biases by shift_k.
    sums: of the masks over the steps so far.
    """

    def __init__(self, module: nn.Module, channels: Channels):
        self.module, self.channels = module, channels
        module.requires_grad_(False)
        self.values = torch.ones(channels.total, device=placement(module)[0], requires_grad=True)
        self.sums = torch.zeros_like(self.values, requires_grad=True)
        parameters = dict(module.named_parameters(remove_duplicate=False))
        names = {name: [_join(name, kind) for kind in ("weight", "bias")] for name in channels.counts}
        self.weights = {name: (weight, parameters[weight]) for name, (weight, _) in names.items()}
        self.biases = {name: (bias, parameters[bias]) for name, (_, bias) in names.items() if bias in parameters}

    def learn(self, rounds: Rounds, turn: Turn) -> None:
        """Take the steps of `rounds` on the masks, kept within [0, 1]."""
        # The sums get no gradient; they are there so that a checkpoint holds them.
        rounds.descend([self.values, self.sums], turn, after=self._clip)

    def _clip(self) -> None:
        self.sums.detach().add_(self.values.detach().clamp_(0, 1))

    def knob(self, shares: Sequence[float]) -> "Knob":
        """Return the knob of :func:`by_share` at the masks as they are."""
        masks, sums = self.values.detach().cpu(), self.sums.detach().cpu()
        return by_share(masks, sums, shares)

    def __call__(self, x: Tensor, scale: Tensor, shift: Tensor | None = None) -> Tensor:
        """Return the logits (B, C) at these masks; shift None leaves the biases as they are."""
        parts = self.channels.split(scale)
        scaled = {name: _scaled(weight, parts[layer]) for layer, (name, weight) in self.weights.items()}
        if shift is not None:
            parts = self.channels.split(shift)
            scaled |= {name: _scaled(bias, parts[layer]) for layer, (name, bias) in self.biases.items()}
        return functional_call(self.module, scaled, (x,))


def _join(layer: str, name: str) -> str:
    return f"{layer}.{name}" if layer else name


def _scaled(tensor: Tensor, rows: Tensor) -> Tensor:
    return tensor * rows.to(tensor.dtype).view(-1, *[1] * (tensor.ndim - 1))


def closed(module: nn.Module, channels: Channels, shut: Tensor, *, tensors: Sequence[str] = ("weight",)) -> nn.Module:
    """Return a copy of `module` in which the named tensors of the channels in `shut` (K,) are zero; all else is bitwise the same."""
    copy = deepcopy(module)
    with torch.no_grad():
        for layer, rows in channels.split(shut).items():
            own = dict(copy.get_submodule(layer).named_parameters(recurse=False))
            for name in tensors:
                if name in own:
                    own[name][rows.to(own[name].device)] = 0
    return copy


@dataclass(frozen=True)
class Knob:
    """The settings to choose from, weakest first, and which channels each of them closes.

    column: what the setting is called in the table; values: as shown there, None where nothing is closed. shut: boolean vectors (K,),
    each containing the one before. tensors: those of a closed channel that become zero.
    """

    column: Column
    values: Sequence[float | None]
    shut: Sequence[Tensor]
    tensors: Sequence[str] = ("weight",)


@dataclass(frozen=True)
class Pruned:
    """The module with its channels closed, the validation table of all settings, and in words what was chosen."""

    module: nn.Module
    table: Table
    note: str


def prune(
    module: nn.Module, channels: Channels, knob: Knob, clean: Clean, *, margin: float, settle: Settle | None = None
) -> Pruned:
    """Return `module` at the strongest setting that validation accuracy allows (:func:`isthmus.repair.strength.strongest_within`).

    settle: what becomes of BatchNorm statistics where channels are closed, measured and returned alike; None leaves them.
    """

    def at(shut: Tensor) -> nn.Module:
        made = closed(module, channels, shut, tensors=knob.tensors)
        if settle is not None and shut.any():
            settle(made)
        return made

    probe = CleanProbe(clean.validation, split="validation")
    rows: list[dict[str, Cell]] = []
    for value, shut in zip(knob.values, knob.shut, strict=True):
        count = int(shut.sum())
        same = rows and rows[-1]["closed"] == count  # the sets are nested: as many are the same ones
        measured = rows[-1] if same else probe(at(shut))
        rows.append({**measured, knob.column.name: value, "closed": count})
    about = Column("closed", about=f"channels closed of {channels.total}")
    table = Table.of(rows, [knob.column, about, *probe.columns])
    n = len(clean.validation)
    rates = [Rate(n - hits_of(float(error or 0) / 100, n), n) for error in table.values("validation_error")]
    chosen = strongest_within(range(len(rows)), rates, margin=margin)
    shut, value = knob.shut[chosen], knob.values[chosen]
    setting = "none" if value is None else f"{value:g}"
    note = (
        f"{int(shut.sum())} of {channels.total} channels closed ({knob.column.name} {setting}): "
        f"validation accuracy {rates[chosen]}, with none closed {rates[0]}"
    )
    return Pruned(at(shut), table, note)


SHARES = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.125, 0.15, 0.175, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5)
"""Of all channels: what a remedy by masks may close."""


def by_share(masks: Tensor, means: Tensor, shares: Sequence[float]) -> Knob:
    """Return the knob that closes a share of the channels, those with the lowest masks (K,) first; its first setting closes none.

    Of equal masks (many end at 0) the one with the lower mean over the steps comes first, then the one further in front. A mask of 1 is
    no reason to close a channel. The published codes offer a threshold on the masks as well, which cannot part the zeros.
    Raises InputError for shares that do not rise within (0, 1].
    """
    rising = all(low < high for low, high in pairwise((0.0, *shares, 1.0 + 1e-9)))
    require(rising and len(shares) > 0, "shares", "rise within (0, 1]", tuple(shares))
    early = means.argsort(stable=True)
    rank = torch.empty(len(masks), dtype=torch.int64)
    rank[early[masks[early].argsort(stable=True)]] = torch.arange(len(masks))
    most = int((masks < 1).sum())
    counts = [0, *(min(most, round(share * len(masks))) for share in shares)]
    column = Column("share", about="share of all channels that was to be closed, lowest masks first")
    return Knob(column, (None, *shares), [rank < count for count in counts])
