"""What the grid says of repairs whose means are known on paper; what is no evidence and what does not compare is left out."""

from dataclasses import replace
from math import sqrt

import pytest
import torch

from isthmus import report
from isthmus.rates import Rate
from isthmus.recipes import repair_grid
from isthmus.recipes.repair_grid import left_out
from isthmus.recipes.repair_grid_claims import claims, dominators, mean_of, resampled, share_dominated
from isthmus.recipes.repair_grid_tables import (
    Model,
    Rates,
    Result,
    by_threat,
    compared,
    control,
    remedies,
    suspects,
)
from repair_grid_example import CIFAR, FASHION, result, setting


def test_means_spreads_and_worst_cells():
    table = remedies(
        [
            result("auto", 1.0, 0.5, recovery=60.0, effectiveness=90.0),
            result("auto", 3.0, 2.5, seed=1, effectiveness=None),
            result("path", 7.0, -1.0),
            result("auto", 9.0, 4.0, budget=50),
        ]
    )
    rows = {(row["budget"], row["remedy"]): row for row in table.rows()}
    auto = rows[500, "auto"]
    assert (auto["cells"], auto["attack_success"], auto["attack_success_worst"]) == (2, 2.0, 3.0)
    assert auto["attack_success_sd"] == pytest.approx(sqrt(2))
    assert (auto["drop"], auto["drop_worst"], auto["clean_accuracy"]) == (1.5, 2.5, 78.5)
    assert auto["drop_sd"] == auto["clean_accuracy_sd"] == pytest.approx(sqrt(2))
    assert (auto["recovery_accuracy"], auto["recovery_accuracy_sd"]) == (65.0, pytest.approx(sqrt(50)))
    assert (auto["effectiveness"], auto["seconds"], auto["evaluations"]) == (90.0, 10.0, 400.0)
    assert (rows[500, "path"]["drop"], rows[500, "path"]["drop_sd"]) == (-1.0, None)
    assert rows[50, "auto"]["attack_success"] == 9.0


def rates(accuracy, attack, recovery):
    found = [report.RateEntry.of(Rate(hits, 100)) for hits in (accuracy, attack, recovery)]
    return dict(zip(("clean_accuracy", "attack_success", "recovery_accuracy"), found, strict=True))


def test_a_result_is_what_the_report_says():
    one = result("auto", 0.0, 0.0).repair
    document = report.Document.model_construct(
        suspects=(report.Entry(name="a", **rates(79, 95, 4)), report.Entry(name="b", **rates(80, 90, 8))),
        repaired=report.Entry(name="c", **rates(78, 2, 70), effectiveness=0.9, seconds=3.0, gradient_evaluations=398),
    )
    found = Result.read(one, document)
    assert found.before == (Rates(79.0, 95.0, 4.0), Rates(80.0, 90.0, 8.0))
    assert (found.after, found.attack, found.drop) == (Rates(78.0, 2.0, 70.0), 2.0, 2.0)
    assert (found.effectiveness, found.seconds, found.evaluations, found.floor) == (90.0, 3.0, 398, None)
    assert Result.read(one, document, 1.5).floor == 1.5


def test_attack_success_stands_beside_what_an_untampered_model_allows():
    known = [replace(result("auto", attack, 1.0, seed=k), floor=3.0) for k, attack in enumerate((5.0, 1.0, 6.0))]
    (row,) = remedies(known).rows()
    assert row["above_floor"] == pytest.approx(1.0)
    (row,) = remedies([*known[:2], result("auto", 99.0, 1.0)]).rows()
    assert row["above_floor"] == pytest.approx(0.0)
    assert remedies([result("auto", 99.0, 1.0)]).rows()[0]["above_floor"] is None
    told = claims(known, [one.repair for one in known], known)[0].found
    assert "the same triggers work on 3.00 % of the images of untampered models" in told
    held = [*known[:2], result("auto", 6.0, 1.0, seed=2)]
    assert "untampered" not in claims(held, [one.repair for one in held], held)[0].found


