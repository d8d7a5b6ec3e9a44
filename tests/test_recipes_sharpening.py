"""What the study of budgets reads off made-up cells: tables, exact trends, and claims that noise leaves undecided."""

from dataclasses import replace
from math import exp, log, sqrt

import pytest
from scipy.stats import page_trend_test, t

import sharpening_example as example
from isthmus._check import InputError
from isthmus.barrier import barriers
from isthmus.recipes.sharpening_claims import Trend, decided, grows, ratio, summarise, trend
from isthmus.recipes.sharpening_paper import PAPER, paper
from isthmus.recipes.sharpening_tables import Curvature, Joined, Minimum, connectivity, rows_of, similarities, spectra
from isthmus.recipes.study import Claim, Findings, mean_and_sd


def told(minima: list[Minimum], joined: list[Joined], seeds: int = 2, **budgets: int) -> Findings:
    return summarise(minima, joined, seeds=seeds, budgets=budgets or {"mnist": 5})


def claim(found: Findings, words: str) -> Claim:
    (held,) = [c for c in found.claims if words in c.text]
    return held


def test_the_spectra_are_means_and_spreads_over_seeds() -> None:
    rows = spectra(example.minima()).rows()
    assert [row["eps"] for row in rows] == list(example.BUDGETS)
    last = rows[-1]
    assert (last["data"], last["seeds"], last["images"], last["loss"]) == ("mnist", 2, 100, 0.25)
    for k in (1, 5, 20):
        assert last[f"eigenvalue_{k}"] == pytest.approx(10.5 / k)
        assert last[f"eigenvalue_{k}_sd"] == pytest.approx(sqrt(0.5) / k)
    assert (last["trace"], last["trace_sd"], last["trace_error"]) == (pytest.approx(105), pytest.approx(50**0.5), 1.0)
    assert (last["true_curvature"], last["true_curvature_sd"]) == (pytest.approx(30.5), pytest.approx(sqrt(0.5)))
    assert last["by_step"] == "0.001: 31.5, 0.01: 30.5, 0.1: 29.5"
    assert (
        last["kept_by_step"]
        == f"0.001: {last['eigenvalue_1']:.3g}, 0.01: {last['eigenvalue_1']:.3g}, 0.1: {last['eigenvalue_1']:.3g}"
    )
    assert (last["clean_error"], last["robust_error"]) == (pytest.approx(1.5), pytest.approx(40))
    assert (rows[0]["true_curvature"], rows[0]["by_step"], rows[0]["robust_error"]) == (None, None, None)
    without = [replace(m, curvature=None) if m.eps == 0.1 else m for m in example.minima(1)]
    assert [row["eps"] for row in spectra(without).rows()] == [0.0, 0.2, 0.3, 0.4]
    assert spectra(example.minima(1)).rows()[0]["eigenvalue_1_sd"] is None
    few = replace(example.minima(1)[0], curvature=replace(example.curvature(1.0), eigenvalues=(3.0, 2.0)))
    assert [spectra([few]).rows()[0][f"eigenvalue_{k}"] for k in (1, 5, 20)] == [3.0, None, None]


def test_curvature_is_read_from_its_document() -> None:
    rows = [
        {"direction": name, "step": step, "recrafted": 100 * step + shift, "kept": 10 * step, "frozen": 0.0}
        for name, shift in (("top eigenvector", 1.0), ("random", 7.0))
        for step in (0.002, 0.05)
    ]
    document = {
        "eigenvalues": [3, 2.0],
        "trace": {"value": 9.0, "error": 0.5, "products": 10},
        "finite_difference": rows,
        "gauss_newton": None,
        "n": 50,
        "loss": 0.7,
    }
    found = Curvature.read(document)
    assert found == Curvature((3.0, 2.0), 9.0, 0.5, {0.002: 1.2, 0.05: 6.0}, {0.002: 0.02, 0.05: 0.5}, 50, 0.7)
    assert (found.recrafted_at, found.true_curvature) == (0.002, 1.2)  # nearest to 0.01
    for nothing in ([], None):
        bare = Curvature.read({**document, "trace": None, "finite_difference": nothing})
        assert (bare.trace, bare.trace_error, bare.recrafted_at, bare.true_curvature) == (None, None, None, None)


