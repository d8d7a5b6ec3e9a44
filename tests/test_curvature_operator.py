"""Hessian, Gauss-Newton and their restrictions against dense matrices in float64 made another way."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from contracts.modules import odd_module, untouched
from curvature_example import convolutional, dense_hessian, flat_loss, models, objectives, posing, samples
from isthmus._check import InputError
from isthmus.curvature.gauss_newton import gauss_newton
from isthmus.curvature.loss_at import LossAt
from isthmus.curvature.memory import plan_memory
from isthmus.curvature.operator import Operator, dense, device_of, hessian, precision_of
from isthmus.curvature.subspace import Projected, Restricted, orthonormal_rows
from isthmus.geometry.bases import Bernstein
from isthmus.problem import Pose
from isthmus.training.objective import Own, Supervised

X, Y = samples()
CASES = [(name, kind) for name in ("conv", "residual", "attention") for kind in ("clean", "adversarial", "trades")]


def near(found: Tensor, expected: Tensor, tolerance: float = 1e-10) -> bool:
    return float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())


def check(operator: Operator, exact: Tensor, tolerance: float = 1e-10) -> None:
    """Assert that the operator takes six random vectors where the exact matrix does, and that it is symmetric on them."""
    v = torch.randn(6, operator.size, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    images = torch.stack([operator(one) for one in v])
    assert near(images, v @ exact, tolerance)
    assert near(images @ v.T, v @ images.T, tolerance / 100)


def dense_gauss_newton(model: nn.Module, pose: Pose) -> Tensor:
    """Return J' H J from the Jacobian of all logits in the weights and the Hessian of the loss in all logits."""
    _, theta, loss = flat_loss(model, pose)
    shapes = [[out.shape for out in outs] for outs in loss.outputs(theta)]

    def flat(weights: Tensor) -> Tensor:
        return torch.cat([out.reshape(-1) for outs in loss.outputs(weights) for out in outs])

    def of_flat(logits: Tensor) -> Tensor:
        parts = iter(logits.split([shape.numel() for outs in shapes for shape in outs]))
        return loss.of_outputs([[next(parts).view(shape) for shape in outs] for outs in shapes])

    jacobian = torch.autograd.functional.jacobian(flat, theta, vectorize=True)
    return jacobian.T @ torch.autograd.functional.hessian(of_flat, flat(theta), vectorize=True) @ jacobian


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_hessian_equals_the_dense_one(name: str, kind: str) -> None:
    model, pose = models()[name], posing(objectives()[kind], X, Y)
    exact = dense_hessian(model, pose)
    with untouched(model):
        check(hessian(LossAt(model, pose, dtype=torch.float64)), exact)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_gauss_newton_equals_its_definition(name: str, kind: str) -> None:
    model, pose = models()[name], posing(objectives()[kind], X, Y)
    exact = dense_gauss_newton(model, pose)
    with untouched(model):
        check(gauss_newton(LossAt(model, pose, dtype=torch.float64)), exact)
    if kind != "trades":  # the divergence is not convex in the clean logits
        values = torch.linalg.eigvalsh(exact)
        assert float(values[0]) > -1e-12 * float(values[-1])


