"""Grown simplexes and complexes: each vertex is a plain fit with earlier ones fixed, its gradient that of autograd."""

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from contracts.modules import assert_same_bits, tensors_of
from fit_example import batches, gradient_plan, inputs, mixing_gradient, small, toy
from isthmus._check import InputError
from isthmus.geometry.bridge import Bridge
from isthmus.geometry.build import bezier, connect
from isthmus.geometry.sampling import sample
from isthmus.geometry.simplexes import Complex
from isthmus.geometry.volume import log_volume
from isthmus.randomness import seed_of, stream
from isthmus.training.fit import fit
from isthmus.training.grow import grow, trainer, volume_weights
from isthmus.training.guide import Guided, LogVolume, Projected
from isthmus.training.objective import Supervised
from isthmus.training.plan import Plan
from isthmus.training.session import Fitted, Session

PLAN = Plan(steps=11, batch_size=8, learning_rate=0.05, num_points=2)


def flat(models: int = 2, connectors: int = 3) -> Bridge:
    return connect([small(k) for k in range(models)], Complex(models, connectors))


train = trainer(toy())


def grown(bridge: Bridge, weights: tuple[float, ...] = (0.0, 0.01, 0.01), **more: object) -> Fitted:
    return grow(bridge, PLAN, train, weights=weights, seed=3, **more)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("models", [1, 2])
def test_each_vertex_is_a_fit_of_its_own(models: int) -> None:
    told: list[str] = []
    found = grown(flat(models), session=Session(stage=told.append))
    fixed = [row.clone() for row in flat(models).fixed]
    for j, (steps, weight) in enumerate(zip((4, 4, 3), (0.0, 0.01, 0.01), strict=True)):
        mean = torch.stack(fixed).mean(0)
        part = Bridge(
            small(0),
            flat().layout,
            Complex(models, j + 1),
            torch.stack(fixed),
            mean[None],
            tuple(range(models + j)),
        )
        own = PLAN.model_copy(update={"steps": steps})
        objective = Guided(Supervised(), LogVolume(weight))
        fixed.append(fit(part, toy(), own, seed=seed_of(3, "vertex", j), objective=objective).bridge.free[0])
    assert torch.equal(found.bridge.points, torch.stack(fixed))
    assert found.bridge.fixed_index == tuple(range(models))
    assert told == [f"growing vertex {models + j} of {models + 3}" for j in (1, 2, 3)]
    assert found.evaluations == PLAN.evaluations == 22
    assert found.history.frame["step"].tolist()[-1] == 11
    for k, (u, _) in enumerate(found.bridge.basis.corners):
        assert_same_bits(tensors_of(found.bridge.at(u)), tensors_of(small(k)))


