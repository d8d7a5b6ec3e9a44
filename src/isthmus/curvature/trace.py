"""`trace`: the trace of a symmetric operator and of its square, from products with vectors of random signs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Literal, get_args

import torch
from torch import Tensor

from isthmus._check import require, unknown
from isthmus.curvature.operator import Operator

Method = Literal["hutchinson", "hutch++"]
State = dict[str, Tensor]
"""What an estimate has found so far, as plain tensors that can be saved."""
CONFIDENCE = 0.99


@dataclass(frozen=True)
class Estimate:
    """An estimated trace, in the unit of the eigenvalues."""

    value: float
    standard_error: float | None
    """Of `value`; None where there are fewer than two samples to tell it from."""
    error: float | None
    """Half width of the interval of `confidence` around `value`; None likewise. The rounding of the products is not in it."""
    square: float
    """tr(A^2) = ||A||_F^2, estimated without bias from the same products."""
    square_standard_error: float | None
    """Of `square`, from the spread of the samples; with few of them and few large eigenvalues it tends to be too small."""
    products: int
    method: Method
    confidence: float = CONFIDENCE


def trace(
    operator: Operator,
    *,
    products: int,
    generator: torch.Generator,
    method: Method = "hutchinson",
    state: Mapping[str, Tensor] | None = None,
    watch: Callable[[State], None] | None = None,
) -> Estimate:
    """Return an unbiased estimate of tr A and how far it may be off, from `products` products with random vectors.

    hutchinson: the mean of z'Az over vectors z of independent random signs (Hutchinson 1990); its variance is
    2 sum_{i != j} A_ij^2 / products, so a diagonal A is exact. hutch++: a third of the products finds an orthonormal basis Q of
    A's image of random signs, a third takes tr(Q'AQ) exactly, the rest is the former on (I - QQ')A(I - QQ') (Meyer et al. 2021,
    https://arxiv.org/abs/2010.09649): for few large eigenvalues far closer, for a flat spectrum a little worse. It holds
    `products` / 3 vectors of length D, and twice that while Q is found.

    error: Student's t over the independent samples. The spread of few samples z'Az is too small where one eigenvalue dominates: they
    are then like chi-squared of one degree, and 10 of them would cover 92 %, not 99 %. Twice the summed sample variances of the D terms
    z_i (Az)_i has the same mean, 2 sum_{i != j} A_ij^2, and does not share that fault; the larger of both is taken. For hutch++ the
    samples are those of the deflated part, independent given Q, and so is the interval.

    generator: on the CPU; draws D signs for each random vector. watch: called after each product with the state so far, to be saved
    before it returns. state: to go on from, with the same operator and method; the result is bitwise that of an uninterrupted one.
    Raises InputError for an unknown method, fewer than one product (three for hutch++), a state of another estimate, and products that
    are not finite.

    >>> class Diagonal:
    ...     size = 3
    ...
    ...     def __call__(self, v):
    ...         return v * torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    >>> found = trace(Diagonal(), products=2, generator=torch.Generator().manual_seed(0))
    >>> (found.value, found.error, found.square)
    (7.0, 0.0, 21.0)
    """
    if method not in get_args(Method):
        raise unknown("method", str(method), get_args(Method))
    least = 3 if method == "hutch++" else 1
    require(products >= least, "products", f"be at least {least} for {method}", products)
    size = operator.size
    sketch = min(products // 3, size) if method == "hutch++" else 0
    held = _Held(size, sketch, products)
    if state is not None:
        held.take_up(state)
        generator.set_state(state["generator"].cpu())
    basis: Tensor | None = None
    while held.taken < products:
        if basis is None and held.taken >= sketch:
            basis = torch.linalg.qr(held.images.T)[0]
        held.add(operator, basis, generator)
        if watch is not None:
            watch(held.state() | {"generator": generator.get_state()})
    return held.estimate(method)


def random_signs(size: int, generator: torch.Generator) -> Tensor:
    """Return (D,) float64 of independent -1 and +1."""
    return torch.randint(0, 2, (size,), generator=generator).double().mul_(2).sub_(1)


class _Held:
    """What the products gave so far: first the sketch, then what its basis captures, then the samples of the rest."""

    def __init__(self, size: int, sketch: int, products: int):
        self.sketch, self.taken = sketch, 0
        self.images = torch.empty(sketch, size, dtype=torch.float64)
        self.captured = torch.empty(sketch, 2, dtype=torch.float64)  # q'Aq and ||Aq||^2
        self.samples = torch.empty(products - 2 * sketch, 2, dtype=torch.float64)  # z'PAPz and ||APz||^2
        self.mean = torch.zeros(size, dtype=torch.float64)  # of the terms z_i (PAPz)_i
        self.scatter = torch.zeros(1, dtype=torch.float64)  # their squared deviations from it, summed

    def _counts(self, taken: int) -> tuple[int, int, int]:
        inside = min(taken, self.sketch), min(max(0, taken - self.sketch), self.sketch)
        return *inside, taken - sum(inside)

    def state(self) -> State:
        images, captured, samples = self._counts(self.taken)
        return {
            "images": self.images[:images],
            "captured": self.captured[:captured],
            "samples": self.samples[:samples],
            "mean": self.mean,
            "scatter": self.scatter,
        }

    def take_up(self, state: Mapping[str, Tensor]) -> None:
        taken = sum(len(state[name]) for name in ("images", "captured", "samples") if name in state)
        self.taken = min(taken, 2 * self.sketch + len(self.samples))
        for name, own in self.state().items():
            found = str(tuple(state[name].shape)) if name in state else "none"
            fix = "Resume with the operator, method and products it was begun with."
            require(found == str(tuple(own.shape)), "state", f"hold {name!r} of shape {tuple(own.shape)}", found, fix)
            if name in ("mean", "scatter"):
                setattr(self, name, state[name].clone())
            else:
                own.copy_(state[name])

    def add(self, operator: Operator, basis: Tensor | None, generator: torch.Generator) -> None:
        """Take one more product."""
        images, captured, samples = self._counts(self.taken)
        if basis is None:
            self.images[images] = self._product(operator, random_signs(operator.size, generator))
        elif captured < self.sketch:
            v = basis[:, captured]
            image = self._product(operator, v)
            self.captured[captured] = torch.stack([v @ image, image @ image])
        else:
            v = random_signs(operator.size, generator)
            image = self._product(operator, v - basis @ (basis.T @ v))
            terms = v * (image - basis @ (basis.T @ image))
            self.samples[samples] = torch.stack([terms.sum(), image @ image])
            # The recurrence of Welford (1962): equal terms leave exactly zero, where a difference of squares would leave rounding.
            step = terms - self.mean
            self.mean = self.mean + step / (samples + 1)
            self.scatter = self.scatter + step @ (terms - self.mean)
        self.taken += 1

    def _product(self, operator: Operator, v: Tensor) -> Tensor:
        image = operator(v).to(torch.float64)
        finite = bool(image.isfinite().all())
        require(finite, "operator", "have finite products", f"NaN or infinity in product {self.taken + 1}")
        return image

    def estimate(self, method: Method) -> Estimate:
        first, square = self.captured.sum(0).tolist()
        n = len(self.samples)
        centred = self.samples - self.samples[0]  # equal samples have exactly their value as mean
        means = (self.samples[0] + centred.mean(0)).tolist()
        value, squares = first + means[0], square + means[1]
        if n == 1:
            return Estimate(value, None, None, squares, None, self.taken, method)
        from scipy.special import stdtrit  # a quarter of a second to import

        spreads = centred.var(0)
        variance = max(float(spreads[0]), 2 * float(self.scatter) / (n - 1))
        standard_error = sqrt(variance / n)
        error = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * standard_error
        return Estimate(value, standard_error, error, squares, sqrt(float(spreads[1]) / n), self.taken, method)
