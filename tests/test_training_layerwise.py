"""LLPF: where each tick puts each layer, variances on the way, the order of layers, and what a path can do without."""

import pytest
import torch
from torch import Tensor, nn

from contracts.bridge import Vector
from contracts.modules import assert_same_bits, of_three_kinds, tensors_of, untouched
from fit_example import small, toy
from isthmus._check import InputError
from isthmus.geometry.bases import Bernstein, Chain
from isthmus.geometry.bridge import Bridge
from isthmus.geometry.build import connect, line
from isthmus.randomness import seed_of
from isthmus.table import Table
from isthmus.training.fit import fit_module
from isthmus.training.grow import trainer
from isthmus.training.guide import Guide
from isthmus.training.layerwise import Route, chain_through, flow_order, looked_at, walk
from isthmus.training.plan import Plan
from isthmus.training.record import HISTORY
from isthmus.training.session import Fitted, Session


def still(bridge: Bridge, plan: Plan, seed: int, session: Session, /, guide: Guide | None = None) -> Fitted:
    """Train nothing."""
    row = {"step": float(plan.steps), "loss": 0.0}
    return Fitted(bridge, Table.of([row], HISTORY[:2]), 0.0, plan.steps)


def every(bridge: Bridge, t: Tensor) -> Tensor:
    """A loss that is high on every shortcut: no point is left out."""
    return torch.full((len(t),), float(bridge.basis.num_points == 2))


def level(bridge: Bridge, t: Tensor) -> Tensor:
    return torch.zeros(len(t))


