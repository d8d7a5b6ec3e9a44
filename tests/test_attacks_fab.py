"""FAB-T and its projections: against linear programs, linear models, and the published implementation."""

import pytest
import torch
from pyautoattack.fab_pt import FABAttack_PT
from scipy.optimize import brentq, linprog
from torch import Tensor, nn

from contracts.attacks import check_attack, check_points
from digits_example import DIGITS_EPS, Counted, hard_digits
from isthmus._check import InputError
from isthmus.attacks.fab import FAB
from isthmus.attacks.hyperplane import SELECTED, onto_hyperplane
from isthmus.attacks.threat import Norm, Threat
from isthmus.attacks.victim import attacked
from isthmus.evaluate import correct

NORMS: tuple[Norm, ...] = ("linf", "l2", "l1")
DUAL = {"linf": 1, "l2": 2, "l1": float("inf")}
OFFICIAL = {"linf": "Linf", "l2": "L2", "l1": "L1"}


def exact(norm: Norm, x: Tensor, normal: Tensor, gap: float, box: tuple[float, float]) -> float:
    """The smallest norm of d with <normal, d> = gap and x + d in the box, for one point in float64; inf where there is none."""
    low, high = (box[0] - x).tolist(), (box[1] - x).tolist()
    w, size = normal.tolist(), len(x)
    most = sum(max(a * b, a * c) for a, b, c in zip(w, low, high, strict=True))
    least = sum(min(a * b, a * c) for a, b, c in zip(w, low, high, strict=True))
    if not least <= gap <= most:
        return float("inf")
    if norm == "l2":
        lower, upper = torch.tensor(low).double(), torch.tensor(high).double()
        moved = lambda level: (level * normal).clamp(lower, upper)  # noqa: E731
        level = brentq(lambda level: float(moved(level) @ normal) - gap, -1e9, 1e9, xtol=1e-14, maxiter=1000)
        return float(moved(level).norm())
    if norm == "linf":  # variables d and t >= |d_i|
        rows = [[(s if j == i else 0) for j in range(size)] + [-1] for i in range(size) for s in (1, -1)]
        found = linprog(
            [0] * size + [1], rows, [0] * len(rows), [[*w, 0]], [gap], [*zip(low, high, strict=True), (0, None)]
        )
    else:  # d = up - down
        bounds = [(0, b) for b in high] + [(0, -a) for a in low]
        found = linprog([1] * (2 * size), A_eq=[[*w, *(-v for v in w)]], b_eq=[gap], bounds=bounds)
    assert found.success
    return float(found.fun)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("box", [(0.0, 1.0), (-2.0, 0.5)])
def test_steps_onto_a_hyperplane_are_those_of_an_exact_solver(
    norm: Norm, box: tuple[float, float], generator: torch.Generator
) -> None:
    threat = Threat(norm, 1.0, *box)
    for size in (1, 2, 9):
        points = torch.rand(2, 12, size, generator=generator, dtype=torch.float64) * (box[1] - box[0]) + box[0]
        points[:, ::3] = points[:, ::3].round().clamp(*box)  # at the walls
        normal = torch.randn(12, size, generator=generator, dtype=torch.float64)
        normal[1::4, 0] = 0
        gap = torch.randn(2, 12, generator=generator, dtype=torch.float64) * 0.3 * size
        gap[:, 0] = 0
        d = onto_hyperplane(threat, points, normal, gap)
        assert float((points + d).min()) >= box[0] - 1e-12
        assert float((points + d).max()) <= box[1] + 1e-12
        met = (d * normal).sum(-1)
        reached = 0
        for i in range(2):
            for j in range(12):
                best = exact(norm, points[i, j], normal[j], float(gap[i, j]), box)
                if best < float("inf"):
                    reached += 1
                    torch.testing.assert_close(met[i, j], gap[i, j], rtol=1e-9, atol=1e-10)
                    assert float(threat.size(d[i, j][None])) == pytest.approx(best, rel=1e-7, abs=1e-9)
                else:  # the corner that comes nearest
                    upward = (normal[j] > 0) == (gap[i, j] > 0)
                    corner = torch.where(upward, box[1], box[0]).where(normal[j] != 0, points[i, j])
                    torch.testing.assert_close(points[i, j] + d[i, j], corner)
        assert size == 1 or 0 < reached < 24


@pytest.mark.parametrize("norm", NORMS)
def test_steps_in_many_dimensions_meet_the_hyperplane_at_every_scale(norm: Norm, generator: torch.Generator) -> None:
    size = 20 * SELECTED
    points = torch.rand(40, size, generator=generator)
    normal = torch.randn(40, size, generator=generator)
    part = torch.logspace(-4, -0.02, 40)  # up to nearly all that the box leaves
    room = torch.where(normal > 0, 1 - points, points)
    gap = part * (normal.abs() * room).sum(-1)
    usual = onto_hyperplane(Threat(norm, 1.0), points, normal, gap)
    torch.testing.assert_close((usual * normal).sum(-1), gap, rtol=1e-4, atol=1e-5)
    for scale in (1e-20, 1e20):
        found = onto_hyperplane(Threat(norm, 1.0), points, normal * scale, gap * scale)
        torch.testing.assert_close(found, usual, rtol=1e-3, atol=1e-5)
    assert not onto_hyperplane(Threat(norm, 1.0), points, 0 * normal, gap).any()