@pytest.mark.parametrize("basis", [Complex(1, 2), Complex(2, 2), Complex(3, 1)], ids=str)
@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_the_gradient_is_that_of_loss_and_volume(basis: Complex, weight: float) -> None:
    noise = torch.randn(basis.connectors, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    start = connect([small(k) for k in range(basis.models)], basis)
    start = start.with_free(start.free + torch.sin(noise * torch.arange(start.layout.size)) / 3)
    plan = gradient_plan(num_points=3)
    fitted = fit(start, toy(), plan, seed=0, objective=Guided(Supervised(), LogVolume(weight)))
    taken = start.free - fitted.bridge.free
    index = batches(toy(), plan, 0)[0]
    draws = sample(basis, 3, generator=stream(0, "u", 0))
    expected = mixing_gradient(start, [(inputs(toy(), index), toy().y[index])], draws)
    points = start.points.clone().requires_grad_()
    faces = torch.stack([_gram_volume(points[list(face)]) for face in basis.faces])
    (-weight * faces.sum().log()).backward()
    assert points.grad is not None
    torch.testing.assert_close(taken, expected + points.grad[list(start.free_index)], rtol=1e-9, atol=1e-12)


def _gram_volume(vertices: torch.Tensor) -> torch.Tensor:
    edges = vertices[1:] - vertices[0]
    return torch.linalg.det(edges @ edges.T).sqrt() / math.factorial(len(edges))


def test_a_larger_weight_gives_a_larger_simplex() -> None:
    volumes = [log_volume(grown(flat(1), weights=(w, w, w)).bridge) for w in (0.0, 0.01, 0.1)]
    assert volumes == sorted(volumes)
    assert volumes[2] - volumes[0] > 1


def test_weights_are_relative_to_untrained_models() -> None:
    basis = Complex(2, 2)
    vertices = [torch.cat([p.detach().flatten() for p in small(seed).parameters()]) for seed in range(4)]
    one = sum(float((v - vertices[2]).norm()) for v in vertices[:2])
    two = sum(float(_gram_volume(torch.stack([v, *vertices[2:]]))) for v in vertices[:2])
    expected = [0.1 / max(1.0, math.log(value)) for value in (one, two)]
    assert volume_weights(0.1, basis, small) == pytest.approx(expected)
    assert expected[1] < 0.1  # the volume of the triangles is above e
    assert volume_weights(0.1, Complex(1, 1), lambda _: small(0)) == (0.1,)


def test_a_stopped_growth_goes_on(tmp_path) -> None:
    whole = grown(flat())
    told: list[str] = []

    def stop(text: str) -> None:
        told.append(text)
        if len(told) == 3:
            raise KeyboardInterrupt

    session = Session(checkpoint=tmp_path / "checkpoint.pt", every_seconds=0.0, stage=stop)
    with pytest.raises(KeyboardInterrupt):
        grown(flat(), session=session)
    assert len(list(tmp_path.glob("checkpoint-vertex-*.pt"))) == 2
    assert torch.equal(grown(flat(), session=session).bridge.points, whole.bridge.points)


def test_draws_at_the_free_points_alone() -> None:
    start, plan = flat(2, 2), gradient_plan(num_points=4, sampling="points")
    start = start.with_free(start.free + torch.arange(2)[:, None] / 10)
    taken = start.free - fit(start, toy(), plan, seed=0).bridge.free
    index = batches(toy(), plan, 0)[0]
    draws = torch.tensor([start.basis.sites[2], start.basis.sites[3]] * 2, dtype=torch.float64)
    expected = mixing_gradient(start, [(inputs(toy(), index), toy().y[index])], draws)
    torch.testing.assert_close(taken, expected, rtol=1e-9, atol=1e-12)


def test_a_guide_and_a_projection_go_together() -> None:
    start = flat(1, 1)
    start = start.with_free(start.free + 0.1)

    def held(weights: Mapping[str, Tensor]) -> None:
        weights["0.bias"].zero_()

    guide = LogVolume(0.5)
    one = Guided(Guided(Supervised(), Projected(held)), guide)
    two = Guided(Guided(Supervised(), guide), Projected(held))
    found = [fit(start, toy(), PLAN, seed=0, objective=objective).bridge for objective in (one, two)]
    assert torch.equal(found[0].free, found[1].free)
    assert bool((start.layout.unflatten(found[0].free[0])["0.bias"] == 0).all())
    unguided = fit(start, toy(), PLAN, seed=0, objective=Guided(Supervised(), Projected(held))).bridge
    assert not torch.equal(found[0].free, unguided.free)


def test_what_cannot_grow_is_refused() -> None:
    with pytest.raises(InputError, match=r"`bridge` should be a complex, whose connectors are grown\. Found Bernstein"):
        grow(bezier([small(0), small(1)]), PLAN, train, weights=(), seed=0)
    with pytest.raises(InputError, match=r"`weights` should hold one value for each connector, 3\. Found 2\."):
        grown(flat(), (0.0, 0.0))
    with pytest.raises(InputError, match=r"`steps` should be at least 1 for each of 3 vertices\. Found 2\."):
        grow(flat(), PLAN.model_copy(update={"steps": 2}), train, weights=(0, 0, 0), seed=0)
