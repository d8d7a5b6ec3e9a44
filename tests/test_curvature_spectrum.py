"""Top eigenpairs against the dense Hessian, SciPy and operators whose spectrum is known; interruption and refusals."""

import pytest
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from contracts.modules import SCALES, untouched
from curvature_example import dense_hessian, models, objectives, posing, samples
from isthmus._check import InputError
from isthmus.curvature.gauss_newton import gauss_newton
from isthmus.curvature.loss_at import LossAt
from isthmus.curvature.operator import dense, hessian
from isthmus.curvature.spectrum import Order, Search, State, top_eigenpairs
from isthmus.curvature.subspace import Projected
from isthmus.randomness import stream
from isthmus.training.objective import Supervised

X, Y = samples()


class Matrix:
    """A dense symmetric matrix, its products counted."""

    def __init__(self, values: Tensor):
        self.values, self.products = values.double(), 0

    @property
    def size(self) -> int:
        return len(self.values)

    def __call__(self, v: Tensor) -> Tensor:
        self.products += 1
        return self.values @ v


def symmetric(size: int, scale: float = 1.0) -> Matrix:
    a = torch.randn(size, size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return Matrix(scale * (a + a.T))


def relative(found: Tensor, expected: Tensor) -> float:
    return float(((found - expected) / expected).abs().max())


@pytest.mark.parametrize("kind", ["clean", "adversarial", "trades"])
@pytest.mark.parametrize("name", ["conv", "residual", "attention"])
def test_top_twenty_equal_those_of_the_dense_hessian(name: str, kind: str) -> None:
    model, pose = models()[name], posing(objectives()[kind], X, Y)
    with untouched(model):
        operator = hessian(LossAt(model, pose, dtype=torch.float64))
        found = top_eigenpairs(operator, 20, generator=stream(0), search=Search(1e-8))
    exact = dense_hessian(model, pose)
    assert relative(found.values, torch.linalg.eigvalsh(exact).flip(0)[:20]) < 1e-6
    assert found.converged.all()
    assert found.products == operator.products <= 100
    assert torch.allclose(found.vectors @ found.vectors.T, torch.eye(20, dtype=torch.float64), atol=1e-12)
    true = (found.vectors @ exact - found.values[:, None] * found.vectors).norm(dim=1)
    assert float((true - found.residuals).abs().max()) < 1e-10 * float(found.values[0])


def test_single_precision_reaches_what_its_rounding_allows() -> None:
    for name, model in models().items():
        pose = posing(Supervised(), X, Y)
        found = top_eigenpairs(hessian(LossAt(model, pose)), 10, generator=stream(0), search=Search(1e-4))
        exact = dense_hessian(model, pose)
        expected = torch.linalg.eigvalsh(exact).flip(0)[:10]
        assert float((found.values - expected).abs().max()) < 2e-5 * float(expected[0]), name
        true = (found.vectors @ exact - found.values[:, None] * found.vectors).norm(dim=1)
        assert float(true.max()) < 2e-4 * float(expected[0]), name


def test_gauss_newton_of_softmax_has_the_rank_of_its_classes() -> None:
    loss = LossAt(models()["conv"], posing(Supervised(), X, Y), dtype=torch.float64)
    found = top_eigenpairs(gauss_newton(loss), 30, generator=stream(0), search=Search(1e-9, steps=239))
    assert relative(found.values[:24], torch.linalg.eigvalsh(dense(gauss_newton(loss))).flip(0)[:24]) < 1e-6
    assert float(found.values[24:].abs().max()) < 1e-9  # 12 samples of 3 classes: rank 12 (3 - 1)


@pytest.mark.parametrize(("order", "which"), [("value", "LA"), ("magnitude", "LM"), ("lowest", "SA")])
def test_orders_agree_with_scipy(order: Order, which: str) -> None:
    matrix = symmetric(80)
    found = top_eigenpairs(matrix, 6, generator=stream(1), search=Search(1e-9, order=order))
    values = torch.from_numpy(eigsh(matrix.values.numpy(), k=6, which=which, return_eigenvectors=False))
    key = {"value": -values, "magnitude": -values.abs(), "lowest": values}[order]
    assert relative(found.values, values[key.argsort()]) < 1e-9


def test_scipy_takes_our_operator() -> None:
    loss = LossAt(models()["attention"], posing(Supervised(), X, Y), dtype=torch.float64)
    operator = hessian(loss)
    shape = (loss.size, loss.size)
    linear = LinearOperator(shape, matvec=lambda v: operator(torch.from_numpy(v)).numpy(), dtype="float64")
    theirs = torch.from_numpy(eigsh(linear, k=5, which="LA", return_eigenvectors=False)).sort(descending=True).values
    ours = top_eigenpairs(operator, 5, generator=stream(0), search=Search(1e-8)).values
    assert relative(ours, theirs) < 1e-8


@pytest.mark.parametrize("scale", SCALES)
def test_scales_do_not_matter(scale: float) -> None:
    one, other = (top_eigenpairs(symmetric(30, s), 4, generator=stream(0)) for s in (1.0, scale))
    assert relative(other.values, scale * one.values) < 1e-10
    assert other.products == one.products


def test_repeated_and_zero_eigenvalues() -> None:
    """All of five eigenvalues, two of them threefold; of a zero operator zeros, at once."""
    values = torch.tensor([3.0, 3.0, 3.0, 1.0, 1.0, 1.0, 0.0, -2.0, -2.0, -5.0])
    rotation = torch.linalg.qr(symmetric(10).values)[0]
    matrix = Matrix(rotation @ values.double().diag() @ rotation.T)
    found = top_eigenpairs(matrix, 10, generator=stream(0), search=Search(1e-9))
    assert torch.allclose(found.values, values.double(), atol=1e-10)
    assert torch.allclose(found.vectors @ matrix.values, found.values[:, None] * found.vectors, atol=1e-9)
    none = top_eigenpairs(Matrix(torch.zeros(6, 6)), 3, generator=stream(0))
    assert not none.values.any()
    assert none.converged.all()
    assert none.products == 3


def test_the_normal_part_of_an_operator_forgets_its_first_eigenpairs() -> None:
    matrix = symmetric(30)
    first = top_eigenpairs(matrix, 3, generator=stream(0), search=Search(1e-10))
    rest = top_eigenpairs(Projected(matrix, first.vectors), 2, generator=stream(0), search=Search(1e-9))
    assert relative(rest.values, torch.linalg.eigvalsh(matrix.values).flip(0)[3:5]) < 1e-8


def test_tolerance_and_steps_are_what_they_are_said_to_be() -> None:
    matrix = symmetric(200)
    loose, tight = (top_eigenpairs(matrix, 3, generator=stream(0), search=Search(t)) for t in (1e-2, 1e-8))
    assert loose.products < tight.products
    for found, tolerance in ((loose, 1e-2), (tight, 1e-8)):
        assert found.converged.all()
        assert float(found.residuals.max()) <= tolerance * float(found.values[0])
    short = top_eigenpairs(matrix, 3, generator=stream(0), search=Search(1e-8, steps=10))
    assert short.products == 10
    assert not short.converged.all()
    assert torch.equal(short.converged, short.residuals <= 1e-8 * short.values[0])
    other = top_eigenpairs(matrix, 3, generator=stream(1), search=Search(1e-2))
    assert not torch.equal(other.values, loose.values)
    again = top_eigenpairs(matrix, 3, generator=stream(0), search=Search(1e-2))
    assert torch.equal(again.vectors, loose.vectors)


@pytest.mark.parametrize("at", [1, 7, 10, 30])
def test_resumed_equals_uninterrupted_bitwise(at: int) -> None:
    """Also where new directions were drawn (rank 8 of 40) and where the search was over already."""
    rows = symmetric(40).values[:8]
    matrix, search = Matrix(rows.T @ rows), Search(1e-9)
    whole = top_eigenpairs(matrix, 12, generator=stream(0), search=search)
    assert 10 < whole.products < 30
    kept: list[State] = []

    def watch(state: State) -> None:
        kept.append({name: tensor.clone() for name, tensor in state.items()})

    stopped = Search(1e-9, steps=at)
    if at < 12:
        with pytest.raises(
            InputError, match=f"`count` should be at most the {at} steps of Lanczos. Found 12. Allow more"
        ):
            top_eigenpairs(matrix, 12, generator=stream(0), search=stopped)
    top_eigenpairs(matrix, min(at, 12), generator=stream(0), search=Search(1e-15, steps=at), watch=kept.append)
    kept.clear()
    top_eigenpairs(matrix, 12, generator=stream(0), search=search, watch=watch)
    assert [state["basis"].shape[1] for state in kept] == list(range(1, whole.products + 1))
    state, before = kept[min(at, whole.products) - 1], matrix.products
    found = top_eigenpairs(matrix, 12, generator=stream(99), search=search, state=state)
    assert matrix.products - before == whole.products - min(at, whole.products)
    assert torch.equal(found.values, whole.values)
    assert torch.equal(found.vectors, whole.vectors)
    assert torch.equal(found.residuals, whole.residuals)
    assert found.products == whole.products


def test_bad_input() -> None:
    matrix = symmetric(5)
    with pytest.raises(InputError, match=r"`count` should be between 1 and the 5 dimensions. Found 6"):
        top_eigenpairs(matrix, 6, generator=stream(0))
    with pytest.raises(InputError, match=r"`count` should be between 1 and the 5 dimensions. Found 0"):
        top_eigenpairs(matrix, 0, generator=stream(0))
    with pytest.raises(InputError, match=r"`state` should be that of an operator of size 5. Found \(1, 2, 4\)"):
        top_eigenpairs(matrix, 1, generator=stream(0), state={"basis": torch.zeros(1, 2, 4)})
    with pytest.raises(InputError, match=r"`state` should be that of an operator of size 5. Found no basis"):
        top_eigenpairs(matrix, 1, generator=stream(0), state={})
    with pytest.raises(InputError, match=r"`operator` should have finite products. Found NaN or infinity in product 1"):
        top_eigenpairs(Matrix(torch.full((5, 5), torch.nan)), 1, generator=stream(0))
    for options, message in (
        ({"tolerance": 0.0}, "`tolerance` should lie between 0 and 1. Found 0.0"),
        ({"tolerance": 1.0}, "`tolerance` should lie between 0 and 1. Found 1.0"),
        ({"steps": 0}, "`steps` should be at least 1. Found 0"),
        ({"order": "lowst"}, "`order` should be one of lowest, magnitude, value. Found 'lowst'. Did you mean 'lowest'"),
    ):
        with pytest.raises(InputError, match=message):
            Search(**options)
