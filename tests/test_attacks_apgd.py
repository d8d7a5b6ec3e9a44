"""APGD: checkpoint tables, linear models whose worst inputs are known on paper, and the published implementation on trained networks."""

from dataclasses import replace
from functools import cache
from math import ceil

import pytest
import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from contracts.attacks import RADII, attack_small, check_attack, check_points
from contracts.modules import seeded
from isthmus._check import InputError
from isthmus.attacks.apgd import APGD, TargetedAPGD
from isthmus.attacks.checkpoints import Rule, checkpoints, wide_schedule
from isthmus.attacks.protocol import Attack, Attacked, Keep
from isthmus.attacks.threat import Norm, Threat
from isthmus.attacks.victim import attacked
from isthmus.evaluate import correct
from isthmus.losses import cross_entropy, dlr, margin

NORMS: tuple[Norm, ...] = ("linf", "l2", "l1")


def run(attack: Attack, model: nn.Module, threat: Threat, x: Tensor, y: Tensor, *, keep: Keep = "verdict") -> Attacked:
    with attacked(model) as victim:
        return attack(victim, threat, x, y, generator=torch.Generator().manual_seed(0), keep=keep)


def linear(classes: int, size: int, generator: torch.Generator, dtype: torch.dtype = torch.float64) -> nn.Linear:
    model = nn.Linear(size, classes).to(dtype)
    for parameter in model.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator, dtype=dtype))
    return model


# Checkpoints


@pytest.mark.parametrize(
    ("steps", "rule", "expected"),
    [
        (100, "official", [22, 41, 57, 70, 80, 87, 93, 99]),
        (100, "paper", [22, 41, 57, 70, 80, 87, 93, 99]),
        (50, "official", [11, 21, 30, 38, 45]),
        (50, "paper", [11, 21, 29, 35, 40, 44, 47, 50]),
        (20, "official", [4, 7, *range(9, 21)]),
        (20, "paper", [5, 9, 12, 14, 16, 18, 19, 20]),
        (10, "official", [*range(2, 11)]),
        (10, "paper", [3, 5, 6, 7, 8, 9, 10]),
        (1, "official", [1]),
        (1, "paper", [1]),
    ],
)
def test_checkpoints_are_those_of_the_authors_code_and_of_the_paper(steps: int, rule: Rule, expected: list[int]):
    assert list(checkpoints(steps, rule)) == expected


@pytest.mark.parametrize("rule", ["official", "paper"])
def test_checkpoints_increase_and_end_within_the_steps(rule: Rule) -> None:
    for steps in range(1, 400):
        found = checkpoints(steps, rule)
        assert list(found) == sorted(set(found))
        assert found[0] >= 1
        assert found[-1] <= steps


def test_the_wide_schedule_is_30_30_40_percent_and_leaves_a_step_for_the_radius_itself() -> None:
    assert wide_schedule(10) == ((3.0, 3), (2.0, 3), (1.0, 4))
    assert wide_schedule(25) == ((3.0, 8), (2.0, 8), (1.0, 9))
    assert wide_schedule(3) == ((3.0, 1), (2.0, 1), (1.0, 1))
    assert wide_schedule(2) == ((1.0, 2),)
    for steps in range(1, 60):
        assert sum(taken for _, taken in wide_schedule(steps)) == steps
        assert wide_schedule(steps)[-1][1] >= 1


def test_what_cannot_be_used_is_refused() -> None:
    with pytest.raises(InputError, match=r"`steps` should be at least 1. Found 0"):
        checkpoints(0)
    with pytest.raises(InputError, match=r"`rule` should be one of official, paper. Found 'papers'.*'paper'"):
        APGD(rule="papers")  # pyright: ignore[reportArgumentType]
    for kind in (APGD, TargetedAPGD):
        with pytest.raises(InputError, match=r"`steps` should be at least 1. Found 0"):
            kind(steps=0)
        with pytest.raises(InputError, match=r"`restarts` should be at least 1. Found 0"):
            kind(restarts=0)
    with pytest.raises(InputError, match=r"`targets` should be at least 1. Found 0"):
        TargetedAPGD(targets=0)
    for rho in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match=r"`rho` should be in \[0, 1\]. Found"):
            APGD(rho=rho)


