"""Purification: what is spent, the remedy put together once more from its parts, and what it removes."""

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from contracts.modules import assert_same_bits, odd_module, tensors_of, untouched
from fit_example import toy
from isthmus._check import InputError
from isthmus.data import Samples
from isthmus.evaluate import correct, logits
from isthmus.layout import arranged
from isthmus.probes import Backdoor
from isthmus.randomness import seed_of
from isthmus.repair.baselines import FineTune
from isthmus.repair.protocol import Clean, Repaired
from isthmus.repair.purify import Doubt, Purify, Triggered, split, told
from isthmus.repair.triggers.families import FAMILIES
from isthmus.repair.triggers.hunt import Found, Search
from isthmus.repair.triggers.smallest import anomalous, hunted, pursue, smallest_triggers, table_of
from isthmus.tampering import Patch, poison
from isthmus.training.distillation import Distilled
from isthmus.training.fit import fit_module
from isthmus.training.plan import Plan
from isthmus.training.session import Session
from repair_example import digits, fresh, suspects, trusted

PLAN = Plan(steps=6, batch_size=20, learning_rate=0.02)
SEARCH = Search(steps=3, per=2, wanted=0.2, reached=0.1)
PURIFY = Purify(PLAN, SEARCH, Doubt(suspected=2, restarts=2))


def run(remedy: Purify, *, models: tuple[nn.Module, ...] | None = None, seed: int = 3, **session: Any) -> Repaired:
    return remedy(models or suspects(), trusted(), seed=seed, session=Session(**session))


@cache
def plain() -> Repaired:
    with untouched(*suspects()):
        return run(PURIFY)


# ---- what is spent ----


