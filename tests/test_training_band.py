"""AutoNEB: forces across the chain, pivots at their shares of its length, insertion where the loss rises, and a known saddle."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from contracts.bridge import Vector, drawn, through
from contracts.modules import assert_same_bits, tensors_of
from fit_example import batches, gradient_plan, inputs, mixing_gradient, small, toy
from isthmus._check import InputError
from isthmus.data import Samples
from isthmus.geometry.bases import Bernstein, Chain
from isthmus.geometry.bridge import Bridge
from isthmus.geometry.build import connect
from isthmus.geometry.gram import length
from isthmus.randomness import seed_of
from isthmus.training.band import CYCLES, Band, inserted, relax
from isthmus.training.fit import fit
from isthmus.training.guide import Guide, Guided
from isthmus.training.objective import Own, Supervised
from isthmus.training.plan import Plan
from isthmus.training.session import Fitted, Session


def lengths(bridge: Bridge) -> Tensor:
    return torch.stack([(b - a).norm() for a, b in pairwise(bridge.points)])


def test_a_step_goes_across_the_chain() -> None:
    start = connect([small(0), small(1)], Chain(4))
    noise = torch.randn(start.free.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    start = start.with_free(start.free + noise / 10)
    plan = gradient_plan(num_points=2, sampling="points")

    class Across(Band):
        def place(self, bridge: Bridge) -> None:
            pass

    taken = start.free - fit(start, toy(), plan, seed=0, objective=Guided(Supervised(), Across())).bridge.free
    index = batches(toy(), plan, 0)[0]
    knots = torch.tensor([start.basis.sites[1], start.basis.sites[2]], dtype=torch.float64)
    gradient = 2 * mixing_gradient(start, [(inputs(toy(), index), toy().y[index])], knots)
    for k, row in enumerate(taken):
        tangent = start.points[k + 2] - start.points[k]
        tangent = tangent / tangent.norm()
        torch.testing.assert_close(row, gradient[k] - (gradient[k] @ tangent) * tangent, rtol=1e-9, atol=1e-12)
        assert abs(float(row @ tangent)) < 1e-12


@pytest.mark.parametrize("knots", [(0.0, 0.25, 0.5, 0.75, 1.0), (0.0, 0.1, 0.2, 0.7, 1.0)])
def test_pivots_are_put_back_to_their_shares(knots: tuple[float, ...]) -> None:
    bridge = drawn(Chain(5, knots))
    before = bridge.points.clone()
    total = float(lengths(bridge).sum())
    expected = torch.stack([along(before, share * total) for share in knots])
    Band().place(bridge)
    torch.testing.assert_close(bridge.points, expected)
    still = through(torch.ones(4, 3, dtype=torch.float64), Chain(4))
    Band().place(still)
    assert bool((still.points == 1).all())
    for _ in range(60):  # putting back shortens the chain, until shares and knots agree
        Band().place(bridge)
    shares = lengths(bridge) / lengths(bridge).sum()
    torch.testing.assert_close(shares, torch.tensor(knots, dtype=torch.float64).diff(), rtol=0.05, atol=0.01)


def along(points: Tensor, distance: float) -> Tensor:
    """Return the point of a polygon at a distance along it, walked piece by piece."""
    for a, b in pairwise(points):
        piece = float((b - a).norm())
        if distance <= piece * (1 + 1e-12):
            return a + distance / piece * (b - a)
        distance -= piece
    return points[-1]


def chain_of_three() -> Bridge:
    points = torch.tensor([[0.0], [1.0], [2.0], [3.0]], dtype=torch.float64)
    return through(points, Chain(4))


@pytest.mark.parametrize(
    ("bumps", "knots"),
    [
        ({}, []),
        ({0.1: 5.0}, [0.1]),
        ({0.1: 5.0, 0.5: 3.0}, [0.1, 0.5]),
        ({0.1: 5.0, 0.5: 3.0, 0.9: 4.0}, [0.1, 0.9]),  # two at most
        ({0.1: 5.0, 0.5: 0.9}, [0.1]),  # below a fifth of the range
        ({0.1: -5.0}, []),  # below its pivots
    ],
)
def test_pivots_are_inserted_where_the_loss_rises(bumps: dict[float, float], knots: list[float]) -> None:
    asked: list[Tensor] = []

    def losses(bridge: Bridge, t: Tensor) -> Tensor:
        asked.append(t)
        return torch.tensor([next((h for at, h in bumps.items() if abs(float(x) - at) < 1e-9), 0.0) for x in t])

    start = chain_of_three()
    found = inserted(start, losses)
    assert torch.allclose(asked[0], torch.linspace(0, 1, 31, dtype=torch.float64))
    assert isinstance(found.basis, Chain)
    new = [knot for knot in found.basis.knots if not any(abs(knot - old) < 1e-9 for old in (0, 1 / 3, 2 / 3, 1))]
    assert new == pytest.approx(knots)
    for t in (0.05, 0.4, 0.5, 0.93):
        torch.testing.assert_close(found.theta(t), start.theta(t))


def landscape(model: nn.Module, x: Tensor, y: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(a^2 - 1)^2 + 4 (b - 1 + a^2)^2: minima at (-1, 0) and (1, 0), the path of least maximal loss over the saddle (0, 1) of height 1."""
    a, b = next(model.parameters())
    loss = (a**2 - 1) ** 2 + 4 * (b - 1 + a**2) ** 2
    return loss.expand(len(y)), torch.zeros(len(y), 2, dtype=loss.dtype) + 0 * loss