def linear(classes: int, shape: tuple[int, ...], generator: torch.Generator) -> nn.Sequential:
    layer = nn.Linear(torch.Size(shape).numel(), classes).double()
    for parameter in layer.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return nn.Sequential(nn.Flatten(), layer)


def minimal(attack: FAB, model: nn.Module, threat: Threat, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, int]:
    with attacked(model) as victim:
        size, points = attack.minimal(victim, threat, x, y, generator=torch.Generator().manual_seed(0))
    return size, points, victim.queries


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(6,), (1, 5, 3), (3, 4, 6)])
def test_the_minimal_radius_of_a_linear_model_within_one_percent(
    norm: Norm, shape: tuple[int, ...], generator: torch.Generator
) -> None:
    model = linear(5, shape, generator)
    x = torch.rand(30, *shape, generator=generator, dtype=torch.float64)
    logits = model(x).detach()
    y = logits.argmax(1)
    y[0] = logits[0].argmin()
    w = model[1].weight.detach()
    gaps = logits.gather(1, y[:, None]) - logits
    lengths = torch.linalg.vector_norm(w[y][:, None] - w, DUAL[norm], dim=2)
    closed = (gaps / lengths).scatter(1, y[:, None], torch.inf).amin(1).clamp_min(0)
    wide = Threat(norm, 1.0, -50.0, 50.0)  # a box that plays no part
    size, points, _ = minimal(FAB(steps=20), model, wide, x, y)
    torch.testing.assert_close(size, closed, rtol=0.01, atol=0)
    assert bool((size >= closed * (1 - 1e-9)).all())
    assert not correct(model(points), y).any()
    torch.testing.assert_close(wide.size(points - x), size)
    assert size[0] == 0
    assert torch.equal(points[0], x[0])
    # The published code stops at the overshoot; so does the verdict.
    with attacked(model) as victim:
        rough = FAB(steps=20)(victim, wide.scaled(40), x, y, generator=generator, keep="loss")
    torch.testing.assert_close(-rough.loss, closed, rtol=0.01, atol=0)
    assert torch.equal(rough.worst, rough.first)
    torch.testing.assert_close(wide.size(rough.worst - x), -rough.loss)


@pytest.mark.parametrize("norm", NORMS)
def test_the_minimal_radius_within_one_percent_where_the_box_is_in_the_way(
    norm: Norm, generator: torch.Generator
) -> None:
    model = linear(4, (8,), generator)
    x = (torch.rand(24, 8, generator=generator, dtype=torch.float64) * 2 - 0.5).clamp(0, 1)
    logits = model(x).detach()
    y = logits.argmax(1)
    w = model[1].weight.detach()
    best = torch.tensor(
        [
            min(
                exact(norm, x[i], w[j] - w[y[i]], float(logits[i, y[i]] - logits[i, j]), (0.0, 1.0))
                for j in range(4)
                if j != int(y[i])
            )
            for i in range(len(x))
        ]
    ).double()
    free = (logits.gather(1, y[:, None]) - logits) / torch.linalg.vector_norm(w[y][:, None] - w, DUAL[norm], dim=2)
    free = free.scatter(1, y[:, None], torch.inf).amin(1)
    assert int((best > 1.05 * free).sum()) >= 5, "the box plays no part"
    size, points, _ = minimal(FAB(steps=40), model, Threat(norm, 0.1), x, y)
    torch.testing.assert_close(size, best, rtol=0.01, atol=1e-9)
    assert not correct(model(points), y).any()
    assert float(points.min()) >= 0
    assert float(points.max()) <= 1
    model[1].bias.data[0] += 100  # no other class is left in the box
    size, points, _ = minimal(FAB(steps=5), model, Threat(norm, 0.1), x, torch.zeros_like(y))
    assert bool(size.isinf().all())
    assert torch.equal(points, x)


@pytest.mark.parametrize(
    ("attack", "stronger"),
    [(FAB(steps=3), FAB(steps=6)), (FAB(steps=2, restarts=2), FAB(steps=2, restarts=3)), (FAB(steps=1), None)],
    ids=["steps", "restarts", "one-step"],
)
def test_the_contract_of_every_attack(attack: FAB, stronger: FAB | None) -> None:
    check_attack(attack, stronger=stronger)


