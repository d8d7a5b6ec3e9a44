"""Bridges start flat, in the order of their corners, and refuse what does not fit together."""

import pytest
import torch
from torch import Tensor, nn

from contracts.bridge import Vector
from contracts.modules import odd_module
from isthmus._check import InputError
from isthmus.geometry.bases import Basis, Bernstein, Chain, Product
from isthmus.geometry.build import GEOMETRIES, bezier, chain, connect, line, parse_geometry, plane, simplex, surface
from isthmus.geometry.flat import Affine, Barycentric
from isthmus.geometry.simplexes import Complex, Triangle


def vectors(count: int, size: int = 6) -> list[nn.Module]:
    generator = torch.Generator().manual_seed(0)
    return [Vector(torch.randn(size, dtype=torch.float64, generator=generator)) for _ in range(count)]


def values(model: nn.Module) -> Tensor:
    return next(model.parameters()).detach()


@pytest.mark.parametrize(
    "make", [line, lambda m: bezier(m, 5), lambda m: chain(m, 3), lambda m: connect(m, Chain(3, (0.0, 0.2, 1.0)))]
)
def test_curves_start_as_the_straight_segment(make) -> None:
    models = vectors(2)
    bridge = make(models)
    a, b = (values(model) for model in models)
    for t in (0.0, 0.1, 0.5, 0.77, 1.0):
        torch.testing.assert_close(bridge.theta(t), a + t * (b - a), rtol=1e-12, atol=1e-12)
    assert len(bridge.fixed) == 2


@pytest.mark.parametrize(
    "make", [surface, lambda m: surface(m, (3, 1)), lambda m: connect(m, Product(Chain(3), Bernstein(2)))]
)
def test_surfaces_start_as_the_bilinear_patch(make) -> None:
    models = vectors(4)
    bridge = make(models)
    a, b, c, d = (values(model) for model in models)
    for u, v in ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (0.25, 0.6), (0.5, 0.5)):
        expected = (1 - u) * (1 - v) * a + (1 - u) * v * b + u * (1 - v) * c + u * v * d
        torch.testing.assert_close(bridge.theta((u, v)), expected, rtol=1e-12, atol=1e-12)


def test_a_prism_over_a_simplex_starts_flat() -> None:
    models = vectors(6)
    bridge = connect(models, Product(Bernstein(3), Barycentric(3)))
    expected = sum(w * values(m) for w, m in zip([0.18, 0.06, 0.06, 0.42, 0.14, 0.14], models, strict=True))
    torch.testing.assert_close(bridge.theta((0.7, 0.2, 0.2)), expected, rtol=1e-12, atol=1e-12)


def test_a_triangle_starts_flat_and_connectors_at_the_mean() -> None:
    models = vectors(3)
    a, b, c = (values(model) for model in models)
    found = connect(models, Triangle(3)).theta((0.5, 0.2))
    torch.testing.assert_close(found, 0.3 * a + 0.5 * b + 0.2 * c, rtol=1e-12, atol=1e-12)
    grown = connect(models, Complex(3, 2))
    assert len(grown.fixed) == 3
    for row in grown.free:
        torch.testing.assert_close(row, (a + b + c) / 3)
    assert torch.equal(connect(models[:1], Complex(1, 2)).free, torch.stack([a, a]))


def test_simplex_and_plane_have_no_free_points() -> None:
    models = vectors(3)
    for bridge in (simplex(models), plane(models)):
        assert len(bridge.free) == 0
        for u, model in zip([(0.0, 0.0), (1.0, 0.0), (0.0, 1.0)], models, strict=True):
            assert torch.equal(bridge.theta(u), values(model))
    middle = sum(values(m) for m in models) / 3
    torch.testing.assert_close(simplex(models).theta((1 / 3, 1 / 3)), middle)


def test_names_stay_with_their_models() -> None:
    assert bezier(vectors(2)).names == ("model 0", "model 1")
    assert connect(vectors(2), Chain(3), names=("left", "right")).names == ("left", "right")
    with pytest.raises(InputError, match=r"`names` should be 2, one per model\. Found \('left',\)\."):
        connect(vectors(2), Chain(3), names=("left",))


@pytest.mark.parametrize(("make", "count"), [(line, 3), (bezier, 1), (chain, 0), (surface, 3)])
def test_the_number_of_models_is_checked(make, count: int) -> None:
    need = 4 if make is surface else 2
    with pytest.raises(InputError, match=rf"`models` should be {need}, one per corner of the basis\. Found {count}\."):
        make(vectors(count))


