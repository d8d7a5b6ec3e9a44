"""One step of a bridge against autograd through the mixing: gradients, decay, ascent, clipping, micro-batches."""

from functools import partial
from math import log

import pytest
import torch
from torch import Tensor

from contracts.modules import assert_same_bits, bits, odd_module, seeded, tensors_of, untouched
from fit_example import batches, gradient_plan, inputs, mean_loss, mixing_gradient, small, toy
from isthmus.geometry.bridge import Bridge
from isthmus.geometry.build import connect, parse_geometry
from isthmus.geometry.sampling import sample, sample_by_area
from isthmus.probes import Clean
from isthmus.randomness import seed_of, stream
from isthmus.settle import Recalibrate
from isthmus.training.fit import fit
from isthmus.training.objective import Own
from isthmus.training.plan import Plan

GEOMETRIES = {"bezier:3": 2, "chain:2": 2, "surface:2x2": 4, "triangle:2": 3, "star": 3}
SEED = 5
close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-13)


def bent(geometry: str = "bezier:3", *, norm: bool = False) -> Bridge:
    """A bridge in float64 whose free points have left the straight line."""
    count = GEOMETRIES.get(geometry, 2)
    flat = connect([small(seed, norm=norm) for seed in range(count)], parse_geometry(geometry, count))
    noise = torch.randn(flat.free.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return flat.with_free(flat.free + noise / 10)


def step(bridge: Bridge, plan: Plan) -> Tensor:
    """What one step takes from the free points."""
    return bridge.free - fit(bridge, toy(), plan, seed=SEED).bridge.free


def draws(bridge: Bridge, plan: Plan) -> Tensor:
    count = plan.num_points * plan.accumulate
    if plan.sampling == "area":
        return sample_by_area(bridge, count, generator=stream(SEED, "u", 0))
    return sample(bridge.basis, count, generator=stream(SEED, "u", 0), stratified=plan.sampling == "stratified")


def micro(plan: Plan) -> list[tuple[Tensor, Tensor]]:
    samples = toy()
    return [(inputs(samples, part), samples.y[part]) for part in batches(samples, plan, SEED)[0].chunk(plan.accumulate)]


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_step_is_the_gradient_through_the_mixing(geometry: str, norm: bool) -> None:
    bridge, plan = bent(geometry, norm=norm), gradient_plan()
    close(step(bridge, plan), mixing_gradient(bridge, micro(plan), draws(bridge, plan)))


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_each_point_gets_its_weight_times_the_gradient_at_theta(geometry: str) -> None:
    bridge, plan = bent(geometry), gradient_plan()
    (u,), ((x, y),) = draws(bridge, plan), micro(plan)
    theta = bridge.theta(u).requires_grad_()
    mean_loss(small(0), theta, x, y).backward()
    assert theta.grad is not None
    weights = torch.tensor(bridge.weights(u), dtype=torch.float64)[list(bridge.free_index)]
    close(step(bridge, plan), weights[:, None] * theta.grad)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_points": 3},
        {"num_points": 3, "sampling": "stratified"},
        {"num_points": 2, "sampling": "area"},
        {"accumulate": 2},
        {"accumulate": 3, "batch_size": 7},  # micro-batches of 3, 2 and 2
        {"accumulate": 2, "num_points": 2, "sampling": "stratified"},
    ],
)
def test_several_coordinates_and_micro_batches(changes: dict[str, object]) -> None:
    bridge, plan = bent(), gradient_plan(**changes)
    samples = toy()
    parts = batches(samples, plan, SEED)[0].tensor_split(plan.accumulate)
    halves = [(inputs(samples, part), samples.y[part]) for part in parts]
    close(step(bridge, plan), mixing_gradient(bridge, halves, draws(bridge, plan)))


def test_stratified_coordinates_are_other_ones() -> None:
    bridge = bent()
    assert not torch.equal(
        step(bridge, gradient_plan(num_points=3)), step(bridge, gradient_plan(num_points=3, sampling="stratified"))
    )


@pytest.mark.parametrize("changes", [{}, {"num_points": 2}, {"accumulate": 2}])
def test_decay_acts_on_theta_or_on_the_points(changes: dict[str, object]) -> None:
    bridge, plain = bent(), gradient_plan(**changes)
    gradient, coordinates = step(bridge, plain), draws(bridge, plain)
    weights = bridge.basis(coordinates)  # (count, n)
    pull = (weights[:, list(bridge.free_index)].T @ (weights @ bridge.points)) / len(coordinates)
    on_theta = step(bridge, gradient_plan(**changes, weight_decay=0.3, decay="theta")) - gradient
    on_points = step(bridge, gradient_plan(**changes, weight_decay=0.3, decay="points")) - gradient
    close(on_theta, 0.3 * pull)
    close(on_points, 0.3 * bridge.free)
    assert (on_theta - on_points).abs().max() > 0.01


