"""LLPF: where each tick puts each layer, variances on the way, the order of layers, and what a path can do without."""

import pytest
import torch
from torch import Tensor, nn

from contracts.bridge import Vector
from contracts.modules import assert_same_bits, of_three_kinds, tensors_of, untouched
from fit_example import gradient_plan, small, toy
from isthmus._check import InputError
from isthmus.geometry.bases import Bernstein, Chain
from isthmus.geometry.bridge import Bridge
from isthmus.geometry.build import connect, line
from isthmus.randomness import seed_of
from isthmus.table import Table
from isthmus.training.fit import fit_module
from isthmus.training.grow import trainer
from isthmus.training.guide import Guide
from isthmus.training.layerwise import ROUND, Route, chain_through, flow_order, looked_at, walk
from isthmus.training.objective import Own
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


class Scalar(nn.Module):
    """A model of one number."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor([value], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.value * x.flatten(1)[:, :5]


class Matrices(nn.Module):
    """Two matrices of given scales, both of one direction of mean 0, which can be turned."""

    def __init__(self, wide: float, narrow: float, *, turned: bool = False) -> None:
        super().__init__()
        direction = torch.tensor([[1.0, -1.0], [2.0, -2.0]], dtype=torch.float64)
        direction = direction.T if turned else direction
        self.wide = nn.Parameter(wide * direction)
        self.narrow = nn.Parameter(narrow * direction)


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


def bowl(model: nn.Module, x: Tensor, y: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """theta^2 / 2 for every sample, whatever it is."""
    loss = sum((p.square().sum() for p in model.parameters()), torch.zeros(())) / 2
    return loss.expand(len(y)), torch.zeros(len(y), 5)


def test_a_tick_ends_below_its_loss_and_leaves_its_steps_to_the_others() -> None:
    """On theta^2 / 2 a step of rate 0.1 multiplies theta by 0.9: rounds can be counted."""
    start, end, fall, often, until = 4.0, 1.0, 0.9, 5, 1.3
    plan = gradient_plan(steps=40, learning_rate=1 - fall, log_every=often, until=until)
    asked: list[int] = []
    train = trainer(toy(), lambda _: Own(bowl))

    def watch(bridge: Bridge, plan: Plan, seed: int, session: Session, /, guide: Guide | None = None) -> Fitted:
        asked.append(plan.steps)
        return train(bridge, plan, seed, session)

    ends = [Scalar(value) for value in (start, end)]
    found = walk(line(ends), plan, watch, Route(4, [["value"]], every), seed=0)
    theta, left, points, steps, budgets = start, 40, [start], list[int](), list[int]()
    for k in range(3):
        theta += (end - theta) / (4 - k)
        budgets.append(-(-left // (3 - k)))
        done = 0
        while done < budgets[-1]:
            size = min(often, budgets[-1] - done)
            losses = [(theta * fall**i) ** 2 / 2 for i in range(size)]
            theta, done = theta * fall**size, done + size
            if sum(losses) / size < until:
                break
        steps.append(done)
        left -= done
        points.append(theta)
    assert steps == [10, 5, 5]  # means of 3.62 and 1.26 over the first two rounds, from theta = 3.25
    assert asked == budgets == [14, 15, 25]
    assert found.evaluations == 20
    assert found.history.frame["step"].tolist() == [5, 10, 15, 20]
    assert found.bridge.points[:, 0].tolist() == pytest.approx([*points, end])
    always = walk(line(ends), plan.model_copy(update={"until": None}), train, Route(4, [["value"]], every), seed=0)
    assert always.evaluations == 40
    seldom = walk(line(ends), plan.model_copy(update={"log_every": None}), train, Route(4, [["value"]], every), seed=0)
    assert seldom.history.frame["step"].iloc[0] == ROUND


def test_a_walk_inward_begins_with_equal_steps_towards_the_origin() -> None:
    """One matrix is spread three times as wide as at the end and goes in; the other is narrower than there and stays."""
    ends = [Matrices(6.0, 1.0), Matrices(2.0, 3.0, turned=True)]
    points: list[Tensor] = []

    def noisy(bridge: Bridge, plan: Plan, seed: int, session: Session, /, guide: Guide | None = None) -> Fitted:
        points.append(bridge.free[0])
        return still(bridge.with_free(bridge.free * 1.5), plan, seed, session)

    start = line(ends)
    layout, layers = start.layout, [["wide"], ["narrow"]]
    route = Route(9, layers, every, "inward-first")
    found = walk(start, Plan(steps=8), noisy, route, seed=0)
    goal = torch.cat([start.row(0)[layout.slices[0]] / 3, start.row(0)[layout.slices[1]]])
    shares = [float((a - b).norm()) for a, b in ((start.row(0), goal), (goal, start.row(1)))]
    count = round(9 * shares[0] / sum(shares))
    assert 2 <= count <= 7
    wide = [layout.unflatten(theta)["wide"] for theta in found.bridge.points]
    for k in range(count):
        torch.testing.assert_close(layout.unflatten(points[k])["wide"], (6 - 4 * (k + 1) / count) / 6 * wide[0])
        torch.testing.assert_close(wide[k + 1], (6 - 4 * (k + 1) / count) / 6 * wide[0])
        assert float(layout.unflatten(found.bridge.points[k + 1])["narrow"].norm()) == pytest.approx(
            1.5 ** (k + 1) * float(layout.unflatten(start.row(0))["narrow"].norm())
        )  # the training's, not ours
    assert [float(w.std()) for w in wide[count:]] == pytest.approx([2 * float(wide[0].std()) / 6] * (10 - count))
    assert found.bridge.basis.num_points == 10
    same = walk(start, Plan(steps=8), still, Route(9, layers, every), seed=0).bridge.points
    assert not torch.equal(same[1], found.bridge.points[1])
    turned = line([ends[0], Matrices(6.0, 3.0, turned=True)])  # nothing to shrink
    for way in ("across", "inward-first"):
        one = walk(turned, Plan(steps=8), still, Route(9, layers, every, way), seed=0).bridge.points
        assert torch.equal(one, walk(turned, Plan(steps=8), still, Route(9, layers, every), seed=0).bridge.points)


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
    with pytest.raises(InputError, match=r"`ticks` should be at least 3 to walk inward first\. Found 2\."):
        walk(line(models), Plan(), still, Route(2, [], level, "inward-first"), seed=0)
    with pytest.raises(InputError, match=r"`walk` should be one of across, inward-first\. Found 'outward'"):
        walk(line(models), Plan(), still, Route(3, [], level, "outward"), seed=0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match=r"`steps` should be at least 1 a tick, 9\. Found 8\."):
        walk(line(models), Plan(steps=8), still, Route(10, [], level), seed=0)
