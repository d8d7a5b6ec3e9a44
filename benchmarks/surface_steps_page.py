"""What `surface_steps.py` found, as Markdown with a figure."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import exp, log
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from official_surface import EPOCHS, Settings, whole

from isthmus.plots import PAGE, SIZE, save_figure
from isthmus.plots.style import Look, blank, dress, marked
from isthmus.table import Table
from isthmus.training.plan import Plan

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FLAT, TOGETHER, EDGES_FIRST = "flat", "together", "edges-first"
PATCH, SCALED, TRUNCATED = "patch", "scaled", "truncated"
TITLES = {
    FLAT: "bilinear patch, untrained",
    TOGETHER: "Isthmus, all points together",
    EDGES_FIRST: "Isthmus, edges first",
    PATCH: "Ren et al., stage 2 alone",
    SCALED: "Ren et al., both stages, shortened",
    TRUNCATED: "Ren et al., from its start",
}
HEADS = (
    "recipe",
    "steps",
    "gradients",
    "highest training loss",
    "mean training loss",
    "highest training error (%)",
    "highest test loss",
    "highest test error (%)",
)
MEASURES = ("train_loss", "train_error", "test_loss", "test_error")


@dataclass(frozen=True)
class Result:
    """A measured surface: of every measure the highest and the mean value over the grid, and the mean of the corners."""

    recipe: str
    steps: int
    seed: int
    worst: dict[str, float]
    mean: dict[str, float]
    corners: dict[str, float]

    @classmethod
    def of(cls, recipe: str, steps: int, seed: int, table: Table) -> "Result":
        """Return what a scan says."""
        places = list(zip(table.values("u"), table.values("v"), strict=True))
        values = {name: [float(str(value)) for value in table.values(name)] for name in MEASURES}
        ends = [k for k, place in enumerate(places) if set(place) <= {0.0, 1.0}]
        return cls(
            recipe,
            steps,
            seed,
            {name: max(held) for name, held in values.items()},
            {name: fmean(held) for name, held in values.items()},
            {name: fmean(held[k] for k in ends) for name, held in values.items()},
        )


@dataclass(frozen=True)
class About:
    """How it was made: the scale, data and architecture, the plan of the library's surfaces, and what they were measured on."""

    scale: str
    data: str
    arch: str
    corner: Plan
    plan: Plan
    seen: int
    held: int
    grid: str


def stages(recipe: str, steps: int) -> tuple[int, int]:
    """Return how many of the steps are of stage 1 and of stage 2."""
    if recipe == TRUNCATED:
        return steps, 0
    first = round(steps * EPOCHS[0] / sum(EPOCHS)) if recipe == SCALED else 0
    return first, steps - first


def gradients(recipe: str, steps: int) -> int:
    """Return how many gradients of a batch that takes: two for a step on two edges."""
    return steps + stages(recipe, steps)[0]


def reached(curve: Sequence[tuple[int, float]], goal: float) -> tuple[str, int | None]:
    """Return after how many steps a curve of (steps, loss) is first at or below the goal, as text and rounded to a step.

    Between two measurements the loss is taken to be linear in the logarithm of the steps. "at most" the first where that is below already;
    "not within" the last, and None, where none is.

    >>> reached([(100, 2.0), (400, 1.0)], 1.5)
    ('200', 200)
    """
    if curve[0][1] <= goal:
        return f"at most {curve[0][0]:,}", curve[0][0]
    for (before, high), (after, low) in pairwise(curve):
        if low <= goal:
            share = (high - goal) / (high - low)
            steps = round(exp(log(before) + share * (log(after) - log(before))))
            return f"{steps:,}", steps
    return f"not within {curve[-1][0]:,}", None


def curve(found: Sequence[Result], recipe: str, measure: str) -> list[tuple[int, float]]:
    """Return (steps, mean over the seeds of the highest value) of a recipe."""
    counts = sorted({one.steps for one in found if one.recipe == recipe})
    groups = [(n, [one.worst[measure] for one in found if (one.recipe, one.steps) == (recipe, n)]) for n in counts]
    return [(n, fmean(values)) for n, values in groups]


def write(about: About, found: Sequence[Result], place: Path | None) -> None:
    """Print the page, or write it with its figure beside it."""
    if place is None:
        print(page(about, found, None))
        return
    drawn = place.with_suffix(".svg")
    save_figure(figure(found), drawn)
    place.write_text(page(about, found, drawn.name))


def page(about: About, found: Sequence[Result], figure: str | None) -> str:
    """Return everything as Markdown."""
    plan, (steps, total) = about.plan, whole(50_000)
    seeds = len({one.seed for one in found})
    repeats = (
        f"{seeds} repeats between the same models: means, the figure of each behind them."
        if seeds > 1
        else "One repeat."
    )
    lines = [
        "# Steps for a surface",
        "",
        f"Made by `python benchmarks/surface_steps.py --scale {about.scale} --out DIR --table FILE`. {about.data}, four {about.arch}",
        f"of {about.corner.steps:,} steps each, surfaces of 3 x 3 control points between them, batches of {plan.batch_size}, the same",
        f"augmentation for all. Isthmus: rate {plan.learning_rate:g}, {plan.schedule}, a training of its own for every number of steps.",
        f"Ren et al.: SGD at a constant rate of {Settings.learning_rate:g}, {Settings.draws} steps on each batch.",
        f"Highest and mean value over a {about.grid} grid, of {about.seen:,} training images without augmentation and {about.held:,} test",
        f"images, evaluation mode, BatchNorm statistics recomputed at every point but those models. {repeats}",
        "",
        f"With 50,000 images the recipe of Ren et al. is {steps:,} steps, {total:,} gradients: {EPOCHS[0]} epochs of stage 1, on two",
        f"edges, then {EPOCHS[1]} of stage 2, on the surface. From its start all that is measured here is stage 1; shortened, both stages",
        "keep their shares. A step of stage 1 takes two gradients.",
        "",
        *([] if figure is None else [f"![Highest loss over the surface by steps]({figure})", ""]),
        "## What was measured",
        "",
        f"| {' | '.join(HEADS)} |",
        f"|---|{'---:|' * (len(HEADS) - 1)}",
        *_rows(found),
        "",
    ]
    for measure, name in (("train_loss", "training"), ("test_loss", "test")):
        lines += [f"## Steps to an equal highest {name} loss", "", *_equal(found, measure), ""]
    return "\n".join(lines)


