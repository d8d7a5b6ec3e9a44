"""What the study on attackers who know the defence says of repairs whose means are known on paper; and its smallest run."""

import pytest

from isthmus.recipes.adaptive_attackers import ADAPTIVE_ATTACKERS
from isthmus.recipes.adaptive_attackers_cells import repairs_of, setting_of
from isthmus.recipes.adaptive_attackers_scales import SIZES
from isthmus.recipes.adaptive_attackers_tables import Suspect, claims, duels, suspects, winners
from isthmus.recipes.repair_grid_tables import Rates, crossed
from isthmus.recipes.study import StudyRecipe, run_study
from isthmus.runs import Run
from repair_grid_example import result

SMALL = SIZES["small"]
NAMED = {one.name: one for one in SMALL.tamperers}
ALL = frozenset(one.name for one in repairs_of("small", 1))


def left(name, remedy, attack, drop=1.0, *, budget=500, seed=0):
    """What a remedy left of a tamperer: attack success (%) and fall of accuracy (points)."""
    return result(remedy, attack, drop, setting_of(SMALL, NAMED[name]), budget=budget, seed=seed)


def rows(held):
    return {(row["budget"], row["attacker"]): row for row in winners(duels(held, SMALL.tamperers)).rows()}


def said(held, done=ALL, seeds=1):
    found = claims(duels(held, SMALL.tamperers), "small", seeds, done)
    return {claim.text.split("`")[1]: claim for claim in found}


def test_a_gain_is_what_is_left_beyond_plain_poisoning():
    held = [
        *(left("plain", *one) for one in (("auto", 1.0, 2.0), ("anp", 3.0), ("path", 0.5, 10.0))),
        *(left("flat", *one) for one in (("auto", 9.0, 4.0), ("anp", 6.0), ("path", 5.0, 9.9))),
    ]
    found = rows(held)
    plain, flat = found[500, "plain"], found[500, "flat"]
    assert (plain["against"], plain["auto_gain"], plain["best_gain"], plain["wins"]) == (None, None, None, None)
    assert (plain["best"], plain["best_left"], plain["best_drop"]) == ("anp", 3.0, 1.0)  # `path` costs too much
    assert (flat["against"], flat["auto"], flat["auto_gain"]) == ("plain", 9.0, 8.0)
    assert flat["auto_drop"] == pytest.approx(4.0)
    assert (flat["best"], flat["best_left"], flat["best_gain"], flat["wins"]) == ("path", 5.0, 2.0, "auto")
    assert flat["best_drop"] == pytest.approx(9.9)


@pytest.mark.parametrize(
    ("auto", "anp", "wins"),
    [
        ((6.0, 1.0), (7.0, 1.0), "nobody"),
        ((6.1, 1.0), (7.0, 1.0), "auto"),
        ((6.0, 1.0), (7.1, 1.0), "the others"),
        ((90.0, 1.0), (90.0, 1.0), "all"),
        ((0.0, 1.0), (0.0, 10.0), "the others"),  # none is left that costs little enough
        ((0.0, 90.0), (0.0, 1.0), "nobody"),
    ],
)
def test_an_attacker_wins_by_more_than_five_points(auto, anp, wins):
    held = [
        left("plain", "auto", 1.0),
        left("plain", "anp", 2.0),
        left("path", "auto", *auto),
        left("path", "anp", *anp),
    ]
    assert rows(held)[500, "path"]["wins"] == wins


def test_each_is_compared_with_the_plain_poisoning_of_his_trigger():
    names = ("plain", "plain-dispersed", "plain-keyed", "inversion", "keyed")
    found = rows(
        [left(name, "auto", attack) for name, attack in zip(names, (1.0, 10.0, 30.0, 14.0, 32.0), strict=True)]
    )
    gains = {name: found[500, name]["auto_gain"] for name in names}
    assert gains == {"plain": None, "plain-dispersed": 9.0, "plain-keyed": 29.0, "inversion": 4.0, "keyed": 2.0}
    assert found[500, "keyed"]["best"] is None
    assert found[500, "keyed"]["wins"] == "nobody"


def test_seeds_that_both_have_are_compared_and_no_others():
    held = [left("plain", "auto", 2.0), left("plain", "auto", 40.0, seed=1), left("flat", "auto", 4.0)]
    row = rows(held)[500, "flat"]
    assert (row["seeds"], row["auto"], row["auto_gain"]) == (1, 4.0, 2.0)
    assert rows(held)[500, "plain"]["auto"] == 21.0
    lone = rows(held[1:])[500, "flat"]
    assert (lone["auto"], lone["auto_gain"], lone["wins"]) == (4.0, None, None)
    no_auto = rows([left("plain", "anp", 2.0), left("flat", "anp", 40.0)])[500, "flat"]
    assert (no_auto["auto"], no_auto["best_gain"], no_auto["wins"]) == (None, 38.0, None)