@pytest.mark.parametrize("evaluations", [100, 400, 800, 2000])
@pytest.mark.parametrize("batch_size", [32, 128])
@pytest.mark.parametrize("classes", [2, 10, 100])
@pytest.mark.parametrize("models", [1, 2])
def test_search_and_training_share_the_budget(evaluations: int, batch_size: int, classes: int, models: int) -> None:
    steps, search = split(evaluations, classes=classes, batch_size=batch_size, precision="bf16-mixed", models=models)
    sought = 5 * (classes + 1)
    images = search.steps * search.per * (models * sought + (sought + 1) // 2 + (sought + 3) // 4 + 3 * 4 * (3 + 2))
    assert search.precision == "bf16-mixed"
    assert 2 <= search.per <= {2: 8, 10: 8, 100: 2}[classes]
    assert search.per == 2 or search.steps >= 16
    assert steps + round(images / batch_size) == max(evaluations, 1 + round(images / batch_size))
    one_more = images / search.steps * (search.steps + 1)
    assert images <= evaluations * batch_size / 2 or search.steps == 1
    assert one_more > evaluations * batch_size / 2


def test_what_is_spent_is_what_is_said() -> None:
    steps, search = split(60, classes=10, batch_size=64, precision="32-true")
    assert run(Purify(PLAN.model_copy(update={"steps": steps, "batch_size": 64}), search)).evaluations == 60
    images = 3 * 2 * (55 + 28 + 14 + (3 + 2) * 2 * 2)
    assert plain().evaluations == 6 + round(images / 20)


# ---- the remedy ----


def paired(found: Found) -> Iterable[tuple[Tensor, int | None]]:
    return zip(found.ratio, found.targets, strict=True)


def test_it_is_its_parts_put_together() -> None:
    suspect, clean = suspects()[0], trusted().train
    found = smallest_triggers(suspect, clean, SEARCH, seed=seed_of(3, "search"))
    ranked = anomalous(found, 2)
    wanted = [(family, target) for _, family, target in ranked]
    hunts = hunted(suspect, clean, wanted, SEARCH, restarts=2, seed=seed_of(3, "again"))
    odds = {(one.family, t): min(max(float(r), 0.03), 10.0) ** -3 for one in found for r, t in paired(one)}
    more: list[Found] = []
    expected, teacher, losses = suspect, deepcopy(suspect).eval(), list[float]()
    arranged(teacher, clean.inputs()[:1])
    for k in range(3):
        if k > 0:
            pursue(hunts, expected, clean, SEARCH, seed=seed_of(3, "again", k))
        more += [hunt.found(SEARCH) for hunt in hunts]
        each = [odds[place] / (3 + 2 * k if place in wanted else 1) for place in odds]
        each += [odds[one] / (3 + 2 * k) for _ in range(k + 1) for one in wanted for _ in range(2)]
        weights = torch.tensor(each, dtype=torch.float64) / sum(odds.values())
        change = Triggered((*found, *more), weights, PURIFY.doubt)
        plan = PLAN.model_copy(update={"steps": 2})
        objective = Distilled((teacher,), change=change)
        expected, fitted = fit_module(expected, clean, plan, seed=seed_of(3, "part", k), objective=objective)
        losses += fitted.history.frame["loss"].tolist()
    assert_same_bits(tensors_of(plain().module), tensors_of(expected))
    assert plain().name == "purify"
    assert plain().note == f"smallest trigger: {told(ranked[0])}"
    table, history = plain().table, plain().history
    assert table is not None
    assert table.frame["family"].drop_duplicates().tolist() == [family.name for family in FAMILIES]
    assert table.frame.equals(table_of(found, 60).frame)
    assert history is not None
    assert history.frame["loss"].tolist() == losses
    assert history.meta["plan"] == PLAN.model_dump(mode="json")
    assert history.frame["step"].tolist() == sorted(set(history.frame["step"].tolist()))
    assert plain().seconds > 0
    given = PURIFY.taught(suspect, found, trusted(), seed=3, session=Session())
    assert_same_bits(tensors_of(given.module), tensors_of(expected))


@pytest.mark.parametrize(
    "changed",
    [
        {"plan": PLAN.model_copy(update={"learning_rate": 0.05})},
        {"search": replace(SEARCH, steps=4)},
        {"labels": 0.0},
        {"doubt": replace(PURIFY.doubt, share=0.9)},
        {"doubt": replace(PURIFY.doubt, suspected=1)},
        {"doubt": replace(PURIFY.doubt, restarts=3)},
        {"doubt": replace(PURIFY.doubt, rounds=2)},
        {"doubt": replace(PURIFY.doubt, power=0.0)},
        {"doubt": replace(PURIFY.doubt, spread=(0.0, 0.1))},
    ],
    ids=lambda changed: ",".join(changed),
)
def test_every_setting_changes_the_weights(changed: dict[str, Any]) -> None:
    other = run(replace(PURIFY, **changed)).module.get_parameter("fc.weight")
    assert not torch.equal(other, plain().module.get_parameter("fc.weight"))


def test_the_seed_and_the_first_suspect_decide() -> None:
    weight = plain().module.get_parameter("fc.weight")
    assert not torch.equal(run(PURIFY, seed=4).module.get_parameter("fc.weight"), weight)
    alone = run(replace(PURIFY, name="other"), models=suspects()[:1])
    assert torch.equal(alone.module.get_parameter("fc.weight"), weight)
    assert alone.name == "other"


def test_it_takes_any_module() -> None:
    model, clean = odd_module(0), Clean(toy(24), Samples(toy(24, noise=9).x, toy(24).y, 5))
    with untouched(model):
        first, same = (PURIFY((model,), clean, seed=0, session=Session()).module for _ in range(2))
    assert_same_bits(tensors_of(first), tensors_of(same))
    assert not torch.equal(first.get_parameter("head.weight"), model.get_parameter("head.weight"))


def test_a_resumed_run_is_the_uninterrupted_one_and_knows_its_settings(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"

    seen: list[int] = []

    def stop(step: int, steps: int, row: object) -> None:
        seen.append(step)
        if len(seen) == 4:  # in the second of three parts
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(PURIFY, checkpoint=path, every_seconds=0.0, monitor=stop)
    for other in (replace(PURIFY, doubt=Doubt(suspected=2, restarts=2, share=0.4)), replace(PURIFY, labels=0.4)):
        with pytest.raises(InputError, match="`checkpoint` should belong to this run"):
            run(other, checkpoint=path)
    steps: list[int] = []

    def note(step: int, total: int, row: object) -> None:
        steps.append(step)

    resumed = run(PURIFY, checkpoint=path, monitor=note)
    assert len(steps) < len(plain().history.frame) - 2  # type: ignore[union-attr]
    assert_same_bits(tensors_of(resumed.module), tensors_of(plain().module))


# ---- what it removes ----

TRIGGER, TARGET = Patch(2), 3


@cache
def tampered() -> nn.Module:
    """A network that has learnt a patch on a tenth of the digits."""
    poisoned = poison(digits().train, TRIGGER, target=TARGET, rate=0.1, generator=torch.Generator().manual_seed(0))
    return fit_module(fresh(0), poisoned.samples, Plan(steps=200, batch_size=64), seed=0)[0].eval()


def measured(module: nn.Module) -> tuple[float, float]:
    """Attack success and accuracy on the test images, in %."""
    test = digits().test
    success = Backdoor(test, TRIGGER, TARGET)(module)["attack_success"]
    return success, 100 * float(correct(logits(module, test), test.y).float().mean())


def test_a_patch_is_removed_where_fine_tuning_keeps_it() -> None:
    before = measured(tampered())
    assert before[0] > 95
    steps, search = split(400, classes=10, batch_size=32, precision="32-true")
    plan = Plan(steps=steps, batch_size=32, learning_rate=0.01)
    with untouched(tampered()):
        repaired = run(Purify(plan, search), models=(tampered(),), seed=0)
    assert repaired.evaluations == 400
    success, accuracy = measured(repaired.module)
    assert success < 10
    assert accuracy > before[1] - 5
    tuned = FineTune(plan.model_copy(update={"steps": 400, "learning_rate": 0.05}))(
        (tampered(),), trusted(), seed=0, session=Session()
    )
    assert measured(tuned.module)[0] > 50


# ---- refusals ----


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Doubt(share=0.0), r"`share` should be in \(0, 1\], of the images of a batch. Found 0.0."),
        (lambda: Doubt(share=1.2), r"`share` should be in \(0, 1\], of the images of a batch. Found 1.2."),
        (lambda: Doubt(suspected=0), "`suspected` should be at least 1. Found 0."),
        (lambda: Doubt(restarts=0), "`restarts` should be at least 1. Found 0."),
        (lambda: Doubt(rounds=0), "`rounds` should be at least 1. Found 0."),
        (lambda: Doubt(power=-1.0), "`power` should be finite and at least 0. Found -1.0."),
        (lambda: Doubt(spread=(2.0, 1.0)), r"`spread` should be a lowest and a highest strength. Found \(2.0, 1.0\)."),
        (
            lambda: Doubt(spread=(-1.0, 1.0)),
            r"`spread` should be a lowest and a highest strength. Found \(-1.0, 1.0\).",
        ),
        (
            lambda: Purify(PLAN, labels=1.5),
            r"`labels` should be in \[0, 1\], the label's share of a target. Found 1.5.",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(make: Callable[[], object], text: str) -> None:
    with pytest.raises(InputError, match=text):
        make()


def test_inputs_that_are_not_images_are_refused() -> None:
    x = torch.rand(40, 6, generator=torch.Generator().manual_seed(0))
    parts = [Samples(x[:20], torch.arange(20) % 3, 3), Samples(x[20:], torch.arange(20) % 3, 3)]
    with pytest.raises(InputError, match=r"`samples` should be images \(C, H, W\) to search for triggers"):
        PURIFY((nn.Linear(6, 3),), Clean(*parts), seed=0, session=Session())
