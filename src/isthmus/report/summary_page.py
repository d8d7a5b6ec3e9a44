"""The page of a repair over several seeds."""

from urllib.parse import quote

from isthmus.report.blocks import Html, Plots, Row, bullets, cards, rate_cell, section, shell, text
from isthmus.report.dots import RATES, dots_figure
from isthmus.report.figures import Figure
from isthmus.report.html import DOTS_LEGEND
from isthmus.report.summary import SeedRun, Spread, Summary
from isthmus.report.text import STATUS, coordinates, duration, limits, moment, seeds_verdict, spread_text


def summary_page(summary: Summary) -> str:
    """Return the page: the verdict, every model with mean and spread, and the repaired model seed by seed."""
    plots = Plots()
    parts = [
        _header(summary),
        _models(summary, plots),
        _seeds(summary),
        section("warnings", "Warnings", bullets(summary.warnings) if summary.warnings else "<p>None.</p>"),
        section("limits", "What this does not show", bullets(limits())),
        f"<footer>Isthmus {text(summary.isthmus)}, {text(moment(summary.created))}. The same figures are in demo.json.</footer>",
    ]
    return shell(summary.title, "\n".join(parts), plots, version=summary.isthmus)


def _header(summary: Summary) -> str:
    reasons = f'<div class="notice">{bullets(summary.reasons)}</div>\n' if summary.reasons else ""
    return (
        f'<header>\n<p class="over"><span class="badge {summary.status}">{STATUS[summary.status]}</span>'
        f"<span>{text(moment(summary.created))}</span></p>\n<h1>{text(summary.title)}</h1>\n"
        f'<p class="verdict">{text(seeds_verdict(summary))}</p>\n{reasons}</header>'
    )


def _models(summary: Summary, plots: Plots) -> str:
    lines = summary.lines
    figure, legend = _figure(summary)
    caption = f"Mean over {len(summary.runs)} seeds; bars reach from the lowest seed to the highest."
    heads = ("Model", "Accuracy", "Attack success", "Recovery accuracy", "Time (s)", "Gradients")
    rows = [
        Row(
            line.role,
            [
                line.name,
                _spread(line.clean_accuracy),
                _spread(line.attack_success),
                _spread(line.recovery_accuracy),
                "" if line.seconds is None else spread_text(line.seconds, percentage=False),
                "" if line.gradient_evaluations is None else f"{line.gradient_evaluations.mean:,.0f}",
            ],
        )
        for line in lines
    ]
    table = cards(heads, rows, numeric=(False, True, True, True, True, True))
    note = '<p class="caption">Mean ± sample standard deviation over seeds.</p>'
    return section("models", "Before and after", plots.place(figure, caption, legend), table, note)


def _figure(summary: Summary) -> tuple[Figure, list[tuple[str, str, str, str]]]:
    groups: dict[tuple[str, str], dict[str, list[float]]] = {}
    for run in summary.runs:
        for role, key, entry in run.entries():
            held = groups.setdefault((role, key), {name: [] for name in RATES})
            for name in RATES:
                rate = entry.rate(name)
                if rate is not None:
                    held[name].append(100 * rate.value)
    order = {"suspect": 0, "repaired": 1, "baseline": 2}
    ranged = [groups[group] for group in sorted(groups, key=lambda group: order[group[0]])]
    measures = {
        name: [
            (sum(held[name]) / len(held[name]), min(held[name]), max(held[name])) if held[name] else None
            for held in ranged
        ]
        for name in RATES
        if any(held[name] for held in ranged)
    }
    marked = next(i for i, line in enumerate(summary.lines) if line.role == "repaired")
    legend = [line for line in DOTS_LEGEND if line[0] in measures]
    return dots_figure([line.name for line in summary.lines], measures, marked=marked), legend


def _seeds(summary: Summary) -> str:
    heads = ("Seed", "Accuracy", "Attack success", "Recovery accuracy", "Chosen", "Time", "Status")
    rows = [
        Row(
            "seed",
            [
                _link(run),
                rate_cell(run.repaired.clean_accuracy),
                rate_cell(run.repaired.attack_success),
                rate_cell(run.repaired.recovery_accuracy),
                "" if run.u is None else coordinates(run.u),
                duration(run.seconds),
                STATUS[run.status],
            ],
        )
        for run in summary.runs
    ]
    table = cards(heads, rows, numeric=(False, True, True, True, True, True, False))
    return section(
        "seeds",
        "The repaired model, seed by seed",
        table,
        '<p class="caption">Below each share its Wilson 95&nbsp;% interval.</p>',
    )


def _link(run: SeedRun) -> Html:
    name = f"seed {run.seed}"
    # Quoted with "./" before it, a folder name cannot turn into another scheme such as javascript:.
    return Html(name if run.report is None else f'<a href="./{quote(run.report)}/report.html">{name}</a>')


def _spread(spread: Spread | None) -> str:
    return "" if spread is None else spread_text(spread, percentage=True)
