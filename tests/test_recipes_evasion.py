"""The study of Zhao et al. 2020: which cells it is made of, and what it reads off tables whose answers are known."""

from collections.abc import Sequence
from dataclasses import replace
from math import nan
from pathlib import Path

import pytest

from isthmus.files import read_json
from isthmus.recipes import evasion as evasion_module
from isthmus.recipes.connect import ConnectRecipe
from isthmus.recipes.evasion import ABOUT, EVASION, SIZES, cells, ends_of, findings
from isthmus.recipes.evasion_tables import PAIRS, Loss, Scan, barred, related, summarise
from isthmus.recipes.scan import ScanRecipe
from isthmus.recipes.study import StudyRecipe, run_study
from isthmus.recipes.train import TrainRecipe
from isthmus.runs import Run
from isthmus.table import Column, Table
from isthmus.training.plan import Plan

COLUMNS = (
    Column("t"),
    Column("test_loss", "nat", "lower", "test", 40),
    Column("robust_loss", "nat", "lower", "test", 40),
    Column("test_error", "%", "lower", "test", 40),
    Column("robust_error", "%", "lower", "test", 40),
    Column("input_eigenvalue", "1", "lower", "test", 30),
)


def table(robust: Sequence[float], standard: Sequence[float] = (1.0, 1.0, 1.0, 1.0, 1.0)) -> Table:
    """Five points; the eigenvalue is twice the robust loss and one more."""
    rows = [
        {
            "t": i / 4,
            "test_loss": standard[i],
            "robust_loss": loss,
            "test_error": 10.0 + 5 * (i == 2),
            "robust_error": 50.0 + 10 * i,
            "input_eigenvalue": 2 * loss + 1,
        }
        for i, loss in enumerate(robust)
    ]
    return Table.of(rows, COLUMNS)


def scans(
    robust: Sequence[float], standard: Sequence[float], after: Sequence[float], pairs: Sequence[str] = PAIRS
) -> list[Scan]:
    found: list[Scan] = []
    for pair in pairs:
        found.append(Scan(pair, 0, "standard", table(robust, standard)))
        found.append(Scan(pair, 0, "robust", table(after, standard)))
    return found


HIGH = (2.0, 3.0, 5.0, 4.0, 4.0)
FLAT = (1.0, 1.0, 1.05, 1.0, 1.0)


def test_barriers_are_those_of_the_definitions() -> None:
    found = summarise(scans(HIGH, FLAT, (2.0, 2.5, 4.5, 4.0, 4.0)), 1)
    row, after = found.tables["Barriers"].rows()[:2]
    assert (row["pair"], row["path"], row["seed"]) == ("regular-regular", "standard", 0)
    assert row["test_loss_rise"] == pytest.approx(0.05)
    assert row["test_loss_excess"] == pytest.approx(0.05)
    assert row["robust_loss_rise"] == 1.0  # 5 less the worse end, 4
    assert row["robust_loss_excess"] == 2.0  # 5 less 3, half way between the ends
    assert (row["robust_loss_at"], row["robust_loss_max"]) == (0.5, 5.0)
    assert (row["test_error_rise"], row["robust_error_rise"]) == (5.0, 0.0)
    assert (row["test_error_ends"], row["robust_error_ends"]) == ("10.0, 10.0", "50.0, 90.0")
    assert after["robust_loss_rise"] == 0.5


def test_curvature_goes_with_the_robust_loss_where_it_is_linear_in_it() -> None:
    found = summarise(scans(HIGH, FLAT, HIGH[::-1]), 1).tables["Robust loss and input curvature"].rows()
    assert len(found) == 6
    assert found[0]["pearson"] == pytest.approx(1.0)
    assert found[0]["spearman"] == pytest.approx(1.0)
    assert (found[0]["points"], found[0]["images"], found[0]["hessian_images"]) == (5, 40, 30)
    assert summarise([Scan("robust-robust", 0, "standard", table([1.0] * 5))], 1).tables[
        "Robust loss and input curvature"
    ].rows()[0] == {
        "pair": "robust-robust",
        "seed": 0,
        "path": "standard",
        "points": 5,
        "images": 40,
        "hessian_images": 30,
        **dict.fromkeys(
            ("pearson", "pearson_low", "pearson_high", "spearman", "spearman_low", "spearman_high", "effective")
        ),
    }


def test_a_barrier_is_a_rise_of_a_tenth_of_the_worse_end() -> None:
    def scan(middle: float) -> Scan:
        return Scan("regular-regular", 0, "standard", table((2.0, 2.0, middle, 2.0, 4.0)))

    assert [barred(scan(middle), "robust_loss") for middle in (1.0, 4.0, 4.39, 4.41)] == [False, False, False, True]
    assert not barred(Scan("regular-regular", 0, "standard", table([0.0] * 5)), "robust_loss")


@pytest.mark.parametrize(
    ("robust", "standard", "after", "holds"),
    [
        (HIGH, FLAT, (2.0, 2.5, 4.5, 4.0, 4.0), [True, True, True, True]),
        (HIGH, (1.0, 1.0, 1.2, 1.0, 1.0), HIGH, [False, True, True, False]),
        ((4.0, 3.0, 2.0, 3.0, 4.0), FLAT, HIGH, [True, False, True, False]),
    ],
    ids=["as in the paper", "standard barrier, nothing gained", "no robust barrier, one made"],
)
def test_claims_hold_or_do_not(
    robust: list[float], standard: list[float], after: list[float], holds: list[bool]
) -> None:
    every = summarise(scans(robust, standard, after), 1).claims
    assert [every[0].holds, every[1].holds, every[3].holds] == [holds[0], holds[1], holds[3]]
    assert every[0].found == f"{3 if holds[0] else 0} of 3 paths"
    association = related(scans(robust, standard, after)[0])
    assert association is not None
    assert every[2].holds is (association.pearson.low > 0)
    assert every[2].found.endswith("; 1.00, 1.00, 1.00")