def test_softmax_regression_in_closed_form() -> None:
    """Both matrices are 1/N sum_i (diag p_i - p_i p_i') kron x_i x_i'."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 3, bias=False))
    loss = LossAt(model, posing(Supervised(), X, Y), dtype=torch.float64)
    x = X.double().flatten(1)
    p = model(X).double().softmax(1).detach()
    p = (x @ model[1].weight.detach().double().T).softmax(1)
    inner = p.diag_embed() - p[:, :, None] * p[:, None, :]
    expected = torch.einsum("nab,ni,nj->aibj", inner, x, x).reshape(216, 216) / 12
    assert near(dense(hessian(loss)), expected)
    assert near(dense(gauss_newton(loss)), expected)


def test_float32_products() -> None:
    for model in models().values():
        pose = posing(Supervised(), X, Y)
        exact = dense_hessian(model, pose)
        operator = hessian(LossAt(model, pose))
        assert precision_of(operator) == torch.finfo(torch.float32).eps
        check(operator, exact, 2e-4)
    assert precision_of(Diagonal(torch.ones(2))) == torch.finfo(torch.float64).eps


def test_frozen_weights_have_zero_rows_and_the_rest_is_the_same() -> None:
    model, pose = models()["attention"], posing(Supervised(), X, Y)
    exact = dense_hessian(model, pose)
    model.get_submodule("key").requires_grad_(False)
    loss = LossAt(model, pose, dtype=torch.float64)
    places = dict(zip(loss.layout.names, loss.layout.slices, strict=True))
    free = torch.ones(loss.size, dtype=torch.float64)
    free[places["key.weight"]] = free[places["key.bias"]] = 0
    check(hessian(loss), exact * free * free[:, None])
    found = gauss_newton(loss)
    assert not found(1 - free).any()
    assert not found(torch.ones_like(free))[free == 0].any()


def test_dropout_tied_weights_and_buffers() -> None:
    """The dense Hessian of an odd module in float64 is that of its evaluation mode."""
    model, x, y = odd_module(1), torch.rand(4, 3, 8, 8), torch.arange(4)
    pose = posing(Supervised(), x, y)
    operator = hessian(LossAt(model, pose, dtype=torch.float64))
    _, theta, loss = flat_loss(model, pose)
    v = torch.randn(operator.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    _, expected = torch.autograd.functional.hvp(loss, theta, v)
    assert near(operator(v), expected)


def test_graphs_kept_or_not_give_the_same_and_products_are_counted() -> None:
    loss = LossAt(models()["residual"], posing(Supervised(), X, Y), dtype=torch.float64)
    plan = plan_memory(loss, budget=2**30)
    assert plan.kept == 3
    v = torch.ones(loss.size, dtype=torch.float64)
    for make in (hessian, gauss_newton):
        found = [make(loss, plan=replace(plan, budget=budget)) for budget in (2**30, plan.batch + plan.graphs[0], 1)]
        assert [operator.plan.kept for operator in found] == [3, 1, 0]
        first, *others = [[operator(v), operator(v)] for operator in found]
        assert all(torch.equal(pair[k], first[0]) for pair in (first, *others) for k in (0, 1))
        assert [operator.products for operator in found] == [2, 2, 2]


def test_losses_without_curvature() -> None:
    """A loss linear in the logits: no Gauss-Newton matrix, and for a linear model no Hessian either."""

    def first_logit(out: Tensor, _: Tensor) -> Tensor:
        return out[:, 0]

    linear = LossAt(nn.Sequential(nn.Flatten(), nn.Linear(72, 3)), posing(Supervised(first_logit), X, Y))
    curved = LossAt(convolutional(), posing(Supervised(first_logit), X, Y))
    v = torch.ones(linear.size, dtype=torch.float64)
    assert not hessian(linear)(v).any()
    assert not gauss_newton(linear)(v).any()
    v = torch.ones(curved.size, dtype=torch.float64)
    assert hessian(curved)(v).any()
    assert not gauss_newton(curved)(v).any()


def test_gauss_newton_needs_the_outputs() -> None:
    def losses(model: nn.Module, x: Tensor, y: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        out = model(x)
        return functional.cross_entropy(out, y, reduction="none"), out

    loss = LossAt(convolutional(), posing(Own(losses), X, Y), dtype=torch.float64)
    with pytest.raises(
        InputError, match=r"`pose` should tell the model's outputs and the loss of them apart. Found fun"
    ):
        gauss_newton(loss)
    same = LossAt(convolutional(), posing(Supervised(), X, Y), dtype=torch.float64).moved(loss.theta)
    v = torch.ones(loss.size, dtype=torch.float64)
    assert near(hessian(loss)(v), hessian(same)(v))
    with pytest.raises(InputError, match=r"`v` should have shape \(239,\). Found \(3,\)"):
        hessian(loss)(v[:3])


class Diagonal:
    """diag(values)."""

    def __init__(self, values: Tensor):
        self.values = values.double()

    @property
    def size(self) -> int:
        return len(self.values)

    def __call__(self, v: Tensor) -> Tensor:
        return self.values * v


def test_restriction_to_the_tangent_of_a_bridge_and_what_is_normal_to_it() -> None:
    draw = torch.Generator().manual_seed(0)
    points = torch.randn(3, 30, generator=draw, dtype=torch.float64)
    a = torch.randn(30, 30, generator=draw, dtype=torch.float64)
    full = a + a.T

    class Full(Diagonal):
        def __call__(self, v: Tensor) -> Tensor:
            return full @ v

    operator = Full(torch.ones(30))
    tangent = Bernstein(2).derivative(torch.tensor([0.3], dtype=torch.float64)) @ points
    rows = orthonormal_rows(torch.cat([tangent, 3 * tangent, points[:1], torch.zeros(1, 30), 1e-12 * points[1:2]]))
    assert rows.shape == (3, 30)
    assert near(dense(Restricted(operator, rows)), rows @ full @ rows.T)
    project = torch.eye(30, dtype=torch.float64) - rows.T @ rows
    assert near(dense(Projected(operator, rows)), project @ full @ project)
    one = Restricted(operator, orthonormal_rows(tangent))
    unit = (tangent / tangent.norm())[0]
    assert one.size == 1
    assert one(torch.ones(1, dtype=torch.float64)).item() == pytest.approx(float(unit @ full @ unit))
    for part in (one, Projected(operator, rows)):
        assert precision_of(part) == torch.finfo(torch.float64).eps
        assert device_of(part) == torch.device("cpu")
    assert len(orthonormal_rows(torch.cat([points[:1], points[:1] + 1e-3 * points[1:2]]))) == 2
    assert len(orthonormal_rows(torch.cat([points[:1], points[:1] + 1e-3 * points[1:2]]), tolerance=0.1)) == 1


def test_bad_subspaces() -> None:
    operator = Diagonal(torch.arange(4.0))
    with pytest.raises(InputError, match=r"`rows` should be a matrix \(k, 4\). Found shape \(2, 5\)"):
        Restricted(operator, torch.eye(5)[:2])
    with pytest.raises(InputError, match=r"`rows` should be orthonormal. Found an inner product off by 3. Use `orthon"):
        Projected(operator, 2 * torch.eye(4)[:2])
    with pytest.raises(InputError, match=r"`directions` should be a matrix \(k, D\). Found shape \(4,\)"):
        orthonormal_rows(torch.ones(4))
    with pytest.raises(InputError, match=r"`directions` should be finite. Found NaN or infinite"):
        orthonormal_rows(torch.full((2, 4), torch.nan))
    with pytest.raises(InputError, match=r"`directions` should hold a direction. Found 2 rows of zeros"):
        orthonormal_rows(torch.zeros(2, 4))
    with pytest.raises(InputError, match=r"`tolerance` should be in \[0, 1\). Found 1.0"):
        orthonormal_rows(torch.eye(4), tolerance=1.0)
    with pytest.raises(InputError, match=r"`v` should have shape \(2,\). Found \(4,\)"):
        Restricted(operator, torch.eye(4)[:2])(torch.ones(4))
