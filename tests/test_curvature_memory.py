"""What curvature takes in memory, estimated before it starts."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from contracts.modules import untouched
from curvature_example import convolutional, posing, samples
from isthmus._check import InputError
from isthmus.curvature import memory
from isthmus.curvature.gauss_newton import gauss_newton
from isthmus.curvature.loss_at import LossAt
from isthmus.curvature.memory import free_memory, plan_memory, saved_bytes
from isthmus.curvature.operator import hessian
from isthmus.problem import Posed, Problem
from isthmus.training.objective import Own, Supervised

X, Y = samples(60)
MANY = 2**40


def loss_of(size: int, model: nn.Module | None = None) -> LossAt:
    return LossAt(convolutional() if model is None else model, posing(Supervised(), X, Y, size))


def test_saved_bytes_of_a_square_are_its_argument() -> None:
    """x^2 saves x; a parameter that is there anyway does not count; one storage counts once."""
    x, w = torch.ones(1000, requires_grad=True), nn.Parameter(torch.ones(1000))
    assert saved_bytes(lambda: (2 * x) ** 2, []) == 4000
    assert saved_bytes(lambda: w**2, [w]) == 0
    hidden = 3 * x
    assert saved_bytes(lambda: hidden**2 + hidden**3, []) == 4000


def test_the_estimate_is_what_the_whole_batch_saves() -> None:
    model = convolutional()
    with untouched(model):
        loss = loss_of(25, model)
        plan = plan_memory(loss, budget=MANY)
        hessian(loss, plan=plan)
    parameters = loss.subject.parameters
    for graph, problem in zip(plan.graphs, loss.problems, strict=True):

        def gradient(problem: Problem = problem) -> Sequence[Tensor]:
            total = problem()[0].double().sum()
            return torch.autograd.grad(total, parameters, create_graph=True)

        assert graph == pytest.approx(saved_bytes(gradient, parameters), rel=0.02)
    assert plan.graphs[0] > plan.graphs[2]  # 25, 25 and 10 samples
    assert plan.kept == 3
    assert plan.batch == 3 * plan.graphs[0]
    assert plan.needed == sum(plan.graphs) + 2 * plan.graphs[0]


def test_what_the_estimate_grows_with() -> None:
    small, large = (plan_memory(loss_of(size), budget=MANY) for size in (10, 60))
    assert large.graphs[0] - large.fixed == pytest.approx(6 * (small.graphs[0] - small.fixed), rel=0.01)
    assert plan_memory(loss_of(10), steps=100, budget=MANY).basis == 8 * 239 * 104
    assert plan_memory(loss_of(10), steps=1000, budget=MANY).basis == 8 * 239 * 243
    double = LossAt(convolutional(), posing(Supervised(), X, Y, 60), dtype=torch.float64)
    assert plan_memory(double, budget=MANY).graphs[0] > 1.7 * large.graphs[0]


def test_problems_that_cannot_be_cut_are_weighed_whole() -> None:
    def losses(model: nn.Module, x: Tensor, y: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        out = model(x)
        return functional.cross_entropy(out, y, reduction="none"), out

    def weighted(model: nn.Module) -> list[Problem]:
        weights = torch.rand(60, generator=torch.Generator().manual_seed(0))

        def loss(outputs: Sequence[Tensor], y: Tensor) -> Tensor:
            return weights * functional.cross_entropy(outputs[0], y, reduction="none")

        return [Posed(model, (X,), Y, loss)]

    plain = plan_memory(loss_of(60), budget=MANY)
    for pose in (posing(Own(losses), X, Y, 60), weighted):
        found = plan_memory(LossAt(convolutional(), pose), budget=MANY)
        assert found.graphs[0] == pytest.approx(plain.graphs[0], rel=0.1)
        assert found.fixed == 0


def test_a_smaller_batch_is_suggested_and_fits() -> None:
    loss = loss_of(60)
    budget = plan_memory(loss, budget=MANY).batch // 3
    for make in (hessian, gauss_newton):
        with pytest.raises(
            InputError, match=r"`batch_size` should fit into .* MiB. Found 60 samples at once"
        ) as raised:
            make(loss, plan=plan_memory(loss, budget=budget))
    suggested = int(str(raised.value).rsplit(" ", 1)[1].rstrip("."))
    assert 1 < suggested < 20
    plan = plan_memory(loss_of(suggested), budget=budget)
    assert plan.needed <= budget
    with pytest.raises(InputError, match=r"`batch_size` should fit into"):
        plan_memory(loss_of(suggested + 2), budget=budget)
    with pytest.raises(InputError, match=r"Found 60 samples at once, .* Not one sample fits: give more memory"):
        plan_memory(loss, budget=100)


def test_fewer_steps_are_suggested_and_fit() -> None:
    loss = loss_of(5)
    budget = plan_memory(loss, budget=MANY).batch + 8 * 239 * 34
    with pytest.raises(InputError, match=r"`steps` should fit into .* Found .* for their basis. Take at most 30 steps"):
        plan_memory(loss, steps=200, budget=budget)
    assert plan_memory(loss, steps=30, budget=budget).needed <= budget
    with pytest.raises(InputError, match=r"for their basis. Take a smaller batch size"):
        plan_memory(loss, steps=200, budget=plan_memory(loss, budget=MANY).batch + 10)


def test_graphs_are_kept_where_they_fit() -> None:
    loss = loss_of(10)
    whole = plan_memory(loss, budget=MANY)
    half = plan_memory(loss, budget=whole.batch + 3 * whole.graphs[0])
    assert half.kept == 3
    assert half.needed == half.budget
    assert plan_memory(loss, budget=whole.batch).kept == 0


def test_by_default_half_of_what_is_free_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    free = free_memory(torch.device("cpu"))
    assert free is None or 2**20 < free < 2**50
    monkeypatch.setattr(memory, "_machine", lambda: 10_000)
    (tmp_path / "memory.max").write_text("max\n")
    monkeypatch.setattr(memory, "_GROUPS", tmp_path)
    assert free_memory(torch.device("cpu")) == 10_000
    (tmp_path / "memory.max").write_text("9000\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert free_memory(torch.device("cpu")) == 8000
    with pytest.raises(InputError, match=r"`batch_size` should fit into 0.0 MiB"):
        plan_memory(loss_of(60))
    monkeypatch.setattr(memory, "_machine", lambda: None)
    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "none")
    assert free_memory(torch.device("cpu")) is None
    unknown = plan_memory(loss_of(10), steps=10)
    assert unknown.budget is None
    assert unknown.kept == 6


def test_bad_input() -> None:
    with pytest.raises(InputError, match=r"`steps` should be at least 0. Found -1"):
        plan_memory(loss_of(10), steps=-1)
    with pytest.raises(InputError, match=r"`budget` should be above 0 bytes. Found 0"):
        plan_memory(loss_of(10), budget=0)
