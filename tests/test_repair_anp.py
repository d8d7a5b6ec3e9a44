"""Adversarial neuron pruning, beside a clone of the network written by hand as the published code does."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from contracts.modules import assert_same_bits, odd_module, tensors_of, untouched
from isthmus._check import InputError
from isthmus.data import Augment, Samples
from isthmus.models import build_model
from isthmus.randomness import stream
from isthmus.repair.masks.anp import ANP
from isthmus.repair.masks.masked import channels_of
from isthmus.repair.masks.rounds import Rounds
from isthmus.repair.protocol import Clean, Repaired
from isthmus.training.order import Order
from isthmus.training.plan import Plan
from isthmus.training.session import Session
from repair_example import suspects, trusted

PLAN = Plan(steps=6, batch_size=30, learning_rate=0.2, schedule="constant", weight_decay=0.0)
STRICT = ANP(PLAN, shares=(0.05, 0.2, 0.5, 1.0))


def run(repair: ANP, module: nn.Module | None = None, clean: Clean | None = None, *, seed: int = 3) -> Repaired:
    module = module or suspects()[0]
    with untouched(module):
        return repair((module,), clean or trusted(), seed=seed, session=Session())


def masks(repair: ANP, *, seed: int = 3) -> Tensor:
    made = Rounds("masks", suspects()[0], trusted().train, repair.plan, seed, Session())
    return repair.masks(made, channels_of(suspects()[0], trusted().train)).values.detach()


def by_hand(steps: int, radius: float, ascents: int, alpha: float) -> Tensor:
    """The masks of the small network with its BatchNorm layers written out, momentum and projection by hand."""
    net, samples = suspects()[0], trusted().train
    order, m, speed = Order(60, 30, 3), torch.ones(56), torch.zeros(56)

    def forward(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        for k, (a, b) in enumerate(zip(scale.split([8, 16, 32]), shift.split([8, 16, 32]), strict=True), 1):
            norm, h = net.get_submodule(f"bn{k}"), functional.conv2d(x, net.get_submodule(f"conv{k}").weight, padding=1)
            mean, variance = h.mean((0, 2, 3), keepdim=True), h.var((0, 2, 3), unbiased=False, keepdim=True)
            h = (h - mean) / (variance + norm.eps).sqrt()
            h = h * (norm.weight * a).view(1, -1, 1, 1) + (norm.bias * b).view(1, -1, 1, 1)
            x = functional.relu(h)
            x = functional.max_pool2d(x, 2) if k < 3 else x
        return net.fc(x.mean((2, 3)))

    for step in range(steps):
        rows = order.batch(step)
        x, y = samples.inputs(rows), samples.y[rows]
        noise = (2 * torch.rand(2, 56, generator=stream(3, "turn", step)) - 1) * radius
        for _ in range(ascents):
            noise = noise.detach().requires_grad_()
            loss = functional.cross_entropy(forward(x, m + noise[0], 1 + noise[1]), y)
            noise = noise + radius / ascents * torch.autograd.grad(loss, noise)[0].sign()
        noise, m = noise.detach(), m.requires_grad_()
        worst = functional.cross_entropy(forward(x, m + noise[0], 1 + noise[1]), y)
        plain = functional.cross_entropy(forward(x, m, torch.ones(56)), y)
        slope = torch.autograd.grad(alpha * plain + (1 - alpha) * worst, m)[0]
        speed = 0.9 * speed + slope
        m = (m.detach() - 0.2 * speed).clamp(0, 1)
    return m


@pytest.mark.parametrize(("radius", "ascents", "alpha"), [(0.4, 1, 0.2), (0.3, 2, 0.5), (0.0, 1, 0.2)])
def test_the_masks_are_those_of_a_clone_written_by_hand(radius: float, ascents: int, alpha: float) -> None:
    found = masks(ANP(PLAN, radius=radius, ascents=ascents, alpha=alpha))
    expected = by_hand(6, radius, ascents, alpha)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)  # the sign of a gradient near zero may differ
    assert float(found.std()) > 0.01


def test_each_setting_changes_the_masks() -> None:
    base = masks(STRICT)
    assert torch.equal(base, masks(STRICT))
    assert not torch.equal(base, masks(STRICT, seed=4))
    for changed in (
        replace(STRICT, radius=0.2),
        replace(STRICT, alpha=0.9),
        replace(STRICT, ascents=2),
        replace(STRICT, plan=PLAN.model_copy(update={"augment": Augment(1)})),
        replace(STRICT, plan=PLAN.model_copy(update={"learning_rate": 0.1})),
    ):
        assert not torch.equal(base, masks(changed))


def test_the_result_is_the_suspect_less_the_channels_with_low_masks() -> None:
    found = run(replace(STRICT, margin=1.0))
    low, module = masks(STRICT) < 1, suspects()[0]
    expected = {name: tensor.clone() for name, tensor in tensors_of(module).items()}
    for k, shut in enumerate(low.split([8, 16, 32]), 1):
        expected[f"bn{k}.weight"][shut] = 0
    assert_same_bits(tensors_of(found.module), expected)
    assert found.table is not None
    assert found.history is not None
    assert found.table.values("share") == [None, 0.05, 0.2, 0.5, 1.0]
    assert found.table.values("closed")[-1] == int(low.sum()) > 0
    assert (found.name, found.evaluations, found.choice, len(found.history)) == ("anp", 18, None, 6)
    assert f"{int(low.sum())} of 56 channels closed (share 1)" in found.note
    assert not any(part.training for part in found.module.modules())


def test_ascents_are_paid_for() -> None:
    assert run(replace(STRICT, ascents=3)).evaluations == 6 * 5


def test_shares_and_margin_steer_the_choice() -> None:
    guessing, careful = (run(ANP(PLAN, shares=(0.09,), margin=margin)) for margin in (1.0, 0.0))
    assert guessing.note.startswith("5 of 56")
    assert careful.note.startswith("0 of 56")
    assert_same_bits(tensors_of(careful.module), tensors_of(suspects()[0]))


@pytest.mark.parametrize("name", ["lenet", "vit"])
def test_a_model_without_batch_norm_is_pruned_too(name: str) -> None:
    module = build_model(name, num_classes=10, input_shape=(1, 8, 8), seed=0, width=6).eval()
    found = run(ANP(PLAN, shares=(0.1,), margin=1.0), module)
    assert not found.note.startswith("0 of")
    assert found.module.state_dict().keys() == module.state_dict().keys()


def test_any_module_in_any_mode_is_left_as_it_was() -> None:
    generator = torch.Generator().manual_seed(0)
    made = [Samples(torch.rand(20, 3, 8, 8, generator=generator), torch.arange(20) % 5, 5) for _ in range(2)]
    module = odd_module(0)
    found = run(ANP(PLAN), module, Clean(*made))
    assert found.module.training


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"radius": -0.1}, "`radius` should be zero or positive. Found -0.1"),
        ({"ascents": 0}, "`ascents` should be at least 1. Found 0"),
        ({"alpha": 1.5}, r"`alpha` should be in \[0, 1\]. Found 1.5"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ANP(PLAN, **change)  # type: ignore[arg-type]
