"""`path-repair`: what is run, both ways of counting, means by hand, verdicts, and the whole of it at its smallest."""

import pytest

from isthmus import report
from isthmus.rates import Rate
from isthmus.recipes import path_repair, path_repair_cells
from isthmus.recipes.path_repair import (
    BUDGETS,
    PATH_REPAIR,
    PUBLISHED,
    Outcome,
    claims,
    corrected,
    outcomes_of,
    published,
)
from isthmus.recipes.path_repair_cells import ATTACKS, REMEDIES, SIZES, cells
from isthmus.recipes.study import StudyRecipe, run_study
from isthmus.repair.methods import METHODS
from isthmus.runs import Run


def held(scale="small", seeds=3):
    return {cell.name: cell.recipe for wave in cells(scale, seeds) for cell in wave}


def test_each_wave_needs_only_those_before_it():
    for scale in SIZES:
        for seeds in (1, 2, 3):
            before = set[str]()
            for wave in cells(scale, seeds):
                assert all(set(cell.needs) <= before for cell in wave)
                before |= {cell.name for cell in wave}


def test_pairs_share_models_but_no_order():
    found = held()
    assert len(found) == 2 * 3 + 2 * 3 + 2 * 5 * 3
    suspects = [found[f"backdoor-500-{seed}"].suspects for seed in range(3)]
    assert suspects == [
        tuple(f"cells/backdoored-{k}/model.safetensors" for k in pair) for pair in ((0, 1), (1, 2), (2, 0))
    ]
    assert (
        len({found[f"backdoored-{k}"].seed for k in range(3)} | {found[f"untampered-{k}"].seed for k in range(3)}) == 6
    )
    assert (found["backdoored-1"].rate, found["backdoored-1"].target) == (0.1, "1")
    assert found["untampered-1"].tamper_trigger is None


def test_both_of_a_pair_get_the_same_errors_and_are_measured_by_them():
    found = held()
    first, second, repair = found["injected-2-0"], found["injected-2-1"], found["injection-50-2"]
    assert (first.model, second.model) == tuple(f"cells/untampered-{k}/model.safetensors" for k in (2, 0))
    assert (first.errors, first.keep, first.like) == (4, 996, None)
    assert second.like == repair.injected == "cells/injected-2-0/tamper.json"
    assert (repair.trigger, repair.target, repair.clean, repair.hold_out) == (None, None, 50, 2500)
    assert found["backdoor-50-2"].trigger == SIZES["small"].trigger


def test_all_remedies_are_there_and_the_papers_point_is_scanned():
    assert {"path", *REMEDIES} <= set(METHODS)
    for size in SIZES.values():
        assert 0.1 in [pytest.approx(k / (size.points - 1)) for k in range(size.points)]
        assert max(size.budgets) <= size.hold_out
    assert SIZES["small"].budgets == SIZES["paper"].budgets == BUDGETS
    assert all(len(rows) == len(BUDGETS) for by in PUBLISHED.values() for rows in by.values())


def entry(name, accuracy, success, every=None):
    rates = {"clean_accuracy": accuracy, "attack_success": success, "attack_success_all": every}
    found = {key: report.RateEntry.of(Rate(value, 1000)) for key, value in rates.items() if value is not None}
    return report.Entry(name=name, **found)


def document(curve=None):
    return report.Document.model_construct(
        suspects=(entry("a", 900, 990, 992), entry("b", 905, 980, 982)),
        repaired=entry("path", 850, 20, 110),
        baselines={"fine-tune": entry("fine-tune", 830, 50, 140)},
        curve=curve,
    )


def test_a_report_tells_the_first_suspect_the_path_and_the_others():
    rows = ({"t": 0.0, "test_error": 10.0}, {"t": 0.1, "test_error": 12.0, "attack_success_all": 30.0})
    curve = report.Curve.model_construct(rows=rows, columns=())
    found = outcomes_of(document(curve), "backdoor", 500, 1)
    assert [one.remedy for one in found] == ["suspect", "path", "fine-tune"]
    rates = [value for one in found for value in (one.accuracy, one.success, one.attack_all)]
    assert rates == pytest.approx([90.0, 99.0, 99.2, 85.0, 2.0, 11.0, 83.0, 5.0, 14.0])
    assert [one.at_t for one in found] == [None, (88.0, 30.0), None]
    assert [one.at_t for one in outcomes_of(document(), "backdoor", 500, 1)] == [None] * 3