def _rows(found: Sequence[Result]) -> list[str]:
    ends = found[0].corners
    figures = [
        f"{ends['train_loss']:.3f}",
        "-",
        f"{ends['train_error']:.1f}",
        f"{ends['test_loss']:.3f}",
        f"{ends['test_error']:.1f}",
    ]
    rows = [f"| the four models, their mean | - | - | {' | '.join(figures)} |"]
    for recipe, title in TITLES.items():
        for steps in sorted({one.steps for one in found if one.recipe == recipe}):
            held = [one for one in found if (one.recipe, one.steps) == (recipe, steps)]
            figures = [
                _shown([one.worst["train_loss"] for one in held], 3),
                _shown([one.mean["train_loss"] for one in held], 3),
                _shown([one.worst["train_error"] for one in held], 1),
                _shown([one.worst["test_loss"] for one in held], 3),
                _shown([one.worst["test_error"] for one in held], 1),
            ]
            rows.append(f"| {title} | {steps:,} | {gradients(recipe, steps):,} | {' | '.join(figures)} |")
    return rows


def _shown(values: Sequence[float], digits: int) -> str:
    """Return the mean, and the figure of each seed where there are several."""
    each = ", ".join(f"{value:.{digits}f}" for value in values)
    return f"{fmean(values):.{digits}f} ({each})" if len(values) > 1 else each


def _equal(found: Sequence[Result], measure: str) -> list[str]:
    """Return a table: after how many steps each recipe is as low as another is at the end of its longest training."""
    curves = {recipe: held for recipe in TITLES if recipe != FLAT and (held := curve(found, recipe, measure))}
    lines = [
        "Linear in the logarithm of the steps between those that were measured; in brackets the gradients.",
        "",
        f"| as low as | loss | {' | '.join(TITLES[recipe] for recipe in curves)} |",
        f"|---|---:|{'---:|' * len(curves)}",
    ]
    for recipe, held in curves.items():
        steps, goal = held[-1]
        cells: list[str] = []
        for other, line in curves.items():
            text, needed = reached(line, goal)
            cells.append(text if needed is None else f"{text} ({gradients(other, needed):,})")
        lines.append(f"| {TITLES[recipe]}, {steps:,} steps | {goal:.3f} | {' | '.join(cells)} |")
    return lines


def figure(found: Sequence[Result]) -> "Figure":
    """Return highest training and test loss against steps, a line for each recipe, beside the corners' mean and the flat patch."""
    drawn = blank(PAGE, 3.2)
    panels = drawn.subplots(1, 2, sharey=True)
    for axis, measure, title in zip(
        panels, ("train_loss", "test_loss"), ("training images", "test images"), strict=True
    ):
        dress(axis)
        for place, recipe in enumerate(name for name in TITLES if name != FLAT):
            _draw(axis, found, (recipe, measure), marked(place, TITLES[recipe]))
        axis.axhline(found[0].corners[measure], color="#666666", linewidth=0.9, label="the four models, their mean")
        for one in (one for one in found if one.recipe == FLAT):
            axis.axhline(one.worst[measure], color="#666666", linewidth=0.9, linestyle=":", label=TITLES[FLAT])
        counts = sorted({one.steps for one in found if one.recipe != FLAT})
        axis.set_xscale("log")
        axis.set_xticks(counts, [f"{steps:,}" for steps in counts])
        axis.minorticks_off()
        axis.set_title(title, fontsize=SIZE)
        axis.set_xlabel("optimiser steps", fontsize=SIZE)
    panels[0].set_ylabel("highest loss over the surface (nat)", fontsize=SIZE)
    handles, labels = panels[0].get_legend_handles_labels()
    drawn.legend(handles, labels, fontsize=SIZE - 1, frameon=False, ncols=3, loc="outside lower center")
    return drawn


def _draw(axis: "Axes", found: Sequence[Result], what: tuple[str, str], look: Look) -> None:
    """Draw the mean of a recipe's repeats, and each of them as a mark."""
    recipe, measure = what
    held = [one for one in found if one.recipe == recipe]
    if held:
        line = curve(found, recipe, measure)
        axis.plot(
            [n for n, _ in line],
            [loss for _, loss in line],
            color=look.colour,
            marker=look.marker,
            markersize=3,
            linewidth=1.2,
            label=look.title,
            gid=recipe,
        )
        axis.plot(
            [one.steps for one in held],
            [one.worst[measure] for one in held],
            color=look.colour,
            marker="_",
            markersize=5,
            linestyle="",
        )