def test_similarities_stand_beside_those_of_the_paper() -> None:
    table = similarities([*example.minima(), *example.minima(data="digits")], "mnist")
    rows = {(row["eps"], row["direction"], row["amount"]): row for row in table.rows()}
    assert len(rows) == 4 * (3 + 2)  # a = 0 has no direction, and the vanilla minimum no budget
    for eps in (0.1, 0.2, 0.3, 0.4):
        for kind, amount in (("eigenvector", 0.0), ("eigenvector", 0.05), ("random", 0.1)):
            row = rows[eps, kind, amount]
            assert (row["paper_cosine"], row["paper_robust_error"]) == paper("mnist", kind, amount, eps)
            assert row["paper_cosine"] is not None
    row = rows[0.4, "eigenvector", 0.1]
    assert (row["seeds"], row["cosine"], row["cosine_sd"]) == (2, pytest.approx(0.3), pytest.approx(0))
    assert (row["sign_cosine"], row["same_start"], row["robust_error"]) == pytest.approx((0.15, 0.9, 15.0))
    digits = similarities(example.minima(data="digits"), "digits")
    assert set(digits.values("paper_cosine")) == {None}
    assert len(similarities(example.minima(), "cifar10")) == 0


def test_several_random_directions_are_one_mean_and_further_eigenvectors_none() -> None:
    first = example.scattering()
    more = [
        {**row, "direction": str(row["direction"]).replace("1", "2"), "cosine": 0.5, "robust_error": 50.0}
        for row in first.rows()
        if row["amount"]
    ]
    table = type(first).of([*first.rows(), *more], first.columns)
    row = {
        r["direction"]: r
        for r in similarities([replace(example.minima(1)[4], scattering=table)], "mnist").rows()
        if r["amount"] == 0.1
    }
    assert row["eigenvector"]["cosine"] == pytest.approx(0.3)
    assert row["random"]["cosine"] == pytest.approx((0.88 + 0.5) / 2)
    assert row["random"]["robust_error"] == pytest.approx((15 + 50) / 2)
    assert [r["direction"] for r in rows_of(table, "random")] == ["random 1", "random 2"]
    assert [r["cosine"] for r in rows_of(first, "random", 0.05)] == [0.89]


def test_the_papers_tables_are_those_of_its_slides() -> None:
    assert len(PAPER) == 9 * 3 + 9 * 4
    assert paper("cifar10", "eigenvector", 0.3, 4 / 255) == (0.157, 49.9)
    assert paper("cifar10", "random", 1.0, 8 / 255) == (0.935, 58.6)
    assert paper("mnist", "eigenvector", 0.1, 0.4) == (0.455, 99.3)
    assert paper("mnist", "random", 0.05, 0.3) == (0.863, 6.94)
    assert paper("mnist", "random", 0.07, 0.3) == (None, None)
    assert all(0 < cosine < 1 and 3 < error < 100 for cosine, error in PAPER.values())


def test_barriers_are_rises_above_the_worse_end() -> None:
    joined = example.joined(((0, 1), (2, 3)))
    rows = connectivity(joined).rows()
    assert [row["eps"] for row in rows] == list(example.BUDGETS)
    for row in rows:
        assert (row["curve_pairs"], row["line_pairs"]) == (2, 2)
        assert row["curve_loss"] == pytest.approx(row["eps"])
        assert row["curve_error"] == pytest.approx(100 * row["eps"])
        assert row["line_loss"] == pytest.approx(2 * row["eps"])
        assert row["line_error_sd"] == pytest.approx(0, abs=1e-9)
    assert joined[-1].barrier("loss") == barriers(joined[-1].table, value="robust_loss")["draxler_rise"].value
    assert joined[0].column("loss") == "test_loss"  # budget 0 is not attacked
    curves = connectivity([j for j in joined if j.kind == "curve"]).rows()
    assert (curves[0]["line_pairs"], curves[0]["line_loss"]) == (0, None)


