"""The estimated trace and its stated error against exact traces: a network's dense Hessian and spectra made for the purpose."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import binom, t
from torch import Tensor, nn

from contracts.modules import seeded
from isthmus._check import InputError
from isthmus.curvature.loss_at import LossAt
from isthmus.curvature.operator import dense, hessian
from isthmus.curvature.trace import Estimate, Method, State, random_signs, trace
from isthmus.losses import cross_entropy
from isthmus.problem import Posed
from isthmus.randomness import stream

METHODS: tuple[Method, ...] = ("hutchinson", "hutch++")
SEEDS = 100


class Matrix:
    """A symmetric matrix in memory, counting its products."""

    def __init__(self, matrix: Tensor):
        self.matrix, self.taken = matrix.double(), 0

    @property
    def size(self) -> int:
        return len(self.matrix)

    def __call__(self, v: Tensor) -> Tensor:
        self.taken += 1
        return self.matrix @ v


def rotated(values: Sequence[float], seed: int = 0) -> Matrix:
    """A matrix with these eigenvalues in a basis drawn at random."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(values), len(values))))
    return Matrix(torch.from_numpy(q * np.array(values) @ q.T))


def network_hessian() -> Matrix:
    """The Hessian of a small convolutional network's mean loss on 12 images, (169, 169)."""
    with seeded(0):
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.Tanh(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(4 * 9, 3),
            nn.Tanh(),
            nn.Linear(3, 4),
        ).double()
    x = torch.rand(12, 1, 6, 6, generator=stream(0, "x"), dtype=torch.float64)
    y = torch.arange(12) % 4

    def pose(module: nn.Module) -> Iterable[Posed]:
        for place in (slice(0, 8), slice(8, 12)):
            yield Posed(module, (x[place],), y[place], lambda outputs, labels: cross_entropy(outputs[0], labels))

    operator = hessian(LossAt(model, pose))
    return Matrix(dense(operator))


