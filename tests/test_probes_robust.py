"""`Robust` against the closed form of linear models, along a bridge, and with warm starts."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from contracts.modules import seeded, untouched
from isthmus._check import InputError
from isthmus.attacks.pgd import PGD
from isthmus.attacks.threat import Norm, Threat
from isthmus.data import Samples
from isthmus.geometry.build import line
from isthmus.probes import Clean, Robust
from isthmus.scan import Row, Watch, scan

STEEP = PGD(steps=25, step=0.3)


def middle(n: int = 40) -> Samples:
    """Inputs far from the walls of the box, so that the ball alone binds."""
    x = 0.4 + 0.2 * torch.rand(n, 6, generator=torch.Generator().manual_seed(0))
    return Samples(x, torch.arange(n) % 2, 2, "drawn/test")


def linear(seed: int = 3) -> nn.Linear:
    with seeded(seed):
        model = nn.Linear(6, 2)
    with torch.no_grad():
        model.weight.mul_(8)
        model.bias.copy_(-model.weight @ torch.full((6,), 0.5))
    return model


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("share", [0.01, 0.03])
def test_loss_error_and_success_of_a_linear_model(norm: Norm, share: float) -> None:
    model, samples = linear(), middle()
    radius = share * {"linf": 1.0, "l2": 1.5, "l1": 4.0}[norm]  # so that some fall and some do not
    w, b = (model.weight[0] - model.weight[1]).detach(), (model.bias[0] - model.bias[1]).detach()
    margin = (samples.x @ w + b) * (1 - 2.0 * samples.y)
    worst = margin - radius * {"linf": w.abs().sum(), "l2": w.norm(), "l1": w.abs().max()}[norm]
    assert 0 < (worst > 0).sum() < (margin > 0).sum() < len(samples)
    with untouched(model):
        found = Robust(samples, Threat(norm, radius), STEEP)(model, generator=stream())
    assert found["robust_loss"] == pytest.approx(functional.softplus(-worst).mean().item(), rel=1e-4)
    assert found["robust_error"] == pytest.approx(100 * (worst <= 0).float().mean().item())
    made_wrong = ((margin > 0) & (worst <= 0)).sum() / (margin > 0).sum()
    assert found["evasion_success"] == pytest.approx(100 * made_wrong.item())


def test_columns_say_what_was_done() -> None:
    loss, error, success = Robust(
        middle(), Threat("l2", 0.5), PGD(20, restarts=3), split="validation", name="l2"
    ).columns
    assert (loss.name, error.name, success.name) == (
        "validation_robust_loss_l2",
        "validation_robust_error_l2",
        "validation_evasion_success_l2",
    )
    assert (loss.unit, error.unit, success.unit) == ("nat", "%", "%")
    assert (loss.n, error.n, success.n) == (40, 40, None)
    assert "pgd-20x3, l2 0.5, on drawn/test" in loss.about
    names = set(Robust(middle(), Threat("linf", 0.1))(linear(), generator=stream()))
    assert names == {"robust_loss", "robust_error", "evasion_success"}


def test_never_better_than_the_images_themselves() -> None:
    """A step that overshoots finds points of less loss than the image; the image itself counts too."""
    samples, model = middle(), linear()
    blind = Robust(samples, Threat("linf", 0.02), PGD(1, 1e-9, start=1.0))(model, generator=stream())
    clean = Clean(samples)(model)
    assert blind["robust_loss"] >= clean["test_loss"] - 1e-6
    assert blind["robust_error"] >= clean["test_error"]


def test_a_model_that_is_always_wrong_has_nothing_to_evade() -> None:
    model = nn.Linear(6, 2)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.copy_(torch.tensor([0.0, 1.0]))
    samples = middle().replaced(y=torch.zeros(40, dtype=torch.int64))
    found = Robust(samples, Threat("linf", 0.1), PGD(2))(model, generator=stream())
    assert (found["robust_error"], found["evasion_success"]) == (100.0, 0.0)


def net(seed: int) -> nn.Module:
    with seeded(seed):
        return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))


def weak(samples: Samples, *, warm: bool, batch_size: int = 16) -> Robust:
    return Robust(samples, Threat("linf", 0.3), PGD(2, 0.2), batch_size=batch_size, warm=warm)


def test_a_warm_start_is_beside_a_fresh_one_and_the_worse_is_kept() -> None:
    samples, bridge, points = middle(), line([net(0), net(1)]), [0.0, 0.3, 0.6, 1.0]
    cold = scan(bridge, points, [weak(samples, warm=False)], settle=None).frame["robust_loss"]
    warm = scan(bridge, points, [weak(samples, warm=True)], settle=None).frame["robust_loss"]
    assert warm[0] == cold[0]
    assert (warm >= cold).all()
    assert (warm > cold).any()


def test_a_warm_scan_that_was_stopped_goes_on_as_it_was() -> None:
    samples, bridge, points = middle(), line([net(0), net(1)]), [0.0, 0.3, 0.6, 1.0]
    rows: list[Row] = []
    whole = scan(bridge, points, [weak(samples, warm=True)], settle=None, watch=Watch(rows.append))
    resumed = scan(bridge, points, [weak(samples, warm=True)], settle=None, watch=Watch(print, rows[:2]))
    assert resumed.frame.equals(whole.frame)


def test_bad_input_is_refused() -> None:
    with pytest.raises(InputError, match=r"`batch_size` should be at least 1. Found 0"):
        Robust(middle(), Threat(), batch_size=0)
    with pytest.raises(InputError, match=r"look normalised"):
        Robust(middle().replaced(x=middle().x * 10 - 6), Threat())
