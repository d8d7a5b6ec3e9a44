"""Slices: exact at the centre, exact to float32 beside it, and directions that are what their papers say."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from isthmus._check import InputError
from isthmus.geometry.build import bezier, line, simplex, surface
from isthmus.geometry.gram import plane as gram_plane
from isthmus.geometry.slices import (
    plane_directions,
    principal_directions,
    project,
    random_directions,
    slice_bridge,
    tangent_directions,
)
from isthmus.layout import Layout
from isthmus.models import build_model


def model(seed=0, arch="cnn", width=2):
    built = build_model(arch, num_classes=4, input_shape=(1, 8, 8), width=width, seed=seed)
    with torch.no_grad():
        for buffer in built.buffers():
            if buffer.is_floating_point():
                buffer.add_(0.25 + seed)
    return built


def weights(module):
    return Layout.of(module).flatten(dict(module.named_parameters())).double()


def unit(size, *, seed):
    direction = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return direction / direction.norm()


@pytest.fixture
def base():
    return model()


def pair(base):
    size = Layout.of(base).size
    return torch.stack([unit(size, seed=1), unit(size, seed=2)])


def test_centre_is_bitwise_the_model_with_its_buffers_everywhere(base):
    bridge = slice_bridge(base, pair(base))
    for point in ((0.0, 0.0), (0.3, -2.0), (1.0, 0.0)):
        there = bridge.at(point)
        assert all(torch.equal(one, two) for one, two in zip(base.buffers(), there.buffers(), strict=True))
    assert all(torch.equal(v, base.state_dict()[k]) for k, v in bridge.at((0.0, 0.0)).state_dict().items())
    assert bridge.at((0.0, 0.0)) is not base
    straight = slice_bridge(base, pair(base)[:1])
    assert straight.basis.dim == 1
    assert torch.equal(weights(straight.at(0.0)), weights(base))


@pytest.mark.parametrize("scale", [1e-4, 0.01, 1.0, 300.0])
def test_small_and_large_steps_are_those_of_float64(base, scale):
    """The model at (a, b) is the exact point rounded once: no weight is off by more than half a unit in its last place."""
    directions, theta = pair(base), weights(base)
    bridge = slice_bridge(base, directions)
    for a, b in ((scale, 0.0), (scale, -scale), (-scale / 3, scale / 7)):
        exact = theta + a * directions[0] + b * directions[1]
        # One rounding of the control points to 53 bits before the one to 24 bits.
        room = 0.5001 * torch.finfo(torch.float32).eps * exact.abs() + 1e-12 * scale
        assert bool(((weights(bridge.at((a, b))) - exact).abs() <= room).all())
    moved = weights(bridge.at((0.01, 0.0))) - theta
    assert float(moved @ directions[0]) == pytest.approx(0.01, rel=1e-5)


def test_nothing_of_the_callers_is_touched(base):
    before, state = deepcopy(base.state_dict()), torch.random.get_rng_state()
    base.train()
    random_directions(base, 2, generator=torch.Generator().manual_seed(0))
    slice_bridge(base, pair(base)).at((1.0, 1.0))
    plane_directions([base, model(1), model(2)])
    assert all(torch.equal(v, before[k]) for k, v in base.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert base.training
    assert all(p.requires_grad and p.grad is None for p in base.parameters())


def parts(base, direction):
    layout = Layout.of(base)
    return zip(layout.names, layout.unflatten(direction).values(), base.parameters(), strict=True)


@pytest.mark.parametrize("orthogonal", [False, True])
def test_filters_get_the_models_norms_and_single_axes_are_zero(base, orthogonal):
    generator = torch.Generator().manual_seed(3)
    directions = random_directions(base, 2, generator=generator, orthogonal=orthogonal)
    for direction in directions:
        for name, part, own in parts(base, direction):
            if own.ndim == 1:
                assert not part.any(), name
            else:
                norms = [tensor.double().flatten(1).norm(dim=1) for tensor in (part, own.detach())]
                torch.testing.assert_close(*norms, rtol=1e-12, atol=0)
    cosine = float(directions[0] @ directions[1] / directions[0].norm() / directions[1].norm())
    assert (abs(cosine) < 1e-12) == orthogonal


def test_filter_directions_are_the_published_formula(base):
    """Li et al. 2018: d_ij / ||d_ij|| ||theta_ij|| on a Gaussian d, here computed filter by filter from the same draws."""
    found = random_directions(base, 1, generator=torch.Generator().manual_seed(5))[0]
    layout = Layout.of(base)
    drawn = torch.randn(layout.size, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    for name, part in layout.unflatten(drawn).items():
        own = dict(base.named_parameters())[name].detach().double()
        if own.ndim > 1:
            for i in range(len(own)):
                part[i] *= own[i].norm() / part[i].norm()
        else:
            part.zero_()
    torch.testing.assert_close(found, drawn, rtol=1e-13, atol=0)


def test_layers_and_the_whole_are_scaled_as_named(base):
    layer = random_directions(base, 1, generator=torch.Generator().manual_seed(0), normalise="layer")[0]
    for _, part, own in parts(base, layer):
        if own.ndim > 1:
            assert float(part.norm()) == pytest.approx(float(own.detach().double().norm()))
    whole = random_directions(base, 2, generator=torch.Generator().manual_seed(0), normalise="global", orthogonal=True)
    torch.testing.assert_close(whole @ whole.T, torch.eye(2, dtype=torch.float64))
    assert any(bool(part.any()) for _, part, own in parts(base, whole[0]) if own.ndim == 1)


def test_what_the_owner_froze_and_filters_of_zero_do_not_move(base):
    first = next(p for p in base.parameters() if p.ndim > 1)
    first.requires_grad_(False)
    last = [p for p in base.parameters() if p.ndim > 1][-1]
    with torch.no_grad():
        last[0].zero_()
    found = dict(zip(base.parameters(), Layout.of(base).unflatten(_filter(base)).values(), strict=True))
    assert not found[first].any()
    assert not found[last][0].any()
    assert bool(found[last][1].any())


def _filter(base):
    return random_directions(base, 1, generator=torch.Generator().manual_seed(0))[0]


def test_single_weights_cannot_be_orthogonal():
    tiny = nn.Sequential(nn.Linear(1, 3), nn.Linear(3, 1))
    directions = random_directions(tiny, 2, generator=torch.Generator().manual_seed(0), orthogonal=True)
    own = Layout.of(tiny).unflatten(directions[1])
    assert not own["0.weight"].any()
    assert float(own["1.weight"].norm()) == pytest.approx(float(tiny[1].weight.detach().norm()))
    assert float(directions[0] @ directions[1]) == pytest.approx(0, abs=1e-12)


def test_seeds_draw_different_directions_and_one_seed_the_same(base):
    first, again, other = (random_directions(base, 1, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_plane_agrees_with_the_gram_matrix_and_holds_the_models():
    models = [model(seed) for seed in range(3)]
    axes = plane_directions(models)
    torch.testing.assert_close(axes.directions @ axes.directions.T, torch.eye(2, dtype=torch.float64))
    expected = gram_plane(simplex(models), (0, 1, 2)).coordinates
    torch.testing.assert_close(axes.coordinates, expected, rtol=1e-9, atol=1e-9)
    bridge = slice_bridge(models[0], axes.directions)
    for one, point in zip(models, axes.coordinates, strict=True):
        there = weights(bridge.at(point))
        torch.testing.assert_close(there, weights(one), rtol=2e-7, atol=1e-9)
        found = project(bridge, weights(one)[None])
        torch.testing.assert_close(found.coordinates[0], point, rtol=1e-9, atol=1e-9)
        assert float(found.residual[0]) < 1e-9


def test_plane_needs_three_models_off_one_line():
    a, b = model(0), model(1)
    with pytest.raises(InputError, match=r"`models` should be three to span a plane. Found 2"):
        plane_directions([a, b])
    with pytest.raises(InputError, match=r"`model 3` should differ from model 1 to span a plane. Found the same"):
        plane_directions([a, b, a])
    middle = line([a, b]).at(0.3)
    with pytest.raises(InputError, match=r"`models` should span a plane. Found A, B and C on one line. Give another"):
        plane_directions([a, b, middle], names=("A", "B", "C"))
    with pytest.raises(InputError, match="like `model 1`"):
        plane_directions([a, b, model(0, width=3)])


def test_tangents_are_orthonormal_and_those_of_finite_differences():
    generator = torch.Generator().manual_seed(0)
    for bridge, u in ((bezier([model(0), model(1)], 3), (0.3,)), (surface([model(i) for i in range(4)]), (0.3, 0.6))):
        bent = bridge.with_free(bridge.free + 0.1 * torch.randn(bridge.free.shape, generator=generator))
        axes = tangent_directions(bent, u)
        torch.testing.assert_close(axes @ axes.T, torch.eye(len(u), dtype=torch.float64))
        points, step = bent.points.double(), 1e-5
        for i in range(len(u)):
            ends = [
                bent.basis(bent.coordinates([v + s * step * (i == k) for k, v in enumerate(u)])) @ points
                for s in (1, -1)
            ]
            slope = (ends[0] - ends[1]) / (2 * step)
            inside = axes.T @ (axes @ slope)
            torch.testing.assert_close(inside, slope, rtol=1e-6, atol=1e-7)
            assert i or float(axes[0] @ slope / slope.norm()) == pytest.approx(1)
            assert float(axes[i] @ slope) > 0


def test_tangents_need_a_direction():
    a = model(0)
    with pytest.raises(InputError, match=r"`tangent` should be no zero vectors. Found lengths \[0.0\]"):
        tangent_directions(line([a, deepcopy(a)]), 0.5)
    with pytest.raises(InputError, match=r"`tangent` should span a plane. Found two that are parallel"):
        tangent_directions(simplex([a, model(1), line([a, model(1)]).at(0.5)]), (0.2, 0.2))
    with pytest.raises(InputError, match=r"`bridge` should be a curve or a surface .* Found 3 coordinates"):
        tangent_directions(simplex([model(i) for i in range(4)]), (0.1, 0.1, 0.1))


def test_projection_is_least_squares_with_the_distance_that_is_left(base):
    directions = pair(base) * torch.tensor([[2.0], [0.5]], dtype=torch.float64)
    bridge = slice_bridge(base, directions)
    outside = unit(directions.shape[1], seed=9)
    q = torch.linalg.qr(directions.T).Q
    outside = outside - q @ (q.T @ outside)
    outside = outside / outside.norm()
    thetas = torch.stack([weights(base) + 0.3 * directions[0] - 1.5 * directions[1] + 0.7 * outside, weights(base)])
    found = project(bridge, thetas)
    expected = torch.tensor([[0.3, -1.5], [0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(found.coordinates, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.residual, torch.tensor([0.7, 0.0], dtype=torch.float64), rtol=1e-10, atol=1e-10)
    with pytest.raises(InputError, match=r"`thetas` should have shape \(m, "):
        project(bridge, thetas[0])
    with pytest.raises(InputError, match=r"`bridge` should be a slice, as `slice_bridge` makes it. Found Bernstein"):
        project(line([base, model(1)]), thetas)


def test_principal_directions_of_a_planar_trajectory(base):
    directions = torch.linalg.qr(pair(base).T).Q.T
    steps = torch.tensor([[3.0, 0.0], [2.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    found = principal_directions(base, weights(base) + steps @ directions)
    assert found.shares == pytest.approx((13 / 14, 1 / 14))
    for one, two in zip(found.directions, directions, strict=True):
        assert abs(float(one @ two)) == pytest.approx(1)
    one = principal_directions(base, weights(base) + steps @ directions, 1)
    assert one.directions.shape == (1, directions.shape[1])
    with pytest.raises(InputError, match=r"`trajectory` should span 2 direction\(s\) from the model. Found 1"):
        principal_directions(base, weights(base) + steps[:2] @ directions)
    with pytest.raises(InputError, match=r"`trajectory` should span 2 .* Found 0"):
        principal_directions(base, weights(base)[None])
    with pytest.raises(InputError, match=r"`thetas` should have shape"):
        principal_directions(base, steps)


def test_bad_directions_are_refused(base):
    good = pair(base)
    with pytest.raises(InputError, match=r"`directions` should have shape \(1 or 2, \d+\), the model's weights"):
        slice_bridge(base, good[:, 1:])
    with pytest.raises(InputError, match=r"`directions` should be no zero vectors"):
        slice_bridge(base, good * torch.tensor([[1.0], [0.0]], dtype=torch.float64))
    with pytest.raises(InputError, match=r"`directions` should span a plane. Found two that are parallel"):
        slice_bridge(base, torch.stack([good[0], -3 * good[0]]))
    with pytest.raises(InputError, match=r"`directions` should hold finite numbers"):
        slice_bridge(base, good * torch.nan)
    with pytest.raises(InputError, match=r"`normalise` should be one of filter, global, layer. Found 'filtr'. Did you"):
        random_directions(base, 1, generator=torch.Generator(), normalise="filtr")
    with pytest.raises(InputError, match=r"`count` should be at least 1. Found 0"):
        random_directions(base, 0, generator=torch.Generator())
    with pytest.raises(InputError, match=r"`model` should have weights for 1 direction\(s\) to move. Found none"):
        random_directions(base.requires_grad_(False), 1, generator=torch.Generator())
    with torch.no_grad():
        next(base.parameters())[0] = torch.nan
    with pytest.raises(InputError, match=r"`model` should hold finite numbers"):
        slice_bridge(base, good)
