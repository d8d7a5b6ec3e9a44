"""Estimates against the truth: read from reports, ranked and covered as can be done by hand."""

from dataclasses import replace

import pytest

from isthmus import report
from isthmus.rates import Paired, Rate
from isthmus.recipes.repair_grid_cells import trusted_name
from isthmus.recipes.repair_grid_scales import SCALES
from isthmus.recipes.repair_grid_trust import (
    Foretold,
    about,
    claims,
    left_out,
    rank_correlation,
    summary,
    trust,
    within_threats,
)
from isthmus.recipes.trust_entries import planted_entries
from isthmus.repair.trust.removal import Removal, Removed, share_removed
from repair_grid_example import FASHION, result, setting

NAMES = ("badnets", "blend", "low-frequency", "warp")


def cell(estimate: float, truth: float, threat: str = "badnets", remedy: str = "auto", half: float = 0.1) -> Foretold:
    one = result(remedy, 0.0, 0.0, setting(threat, block=FASHION)).repair
    return Foretold(one, (truth, truth - 0.01, truth + 0.01), (estimate, estimate - half, estimate + half), 4, 1, True)


def held(cells: list[Foretold]) -> dict[str, tuple[str, bool | None]]:
    planned = [one.repair for one in cells]
    return {one.text: (one.found, one.holds) for one in claims(cells, planned, {trusted_name(one) for one in planned})}


COVERS = "The planted estimate's interval covers the true removal in at least 80 % of cells."
RANKS = "The planted estimate ranks cells by their true removal: its rank correlation is above 0."


def entry(name: str, accuracy: int, attack: int) -> report.Entry:
    found = [report.RateEntry.of(Rate(hits, 100)) for hits in (accuracy, attack)]
    return report.Entry(name=name, clean_accuracy=found[0], attack_success=found[1])


def removed(name: str, before: int, after: int) -> Removed:
    shares = share_removed(Rate(before, 50), Rate(after, 50))
    return Removed(name, Rate(before, 50), Rate(after, 50), Rate(40, 50), Paired(1, 1, 50, 1.0), *shares)


def document(first: int = 80) -> report.Document:
    plants = Removal((removed("patch", 50, 5), removed("blend", 40, 20)), ("warp",))
    return report.Document.model_construct(
        suspects=(entry("a", 90, first), entry("b", 91, 96)),
        repaired=entry("c", 88, 24),
        trust=report.Trust(planted=planted_entries(plants), skipped=plants.skipped),
    )


def test_a_report_is_read_as_removal_counts():
    one = result("auto", 0.0, 0.0, setting(block=FASHION)).repair
    found = Foretold.read(one, document())
    assert found.truth == share_removed(Rate(96, 100), Rate(24, 100))  # from the higher of the suspects
    assert found.truth[0] == pytest.approx(0.75)
    plants = Removal((removed("patch", 50, 5), removed("blend", 40, 20)), ())
    assert found.estimate == (plants.estimate, *plants.interval)
    assert found.estimate is not None
    assert found.estimate[0] == pytest.approx((0.9 + 0.5) / 2)
    assert (found.took, found.skipped, found.counts, found.covered) == (2, 1, True, True)
    assert not Foretold.read(one, document(first=40)).counts  # the suspect that most remedies repair has no backdoor
    bare = document().model_copy(update={"trust": report.Trust(skipped=("patch", "warp"))})
    none = Foretold.read(one, bare)
    assert (none.estimate, none.took, none.skipped, none.covered) == (None, 0, 2, False)


def test_nothing_to_remove_is_no_error():
    clean = document().model_copy(update={"suspects": (entry("a", 90, 0), entry("b", 91, 0))})
    found = Foretold.read(result("auto", 0.0, 0.0).repair, clean)
    assert (found.truth[0], found.counts) == (0.0, False)


@pytest.mark.parametrize(("truth", "covered"), [(0.4, True), (0.6, True), (0.39, False), (0.61, False)])
def test_the_interval_covers_from_bound_to_bound(truth, covered):
    assert replace(cell(0.5, truth), estimate=(0.5, 0.4, 0.6)).covered is covered


def test_the_rank_correlation_by_hand():
    # Ranks 1..4 against 2, 1, 4, 3: 1 - 6 * 4 / (4 * 15).
    cells = [cell(e, t, name) for e, t, name in zip((0.1, 0.2, 0.3, 0.4), (0.5, 0.0, 0.9, 0.8), NAMES, strict=True)]
    value, low, high = rank_correlation(cells)
    assert value == pytest.approx(0.6)
    assert low is not None
    assert high is not None
    assert -1 <= low < 0.6 < high == 1
    mirrored = [replace(one, truth=(-one.truth[0], *one.truth[1:])) for one in cells]
    assert rank_correlation(mirrored)[0] == pytest.approx(-0.6)


def test_settings_are_resampled_whole():
    order = [cell(e, e, name, remedy) for name in NAMES for remedy, e in (("auto", 0.9), ("anp", 0.5), ("path", 0.1))]
    assert rank_correlation(order) == pytest.approx((1.0, 1.0, 1.0))  # whatever settings are drawn
    alone = [one for one in order if one.repair.setting.name == order[0].repair.setting.name]
    assert rank_correlation(alone) == (pytest.approx(1.0), None, None)
    single = [cell(e, e, name) for name, e in (("badnets", 0.1), ("blend", 0.9))]  # one of them twice says nothing
    assert rank_correlation(single) == pytest.approx((1.0, -1.0, 1.0))