def test_names_say_loss_and_restarts() -> None:
    assert [APGD().name, APGD(loss=dlr).name, APGD(loss=margin).name] == ["apgd-ce", "apgd-dlr", "apgd-margin"]
    assert APGD(restarts=5).name == "apgd-cex5"
    assert [TargetedAPGD().name, TargetedAPGD(restarts=2).name] == ["apgd-t", "apgd-tx2"]


# The contract of every attack


@pytest.mark.parametrize(
    ("attack", "stronger"),
    [
        (APGD(steps=9), APGD(steps=9, restarts=2)),
        (APGD(steps=7, loss=dlr, rule="paper"), None),
        (TargetedAPGD(steps=5, targets=1), TargetedAPGD(steps=5, targets=3)),
    ],
    ids=lambda attack: attack.name if attack else "-",
)
def test_the_contract_of_every_attack(attack: Attack, stronger: Attack | None) -> None:
    check_attack(attack, stronger=stronger)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("kind", "before"), [(APGD(steps=10), 0), (TargetedAPGD(steps=10, targets=2), 1)])
def test_a_step_is_one_pass_forward_and_one_backward(kind: Attack, before: int, norm: Norm) -> None:
    """`before`: passes at the images themselves. A radius of nothing leaves every image robust."""
    model = linear(4, 6, torch.Generator().manual_seed(1))
    x = torch.rand(5, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    y = model(x).argmax(1)
    runs, stages = (2 if before else 1), (3 if norm == "l1" else 1)
    with attacked(model) as victim:
        kind(victim, Threat(norm, 1e-9), x, y, generator=torch.Generator().manual_seed(0))
        assert victim.queries == 5 * (before + runs * (10 + stages))
        assert victim.gradients == 5 * runs * 10
    with attacked(model) as victim:
        kind(victim, Threat(norm, 1e-9), x, y, generator=torch.Generator().manual_seed(0), keep="last")
        assert victim.queries == 5 * (before + runs * (10 + stages - 1))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_fooled_images_cost_nothing_more_and_the_attack_stops_when_all_are(norm: Norm) -> None:
    model = linear(4, 6, torch.Generator().manual_seed(1))
    x = torch.rand(5, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    y = (model(x).argmax(1) + 1) % 4
    for kind in (APGD(restarts=3), TargetedAPGD(restarts=3)):
        with attacked(model) as victim:
            found = kind(victim, Threat(norm, 1e-9), x, y, generator=torch.Generator().manual_seed(0))
        assert found.fooled.all()
        assert (victim.queries, victim.gradients) == (5, 0)


def test_targets_are_as_many_as_there_are_other_classes_and_four_classes_are_needed() -> None:
    x = torch.rand(3, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for classes in (4, 6):
        model = linear(classes, 6, torch.Generator().manual_seed(1))
        with attacked(model) as victim:
            y = victim.logits(x).argmax(1)
            TargetedAPGD(steps=2)(victim, Threat("l2", 1e-9), x, y, generator=torch.Generator())
            assert victim.gradients == 3 * 2 * (classes - 1)
    model = linear(3, 6, torch.Generator().manual_seed(1))
    with pytest.raises(
        InputError, match=r"`model` should return logits of 4 classes or more.*Found 3 classes. Use APGD"
    ):
        run(TargetedAPGD(), model, Threat("l2", 0.1), x, model(x).argmax(1))
    two = linear(2, 6, torch.Generator().manual_seed(1))
    with pytest.raises(InputError, match=r"`logits` should have 3 classes or more for `dlr`. Found 2 classes"):
        run(APGD(loss=dlr), two, Threat("l2", 0.1), x, two(x).argmax(1))


# Linear models


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("keep", ["loss", "last"])
@pytest.mark.parametrize("low", [0.0, -9.0])
def test_two_classes_reach_the_optimum_over_ball_and_box(
    norm: Norm, keep: Keep, low: float, generator: torch.Generator
) -> None:
    model = linear(2, 30, generator)
    x = torch.rand(20, 30, generator=generator, dtype=torch.float64)
    y = torch.arange(20) % 2
    radius = torch.linspace(0.5, 1.0, 20, dtype=torch.float64) * {"linf": 0.3, "l2": 0.8, "l1": 2.0}[norm]
    threat = Threat(norm, radius, low, 1.0 - low)  # the wider box is never met
    weight = model.weight.detach()
    ascent = weight[1 - y] - weight[y]
    dual = {"linf": 1.0, "l2": 2.0, "l1": torch.inf}[norm]
    gain = radius * torch.linalg.vector_norm(ascent, dual, dim=1)
    if low == 0:
        gain = (ascent * (threat.best_response(x, ascent) - x)).sum(1)
    found = run(APGD(steps=100), model, threat, x, y, keep=keep)
    check_points(threat, x, found.worst)
    reached = (margin(model(found.worst), y) - margin(model(x), y)).detach()
    # L1 steps shrink to a tenth of the radius and no further: the last iterate is not the best one.
    tolerance = {"linf": 1e-12, "l2": 1e-6, "l1": 2e-3 if keep == "loss" else 5e-2}[norm]
    torch.testing.assert_close(reached, gain, rtol=tolerance, atol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_targets_find_the_smallest_radius_of_many_classes_within_one_percent(
    norm: Norm, generator: torch.Generator
) -> None:
    """An image falls exactly where margin_j <= radius ||w_j - w_y||_dual for some class j."""
    model = linear(6, 12, generator)
    x = torch.randn(60, 12, generator=generator, dtype=torch.float64)
    logits, weight = model(x).detach(), model.weight.detach()
    y = logits.argmax(1)
    dual = {"linf": 1.0, "l2": 2.0, "l1": torch.inf}[norm]
    slopes = torch.linalg.vector_norm(weight[None] - weight[y][:, None], dual, dim=2)
    gaps = logits.gather(1, y[:, None]) - logits
    nearest = (gaps / slopes).nan_to_num(torch.inf).amin(1)
    for factor, falls in ((1.01, True), (0.99, False)):
        threat = Threat(norm, nearest * factor, -99.0, 99.0)
        found = run(TargetedAPGD(steps=40), model, threat, x, y)
        assert found.fooled.tolist() == [falls] * 60


# The algorithm, image by image


def plain(model: nn.Module, threat: Threat, x: Tensor, y: Tensor, start: Tensor, attack: APGD) -> tuple[float, Tensor]:
    """Return the highest loss around one image (1, ...) and its point: algorithm 1 of the paper written down, for a box never met."""
    radius = threat.radius

    def value(point: Tensor) -> tuple[float, Tensor]:
        leaf = point.clone().requires_grad_()
        loss = attack.loss(model(leaf), y)
        return loss.item(), torch.autograd.grad(loss.sum(), leaf)[0]

    def into(point: Tensor) -> Tensor:
        delta = point - x
        if threat.norm == "linf":
            return x + delta.clamp(-radius, radius)
        return x + delta * min(1.0, radius / delta.norm().item())

    now = before = start
    loss, gradient = value(now)
    losses, best, eta, halved, since = [loss], (loss, now, gradient), 2 * radius, True, 0
    unchanged = loss
    for k in range(1, attack.steps + 1):
        direction = gradient.sign() if threat.norm == "linf" else gradient / gradient.norm()
        tip = into(now + eta * direction)
        moved = tip if k == 1 else into(now + 0.75 * (tip - now) + 0.25 * (now - before))
        before, now = now, moved
        loss, gradient = value(now)
        losses.append(loss)
        best = max(best, (loss, now, gradient), key=lambda entry: entry[0])
        if k in checkpoints(attack.steps, attack.rule):
            rises = sum(losses[i + 1] > losses[i] for i in range(since, k))
            halved = rises <= attack.rho * (k - since) or (not halved and best[0] == unchanged)
            if halved:
                eta, now, gradient = eta / 2, best[1], best[2]
            unchanged, since = best[0], k
    return best[:2]


def smooth() -> tuple[nn.Module, Tensor, Tensor]:
    """A network with a curved loss, inputs and labels."""
    with seeded(3):
        model = nn.Sequential(nn.Linear(10, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 4)).double()
    model.requires_grad_(False)
    for parameter in model.parameters():
        parameter.mul_(4.0)
    x = torch.rand(9, 10, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return model, x, torch.arange(9) % 4


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(
    "attack",
    [APGD(steps=30), APGD(steps=30, rho=0.4), APGD(steps=30, rule="paper"), APGD(steps=30, loss=dlr)],
    ids=["ce", "rho", "paper", "dlr"],
)
def test_the_batch_does_what_the_algorithm_does_with_each_image(norm: Norm, attack: APGD) -> None:
    model, x, y = smooth()
    threat = Threat(norm, 0.3, -9.0, 9.0)
    found = run(attack, model, threat, x, y, keep="loss")
    draw = torch.rand if norm == "linf" else torch.randn
    noise = draw(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    noise = noise * 2 - 1 if norm == "linf" else noise
    order = torch.inf if norm == "linf" else 2.0
    start = x + 0.3 * noise / torch.linalg.vector_norm(noise, order, dim=1, keepdim=True)
    for i in range(9):
        loss, point = plain(model, threat, x[i : i + 1], y[i : i + 1], start[i : i + 1], attack)
        assert found.loss[i].item() == pytest.approx(loss, rel=1e-9)
        torch.testing.assert_close(found.worst[i : i + 1], point, rtol=0, atol=1e-7)


def plain_sparse(model: nn.Module, radius: float, x: Tensor, y: Tensor, start: Tensor, steps: int) -> tuple[float, int]:
    """Return the highest loss of the last stage of an L1 run around one image (1, d), and how often it went back to its best point."""

    def value(point: Tensor) -> tuple[float, Tensor]:
        leaf = point.clone().requires_grad_()
        loss = cross_entropy(model(leaf), y)
        return loss.item(), torch.autograd.grad(loss.sum(), leaf)[0]

    def into(point: Tensor, size: float) -> Tensor:  # Duchi et al. 2008, by sorting
        delta = point - x
        if delta.abs().sum() <= size:
            return point
        mu = delta.abs().flatten().sort(descending=True).values
        excess = (mu.cumsum(0) - size) / torch.arange(1, len(mu) + 1)
        tau = excess[int((mu > excess).nonzero().max())]
        return x + delta.sign() * (delta.abs() - tau).clamp_min(0)

    now, best, returns = into(start, 3 * radius), (0.0, start, start), 0
    for factor, count in wide_schedule(steps):
        size = eta = factor * radius
        now = into(now, size)
        loss, gradient = value(now)
        best, support = (loss, now, gradient), int((now != x).sum())
        for k in range(1, count + 1):
            entries = 1 if support <= 2 else ceil(2 * support / 3)
            chosen = gradient.abs()[0].argsort(descending=True)[:entries]
            now = now.clone()
            now[0, chosen] += eta / entries * gradient[0, chosen].sign()
            now = into(now, size)
            loss, gradient = value(now)
            best = max(best, (loss, now, gradient), key=lambda entry: entry[0])
            if k % max(4 * count // 100, 1) == 0:
                before, support = support, int((best[1] != x).sum())
                if support < 0.95 * before:
                    returns += 1
                    eta, now, gradient = size, best[1], best[2]
                else:
                    eta = max(eta / 1.5, size / 10)
        now = best[1]
    return best[0], returns


@pytest.mark.parametrize(("steps", "radius"), [(10, 0.7), (130, 1.5)])
def test_the_batch_takes_the_sparse_steps_of_each_image(steps: int, radius: float) -> None:
    model, x, y = smooth()
    found = run(APGD(steps=steps), model, Threat("l1", radius, -99.0, 99.0), x, y, keep="loss")
    start = x + torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    each = [plain_sparse(model, radius, x[i : i + 1], y[i : i + 1], start[i : i + 1], steps) for i in range(9)]
    assert sum(returns for _, returns in each) >= 5, "a case without returns shows half"
    expected = torch.tensor([loss for loss, _ in each], dtype=x.dtype)
    # A coordinate that the projection cuts to zero exactly is one that rounding may leave: such an image goes another way, one in twenty.
    assert torch.isclose(found.loss, expected, rtol=1e-9, atol=0).sum() >= 7


def test_each_setting_changes_what_is_found() -> None:
    threat = Threat("linf", RADII["linf"])
    base = attack_small(APGD(steps=20), threat, keep="loss")[0].worst
    for change in ({"steps": 19}, {"rho": 0.2}, {"rule": "paper"}, {"loss": dlr}, {"restarts": 2}):
        assert not torch.equal(attack_small(replace(APGD(steps=20), **change), threat, keep="loss")[0].worst, base)


class Contiguous(nn.Module):
    """Refuses channels-last images, as a model whose forward uses `view` does."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.view(len(x), -1).view(x.shape))


@pytest.mark.parametrize("norm", NORMS)
def test_the_order_of_channels_in_memory_changes_nothing(norm: Norm) -> None:
    with seeded(1):
        model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.SiLU(), nn.Flatten(), nn.Linear(60, 4)).double()
    x = torch.rand(8, 3, 5, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    y = model(x).argmax(1)
    threat = Threat(norm, {"linf": 0.1, "l2": 0.5, "l1": 2.0}[norm])
    for keep in ("loss", "verdict"):
        one, two = (run(APGD(steps=12), each, threat, x, y, keep=keep) for each in (model, Contiguous(model)))
        assert torch.equal(one.fooled, two.fooled)
        torch.testing.assert_close(one.worst, two.worst, rtol=0, atol=1e-9)


@pytest.mark.parametrize("norm", NORMS)
def test_a_gradient_that_is_no_number_leads_nowhere(norm: Norm) -> None:
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([[0.0, 1.0, 2.0], [0.0, -1.0, 1.0]], dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return x.sqrt() @ self.weight.T  # at 0: slope infinity, times weight 0 is NaN

    x = torch.tensor([[0.0, 0.0, 0.9], [0.0, 0.3, 0.0]], dtype=torch.float64)
    threat = Threat(norm, 0.05)
    found = run(APGD(steps=10), Root(), threat, x, torch.tensor([0, 0]), keep="loss")
    check_points(threat, x, found.worst)
    assert torch.isfinite(found.loss).all()
    assert not found.fooled.any()


# The published implementation


@cache
def digits() -> tuple[nn.Module, Tensor, Tensor]:
    """A network trained on noisy one-step adversarial digits, and test images that it classifies correctly."""
    images, classes = load_digits(return_X_y=True)
    with seeded(0):
        order = torch.randperm(len(images))
        x = torch.tensor(images / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)[order]
        y = torch.tensor(classes)[order]
        model = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
        )
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        for _ in range(15):
            for rows in torch.randperm(1500).split(100):
                start = (x[rows] + torch.empty_like(x[rows]).uniform_(-0.15, 0.15)).requires_grad_()
                ascent = torch.autograd.grad(functional.cross_entropy(model(start), y[rows]), start)[0].sign()
                crafted = (start.detach() + 0.15 * ascent).clamp(x[rows] - 0.15, x[rows] + 0.15).clamp(0, 1)
                optimizer.zero_grad()
                functional.cross_entropy(model(crafted), y[rows]).backward()
                optimizer.step()
    good = correct(model(x[1500:]), y[1500:])
    return model.eval(), x[1500:][good][:150], y[1500:][good][:150]


def published(attack: APGD | TargetedAPGD, threat: Threat) -> Tensor:
    """Return which digits the authors' code leaves robust."""
    model, x, y = digits()
    common = {
        "n_iter": attack.steps,
        "norm": {"linf": "Linf", "l2": "L2", "l1": "L1"}[threat.norm],
        "eps": threat.radius,
        "use_largereps": threat.norm == "l1",
        "device": "cpu",
    }
    if isinstance(attack, APGD):
        theirs = APGDAttack(model, loss="dlr" if attack.loss is dlr else "ce", **common)
    else:
        theirs = APGDAttack_targeted(model, n_target_classes=attack.targets, **common)
    with torch.random.fork_rng(devices=[]):
        return correct(model(theirs.perturb(x.clone(), y.clone())), y)


@pytest.mark.filterwarnings("ignore:.*zero gradient")
@pytest.mark.parametrize(("norm", "radius"), [("linf", 0.15), ("l2", 0.7), ("l1", 2.0)])
@pytest.mark.parametrize(
    "attack",
    [APGD(steps=40), APGD(steps=40, loss=dlr), TargetedAPGD(steps=20, targets=4)],
    ids=lambda attack: attack.name,
)
def test_verdicts_are_those_of_the_published_implementation(
    norm: Norm, radius: float, attack: APGD | TargetedAPGD
) -> None:
    """The seed gives both the same starts, so what differs is rounding and what the docstrings call corrected: in L1 the steps."""
    model, x, y = digits()
    threat = Threat(norm, radius)
    theirs = published(attack, threat)
    found = run(attack, model, threat, x, y)
    check_points(threat, x, found.points)
    assert torch.equal(~correct(model(found.points), y), found.fooled)
    ours = ~found.fooled
    assert 10 <= ours.sum() <= len(x) - 10, "a test in which all or none fall shows nothing"
    if norm != "l1":
        assert (ours != theirs).sum() <= 3
    assert ours.sum() <= theirs.sum() + 1
