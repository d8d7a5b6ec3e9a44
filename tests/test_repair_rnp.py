"""Reconstructive neuron pruning: unlearning and recovery, each beside the same written by hand."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from contracts.modules import assert_same_bits, tensors_of, untouched
from isthmus._check import InputError
from isthmus.models import build_model
from isthmus.repair.masks.masked import channels_of
from isthmus.repair.masks.rnp import RNP
from isthmus.repair.masks.rounds import Rounds
from isthmus.repair.protocol import Repaired
from isthmus.settle import Recalibrate
from isthmus.training.order import Order
from isthmus.training.plan import Plan
from isthmus.training.session import Session
from repair_example import fresh, suspects, trusted

UNLEARNING = Plan(steps=8, batch_size=30, learning_rate=0.01, schedule="multistep", milestones=(0.5,), clip=20.0)
RECOVERY = Plan(steps=5, batch_size=30, learning_rate=0.2, schedule="constant", weight_decay=0.0)
SMALL = RNP(UNLEARNING, RECOVERY, above=0.0)


def run(repair: RNP, module: nn.Module | None = None, *, seed: int = 3) -> Repaired:
    module = module or suspects()[0]
    with untouched(module):
        return repair((module,), trusted(), seed=seed, session=Session())


def rounds(plan: Plan, module: nn.Module | None = None) -> Rounds:
    return Rounds("test", module or suspects()[0], trusted().train, plan, 3, Session())


def test_unlearning_is_ascent_of_the_clean_loss() -> None:
    made = rounds(UNLEARNING)
    assert replace(SMALL, above=0.0).unlearn(made) != ()
    net, samples, order = fresh(0), trusted().train, Order(60, 30, 3)
    net.load_state_dict(suspects()[0].state_dict())
    net.train()
    speed = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    for step in range(8):
        rows = order.batch(step)
        loss = functional.cross_entropy(net(samples.inputs(rows)), samples.y[rows])
        slopes = torch.autograd.grad(loss, list(net.parameters()))
        norm = torch.cat([slope.flatten() for slope in slopes]).norm()
        rate = 0.01 if step < 4 else 0.001
        with torch.no_grad():
            for (name, p), slope in zip(net.named_parameters(), slopes, strict=True):
                speed[name] = 0.9 * speed[name] - slope * min(1, 20 / norm) + 5e-4 * p
                p -= rate * speed[name]
    for name, tensor in tensors_of(net).items():
        torch.testing.assert_close(tensors_of(made.module)[name], tensor, rtol=1e-3, atol=1e-4)
    assert made.history().values("loss")[-1] < made.history().values("loss")[0] < 0  # minus the cross-entropy


def test_recovery_learns_masks_on_the_unlearned_weights() -> None:
    unlearned = fresh(1)  # weights that know nothing
    channels = channels_of(unlearned, trusted().train)
    found = SMALL.recover(rounds(RECOVERY, unlearned), channels).values.detach()
    samples, order, m, speed = trusted().train, Order(60, 30, 3), torch.ones(56), torch.zeros(56)
    net = fresh(1).train()
    gammas = [net.get_submodule(f"bn{k}").weight.detach().clone() for k in (1, 2, 3)]
    for step in range(5):
        rows = order.batch(step)
        for k, part in enumerate(m.split([8, 16, 32]), 1):
            net.get_submodule(f"bn{k}").weight.data = gammas[k - 1] * part
        loss = functional.cross_entropy(net(samples.inputs(rows)), samples.y[rows])
        at = torch.autograd.grad(loss, [net.get_submodule(f"bn{k}").weight for k in (1, 2, 3)])
        slope = torch.cat([slope * gamma for slope, gamma in zip(at, gammas, strict=True)])  # chain rule
        speed = 0.9 * speed + 0.2 * slope
        m = (m - 0.2 * speed).clamp(0, 1)
    torch.testing.assert_close(found, m, rtol=0, atol=1e-5)
    assert float(m.std()) > 1e-3
    other = replace(SMALL, alpha=1.0).recover(rounds(RECOVERY, unlearned), channels)
    assert not torch.allclose(found, other.values)


def test_what_unlearning_leaves_of_its_steps_goes_to_the_recovery() -> None:
    early, late = run(replace(SMALL, above=0.9)), run(SMALL)
    assert early.note.endswith("; 1 steps of unlearning")  # no batch is above chance + 90 points
    assert late.note.endswith("; 8 steps of unlearning")
    assert early.history is not None
    assert late.history is not None
    assert (len(early.history), len(late.history)) == (12, 5)
    assert early.evaluations == late.evaluations == 13
    assert early.warnings == ()
    assert late.warnings[0].startswith("RNP unlearned for all of its 8 steps and still got ")
    assert "above 10 %: its masks say little" in late.warnings[0]


def test_channels_of_the_suspect_are_closed_not_of_what_was_unlearned() -> None:
    found = run(replace(SMALL, shares=(0.1, 0.3), margin=1.0))
    assert found.table is not None
    count = int(found.table.values("closed")[-1] or 0)
    assert found.note.startswith(f"{count} of 56 channels closed (share 0.3)")
    assert count > 0
    expected, closed = fresh(0).eval(), 0
    expected.load_state_dict(suspects()[0].state_dict())
    for k in (1, 2, 3):
        weight = expected.get_submodule(f"bn{k}").weight
        rows = (found.module.get_submodule(f"bn{k}").weight == 0) & (weight != 0)
        closed += int(rows.sum())
        weight.data[rows] = 0
    assert closed == count
    Recalibrate(trusted().train)(expected)
    assert_same_bits(tensors_of(found.module), tensors_of(expected))
    assert (found.name, found.choice) == ("rnp", None)


def test_margin_steers_the_choice_and_a_seed_settles_it() -> None:
    everything = replace(SMALL, shares=(1.0,))
    careful = run(replace(everything, margin=0.0))
    assert_same_bits(tensors_of(careful.module), tensors_of(suspects()[0]))
    one, again, other = (run(replace(SMALL, margin=1.0), seed=seed) for seed in (3, 3, 4))
    assert one.table is not None
    assert again.table is not None
    assert other.history is not None
    assert one.history is not None
    assert one.table.frame.equals(again.table.frame)
    assert not other.history.frame.equals(one.history.frame)


def test_frozen_weights_are_unlearned_too() -> None:
    module = build_model("lenet", num_classes=10, input_shape=(1, 8, 8), seed=0, width=2).eval().requires_grad_(False)
    made = rounds(UNLEARNING, module)
    SMALL.unlearn(made)
    assert all(not torch.equal(p, q) for p, q in zip(made.module.parameters(), module.parameters(), strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"above": 1.0}, r"`above` should be in \[0, 1\). Found 1.0"),
        ({"alpha": 0.0}, "`alpha` should be positive. Found 0.0"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RNP(UNLEARNING, RECOVERY, **change)  # type: ignore[arg-type]


def test_the_shape_of_a_batch_says_which_samples_are_seen() -> None:
    x, y = rounds(UNLEARNING).batch(0)
    expected: Tensor = trusted().train.inputs(Order(60, 30, 3).batch(0))
    assert torch.equal(x, expected)
    assert len(y) == 30
