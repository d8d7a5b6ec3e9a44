"""Scans: one row per point, each as if it were scanned alone."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

from contracts.bridge import Vector
from contracts.modules import bits, odd_module, untouched
from isthmus._check import InputError
from isthmus.data import Samples
from isthmus.geometry.bases import Basis, Bernstein, Chain, Product
from isthmus.geometry.bridge import Bridge
from isthmus.geometry.build import bezier, connect, line, simplex, single, surface
from isthmus.geometry.flat import Affine, Barycentric
from isthmus.probes import Clean, Distance
from isthmus.rates import wilson
from isthmus.scan import Row, Watch, coordinate_names, grid, scan
from isthmus.settle import BatchStatistics, Keep, Recalibrate
from isthmus.table import Column, Table


def images(count: int = 20) -> Samples:
    x = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return Samples(x, torch.arange(count) % 5, 5, "drawn/test")


def vectors(count: int) -> list[nn.Module]:
    generator = torch.Generator().manual_seed(0)
    return [Vector(torch.randn(6, dtype=torch.float64, generator=generator)) for _ in range(count)]


@dataclass(frozen=True)
class Noise:
    """One number from the generator, and how often it was asked."""

    name: str = "noise"
    calls: list[float] = field(default_factory=list)

    @property
    def columns(self) -> tuple[Column, ...]:
        return (Column(self.name, "nat", "lower", "test", 7, "drawn"),)

    def __call__(self, model: nn.Module, *, generator: torch.Generator) -> Mapping[str, float]:
        value = torch.rand((), dtype=torch.float64, generator=generator).item()
        self.calls.append(value)
        return {self.name: value}


@dataclass(frozen=True)
class Sum:
    """The sum of the weights, to tell points apart."""

    @property
    def columns(self) -> tuple[Column, ...]:
        return (Column("sum", "1"),)

    def __call__(self, model: nn.Module, *, generator: torch.Generator) -> Mapping[str, float]:
        return {"sum": sum(float(p.detach().double().sum()) for p in model.parameters())}


@dataclass(frozen=True)
class Statistics:
    """The first running mean and the sum of an integer buffer of an odd module."""

    @property
    def columns(self) -> tuple[Column, ...]:
        return (Column("mean", "1"), Column("kept", "1"))

    def __call__(self, model: nn.Module, *, generator: torch.Generator) -> Mapping[str, float]:
        held = dict(model.named_buffers())
        return {"mean": float(held["norm.running_mean"][0]), "kept": float((held["keep"] * torch.arange(16)).sum())}


def assert_same(one: Table, two: Table) -> None:
    assert one.columns == two.columns
    assert one.rows() == two.rows()
    assert one.meta == two.meta


def odd_bridge() -> Bridge:
    return bezier([odd_module(0), odd_module(1)])


def test_a_scan_of_many_points_is_many_scans_of_one() -> None:
    bridge, settle = odd_bridge(), Recalibrate(images(), batch_size=10)
    probes = [Clean(images()), Statistics(), Noise()]
    points = [0.0, 0.3, 0.5, 0.7, 1.0, 1.2]
    whole = scan(bridge, points, probes, settle=settle, seed=3)
    alone = [scan(bridge, [t], probes, settle=settle, seed=3).rows()[0] for t in reversed(points)]
    assert whole.rows() == alone[::-1]
    assert len({row["noise"] for row in whole.rows()}) == 6
    assert_same(whole, scan(bridge, points, probes, settle=settle, seed=3))
    other = scan(bridge, points, probes, settle=settle, seed=4)
    assert whole.values("noise") != other.values("noise")
    assert whole.values("test_loss") == other.values("test_loss")


@pytest.mark.parametrize("stop", [0, 1, 3, 5])
def test_a_resumed_scan_is_the_uninterrupted_one(stop: int) -> None:
    bridge, settle, points = odd_bridge(), Recalibrate(images(), batch_size=10), [0.0, 0.1, 0.5, 1 / 3, 1.0]

    class InterruptedHereError(Exception):
        pass

    rows: list[Row] = []

    def note(row: Row) -> None:
        rows.append(row)
        if len(rows) == stop:
            raise InterruptedHereError

    if stop:
        with pytest.raises(InterruptedHereError):
            scan(bridge, points, [Clean(images()), Noise()], settle=settle, watch=Watch(note))
    assert len(rows) == stop
    done, late, noise = list(rows), list[Row](), Noise()
    resumed = scan(bridge, points, [Clean(images()), noise], settle=settle, watch=Watch(late.append, done))
    assert_same(resumed, scan(bridge, points, [Clean(images()), Noise()], settle=settle))
    assert len(noise.calls) == len(late) == 5 - stop
    assert [row["t"] for row in late] == points[stop:]


def test_rows_that_are_done_are_taken_as_they_are() -> None:
    table = scan(line(vectors(2)), [0.0, 0.5], [Sum()], settle=None, watch=Watch(print, [{"t": 0.5, "sum": 77.0}]))
    assert table.values("sum")[1] == 77
    assert table.values("sum")[0] != 77


def test_columns_say_unit_split_and_count_and_rates_have_bounds() -> None:
    data = images(20)
    table = scan(odd_bridge(), [0.0, 0.5], [Clean(data), Noise()], settle=Keep())
    assert table.names == ("t", "test_loss", "test_error", "test_error_low", "test_error_high", "noise")
    assert [column.unit for column in table.columns] == ["1", "nat", "%", "%", "%", "nat"]
    assert table.column("t") == Column("t", "1", None, None, None, "coordinate on the bridge")
    assert (table.column("test_error").n, table.column("test_error").split) == (20, "test")
    for row in table.rows():
        low, high = wilson(row["test_error"] / 100, 20)
        assert (row["test_error_low"], row["test_error_high"]) == (pytest.approx(100 * low), pytest.approx(100 * high))
    assert table.meta == {"seed": 0, "settle": "Keep"}
    assert scan(line(vectors(2)), [0.5], [Sum()], settle=None, seed=9).meta == {"seed": 9, "settle": None}


def test_probes_see_the_point() -> None:
    models = vectors(2)
    a, b = (float(m.values.detach().sum()) for m in models)
    found = scan(line(models), [0.0, 0.25, 1.0, 2.0], [Sum(), Distance(models[0])], settle=None)
    assert found.values("sum") == pytest.approx([a, 0.75 * a + 0.25 * b, b, 2 * b - a])
    chord = float((models[1].values - models[0].values).detach().norm())
    assert found.values("distance_reference") == pytest.approx([0, chord / 4, chord, 2 * chord])


def test_corners_keep_their_own_statistics_and_the_others_are_settled() -> None:
    models = [odd_module(0), odd_module(1)]
    seen: list[float] = []

    def settle(module: nn.Module) -> None:
        seen.append(1.0)
        module.norm.running_mean.fill_(-5)

    bridge = connect(models, Chain(3))
    found = scan(bridge, [0.5, 0.0, 0.4, 1.0, 0.6], [Statistics()], settle=settle)
    one, two = (float(m.norm.running_mean[0]) for m in models)
    assert found.values("mean") == [-5, one, -5, two, -5]
    kept = [float((m.keep * torch.arange(16)).sum()) for m in models]
    assert kept[0] != kept[1]
    assert found.values("kept") == [kept[0], kept[0], kept[0], kept[1], kept[1]]
    assert len(seen) == 3


def test_recalibration_equals_that_of_the_point() -> None:
    bridge, settle = odd_bridge(), Recalibrate(images())
    point = bridge.at(0.4, settle=settle)
    expected = Clean(images())(point)
    found = scan(bridge, [0.4], [Clean(images())], settle=settle).rows()[0]
    assert {name: found[name] for name in expected} == expected
    unsettled = scan(bridge, [0.4], [Clean(images())], settle=Keep()).rows()[0]
    assert unsettled["test_loss"] != found["test_loss"]


def test_the_bridge_and_the_models_are_untouched() -> None:
    models = [odd_module(0), odd_module(1).eval()]
    bridge = bezier(models)
    points = bits(bridge.points)
    with untouched(*models, bridge.template):
        scan(bridge, [0.0, 0.5, 1.0], [Clean(images()), Noise()], settle=Recalibrate(images()))
    assert torch.equal(bits(bridge.points), points)


def test_surfaces_and_simplices() -> None:
    flat = surface(vectors(4), (1, 1))
    table = scan(flat, grid(flat.basis, "3x2"), [Sum()], settle=None)
    assert table.names == ("u", "v", "sum")
    assert [(row["u"], row["v"]) for row in table.rows()] == [(0, 0), (0, 1), (0.5, 0), (0.5, 1), (1, 0), (1, 1)]
    assert table.values("sum")[2] == pytest.approx((table.values("sum")[0] + table.values("sum")[4]) / 2)
    corner = simplex(vectors(4))
    found = scan(corner, [(0.0, 0.0, 0.0), (0.2, 0.3, 0.1)], [Sum()], settle=None)
    assert found.names == ("u1", "u2", "u3", "sum")
    sums = [float(m.values.detach().sum()) for m in vectors(4)]
    assert found.values("sum") == pytest.approx(
        [sums[0], 0.4 * sums[0] + 0.2 * sums[1] + 0.3 * sums[2] + 0.1 * sums[3]]
    )


def test_one_model_and_one_point_of_a_surface() -> None:
    model = vectors(1)[0]
    table = scan(single(model), [()], [Sum()], settle=None)
    assert table.names == ("sum",)
    assert table.values("sum") == [float(model.values.detach().sum())]
    flat = surface(vectors(4))
    assert len(scan(flat, (0.5, 0.25), [Sum()], settle=None)) == 1


def test_no_points_and_no_probes() -> None:
    assert scan(line(vectors(2)), [], [Sum()], settle=None).names == ("t", "sum")
    assert scan(line(vectors(2)), [0.5], [], settle=None).rows() == [{"t": 0.5}]


@pytest.mark.parametrize(
    ("basis", "size", "expected"),
    [
        (Bernstein(2), 5, [[0], [0.25], [0.5], [0.75], [1]]),
        (Chain(3, (0.0, 0.1, 1.0)), "3", [[0], [0.5], [1]]),
        (Product(Bernstein(2), Chain(3)), 2, [[0, 0], [0, 1], [1, 0], [1, 1]]),
        (Product(Bernstein(2), Chain(3)), "2x3", [[0, 0], [0, 0.5], [0, 1], [1, 0], [1, 0.5], [1, 1]]),
        (Barycentric(3), 3, [[0, 0], [0, 0.5], [0, 1], [0.5, 0], [0.5, 0.5], [1, 0]]),
        (Affine(3), 2, [[0, 0], [0, 1], [1, 0], [1, 1]]),
    ],
    ids=str,
)
def test_grids(basis: Basis, size: str | int, expected: list[list[float]]) -> None:
    found = grid(basis, size)
    assert found.dtype == torch.float64
    assert found.tolist() == expected


@pytest.mark.parametrize("count", [4, 7, 11, 31])
def test_a_simplex_grid_keeps_its_rim_in_spite_of_rounding(count: int) -> None:
    found = grid(Barycentric(3), count)
    assert len(found) == count * (count + 1) // 2
    assert len(grid(Barycentric(4), 21)) == 1771  # where some sums come to 1 + 2e-16


def test_grid_ends_are_exact_corners() -> None:
    bridge = odd_bridge()
    points = grid(bridge.basis, 31)
    assert [bridge.corner(points[0]), bridge.corner(points[-1])] == [0, 2]


@pytest.mark.parametrize(
    ("basis", "size", "message"),
    [
        (Bernstein(1), "many", r"`grid` should be numbers of points such as 31 or 5x5\. Found many\."),
        (Bernstein(1), "5x", r"`grid` should be numbers .* Found 5x\."),
        (Bernstein(1), "-3", r"`grid` should be numbers .* Found -3\."),
        (Bernstein(1), "", r"`grid` should be numbers"),
        (Bernstein(1), 1, r"`grid` should name at least 2 points for each of 1 coordinate\(s\)\. Found 1\."),
        (Bernstein(1), "5x5", r"`grid` should name at least 2 points for each of 1 coordinate\(s\)\. Found 5x5\."),
        (Product(Bernstein(1), Bernstein(1)), "5x1", r"for each of 2 coordinate\(s\)\. Found 5x1\."),
    ],
)
def test_grid_errors(basis: Basis, size: str | int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        grid(basis, size)


def test_coordinate_names() -> None:
    assert [coordinate_names(dim) for dim in range(4)] == [(), ("t",), ("u", "v"), ("u1", "u2", "u3")]


def test_errors() -> None:
    with pytest.raises(
        InputError, match=r"`settle` should be given for a module with running statistics.*Found None and 1 such layers"
    ):
        scan(odd_bridge(), [0.5], [Sum()], settle=None)
    segment = line(vectors(2))
    with pytest.raises(
        InputError, match=r"`probes` should have columns with different names\. Found \['noise'\] more than once\."
    ):
        scan(segment, [0.5], [Noise(), Noise()], settle=None)
    with pytest.raises(InputError, match=r"Found \['t'\] more than once"):
        scan(segment, [0.5], [Noise("t")], settle=None)
    with pytest.raises(InputError, match=r"`coordinates` should have shape \(N, 1\)\. Found \(2, 2\)\."):
        scan(segment, [(0.5, 0.5), (0.1, 0.2)], [Sum()], settle=None)
    with pytest.raises(InputError, match=r"`coordinates` should have shape \(N, 2\)\. Found \(1, 4\)\."):
        scan(surface(vectors(4)), [0.1, 0.2, 0.3, 0.4], [Sum()], settle=None)
    with pytest.raises(InputError, match=r"`u` should be finite\. Found \[nan\]\."):
        scan(segment, [float("nan")], [Sum()], settle=None)


def test_a_policy_for_every_point_reaches_the_given_models_and_no_other_point() -> None:
    models, samples = [odd_module(k) for k in range(2)], images()
    bridge = line(models)
    asked, points = BatchStatistics(), [0.0, 0.5, 1.0]
    found = scan(bridge, points, [Clean(samples)], settle=asked).values("test_loss")
    for t, loss in zip(points, found, strict=True):
        with untouched(*models):
            alone = Clean(samples)(bridge.at(t, settle=asked))["test_loss"]
        assert loss == alone
    assert found != scan(bridge, points, [Clean(samples)], settle=Keep()).values("test_loss")
    plain = models[0].eval()
    assert found[0] != Clean(samples)(plain)["test_loss"]
