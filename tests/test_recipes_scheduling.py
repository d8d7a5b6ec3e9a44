"""The study of Liu et al. 2020: which trainings it is made of, and what it reads off records whose answers are known."""

from dataclasses import replace
from math import sqrt
from pathlib import Path

import pytest
import torch

from isthmus._check import InputError
from isthmus.data import load_data
from isthmus.files import read_json
from isthmus.rates import Rate
from isthmus.recipes import scheduling as scheduling_module
from isthmus.recipes.adversarial import Standing
from isthmus.recipes.scheduling import ABOUT, SCHEDULING, SIZES, cells, class_shares, recipe, settings
from isthmus.recipes.scheduling_tables import SCHEDULES, Result, Setting, is_constant, summarise
from isthmus.recipes.study import Findings, StudyRecipe, run_study
from isthmus.recipes.train import Trained
from isthmus.runs import Run
from isthmus.table import Column, Table
from isthmus.training.budget import Kind

SHARES = (0.1135, 0.0866, 0.1)  # of a thousand and more, as on MNIST
STUCK = (88.65, 88.65)


def rate(error: float) -> dict[str, float | int]:
    n = 10_000
    return Rate(n - round(error * n / 100), n).to_json()


def result(
    setting: Setting, *, norms: tuple[float, ...] = (1.0,), dead: str = "", **errors: tuple[float, float]
) -> Result:
    """A finished training with (clean, robust) errors of its sets of weights."""
    record = Trained(
        arch="lenet",
        data="mnist",
        train_n=10,
        clean_accuracy=rate(1.0),
        loss=0.1,
        seconds=1.0,
        gradient_evaluations=1,
        standings={
            name: Standing(clean_accuracy=rate(clean), robust_accuracy=rate(robust), robust_loss=0.5)
            for name, (clean, robust) in errors.items()
        },
        dead_layers=(dead,) if dead else (),
        files={},
    )
    rows = [{"step": i, "loss": 0.5, "gradient_norm": norm} for i, norm in enumerate(norms)]
    return Result(setting, record, Table.of(rows, (Column("step"), Column("loss", "nat"), Column("gradient_norm"))))


def as_in_the_paper(seeds: int = 2, gain: float = 2.0) -> list[Result]:
    """Constant budgets stuck at the higher rate; elsewhere scheduled ones better by `gain` points; gradient norms of 1 + eps."""
    found: list[Result] = []
    for seed in range(seeds):
        for kind in SCHEDULES:
            lower = 0.0 if kind == "constant" else gain
            low = {"last": (1.5, 8.0 + seed - lower), "best": (1.4, 7.0 - lower), "averaged": (1.3, 5.0)}
            found.append(result(Setting(kind, 1e-4, 0.4, seed), norms=(9.0,) * 18 + (1.4, 1.4), **low))
            stuck = kind == "constant"
            high = STUCK if stuck else (1.0, 7.0)
            found.append(result(Setting(kind, 1e-3, 0.4, seed), dead="fc1 is dead" if stuck else "", last=high))
        found += [
            result(Setting("constant", 1e-4, eps, seed), norms=(9.0,) * 9 + (1 + eps,), last=(1.0, 2.0))
            for eps in (0.1, 0.2)
        ]
        found.append(result(Setting("constant", 1e-4, 0.0, seed), norms=(9.0,) * 9 + (1.0,)))
        found += [
            result(Setting(kind, 3e-4, 0.4, seed, 3), last=(1.0, 9.0), snapshots=(1.0, 6.0 - k))
            for k, kind in enumerate(SCHEDULES[:2])
        ]
    return found


def told(results: list[Result], seeds: int = 2) -> Findings:
    return summarise(results, seeds=seeds, cycle_rate=3e-4, shares=SHARES)


def test_a_constant_classifier_errs_by_one_minus_the_share_of_its_class() -> None:
    assert is_constant(STUCK, SHARES)
    assert is_constant((91.34, 91.34), SHARES)  # of another class than the largest
    assert is_constant((89.14, 88.16), SHARES)  # both within half a point
    assert not is_constant((89.16, 88.65), SHARES)
    assert not is_constant((60.0, 88.65), SHARES)  # bad, but alive
    assert not is_constant((88.65, 91.34), SHARES)  # not one class
    with pytest.raises(InputError, match=r"`shares` should hold the share of each class. Found none"):
        is_constant(STUCK, ())


