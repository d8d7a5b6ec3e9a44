"""`repair-grid`: what each remedy leaves of each attack, from how many clean images, at what cost."""

from collections.abc import Sequence

from isthmus import report
from isthmus.files import read_json
from isthmus.plots.frontier import frontier_figure
from isthmus.plots.removal import removal_figure
from isthmus.recipes import repair_grid_trust
from isthmus.recipes.repair_grid_cells import (
    cells,
    floors_of,
    inspected_of,
    name,
    remedies_of,
    repairs_of,
    settings_of,
    trusted_name,
    trusted_of,
)
from isthmus.recipes.repair_grid_claims import claims
from isthmus.recipes.repair_grid_scales import ABOUT, AUTO, SCALES, SEEDS
from isthmus.recipes.repair_grid_tables import (
    LEAST_ATTACK,
    Model,
    Rates,
    Result,
    by_threat,
    compared,
    control,
    grouped,
    remedies,
    suspects,
    unused,
)
from isthmus.recipes.repair_grid_triage import Inspected, false_alarms, triage
from isthmus.recipes.repair_grid_trust import Foretold
from isthmus.recipes.study import Findings, Study, keep_figure, mean_and_sd, output_of
from isthmus.recipes.train import Trained
from isthmus.report.inspection import InspectDocument
from isthmus.runs import Run
from isthmus.table import Table

ALL, FREE = "Remedies by clean images", "Untampered models repaired"
EACH = "Each remedy on all that it finished, rows do not compare"
NOTES = (
    f"A cell counts where the first suspect's accuracy is that of its network and its trigger works on at least {LEAST_ATTACK:g} % of "
    "the images: elsewhere there is nothing to remove. Seed s puts suspect s first, which is the one that remedies of a single suspect "
    "repair, and draws other clean images; remedies of several get both.",
    "Means are over cells that every remedy finished at that budget. Attack success is of triggered images whose label is not the target. "
    "The fall of accuracy is from the better of the two suspects. Worst cells stand beside the means: a mean hides a repair that failed.",
    "Every remedy takes as many gradients as the others at most, sees suspects and clean images alone, and is set by one rule for all: "
    "published settings, and one strength chosen on clean validation images.",
    "Intervals: percentiles of 2,000 bootstrap resamples of whole settings (data set, threat and rate); the cells of a setting share "
    "their suspects. They say how far the mean depends on which settings were tried, not how it would come out on others. A verdict is "
    "that of the mean.",
    "Attack success has a floor: a model that was never tampered with sends some images to the target, too (`untampered`), and more the "
    "less accurate it is (`false_target`, after the same repair). Untampered models are measured with a small patch.",
    "`calibrated` compares a model with untampered models of the same kind, which somebody who has one suspect has not. Among the "
    "untampered ones it is at most the level by construction.",
)


def findings(run: Run, scale: str, seeds: int, done: frozenset[str]) -> Findings:
    """Return what the finished cells say, after drawing the frontiers."""
    planned = list(repairs_of(scale, seeds))
    floors = _floors(run, scale, done)
    results = [
        Result.read(one, _report(run, one.name), floors.get(one.setting.floor)) for one in planned if one.name in done
    ]
    evidence = [one for one in results if one.tampered and one.counts]
    kept = compared(evidence)
    models = [
        Model(one, _rates(run, name(one, k)))
        for one in settings_of(scale)
        for k in range(one.models)
        if name(one, k) in done
    ]
    inspected = [
        Inspected.read(one, _inspection(run, cell))
        for one, k in inspected_of(scale)
        if (cell := f"inspect-{name(one, k)}") in done
    ]
    alarms = false_alarms(inspected)
    trusted = _trusted(run, scale, done)
    tables = _tables(kept, evidence) | {
        FREE: control(compared(one for one in results if not one.tampered)),
        "Suspects": suspects(models, floors),
        "Triage": triage(inspected),
    }
    return Findings(
        tables={**tables, **trusted.tables},
        claims=[*claims(results, planned, kept), *([] if alarms is None else [alarms]), *trusted.claims],
        notes=[f"The scale: {ABOUT[scale]}.", *left_out(scale, results, kept), *NOTES, *trusted.notes],
        files={**_draw(kept, run), **trusted.files},
    )


