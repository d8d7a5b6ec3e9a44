"""Permuted copies of a module: the same function at another place in weight space."""

from collections.abc import Sequence
from contextlib import suppress
from copy import deepcopy

import torch
from torch import Tensor, nn

from isthmus._check import InputError, require
from isthmus.data import Samples
from isthmus.evaluate import checked_forward, evaluating, logits, running_layers
from isthmus.geometry.units import Member, Symmetry
from isthmus.layout import placement

Permutations = tuple[Tensor, ...]
"""One (n,) int64 tensor per group: unit i of the permuted module is unit p[i] of the module."""

TOLERANCE = 1e-4
"""Largest change of the outputs that permuting may make, as a share of the largest of them: sums in another order round otherwise."""


def identity(symmetry: Symmetry) -> Permutations:
    """Return the permutations that move nothing."""
    return tuple(torch.arange(group.size) for group in symmetry.groups)


def random_permutations(symmetry: Symmetry, generator: torch.Generator) -> Permutations:
    """Return permutations drawn uniformly."""
    return tuple(torch.randperm(group.size, generator=generator) for group in symmetry.groups)


def cycles(symmetry: Symmetry, generator: torch.Generator) -> Permutations:
    """Return permutations in which no unit stays, in a random order each: a uniform one of few units often moves none."""
    orders = random_permutations(symmetry, generator)
    return tuple(torch.empty_like(order).scatter_(0, order, order.roll(1)) for order in orders)


def inverse(permutations: Permutations) -> Permutations:
    """Return the permutations that undo others."""
    return tuple(p.argsort() for p in permutations)


def permuted(module: nn.Module, symmetry: Symmetry, permutations: Sequence[Tensor]) -> nn.Module:
    """Return a copy of `module` in whose groups unit i is unit p[i] of the module: the same function, parameters and buffers moved.

    Raises InputError for permutations that are none, and for a module without the tensors of the symmetry.

    >>> from isthmus.geometry.symmetry import symmetry_of
    >>> net = nn.Sequential(nn.Linear(1, 3), nn.Linear(3, 1))
    >>> found = symmetry_of(net, torch.rand(2, 1), generator=torch.Generator())
    >>> copy = permuted(net, found, [torch.tensor([2, 0, 1])])
    >>> bool((copy[0].bias == net[0].bias[[2, 0, 1]]).all())
    True
    """
    require(
        len(permutations) == len(symmetry.groups),
        "permutations",
        f"be {len(symmetry.groups)}, one per group",
        len(permutations),
    )
    copy = deepcopy(module)
    own = dict(copy.named_parameters()) | dict(copy.named_buffers())
    for group, permutation in zip(symmetry.groups, permutations, strict=True):
        whole = torch.equal(permutation.cpu().sort().values, torch.arange(group.size))
        require(whole, "permutations", f"order the {group.size} units of {group.name}", f"{permutation.tolist()}")
        for member in group.members:
            _require_member(own, member)
            tensor = own[member.tensor]
            with torch.no_grad():
                tensor.copy_(moved(tensor, member, permutation))
    return copy


def moved(tensor: Tensor, member: Member, permutation: Tensor) -> Tensor:
    """Return `tensor` with the units along one of its axes in another order."""
    index = torch.arange(tensor.shape[member.axis])
    index[member.places.flatten()] = member.places[permutation.cpu()].flatten()
    return tensor.detach().index_select(member.axis, index.to(tensor.device))


def require_preserved(
    module: nn.Module, symmetry: Symmetry, x: Tensor, *, generator: torch.Generator, tolerance: float = 1e-5
) -> None:
    """Raise InputError, naming the group, where a permutation of one, in which no unit stays, changes the outputs by more than `tolerance`.

    The change is that of :func:`difference`: on a copy with jittered tensors, as a share of the largest output.
    """
    permutations = cycles(symmetry, generator)
    if difference(module, symmetry, permutations, x, generator=generator) <= tolerance:
        return
    changes = [
        difference(module, symmetry.only([k]), permutations[k : k + 1], x, generator=generator)
        for k in range(len(symmetry.groups))
    ]
    worst = max(range(len(changes)), key=lambda k: changes[k])
    raise InputError(
        f"`symmetry` should leave the outputs as they are to {tolerance:g} of the largest. Found a change of {changes[worst]:.2g} by "
        f"permuting the {symmetry.groups[worst].size} units of {symmetry.groups[worst].name}."
    )


