"""`lanczos_process`: a symmetric operator as a small tridiagonal matrix, from its products alone; many operators in step."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from isthmus.randomness import stream

Product = Callable[[Tensor], Tensor]
"""(B, d) float64 -> (B, d) float64: row i is operator i applied to row i."""


@dataclass(frozen=True, eq=False)
class Process:
    """B Lanczos processes after k products: A_i Q_i' = Q_i' T_i + beta_i rest_i e_k', with Q_i the rows of `basis`, T_i `small`."""

    basis: Tensor
    """(B, k, d) orthonormal rows, in the dtype of the start vectors."""
    small: Tensor
    """(B, k, k) symmetric tridiagonal, float64. A zero beside the diagonal: there the space was used up."""
    rest: Tensor
    """(B, d) unit vector, orthogonal to the basis: where the process would go on."""
    beta: Tensor
    """(B,) its coupling, at least 0, float64."""
    bad: Tensor
    """(B,) whether a product was not finite; that operator counts as zero from there on."""

    @property
    def taken(self) -> int:
        """Return k, the products taken."""
        return self.basis.shape[1]


@dataclass(frozen=True, eq=False)
class Ritz:
    """Eigenpairs of B operators of size d, in float64; NaN for an operator whose products are not finite."""

    values: Tensor
    """(B, count), descending; NaN beyond the steps taken."""
    vector: Tensor
    """(B, d) unit eigenvector of the largest; zero where the operator is."""
    converged: Tensor
    """(B,) whether all `count` pairs met the tolerance."""
    products: int
    """Products taken, the same for every operator."""


def lanczos_process(
    product: Product,
    start: Tensor | Process,
    *,
    steps: int,
    precision: float,
    generator: torch.Generator,
    stop: Callable[[Process], bool] | None = None,
) -> Process:
    """Return the processes (Lanczos 1950) of B symmetric operators after `steps` products each, or d, or once `stop` says so.

    Each vector is made orthogonal to all before it, twice. Where the space spanned from the start is used up (beta at most 10 roundings
    of T) the process goes on exactly, in a new random direction coupled by zero: there the repetitions of an eigenvalue are found.

    start: (B, d) directions, made orthonormal rows here; or a process, to go on from, bitwise as if it had not been interrupted where
    `generator` has the state it had then. Its dtype is that of the basis: float32 halves the memory of products that are no more
    exact than that. precision: relative rounding error of a product. generator: of new directions. stop: asked after each product
    (of a process to go on from also before); the tensors it sees are overwritten by no later step.
    """
    process = start if isinstance(start, Process) else _begun(start)
    basis, small = _memory(process, steps)
    while not (process.taken and stop is not None and stop(process)) and process.taken < basis.shape[1]:
        process = _step(product, process, (basis, small), precision, generator)
    return process


def _begun(start: Tensor) -> Process:
    """Return the process before its first product."""
    rest, length = split(start)
    small = torch.zeros(len(start), 0, 0, dtype=torch.float64, device=start.device)
    return Process(start[:, None][:, :0], small, rest, torch.zeros_like(length, dtype=torch.float64), length.isnan())


def _memory(process: Process, steps: int) -> tuple[Tensor, Tensor]:
    """Return room for the basis and the small matrix of `steps` products, the first ones filled in."""
    (width, size), taken = process.rest.shape, process.taken
    room = max(min(steps, size), taken)
    basis = process.basis.new_empty(width, room, size)
    small = process.small.new_zeros(width, room, room)
    basis[:, :taken], small[:, :taken, :taken] = process.basis, process.small
    return basis, small


