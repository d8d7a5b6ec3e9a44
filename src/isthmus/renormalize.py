"""REPAIR: a mixture of models whose channels get back the means and spreads that mixing took from them."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from math import fsum, isfinite

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd  # pyright: ignore[reportPrivateUsage]
from torch.utils.hooks import RemovableHandle

from isthmus._check import require
from isthmus.data import Samples
from isthmus.evaluate import checked_forward, evaluating
from isthmus.layout import memory_format_for, placement, require_same_architecture
from isthmus.settle import Recalibrate, running_layers

_PLAIN = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_ANY = (*_PLAIN, _ConvNd)  # transposed ones too


@dataclass(frozen=True, eq=False)
class Renormalized:
    """The corrected copy, and by name the layers that were `corrected`, those whose BatchNorm was recomputed instead (`normalised`) and
    those `left` as they were, as `fc: has no bias to take the shift`.
    """

    module: nn.Module
    corrected: tuple[str, ...]
    normalised: tuple[str, ...]
    left: tuple[str, ...]


def renormalize(
    module: nn.Module,
    ends: Sequence[nn.Module],
    weights: Sequence[float],
    samples: Samples,
    *,
    batch_size: int = 500,
) -> Renormalized:
    """Return a copy of `module`, the mixture of `ends` by `weights`, whose channels have the mixed means and spreads of the ends.

    For each output channel of each linear layer and convolution, before what follows it, over all samples and places:

        mean = sum_i weights_i mean_i,   std = sum_i weights_i std_i

    with mean_i and std_i (divided by n) those in end i: REPAIR (Jordan, Sedghi, Saukh, Entezari, Neyshabur 2023,
    https://arxiv.org/abs/2211.08403, the conditions on the interpolated network, there for two ends). Each layer is measured with all
    before it corrected, one pass a layer, and the correction goes into its weight and bias. The authors' code normalises all layers at
    once in training mode, so by batches; ours is exact. A channel that is constant in `module` gets its mean only.

    As there, the last layer that runs, which gives the logits, is left, and layers that BatchNorm follows need no correction: its
    statistics are recomputed (:class:`isthmus.settle.Recalibrate`), again where layers before it were corrected. Left and said are
    layers without a bias, called several times or never, of subclasses with a forward of their own, transposed convolutions, and those
    whose weights are shared or computed. weights: at least 0, of sum 1. Evaluation mode, no gradient; nothing that was given is changed.

    Raises InputError for weights that are none, for other architectures and for activations that are not finite.
    """
    mixed = len(weights) == len(ends) and all(isfinite(w) and w >= 0 for w in weights) and abs(fsum(weights) - 1) < 1e-6
    require(mixed, "weights", f"be {len(ends)} numbers, one per end, at least 0 and of sum 1", repr(tuple(weights)))
    require(len(samples) >= 2, "samples", "hold at least 2 images to measure a spread", len(samples))
    for i, end in enumerate(ends):
        require_same_architecture(module, end, ("module", f"ends[{i}]"))
    copy = deepcopy(module)
    order, feeding = _course(copy, samples)
    layers = dict(copy.named_modules())
    left = _left(copy, order, feeding)
    normalised = tuple(name for name in order if name in feeding and name not in left)
    asked = [name for name in order if isinstance(layers[name], _PLAIN) and name not in (*left, *normalised)]
    targets = _targets(ends, weights, asked, samples, batch_size)
    settle = Recalibrate(samples, max(batch_size, 2))
    stale = False
    for name in order:
        if name in asked:
            if stale:
                settle(copy)
            stale = False
            found = _moments(copy, [name], samples, batch_size)[name]
            _fold(layers[name], found, targets[name], name)
        elif not isinstance(layers[name], _ANY):
            stale = True  # a BatchNorm layer behind what was mixed or corrected
    if stale:
        settle(copy)
    return Renormalized(copy, tuple(asked), normalised, tuple(f"{name}: {why}" for name, why in left.items()))


@dataclass(eq=False)
class _Moments:
    """Mean and sum of squared deviations of every channel of a layer's outputs, merged batch by batch (Chan et al. 1983)."""

    calls: int = 0
    rows: int = 0
    mean: Tensor = field(default_factory=lambda: torch.zeros(()))
    squares: Tensor = field(default_factory=lambda: torch.zeros(()))

    def add(self, values: Tensor) -> None:
        """Add a batch (channels, R) in float64."""
        rows, mean = values.shape[1], values.mean(1)
        away, total = mean - self.mean.to(mean), self.rows + rows
        squares = (values - mean[:, None]).square().sum(1)
        self.squares = self.squares.to(mean) + squares + away.square() * (self.rows * rows / total)
        self.mean, self.rows, self.calls = self.mean.to(mean) + away * (rows / total), total, self.calls + 1

    @property
    def std(self) -> Tensor:
        """Return the spread of each channel."""
        return (self.squares / self.rows).sqrt()


def _moments(module: nn.Module, names: Sequence[str], samples: Samples, batch_size: int) -> Mapping[str, _Moments]:
    """Return the moments of the outputs of these layers over one pass."""
    layers = dict(module.named_modules())
    found = {name: _Moments() for name in names}

    def taken(name: str) -> Callable[[nn.Module, object, object], None]:
        layer = layers[name]
        axis = -1 if isinstance(layer, nn.Linear) else -1 - len(layer.kernel_size)  # pyright: ignore[reportArgumentType]

        def hook(_layer: nn.Module, _given: object, out: object) -> None:
            if isinstance(out, Tensor):
                found[name].add(out.detach().double().movedim(axis, 0).flatten(1))

        return hook

    parts = -(-len(samples) // batch_size)
    with _hooked(lambda: [layers[name].register_forward_hook(taken(name)) for name in names], module, samples) as run:
        for index in torch.arange(len(samples)).tensor_split(parts):
            run(index)
    for name, held in found.items():
        once = held.calls == parts
        require(
            once,
            "ends",
            f"call {name!r} once in a forward pass, like the mixture",
            f"{held.calls} calls in {parts} passes",
        )
        finite = bool((held.mean.isfinite() & held.squares.isfinite()).all())
        require(finite, "module", f"have finite activations, at the ends too, in {name!r}", "NaN or infinity")
    return found


def _targets(
    ends: Sequence[nn.Module], weights: Sequence[float], names: Sequence[str], samples: Samples, batch_size: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the mixed mean and std (channels,) of each layer. Ends of weight 0 are not run."""
    held = [(w, _moments(end, names, samples, batch_size)) for end, w in zip(ends, weights, strict=True) if w > 0]
    return {
        name: (
            torch.stack([w * found[name].mean for w, found in held]).sum(0),
            torch.stack([w * found[name].std for w, found in held]).sum(0),
        )
        for name in names
    }


def _fold(layer: nn.Module, found: _Moments, target: tuple[Tensor, Tensor], name: str) -> None:
    """Scale and shift the outputs of `layer` to the target moments, in place."""
    assert isinstance(layer, _PLAIN)
    assert layer.bias is not None, name
    mean, std = (t.to(found.mean) for t in target)
    # Below this a channel is constant but for rounding, which must not be blown up to a spread.
    floor = 100 * torch.finfo(layer.weight.dtype).eps * found.mean.abs()
    scale = torch.where(found.std > floor, std / found.std, 1.0)
    with torch.no_grad():
        rows = scale.view(-1, *[1] * (layer.weight.ndim - 1))
        layer.weight.copy_(layer.weight.double() * rows)
        layer.bias.copy_(layer.bias.double() * scale + mean - scale * found.mean)


def _course(module: nn.Module, samples: Samples) -> tuple[tuple[str, ...], frozenset[str]]:
    """Return layers and BatchNorm layers in the order of their calls, with repeats, and the layers whose outputs BatchNorm reads."""
    running = running_layers(module)
    order: list[str] = []
    feeding: set[str] = set()
    made: list[tuple[str, Tensor, int]] = []

    def before(name: str) -> Callable[[nn.Module, tuple[object, ...]], None]:
        def hook(_layer: nn.Module, given: tuple[object, ...]) -> None:
            order.append(name)
            # By its version, because a ReLU in place between the two would leave the same tensor.
            feeding.update(
                maker for maker, out, version in made if given and given[0] is out and out._version == version
            )

        return hook

    def after(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(_layer: nn.Module, _given: object, out: object) -> None:
            order.append(name)
            if isinstance(out, Tensor):
                made.append((name, out, out._version))

        return hook

    def hooks() -> list[RemovableHandle]:
        return [
            part.register_forward_pre_hook(before(name)) if part in running else part.register_forward_hook(after(name))
            for name, part in module.named_modules()
            if part in running or isinstance(part, _ANY)
        ]

    with _hooked(hooks, module, samples) as run:
        run(torch.arange(2))
    return tuple(order), frozenset(feeding)


def _left(module: nn.Module, order: Sequence[str], feeding: frozenset[str]) -> dict[str, str]:
    """Return layer -> why it cannot be corrected, in the order of the module."""
    layers = {name: part for name, part in module.named_modules() if isinstance(part, _ANY)}
    last = next((name for name in reversed(order) if name in layers), None)
    uses: dict[int, int] = {}
    for _, parameter in module.named_parameters(remove_duplicate=False):
        uses[id(parameter)] = uses.get(id(parameter), 0) + 1
    found: dict[str, str] = {}
    for name, layer in layers.items():
        own = [vars(layer)["_parameters"].get(kind) for kind in ("weight", "bias")]
        kind = next((plain for plain in _PLAIN if isinstance(layer, plain)), None)
        calls = order.count(name)
        if calls != 1:
            found[name] = f"called {calls} times in a forward pass" if calls else "never called by the forward pass"
        elif name in feeding:
            continue
        elif name == last:
            found[name] = "the last layer, which gives the logits"
        elif kind is None:
            found[name] = f"{type(layer).__name__} is not handled"
        elif type(layer).forward is not kind.forward or "forward" in vars(layer):
            found[name] = f"{type(layer).__name__} has a forward of its own"
        elif layer.bias is None:
            found[name] = "has no bias to take the shift"
        elif any(not isinstance(p, nn.Parameter) for p in own):
            found[name] = "its weight or bias is computed from others"
        elif any(uses[id(p)] > 1 for p in own):
            found[name] = "shares its weight or bias with another"
    return found


@contextmanager
def _hooked(
    hooks: Callable[[], list[RemovableHandle]], module: nn.Module, samples: Samples
) -> Generator[Callable[[Tensor], None]]:
    """Return a context with a function that runs `module` on samples by index, its hooks removed afterwards."""
    device, dtype = placement(module)
    layout = memory_format_for(
        module, samples.inputs(torch.arange(1)).to(device, dtype)
    )  # runs the module: before the hooks

    def run(index: Tensor) -> None:
        checked_forward(module, samples.inputs(index).to(device, dtype).contiguous(memory_format=layout), 1)

    with evaluating(module), torch.no_grad():
        handles = hooks()
        try:
            yield run
        finally:
            for handle in handles:
                handle.remove()