def outcome(remedy, accuracy, success, *, seed=0, budget=500, attack="backdoor", at_t=None):
    return Outcome(attack, budget, seed, remedy, accuracy, success, success + 10, at_t)


def test_means_over_seeds_stand_beside_the_published_figures():
    found = [
        outcome("path", 80, 2, at_t=(85.0, 20.0)),
        outcome("path", 84, 4, seed=1, at_t=(87.0, 30.0)),
        outcome("fine-tune", 70, 8),
        outcome("path", 90, 25, attack="injection"),
    ]
    path, tuned = corrected(found, "backdoor").rows()
    assert (path["seeds"], path["accuracy"], path["attack_success"]) == (2, 82.0, 3.0)
    assert path["accuracy_sd"] == pytest.approx(8**0.5)
    assert (path["published_accuracy"], path["published_attack_success"]) == (80, 1.5)
    assert (tuned["seeds"], tuned["accuracy_sd"], tuned["published_accuracy"]) == (1, None, 78)
    path, tuned = published(found).rows()
    assert (path["accuracy"], path["attack_success"]) == (86.0, 25.0)
    assert (tuned["accuracy"], tuned["attack_success"]) == (70.0, 18.0)
    (errors,) = corrected(found, "injection").rows()
    assert (errors["attack_success"], errors["published_accuracy"]) == (25.0, 90)
    assert published([outcome("path", 80, 2)]).rows() == []  # its curve was not measured with a trigger


def test_claims_are_decided_by_means_once_all_budgets_are_there():
    good = [
        outcome("path", 80, 3),
        outcome("fine-tune", 79, 3),
        outcome("prune", 85, 60),
        outcome("path", 90, 0, attack="injection"),
    ]
    assert [claim.holds for claim in claims(good, [500], 1)] == [True, True, True, True]
    assert [claim.holds for claim in claims(good, [500, 50], 1)] == [None] * 4
    assert [claim.holds for claim in claims(good, [500], 2)] == [None] * 4  # of two seeds
    bad = [
        outcome("path", 78, 6),
        outcome("fine-tune", 79, 3),
        outcome("prune", 85, 30),
        outcome("path", 90, 25, attack="injection"),
    ]
    assert [claim.holds for claim in claims(bad, [500, 50], 1)] == [False] * 4
    assert "500 images: +78.0 / 6.0" in claims(bad, [500], 1)[0].found
    assert claims([], [500], 1)[0].found == "no number of clean images has all its seeds"


def test_the_study_runs_and_fills_its_tables(tmp_path, monkeypatch):
    monkeypatch.setattr(path_repair_cells, "REMEDIES", ("fine-tune",))
    recipe, told = StudyRecipe(study="path-repair", scale="smoke"), list[str]()
    with Run.open(tmp_path / "study", recipe) as run:
        found = run_study(PATH_REPAIR, recipe, run, tell=told.append)
    assert found.failed == {}
    assert len(told) == found.cells == 4 + 2 + len(ATTACKS)
    tables = found.findings.tables
    for title in tables:
        assert tables[title].values("remedy") == ["suspect", "path", "fine-tune"]
    suspect = tables["Backdoor, without the flaws of the protocol"].rows()[0]
    assert suspect["attack_success"] > 90
    assert tables["Error injection"].rows()[0]["attack_success"] == 100.0
    # Of 200 images 20 are of the target class: published success of a model that finds all of them is higher by that share.
    mine = next(one for one in tables["Backdoor, as published"].rows() if one["remedy"] == "fine-tune")
    other = tables["Backdoor, without the flaws of the protocol"].rows()[2]
    assert mine["accuracy"] == other["accuracy"]
    assert 0.9 * other["attack_success"] <= mine["attack_success"] <= 0.9 * other["attack_success"] + 10.5
    assert len(found.findings.claims) == 4
    assert path_repair.PAPER_T == 0.1
