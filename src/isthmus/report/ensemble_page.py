"""The page of ensembles and averages: accuracy, calibration, attack, diversity and cost of each, and the regret of the choice."""

from collections.abc import Sequence

from isthmus.report.align_page import Ran
from isthmus.report.blocks import Html, Plots, Row, bullets, cards, facts, paragraphs, section, shell, stacked, text
from isthmus.report.dots import dots_figure
from isthmus.report.ensemble import ATTACKED, LIMITS, Combined, ensemble_sentences
from isthmus.report.part import p_value
from isthmus.report.reliability import MOST, drawn, reliability_figure, said
from isthmus.report.text import duration, moment, number, percent, sentence
from isthmus.table import Cell

WHOLE = ("chosen", "hindsight", "ensemble", "soup")
MANY = 8  # members: more of them are folded away
DOTS_LEGEND = (
    ("clean_accuracy", "accuracy", "accuracy", "dot"),
    ("robust_accuracy", "accuracy under attack", "attack", "diamond"),
)
Cells = dict[str, Cell]


def ensemble_page(combined: Combined, ran: Ran) -> str:
    """Return the comparison as HTML, with plotly's script inside (about 5 MB)."""
    plots, meta = Plots(), combined.meta
    limits = [*LIMITS, *([ATTACKED] if "robust_accuracy" in combined.table.names else [])]
    parts = [
        _header(combined, ran),
        section("accuracy", "Accuracy", _accuracy(combined, plots)),
        section("quality", "Calibration and gain", _quality(combined)),
        section("reliability", "Confidence against accuracy", _reliability(combined, plots)),
        section("chosen", "What was chosen", paragraphs(_choice(combined)), _greedy(combined)),
        section("diversity", "Diversity against accuracy", _diversity(combined)),
        section("cost", "Cost", _cost(combined)),
        section("members", "The members", _members(combined)),
        section("measured", "What was measured", facts(_facts(combined))),
        section("warnings", "Warnings", bullets(meta.notes) if meta.notes else ""),
        ran.provenance(),
        section("limits", "What this does not show", bullets(limits)),
        ran.footer("ensemble.json"),
    ]
    return shell(combined.title, "\n".join(part for part in parts if part), plots, version=ran.isthmus)


def _header(combined: Combined, ran: Ran) -> str:
    meta = combined.meta
    best = max(combined.rows("chosen", "ensemble", "soup"), key=lambda row: _number(row, "validation_accuracy") or 0.0)
    verdict = (
        f"Highest validation accuracy: {best['name']}, test accuracy {_bounds(best, 'test_accuracy')}. The single model chosen on "
        f"{meta.validation.n:,} validation images has {percent(meta.chosen.test_accuracy.value)}."
    )
    count = len(meta.notes)
    link = f'<a href="#warnings">{count} warning{"s" if count > 1 else ""}</a>' if count else ""
    return (
        f'<header>\n<p class="over"><span>{text(moment(ran.created))}</span>{link}</p>\n<h1>{text(combined.title)}</h1>\n'
        f'<p class="verdict">{text(verdict)}</p>\n</header>'
    )


def _number(row: Cells, name: str) -> float | None:
    value = row.get(name)
    return float(value) if isinstance(value, int | float) else None


def _bounds(row: Cells, name: str) -> str:
    value, low, high = (_number(row, f"{name}{end}") for end in ("", "_low", "_high"))
    if value is None:
        return "not a number"
    return f"{value:.1f} %" + ("" if low is None or high is None else f" ({low:.1f}–{high:.1f} %)")


def _accuracy(combined: Combined, plots: Plots) -> str:
    few = len(combined.meta.members) <= MANY
    rows = combined.rows(*(("member", "corner") if few else ()), *WHOLE)
    measures = {"clean_accuracy": [_triple(row, "test_accuracy") for row in rows]}
    if "robust_accuracy" in combined.table.names:
        measures["robust_accuracy"] = [_triple(row, "robust_accuracy") for row in rows]
    marked = next((i for i, row in enumerate(rows) if row["kind"] == "chosen"), None)
    figure = dots_figure([_brief(row) for row in rows], measures, marked=marked, length=30)
    said = f"Test images, n = {combined.meta.chosen.test_accuracy.n:,}; bars are Wilson 95 % intervals. Shaded: the model that was chosen."
    if not few:
        said += " The members stand in a table below."
    return plots.place(figure, said, [line for line in DOTS_LEGEND if line[0] in measures])


