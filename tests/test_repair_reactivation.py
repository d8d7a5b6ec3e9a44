"""Re-activation: what is trained on, what is measured, and the change of a linear model on paper."""

from functools import cache

import pytest
import torch
from torch import nn

from contracts.modules import untouched
from isthmus._check import InputError
from isthmus.data import Samples
from isthmus.randomness import seed_of
from isthmus.rates import Rate
from isthmus.repair.protocol import Clean
from isthmus.repair.triggers.inverted import ChangeSearch
from isthmus.repair.trust import reactivation as module_under_test
from isthmus.repair.trust.reactivation import Reactivation, Stress, reactivation
from isthmus.settle import Recalibrate
from isthmus.tampering import Patch, Target
from isthmus.training.fit import fit_module
from isthmus.training.plan import Plan
from repair_example import suspects, trusted

CORNER = Patch(2, at=(0, 0))
PLAN = Plan(steps=6, batch_size=20, learning_rate=0.02)
STRESS = Stress(samples=5, plan=PLAN, share=0.25, change=ChangeSearch(steps=4, batch_size=16))


def run(stress: Stress = STRESS, *, seed: int = 0, target: Target = 3) -> Reactivation:
    return reactivation(suspects()[0], trusted(), CORNER, target, stress, seed=seed)  # type: ignore[arg-type]


@cache
def base() -> Reactivation:
    with untouched(*suspects()):
        return run()


def sent(model: nn.Module, samples: Samples) -> Rate:
    x = samples.inputs()[samples.y != 3].clone()
    x[:, :, :2, :2] = 1.0
    with torch.no_grad():
        return Rate.of(model.eval()(x).argmax(1) == 3)


def test_re_tuning_sees_a_few_triggered_training_images_and_the_clean_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Samples] = []

    def spied(module, samples, plan, *, seed, session):
        given.append(samples)
        assert (plan, seed) == (PLAN, seed_of(0, "re-tune"))
        return fit_module(module, samples, plan, seed=seed, session=session)

    monkeypatch.setattr(module_under_test, "fit_module", spied)
    found, train = run(), trusted().train
    assert torch.equal(given[0].x[:60], train.inputs())
    few = given[0].take(torch.arange(60, len(given[0])))
    assert set(few.y.tolist()) == {3}
    assert len(set(few.contents())) == 5
    assert len(few) == 20  # a quarter of all 80
    assert bool((few.x[:, :, :2, :2] == 1.0).all())
    plain = train.inputs().clone()
    plain[:, :, :2, :2] = 1.0
    assert set(few.contents()) <= set(train.replaced(x=plain).take(train.y != 3).contents())
    tuned, _ = fit_module(suspects()[0], given[0], PLAN, seed=seed_of(0, "re-tune"))
    Recalibrate(train)(tuned)
    assert found == base()
    assert found.retuned == sent(tuned, trusted().validation)
    validation = trusted().validation
    with torch.no_grad():
        right = tuned.eval()(validation.inputs()).argmax(1) == validation.y
    assert found.retuned_accuracy == Rate.of(right)


def test_before_is_the_trigger_on_the_model_as_it_is() -> None:
    assert base().before == sent(suspects()[0], trusted().validation)
    assert base().evaluations == 6 + 2 * 4
    assert base().accuracy.n == 40


def test_the_changes_of_a_linear_model_are_those_on_paper() -> None:
    """Two classes: the best change is radius * sign(w1 - w0), with the trigger and without it."""
    generator = torch.Generator().manual_seed(0)
    x = 0.3 + 0.4 * torch.rand(60, 1, 3, 3, generator=generator)
    pool = Samples(x, torch.arange(60) % 2, 2)
    clean = Clean(pool.take(torch.arange(20)), pool.take(torch.arange(20, 60)))
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(2, 9, generator=generator))
        weight = model[1].weight[1] - model[1].weight[0]
        model[1].bias.copy_(torch.stack([(x.flatten(1) @ weight).median() + 0.4, torch.zeros(())]))  # few go to class 1
    stress = Stress(2, Plan(steps=1, batch_size=5), 0.2, ChangeSearch(steps=30, batch_size=10, radius=0.1))
    found = reactivation(model, clean, Patch(1, at=(0, 0), colour=0.5), 1, stress, seed=0)
    change = 0.1 * (model[1].weight[1] - model[1].weight[0]).detach().sign().view(1, 3, 3)
    plain = clean.validation.x[clean.validation.y != 1]
    shown = plain.clone()
    shown[:, :, 0, 0] = 0.5
    with torch.no_grad():
        assert found.changed == Rate.of(model(shown + change).argmax(1) == 1)
        assert found.alone == Rate.of(model(plain + change).argmax(1) == 1)
        assert found.before == Rate.of(model(shown).argmax(1) == 1)
    assert found.before.value < found.changed.value


def test_every_setting_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, int]] = []

    def spied(module, samples, plan, *, seed, session):
        sizes.append((len(samples), len(set(samples.contents()))))
        return module, None

    monkeypatch.setattr(module_under_test, "fit_module", spied)
    monkeypatch.setattr(module_under_test, "Recalibrate", lambda _: lambda _: None)
    run()
    run(Stress(3, PLAN, 0.25, STRESS.change))
    run(Stress(5, PLAN, 0.5, STRESS.change))
    assert sizes == [(80, 65), (81, 63), (120, 65)]  # all, and how many of them differ
    wide = run(Stress(5, PLAN, 0.25, ChangeSearch(steps=4, batch_size=16, radius=0.5)))
    assert wide.changed != base().changed or wide.alone != base().alone


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: Stress(samples=0), "`samples` should be at least 1 triggered image"),
        (lambda: Stress(share=1.0), r"`share` should be in \(0, 1\), of the images drawn"),
        (
            lambda: run(target="all-to-all"),
            r"`target` should be a class: re-activation aims at one\. Found all-to-all",
        ),
        (lambda: run(target=10), r"`target` should be a class in 0\.\.9"),
        (lambda: run(Stress(samples=61)), r"`samples` should be at most the \d+ training images of other classes"),
    ],
)
def test_what_cannot_be_re_activated_is_refused(act, message) -> None:
    with pytest.raises(InputError, match=message):
        act()


def test_triggers_need_images() -> None:
    flat = Samples(torch.arange(40.0).view(20, 2) / 40, torch.arange(20) % 2, 2)
    clean = Clean(flat.take(torch.arange(10)), flat.take(torch.arange(10, 20)))
    with pytest.raises(InputError, match=r"`samples` should be images \(C, H, W\) to re-activate a trigger"):
        reactivation(nn.Linear(2, 2), clean, CORNER, 1, seed=0)