@pytest.mark.parametrize("rho", [0.1, 2.0])
def test_the_ascent_step_is_that_of_adaptive_sharpness_aware_minimisation(rho: float) -> None:
    """Kwon et al. 2021, eq. 8: epsilon = rho T^2 g / ||T g|| with T = diag |theta|."""
    bridge, plan = bent(), gradient_plan(sharpness=rho, weight_decay=0.1)
    (u,), ((x, y),) = draws(bridge, plan), micro(plan)

    def gradient_at(theta: Tensor) -> Tensor:
        theta = theta.detach().clone().requires_grad_()
        (found,) = torch.autograd.grad(mean_loss(small(0), theta, x, y), theta)
        return found

    theta = bridge.theta(u)
    g, size = gradient_at(theta), theta.abs()
    epsilon = rho * size**2 * g / torch.linalg.vector_norm(size * g)
    weights = torch.tensor(bridge.weights(u), dtype=torch.float64)[list(bridge.free_index)]
    close(step(bridge, plan), weights[:, None] * (gradient_at(theta + epsilon) + 0.1 * theta))


@pytest.mark.parametrize("rho", [0.5, 50.0])
def test_an_ascent_step_without_a_gradient_goes_nowhere(rho: float) -> None:
    """Exactly zero, and so small that its square underflows: neither may blow up."""
    bridge = bent()
    for tiny in (0.0, 1e-200):

        def objective(model: torch.nn.Module, x: Tensor, y: Tensor, *, generator: torch.Generator, scale: float = tiny):
            logits = model(x)
            return scale * logits.sum(1), logits

        found = fit(bridge, toy(), gradient_plan(sharpness=rho), seed=SEED, objective=Own(objective)).bridge.free
        assert torch.equal(found, bridge.free)


@pytest.mark.parametrize("changes", [{}, {"num_points": 2}, {"accumulate": 2}])
def test_clip_bounds_the_gradient_at_each_point(changes: dict[str, object]) -> None:
    bridge, loose = bent(), gradient_plan(**changes)
    coordinates, halves = draws(bridge, loose), micro(loose)
    owners = [part for part in halves for _ in range(loose.num_points)]
    raw, clipped = torch.zeros_like(bridge.free), torch.zeros_like(bridge.free)
    norms = []
    for u, (x, y) in zip(coordinates, owners, strict=True):
        theta = bridge.theta(u).requires_grad_()
        (gradient,) = torch.autograd.grad(mean_loss(small(0), theta, x, y), theta)
        norms.append(float(gradient.norm()))
        weights = torch.tensor(bridge.weights(u), dtype=torch.float64)[list(bridge.free_index), None]
        raw += weights * gradient / len(coordinates)
        clipped += weights * gradient * min(1.0, 0.05 / norms[-1]) / len(coordinates)
    assert min(norms) > 0.05
    close(step(bridge, loose), raw)
    close(step(bridge, gradient_plan(**changes, clip=0.05)), clipped)
    close(step(bridge, gradient_plan(**changes, clip=2 * max(norms))), raw)


def test_dropout_ties_attention_and_norms_change_nothing_about_it() -> None:
    models = [odd_module(seed).double() for seed in range(2)]
    bridge, plan = connect(models, parse_geometry("bezier:2", 2)), gradient_plan(num_points=2)
    with seeded(seed_of(SEED, "module", 0, 0)):  # dropout draws in the same order
        expected = mixing_gradient(bridge, micro(plan), draws(bridge, plan), bridge.at(0.0))
    close(step(bridge, plan), expected)


def test_an_unlisted_architecture_trains_between_untouched_ends() -> None:
    models = [odd_module(seed) for seed in range(2)]
    ends = [tensors_of(model) for model in models]
    samples = toy(30, noise=100)
    with untouched(*models):
        start = connect(models, parse_geometry("bezier:2", 2))
        before = (bits(start.fixed), bits(start.free))
        fitted = fit(start, samples, Plan(steps=120, batch_size=16), seed=SEED)
    assert torch.equal(bits(start.fixed), before[0])
    assert torch.equal(bits(start.free), before[1])
    assert_same_bits(tensors_of(fitted.bridge.at(0.0)), ends[0])
    assert_same_bits(tensors_of(fitted.bridge.at(1.0)), ends[1])
    losses = [
        Clean(samples)(curve.at(0.5, settle=Recalibrate(samples)))["test_loss"] for curve in (start, fitted.bridge)
    ]
    assert losses[0] > log(5) * 0.8  # ln 5 is what guessing costs
    assert losses[1] < log(5) / 2


def test_the_bridge_passed_in_is_not_written_to_even_where_it_has_no_fixed_points() -> None:
    bridge = connect([small(0), small(1)], parse_geometry("bezier:2", 2))
    loose = Bridge(
        bridge.template, bridge.layout, bridge.basis, bridge.fixed[:0], bridge.points, (), bridge.states, bridge.names
    )
    kept, buffers = loose.free.clone(), tensors_of(loose.template)
    fitted = fit(loose, toy(), gradient_plan(), seed=SEED).bridge
    assert torch.equal(loose.free, kept)
    assert loose.free.grad is None
    assert_same_bits(tensors_of(loose.template), buffers)
    assert not torch.equal(fitted.free[0], kept[0])  # all three points moved
    assert not torch.equal(fitted.free[2], kept[2])