class Two(nn.Module):
    """Two layers of vectors, the second reached first."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.late, self.early = nn.LayerNorm(2), nn.LayerNorm(3)
        with torch.no_grad():
            for p in self.parameters():
                p.fill_(value)

    def forward(self, x: Tensor) -> Tensor:
        return self.late(self.early(x)[:, :2])


def test_layers_in_the_order_of_the_data() -> None:
    model = Two(1.0)
    with untouched(model):
        assert flow_order(model, torch.zeros(1, 3)) == (("early.weight", "early.bias"), ("late.weight", "late.bias"))
    kinds = of_three_kinds(0)
    found = flow_order(kinds, torch.zeros(1, 3, 8, 8))
    assert found == (
        ("still", "quiet", "count"),
        ("conv.weight", "conv.bias"),
        ("narrow.weight", "narrow.bias"),
        ("wide.weight", "wide.bias"),
        ("again.bias",),
    )
    model.early = nn.Identity()  # never reached: its own place is the last
    model.spare = nn.Linear(2, 2)
    assert flow_order(model, torch.zeros(1, 3)) == (("late.weight", "late.bias"), ("spare.weight", "spare.bias"))


def test_every_layer_arrives_with_the_last_tick() -> None:
    ends = [Two(0.0).double(), Two(1.0).double()]
    asked: list[Bridge] = []

    def watch(bridge: Bridge, plan: Plan, seed: int, session: Session, /, guide: Guide | None = None) -> Fitted:
        asked.append(bridge)
        assert plan.schedule == "constant"
        assert seed == seed_of(5, "tick", len(asked) - 1)
        return still(bridge, plan, seed, session)

    route = Route(4, flow_order(ends[0], torch.zeros(1, 3)), every)
    found = walk(line(ends), Plan(steps=7), watch, route, seed=5)
    places = [dict(zip(("late", "early"), (one.free[0][0], one.free[0][-1]), strict=True)) for one in asked]
    assert [float(p["early"]) for p in places] == pytest.approx([0.25, 0.5, 0.75])
    assert [float(p["late"]) for p in places] == pytest.approx([0.0, 0.0, 0.5])  # released at tick 2 of 4
    assert found.bridge.points[:, 0].tolist() == pytest.approx([0, 0, 0, 0.5, 1])
    assert found.bridge.points[:, -1].tolist() == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert found.evaluations == 7
    assert found.history.frame["step"].tolist() == [3, 5, 7]
    assert_same_bits(tensors_of(found.bridge.at(0.0)), tensors_of(ends[0]))
    assert_same_bits(tensors_of(found.bridge.at(1.0)), tensors_of(ends[1]))


def test_variances_follow_the_way() -> None:
    ends = [small(0), small(1)]
    with torch.no_grad():
        for p in ends[1].parameters():
            p.mul_(3)
    points: list[Tensor] = []

    def noisy(bridge: Bridge, plan: Plan, seed: int, session: Session, /, guide: Guide | None = None) -> Fitted:
        points.append(bridge.free[0])
        return still(bridge.with_free(bridge.free * 1.7), plan, seed, session)

    start = line(ends)
    layers = [[name] for name in start.layout.names]
    walk(start, Plan(steps=3), noisy, Route(4, layers, every), seed=0)
    layout = start.layout
    one, two = (layout.unflatten(start.row(k)) for k in range(2))
    for held in points:
        for name, own in layout.unflatten(held).items():
            a, b = one[name], two[name]
            if own.ndim < 2:
                continue
            low, high = sorted([float(a.var()), float(b.var())])
            assert low * (1 - 1e-9) <= float(own.var()) <= high * (1 + 1e-9)
    first = layout.unflatten(points[0])["0.weight"]  # moved by a quarter of the way, then corrected
    a, b = one["0.weight"], two["0.weight"]
    moved = a + (b - a) / 4
    v = 0.75 * a.var() + 0.25 * b.var()
    torch.testing.assert_close(first, moved.mean() + (v / moved.var()).sqrt() * (moved - moved.mean()))
    assert torch.equal(layout.unflatten(points[0])[layout.names[-1]], one[layout.names[-1]])  # not released yet


def test_a_tick_is_a_fit_of_the_whole_model() -> None:
    ends = [small(0), small(1)]
    start = line(ends)
    plan = Plan(steps=6, batch_size=8, learning_rate=0.02, schedule="cosine")

    train = trainer(toy())
    seen: list[Tensor] = []

    def watch(bridge: Bridge, plan: Plan, seed: int, session: Session, /, guide: Guide | None = None) -> Fitted:
        found = train(bridge, plan, seed, session)
        seen.extend([bridge.free[0], found.bridge.free[0]])
        return found

    layers = flow_order(ends[0], toy().inputs(torch.arange(1)).double())
    route = Route(3, layers, every)
    with untouched(*ends):
        found = walk(start, plan, watch, route, seed=1)
    own = plan.model_copy(update={"steps": 3, "schedule": "constant"})
    model = start.at(0.0)
    with torch.no_grad():
        for name, value in start.layout.unflatten(seen[0]).items():
            dict(model.named_parameters())[name].copy_(value)
    expected = fit_module(model, toy(), own, seed=seed_of(1, "tick", 0))[0]
    flat = torch.cat([p.detach().flatten() for p in expected.parameters()])
    assert torch.equal(seen[1], flat)
    for k in range(2):
        assert_same_bits(tensors_of(found.bridge.at(float(k))), tensors_of(small(k)))


def test_a_stopped_walk_goes_on(tmp_path) -> None:
    plan, train = Plan(steps=8, batch_size=8, learning_rate=0.02), trainer(toy())
    layers = flow_order(small(0), toy().inputs(torch.arange(1)).double())
    whole = walk(line([small(0), small(1)]), plan, train, Route(5, layers, every), seed=1).bridge
    calls: list[int] = []

    def stop(bridge: Bridge, plan: Plan, seed: int, session: Session, /, guide: Guide | None = None) -> Fitted:
        calls.append(seed)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return train(bridge, plan, seed, session)

    session = Session(checkpoint=tmp_path / "checkpoint.pt", every_seconds=0.0)
    start = line([small(0), small(1)])
    with pytest.raises(KeyboardInterrupt):
        walk(start, plan, stop, Route(5, layers, every), seed=1, session=session)
    assert len(list(tmp_path.glob("checkpoint-tick-*.pt"))) == 2
    found = walk(start, plan, stop, Route(5, layers, every), seed=1, session=session).bridge
    assert torch.equal(found.points, whole.points)
    assert found.basis.num_points == 6
    other = walk(start, plan, train, Route(5, layers[::-1], every), seed=1).bridge
    assert not torch.equal(found.points, other.points)


def corner(bridge: Bridge, t: Tensor) -> Tensor:
    """0 on the way over (0, 1), the distance from it elsewhere."""
    values = []
    for x in t:
        a, b = bridge.theta(float(x)).tolist()
        values.append(min(abs(a), abs(b - 1)))
    return torch.tensor(values)


def test_a_path_keeps_only_the_points_it_needs() -> None:
    ends = [
        Vector(torch.tensor([0.0, 0.0], dtype=torch.float64)),
        Vector(torch.tensor([1.0, 1.0], dtype=torch.float64)),
    ]
    route = {0: [0.0, 0.4], 1: [0.0, 1.0], 2: [0.3, 1.0], 3: [0.8, 1.0]}

    def steps(bridge: Bridge, plan: Plan, seed: int, session: Session, /, guide: Guide | None = None) -> Fitted:
        k = next(k for k in route if seed == seed_of(0, "tick", k))
        return still(bridge.with_free(torch.tensor([route[k]], dtype=torch.float64)), plan, seed, session)

    found = walk(line(ends), Plan(steps=4), steps, Route(5, [["values"]], corner), seed=0).bridge
    assert found.points.tolist() == [[0, 0], [0, 1], [1, 1]]
    assert isinstance(found.basis, Chain)
    assert found.basis.knots == pytest.approx((0.0, 0.5, 1.0))
    free = walk(line(ends), Plan(steps=4), steps, Route(5, [["values"]], level), seed=0).bridge
    assert free.points.tolist() == [[0, 0], [1, 1]]


def test_equal_points_are_one() -> None:
    bridge = line([Vector(torch.zeros(1)), Vector(torch.ones(1))])
    points = torch.tensor([[0.0], [0.0], [0.5], [0.5], [1.0], [1.0]])
    found = chain_through(bridge, points)
    assert found.points.tolist() == [[0], [0.5], [1]]
    assert looked_at(found).tolist() == pytest.approx([k / 8 for k in range(9)])
    assert looked_at(found, 1).tolist() == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    same = chain_through(line([Vector(torch.ones(1)), Vector(torch.ones(1))]), torch.ones(4, 1))
    assert same.points.tolist() == [[1], [1]]


def test_what_cannot_be_walked_is_refused() -> None:
    models = [small(0), small(1)]
    with pytest.raises(InputError, match=r"`bridge` should be the straight line between two models\. Found Bernstein"):
        walk(connect(models, Bernstein(2)), Plan(), still, Route(3, [], level), seed=0)
    with pytest.raises(InputError, match=r"`ticks` should be at least 2\. Found 1\."):
        walk(line(models), Plan(), still, Route(1, [], level), seed=0)
    with pytest.raises(InputError, match=r"`steps` should be at least 1 a tick, 9\. Found 8\."):
        walk(line(models), Plan(steps=8), still, Route(10, [], level), seed=0)