def test_models_of_another_architecture_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"`model 1` should have 'values' like `model 0`: \(6,\) torch\.float64\. Found \(7,\)"
    ):
        line([*vectors(1), *vectors(1, 7)])
    untied = odd_module(1)
    untied.outward.weight = nn.Parameter(untied.outward.weight.detach().clone())
    with pytest.raises(
        InputError, match=r"`tied` should have the tensors of `untied`\. Found no tensor 'outward\.weight'"
    ):
        connect([odd_module(0), untied], Bernstein(1), names=("tied", "untied"))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    model = odd_module(1)
    with torch.no_grad():
        model.head.weight[0, :2] = bad
    with pytest.raises(
        InputError,
        match=r"`model 1` should hold finite numbers\. Found 2 NaN or infinite values of 60 in tensor 'head\.weight'",
    ):
        line([odd_module(0), model])
    model = odd_module(0)
    model.norm.running_var[3] = bad
    with pytest.raises(
        InputError, match=r"`model 0` should hold finite numbers\. Found 1 .* in tensor 'norm\.running_var'"
    ):
        line([model, odd_module(1)])


class WithExtras(nn.Module):
    """Has state that is no tensor, and a mask that is infinite by design."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]), persistent=False)

    def get_extra_state(self) -> dict[str, str]:
        return {"vocabulary": "abc"}

    def set_extra_state(self, state: dict[str, str]) -> None:
        assert state == {"vocabulary": "abc"}


def test_state_that_is_no_tensor_and_infinite_masks_are_no_obstacle() -> None:
    bridge = line([WithExtras(), WithExtras()])
    assert bridge.at(1).mask.tolist() == [0, -torch.inf]


@pytest.mark.parametrize(
    ("text", "models", "basis"),
    [
        ("line", 2, Bernstein(1)),
        ("bezier", 2, Bernstein(2)),
        ("bezier:", 2, Bernstein(2)),
        ("bezier:5", 2, Bernstein(5)),
        ("chain", 2, Chain(3)),
        ("chain:0", 2, Chain(2)),
        ("chain:3", 2, Chain(5)),
        ("surface", 4, Product(Bernstein(2), Bernstein(2))),
        ("surface:1x3", 4, Product(Bernstein(1), Bernstein(3))),
        ("simplex", 5, Barycentric(5)),
        ("simplex:4", 1, Complex(1, 3)),
        ("complex", 3, Complex(3, 2)),
        ("complex:1", 2, Complex(2, 1)),
        ("star", 4, Complex(4, 1)),
        ("triangle", 3, Triangle(2)),
        ("triangle:3", 3, Triangle(3)),
        ("neb", 2, Chain(5)),
        ("neb:1", 2, Chain(3)),
        ("llpf:30", 2, Chain(2)),
        ("plane", 3, Affine(3)),
    ],
)
def test_geometry_texts(text: str, models: int, basis: Basis) -> None:
    assert parse_geometry(text, models) == basis
    assert text.partition(":")[0] in GEOMETRIES


@pytest.mark.parametrize(
    ("text", "models", "message"),
    [
        ("bezir", 2, r"`geometry` should be one of bezier, chain, .*\. Found 'bezir'\. Did you mean 'bezier'\?"),
        (
            "bezier:two",
            2,
            r"`geometry` should be Bezier curve between two models, `bezier:DEGREE` .* Found 'bezier:two'\.",
        ),
        ("bezier:-1", 2, r"Found 'bezier:-1'\."),
        ("line:3", 2, r"`geometry` should be straight segment between two models\. Found 'line:3'\."),
        ("surface:2", 4, r"`surface:DEGREExDEGREE`.* Found 'surface:2'\."),
        ("simplex:3", 3, r"'simplex:3' joins 1\. Found 3\. For several models take `complex:CONNECTORS`\."),
        ("simplex:1", 1, r"`geometry` should name 2 vertices or more\. Found simplex:1\."),
        ("complex:2", 1, r"`geometry` should join two models or more: 'complex:2' does\. Found 1\."),
        ("complex:0", 2, r"`connectors` should be at least 1\. Found 0\."),
        ("neb:0", 2, r"`geometry` should name 1 pivot or more\. Found neb:0\."),
        ("star:2", 2, r"`geometry` should be straight lines from one trained point to every model\. Found 'star:2'\."),
        ("triangle", 4, r"`geometry` should fit the number of models: 'triangle' joins 3\. Found 4\."),
        ("plane", 1, r"`geometry` should join two models or more: a plane does\. Found 1\."),
        ("bezier:0", 2, r"`degree` should be at least 1\. Found 0\."),
        ("bezier", 3, r"`geometry` should fit the number of models: 'bezier' joins 2\. Found 3\."),
        ("surface", 2, r"`geometry` should fit the number of models: 'surface' joins 4\. Found 2\."),
        ("simplex", 1, r"how many vertices to grow from one model: `simplex:4`\. Found simplex\."),
    ],
)
def test_geometry_texts_that_name_nothing(text: str, models: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_geometry(text, models)
