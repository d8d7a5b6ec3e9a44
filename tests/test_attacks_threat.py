"""Threats against generic optimisers, float64 bisection, brute force over vertices, and the laws of uniform draws."""

import itertools

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from torch import Tensor

from contracts.attacks import check_points
from isthmus._check import InputError
from isthmus.attacks.threat import Norm, Threat, parse_radius, parse_threat

NORMS: tuple[Norm, ...] = ("linf", "l2", "l1")
ORDER = {"linf": np.inf, "l2": 2, "l1": 1}
DTYPES = (torch.float32, torch.float64)


def box_images(generator: torch.Generator, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return images of which many pixels lie at a wall of [0, 1]."""
    return (1.6 * torch.rand(shape, generator=generator, dtype=dtype) - 0.3).clamp(0, 1)


def projected_by_scipy(norm: Norm, radius: float, x: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Return the projection found by sequential quadratic programming; |v| is split into two non-negative parts for L1."""
    d = len(x)
    if norm == "l1":
        bounds = [(0, 1 - a) for a in x] + [(0, a) for a in x]
        inside = {"type": "ineq", "fun": lambda z: radius - z.sum(), "jac": lambda _: -np.ones(2 * d)}
        goal = point - x

        def distance(z: np.ndarray) -> tuple[float, np.ndarray]:
            gap = z[:d] - z[d:] - goal
            return 0.5 * gap @ gap, np.concatenate([gap, -gap])

        start = np.zeros(2 * d)
    else:
        wide = radius if norm == "linf" else np.inf
        bounds = [(max(-a, -wide), min(1 - a, wide)) for a in x]
        inside = {"type": "ineq", "fun": lambda v: radius**2 - v @ v, "jac": lambda v: -2 * v}
        goal = point - x

        def distance(v: np.ndarray) -> tuple[float, np.ndarray]:
            return 0.5 * (v - goal) @ (v - goal), v - goal

        start = np.zeros(d)
    rules = [] if norm == "linf" else [inside]
    options = {"ftol": 1e-16, "maxiter": 500}
    found = optimize.minimize(
        distance, start, jac=True, bounds=bounds, constraints=rules, method="SLSQP", options=options
    ).x
    return x + (found[:d] - found[d:] if norm == "l1" else found)


@pytest.mark.parametrize("norm", NORMS)
def test_the_projection_is_that_of_a_quadratic_programme(norm: Norm, generator: torch.Generator) -> None:
    x = box_images(generator, 30, 5)
    points = x + torch.randn(30, 5, generator=generator, dtype=torch.float64)
    for radius in (0.1, 0.6):
        found = Threat(norm, radius).project(x, points)
        for i in range(30):
            expected = projected_by_scipy(norm, radius, x[i].numpy(), points[i].numpy())
            np.testing.assert_allclose(found[i], expected, atol=2e-6)


def projected_by_bisection(norm: Norm, radius: float, x: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Return the projection by 200 halvings of the multiplier, in float64."""
    delta = point - x
    if norm == "linf":
        return x + np.clip(np.clip(delta, -radius, radius), -x, 1 - x)

    def candidate(multiplier: float) -> np.ndarray:
        if norm == "l2":
            return np.clip(delta / (1 + multiplier), -x, 1 - x)
        return np.clip(np.sign(delta) * np.maximum(np.abs(delta) - multiplier, 0), -x, 1 - x)

    low, high = 0.0, 1e9
    if np.linalg.norm(candidate(0), ORDER[norm]) <= radius:
        return x + candidate(0)
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.linalg.norm(candidate(middle), ORDER[norm]) > radius else (low, middle)
    return x + candidate(high)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(3, 9, 7), (1, 4, 4), (50,), (1,)])
def test_the_projection_is_that_of_bisection(
    norm: Norm, shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator
) -> None:
    size = torch.Size(shape).numel()
    x = box_images(generator, 8, *shape, dtype=dtype)
    radii = torch.tensor([0.02, 0.1, 0.3, 0.3, 0.5, 1.0, 2.0, 5.0], dtype=dtype)
    threat = Threat(norm, radii)
    scales = torch.tensor([1e-3, 0.05, 0.3, 1.0, 3.0, 0.3, 10.0, 1.0], dtype=dtype).reshape(-1, *[1] * len(shape))
    points = x + scales * torch.randn(x.shape, generator=generator, dtype=dtype)
    found = threat.project(x, points)
    check_points(threat, x, found)
    for i in range(8):
        flat = (t[i].flatten().double().numpy() for t in (x, points))
        expected = projected_by_bisection(norm, float(radii[i]), *flat)
        bits = float(torch.finfo(dtype).eps)
        np.testing.assert_allclose(
            found[i].flatten(), expected, atol=(4 if dtype == torch.float32 else 16) * bits * max(1, size**0.5), rtol=0
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (-2.5, 0.7), (0.0, 255.0)])
def test_inside_to_one_ulp_and_idempotent_bit_by_bit(
    norm: Norm, dtype: torch.dtype, low: float, high: float, generator: torch.Generator
) -> None:
    width = high - low
    grey = torch.full((1, 1000), low + 0.7 * width, dtype=dtype)  # every coordinate rounds the same way
    x = torch.cat([low + width * box_images(generator, 6, 1000, dtype=dtype), grey]).clamp(low, high)
    for share in (1e-4, 0.03, 0.3):
        radius = share * width * {"linf": 1, "l2": 1000**0.5, "l1": 1000}[norm]
        threat = Threat(norm, radius, low, high)
        for scale in (0.01, 1.0, 100.0):
            points = x + width * scale * torch.randn(x.shape, generator=generator, dtype=dtype)
            points[-1] = high
            found = threat.project(x, points)
            check_points(threat, x, found)
            assert torch.equal(threat.project(x, found), found)
        for points in (
            threat.start(x, generator=generator),
            threat.best_response(x, torch.randn(x.shape, generator=generator, dtype=dtype)),
        ):
            check_points(threat, x, points)
            assert torch.equal(threat.project(x, points), points)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", NORMS)
def test_points_inside_are_returned_bit_by_bit(norm: Norm, dtype: torch.dtype, generator: torch.Generator) -> None:
    x = box_images(generator, 6, 3, 5, 4, dtype=dtype)
    points = (x + 0.01 * torch.randn(x.shape, generator=generator, dtype=dtype)).clamp(0, 1)
    threat = Threat(norm, 3.0)
    assert torch.equal(threat.project(x, points), points)
    assert threat.inside(x, points).all()
    held = x.clone(), points.clone()
    points[0] += 100
    found = threat.project(x, points)  # one outside, the others stay
    assert torch.equal(found[1:], held[1][1:])
    assert torch.equal(x, held[0])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_zeros_and_huge_points_have_a_projection(norm: Norm, dtype: torch.dtype, generator: torch.Generator) -> None:
    x = box_images(generator, 5, 12, dtype=dtype)
    threat = Threat(norm, 0.3)
    assert torch.equal(threat.project(x, x.clone()), x)
    points = x + torch.randn(x.shape, generator=generator, dtype=dtype)
    points[1], points[2, ::2], points[3], points[4] = 1e30, torch.inf, -torch.inf, 1e9 * points[0]
    check_points(threat, x, threat.project(x, points))
    nothing = torch.zeros_like(x)
    assert torch.equal(threat.best_response(x, nothing), x)
    assert torch.equal(Threat(norm, 3.0).best_response(x, nothing), x)
    assert torch.equal(threat.ascent(nothing), nothing)
    assert torch.equal(threat.ascend(x, nothing, 0.5), x)
    assert threat.dual(nothing).tolist() == [0] * 5


@pytest.mark.parametrize("norm", NORMS)
def test_the_best_response_is_the_best_of_all_vertices_or_of_bisection(norm: Norm, generator: torch.Generator) -> None:
    """Linf and L1 with walls are polytopes: some vertex is best. In L2 the multiplier is halved."""
    x = box_images(generator, 25, 4)
    gradient = torch.randn(25, 4, generator=generator, dtype=torch.float64)
    for radius in (0.05, 0.4, 1.3):
        found = Threat(norm, radius).best_response(x, gradient)
        check_points(Threat(norm, radius), x, found)
        for i in range(25):
            base, slope = x[i].numpy(), gradient[i].numpy()
            best = max(slope @ v for v in _candidates(norm, radius, base, slope))
            assert float((found[i] - x[i]) @ gradient[i]) == pytest.approx(best, abs=1e-9)


def _candidates(norm: Norm, radius: float, x: np.ndarray, slope: np.ndarray) -> list[np.ndarray]:
    low, high = -x, 1 - x
    if norm == "linf":
        ends = [(max(a, -radius), min(b, radius)) for a, b in zip(low, high, strict=True)]
        return [np.array(v) for v in itertools.product(*ends)]
    if norm == "l2":
        found = []
        for scale in np.geomspace(1e-3, 1e3, 61):
            v = np.clip(scale * slope, low, high)
            found.append(v * min(1, radius / max(np.linalg.norm(v), 1e-300)))
        exact = (
            optimize.brentq(lambda s: min(np.linalg.norm(np.clip(np.exp(s) * slope, low, high)) - radius, 1.0), -20, 20)
            if np.linalg.norm(np.where(slope > 0, high, low)) > radius
            else 20.0
        )
        return [*found, np.clip(np.exp(exact) * slope, low, high)]
    found = []  # at a vertex all coordinates but one are at 0 or a wall
    for free in range(len(x)):
        for rest in itertools.product(*[(a, 0.0, b) for a, b in zip(low, high, strict=True)]):
            v = np.array(rest)
            v[free] = 0
            left = radius - np.abs(v).sum()
            if left >= -1e-12:
                v[free] = np.clip(np.sign(slope[free]) * left, low[free], high[free])
                found.append(v)
    return found


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_ascent_has_norm_one_and_reaches_the_dual_norm(norm: Norm, scale: float, generator: torch.Generator) -> None:
    gradient = torch.randn(9, 2, 3, 4, generator=generator) * scale
    threat = Threat(norm, 0.1)
    direction = threat.ascent(gradient)
    torch.testing.assert_close(threat.size(direction), torch.ones(9))
    reached = (direction.double() * gradient.double()).flatten(1).sum(1)
    order = {"linf": 1, "l2": 2, "l1": np.inf}[norm]
    expected = torch.linalg.vector_norm(gradient.double().flatten(1), order, dim=1)
    torch.testing.assert_close(reached, expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(threat.dual(gradient).double(), expected, rtol=1e-5, atol=0)
    if norm == "l1":
        assert int((direction != 0).sum()) == 9


@pytest.mark.parametrize("norm", NORMS)
def test_gradients_that_are_no_numbers_move_nothing(norm: Norm) -> None:
    gradient = torch.tensor([[torch.nan, torch.nan], [torch.nan, 2.0], [torch.inf, -1.0]])
    x = torch.full((3, 2), 0.5)
    threat = Threat(norm, 0.1)
    assert torch.equal(threat.ascent(gradient)[:2], torch.tensor([[0.0, 0.0], [0.0, 1.0]]))
    assert torch.isfinite(threat.ascent(gradient)).all()
    for points in (threat.best_response(x, gradient), threat.ascend(x, gradient, 1.0)):
        assert torch.equal(points[0], x[0])
        assert points[:, 0].tolist()[1] == 0.5
        assert torch.isfinite(points).all()


def test_ascend_spreads_an_l1_step_over_coordinates_with_room() -> None:
    x = torch.tensor([[0.9, 0.2, 0.5, 0.0]])
    gradient = torch.tensor([[3.0, 2.0, 1.0, -4.0]])  # the steepest is at its wall already
    threat = Threat("l1", 1.0)
    found = threat.project(x, threat.ascend(x, gradient, 0.5))
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.6, 0.5, 0.0]]))
    wide = Threat("l1", 1.0, -9, 9)
    torch.testing.assert_close(wide.ascend(x, gradient, 0.5), torch.tensor([[0.9, 0.2, 0.5, -0.5]]))
    for norm in ("linf", "l2"):
        threat = Threat(norm, 1.0)
        torch.testing.assert_close(threat.ascend(x, gradient, 0.5), x + 0.5 * threat.ascent(gradient))
    for norm in NORMS:  # a length for each image
        threat, lengths = Threat(norm, 0.3), torch.tensor([[0.5], [0.1]])
        both = threat.ascend(x.repeat(2, 1), gradient.repeat(2, 1), lengths)
        torch.testing.assert_close(both, torch.cat([threat.ascend(x, gradient, f) for f in (0.5, 0.1)]))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(1,), (3,), (2, 3, 2)])
def test_starts_are_uniform_in_the_ball(norm: Norm, shape: tuple[int, ...], generator: torch.Generator) -> None:
    """P(size <= s) = s^d, signs and axes are alike, and in L1 the magnitude of one coordinate follows its known law."""
    d, count = torch.Size(shape).numel(), 4000
    x = torch.zeros(count, *shape, dtype=torch.float64)
    threat = Threat(norm, 0.7, -1, 1)
    delta = threat.start(x, generator=generator) / 0.7
    sizes = threat.size(delta).numpy()
    assert stats.kstest(sizes**d, "uniform").pvalue > 1e-3
    flat = delta.flatten(1).numpy()
    for axis in {0, d - 1}:
        assert stats.kstest(flat[:, axis], _marginal(norm, d)).pvalue > 1e-3
    if d > 1:
        assert abs(np.corrcoef(np.sign(flat[:, 0]), np.sign(flat[:, -1]))[0, 1]) < 0.06


def _marginal(norm: Norm, d: int):
    """Return the distribution function of one coordinate of a uniform draw from the unit ball in d dimensions.

    |v|: Beta(1, d) for L1; v^2: Beta(1/2, (d + 1) / 2) for L2; uniform for Linf.
    """
    laws = {
        "linf": lambda a: a,
        "l2": lambda a: stats.beta(0.5, (d + 1) / 2).cdf(a**2),
        "l1": lambda a: stats.beta(1, d).cdf(a),
    }
    return lambda v: 0.5 + 0.5 * np.sign(v) * laws[norm](np.abs(v))


@pytest.mark.parametrize("norm", NORMS)
def test_starts_come_from_their_generator_alone(norm: Norm, generator: torch.Generator) -> None:
    x = torch.full((4, 2, 3), 0.5)
    threat, state = Threat(norm, 0.2), torch.get_rng_state()
    first = threat.start(x, generator=generator)
    assert not torch.equal(threat.start(x, generator=generator), first)
    assert torch.equal(threat.start(x, generator=torch.Generator().manual_seed(0)), first)
    assert torch.equal(torch.get_rng_state(), state)
    cut = threat.start(torch.zeros(50, 2, 3), generator=generator)
    assert float(cut.min()) == 0  # onto the box


def test_take_scaled_radii_and_size() -> None:
    each = Threat("l2", torch.tensor([0.1, 0.2, 0.3]))
    assert torch.equal(each.take(torch.tensor([2, 0])).radius, torch.tensor([0.3, 0.1]))
    assert torch.equal(each.take(torch.tensor([False, True, False])).radius, torch.tensor([0.2]))
    torch.testing.assert_close(each.scaled(2).radius, torch.tensor([0.2, 0.4, 0.6]))
    assert Threat("l1", 3.0, -1, 2).scaled(0.5) == Threat("l1", 1.5, -1, 2)
    assert Threat().take(torch.tensor([0])) == Threat()
    assert each.radii(torch.zeros(3, 2, 2)).shape == (3, 1, 1)
    assert Threat().radii(torch.zeros(3, 2).double()).dtype == torch.float64
    delta = torch.tensor([[3.0, -4.0]])
    assert [float(Threat(norm).size(delta)) for norm in NORMS] == [4, 5, 7]
    assert [float(Threat(norm).dual(delta)) for norm in NORMS] == [7, 5, 4]


def test_inside_sees_ball_box_and_what_is_no_number() -> None:
    x = torch.tensor([[0.5, 0.5], [0.99, 0.5], [0.5, 0.5], [0.5, 0.5], [0.0, 0.5]])
    points = torch.tensor([[0.6, 0.5], [1.02, 0.5], [0.7, 0.5], [torch.nan, 0.5], [-0.01, 0.5]])
    assert [Threat(norm, 0.1).inside(x, points).tolist() for norm in NORMS] == [[True, False, False, False, False]] * 3
    ulp = torch.finfo(torch.float32).eps
    edge = torch.tensor([[0.5, 0.6]] * 2) + torch.tensor([[0.0, 0.0], [0.0, 2 * ulp]])
    assert Threat("linf", 0.1).inside(x[[0, 0]], edge).tolist() == [True, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radius": 0.0}, r"`radius` should be finite and above 0\. Found 0\.0\. It is in units of the input"),
        ({"radius": -0.1}, r"`radius` should be finite and above 0\. Found -0\.1"),
        ({"radius": float("nan")}, r"`radius` should be finite and above 0\. Found nan"),
        ({"radius": float("inf")}, r"`radius` should be finite and above 0\. Found inf"),
        ({"radius": torch.tensor([0.1, 0.0, -1.0])}, r"above 0\. Found 0 for image 1\."),
        ({"radius": torch.tensor([0.1, torch.nan])}, r"above 0\. Found nan for image 1\."),
        ({"radius": torch.ones(2, 1)}, r"be a number, or a tensor \(B,\) with one for each image\. Found \(2, 1\)"),
        ({"low": 1.0}, r"`low` should be below `high`\. Found low 1, high 1\."),
        ({"high": float("nan")}, r"`low` should be below `high`\. Found low 0, high nan"),
        ({"norm": "l3"}, r"`norm` should be one of l1, l2, linf\. Found 'l3'\. Did you mean 'l"),
    ],
)
def test_threats_that_mean_nothing_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Threat(**options)


def test_a_radius_for_each_image_needs_as_many_images() -> None:
    threat = Threat("linf", torch.tensor([0.1, 0.2]))
    for call in (
        lambda x: threat.project(x, x),
        lambda x: threat.start(x, generator=torch.Generator()),
        threat.require_inputs,
    ):
        with pytest.raises(InputError, match=r"`radius` should have one entry for each of 3 images\. Found 2 entries"):
            call(torch.zeros(3, 4))
    with pytest.raises(InputError, match=r"`factor` should be finite and above 0\. Found 0"):
        threat.scaled(0)


def spread(low: float, high: float, shape: tuple[int, ...] = (2, 3, 4, 4)) -> Tensor:
    return torch.linspace(low, high, torch.Size(shape).numel()).reshape(shape)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            spread(-2.1, 2.64),
            r"`x` should lie in \[0, 1\]\. Found values from -2\.1 to 2\.64\. The inputs look normalised: put",
        ),
        (spread(0, 255), r"Found values from 0 to 255\. They look like bytes: divide by 255"),
        (spread(0, 1.2), r"Found values from 0 to 1\.2\. Clip or rescale them, or give the threat their box"),
        (spread(-1e-4, 1), r"Found values from -0\.0001 to 1\. Clip or rescale"),
        (spread(-4000, 1), r"Found values from -4000 to 1\. Clip or rescale"),
        (
            spread(0, 255).byte(),
            r"`x` should hold float32 or float64 inputs\. Found torch\.uint8\. Give floats in \[0, 1\], or `Samp",
        ),
        (spread(0, 1).half(), r"`x` should hold float32 or float64 inputs\. Found torch\.float16"),
        (
            spread(0, 1).where(spread(0, 1) > 0.1, torch.nan),
            r"`x` should hold finite numbers\. Found 10 NaN or infinite values of 96",
        ),
        (torch.zeros(4), r"`x` should be inputs \(B, \.\.\.\) with B >= 1\. Found shape \(4,\)"),
        (torch.zeros(0, 4), r"`x` should be inputs \(B, \.\.\.\) with B >= 1\. Found shape \(0, 4\)"),
    ],
)
def test_inputs_that_cannot_be_attacked_are_refused_with_the_reason(x: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Threat().require_inputs(x)


def test_inputs_of_any_box_are_taken_where_it_is_given() -> None:
    Threat().require_inputs(spread(0, 1))
    Threat().require_inputs(spread(0, 1).double())
    Threat().require_inputs(torch.rand(3, 7, generator=torch.Generator().manual_seed(0)))
    Threat("l2", 0.5, -2.2, 2.7).require_inputs(spread(-2.1, 2.64))
    with pytest.raises(InputError, match=r"`x` should lie in \[-1, 1\]\. Found values from -1\.5 to 1"):
        Threat("l2", 0.5, -1, 1).require_inputs(spread(-1.5, 1))


@pytest.mark.parametrize(
    ("norm", "radius", "message"),
    [
        (
            "linf",
            8.0,
            r"`radius` should be at most 1, the width of the box in this norm\. Found 8\.0\. .*Did you mean 8/255\?",
        ),
        ("linf", torch.tensor([0.1, 1.5]), r"be at most 1, .*Found 1\.5\. It is in units of the input\."),
        ("l2", 8.0, r"be at most 6\.9282, .*Found 8\.0"),
        ("l1", 50.0, r"be at most 48, .*Found 50\.0"),
    ],
)
def test_a_radius_larger_than_the_box_is_refused(norm: Norm, radius: float | Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Threat(norm, radius).require_inputs(spread(0, 1))
    Threat(norm, 0.02).require_inputs(spread(0, 1))


def test_radii_are_read_from_fractions_and_decimals() -> None:
    texts = {"8/255": 8 / 255, "0.5": 0.5, " 1e-2 ": 0.01, "128 / 255": 128 / 255, "8": 8.0, "2.5/5": 0.5}
    assert {text: parse_radius(text) for text in texts} == texts
    assert parse_threat("L2", "0.5", low=-1) == Threat("l2", 0.5, -1, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"`radius` should be a fraction or a decimal, such as 8/255 or 0\.03\. Found ''"),
        ("eight", r"Found 'eight'"),
        ("8/0", r"`radius` should be a fraction or a decimal.*Found '8/0'"),
        ("1/2/3", r"`radius` should be a fraction or a decimal.*Found 1/2/3"),
        ("0", r"`radius` should be finite and above 0\. Found 0\."),
        ("-1/255", r"`radius` should be finite and above 0\. Found -1/255"),
        ("nan", r"`radius` should be finite and above 0\. Found nan"),
        ("inf", r"`radius` should be finite and above 0\. Found inf"),
    ],
)
def test_what_is_no_radius_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_radius(text)


def test_an_unknown_norm_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"`norm` should be one of l1, l2, linf\. Found 'inf'\. Did you mean 'linf'"):
        parse_threat("inf", "8/255")
