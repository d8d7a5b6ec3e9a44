"""`top_eigenpairs`: the upper (or lower) end of an operator's spectrum, with eigenvectors and what is known of their error."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from isthmus._check import InputError, require, unknown
from isthmus.curvature.lanczos import Process, fresh_direction, lanczos_process
from isthmus.curvature.operator import Operator, device_of, precision_of

Order = Literal["value", "magnitude", "lowest"]


@dataclass(frozen=True)
class Search:
    """Which eigenpairs, how exact, and at what cost.

    tolerance: of the residual ||A v - lambda v|| of each pair over |lambda| of the first, in (0, 1). steps: most products. order: by
    "value" descending, by "magnitude" descending, or "lowest" for the most negative first.
    """

    tolerance: float = 1e-3
    steps: int = 200
    order: Order = "value"

    def __post_init__(self) -> None:
        require(0 < self.tolerance < 1, "tolerance", "lie between 0 and 1", self.tolerance)
        require(self.steps >= 1, "steps", "be at least 1", self.steps)
        if self.order not in get_args(Order):
            raise unknown("order", str(self.order), get_args(Order))


@dataclass(frozen=True, eq=False)
class Spectrum:
    """k eigenpairs of an operator of size D, in float64, in the order asked for."""

    values: Tensor
    """(k,)"""
    vectors: Tensor
    """(k, D) orthonormal rows; a sign is arbitrary."""
    residuals: Tensor
    """(k,) ||A v - lambda v|| >= the distance of lambda to an eigenvalue, by the Lanczos bound: exact but for rounding of the products."""
    converged: Tensor
    """(k,) whether the residual met the tolerance."""
    products: int
    """Products taken."""


State = dict[str, Tensor]
"""What a search has found so far, as plain tensors that can be saved."""


def top_eigenpairs(
    operator: Operator,
    count: int,
    *,
    generator: torch.Generator,
    search: Search | None = None,
    state: Mapping[str, Tensor] | None = None,
    watch: Callable[[State], None] | None = None,
) -> Spectrum:
    """Return the first `count` eigenpairs by one Lanczos process with full re-orthogonalisation, stopped once all wanted have converged.

    A pair has converged when its residual beta_k |s_k| is at most `tolerance` times |lambda| of the first pair, or 100 roundings of the
    largest in magnitude where that is more. No product is spent on the residuals: with full re-orthogonalisation that bound is equal to
    them but for the rounding of the products. Repetitions of an eigenvalue are found only after the space spanned from the start is used
    up, in a new direction. The basis takes 8 D bytes for each product: see :func:`~isthmus.curvature.memory.plan_memory`.

    generator: of the random start. watch: called after each product with the state so far, to be saved before it returns. state: to go on
    from, with the same operator and search: the result is bitwise that of an uninterrupted one.
    Raises InputError for more pairs than the operator or the steps have, for a state of another size, and for products that are not finite.
    """
    search = Search() if search is None else search
    size = operator.size
    require(1 <= count <= size, "count", f"be between 1 and the {size:,} dimensions", count)
    enough = count <= search.steps
    require(enough, "count", f"be at most the {search.steps} steps of Lanczos", count, "Allow more steps.")
    precision = precision_of(operator)

    def stop(process: Process) -> bool:
        if watch is not None:
            watch(_state(process, generator))
        return bool(process.bad) or bool(_pairs(process, count, search, precision).met.all())

    def product(v: Tensor) -> Tensor:
        return operator(v[0])[None]

    empty = torch.empty(1, 0, size, dtype=torch.float64, device=device_of(operator))
    process = lanczos_process(
        product,
        fresh_direction(empty, generator) if state is None else _resumed(state, size, generator),
        steps=search.steps,
        precision=precision,
        generator=generator,
        stop=stop,
    )
    if bool(process.bad):
        raise InputError(f"`operator` should have finite products. Found NaN or infinity in product {process.taken}.")
    return _spectrum(process, count, search, precision)


@dataclass(frozen=True, eq=False)
class _Pairs:
    """The wanted pairs of the small matrix: values (k,), their vectors (taken, k) in the basis, residuals and whether they suffice."""

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    met: Tensor


def _pairs(process: Process, count: int, search: Search, precision: float) -> _Pairs:
    values, vectors = torch.linalg.eigh(process.small[0])
    key = {"value": -values, "magnitude": -values.abs(), "lowest": values}[search.order]
    chosen = key.argsort(stable=True)[:count]
    residuals = process.beta[0] * vectors[-1, chosen].abs()
    unit = torch.maximum(values[chosen[0]].abs(), 100 * precision * values.abs().max())
    met = (residuals <= search.tolerance * unit) & (process.taken >= count)
    return _Pairs(values[chosen], vectors[:, chosen], residuals, met)


def _spectrum(process: Process, count: int, search: Search, precision: float) -> Spectrum:
    pairs = _pairs(process, count, search, precision)
    return Spectrum(pairs.values, pairs.vectors.T @ process.basis[0], pairs.residuals, pairs.met, process.taken)


def _state(process: Process, generator: torch.Generator) -> State:
    held = {name: getattr(process, name) for name in ("basis", "small", "rest", "beta", "bad")}
    return held | {"generator": generator.get_state()}


def _resumed(state: Mapping[str, Tensor], size: int, generator: torch.Generator) -> Process:
    found = tuple(state["basis"].shape) if "basis" in state else "no basis"
    fits = "basis" in state and state["basis"].ndim == 3 and found[2] == size
    require(fits, "state", f"be that of an operator of size {size:,}", str(found))
    generator.set_state(state["generator"].cpu())
    return Process(*(state[name] for name in ("basis", "small", "rest", "beta", "bad")))