@pytest.mark.parametrize(
    ("first", "counts"),
    [
        (Rates(79.0, 50.0), True),
        (Rates(79.0, 49.9), False),
        (Rates(70.0, 95.0), True),
        (Rates(69.9, 95.0), False),
        (Rates(79.0), False),
    ],
)
def test_a_cell_counts_where_its_first_suspect_and_the_trigger_work(first, counts):
    assert CIFAR.least == 70
    assert result("auto", 1.0, 1.0, before=(first, Rates(80.0, 99.0))).counts == counts


def test_means_are_over_the_cells_that_every_remedy_finished():
    blend = setting("blend")
    whole = [
        result(remedy, 1.0, 1.0, of, seed=s) for remedy in ("auto", "path") for of in (None, blend) for s in (0, 1)
    ]
    assert compared(whole) == whole
    kept = compared(one for one in whole if one is not whole[-1])
    assert [one.repair.remedy for one in kept] == ["auto"] * 3 + ["path"] * 3
    assert ("cifar10-blend-0.1", 1) not in {one.case for one in kept}
    slow = [*whole, result("sau", 9.0, 9.0)]  # one of four: it is left out, not the others' cells
    assert compared(slow) == whole
    half = [*slow, result("sau", 9.0, 9.0, seed=1)]
    assert [one.repair.remedy for one in compared(half)] == ["auto"] * 2 + ["path"] * 2 + ["sau"] * 2
    ahead = [
        *slow,
        *(result("auto", 1.0, 1.0, seed=seed) for seed in range(2, 6)),
    ]  # one that is far ahead leaves out no other
    assert compared(ahead) == whole
    elsewhere = [*whole, result("sau", 9.0, 9.0, budget=50)]
    assert compared(elsewhere) == elsewhere
    assert compared([]) == []


def test_what_is_in_no_mean_stands_in_a_table_of_its_own():
    whole = [result(remedy, 1.0, 1.0) for remedy in ("auto", "path")]
    alone = result("auto", 5.0, 3.0, seed=1)
    each = f"{repair_grid.EACH}, cifar10"
    assert each not in repair_grid._tables(whole, whole)
    tables = repair_grid._tables(compared([*whole, alone]), [*whole, alone])
    assert tables[repair_grid.ALL].values("cells") == [1, 1]
    assert tables[each].values("cells") == [2, 1]
    assert tables[each].values("attack_success") == [3.0, 1.0]


def test_a_row_by_threat_is_a_mean_over_data_sets_and_seeds():
    held = [
        result("auto", 1.0, 0.0),
        result("auto", 4.0, 0.0, setting(block=FASHION)),
        result("auto", 7.0, 3.0, setting("clean-label")),
        result("auto", 8.0, 4.0, setting("clean-label", 1)),
        result("path", 2.0, 1.0),
    ]
    table = by_threat(held, lambda one: one.attack, "%")
    assert table.names == ("remedy", "badnets-0.1", "clean-label-0.08", "clean-label-0.01")
    assert table.rows()[0] == {"remedy": "auto", "badnets-0.1": 2.5, "clean-label-0.08": 7.0, "clean-label-0.01": 8.0}
    assert table.rows()[1]["clean-label-0.01"] is None
    drops = by_threat(held, lambda one: one.drop, "points")
    assert (drops.column("badnets-0.1").unit, drops.rows()[0]["clean-label-0.01"]) == ("points", 4.0)


def test_the_cost_where_there_is_nothing_to_remove():
    free, before = setting(None), (Rates(80.0, 0.5, 79.0), Rates(81.0, 0.7, 80.0))
    held = [result("auto", 2.0, 0.4, free, before=before), result("auto", 4.0, 1.2, free, seed=1, before=before)]
    (row,) = control(held).rows()
    assert (row["cells"], row["drop"], row["drop_worst"]) == (2, pytest.approx(0.8), pytest.approx(1.2))
    assert (row["false_target_before"], row["false_target"]) == (0.5, 3.0)