def test_a_claim_for_every_attacker_with_the_numbers_of_both():
    held = [left(name, "auto", 1.0, 2.0, budget=budget) for name in ("plain", "flat") for budget in (500, 50)]
    found = said(held)
    assert list(found) == [one.name for one in SMALL.tamperers if one.against is not None]
    assert found["flat"].holds is True
    assert (
        found["flat"].text == "Of the backdoor of `flat` `auto` leaves at most 5 points more than of that of `plain`."
    )
    assert found["flat"].found == (
        "500 images: 1.0 % beside 1.0 %, accuracy falls by 2.0 and 2.0 points; "
        "50 images: 1.0 % beside 1.0 %, accuracy falls by 2.0 and 2.0 points"
    )
    assert (found["path"].found, found["path"].holds) == ("nothing to compare", None)
    assert said([*held[:-1], left("flat", "auto", 6.1, budget=50)])["flat"].holds is False  # at one budget
    assert said([*held[:-1], left("flat", "auto", 6.0, budget=50)])["flat"].holds is True


def test_a_claim_is_undecided_while_repairs_of_one_of_both_are_missing():
    held = [left(name, "auto", 1.0, 2.0) for name in ("plain", "flat")]
    found = said(held, frozenset(one.repair.name for one in held))
    assert found["flat"].holds is None
    assert found["flat"].found.endswith("; 2 of 4 repairs are missing")
    without = ALL - {f"anp-{setting_of(SMALL, NAMED['flat']).name}-500-0"}
    assert said(held, without)["flat"].holds is True  # another remedy lacks
    assert said([], ALL)["flat"].holds is None


def test_what_was_handed_over_and_its_cost():
    table = suspects(
        [
            Suspect(NAMED["plain"], Rates(90.0, 99.0, 1.0), 100),
            Suspect(NAMED["plain"], Rates(88.0, 97.0, 3.0), 100),
            Suspect(NAMED["segment"], Rates(87.0, 60.0, 30.0), 300, Rates(91.0, 0.5, 90.0)),
        ]
    )
    plain, segment = table.rows()
    assert (plain["runs"], plain["hands_over"], plain["cost"]) == (2, "two runs", 1.0)
    assert (plain["clean_accuracy"], plain["attack_success"], plain["attack_success_least"]) == (89.0, 98.0, 97.0)
    assert (plain["recovery_accuracy"], plain["partner_accuracy"]) == (2.0, None)
    assert (segment["hands_over"], segment["gradients"], segment["cost"]) == ("model, reference", 300.0, 3.0)
    assert (segment["partner_accuracy"], segment["partner_attack_success"]) == (91.0, 0.5)
    assert segment["trigger"] == NAMED["segment"].threat.trigger
    assert suspects([Suspect(NAMED["flat"], Rates(90.0, 99.0, 1.0), 100)]).rows()[0]["cost"] is None


def test_means_are_crossed_by_any_two_names():
    held = [left("flat", "auto", 1.0), left("flat", "auto", 3.0, seed=1), left("path", "anp", 5.0)]
    table = crossed(
        held,
        ("attacker", lambda one: one.repair.setting.name),
        lambda one: one.repair.remedy,
        lambda one: one.attack,
        "%",
    )
    flat, path = table.rows()
    assert (flat["auto"], flat["anp"], path["auto"], path["anp"]) == (2.0, None, None, 5.0)
    assert table.names == ("attacker", "auto", "anp")


def test_the_study_runs_and_fills_its_tables(tmp_path):
    recipe, told = StudyRecipe(study="adaptive-attackers", scale="smoke"), list[str]()
    with Run.open(tmp_path / "study", recipe) as run:
        report = run_study(ADAPTIVE_ATTACKERS, recipe, run, tell=told.append)
    assert report.failed == {}
    assert len(told) == report.cells == 2 + 1 + 1 + 3 * 2
    tables = report.findings.tables
    handed = {row["attacker"]: row for row in tables["Suspects"].rows()}
    assert [row["hands_over"] for row in handed.values()] == ["two runs", "model, second", "model, reference"]
    assert all(row["attack_success"] > 80 for row in handed.values())
    assert handed["path"]["partner_attack_success"] > 80 > 20 > handed["segment"]["partner_attack_success"]
    assert [row["cost"] for row in handed.values()] == [1, 3, 3]
    for title in ("Attack success", "Fall of accuracy"):
        table = tables[f"{title}, remedies by attacker, 200 clean images"]
        assert table.names == ("attacker", "auto", "average")
        assert table.values("attacker") == ["plain", "path", "segment"]
    assert [row["against"] for row in tables["Who wins"].rows()] == [None, "plain", "plain"]
    assert len(report.findings.claims) == 2
    assert all(claim.holds is not None for claim in report.findings.claims)
    with Run.open(tmp_path / "study", recipe, resume=True) as again:
        assert run_study(ADAPTIVE_ATTACKERS, recipe, again, tell=told.append).findings.claims == report.findings.claims
    assert len(told) == report.cells


def test_nothing_finished_is_a_report_too(tmp_path):
    recipe = StudyRecipe(study="adaptive-attackers", scale="small")
    with Run.open(tmp_path / "study", recipe) as run:
        run.begin()
        found = ADAPTIVE_ATTACKERS.findings(run, "small", 1, frozenset())
    assert all(len(table) == 0 for table in found.tables.values())
    assert {claim.holds for claim in found.claims} == {None}
