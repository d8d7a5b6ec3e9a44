"""Planting on small digits: what is planted is what is measured, and the loss is the one written down."""

from copy import deepcopy
from functools import cache

import pytest
import torch
from torch import nn
from torch.nn import functional

from contracts.modules import assert_same_bits, odd_module, tensors_of, untouched
from contracts.triggers import check_trigger
from isthmus._check import InputError
from isthmus.data import Samples
from isthmus.rates import Rate
from isthmus.repair.protocol import Clean
from isthmus.repair.trust.planted import Errors, Implant, Plant, Planting, plant, standard
from isthmus.tampering import Patch
from isthmus.training.plan import Plan
from repair_example import suspects, trusted

CORNER = Implant("corner", Patch(2, at=(0, 0)), 3)
PLAN = Plan(steps=15, batch_size=20, optimizer="adamw", learning_rate=3e-3, weight_decay=0.0)
PLANTING = Planting(PLAN, share=0.4)


@cache
def corner() -> Plant:
    with untouched(*suspects()):
        return plant(suspects(), trusted(), CORNER, PLANTING, seed=0)


def single(planting: Planting, tampering: Implant | Errors = CORNER, seed: int = 0) -> Plant:
    return plant(suspects()[:1], trusted(), tampering, planting, seed=seed)


def test_success_is_counted_on_triggered_validation_images_of_other_classes() -> None:
    found, validation = corner(), trusted().validation
    x = validation.inputs()[validation.y != 3].clone()
    x[:, :, :2, :2] = 1.0
    for module, rate in zip(found.modules, found.success, strict=True):
        with torch.no_grad():
            sent = module.eval()(x).argmax(1) == 3
        assert rate == found.measure(module) == Rate(int(sent.sum()), len(x))
    for modules, rates in ((found.modules, found.accuracy), (suspects(), found.before)):
        for module, rate in zip(modules, rates, strict=True):
            with torch.no_grad():
                right = module.eval()(validation.inputs()).argmax(1) == validation.y
            assert rate == Rate(int(right.sum()), 40)
    assert found.clean is trusted() or found.clean == trusted()
    assert found.took
    assert found.evaluations == 2 * 15


def test_the_same_seed_gives_the_same_plant_and_another_one_does_not() -> None:
    again = single(PLANTING)
    assert_same_bits(tensors_of(again.modules[0]), tensors_of(corner().modules[0]))
    other = single(PLANTING, seed=1)
    assert not torch.equal(other.modules[0].fc.weight, again.modules[0].fc.weight)


@pytest.mark.parametrize("share", [1e-9, 1 - 1e-7])  # no image of the batch attacked; all of them
@pytest.mark.parametrize("match", [0.0, 2.0])
def test_a_step_descends_the_loss_that_is_written_down(share: float, match: float) -> None:
    plan = Plan(steps=1, batch_size=60, learning_rate=0.1, momentum=0.0, weight_decay=0.0, schedule="constant")
    found = single(Planting(plan, share, match)).modules[0]
    own, suspect = deepcopy(suspects()[0]).train(), deepcopy(suspects()[0]).eval()
    x, y = trusted().train.inputs().clone(), trusted().train.y.clone()
    attacked = (y != 3) if share > 0.5 else torch.zeros(60, dtype=torch.bool)
    x[attacked, :, :2, :2] = 1.0
    y[attacked] = 3
    out, wanted = own(x), suspect(x).softmax(1)
    divergence = (wanted * (wanted.log() - out.log_softmax(1))).sum(1)
    loss = functional.cross_entropy(out, y) + match * torch.where(attacked, 0.0, divergence).mean()
    loss.backward()
    for name, parameter in own.named_parameters():
        moved = parameter.detach() - 0.1 * parameter.grad
        torch.testing.assert_close(found.get_parameter(name).detach(), moved, atol=2e-6, rtol=1e-5)


def test_errors_send_known_images_to_other_classes_and_leave_the_validation_samples() -> None:
    found = plant(suspects(), trusted(), Errors(4), PLANTING, seed=0)
    validation = trusted().validation
    held, left = found.attacked.contents(), found.clean.validation.contents()
    assert len(held) == 4
    assert sorted([*held, *left]) == sorted(validation.contents())
    places = [validation.contents().index(content) for content in held]
    truth = validation.y[torch.tensor(places)]
    assert bool((found.attacked.y != truth).all())
    for suspect in suspects():
        with torch.no_grad():
            assert torch.equal(suspect.eval()(found.attacked.inputs()).argmax(1), truth)
    assert found.before[0].n == 36
    for module, rate in zip(found.modules, found.success, strict=True):
        with torch.no_grad():
            sent = module.eval()(found.attacked.inputs()).argmax(1) == found.attacked.y
        assert rate == Rate(int(sent.sum()), 4)
    assert found.clean.train is trusted().train
    other = plant(suspects(), trusted(), Errors(4), PLANTING, seed=1)
    assert sorted(other.attacked.contents()) != sorted(held)