def test_suspects_stand_beside_the_floor_of_their_trigger():
    models = [
        Model(setting("warp"), Rates(76.0, 58.0, 36.0)),
        Model(setting("warp"), Rates(78.0, 48.0, 44.0)),
        Model(setting(None), Rates(80.0)),
    ]
    table = suspects(models, {setting("warp").floor: 1.5, setting("warp", block=FASHION).floor: 9.0})
    warp, free = table.rows()
    assert (warp["threat"], warp["rate"], warp["models"], warp["untampered"]) == ("warp", 0.1, 2, 1.5)
    assert (warp["attack_success"], warp["attack_success_least"], warp["recovery_accuracy"]) == (53.0, 48.0, 40.0)
    assert (free["threat"], free["rate"], free["attack_success"], free["untampered"]) == (
        "untampered",
        None,
        None,
        None,
    )


def test_everything_that_the_means_lack_is_said(monkeypatch):
    from isthmus.recipes import repair_grid_cells

    kept = [result("auto", 1.0, 1.0)]
    weak = result("auto", 1.0, 1.0, setting("warp"), seed=1, before=(Rates(76.0, 47.1), Rates(77.0, 58.3)))
    free = result("auto", 1.0, 1.0, setting(None))
    known = {name: found for name, found in repair_grid_cells.METHODS.items() if name != "anp"}
    monkeypatch.setattr(repair_grid_cells, "METHODS", known)
    notes = left_out("small", [*kept, weak, free, result("path", 1.0, 1.0, seed=1)], kept)
    assert notes[0] == "Not run, because there is no such remedy in this version: anp."
    assert "cifar10-warp-0.1, seed 1 (attack success 47.1 %, accuracy 76.0 %)." in notes[1]
    assert notes[2] == "Finished, but of cells that other remedies have not finished: path 1."
    assert left_out("smoke", kept, kept) == []


def test_resamples_are_of_whole_settings():
    names = ["a", "a", "b", "c"]
    weights = resampled(names, count=4000)
    assert weights.shape == (4000, 4)
    assert weights.sum(1) == pytest.approx(torch.ones(4000, dtype=torch.float64))
    assert torch.equal(weights[:, 0], weights[:, 1])
    # All weight on b: drawn three times of three, 1 in 27; none on a: 8 in 27.
    assert float((weights[:, 2] == 1).double().mean()) == pytest.approx(1 / 27, abs=0.01)
    assert float((weights[:, 0] == 0).double().mean()) == pytest.approx(8 / 27, abs=0.03)
    assert not torch.equal(weights, resampled(names, count=4000, seed=1))


def test_an_interval_is_that_of_a_mean_over_settings():
    values = [float(i % 2) for i in range(400)]
    alone = [str(i) for i in range(400)]
    found = mean_of(values, alone)
    error = sqrt(0.25 / 400)
    assert found.value == 0.5
    assert (found.low, found.high) == (
        pytest.approx(0.5 - 1.96 * error, abs=0.01),
        pytest.approx(0.5 + 1.96 * error, abs=0.01),
    )
    twice = mean_of(values * 2, alone * 2)  # the same cells once more say nothing new
    assert (twice.low, twice.high) == (pytest.approx(found.low), pytest.approx(found.high))
    one = mean_of([1.0, 2.0], ["a", "a"])
    assert (one.value, one.low, one.high) == (1.5, None, None)
    assert one.text("%") == "1.50 % (one setting, no interval)"
    assert found.text("%").startswith("0.50 % (95 % interval 0.4")


def verdicts(held, planned=None):
    found = claims(held, [one.repair for one in planned or held], [one for one in held if one.tampered])
    return {claim.text: claim for claim in found}


TARGET = "With 500 clean images `auto` leaves a mean attack success of at most 3 % at a mean fall of accuracy of at most 4 points."
BEATEN = (
    "With 500 clean images no single remedy has both a lower mean attack success and a lower mean fall than `auto`."
)
FREE = "With 500 clean images `auto` costs untampered models at most 1 point."