def _brief(row: Cells) -> str:
    """Return the name of a row; which member a choice is stands in the table."""
    name = str(row["name"])
    return name.partition(":")[0] if row["kind"] in ("chosen", "hindsight") else name


def _triple(row: Cells, name: str) -> tuple[float, float, float] | None:
    value, low, high = (_number(row, f"{name}{end}") for end in ("", "_low", "_high"))
    return None if value is None or low is None or high is None else (value, low, high)


def _quality(combined: Combined) -> str:
    heads = (
        "Combination",
        "Accuracy",
        "Under attack",
        "Loss (NLL, nat)",
        "Calibration error",
        "Brier score",
        "Gain over the chosen",
    )
    rows = [
        Row("repaired" if row["kind"] == "chosen" else str(row["kind"]), _quality_cells(row))
        for row in combined.rows(*WHOLE)
    ]
    note = (
        "Below each share its Wilson 95 % interval, below each calibration error (15 bins of the largest probability) what a perfectly "
        "calibrated model would show on as many images, below each gain the p-value of McNemar's exact test on the same images. "
        "Brier score: 0 to 2."
    )
    return cards(heads, rows, numeric=(False, *(True for _ in heads[1:]))) + f'<p class="caption">{text(note)}</p>'


def _quality_cells(row: Cells) -> list[str | Html]:
    ece, chance, gain = (_number(row, name) for name in ("test_ece", "test_ece_by_chance", "gain"))
    return [
        str(row["name"]),
        _share(row, "test_accuracy"),
        _share(row, "robust_accuracy"),
        _plain(row, "test_nll"),
        "" if ece is None else stacked(f"{ece:.1f} %", "" if chance is None else f"by chance {chance:.1f} %"),
        _plain(row, "test_brier"),
        "" if gain is None else stacked(f"{gain:+.1f} points", f"p {_compared(_number(row, 'gain_p'))}"),
    ]


def _reliability(combined: Combined, plots: Plots) -> str:
    held, given = drawn(combined)
    if not held:
        return ""
    lines = [
        "Dots: accuracy of the test images in each bin of the largest probability, at their mean confidence, with Wilson 95 % intervals. "
        "Bars: the share of the images that is in the bin. Dashed: a calibrated model; dots below it are too sure. Next to the calibration "
        "error (ECE) stands what a perfectly calibrated model would show on as many images."
    ]
    if given > MOST:
        lines.append(f"Of {given:,} given models the first {MOST} are drawn; ensemble.json has all.")
    panels = [
        f"<div><h3>{text(one.name)}</h3>{plots.place(reliability_figure(one.calibration), f'{said(one.calibration)}.')}</div>"
        for one in held
    ]
    return f'{paragraphs(lines)}<div class="plots">{"".join(panels)}</div>'


def _compared(p: float | None) -> str:
    said = p_value(p)
    return said if said.startswith("<") or p is None else f"= {said}"


def _share(row: Cells, name: str) -> str | Html:
    found = _triple(row, name)
    return "" if found is None else stacked(f"{found[0]:.1f} %", f"{found[1]:.1f}–{found[2]:.1f} %")


def _plain(row: Cells, name: str) -> str:
    value = _number(row, name)
    return "" if value is None else number(float(f"{value:.3g}"))


def _choice(combined: Combined) -> list[str]:
    return [f"{sentence(line)}." for line in ensemble_sentences(combined.table)[:2]]


