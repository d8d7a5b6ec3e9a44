"""Bridges against their contract: exact corners, independent points, the polynomial in between and beyond."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from contracts.bridge import Vector, check_bridge, drawn, through
from contracts.modules import assert_same_bits, bits, odd_module, of_three_kinds, seeded, tensors_of, untouched
from isthmus._check import InputError
from isthmus.geometry.bases import Basis, Bernstein, Chain, Product
from isthmus.geometry.bridge import Bridge, mix, write
from isthmus.geometry.build import bezier, connect, line, plane, single
from isthmus.geometry.flat import Affine, Barycentric
from isthmus.geometry.simplexes import Complex, Triangle

BASES = [Bernstein(1), Bernstein(3), Chain(4), Barycentric(3), Affine(4), Product(Bernstein(2), Bernstein(1))]
BASES += [Triangle(3), Complex(1, 2), Complex(3, 1)]


@pytest.mark.parametrize("basis", BASES, ids=str)
def test_contract(basis: Basis) -> None:
    check_bridge(odd_module, basis)


@pytest.mark.parametrize("basis", [Bernstein(2), Product(Chain(3), Bernstein(2))], ids=str)
def test_contract_with_weights_of_three_kinds(basis: Basis) -> None:
    check_bridge(of_three_kinds, basis)


def test_corners_answer_as_the_models_do() -> None:
    models = [odd_module(seed).eval() for seed in range(2)]
    bridge = bezier(models)
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for t, model in ((0.0, models[0]), (1.0, models[1])):
        assert torch.equal(bridge.at(t)(x), model(x))
    assert not torch.equal(bridge.at(0.5)(x), models[0](x))


def test_signs_of_zero_and_odd_numbers_survive_at_corners() -> None:
    values = torch.tensor([-0.0, 0.0, 1e-45, -3.4e38])
    models = [Vector(values), Vector(-values)]
    bridge = line(models)
    assert torch.equal(bits(bridge.theta(0)), bits(values))
    assert torch.equal(bits(bridge.theta(1)), bits(-values))


def test_a_diverged_free_point_leaves_the_corners_finite() -> None:
    models = [odd_module(seed) for seed in range(2)]
    bridge = bezier(models, 3)
    for poison in (torch.inf, -torch.inf, torch.nan):
        diverged = bridge.with_free(torch.full_like(bridge.free, poison))
        for t, model in ((0.0, models[0]), (1.0, models[1])):
            assert_same_bits(tensors_of(diverged.at(t)), tensors_of(model))
        assert not torch.isfinite(diverged.theta(0.5)).any()


def test_callers_models_and_the_bridge_do_not_share_memory() -> None:
    models = [odd_module(seed) for seed in range(2)]
    with seeded(0):
        models[0](torch.rand(4, 3, 8, 8)).sum().backward()
    models[1].eval()
    with untouched(*models):
        bridge = bezier(models)
        bridge.at(0.5, settle=lambda module: module.requires_grad_(False).eval())
    kept, middle = tensors_of(models[0]), tensors_of(bridge.at(0.5))
    for model in models:
        with torch.no_grad():
            for tensor in [*model.parameters(), *model.buffers()]:
                tensor.zero_()
    assert_same_bits(tensors_of(bridge.at(0)), kept, "corner after its model changed")
    assert_same_bits(tensors_of(bridge.at(0.5)), middle, "middle after the models changed")
    assert all(parameter.grad is None for parameter in bridge.at(0).parameters())


def test_later_changes_of_a_callers_model_do_not_reach_the_bridge() -> None:
    """Not only its weights: modes, frozen weights and whole layers."""
    for make in (lambda model: bezier([model, odd_module(1)]), single):
        model = odd_module(0)
        bridge = make(model)
        model.eval().requires_grad_(False)
        model.head = nn.Identity()
        point = bridge.at(bridge.basis.corners[0][0])
        assert point.training
        assert point.norm.training
        assert all(parameter.requires_grad for parameter in point.parameters())
        assert isinstance(point.head, nn.Linear)


def test_points_are_ordinary_modules() -> None:
    point = bezier([odd_module(0), odd_module(1)]).at(0.3)
    with seeded(0):
        point.train()(torch.rand(4, 3, 8, 8)).sum().backward()
    assert all(p.is_leaf and p.grad is not None for p in point.parameters())
    assert point.inward.weight is point.outward.weight


def test_interior_points_have_the_buffers_of_the_heaviest_corner() -> None:
    models = [odd_module(seed) for seed in range(3)]
    bridge = connect(models, Barycentric(3))
    for u, index in (((0.2, 0.3), 0), ((0.6, 0.3), 1), ((0.1, 0.8), 2)):
        own = dict(bridge.at(u).named_buffers())
        for name, buffer in models[index].named_buffers():
            assert torch.equal(own[name], buffer), name


def test_settle_acts_on_points_that_are_no_model() -> None:
    seen: list[nn.Module] = []
    bridge = connect([odd_module(0), odd_module(1)], Chain(3))
    for t in (0.0, 0.2, 0.5, 1.0):
        bridge.at(t, settle=seen.append)
    assert len(seen) == 2  # 0.2 and the bend, which is no given model


@pytest.mark.parametrize("t", [1.2, -0.3, 3.0])
def test_beyond_the_ends_the_polynomial_goes_on(t: float) -> None:
    bridge = drawn(Bernstein(2))
    a, b, c = bridge.points
    expected = a + 2 * t * (b - a) + t**2 * (a - 2 * b + c)  # in powers of t
    torch.testing.assert_close(bridge.theta(t), expected, rtol=1e-12, atol=1e-12)
    straight = drawn(Chain(3))
    last = straight.points[:2] if t < 0 else straight.points[1:]
    share = 2 * t if t < 0 else 2 * t - 1
    torch.testing.assert_close(straight.theta(t), last[0] + share * (last[1] - last[0]), rtol=1e-12, atol=1e-12)


def test_a_plane_reaches_everywhere() -> None:
    models = [Vector(torch.tensor(v)) for v in ([1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0])]
    assert plane(models).theta((2.0, -4.0)).tolist() == [3, 2, -4]


def test_mix_weights_and_skips() -> None:
    bridge = through(torch.tensor([[1.0, 2.0], [torch.inf, torch.nan], [10.0, 20.0]]), Chain(3))
    out = torch.full((2,), 9.0)
    assert mix(bridge, (0.5, 0.0, 0.5), out) is out
    assert out.tolist() == [5.5, 11.0]
    assert mix(bridge, (0.0, 0.0, 1.0), out).tolist() == [10.0, 20.0]


def test_write_fills_a_copy_in_place() -> None:
    models = [odd_module(0), odd_module(1)]
    bridge = line(models)
    module = bridge.at(0.0)
    places = [parameter.data_ptr() for parameter in module.parameters()]
    for t in (1.0, 0.4, 0.0):
        write(bridge, module, t)
        assert_same_bits(tensors_of(module), tensors_of(bridge.at(t)), f"written at {t}")
    assert [parameter.data_ptr() for parameter in module.parameters()] == places


def test_points_and_rows_are_in_the_order_of_the_basis() -> None:
    bridge = drawn(Product(Bernstein(2), Bernstein(2)))
    assert bridge.fixed_index == (0, 2, 6, 8)
    assert bridge.free_index == (1, 3, 4, 5, 7)
    for index in range(9):
        assert torch.equal(bridge.row(index), bridge.points[index])
        weights = [0.0] * 9
        weights[index] = 1.0
        assert torch.equal(mix(bridge, weights, torch.empty(40, dtype=torch.float64)), bridge.points[index])
    assert bridge.corner((0.0, 1.0)) == 2
    assert bridge.corner((0.0, 0.5)) is None
    assert sum(bridge.weights((0.3, 0.6))) == pytest.approx(1, abs=1e-15)


def test_with_free_shares_what_is_fixed() -> None:
    bridge = drawn(Bernstein(3))
    other = bridge.with_free(bridge.free + 1, states={0: {}})
    assert other.fixed.data_ptr() == bridge.fixed.data_ptr()
    assert other.states == {0: {}}
    assert bridge.with_free(bridge.free).states is bridge.states
    assert torch.equal(other.points[1:3], bridge.points[1:3] + 1)


def test_one_point_is_a_bridge() -> None:
    model = odd_module(0)
    with untouched(model):
        bridge = single(model)
    assert_same_bits(tensors_of(bridge.at(())), tensors_of(model))
    assert bridge.fixed_index == ()
    assert bridge.corner(()) == 0


@pytest.mark.parametrize(
    ("u", "message"),
    [
        ((0.5, 0.5), r"`u` should have 1 coordinate\(s\)\. Found \[0\.5, 0\.5\]\."),
        (torch.zeros(1, 1), r"`u` should have 1 coordinate\(s\)\. Found \[\[0\.0\]\]\."),
        (float("nan"), r"`u` should be finite\. Found \[nan\]\."),
        (float("inf"), r"`u` should be finite\. Found \[inf\]\."),
    ],
)
def test_coordinates_are_checked(u, message: str) -> None:
    bridge = drawn(Bernstein(2))
    for use in (bridge.theta, bridge.at, bridge.weights, bridge.corner):
        with pytest.raises(InputError, match=message):
            use(u)


def test_construction_is_checked() -> None:
    bridge = drawn(Bernstein(2))
    with pytest.raises(InputError, match=r"`points` should have one row per weight of the basis, 4\. Found 3\."):
        replace(bridge, basis=Bernstein(3))
    for wrong in ((0, 0), (0, 3), (0,)):
        with pytest.raises(
            InputError, match=r"`fixed_index` should name 2 different control points below 3\. Found \(0"
        ):
            replace(bridge, fixed_index=wrong)
    with pytest.raises(InputError, match=r"`free` should have shape \(1, 40\)\. Found \(2, 40\)\."):
        bridge.with_free(torch.zeros(2, 40))


class Sharing(nn.Module):
    """Keeps a class-wide tensor, which even copies share: the contract has to see it."""

    pool = torch.zeros(3)

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((3,), float(seed)))

    def __deepcopy__(self, memo: dict[int, object]) -> "Sharing":
        return self


def test_the_contract_sees_shared_memory() -> None:
    with pytest.raises(AssertionError):
        check_bridge(Sharing, Bernstein(2))


def test_the_contract_sees_a_corner_that_is_not_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Bridge.theta
    monkeypatch.setattr(Bridge, "theta", lambda self, u: real(self, u) + 0.0)  # -0.0 becomes 0.0, nothing else changes
    with pytest.raises(AssertionError, match=r"scale 0 float32 corner"):
        check_bridge(lambda seed: Vector(torch.randn(5, generator=torch.Generator().manual_seed(seed))), Bernstein(2))
