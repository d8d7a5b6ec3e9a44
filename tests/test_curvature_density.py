"""The estimated distribution of eigenvalues against dense spectra of small networks, and against laws known in closed form."""

from collections.abc import Iterable

import numpy as np
import pytest
import torch
from scipy.integrate import trapezoid
from scipy.stats import t
from torch import Tensor, nn

from contracts.modules import seeded
from isthmus._check import InputError
from isthmus.curvature.density import Density, spectral_density
from isthmus.curvature.loss_at import LossAt
from isthmus.curvature.operator import dense, hessian
from isthmus.curvature.trace import State
from isthmus.losses import cross_entropy
from isthmus.problem import Posed
from isthmus.randomness import stream


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


def diagonal(*values: float) -> Matrix:
    return Matrix(torch.diag(torch.tensor(values, dtype=torch.float64)))


def goe(size: int) -> Matrix:
    """Symmetric Gaussian entries of variance 1 / D: the eigenvalues follow the semicircle on [-2, 2] as D grows (Wigner 1958)."""
    a = np.random.default_rng(0).standard_normal((size, size))
    return Matrix(torch.from_numpy((a + a.T) / np.sqrt(2 * size)))


def semicircle(x: np.ndarray) -> np.ndarray:
    """The semicircle's cumulative share."""
    x = x.clip(-2, 2)
    return 0.5 + x * np.sqrt(4 - x**2) / (4 * np.pi) + np.arcsin(x / 2) / np.pi