def test_means_spreads_and_who_is_stuck() -> None:
    rows = told(as_in_the_paper()).tables["Robust error by learning rate and schedule"].rows()
    assert [(row["learning_rate"], row["budget"]) for row in rows] == [(r, k) for r in (1e-4, 1e-3) for k in SCHEDULES]
    assert rows[0]["robust_error"] == pytest.approx(8.5)
    assert rows[0]["robust_error_sd"] == pytest.approx(sqrt(0.5))
    assert (rows[0]["clean_error"], rows[0]["seeds"], rows[0]["stuck"]) == (pytest.approx(1.5), 2, "0/2")
    assert (rows[3]["robust_error"], rows[3]["stuck"], rows[3]["dead_layer"]) == (pytest.approx(88.65), "2/2", "2/2")
    assert (rows[4]["stuck"], rows[4]["dead_layer"]) == ("0/2", "0/2")
    assert (rows[3]["paper_robust_error"], rows[3]["paper_sd"]) == (88.65, 0.0)
    assert (rows[1]["paper_robust_error"], rows[1]["paper_sd"]) == (6.64, 0.7)
    elsewhere = summarise(as_in_the_paper(), seeds=2, cycle_rate=3e-4, shares=SHARES, paper=False)
    assert set(elsewhere.tables["Robust error by learning rate and schedule"].values("paper_robust_error")) == {None}


def test_notes_name_the_dead_layers_and_the_constant_classifier() -> None:
    notes = "\n".join(told(as_in_the_paper()).notes)
    assert "`constant-eps0.4-lr0.001-seed1`, dead layer: fc1 is dead" in notes
    assert "11.35 % of the 10,000 test images, which makes 88.65 %" in notes


def test_the_gradient_norm_at_the_end_is_the_mean_of_the_last_tenth() -> None:
    rows = told(as_in_the_paper()).tables["Gradient norm by budget"].rows()
    assert [row["eps"] for row in rows] == [0.0, 0.1, 0.2, 0.4]
    assert [row["gradient_norm"] for row in rows] == pytest.approx([1.0, 1.1, 1.2, 1.4])
    assert [row["stuck"] for row in rows] == [None, "0/2", "0/2", "0/2"]  # without an adversary nobody looked
    one = result(Setting("constant", 1e-4, 0.1, 0), norms=tuple(map(float, range(25))))
    assert one.tail("gradient_norm") == 23.0  # of 25 rows the last three


def test_remedies_stand_beside_each_other() -> None:
    rows = {
        str(row["model"]): row
        for row in told(as_in_the_paper()).tables["Scheduled budgets beside other remedies"].rows()
    }
    errors = {name: row["robust_error"] for name, row in rows.items()}
    assert errors == {
        "constant, rate 0.0001, last": pytest.approx(8.5),
        "constant, rate 0.0001, early stopped": pytest.approx(7.0),
        "constant, rate 0.0001, weights averaged": pytest.approx(5.0),
        "periodic-cosine, rate 0.0001, last": pytest.approx(6.5),
        "periodic-linear, rate 0.0001, last": pytest.approx(6.5),
        "constant, rate 0.0003, 3 cycles, last": pytest.approx(9.0),
        "constant, rate 0.0003, 3 cycles, ensemble of snapshots": pytest.approx(6.0),
        "periodic-cosine, rate 0.0003, 3 cycles, last": pytest.approx(9.0),
        "periodic-cosine, rate 0.0003, 3 cycles, ensemble of snapshots": pytest.approx(5.0),
    }


def verdicts(found: Findings) -> dict[str, bool | None]:
    return {claim.text: claim.holds for claim in found.claims}


def test_claims_that_hold_hold() -> None:
    found = told(as_in_the_paper())
    held = verdicts(found)
    assert (
        held.pop(
            "A periodic-cosine budget has a lower robust error than a constant one with weight averaging (our question)."
        )
        is False
    )
    assert (
        held.pop(
            "A periodic-cosine budget has a lower robust error than a constant one with early stopping (our question)."
        )
        is False
    )
    assert len(held) == 7
    assert set(held.values()) == {True}
    said = {claim.text: claim.found for claim in found.claims}
    stuck = "At learning rate 0.001 training with a constant budget of 0.4 gets stuck in a constant classifier."
    assert said[stuck] == "stuck 2/2"
    lower = "At learning rate 0.0001 a periodic-cosine budget has a lower robust error than a constant one."
    assert said[lower] == "lower in 2 of 2 seeds; mean difference -2.00 +- 0.00 points"
    growing = "The gradient norm at the end of training grows with the (constant) budget."
    assert said[growing].endswith("in 2 of 2 seeds; largest over smallest budget: 1.4, 1.4")


def test_claims_that_do_not_hold_are_said_not_to() -> None:
    results = as_in_the_paper(gain=-1.0)
    for place, held in enumerate(results):
        kind, rate = held.setting.schedule, held.setting.rate
        if rate == 1e-3:  # nobody at a constant budget is stuck, one of two with a cosine is
            trapped = kind == "periodic-cosine" and held.setting.seed == 1
            results[place] = result(held.setting, last=STUCK if trapped else (1.0, 9.0))
        if held.setting.eps == 0.2:
            results[place] = result(held.setting, norms=(0.9,), last=(1.0, 2.0))
    held = verdicts(told(results))
    where = "At learning rate 0.001 training with a {} budget of 0.4 {}."
    assert held[where.format("constant", "gets stuck in a constant classifier")] is False
    assert held[where.format("periodic-cosine", "does not get stuck")] is False
    assert held[where.format("periodic-linear", "does not get stuck")] is True
    assert held["The gradient norm at the end of training grows with the (constant) budget."] is False
    assert (
        held["At learning rate 0.0001 a periodic-cosine budget has a lower robust error than a constant one."] is False
    )