@pytest.mark.parametrize("shape", [(1, 4), (2, 3), (2, 5), (3, 3)])
def test_the_trend_is_pages_exact_test(shape: tuple[int, int]) -> None:
    rows, columns = shape
    for shift in range(4):
        series = [
            [float((3 * i * i + shift * j + 2 * i * j) % 11) + 0.1 * j for j in range(columns)] for i in range(rows)
        ]
        found = trend(series)
        if rows > 1:
            assert found.rising == pytest.approx(page_trend_test(series, method="exact").pvalue)
            down = [[-v for v in values] for values in series]
            assert found.falling == pytest.approx(page_trend_test(down, method="exact").pvalue)
    assert trend([[1, 2, 3, 4]]) == Trend(1 / 24, 1.0)
    assert trend([[2, 1], [2, 1]]) == Trend(1.0, 1 / 4)
    assert trend([[1, 1, 1]]) == Trend(1.0, 1.0)
    for series in ([], [[1]], [[1, 2], [1, 2, 3]], [list(range(9))]):
        with pytest.raises(InputError, match=r"`series` should be of one length, 2 to 8. Found \["):
            trend(series)


def test_tied_values_share_their_rank() -> None:
    # (1, 2, 2): ranks 1, 2.5, 2.5. Of its 6 orders two have the largest L = 1 + 5 + 7.5.
    assert trend([[1, 2, 2]]).rising == pytest.approx(2 / 6)


def test_the_ratio_is_a_geometric_mean_with_students_interval() -> None:
    series = [[1.0, 5.0, 2.0], [2.0, 1.0, 16.0], [1.0, 1.0, 4.0]]
    logs = [log(2), log(8), log(4)]
    mean, deviation = mean_and_sd(logs)
    half = t.ppf(0.975, 2) * deviation / sqrt(3)
    assert ratio(series) == pytest.approx((4.0, exp(mean - half), exp(mean + half)))
    one = ratio([[1.0, 3.0]])
    assert one[0] == pytest.approx(3.0)
    assert one[1] != one[1]  # one series has no spread
    assert ratio([[-1.0, 3.0], [1.0, 2.0]])[0] != ratio([[-1.0, 3.0], [1.0, 2.0]])[0]


def test_growth_is_told_only_where_the_test_can() -> None:
    def series(*rows: tuple[float, ...]) -> dict[str, dict[float, float]]:
        return {str(i): dict(enumerate(row)) for i, row in enumerate(rows)}

    up, down, mixed = (1.0, 2.0, 3.0, 4.0), (4.0, 3.0, 2.0, 1.0), (2.0, 4.0, 1.0, 3.0)
    assert grows("a", series(up), (1, 4)).holds is True
    assert grows("a", series(up, up), (2, 4)).holds is True
    assert grows("a", series(down), (1, 4)).holds is False
    assert grows("a", series(mixed), (1, 4)).holds is None
    assert grows("a", series(up), (2, 4)).holds is None  # a seed is missing
    assert grows("a", series(up[:3]), (1, 3)).holds is None  # 1 / 6
    assert grows("a", series(up, (1.0, 2.0)), (2, 4)).holds is None  # a budget is missing
    assert grows("a", series(up, up, (2.0, 1.0, 4.0, 1.5)), (3, 4)).holds is None  # one series ends below its begin
    assert grows("a", {}, (1, 4)) == Claim("a", "nothing to compare", None)
    said = grows("a", series(up, (2.0, 3.0, 4.0, 8.0)), (2, 4)).found
    assert said.startswith(
        "rises from each budget to the next in 2 of 2 series; largest over smallest budget 4 (95 % interval 4 to 4)"
    )
    assert "trend p = 0.0017 for growth, 1 for decline" in said
    assert "largest over smallest budget 4 (one series, no interval)" in grows("a", series(up), (1, 4)).found
    assert "largest less smallest budget +2" in grows("a", series((-1.0, 0.0, 0.5, 1.0)), (1, 4)).found


