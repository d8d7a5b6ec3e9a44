"""The study from end to end at its smallest: cells run, tables filled, figures written; budget 0 is drawn with its own loss."""

from isthmus.recipes.sharpening import SHARPENING, own_loss
from isthmus.recipes.study import StudyRecipe, run_study
from isthmus.runs import Run
from isthmus.table import Column, Table


def test_the_study_runs_fills_its_tables_and_draws(tmp_path):
    recipe = StudyRecipe(study="sharpening", scale="smoke", seeds=1)
    told = list[str]()
    with Run.open(tmp_path / "study", recipe) as run:
        report = run_study(SHARPENING, recipe, run, tell=told.append)
    assert report.failed == {}
    assert len(told) == report.cells == 7
    tables = report.findings.tables
    assert [row["eps"] for row in tables["Curvature by budget"].rows()] == [0.0, 0.1]
    assert all(row["eigenvalue_1"] > row["eigenvalue_20"] for row in tables["Curvature by budget"].rows())
    assert len(tables["Similarity of perturbations, digits"]) == 3
    assert len(tables["Barriers between minima of one budget"]) == 0  # one seed makes no pair
    assert len(report.findings.claims) == 9
    drawn = {"spectra-digits", "eigenvalues", "similarity", "landscape-digits"}
    assert set(report.findings.files) == {f"sharpening-{kind}.{suffix}" for kind in drawn for suffix in ("pdf", "svg")}
    assert all((run.folder / file).stat().st_size > 1000 for file in report.findings.files)


def test_without_a_budget_the_clean_loss_is_the_one_trained_on():
    clean = Table.of(
        [{"a": 0.0, "test_loss": 0.5, "test_error": 3.0}],
        (Column("a"), Column("test_loss", "nat"), Column("test_error", "%")),
    )
    renamed = own_loss(clean)
    assert renamed.names == ("a", "robust_loss", "test_error")
    assert renamed.rows()[0]["robust_loss"] == 0.5
    assert renamed.column("robust_loss").unit == "nat"
    assert own_loss(renamed) is renamed
    assert clean.names == ("a", "test_loss", "test_error")
