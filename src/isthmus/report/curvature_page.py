"""The page of a curvature: eigenvalues, density, trace, finite differences, and what they do not show."""

import shlex

from isthmus.report.blocks import Html, Plots, Row, bullets, cards, facts, paragraphs, section, shell, stacked, text
from isthmus.report.curvature import (
    UNIT,
    CurvatureDocument,
    Pairs,
    curvature_limits,
    curvature_sentences,
    curvature_verdict,
    images_text,
    trace_text,
)
from isthmus.report.curvature_figure import density_figure, eigenvalue_figure
from isthmus.report.text import duration, moment, number, sentence


def curvature_page(
    document: CurvatureDocument, *, created: str = "", isthmus: str = "", command: tuple[str, ...] = ()
) -> str:
    """Return the curvature as HTML, with plotly's script inside (about 5 MB)."""
    plots = Plots()
    parts = [
        _header(document, created),
        section("eigenvalues", "Eigenvalues", _eigenvalues(document, plots)),
        section("density", "Density of the spectrum", _density(document, plots)),
        section("difference", "With examples crafted anew", _differences(document)),
        section("measured", "What was measured", facts(_facts(document)), bullets(document.notes)),
        section("warnings", "Warnings", bullets(document.warnings) if document.warnings else ""),
        section("provenance", "To do it again", f"<pre>{text(shlex.join(command))}</pre>" if command else ""),
        section("limits", "What this does not show", bullets(curvature_limits(document))),
        f"<footer>{text(f'Isthmus {isthmus}, {moment(created)}. ' if isthmus else '')}"
        "The same figures are in curvature.json.</footer>",
    ]
    return shell(document.title, "\n".join(part for part in parts if part), plots, version=isthmus)


def _header(document: CurvatureDocument, created: str) -> str:
    count = len(document.warnings)
    link = f'<a href="#warnings">{count} warning{"s" if count > 1 else ""}</a>' if count else ""
    return (
        f'<header>\n<p class="over"><span>{text(moment(created))}</span>{link}</p>\n<h1>{text(document.title)}</h1>\n'
        f'<p class="verdict">{text(curvature_verdict(document))}</p>\n{paragraphs(curvature_sentences(document))}\n</header>'
    )


def _eigenvalues(document: CurvatureDocument, plots: Plots) -> str:
    found = eigenvalue_figure(document)
    if found is None:
        return ""
    figure, legend = found
    caption = (
        "Bars are the residuals ||A v - lambda v||: within one of them around each value lies an eigenvalue of the matrix. "
        "No bar is seen where it is smaller than the mark."
    )
    return plots.place(figure, caption, legend) + _pairs(document)


def _pairs(document: CurvatureDocument) -> str:
    groups = [("Hessian", document), ("Gauss-Newton", document.gauss_newton), ("Lower end", document.negative)]
    held = [(title, pairs) for title, pairs in groups if pairs is not None and pairs.eigenvalues]
    rows = [
        Row("pair", [str(place + 1), *(_pair(pairs, place) for _, pairs in held)])
        for place in range(max(len(pairs.eigenvalues) for _, pairs in held))
    ]
    heads = ("Place", *(f"{title} ({UNIT})" for title, _ in held))
    table = cards(heads, rows, numeric=(False, *(True for _ in held)))
    return f"<details><summary>Values, with the residual below</summary>{table}</details>"


def _pair(pairs: Pairs, place: int) -> str | Html:
    if place >= len(pairs.eigenvalues):
        return ""
    return stacked(number(pairs.eigenvalues[place]), f"± {pairs.residuals[place]:.1g}")


def _density(document: CurvatureDocument, plots: Plots) -> str:
    held = document.density
    if held is None:
        return ""
    caption = (
        f"Stochastic Lanczos quadrature, {held.probes} probes of {held.steps} steps, smoothed with a width of {number(held.width)} "
        f"{UNIT}; the band is the scatter over the probes. Logarithmic: almost all eigenvalues lie near zero."
    )
    return plots.place(density_figure(held, document.dimension), caption)


def _differences(document: CurvatureDocument) -> str:
    rows = [
        Row(
            "difference",
            [
                sentence(row.direction),
                number(row.step),
                number(row.recrafted),
                number(row.kept),
                number(row.frozen),
            ],
        )
        for row in document.finite_difference
    ]
    if not rows:
        return ""
    heads = ("Direction", "Step", f"Crafted anew ({UNIT})", f"Kept ({UNIT})", f"v'Hv ({UNIT})")
    note = (
        "Differences of gradients at two places along a unit vector v, a step from the weights to both sides, over twice the step. "
        "Crafted anew, they are of the adversarial loss itself; kept, they tend to v'Hv as the step falls, until rounding takes over."
    )
    return cards(heads, rows, numeric=(False, True, True, True, True)) + f'<p class="caption">{text(note)}</p>'


def _facts(document: CurvatureDocument) -> list[tuple[str, str]]:
    rows = [
        ("Loss", f"{sentence(document.objective)}, mean {number(document.loss)} nat"),
        ("Images", images_text(document)),
    ]
    rows.append(("Gradient", f"norm {number(document.gradient_norm)} nat/weight"))
    space = (
        "" if document.dimension in (None, document.parameters) else f", {document.subspace}: {document.dimension:,}"
    )
    rows.append(("Dimensions", f"{document.parameters:,} weights{space}"))
    if document.trace is not None:
        said = f"{trace_text(document.trace)}, {document.trace.method}, {document.trace.products:,} products"
        rows.append(("Trace", said.replace(", ,", ",")))
    rows.append(("Products with the matrices", f"{document.products_in_all:,}"))
    for title, value in (("Tolerance", document.tolerance), ("Precision", document.precision), ("Seed", document.seed)):
        if value not in (None, ""):
            rows.append((title, number(value) if isinstance(value, float) else str(value)))
    if document.seconds is not None:
        rows.append(("Time", duration(document.seconds)))
    return rows