def test_claims_hold_where_the_cells_are_as_in_the_paper() -> None:
    found = told(example.minima(), example.joined(((0, 1),)))
    assert len(found.claims) == 9
    assert {c.text: c.holds for c in found.claims if c.holds is not True} == {}
    assert list(found.tables) == [
        "Curvature by budget",
        "Similarity of perturbations, mnist",
        "Barriers between minima of one budget",
    ]
    top = claim(found, "the top eigenvalue").found
    assert "largest over smallest budget 10 (95 % interval 10 to 10); trend p = 6.9e-05" in top
    assert claim(found, "a cosine below 1").found == (
        "cosine at a = 0 from 0.900 (0.890 to 0.910) to 0.900 (0.890 to 0.910), 8 measured"
    )
    assert "(at the largest a, 0.1)" in claim(found, "falls along the top eigenvector").text
    assert claim(found, "falls along the top eigenvector").found.startswith(
        "fall below the floor from 0.600 (0.590 to 0.610)"
    )
    assert claim(found, "falls less along a random").found.startswith(
        "cosine above that along the eigenvector from 0.580"
    )
    assert claim(found, "error along straight lines").holds is True
    both = told([*example.minima(), *example.minima(data="cifar10")], example.joined(), 2, mnist=5, cifar10=5)
    assert [("mnist" in c.text, "cifar10" in c.text) for c in both.claims] == [(True, False)] * 9 + [(False, True)] * 9


def test_noise_and_missing_cells_leave_claims_undecided() -> None:
    noisy = told(example.minima(half=0.7), [])
    for words in ("a cosine below 1", "falls along the top eigenvector", "falls less along", "stays at the floor"):
        assert claim(noisy, words).holds is None
    lacking = told(example.minima()[:-1], example.joined(((0, 1),), budgets=(0.0, 0.1)))
    assert {c.holds for c in lacking.claims} == {None}
    empty = told([], [])
    assert {(c.holds, c.found) for c in empty.claims} == {(None, "nothing to compare")}
    assert [len(table) for table in empty.tables.values()] == [0, 0, 0]


def test_claims_do_not_hold_where_the_cells_say_so() -> None:
    falling = told(example.minima(growth=0.1), [])
    assert claim(falling, "the top eigenvalue").holds is False
    assert claim(falling, "with examples crafted anew").holds is False
    for words, table in (
        ("a cosine below 1", example.scattering(floor=1.0, half=0.0)),
        ("falls along the top eigenvector", example.scattering(eigen=(0.9, 0.95))),
        ("falls less along", example.scattering(random=(0.6, 0.2))),
        ("stays at the floor", example.scattering(random=(0.8, 0.7))),
    ):
        held = [replace(m, scattering=table) if m.eps == 0.4 else m for m in example.minima()]
        assert claim(told(held, []), words).holds is False
    shrinking = [replace(j, eps=0.4 - j.eps) for j in example.joined(budgets=(0.0, 0.1, 0.2, 0.3, 0.4))]
    shrinking = [
        replace(j, table=example.path((0.5, 1 - j.eps, 0.5), (10.0, 60 - 100 * j.eps, 10.0))) for j in shrinking
    ]
    assert claim(told([], shrinking), "loss along Bezier").holds is False


def test_a_barrier_of_the_error_within_the_noise_of_the_images_decides_nothing() -> None:
    small = {"curve": 0.1, "line": 1.0}  # 4 points of 400 images, and 40
    found = told([], example.joined(rise=small))
    assert claim(found, "loss along Bezier").holds is True  # no spread over images is known of a loss
    assert claim(found, "error along Bezier").holds is None
    assert claim(found, "error along Bezier").found.endswith("; the difference is within the noise of the images")
    assert claim(found, "error along straight").holds is True


def test_pairs_that_share_an_end_count_once() -> None:
    shared = told([], example.joined(((0, 1), (0, 2), (1, 2))), 3)
    assert claim(shared, "loss along Bezier").found.startswith("rises from each budget to the next in 1 of 1 series")
    apart = told([], example.joined(((0, 1), (2, 3), (0, 2))), 4)
    assert claim(apart, "loss along Bezier").found.startswith("rises from each budget to the next in 2 of 2 series")


def test_decided() -> None:
    assert decided([], 1) is None
    assert decided([True, False, None], 5) is False