D = 150
SPECTRA: dict[str, Sequence[float]] = {
    "one large": [10.0] + [0.0] * (D - 1),
    "low rank": [10.0, 5.0, -3.0, 2.0] + [0.0] * (D - 4),
    "low rank on a flat bottom": [100.0, 30.0, 10.0] + [0.01] * (D - 3),
    "flat": [1.0] * 75 + [2.0] * 75,
    "negative part": list(np.linspace(-3, 3, D)),
    "decaying": [1 / (k + 1) ** 2 for k in range(D)],
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("products", [10, 30])
@pytest.mark.parametrize("kind", [*SPECTRA, "network"])
def test_the_error_holds_in_at_least_95_of_100_seeds(kind: str, method: Method, products: int) -> None:
    """At 99 % coverage fewer than 95 of 100 seeds hold with probability P(Bin(100, 0.01) > 5) = 5e-4; at 92 %, with 0.82.

    The seeds are fixed, so this never fails by chance; the second number says that a plain interval on skewed samples would be seen.
    Rounding is not in the stated error: 1e-12 of the scale is granted, which low rank under hutch++ needs, being exact otherwise.
    """
    assert binom.sf(5, SEEDS, 0.01) < 6e-4
    assert binom.sf(5, SEEDS, 0.08) > 0.8
    operator = network_hessian() if kind == "network" else rotated(SPECTRA[kind])
    exact = float(operator.matrix.trace())
    rounding = 1e-12 * float(operator.matrix.norm())
    held = 0
    for seed in range(SEEDS):
        found = trace(operator, products=products, generator=stream(seed, "trace"), method=method)
        assert found.error is not None
        held += abs(found.value - exact) <= found.error + rounding
    figures = f"last {found.value:.4g} +- {found.error:.2g}, exact {exact:.4g}"
    print(f"{kind}, {method}, {products} products: {held} of {SEEDS}, {figures}")  # noqa: T201  # seen with pytest -rP
    assert held >= 95


@pytest.mark.parametrize("method", METHODS)
def test_the_mean_over_seeds_is_the_trace_and_the_spread_is_that_of_theory(method: Method) -> None:
    """Var = 2 sum_{i != j} A_ij^2 / n for Hutchinson. The mean of 600 runs lies within 4 of its standard errors."""
    operator = rotated(SPECTRA["negative part"])
    a, n, runs = operator.matrix, 6, 600
    found = [trace(operator, products=n, generator=stream(seed, "x"), method=method) for seed in range(runs)]
    values = np.array([f.value for f in found])
    squares = np.array([f.square for f in found])
    assert abs(values.mean() - float(a.trace())) < 4 * values.std() / runs**0.5
    assert abs(squares.mean() - float(a.square().sum())) < 4 * squares.std() / runs**0.5
    if method == "hutchinson":
        variance = 2 * float(a.square().sum() - a.diagonal().square().sum()) / n
        # The relative error of a variance of nearly normal values is about sqrt(2 / runs) = 0.06.
        assert values.var() == pytest.approx(variance, rel=0.25)
        stated = np.mean([f.standard_error**2 for f in found if f.standard_error is not None])
        assert variance * 0.9 < stated < variance * 1.6  # the larger of two unbiased estimates is a little above


def test_the_formulas_by_hand() -> None:
    operator = rotated([3.0, -1.0, 0.5, 0.25, 2.0])
    generator, n = stream(3, "signs"), 7
    vectors = torch.stack([random_signs(5, generator) for _ in range(n)])
    assert bool((vectors.abs() == 1).all())
    images = vectors @ operator.matrix
    samples = (vectors * images).sum(1).numpy()
    terms = (vectors * images).numpy()
    found = trace(operator, products=n, generator=stream(3, "signs"))
    assert found.value == pytest.approx(samples.mean(), rel=1e-12)
    variance = max(samples.var(ddof=1), 2 * terms.var(axis=0, ddof=1).sum())
    assert found.standard_error == pytest.approx((variance / n) ** 0.5, rel=1e-12)
    assert found.error == pytest.approx(t.ppf(0.995, n - 1) * (variance / n) ** 0.5, rel=1e-9)
    norms = images.square().sum(1).numpy()
    assert found.square == pytest.approx(norms.mean(), rel=1e-12)
    assert found.square_standard_error == pytest.approx(norms.std(ddof=1) / n**0.5, rel=1e-9)
    assert (found.products, found.method, found.confidence) == (n, "hutchinson", 0.99)


def test_hutch_plus_plus_by_hand() -> None:
    """k = n // 3 for the sketch, k for what it captures, the rest for the deflated matrix."""
    operator, n = rotated(np.linspace(-1, 4, 12).tolist()), 8
    found = trace(operator, products=n, generator=stream(5, "signs"), method="hutch++")
    generator = stream(5, "signs")
    sketch = torch.stack([random_signs(12, generator) for _ in range(2)], 1)
    q, _ = np.linalg.qr((operator.matrix @ sketch).numpy())
    p = np.eye(12) - q @ q.T
    a = operator.matrix.numpy()
    rest = [z @ p @ a @ p @ z for z in (random_signs(12, generator).numpy() for _ in range(n - 4))]
    assert found.value == pytest.approx(np.trace(q.T @ a @ q) + np.mean(rest), rel=1e-10)
    assert found.products == n


def test_what_is_exact() -> None:
    """A diagonal operator whatever the signs; few eigenvalues under hutch++; one dimension; zero."""
    diagonal = Matrix(torch.diag(torch.tensor([0.1, 0.7, -3.3, 1e-9, 2e5], dtype=torch.float64)))
    for products in (2, 3, 10):
        found = trace(diagonal, products=products, generator=stream(products))
        assert found.value == pytest.approx(199997.500000001, rel=1e-15)
        assert (found.standard_error, found.error, found.square_standard_error) == (0.0, 0.0, 0.0)
        assert found.square == pytest.approx(float(diagonal.matrix.square().sum()), rel=1e-15)
    low = rotated(SPECTRA["low rank"])
    found = trace(low, products=12, generator=stream(0), method="hutch++")
    assert found.value == pytest.approx(14.0, rel=1e-12)
    assert found.square == pytest.approx(138.0, rel=1e-12)
    assert found.error is not None
    assert found.error < 1e-12
    for method in METHODS:
        found = trace(Matrix(torch.zeros(6, 6)), products=9, generator=stream(0), method=method)
        assert (found.value, found.error, found.square) == (0.0, 0.0, 0.0)
        assert trace(Matrix(torch.tensor([[2.0]])), products=5, generator=stream(0), method=method).value == 2.0


@pytest.mark.parametrize(("method", "products"), [("hutchinson", 1), ("hutch++", 3)])
def test_one_sample_tells_no_error(method: Method, products: int) -> None:
    found = trace(rotated(SPECTRA["flat"]), products=products, generator=stream(0), method=method)
    assert (found.standard_error, found.error, found.square_standard_error) == (None, None, None)
    assert found.value > 0


def test_each_parameter_matters() -> None:
    operator = rotated(SPECTRA["decaying"])

    def found(products: int = 30, seed: int = 0, method: Method = "hutchinson") -> Estimate:
        return trace(operator, products=products, generator=stream(seed), method=method)

    assert len({found().value, found(seed=1).value, found(products=31).value, found(method="hutch++").value}) == 4
    errors = [found(products=n).error or 0 for n in (20, 80, 320)]
    assert errors[0] > 1.6 * errors[1] > 2.5 * errors[2]  # as 1 / sqrt(n), and t a little steeper
    assert (found(method="hutch++").error or 0) < (found().error or 0) / 3
    before = operator.taken
    assert found(17).products == operator.taken - before == 17


@pytest.mark.parametrize("method", METHODS)
def test_resumed_bitwise(method: Method) -> None:
    operator, states = rotated(SPECTRA["decaying"]), list[State]()
    whole = trace(
        operator,
        products=11,
        generator=stream(0),
        method=method,
        watch=lambda state: states.append({name: tensor.clone() for name, tensor in state.items()}),
    )
    assert len(states) == 11
    for place, state in enumerate(states):
        before = operator.taken
        again = trace(operator, products=11, generator=stream(9, "other"), method=method, state=state)
        assert again == whole
        assert operator.taken - before == 11 - (place + 1)
    if method == "hutchinson":  # more products than first asked for
        more = trace(operator, products=20, generator=stream(1), state=states[-1])
        assert replace(more) == trace(operator, products=20, generator=stream(0))


def test_bad_input() -> None:
    operator = rotated([1.0, 2.0, 3.0])
    with pytest.raises(InputError, match=r"`products` should be at least 1 for hutchinson. Found 0"):
        trace(operator, products=0, generator=stream(0))
    with pytest.raises(InputError, match=r"`products` should be at least 3 for hutch\+\+. Found 2"):
        trace(operator, products=2, generator=stream(0), method="hutch++")
    with pytest.raises(InputError, match=r"`method` should be one of hutch\+\+, hutchinson. Found 'hutch'"):
        trace(operator, products=2, generator=stream(0), method="hutch")
    states = list[State]()
    trace(operator, products=4, generator=stream(0), watch=states.append)
    with pytest.raises(InputError, match=r"`state` should hold 'mean' of shape \(2,\). Found \(3,\). Resume with the"):
        trace(rotated([1.0, 2.0]), products=5, generator=stream(0), state={**states[-1], "images": torch.empty(0, 2)})
    with pytest.raises(InputError, match=r"`state` should hold 'images' of shape \(1, 3\). Found \(0, 3\)"):
        trace(operator, products=4, generator=stream(0), method="hutch++", state=states[-1])
    with pytest.raises(InputError, match=r"`state` should hold 'samples' of shape \(3, 2\). Found \(4, 2\)"):
        trace(operator, products=3, generator=stream(0), state=states[-1])
    broken = Matrix(torch.tensor([[1.0, torch.nan], [torch.nan, 1.0]]))
    with pytest.raises(InputError, match=r"`operator` should have finite products. Found NaN or infinity in product 1"):
        trace(broken, products=3, generator=stream(0))