class Attention(nn.Module):
    """(B, 1, 4, 6) images as four tokens of width 6 -> (B, 3) logits."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.norm, self.head = nn.LayerNorm(6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(1, 2)
        return self.head(self.norm(tokens + self.attention(tokens, tokens, tokens)[0]).mean(1))


def convolutional() -> nn.Module:
    head = nn.Linear(6 * 6, 3)
    return nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), head)


def network_hessian(kind: str) -> Matrix:
    """The dense Hessian of the mean loss on 12 images, (171, 171) for the convolutions, (201, 201) for attention."""
    with seeded(0):
        model = {"conv": convolutional, "attention": Attention}[kind]().double()
    x = torch.rand(12, 1, 4, 6, generator=stream(0, "x"), dtype=torch.float64)
    y = torch.arange(12) % 3

    def pose(module: nn.Module) -> Iterable[Posed]:
        yield Posed(module, (x,), y, lambda outputs, labels: cross_entropy(outputs[0], labels))

    return Matrix(dense(hessian(LossAt(model, pose))))


@pytest.mark.parametrize("kind", ["conv", "attention", "goe"])
@pytest.mark.parametrize(("probes", "steps"), [(10, 20), (20, 60)])
def test_it_matches_the_dense_spectrum_within_its_own_error(kind: str, probes: int, steps: int) -> None:
    """Everywhere within the bracket of unfinished steps, widened by Student's t of the probes.

    The probes are independent and exact in the mean. Not one look but one at each node and eigenvalue: t is taken at 1e-3 over their
    number. Hundreds of eigenvalues are zero but for a rounding, so positions are granted 1e-8 of the scale.
    """
    operator = goe(300) if kind == "goe" else network_hessian(kind)
    exact = torch.linalg.eigvalsh(operator.matrix)
    found = spectral_density(operator, probes=probes, steps=steps, generator=stream(1))
    assert bool((found.weights >= 0).all())
    assert torch.allclose(found.weights.sum(1), torch.ones(probes, dtype=torch.float64), rtol=1e-12)
    slack = 1e-8 * float(exact.abs().max())
    x = torch.cat([exact, found.nodes.flatten()])
    low, high = found.bracket(x)
    margin = float(t.ppf(1 - 0.5e-3 / len(x), probes - 1)) * found.cumulative(x)[1]
    assert bool((torch.searchsorted(exact, x + slack, right=True) / len(exact) >= low - margin - 1e-12).all())
    assert bool((torch.searchsorted(exact, x - slack, right=True) / len(exact) <= high + margin + 1e-12).all())
    strict, distance = found.distance(exact, slack=slack), found.distance(exact, slack=found.width)
    noise = float(t.ppf(0.9995, probes - 1) * found.cumulative(x)[1].max())
    print(f"{kind}, {probes} x {steps}: Kolmogorov distance {strict:.4f}, {distance:.4f} at a width")  # noqa: T201  # pytest -rP
    assert strict <= float((high - low + margin).max())
    # A network's eigenvalues at zero are closer than any number of steps tells apart; beyond that only the probes' noise is left.
    assert distance <= noise
    assert distance < (0.05 if steps == 20 else 0.02)
    for order in (1, 2, 3):
        moment, deviation = found.moment(order)
        assert abs(moment - float((exact**order).mean())) < float(t.ppf(0.9995, probes - 1)) * deviation


def test_distinct_values_are_found_with_their_shares() -> None:
    """A diagonal and random signs: every start has 1 / D of each eigenvector, so four values in six places are exact for one probe."""
    operator = diagonal(3.0, -1.0, 3.0, 0.0, 0.5, 3.0)
    for steps in (4, 5, 6, 50):
        found = spectral_density(operator, probes=2, steps=steps, generator=stream(0))
        assert found.products == 8  # the space is used up
        assert found.nodes.shape == (2, min(steps, 6))
        for row, shares in zip(found.nodes, found.weights, strict=True):
            assert row[:4].tolist() == pytest.approx([-1.0, 0.0, 0.5, 3.0], abs=1e-13)
            assert shares.tolist() == pytest.approx(
                [1 / 6, 1 / 6, 1 / 6, 1 / 2] + [0.0] * (min(steps, 6) - 4), abs=1e-13
            )
        exact = torch.tensor([-1.0, 0.0, 0.5, 3.0, 3.0, 3.0])
        assert found.distance(exact, slack=1e-12) < 1e-13
        value, error = found.cumulative(torch.tensor([-2.0, -0.5, 0.7, 2.9, 3.1]))
        assert value.tolist() == pytest.approx([0, 1 / 6, 1 / 2, 1 / 2, 1], abs=1e-13)
        assert float(error.max()) < 1e-13
        assert found.moment(1)[0] == pytest.approx(8.5 / 6, rel=1e-12)
        assert found.moment(2)[0] == pytest.approx(28.25 / 6, rel=1e-12)


def test_one_dimension_zero_and_the_identity() -> None:
    for matrix, value in ((diagonal(2.5), 2.5), (diagonal(0.0, 0.0, 0.0), 0.0), (diagonal(-4.0, -4.0), -4.0)):
        found = spectral_density(matrix, probes=3, steps=5, generator=stream(0))
        assert found.products == 3
        assert torch.allclose(found.nodes, torch.full_like(found.nodes, value), rtol=1e-14)
        assert found.weights[:, 0].tolist() == pytest.approx([1.0] * 3, rel=1e-14)
        assert float(trapezoid(found.smoothed(found.grid())[0], found.grid())) == pytest.approx(1, abs=1e-5)


def test_rotated_multiplicities_are_right_within_the_noise() -> None:
    """The weight of an m-fold eigenvalue is ||P z||^2 / D of mean m / D, found within 4 standard errors of 40 probes."""
    q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((60, 60)))
    values = np.repeat([-2.0, 0.0, 1.0, 7.0], [3, 40, 12, 5])
    operator = Matrix(torch.from_numpy(q * values @ q.T))
    found = spectral_density(operator, probes=40, steps=10, generator=stream(0))
    value, error = found.cumulative(torch.tensor([-1.0, 0.5, 2.0]))
    for share, deviation, exact in zip(value, error, (3 / 60, 43 / 60, 55 / 60), strict=True):
        assert abs(share - exact) < 4 * deviation
        assert 0 < deviation < 0.03


def test_the_semicircle() -> None:
    """Lanczos on the semicircle law has couplings 1 and diagonal 0: nodes 2 cos(j pi / (k + 1)), weights 2 sin^2(...) / (k + 1).

    The coefficients of one matrix are off by O(1 / sqrt(D)); its cumulative share by O(log D / D), negligible beside the bracket.
    """
    operator = goe(1000)
    found = spectral_density(operator, probes=4, steps=6, generator=stream(0))
    angle = np.arange(6, 0, -1) * np.pi / 7
    assert found.nodes.mean(0).numpy() == pytest.approx(2 * np.cos(angle), abs=0.05)
    assert found.weights.mean(0).numpy() == pytest.approx(2 / 7 * np.sin(angle) ** 2, abs=0.02)
    finer = spectral_density(operator, probes=10, steps=40, generator=stream(0))
    x = np.linspace(-2.2, 2.2, 45)
    low, high = (bound.numpy() for bound in finer.bracket(torch.from_numpy(x)))
    error = finer.cumulative(torch.from_numpy(x))[1].numpy()
    margin = float(t.ppf(1 - 0.5e-3 / len(x), 9)) * error + 0.005
    assert bool((semicircle(x) <= high + margin).all())
    assert bool((semicircle(x) >= low - margin).all())
    at, expected = torch.tensor([0.0, 1.0, 3.0]), torch.tensor([1 / np.pi, np.sqrt(3) / (2 * np.pi), 0.0])
    density, noise = finer.smoothed(at, width=0.15)
    assert bool(((density - expected).abs() <= 4 * noise + 1e-6).all())
    assert float(noise.max()) < 0.02


@pytest.mark.parametrize("width", [None, 1e-3, 0.05, 3.0])
def test_the_smoothed_density_integrates_to_one(width: float | None) -> None:
    found = spectral_density(network_hessian("conv"), probes=5, steps=30, generator=stream(0))
    grid = found.grid(width=width)
    value, error = found.smoothed(grid, width=width)
    assert float(trapezoid(value, grid)) == pytest.approx(1.0, abs=1e-5)
    assert bool((value >= 0).all())
    assert bool((error >= 0).all())
    used = found.width if width is None else width
    assert float(grid.diff().max()) <= used / 2 * (1 + 1e-12)
    # Blurring adds its own variance and nothing to the mean.
    mean, second = (float(trapezoid(value * grid**order, grid)) for order in (1, 2))
    assert mean == pytest.approx(found.moment(1)[0], abs=1e-4 * used + 1e-6)
    assert second == pytest.approx(found.moment(2)[0] + used**2, rel=1e-4)


def test_the_methods_by_hand() -> None:
    """Two probes: 1/4 at 0 and 3/4 at 2; all at 1."""
    nodes = torch.tensor([[0.0, 2.0], [1.0, 1.0]], dtype=torch.float64)
    found = Density(nodes, torch.tensor([[0.25, 0.75], [1.0, 0.0]], dtype=torch.float64), 4)
    assert found.width == 0.02
    value, error = found.cumulative(torch.tensor([-1.0, 0.0, 1.0, 1.5, 2.0]))
    assert value.tolist() == [0.0, 0.125, 0.625, 0.625, 1.0]
    assert error.tolist() == pytest.approx([0, 0.125, 0.375, 0.375, 0])
    low, high = found.bracket(torch.tensor([-1.0, 0.5]))
    assert (low.tolist(), high.tolist()) == ([0.0, 0.0], [0.625, 1.0])
    assert found.moment(2) == pytest.approx((2.0, 1.0))
    assert found.moment(0) == (1.0, 0.0)
    density, spread = found.smoothed(torch.tensor([1.0]), width=0.5)
    peak = (2 / np.pi) ** 0.5
    assert density.item() == pytest.approx((peak + peak * np.exp(-2)) / 2)
    assert spread.item() == pytest.approx((peak - peak * np.exp(-2)) / 2)
    # Steps of 1/8, 1/2, 3/8 at 0, 1, 2 against one of 1 at 1: the largest difference is 3/8, from 1 on.
    assert found.distance(torch.tensor([1.0])) == 0.375
    assert found.distance(torch.tensor([1.1])) == 0.625
    assert found.distance(torch.tensor([1.1]), slack=0.2) == 0.375


def test_each_parameter_matters() -> None:
    operator = network_hessian("conv")
    first = spectral_density(operator, probes=3, steps=10, generator=stream(0))
    assert operator.taken == first.products == 30
    more = spectral_density(operator, probes=5, steps=10, generator=stream(0))
    assert torch.equal(more.nodes[:3], first.nodes)
    assert more.products == 50
    exact = torch.linalg.eigvalsh(operator.matrix)
    slack = 1e-8 * float(exact.abs().max())
    finer = spectral_density(operator, probes=3, steps=60, generator=stream(0))
    assert finer.distance(exact, slack=slack) < first.distance(exact, slack=slack)
    assert not torch.equal(spectral_density(operator, probes=3, steps=10, generator=stream(1)).nodes, first.nodes)
    one = spectral_density(operator, probes=1, steps=10, generator=stream(0))
    assert bool(one.cumulative(torch.tensor([0.0]))[1].isnan().all())
    assert np.isnan(one.moment(1)[1])


def test_resumed_bitwise() -> None:
    operator, states = goe(40), list[State]()
    whole = spectral_density(operator, probes=4, steps=7, generator=stream(0), watch=states.append)
    assert [len(state["rows"]) for state in states] == [1, 2, 3, 4]
    for place, state in enumerate(states):
        before = operator.taken
        again = spectral_density(operator, probes=4, steps=7, generator=stream(5), state=state)
        assert torch.equal(again.nodes, whole.nodes)
        assert torch.equal(again.weights, whole.weights)
        assert again.products == whole.products == 28
        assert operator.taken - before == 7 * (3 - place)


def test_bad_input() -> None:
    operator = goe(5)
    with pytest.raises(InputError, match=r"`probes` should be at least 1. Found 0"):
        spectral_density(operator, probes=0, steps=3, generator=stream(0))
    with pytest.raises(InputError, match=r"`steps` should be at least 1. Found 0"):
        spectral_density(operator, probes=3, steps=0, generator=stream(0))
    states = list[State]()
    found = spectral_density(operator, probes=2, steps=3, generator=stream(0), watch=states.append)
    for probes, steps in ((1, 3), (2, 4)):
        with pytest.raises(
            InputError, match=rf"`state` should hold at most {probes} probes of {steps} steps. Found \(2, 2, 3\)"
        ):
            spectral_density(operator, probes=probes, steps=steps, generator=stream(0), state=states[-1])
    with pytest.raises(InputError, match=r"`state` should hold .* Found no rows. Resume with the operator and steps"):
        spectral_density(operator, probes=2, steps=3, generator=stream(0), state={})
    with pytest.raises(
        InputError, match=r"`operator` should have finite products. Found NaN or infinity in product 1 of"
    ):
        spectral_density(diagonal(1.0, torch.inf), probes=2, steps=2, generator=stream(0))
    for width in (0.0, -1.0):
        with pytest.raises(InputError, match=r"`width` should be above 0. Found"):
            found.grid(width=width)
    with pytest.raises(InputError, match=r"`order` should be between 0 and 5, twice the steps less one. Found 6"):
        found.moment(6)
    with pytest.raises(InputError, match=r"`slack` should be at least 0. Found -1"):
        found.distance(torch.ones(3), slack=-1)
    with pytest.raises(InputError, match=r"`eigenvalues` should be \(D,\). Found \(0,\)"):
        found.distance(torch.ones(0))