def test_what_is_missing_decides_nothing_but_a_counterexample_does() -> None:
    part = summarise(scans(HIGH, FLAT, HIGH, PAIRS[:2]), 1).claims
    assert part[0].holds is None
    assert part[0].found == "2 of 2 paths (1 missing)"
    assert summarise(scans(HIGH, (1.0, 1.0, 2.0, 1.0, 1.0), HIGH, PAIRS[:2]), 1).claims[0].holds is False
    none = summarise([], 1)
    assert [claim.holds for claim in none.claims] == [None] * 4
    assert [len(held) for held in none.tables.values()] == [0, 0]
    assert summarise(scans(HIGH, FLAT, HIGH), 2).claims[1].holds is None  # the second seed is missing


def test_the_cells_are_three_pairs_joined_twice() -> None:
    ends, paths, scanned = cells("small", 2)
    assert [cell.name for cell in ends] == [f"{kind}-{k}" for kind in ("regular", "robust") for k in range(4)]
    seeds = [cell.recipe.seed for cell in ends]
    assert len(set(seeds)) == 8  # nobody shares the first weights
    assert [cell.recipe.adversary is None for cell in ends if isinstance(cell.recipe, TrainRecipe)] == [True] * 4 + [
        False
    ] * 4
    assert len(paths) == len(scanned) == 12
    for cell in paths:
        assert isinstance(cell.recipe, ConnectRecipe)
        assert (cell.recipe.adversary is not None) == cell.name.endswith("-robust")
    assert {cell.needs for cell in paths} == {ends_of(pair, seed) for pair in PAIRS for seed in range(2)}
    assert ends_of("robust-robust", 1) == ("robust-2", "robust-3")
    assert [cell.needs for cell in scanned] == [(cell.name,) for cell in paths]


def test_the_paper_scale_is_the_paper_s() -> None:
    assert set(SIZES) == set(ABOUT)
    sizes = SIZES["paper"]
    attack = sizes.adversary.attack
    assert (attack.steps, attack.step * sizes.eps, attack.start) == (10, pytest.approx(2 / 255), 1.0)
    scanned = cells("paper", 1)[2][0].recipe
    assert isinstance(scanned, ScanRecipe)
    assert (scanned.grid, scanned.n, scanned.eps, scanned.attack_steps) == ("31", None, 8 / 255, 10)
    assert scanned.attack_step * scanned.eps == pytest.approx(2 / 255)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole study, with models of a few weights."""
    folder = tmp_path_factory.mktemp("evasion") / "out"
    plan = Plan(steps=3, batch_size=16)
    smoke = SIZES["smoke"]
    tiny = replace(
        smoke,
        arch="mlp:depth=1",
        plan=plan,
        robust_plan=plan,
        path=plan,
        robust_path=plan,
        points=5,
        n=20,
        hessian_n=10,
    )
    recipe = StudyRecipe(study="evasion", scale="smoke")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(evasion_module.SIZES, "smoke", tiny)
        with Run.open(folder, recipe) as run:
            run_study(EVASION, recipe, run, tell=lambda _: None)
    return folder


def test_the_whole_study_runs_and_tells_what_the_scans_measured(done: Path) -> None:
    held = read_json(done / "evasion.json")
    assert isinstance(held, dict)
    assert (held["status"], held["cells"], held["failed"]) == ("done", 16, {})
    rows = held["tables"]["Barriers"]["rows"]
    assert [(row["pair"], row["path"]) for row in rows] == [
        (pair, loss) for pair in PAIRS for loss in ("standard", "robust")
    ]
    scanned = Table.load(done / "cells" / "scan-regular-robust-0-robust" / "table.json")
    row = rows[3]
    assert row["robust_loss_max"] == max(map(float, scanned.values("robust_loss")))  # type: ignore[arg-type]
    assert held["tables"]["Robust loss and input curvature"]["rows"][3]["hessian_images"] == 10
    assert (done / "evasion-0.pdf").read_bytes().startswith(b"%PDF")
    assert b"<svg" in (done / "evasion-0.svg").read_bytes()[:1000]
    assert (done / "evasion.md").read_text().count("| regular-robust | 0 | robust |") == 2


def test_scans_that_failed_are_left_out(done: Path) -> None:
    recipe = StudyRecipe(study="evasion", scale="smoke")
    run = Run.open(done, recipe, resume=True)
    some = frozenset({"scan-robust-robust-0-standard"})
    found = findings(run, "smoke", 1, some)
    assert found.tables["Barriers"].values("pair") == ["robust-robust"]
    assert findings(run, "smoke", 1, frozenset()).files == {}


def test_a_value_that_is_missing_is_an_error_not_a_barrier() -> None:
    loss: Loss = "standard"
    with pytest.raises(ValueError, match=r"`robust_loss` should have a value at every point. Found NaN at t = 0.5"):
        summarise([Scan("robust-robust", 0, loss, table((1.0, 1.0, nan, 1.0, 1.0)))], 1)