def _step(
    product: Product, process: Process, memory: tuple[Tensor, Tensor], precision: float, generator: torch.Generator
) -> Process:
    """Return the process one product later; its basis and small matrix are views of `memory`."""
    (basis, small), k = memory, process.taken
    if k == 0:
        basis[:, 0] = process.rest
    else:
        scale = torch.linalg.eigvalsh(process.small).abs().amax(1)
        ended = process.beta <= 10 * precision * scale
        fresh = fresh_direction(basis[:, :k], generator) if bool(ended.any()) else process.rest
        basis[:, k] = torch.where(ended[:, None], fresh, process.rest)
        small[:, k - 1, k] = small[:, k, k - 1] = process.beta.masked_fill(ended, 0)
    image = product(basis[:, k].double())
    bad = process.bad | ~image.isfinite().all(1)
    image = image.masked_fill(bad[:, None], 0)
    small[:, k, k] = (image * basis[:, k]).sum(1)
    rest, beta = split(_orthogonal(image.to(basis.dtype), basis[:, : k + 1]))
    return Process(basis[:, : k + 1], small[:, : k + 1, : k + 1], rest, beta.double(), bad)


def lanczos(product: Product, like: Tensor, *, count: int, steps: int, tolerance: float, precision: float) -> Ritz:
    """Return the `count` largest eigenvalues (by value, not by magnitude) of B symmetric operators of size d.

    One process per operator, all in step. An operator is done when the residual beta_k |s_k| of each wanted pair is at most `tolerance`
    times its largest eigenvalue (or 100 roundings of the largest in magnitude, where that is more); at most `steps` products, and d
    suffice. The start vector is one fixed draw, so no result depends on the other operators. Of an eigenvalue that occurs more than
    once, the repetitions are found only after the space spanned from that start is used up.

    like: (B, d), for its shape and device. precision: relative rounding error of a product.
    """
    generator = stream(0, "lanczos")

    def converged(process: Process) -> Tensor:
        values, vectors = torch.linalg.eigh(process.small)
        left = process.beta[:, None] * vectors[:, -1].abs().flip(-1)[:, :count]
        unit = torch.maximum(values[:, -1].abs(), 100 * precision * values.abs().amax(1))
        return (left <= tolerance * unit[:, None]).all(1) & (process.taken >= count)

    def stop(process: Process) -> bool:
        return bool((converged(process) | process.bad).all())

    empty = torch.empty(len(like), 0, like.shape[1], dtype=torch.float64, device=like.device)
    start = fresh_direction(empty, generator)
    process = lanczos_process(product, start, steps=steps, precision=precision, generator=generator, stop=stop)
    values, vectors = torch.linalg.eigh(process.small)
    vector, _ = split((vectors[:, None, :, -1] @ process.basis).squeeze(1))
    vector = vector.masked_fill((values == 0).all(1)[:, None], 0)
    padded = torch.nn.functional.pad(values.flip(-1), (0, max(0, count - process.taken)), value=torch.nan)[:, :count]
    bad = process.bad
    return Ritz(
        padded.masked_fill(bad[:, None], torch.nan),
        vector.masked_fill(bad[:, None], torch.nan),
        converged(process) & ~bad,
        process.taken,
    )


def split(v: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of v (B, d) at length 1, and their lengths (B,); a zero row stays zero."""
    largest = v.abs().amax(1, keepdim=True)
    v = v / largest.where(largest > 0, 1)  # squares of tiny numbers would vanish
    length = v.norm(dim=1, keepdim=True)
    return v / length.where(length > 0, 1), (largest * length).squeeze(1)


def fresh_direction(basis: Tensor, generator: torch.Generator) -> Tensor:
    """Return (B, d) unit vectors orthogonal to the rows of (B, k, d), in its dtype, from one normal draw for all."""
    size = basis.shape[2]
    draw = torch.randn(size, generator=generator, dtype=torch.float64).to(basis)
    return split(_orthogonal(draw.expand(len(basis), size), basis))[0]


def _orthogonal(v: Tensor, basis: Tensor) -> Tensor:
    """Return v (B, d) less its part in the span of the orthonormal rows of `basis` (B, k, d); twice is enough (Parlett 1980)."""
    for _ in range(2):
        v = v - ((basis @ v[:, :, None]).mT @ basis).squeeze(1)
    return v
