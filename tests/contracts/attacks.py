"""What every attack owes: call `check_attack` in the test of a new one, `check_points` wherever points are returned."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import get_args

import numpy as np
import torch
from torch import Tensor, nn

from isthmus.attacks.protocol import Attack, Attacked, Keep
from isthmus.attacks.threat import Norm, Threat
from isthmus.attacks.victim import attacked
from isthmus.evaluate import correct

SHAPE = (12, 1, 4, 5)
RADII: dict[Norm, float] = {"linf": 0.36, "l2": 1.2, "l1": 3.6}


def ulp(threat: Threat, x: Tensor) -> Tensor:
    """Return one unit in the last place (B,) of the largest number that ball and box are described by."""
    largest = max(abs(threat.low), abs(threat.high))
    return torch.finfo(x.dtype).eps * threat.radii(x).reshape(-1).double().clamp_min(largest)


def check_points(threat: Threat, x: Tensor, points: Tensor) -> None:
    """Assert that each of `points` lies in the ball around x and in the box, to one unit in the last place.

    Counted in extended precision from the definition, without the threat's own arithmetic.
    """
    assert points.shape == x.shape
    assert points.dtype == x.dtype
    one, two = (tensor.flatten(1).numpy().astype(np.longdouble) for tensor in (points, x))
    order = {"linf": np.inf, "l2": 2, "l1": 1}[threat.norm]
    size = torch.tensor([float(np.linalg.norm(row, order)) for row in one - two], dtype=torch.float64)
    room = ulp(threat, x)
    beyond = size - threat.radii(x).reshape(-1).double() - room
    assert bool((beyond <= 0).all()), f"leaves the ball by {float(beyond.max()):.3g} beyond one unit in the last place"
    assert float(points.double().min()) >= threat.low - float(room.max()), "leaves the box below"
    assert float(points.double().max()) <= threat.high + float(room.max()), "leaves the box above"
    assert bool(threat.inside(x, points).all())


class Small(nn.Module):
    """(B, 1, 4, 5) images -> (B, 4) logits: convolution, BatchNorm with statistics of its own, dropout, smooth activation."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.SiLU(), nn.Dropout(0.5))
        self.head = nn.Linear(120, 4)
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for tensor in self.state_dict().values():
                if tensor.is_floating_point():
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) - 0.5)
            self.features[1].running_var.add_(1.0)
            self.head.weight.mul_(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).flatten(1))


def images(dtype: torch.dtype = torch.float32, count: int = SHAPE[0]) -> Tensor:
    """Return images in [0, 1] of which a third of the pixels lie at a wall."""
    noise = torch.rand((count, *SHAPE[1:]), generator=torch.Generator().manual_seed(4), dtype=dtype)
    return (noise * 1.5 - 0.25).clamp(0, 1)


def labels(model: nn.Module, x: Tensor) -> Tensor:
    """Return the classes `model` predicts in evaluation mode, the last one falsified."""
    y = model.eval()(x).argmax(1)
    y[-1] = (y[-1] + 1) % 4
    return y


def attack_small(
    attack: Attack,
    threat: Threat,
    *,
    keep: Keep,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    count: int = SHAPE[0],
) -> tuple[Attacked, Tensor, Tensor]:
    """Return what `attack` finds against the small model, with the images and the labels."""
    model = Small().to(dtype)
    x = images(dtype, count)
    y = labels(model, x)
    with attacked(model, num_classes=4) as victim:
        return attack(victim, threat, x, y, generator=torch.Generator().manual_seed(seed), keep=keep), x, y


@contextmanager
def unchanged(model: nn.Module, *tensors: Tensor) -> Generator[None]:
    """Assert that the body leaves the model, the tensors and the global random stream as they were, also where it raises."""
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags = [(p.requires_grad, p.grad) for p in model.parameters()]
    modes = [module.training for module in model.modules()]
    held = [tensor.clone() for tensor in tensors]
    random = torch.get_rng_state()
    try:
        yield
    finally:
        after = model.state_dict()
        assert list(after) == list(state)
        assert all(torch.equal(after[name], tensor) for name, tensor in state.items()), "a parameter or buffer changed"
        assert [p.requires_grad for p in model.parameters()] == [flag for flag, _ in flags]
        assert all(p.grad is grad for p, (_, grad) in zip(model.parameters(), flags, strict=True))
        assert [module.training for module in model.modules()] == modes
        assert all(torch.equal(one, two) for one, two in zip(tensors, held, strict=True)), "an input was written"
        assert torch.equal(torch.get_rng_state(), random), "the global random stream moved"
        assert torch.is_grad_enabled()


