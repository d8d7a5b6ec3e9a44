"""The grid from end to end at its smallest: trained, repaired, inspected, told and drawn; a second run does nothing."""

from dataclasses import replace
from functools import partial

import pytest

from isthmus.recipes import kinds
from isthmus.recipes.inspect import run_inspect
from isthmus.recipes.repair_grid import REPAIR_GRID
from isthmus.recipes.repair_grid_scales import SCALES
from isthmus.recipes.study import StudyRecipe, run_study
from isthmus.repair.trust.triage import Detection, Triage
from isthmus.runs import Run


def searched(model, clean, seed):
    """A search that finds something in every model, at once."""
    found = (Detection("d", 3.0, 1, True), Detection("e", 2.0, 1, True))
    return Triage("suspicious", "both", target=1, detections=found)


@pytest.fixture
def quick(monkeypatch):
    smoke = SCALES["smoke"]
    monkeypatch.setitem(
        SCALES,
        "smoke",
        replace(smoke, remedies=("average", "fine-tune", "not-there"), trusted=("average", "fine-tune")),
    )
    monkeypatch.setattr(kinds, "run_inspect", partial(run_inspect, search=searched))


def test_the_study_runs_fills_its_tables_and_draws(tmp_path, quick):
    recipe = StudyRecipe(study="repair-grid", scale="smoke", seeds=1)
    told = list[str]()
    with Run.open(tmp_path / "study", recipe) as run:
        report = run_study(REPAIR_GRID, recipe, run, tell=told.append)
    assert report.failed == {}
    assert len(told) == report.cells == 5 + 1 + 2 * 2 + 5 + 2
    tables = report.findings.tables
    rows = {row["remedy"]: row for row in tables["Remedies by clean images"].rows()}
    assert list(rows) == ["average", "fine-tune"]
    assert rows["fine-tune"]["evaluations"] == 20
    assert rows["average"]["clean_accuracy"] + rows["average"]["drop"] > 90  # the better suspect
    (tampered, free) = tables["Suspects"].rows()
    assert tampered["attack_success_least"] > 50 > 20 > tampered["untampered"]
    assert (free["threat"], free["models"], free["attack_success"]) == ("untampered", 3, None)
    assert tables["Untampered models repaired"].values("remedy") == ["average", "fine-tune"]
    assert [row["suspicious"] for row in tables["Triage"].rows()] == [100.0, 100.0]
    assert "Attack success by threat, 200 clean images" in tables
    assert [one["remedy"] for one in tables["Trust"].rows()] == ["average", "fine-tune"]
    assert all(one["took"] + one["skipped"] == 5 for one in tables["Trust"].rows())
    assert tables["Trust, by remedy"].values("cells") == [1, 1, 2]
    *others, covers, ranks = report.findings.claims
    assert [claim.holds for claim in others] == [None, None, False]  # no `auto`; three false alarms of three
    assert " of 2: " in covers.found
    assert (ranks.holds, "settings: 1" in ranks.found) == (None, True)
    assert any("no such remedy in this version: not-there." in note for note in report.findings.notes)
    stems = ("repair-grid-frontier", "repair-grid-trust")
    assert set(report.findings.files) == {f"{stem}.{suffix}" for stem in stems for suffix in ("pdf", "svg")}
    assert all((run.folder / file).stat().st_size > 1000 for file in report.findings.files)
    assert not list(run.folder.rglob("report.html"))  # `isthmus report` writes it again
    with Run.open(tmp_path / "study", recipe, resume=True) as again:
        assert run_study(REPAIR_GRID, recipe, again, tell=told.append).findings.claims == report.findings.claims
    assert len(told) == report.cells


def test_nothing_finished_is_a_report_too(tmp_path):
    recipe = StudyRecipe(study="repair-grid", scale="small")
    with Run.open(tmp_path / "study", recipe) as run:
        run.begin()
        found = REPAIR_GRID.findings(run, "small", 2, frozenset())
    assert all(len(table) == 0 for table in found.tables.values())
    assert {claim.holds for claim in found.claims} == {None}
    assert found.files == {}