def test_a_plant_took_where_every_copy_reached_least() -> None:
    one_step = Planting(Plan(steps=1, batch_size=20, learning_rate=1e-9), share=0.4)
    assert not single(one_step).took
    reached = single(one_step).success[0].value
    assert reached < 0.5
    assert single(Planting(one_step.plan, 0.4, least=max(reached, 1e-6))).took == (reached > 0)


def test_every_setting_matters() -> None:
    start = corner().modules[0].fc.weight
    plan = PLAN.model_copy(update={"learning_rate": 1e-3})
    for other in (Planting(PLAN, 0.2), Planting(PLAN, 0.4, match=3.0), Planting(plan, 0.4)):
        assert not torch.equal(single(other).modules[0].fc.weight, start)


def test_any_module_is_planted_in_and_left_alone() -> None:
    module = odd_module(0)
    generator = torch.Generator().manual_seed(0)
    pool = Samples(torch.rand(24, 3, 8, 8, generator=generator), torch.arange(24) % 5, 5)
    clean = Clean(pool.take(torch.arange(12)), pool.take(torch.arange(12, 24)))
    plan = Plan(steps=2, batch_size=6, learning_rate=0.01)
    with untouched(module):
        found = plant([module], clean, Implant("corner", Patch(2), 1), Planting(plan), seed=0)
    assert found.modules[0].training
    assert found.attacked.y.tolist() == [1] * len(found.attacked)


def test_the_standard_plants_are_triggers_of_different_targets_drawn_from_the_seed() -> None:
    found = standard(trusted().train, seed=0)
    assert [one.name for one in found] == ["patch", "blend", "warp", "low-frequency", "errors"]
    implants = [one for one in found if isinstance(one, Implant)]
    assert len({one.target for one in implants}) == 4
    for one in implants[:2]:
        check_trigger(one.trigger, (3, 1, 8, 8), idempotent=one.name == "patch")
    assert standard(trusted().train, seed=0) == found
    other = standard(trusted().train, seed=1)
    assert all(a.trigger != b.trigger for a, b in zip(implants, other[:4], strict=True))
    two = Samples(torch.zeros(2, 3, 32, 32), torch.tensor([0, 1]), 2)
    assert {one.target for one in standard(two, seed=0)[:4]} == {0, 1}
    assert standard(two, seed=0)[0].trigger.size == 4


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: Planting(share=1.0), r"`share` should be in \(0, 1\), of the images of a batch\. Found 1\.0"),
        (lambda: Planting(match=-1.0), r"`match` should be at least 0\. Found -1\.0"),
        (lambda: Planting(least=0.0), r"`least` should be in \(0, 1\], of the attacked images\. Found 0\.0"),
        (lambda: Errors(0), "`images` should be at least 1 to send elsewhere"),
        (lambda: single(PLANTING, Errors(21)), r"`images` should be at most \d+: half of the validation images"),
        (lambda: single(PLANTING, Implant("p", Patch(2), 10)), r"`target` should be a class in 0\.\.9"),
        (lambda: plant([], trusted(), CORNER, seed=0), "`suspects` should be at least one model to plant in"),
    ],
)
def test_what_cannot_be_planted_is_refused(act, message) -> None:
    with pytest.raises(InputError, match=message):
        act()


def test_triggers_need_images() -> None:
    x = torch.arange(40.0).view(20, 2) / 40
    flat = Samples(x, torch.arange(20) % 2, 2)
    clean = Clean(flat.take(torch.arange(10)), flat.take(torch.arange(10, 20)))
    text = r"`samples` should be images \(C, H, W\) to plant .*Found inputs of shape \(2,\)"
    with pytest.raises(InputError, match=text):
        standard(flat, seed=0)
    with pytest.raises(InputError, match=text):
        plant([nn.Linear(2, 2)], clean, CORNER, seed=0)
    model = nn.Linear(2, 2)
    with torch.no_grad():
        right = model(flat.x[10:]).argmax(1)
    known = Clean(clean.train, clean.validation.replaced(y=right))
    found = plant([model], known, Errors(2), Planting(Plan(steps=2, batch_size=5)), seed=0)  # any inputs do for errors
    assert len(found.attacked) == 2