def _trusted(run: Run, scale: str, done: frozenset[str]) -> Findings:
    """Return what the repairs with planted tamperings say, after drawing them; nothing where none is planned."""
    planned = trusted_of(scale)
    if not planned:
        return Findings({}, [])
    found = [Foretold.read(one, _report(run, cell)) for one in planned if (cell := trusted_name(one)) in done]
    table = repair_grid_trust.trust(found)
    known = any(value is not None for value in table.values("estimate"))
    return Findings(
        tables={"Trust": table, "Trust, by remedy": repair_grid_trust.summary(found)},
        claims=repair_grid_trust.claims(found, planned, done),
        notes=[*repair_grid_trust.left_out(found), repair_grid_trust.about(SCALES[scale])],
        files=keep_figure(run, "repair-grid-trust", removal_figure(table)) if known else {},
    )


def left_out(scale: str, results: Sequence[Result], kept: Sequence[Result]) -> list[str]:
    """Return a sentence about everything that the means do not contain."""
    found: list[str] = []
    if unknown := remedies_of(scale)[1]:
        found.append(f"Not run, because there is no such remedy in this version: {', '.join(unknown)}.")
    return found + unused(results, kept)


def _tables(kept: Sequence[Result], evidence: Sequence[Result]) -> dict[str, Table]:
    """Return means over everything, over each data set, and by threat at each budget; what is in no mean by remedy and data set."""
    by_data = grouped(kept, _data)
    found = {ALL: remedies(kept)}
    if len(by_data) > 1:
        found |= {f"{ALL}, {data}": remedies(held) for data, held in by_data.items()}
    for budget, held in grouped(kept, lambda one: one.repair.budget).items():
        found[f"Attack success by threat, {budget:,} clean images"] = by_threat(held, lambda one: one.attack, "%")
        found[f"Fall of accuracy by threat, {budget:,} clean images"] = by_threat(held, lambda one: one.drop, "points")
    if len(kept) < len(evidence):
        found |= {f"{EACH}, {data}": remedies(held) for data, held in grouped(evidence, _data).items()}
    return found


def _draw(kept: Sequence[Result], run: Run) -> dict[str, str]:
    """Return the frontiers, over everything and for each data set, written."""
    by_data = grouped(kept, _data)
    parts: dict[str, Sequence[Result]] = {"": kept} if kept else {}
    if len(by_data) > 1:
        parts |= {f"-{data}": held for data, held in by_data.items()}
    files: dict[str, str] = {}
    for part, held in parts.items():
        emphasis = AUTO if any(one.repair.remedy == AUTO for one in held) else None
        figure = frontier_figure(_titled(remedies(held)), emphasis=emphasis)
        files |= keep_figure(run, f"repair-grid-frontier{part}", figure)
    return files


def _titled(table: Table) -> Table:
    """Return the table with budgets as a panel names them."""
    rows = [{**row, "budget": f"{row['budget']:,} clean images"} for row in table.rows()]
    return Table.of(rows, table.columns, table.meta)


def _data(result: Result) -> str:
    return result.repair.setting.block.name


def _floors(run: Run, scale: str, done: frozenset[str]) -> dict[tuple[str, str, str], float]:
    """Return `Setting.floor` -> attack success (%) on models that hold nothing, mean over them."""
    found: dict[tuple[str, str, str], float] = {}
    for setting in floors_of(scale):
        if (cell := f"floor-{setting.name}") not in done or setting.threat is None:
            continue
        held = [Rates.of(entry).attack for entry in _report(run, cell).suspects]
        mean = mean_and_sd([value for value in held if value is not None])[0]
        if mean is not None:
            found[setting.floor] = mean
    return found


def _rates(run: Run, cell: str) -> Rates:
    record = Trained.model_validate(read_json(output_of(run, cell, "metrics.json")))
    return Rates.recorded(record.clean_accuracy, record.attack_success, record.recovery_accuracy)


def _report(run: Run, cell: str) -> report.Document:
    return report.read_report(output_of(run, cell, "report.json").parent)


def _inspection(run: Run, cell: str) -> InspectDocument:
    return InspectDocument.model_validate(read_json(output_of(run, cell, "inspect.json")))


REPAIR_GRID = Study(
    name="repair-grid",
    title="Repair: attacks, remedies and clean budgets",
    scales=ABOUT,
    seeds=SEEDS,
    cells=cells,
    findings=findings,
)