def _greedy(combined: Combined) -> str:
    heads = ("Tried in this order", "Validation accuracy of the soup with it", "Kept")
    rows = [
        Row("tried", [one.name, percent(one.validation_accuracy.value), "yes" if one.kept else "no"])
        for one in combined.meta.greedy
    ]
    if not rows:
        return ""
    return f"<details><summary>The greedy soup, step by step</summary>{cards(heads, rows, numeric=(False, True, False))}</details>"


def _diversity(combined: Combined) -> str:
    rows = [row for row in combined.rows("ensemble") if _number(row, "disagreement") is not None]
    if not rows:
        return ""
    heads = (
        "Ensemble",
        "Members",
        "Accuracy",
        "Disagreement",
        "Per error",
        "Divergence (nat)",
        "Ambiguity (nat)",
        "Gain",
    )
    held = [Row("ensemble", _diversity_cells(row)) for row in rows]
    note = (
        "Disagreement: test images on which two members differ, mean over pairs; per error: divided by the mean error of the members. "
        "Divergence: mean KL over ordered pairs. Ambiguity: mean loss of the members less that of the ensemble, what diversity is worth."
    )
    return cards(heads, held, numeric=(False, *(True for _ in heads[1:]))) + f'<p class="caption">{text(note)}</p>'


def _diversity_cells(row: Cells) -> list[str | Html]:
    disagreement, gain = _number(row, "disagreement"), _number(row, "gain")
    return [
        str(row["name"]),
        _plain(row, "members"),
        _share(row, "test_accuracy"),
        "" if disagreement is None else f"{disagreement:.1f} %",
        _plain(row, "normalised_disagreement"),
        _plain(row, "divergence"),
        _plain(row, "ambiguity"),
        "" if gain is None else f"{gain:+.1f} points",
    ]


def _cost(combined: Combined) -> str:
    heads = ("Combination", "Members", "Forward passes per image", "Weights to be held (MB)", "Accuracy")
    rows = [Row(str(row["kind"]), _cost_cells(row)) for row in combined.rows("chosen", "ensemble", "soup")]
    return cards(heads, rows, numeric=(False, *(True for _ in heads[1:])))


def _cost_cells(row: Cells) -> list[str | Html]:
    weights = _number(row, "weight_bytes")
    held = "" if weights is None else number(float(f"{weights / 1e6:.3g}"))
    return [str(row["name"]), _plain(row, "members"), _plain(row, "passes"), held, _share(row, "test_accuracy")]


def _members(combined: Combined) -> str:
    rows = [
        Row(str(row["kind"]), [*_quality_cells(row)[:6], _share(row, "validation_accuracy")])
        for row in combined.rows("member", "corner")
    ]
    heads = (
        "Member",
        "Accuracy",
        "Under attack",
        "Loss (NLL, nat)",
        "Calibration error",
        "Brier score",
        "On validation images",
    )
    table = cards(heads, rows, numeric=(False, *(True for _ in heads[1:])))
    return table if len(rows) <= MANY else f"<details><summary>{len(rows):,} members</summary>{table}</details>"


def _facts(combined: Combined) -> Sequence[tuple[str, str]]:
    meta = combined.meta
    out = "" if meta.validation.hold_out is None else f", of {meta.validation.hold_out:,} held out"
    rows = [
        ("Test images", f"{meta.data}, n = {meta.chosen.test_accuracy.n:,}"),
        ("Validation images", f"{meta.validation.n:,}{out}"),
    ]
    if meta.points is not None:
        rows.append(("Points", meta.points))
    if meta.settle is not None:
        images = "" if meta.settle_n is None else f", {meta.settle_n:,} training images"
        rows.append(("BatchNorm statistics", meta.settle + images))
    if meta.attack is not None:
        rows.append(
            (
                "Attack",
                ", ".join(
                    f"{name} {value}" for name, value in meta.attack.items() if isinstance(value, str | int | float)
                ),
            )
        )
    if meta.parameters is not None:
        rows.append(("Parameters of one model", f"{meta.parameters:,}"))
    if meta.seed is not None:
        rows.append(("Seed", str(meta.seed)))
    if meta.seconds is not None:
        rows.append(("Time", duration(meta.seconds)))
    return rows