def test_remedies_are_ranked_within_each_setting():
    good = [cell(e, t, "badnets", remedy) for remedy, e, t in (("a", 0.9, 0.9), ("b", 0.5, 0.8), ("c", 0.1, 0.7))]
    bad = [cell(e, t, "blend", remedy) for remedy, e, t in (("a", 0.9, 0.1), ("b", 0.5, 0.3), ("c", 0.1, 0.2))]
    flat = [cell(e, 0.5, "warp", remedy) for remedy, e in (("a", 0.9), ("b", 0.5))]
    assert within_threats([*good, *bad, *flat]) == pytest.approx([1.0, -0.5])
    rows = {row["remedy"]: row for row in summary([*good, *bad, *flat]).rows()}
    assert (rows["all together"]["within_threats"], rows["all together"]["settings"]) == (pytest.approx(0.25), 2)
    assert (rows["c"]["cells"], rows["c"]["within_threats"]) == (2, None)


def test_the_summary_by_hand():
    cells = [cell(0.5, 0.5), cell(0.5, 0.9, "blend"), cell(0.8, 0.75, "warp", "anp")]
    rows = {row["remedy"]: row for row in summary(cells).rows()}
    assert list(rows) == ["auto", "anp", "all together"]
    assert (rows["auto"]["coverage"], rows["auto"]["error"]) == (50.0, pytest.approx(20.0))
    assert rows["all together"]["error"] == pytest.approx(15.0)
    rate = Rate(2, 3)
    bounds = (rows["all together"]["coverage_low"], rows["all together"]["coverage_high"])
    assert bounds == pytest.approx((100 * rate.low, 100 * rate.high))
    assert rows["anp"]["width"] == pytest.approx(20.0)
    assert rows["auto"]["rank_correlation"] is None  # the same estimate twice
    assert len(summary([cells[2]])) == 1


def test_the_table_has_a_row_for_each_repair_that_counts():
    weak = replace(cell(0.5, 0.5, "blend"), counts=False)
    empty = replace(cell(0.5, 0.5, "warp"), estimate=None, took=0, skipped=5)
    first, second = trust([cell(0.5, 0.9), weak, empty]).rows()
    assert (first["threat"], first["rate"], first["remedy"]) == ("badnets", 0.1, "auto")
    assert (first["removed"], first["removed_low"], first["removed_high"]) == pytest.approx((90.0, 89.0, 91.0))
    assert (first["estimate"], first["estimate_low"], first["estimate_high"]) == pytest.approx((50.0, 40.0, 60.0))
    assert (first["covered"], first["took"], first["skipped"]) == ("no", 4, 1)
    assert (second["covered"], second["estimate"], second["took"], second["skipped"]) == (None, None, 0, 5)
    assert len(summary([weak, empty])) == 0
    found = left_out([cell(0.5, 0.9), weak, empty])
    assert "because the first suspect is no evidence: auto-fashion-mnist-blend-0.1-500-0." in found[0]
    assert "because no planted tampering took: auto-fashion-mnist-warp-0.1-500-0." in found[1]
    assert left_out([cell(0.5, 0.9)]) == []


@pytest.mark.parametrize(("hits", "n", "holds"), [(16, 16, True), (15, 15, None), (36, 40, None), (4, 20, False)])
def test_coverage_is_judged_by_its_bounds(hits, n, holds):
    # Of nothing but hits the lower Wilson bound is n / (n + 1.96^2): above 0.8 from 16 on.
    cells = [cell(0.5, 0.5 if i < hits else 0.9) for i in range(n)]
    assert held(cells)[COVERS] == (f"{hits} of {n}: {Rate(hits, n)}, mean width 20 points", holds)


def test_cells_that_are_missing_leave_it_open():
    cells = [cell(0.5, 0.5)] * 20
    planned = [one.repair for one in cells] + [cell(0.5, 0.5, "warp").repair]
    first, _ = claims(cells, planned, {trusted_name(one.repair) for one in cells})
    assert (first.holds, first.found.endswith("; 1 of 21 repairs are missing")) == (None, True)
    assert claims([], [], set()) == []
    nothing = claims([], planned, set())
    assert [one.holds for one in nothing] == [None, None]
    assert all(one.found == "nothing to compare; 21 of 21 repairs are missing" for one in nothing)


def test_the_ranking_is_judged_by_its_bounds():
    order = [cell(e, e, name, remedy) for name in NAMES for remedy, e in (("auto", 0.9), ("anp", 0.5), ("path", 0.1))]
    found, holds = held(order)[RANKS]
    assert holds is True
    assert found == (
        "Spearman 1.00 (95 % interval 1.00 to 1.00), across the remedies of a setting 1.00, mean over 4; "
        "cells: 12, settings: 4"
    )
    mirrored = [replace(one, truth=(-one.truth[0], *one.truth[1:])) for one in order]
    assert held(mirrored)[RANKS][1] is False
    found, holds = held(order[:3])[RANKS]
    assert (holds, "one setting, no interval" in found) == (None, True)


def test_a_constant_has_no_ranking():
    cells = [cell(0.5, 0.1 * i, name) for i, name in enumerate(NAMES)]
    found, holds = held(cells)[RANKS]
    assert holds is None
    assert found == "no correlation, estimate or truth is the same in all cells; cells: 4, settings: 4"


def test_the_reader_is_told_what_was_compared():
    said = about(SCALES["small"])
    assert "on fashion-mnist with 500 clean images and seed 0" in said