def check_attack(
    attack: Attack, *, norms: tuple[Norm, ...] = get_args(Norm), stronger: Attack | None = None, per_image: bool = True
) -> None:
    """Assert the contract of `attack` in every norm it is for.

    stronger: the same attack with more steps or restarts, whose draws begin with those of `attack`: its loss is never lower.
    per_image: whether a radius for each image means what the same radius for all would mean to that image.
    """
    for norm in norms:
        threat = Threat(norm, RADII[norm])
        _check_results(attack, threat)
        _check_compaction(attack, threat)
        _check_owner(attack, threat)
        if per_image:
            _check_radii(attack, threat)
        if stronger is not None:
            weak, strong = (attack_small(one, threat, keep="loss")[0] for one in (attack, stronger))
            assert bool((strong.loss >= weak.loss).all()), f"{norm}: more effort lowered the loss"
            assert bool((strong.fooled >= weak.fooled).all()), f"{norm}: more effort lost a fooled image"


def _check_results(attack: Attack, threat: Threat) -> None:
    for dtype in (torch.float32, torch.float64):
        for count in (1, SHAPE[0]):
            found, x, y = attack_small(attack, threat, keep="loss", dtype=dtype, count=count)
            assert found.fooled.shape == found.loss.shape == (count,)
            for points in (found.first, found.worst, found.points):
                check_points(threat, x, points)
            again = attack_small(attack, threat, keep="loss", dtype=dtype, count=count)[0]
            assert torch.equal(found.fooled, again.fooled), "not determined by its generator"
            assert torch.equal(found.worst, again.worst), "not determined by its generator"
            wrong = ~correct(Small().to(dtype).eval()(found.first), y)
            assert torch.equal(wrong, found.fooled) or dtype == torch.float32, "the verdict is not that of the points"
            assert torch.equal(found.first[~found.fooled], x[~found.fooled])
            assert bool(found.fooled[-1]), "the image that was wrong to begin with is not counted"
    assert 2 <= int(found.fooled.sum()) < SHAPE[0], "a test in which all or none fall shows nothing: change the radius"


def _check_compaction(attack: Attack, threat: Threat) -> None:
    every, x, _ = attack_small(attack, threat, keep="loss")
    some, _, y = attack_small(attack, threat, keep="verdict")
    assert torch.equal(every.fooled, some.fooled), "a verdict depends on who has left the batch"
    assert bool((every.loss >= some.loss - 1e-9).all()), "keep 'loss' found less than 'verdict'"
    check_points(threat, x, some.points)
    assert torch.equal(~correct(Small().double().eval()(some.points), y), some.fooled)


def _check_owner(attack: Attack, threat: Threat) -> None:
    model = Small().train()
    model.features[1].eval()
    model.head.bias.requires_grad_(False)
    model.head.weight.grad = torch.ones_like(model.head.weight)
    x = images()
    y = torch.arange(len(x)) % 4
    with unchanged(model, x, y), attacked(model, num_classes=4) as victim:
        attack(victim, threat, x, y, generator=torch.Generator().manual_seed(0))
    assert victim.queries > 0


def _check_radii(attack: Attack, threat: Threat) -> None:
    factor = torch.linspace(0.5, 1.5, SHAPE[0], dtype=torch.float64)
    mixed = replace(threat, radius=threat.radius * factor)
    own, x, _ = attack_small(attack, mixed, keep="loss")
    check_points(mixed, x, own.points)
    for i in (0, SHAPE[0] - 2):
        alone, _, _ = attack_small(attack, threat.scaled(float(factor[i])), keep="loss")
        torch.testing.assert_close(own.worst[i], alone.worst[i], rtol=0, atol=1e-9)
        assert bool(own.fooled[i]) == bool(alone.fooled[i])
    with_verdicts, _, _ = attack_small(attack, mixed, keep="verdict")
    assert torch.equal(own.fooled, with_verdicts.fooled)
