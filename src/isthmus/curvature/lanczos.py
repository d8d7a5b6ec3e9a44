"""`lanczos`: the largest eigenvalues of many symmetric operators at once, from their products alone."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from isthmus.randomness import stream

Product = Callable[[Tensor], Tensor]
"""(B, d) float64 -> (B, d) float64: row i is operator i applied to row i."""


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


def lanczos(product: Product, like: Tensor, *, count: int, steps: int, tolerance: float, precision: float) -> Ritz:
    """Return the `count` largest eigenvalues (by value, not by magnitude) of B symmetric operators of size d.

    One process (Lanczos 1950) per operator, all in step, each vector made orthogonal to all before it. An operator is done when the
    residual beta_k |s_k| of each wanted pair is at most `tolerance` times its largest eigenvalue (or 100 roundings of the largest in
    magnitude, where that is more); at most `steps` products, and d suffice. The start vector is one fixed draw, so no result depends
    on the other operators. Of an eigenvalue that occurs more than once, the repetitions are found only after the space spanned from
    that start is used up.

    like: (B, d), for its shape and device. precision: relative rounding error of a product.
    """
    size = like.shape[1]
    steps = min(steps, size)
    generator = stream(0, "lanczos")
    basis = torch.empty(len(like), steps, size, dtype=torch.float64, device=like.device)
    small = torch.zeros(len(like), steps, steps, dtype=torch.float64, device=like.device)
    basis[:, 0] = _fresh(basis[:, :0], generator)
    bad = torch.zeros(len(like), dtype=torch.bool, device=like.device)
    k = 0
    while True:
        image = product(basis[:, k])
        bad |= ~image.isfinite().all(1)
        image = image.masked_fill(bad[:, None], 0)
        small[:, k, k] = (image * basis[:, k]).sum(1)
        rest, beta = split(_orthogonal(image, basis[:, : k + 1]))
        values, vectors = torch.linalg.eigh(small[:, : k + 1, : k + 1])
        scale = values.abs().amax(1)
        left = beta[:, None] * vectors[:, -1].abs().flip(-1)[:, :count]
        unit = torch.maximum(values[:, -1].abs(), 100 * precision * scale)
        converged = (left <= tolerance * unit[:, None]).all(1) & (k + 1 >= count)
        if k + 1 == steps or bool((converged | bad).all()):
            break
        # Where the space is used up, go on in a new direction, coupled by zero: repeated eigenvalues are found there.
        ended = beta <= 10 * precision * scale
        fresh = _fresh(basis[:, : k + 1], generator) if bool(ended.any()) else rest
        basis[:, k + 1] = torch.where(ended[:, None], fresh, rest)
        small[:, k, k + 1] = small[:, k + 1, k] = beta.masked_fill(ended, 0)
        k += 1
    taken = k + 1
    vector, _ = split((vectors[:, None, :, -1] @ basis[:, :taken]).squeeze(1))
    vector = vector.masked_fill((scale == 0)[:, None], 0)
    padded = torch.nn.functional.pad(values.flip(-1), (0, max(0, count - taken)), value=torch.nan)[:, :count]
    return Ritz(
        padded.masked_fill(bad[:, None], torch.nan),
        vector.masked_fill(bad[:, None], torch.nan),
        converged & ~bad,
        taken,
    )


def split(v: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of v (B, d) at length 1, and their lengths (B,); a zero row stays zero."""
    largest = v.abs().amax(1, keepdim=True)
    v = v / largest.where(largest > 0, 1)  # squares of tiny numbers would vanish
    length = v.norm(dim=1, keepdim=True)
    return v / length.where(length > 0, 1), (largest * length).squeeze(1)


def _fresh(basis: Tensor, generator: torch.Generator) -> Tensor:
    """Return (B, d) unit vectors orthogonal to (B, k, d), from one draw for all."""
    size = basis.shape[2]
    draw = torch.randn(size, generator=generator, dtype=torch.float64).to(basis.device)
    return split(_orthogonal(draw.expand(len(basis), size), basis))[0]


def _orthogonal(v: Tensor, basis: Tensor) -> Tensor:
    """Return v (B, d) less its part in the span of the orthonormal rows of `basis` (B, k, d); twice is enough (Parlett 1980)."""
    for _ in range(2):
        v = v - ((basis @ v[:, :, None]).mT @ basis).squeeze(1)
    return v