@pytest.mark.parametrize(("attack", "drop", "holds"), [(3.0, 4.0, True), (3.1, 0.0, False), (0.0, 4.1, False)])
def test_auto_meets_its_target_in_the_mean(attack, drop, holds):
    held = [result("auto", attack + d, drop + d, of) for d, of in ((-1, None), (1, setting("blend")))]
    claim = verdicts(held)[TARGET]
    assert claim.holds is holds
    assert f"attack success {attack:.2f} % (95 % interval {attack - 1:.2f} to {attack + 1:.2f})" in claim.found
    assert claim.found.endswith("cells: 2, settings: 2")


def test_targets_differ_by_budget_and_budgets_without_one_have_none():
    budgets = (2500, 50, 123)
    texts = list(verdicts([result("auto", 1.0, 1.0, budget=n) for n in budgets]))
    assert any(
        "2,500 clean images `auto` leaves a mean attack success of at most 2 % at a mean fall" in t for t in texts
    )
    assert any("of at most 5 % at a mean fall of accuracy of at most 7 points" in text for text in texts)
    assert len(texts) == 3 * 3 - 1


def test_a_remedy_dominates_where_both_means_are_lower():
    auto = [result("auto", 2.0, 2.0), result("auto", 4.0, 4.0, setting("blend"))]
    better = [result("sau", 4.0, 1.0), result("sau", 1.0, 4.0, setting("blend"))]  # means 2.5 and 2.5, of 3 and 3
    fewer = [result("clp", 0.0, 3.0), result("clp", 0.0, 3.0, setting("blend"))]  # as costly: not lower in both
    equal = [result("path", 2.0, 2.0), result("path", 4.0, 4.0, setting("blend"))]
    assert dominators([*auto, *fewer, *equal]) == {}
    found = dominators([*better, *auto, *fewer, *equal])
    assert list(found) == ["sau"]
    attack, drop = found["sau"]
    assert (attack.value, drop.value) == (-0.5, -0.5)
    assert (attack.low, attack.high) == (-3.0, 2.0)  # resamples of one setting twice
    claim = verdicts([*better, *auto])[BEATEN]
    assert claim.holds is False
    assert claim.found.startswith("sau has, by -0.50 % (95 % interval -3.00 to 2.00) and -0.50 points (95 % interval")
    held = verdicts([*auto, *fewer, *equal])[BEATEN]
    assert held.holds is True
    assert held.found.startswith(
        "none has, of 2; one has in 2"
    )  # a quarter of resamples: blend twice, where clp has 0 and 3, auto 4 and 4


def test_the_share_of_resamples_in_which_auto_is_beaten():
    auto = [result("auto", 2.0, 2.0), result("auto", 2.0, 2.0, setting("blend"))]
    other = [result("sau", 1.0, 1.0), result("sau", 3.0, 3.0, setting("blend"))]
    assert share_dominated([*auto, *other]) == pytest.approx(0.25, abs=0.03)  # the first setting twice
    assert share_dominated(auto) == 0.0


def test_missing_repairs_decide_nothing_but_are_shown():
    held = [result("auto", 9.0, 9.0), result("sau", 1.0, 1.0)]
    planned = [*held, result("sau", 1.0, 1.0, seed=1)]
    found = verdicts(held, planned)
    assert found[TARGET].holds is False  # of `auto` nothing is missing
    assert found[BEATEN].holds is None
    assert found[BEATEN].found.endswith("; 1 of 3 repairs are missing")
    planned.append(result("auto", 1.0, 1.0, seed=1))
    assert verdicts(held, planned)[TARGET].holds is None
    assert verdicts(held)[FREE].holds is None
    none = verdicts([], planned)
    assert {(claim.found, claim.holds) for claim in none.values()} == {("nothing to compare", None)}


def test_what_auto_costs_untampered_models():
    free = setting(None)
    good = [result("auto", 1.0, 0.5, free), result("auto", 1.0, 1.5, free, seed=1), result("sau", 1.0, 9.0, free)]
    claim = verdicts(good)[FREE]
    assert (claim.holds, claim.found) == (True, "mean 1.00 points, worst 1.50, cells: 2")
    assert verdicts([*good, result("auto", 1.0, 1.1, free, seed=2)])[FREE].holds is False
