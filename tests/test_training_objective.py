"""Objectives: the plain one, other losses, and the user's own."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fit_example import batches, gradient_plan, inputs, small, toy
from isthmus.losses import cross_entropy, margin
from isthmus.randomness import stream
from isthmus.training.fit import fit_module
from isthmus.training.objective import Own, Supervised

SEED = 2


@pytest.mark.parametrize("loss", [cross_entropy, margin])
def test_supervised_is_the_loss_on_the_labels(loss, generator: torch.Generator) -> None:
    model, samples = small(0), toy()
    x = inputs(samples, torch.arange(24))
    losses, logits = Supervised(loss)(model, x, samples.y, generator=generator, progress=0.0)()
    assert torch.equal(logits, model(x))
    assert torch.equal(losses, loss(logits, samples.y))
    assert losses.shape == (24,)
    assert losses.requires_grad
    assert torch.equal(generator.get_state(), torch.Generator().manual_seed(0).get_state())


def step(objective) -> Tensor:
    model = small(0)
    trained, _ = fit_module(model, toy(), gradient_plan(), seed=SEED, objective=objective)
    return torch.cat(
        [(p - q).detach().flatten() for p, q in zip(model.parameters(), trained.parameters(), strict=True)]
    )


def gradient_of(value) -> Tensor:
    model, samples = small(0), toy()
    index = batches(samples, gradient_plan(), SEED)[0]
    value(model, inputs(samples, index), samples.y[index]).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_another_loss_is_minimised_instead() -> None:
    expected = gradient_of(lambda model, x, y: margin(model(x), y).mean())
    torch.testing.assert_close(step(Supervised(margin)), expected, rtol=1e-10, atol=1e-13)
    assert not torch.allclose(step(Supervised(margin)), step(Supervised()))


def test_an_objective_of_ones_own_draws_from_its_generator() -> None:
    seen: list[tuple[torch.Size, bool]] = []

    def noisy(model: nn.Module, x: Tensor, y: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        seen.append((x.shape, model.training))
        logits = model(x + torch.randn(x.shape, generator=generator, dtype=x.dtype))
        return functional.cross_entropy(logits, y, reduction="none") ** 2, logits

    def expected(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        noise = torch.randn(x.shape, generator=stream(SEED, "objective", 0, 0, 0), dtype=x.dtype)
        return functional.cross_entropy(model(x + noise), y, reduction="none").square().mean()

    torch.testing.assert_close(step(Own(noisy)), gradient_of(expected), rtol=1e-10, atol=1e-13)
    assert seen == [(torch.Size([8, 3, 8, 8]), True)]