class Bent(nn.Module):
    """Two-class logits whose difference is that of a linear model, bent; a third class is out of reach."""

    def __init__(self, generator: torch.Generator):
        super().__init__()
        self.first = nn.Linear(6, 12).double()
        self.last = nn.Linear(12, 4).double()
        for parameter in self.parameters():
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x)))


def test_every_setting_changes_what_is_found(generator: torch.Generator) -> None:
    model = Bent(generator)
    x = torch.rand(20, 6, generator=generator, dtype=torch.float64)
    y = model(x).argmax(1)
    threat = Threat("l2", 0.3)
    base = {"steps": 8, "targets": 2, "restarts": 1}
    usual = minimal(FAB(**base), model, threat, x, y)[0]
    for other in ({"targets": 1}, {"restarts": 2}, {"steps": 4}, {"eta": 1.5}, {"beta": 0.5}, {"alpha_max": 0.0}):
        found = minimal(FAB(**{**base, **other}), model, threat, x, y)[0]
        assert not torch.equal(found, usual), other
    more = minimal(FAB(**{**base, "targets": 3}), model, threat, x, y)[0]
    assert torch.equal(more, minimal(FAB(**{**base, "targets": 9}), model, threat, x, y)[0])  # four classes
    assert bool((more <= usual * 1.001).all())


def test_points_beyond_the_radius_are_no_verdict_and_cost_one_pass_a_step(generator: torch.Generator) -> None:
    model = linear(3, (10,), generator)
    x = torch.rand(16, 10, generator=generator, dtype=torch.float64)
    y = model(x).argmax(1)
    size, _, _ = minimal(FAB(), model, Threat("l2", 1.0, -9, 9), x, y)
    for factor, expected in ((0.98, 0), (1.02, 16)):
        threat = Threat("l2", factor * size, -9, 9)
        with attacked(model) as victim:
            found = FAB(steps=30)(victim, threat, x, y, generator=generator)
        assert int(found.fooled.sum()) == expected
        check_points(threat, x, found.points)
        assert torch.equal(~correct(model(found.points), y), found.fooled)
        if not expected:
            assert torch.equal(found.points, x)
            # One pass at the image for each of two targets; each step but the last visits one place, the last none that counts.
            assert victim.queries == 16 * (1 + 2 * 30)
            assert victim.gradients == 16 * 2 * 30
        else:
            assert victim.queries <= 16 * 2 * 4


def test_logits_that_are_no_numbers_lead_nowhere() -> None:
    class Cliff(nn.Module):
        """A gradient without a number at every image, though its logits are numbers."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            flat = (x * 0).sum(1).sqrt() * self.weight
            return torch.stack([1 + flat, -flat], 1)

    x = torch.rand(4, 3)
    y = torch.zeros(4, dtype=torch.long)
    with attacked(Cliff()) as victim:
        assert victim.look(x).gradient(lambda out: out[:, 0]).isnan().all()
        found = FAB(steps=5)(victim, Threat("l2", 0.5), x, y, generator=torch.Generator().manual_seed(0))
    assert not found.fooled.any()
    assert torch.equal(found.points, x)


@pytest.mark.parametrize("norm", NORMS)
def test_agrees_with_the_published_implementation_image_by_image(norm: Norm) -> None:
    model, x, y = hard_digits()
    radius = DIGITS_EPS[norm]
    threat = Threat(norm, radius)
    with attacked(model, num_classes=10) as victim:
        ours = FAB(steps=15, targets=4)(victim, threat, x, y, generator=torch.Generator().manual_seed(0))
    check_points(threat, x, ours.points)
    counted = Counted(model)
    with torch.random.fork_rng():
        theirs = FABAttack_PT(
            counted, OFFICIAL[norm], n_iter=15, eps=radius, targeted=True, n_target_classes=4, device="cpu"
        ).perturb(x, y)
    fooled = ~correct(model(theirs), y) & (threat.size(theirs - x) <= radius)
    assert 0.2 * len(x) < int(fooled.sum()) < 0.8 * len(x), "a test in which all or none fall shows nothing"
    assert int((ours.fooled != fooled).sum()) <= 2
    assert int(ours.fooled.sum()) >= int(fooled.sum()) - 1
    assert victim.queries < 0.75 * counted.forwards


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "`steps` should be at least 1. Found 0."),
        ({"targets": 0}, "`targets` should be at least 1. Found 0."),
        ({"restarts": 0}, "`restarts` should be at least 1. Found 0."),
        ({"eta": 0.9}, "`eta` should be at least 1, where 1 stops at the hyperplane. Found 0.9."),
        ({"beta": 1.0}, "`beta` should be between 0 and 1. Found 1.0."),
        ({"alpha_max": 1.5}, r"`alpha_max` should be in \[0, 1\]. Found 1.5."),
    ],
)
def test_settings_out_of_range(settings: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        FAB(**settings)


def test_names() -> None:
    assert FAB().name == "fab-t"
    assert FAB(restarts=5).name == "fab-tx5"
