"""The loss at flat weights: value and gradient against functional calls, and what is refused with the reason."""

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from contracts.modules import odd_module, of_three_kinds, scaled, seeded, untouched
from curvature_example import convolutional, flat_loss, models, objectives, posing, samples
from isthmus._check import InputError
from isthmus.curvature.loss_at import LossAt
from isthmus.curvature.operator import hessian
from isthmus.layout import Layout
from isthmus.problem import Problem
from isthmus.training.objective import Own, Supervised

X, Y = samples()


@pytest.mark.parametrize("kind", ["clean", "adversarial", "trades"])
@pytest.mark.parametrize("name", ["conv", "residual", "attention"])
def test_value_and_gradient_equal_those_of_functional_calls(name: str, kind: str) -> None:
    model, pose = models()[name], posing(objectives()[kind], X, Y)
    _, theta, expected = flat_loss(model, pose)
    with untouched(model):
        found = LossAt(model, pose, dtype=torch.float64)
        assert torch.equal(found.theta, theta)
        assert found.num_samples == 12
        assert found.value() == pytest.approx(float(expected(theta)), rel=1e-12)
        (gradient,) = torch.autograd.grad(expected(theta.requires_grad_()), theta)
        assert torch.allclose(found.gradient(), gradient, rtol=1e-9, atol=1e-12)
        single = LossAt(model, pose)
        assert single.theta.dtype == torch.float32
        assert single.gradient().dtype == torch.float64
        if kind == "clean":  # in single precision other examples are crafted
            assert torch.allclose(single.gradient(), gradient, rtol=1e-3, atol=1e-5)


def test_batches_do_not_matter() -> None:
    model = models()["residual"]
    whole, split = (LossAt(model, posing(Supervised(), X, Y, size), dtype=torch.float64) for size in (12, 5))
    assert split.value() == pytest.approx(whole.value(), rel=1e-14)
    assert torch.allclose(split.gradient(), whole.gradient(), rtol=1e-10, atol=1e-14)