def height(point: Tensor) -> float:
    a, b = point.tolist()
    return (a**2 - 1) ** 2 + 4 * (b - 1 + a**2) ** 2


def test_the_chain_finds_a_known_saddle() -> None:
    ends = [Vector(torch.tensor([a, 0.0], dtype=torch.float64)) for a in (-1.0, 1.0)]
    samples = Samples(torch.zeros(4, 2).byte(), torch.tensor([0, 1, 0, 1]), 2)
    asked: list[int] = []

    def train(bridge: Bridge, plan: Plan, seed: int, session: Session, /, guide: Guide | None = None) -> Fitted:
        asked.append(bridge.free.shape[0])
        assert guide is not None
        return fit(bridge, samples, plan, seed=seed, objective=Guided(Own(landscape), guide), session=session)

    def losses(bridge: Bridge, t: Tensor) -> Tensor:
        return torch.tensor([height(bridge.theta(float(x))) for x in t])

    plan = Plan(steps=800, batch_size=2, learning_rate=0.02, momentum=0.0, weight_decay=0.0)
    start = connect(ends, Chain(5))
    assert float(losses(start, torch.linspace(0, 1, 101)).max()) == pytest.approx(5.0)
    found = relax(start, plan, train, losses, seed=0)
    top = float(losses(found.bridge, torch.linspace(0, 1, 401)).max())
    assert top == pytest.approx(1.0, abs=0.05)  # the saddle's height
    nearest = min(float((row - torch.tensor([0.0, 1.0])).norm()) for row in found.bridge.points)
    assert nearest < 0.2
    assert length(found.bridge) > length(start)
    assert asked[0] == 3
    assert len(asked) == 14
    assert asked == sorted(asked)
    assert found.evaluations == sum(m * s for m, s in zip(asked, [50] * 4 + [100] * 2 + [50] * 8, strict=True))


def test_cycles_share_the_steps_and_rates(tmp_path) -> None:
    plan, seen, told = Plan(steps=35, batch_size=8, learning_rate=0.1), list[Plan](), list[str]()

    def train(bridge: Bridge, plan: Plan, seed: int, session: Session, /, guide: Guide | None = None) -> Fitted:
        seen.append(plan)
        assert guide == Band()
        assert seed == seed_of(3, "cycle", len(seen) - 1)
        return fit(bridge, toy(), plan, seed=seed, objective=Guided(Supervised(), Band()), session=session)

    def losses(bridge: Bridge, t: Tensor) -> Tensor:
        return torch.zeros(len(t))

    session = Session(checkpoint=tmp_path / "checkpoint.pt", every_seconds=0.0, stage=told.append)
    start = connect([small(0), small(1)], Chain(4))
    found = relax(start, plan, train, losses, seed=3, session=session)
    assert sum(own.steps for own in seen) == 35
    assert [round(own.learning_rate, 9) for own in seen] == [0.1] * 6 + [0.01] * 4 + [0.001] * 4
    assert all((own.schedule, own.sampling, own.num_points) == ("constant", "points", 2) for own in seen)
    assert sum(share for share, _ in CYCLES) == 16
    assert told[0] == "cycle 1 of 14: 2 pivots"
    assert len(list(tmp_path.glob("checkpoint-cycle-*.pt"))) == 13
    assert found.history.frame["step"].tolist()[-1] == 35
    for k in range(2):
        assert_same_bits(tensors_of(found.bridge.at(float(k))), tensors_of(small(k)))


def test_what_cannot_be_relaxed_is_refused() -> None:
    models = [small(0), small(1)]

    def never(*_: object, guide: Guide | None = None) -> Fitted:
        raise AssertionError

    def losses(bridge: Bridge, t: Tensor) -> Tensor:
        return t

    for basis in (Bernstein(2), Chain(2)):
        with pytest.raises(InputError, match=r"`bridge` should be a chain with a free pivot to relax\. Found"):
            relax(connect(models, basis), Plan(), never, losses, seed=0)
    with pytest.raises(InputError, match=r"`steps` should be at least 16, .*Found 15"):
        relax(connect(models, Chain(3)), Plan(steps=15), never, losses, seed=0)