def test_missing_seeds_decide_nothing() -> None:
    found = verdicts(told(as_in_the_paper(seeds=1), seeds=2))
    averaged = (
        "A periodic-cosine budget has a lower robust error than a constant one with weight averaging (our question)."
    )
    assert found.pop(averaged) is False  # one counterexample is enough
    found = {text: holds for text, holds in found.items() if holds is not False}
    assert set(found.values()) == {None}
    assert not told([]).claims
    assert [len(table) for table in told([]).tables.values()] == [0, 0, 0]


def test_each_setting_is_trained_once() -> None:
    found = settings(SIZES["paper"], 3)
    assert len({setting.name for setting in found}) == len(found) == 3 * (9 + 4 + 2)
    (wave,) = cells("paper", 1)
    assert len(wave) == 15
    low = [s for s in found if s.seed == 0 and s.schedule == "constant" and s.rate == 1e-4 and s.cycles == 1]
    assert sorted(s.eps for s in low) == [0.0, 0.1, 0.2, 0.3, 0.4]


@pytest.mark.parametrize(("eps", "steps"), [(0.1, 20), (0.3, 40), (0.4, 50)])
def test_the_paper_scale_attacks_as_the_paper_does(eps: float, steps: int) -> None:
    sizes = SIZES["paper"]
    adversary = recipe(Setting("constant", 1e-4, eps, 0), sizes).adversary
    assert adversary is not None
    attack = adversary.attack
    assert attack.steps == steps
    assert attack.step * eps == pytest.approx(0.01)
    assert attack.start * eps == pytest.approx(0.01)
    assert sizes.steps == -(-59_000 * 100 // 128)
    assert set(SIZES) == set(ABOUT)


@pytest.mark.parametrize(("kind", "full"), [("periodic-cosine", 0.608), ("periodic-linear", 0.5)])
def test_scheduled_budgets_overshoot_as_in_the_paper(kind: Kind, full: float) -> None:
    trained = recipe(Setting(kind, 1e-3, 0.4, 0), SIZES["paper"])
    assert trained.adversary is not None
    budget = trained.adversary.budget(trained.plan.resets)
    assert budget.full == pytest.approx(full, abs=1e-3)
    assert budget.at(0.0) == 0.0
    assert budget.at(0.0099) == 0.0  # changed once an epoch
    assert budget.at(0.99) == 1.0
    plan = trained.plan
    assert (plan.optimizer, plan.schedule, plan.weight_decay, plan.learning_rate) == ("adamw", "constant", 0.0, 1e-3)
    cycles = recipe(Setting(kind, 1e-3, 0.4, 0, 3), SIZES["paper"]).plan
    assert (cycles.resets, cycles.schedule) == ((1 / 3, 2 / 3), "cosine")


def test_class_shares_are_those_of_the_images_attacked() -> None:
    test = load_data("digits").test
    shares = class_shares("digits", 50)
    assert shares == [pytest.approx(float((test.y[:50] == c).double().mean())) for c in range(10)]
    assert class_shares("digits", 10**6) == pytest.approx((torch.bincount(test.y) / len(test)).tolist())


def test_the_whole_study_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = replace(
        SIZES["smoke"],
        train_n=30,
        validation=20,
        attack_n=20,
        batch_size=30,
        epochs=3,
        rates=(1e-3, 1e-2),
        budgets=(0.0, 0.2),
        attack_steps=1,
    )
    monkeypatch.setitem(scheduling_module.SIZES, "smoke", tiny)
    study = StudyRecipe(study="scheduling", scale="smoke")
    with Run.open(tmp_path / "s", study) as run:
        report = run_study(SCHEDULING, study, run, tell=lambda _: None)
    assert report.failed == {}
    held = read_json(tmp_path / "s" / "scheduling.json")
    assert isinstance(held, dict)
    rows = held["tables"]["Robust error by learning rate and schedule"]["rows"]
    record = read_json(tmp_path / "s" / "cells" / "periodic-linear-eps0.2-lr0.01-seed0" / "metrics.json")
    assert isinstance(record, dict)
    accuracy = record["standings"]["last"]["robust_accuracy"]
    assert accuracy["n"] == 20
    assert rows[5]["robust_error"] == pytest.approx(100 - 100 * accuracy["value"])
    assert len(held["tables"]["Scheduled budgets beside other remedies"]["rows"]) == 9
    assert "## Gradient norm by budget" in (tmp_path / "s" / "scheduling.md").read_text()