def test_moved_keeps_adversarial_examples_unless_posed_anew() -> None:
    model, pose = models()["conv"], posing(objectives()["trades"], X, Y)
    here = LossAt(model, pose, dtype=torch.float64)
    draw = torch.randn(here.size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    there = here.theta + 0.3 * draw
    before, value = here.gradient(), here.value()
    frozen, anew = here.moved(there), here.moved(there, repose=True)
    _, _, expected = flat_loss(model, pose)
    assert frozen.value() == pytest.approx(float(expected(there)), rel=1e-12)
    with torch.no_grad():
        for name, weight in here.layout.unflatten(there.float()).items():
            dict(model.named_parameters())[name].copy_(weight)
    fresh = LossAt(model, pose, dtype=torch.float64)
    assert anew.value() == pytest.approx(fresh.value(), rel=1e-6)
    assert abs(anew.value() - frozen.value()) > 1e-4
    # They share one copy of the model: each writes its own weights before it measures.
    assert torch.equal(here.gradient(), before)
    assert here.value() == value


def test_products_keep_to_their_weights() -> None:
    """Graphs kept at one place stay right after the loss was measured at another."""
    here = LossAt(models()["residual"], posing(Supervised(), X, Y), dtype=torch.float64)
    first = hessian(here)
    v = torch.ones(here.size, dtype=torch.float64)
    before = first(v)
    there = hessian(here.moved(1.5 * here.theta))
    assert float((there(v) - before).abs().max()) > 1e-3
    assert torch.equal(first(v), before)
    with pytest.raises(InputError, match=r"`theta` should have shape \(243,\). Found \(3,\)"):
        here.moved(torch.zeros(3))


def test_frozen_and_tied_weights() -> None:
    model = odd_module(1)
    model.head.requires_grad_(False)
    x, y = torch.rand(6, 3, 8, 8), torch.arange(6) % 5
    with untouched(model):
        loss = LossAt(model, posing(Supervised(), x, y), dtype=torch.float64)
        loss.check()
        gradient = loss.layout.unflatten(loss.gradient())
    assert not gradient["head.weight"].any()
    assert gradient["inward.weight"].any()
    assert "outward.weight" not in gradient


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_scales(scale: float) -> None:
    loss = LossAt(scaled(convolutional(), scale), posing(Supervised(), X, Y))
    loss.check()
    assert loss.gradient().isfinite().all()


def test_mixed_dtypes_run_and_say_their_precision() -> None:
    model = of_three_kinds(0)
    loss = LossAt(model, posing(Supervised(), torch.rand(4, 3, 8, 8), torch.arange(4)))
    loss.check()
    assert loss.theta.dtype == torch.float64
    assert loss.precision == torch.finfo(torch.bfloat16).eps
    assert LossAt(convolutional(), posing(Supervised(), X, Y)).precision == torch.finfo(torch.float32).eps


class Unfriendly(nn.Module):
    """Random, without a gradient, or with one derivative only."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind
        self.body, self.head = nn.Linear(72, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.body(x.flatten(1))
        if self.kind == "random":
            hidden = functional.dropout(hidden, 0.5, training=True)
        if self.kind == "hidden":
            hidden = hidden * torch.rand((), generator=GENERATOR)
        if self.kind == "argmax":
            return functional.one_hot(self.head(hidden).argmax(1), 3).float()
        if self.kind == "once":
            return self.head(Once.apply(hidden)) + self.head(hidden)
        return self.head(hidden.sigmoid())


GENERATOR = torch.Generator().manual_seed(0)


class Once(torch.autograd.Function):
    """The identity, differentiable once."""

    @staticmethod
    def forward(_ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(_ctx: object, gradient: Tensor) -> Tensor:
        return gradient.clone()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("random", r"`model` should have the same loss and gradient .*random numbers drawn in 'Unfriendly'. Make it"),
        ("hidden", r"`model` should have the same loss and gradient .*no layer that draws random numbers"),
        ("argmax", r"`model` should be differentiable in its weights. Found a loss without a gradient .*Take argmax"),
        ("once", r"`model` should be twice differentiable in its weights. Found an operation that can be diff"),
    ],
)
def test_models_that_cannot_be_measured(kind: str, message: str) -> None:
    model = Unfriendly(kind)
    with untouched(model), pytest.raises(InputError, match=message):
        LossAt(model, posing(Supervised(), X, Y)).check()


def test_a_gradient_that_other_kernels_compute_where_its_graph_is_kept_is_no_randomness() -> None:
    with seeded(3):
        model = nn.Sequential(nn.Flatten(), nn.Linear(X[0].numel(), 32), nn.SiLU(), nn.Linear(32, 3))
    loss = LossAt(model, posing(Supervised(), X, Y))
    kept, plain = (
        torch.autograd.grad(loss.problems[0]()[0].sum(), loss.subject.parameters, create_graph=kept)
        for kept in (True, False)
    )
    assert not all(torch.equal(a, b) for a, b in zip(kept, plain, strict=True))  # else this test shows nothing
    loss.check()


def test_the_layer_that_draws_is_named() -> None:
    class Always(nn.Dropout):
        def forward(self, x: Tensor) -> Tensor:
            return functional.dropout(x, self.p)

    with seeded(0):
        model = nn.Sequential(nn.Flatten(), nn.Linear(72, 4), nn.Sequential(Always(0.5), nn.Linear(4, 3)))
    with untouched(model), pytest.raises(InputError, match=r"random numbers drawn in '2.0'. Make it deterministic"):
        hessian(LossAt(model, posing(Supervised(), X, Y)))


def test_a_loss_apart_from_the_model() -> None:
    def losses(_: nn.Module, x: Tensor, __: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        leaf = torch.zeros(len(x), 3, requires_grad=True)
        return leaf.sum(1), leaf

    with pytest.raises(InputError, match="depends on no parameter that requires a gradient"):
        LossAt(convolutional(), posing(Own(losses), X, Y)).check()


def test_bad_input() -> None:
    def nothing(_: nn.Module) -> Iterable[Problem]:
        return []

    good = posing(Supervised(), X, Y)
    with pytest.raises(InputError, match=r"`pose` should give at least one sample. Found none"):
        LossAt(convolutional(), nothing)
    with pytest.raises(
        InputError, match=r"`model` should compute in float32 or float64 .* Found torch.float16. Use .fl"
    ):
        LossAt(convolutional().half(), good)
    model = convolutional().requires_grad_(False)
    with pytest.raises(InputError, match=r"`model` should have parameters that require a gradient. Found 6 frozen"):
        LossAt(model, good).check()
    model = convolutional()
    with torch.no_grad():
        model.get_parameter("4.weight")[0, 0] = torch.nan
    with pytest.raises(InputError, match=r"`model` should hold finite numbers. Found 1 NaN .* '4.weight'"):
        LossAt(model, good).check()
    with pytest.raises(InputError, match=r"`model` should have a finite loss on the samples. Found nan"):
        LossAt(convolutional(), posing(Supervised(), X * torch.inf, Y)).check()
    with pytest.raises(InputError, match=r"`model` should take the inputs that `pose` gives. Found: .*placement"):
        LossAt(convolutional(), posing(Supervised(), X[:, :1], Y)).check()
    short = posing(Supervised(lambda out, y: functional.cross_entropy(out, y)), X, Y)
    with pytest.raises(
        InputError, match=r"`pose` should give one loss for each sample, \(B,\). Found torch.float32 \(\)"
    ):
        LossAt(convolutional(), short).check()


def test_objectives_of_ones_own_and_layouts() -> None:
    def losses(model: nn.Module, x: Tensor, y: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        out = model(x + 0.1 * torch.rand(x.shape, generator=generator))
        return functional.cross_entropy(out, y, reduction="none"), out

    model = convolutional()
    loss = LossAt(model, posing(Own(losses), X, Y))
    loss.check()
    assert loss.num_samples == 12
    assert loss.layout == Layout.of(model)
    assert float(loss.gradient().norm()) > 0
