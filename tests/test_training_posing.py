"""Posing a set of samples: every objective, batch by batch, the same at equal weights, at other weights anew."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from contracts.modules import seeded, untouched
from isthmus._check import InputError
from isthmus.data.samples import Samples
from isthmus.problem import Posed
from isthmus.tampering.triggers import Patch
from isthmus.training.adversary import Adversary
from isthmus.training.objective import Supervised
from isthmus.training.posing import posing, triggered


def images(n: int = 10) -> Samples:
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(256, (n, 1, 6, 6), generator=generator).to(torch.uint8)
    return Samples(x, torch.arange(n) % 3, 3, "drawn/test")


def net(dtype: torch.dtype = torch.float32) -> nn.Module:
    with seeded(0):
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.ReLU(), nn.Linear(12, 3)).to(dtype)


def mean_loss(problems: list[Posed]) -> Tensor:
    return torch.cat([problem()[0] for problem in problems]).mean()


def posed(objective, model: nn.Module, **more) -> list[Posed]:
    return list(posing(objective, images(), **{"batch_size": 4, **more})(model))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_sample_is_posed_once_in_order(dtype: torch.dtype) -> None:
    model, samples = net(dtype), images()
    problems = posed(Supervised(), model)
    assert [len(problem.y) for problem in problems] == [4, 4, 2]
    assert torch.equal(torch.cat([problem.inputs[0] for problem in problems]), samples.inputs().to(dtype))
    expected = functional.cross_entropy(model(samples.inputs().to(dtype)), samples.y)
    torch.testing.assert_close(mean_loss(problems), expected)
    assert [len(problem.y) for problem in posed(Supervised(), model, batch_size=7)] == [7, 3]


@pytest.mark.parametrize("method", ["pgd", "trades", "fgsm-rs"])
def test_adversarial_examples_are_those_of_the_weights_and_the_seed(method: str) -> None:
    adversary = Adversary.model_validate({"method": method, "eps": (0.2,), "steps": 3})
    model, place = net(), int(method == "trades")

    def moved(model: nn.Module, **more) -> Tensor:
        return torch.cat([problem.inputs[place] for problem in posed(adversary.objective(), model, **more)])

    with untouched(model):
        first = moved(model)
    assert torch.equal(first, moved(model))
    assert not torch.equal(first, moved(model, seed=1))
    assert 0.15 < float((first - images().inputs()).abs().max()) <= 0.2 + 1e-6
    other = net()
    with torch.no_grad():
        other[3].weight.mul_(-1)
    assert not torch.equal(first, moved(other))


def test_a_batch_draws_what_it_draws_whatever_came_before() -> None:
    objective = Adversary(eps=(0.2,), steps=1, step=1e-9).objective()  # the random start, near enough
    model, samples = net(), images()
    whole = posed(objective, model)
    longer = list(posing(objective, images(11), batch_size=4)(model))
    assert torch.equal(whole[1].inputs[0], longer[1].inputs[0])
    starts = [p.inputs[0] - x for p, x in zip(whole, samples.inputs().split(4), strict=True)]
    assert not torch.allclose(starts[0], starts[1], atol=1e-3)


def test_the_full_budget_is_in_force_unless_progress_says_otherwise() -> None:
    objective = Adversary(eps=(0.2,), steps=2, schedule="warm-up", warmup=1.0).objective()

    def reach(**more) -> float:
        found = torch.cat([problem.inputs[0] for problem in posed(objective, net(), **more)])
        return float((found - images().inputs()).abs().max())

    assert reach() == pytest.approx(0.2, abs=1e-6)
    assert reach(progress=0.5) == pytest.approx(0.1, abs=1e-6)


def test_the_backdoor_loss_is_that_of_triggered_images_and_the_attackers_label() -> None:
    samples, patch = images(), Patch(2, at=(1, 1))
    found = triggered(samples, patch, 1)
    assert found.y.tolist() == [1] * 6 + [1]
    assert found.index.tolist() == [0, 2, 3, 5, 6, 8, 9]
    expected = samples.inputs()[found.index].clone()
    expected[:, :, 1:3, 1:3] = 1
    assert torch.equal(found.inputs(), expected)
    moved = triggered(samples, patch, "all-to-all")
    assert moved.y.tolist() == [(int(y) + 1) % 3 for y in samples.y]


def test_bad_settings_are_refused() -> None:
    with pytest.raises(InputError, match=r"`batch_size` should be at least 1. Found 0"):
        posing(Supervised(), images(), batch_size=0)
    with pytest.raises(InputError, match=r"`progress` should lie in \[0, 1\). Found 1.0"):
        posing(Supervised(), images(), progress=1.0)
    with pytest.raises(InputError, match=r"`samples` should hold some that are not of the target class 0. Found none"):
        triggered(images().take(torch.tensor([0, 3])), Patch(1), 0)
    with pytest.raises(InputError, match=r"`target` should be a class in 0..2 or 'all-to-all'. Found 5"):
        triggered(images(), Patch(1), 5)