def difference(
    module: nn.Module, symmetry: Symmetry, permutations: Sequence[Tensor], x: Tensor, *, generator: torch.Generator
) -> float:
    """Return max |f'(x) - f(x)| / max |f(x)| of a module f and its permuted copy f', in evaluation mode and float64 where it runs.

    f is a copy whose floating-point tensors are jittered first: in a fresh module scales are all one and shifts all zero, which would
    hide that they were left where they are. Running statistics become those of x: with those of a fresh deep network its signal dies
    out on the way, and the outputs would hide everything.
    """
    for dtype in (torch.float64, placement(module)[1]):
        jittered = _settled(_jittered(module, generator, dtype), x)
        try:
            expected, found = (_outputs(m, x) for m in (jittered, permuted(jittered, symmetry, permutations)))
        except (RuntimeError, ValueError):
            if dtype != torch.float64:
                raise
            continue
        return float((found - expected).abs().max() / expected.abs().max().clamp_min(torch.finfo(dtype).tiny))
    raise AssertionError


def output_change(module: nn.Module, other: nn.Module, samples: Samples, *, enough: float) -> float:
    """Return max |f'(x) - f(x)| / max |f(x)| of two modules over samples, in float64 where float32 says more than `enough`."""
    change = _apart(module, other, samples)
    if change > enough:  # a badly conditioned model rounds by more
        with suppress(InputError):  # one that runs in one precision only
            change = _apart(deepcopy(module).double(), deepcopy(other).double(), samples)
    return change


def _apart(module: nn.Module, other: nn.Module, samples: Samples) -> float:
    before, after = (logits(m, samples) for m in (module, other))
    return float((after - before).abs().max() / before.abs().max().clamp_min(torch.finfo(before.dtype).tiny))


def _jittered(module: nn.Module, generator: torch.Generator, dtype: torch.dtype) -> nn.Module:
    copy = deepcopy(module)
    if dtype == torch.float64:
        copy = copy.double()
    with torch.no_grad():
        for tensor in [*copy.parameters(), *copy.buffers()]:
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator).to(tensor)
                size = tensor.abs().mean() if tensor.isfinite().all() and bool(tensor.any()) else tensor.new_tensor(0.5)
                tensor.copy_((0.2 * noise).exp() * torch.where(tensor == 0, (0.2 * size * noise).abs(), tensor))
    return copy


def _settled(module: nn.Module, x: Tensor) -> nn.Module:
    """Return the module, its running statistics those of x where it can be run so."""
    device, dtype = placement(module)
    with torch.random.fork_rng(devices=[]), evaluating(module), torch.no_grad(), suppress(RuntimeError, ValueError):
        for layer in (layers := running_layers(module)):
            layer.training = True
            vars(layer)["momentum"] = 1.0
        if layers:
            checked_forward(module, x.to(device, dtype, copy=True), 1)
    return module


def _outputs(module: nn.Module, x: Tensor) -> Tensor:
    device, dtype = placement(module)
    with torch.random.fork_rng(devices=[]), evaluating(module), torch.no_grad():
        return checked_forward(module, x.to(device, dtype, copy=True), 1).detach().double()


def _require_member(own: dict[str, Tensor], member: Member) -> None:
    least = int(member.places.max()) + 1
    held = own.get(member.tensor)
    fits = held is not None and held.ndim > member.axis and held.shape[member.axis] >= least
    found = "no such tensor" if held is None else f"shape {tuple(held.shape)}"
    require(fits, "module", f"have {member.tensor!r} with at least {least} places along axis {member.axis}", found)
