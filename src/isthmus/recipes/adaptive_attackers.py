"""`adaptive-attackers`: what attackers who know the defence gain over plain poisoning, by remedy and number of clean images."""

from collections.abc import Sequence

from isthmus import report
from isthmus.files import read_json
from isthmus.recipes.adaptive import Evaded
from isthmus.recipes.adaptive_attackers_cells import (
    cells,
    partner_of,
    repairs_of,
    setting_of,
    tamperer_of,
    trainings_of,
)
from isthmus.recipes.adaptive_attackers_scales import ABOUT, SEEDS, SIZES, TIMES, Tamperer
from isthmus.recipes.adaptive_attackers_tables import ALLOWED, TOLERATED, Suspect, claims, duels, suspects, winners
from isthmus.recipes.repair_grid_cells import name
from isthmus.recipes.repair_grid_tables import LEAST_ATTACK, Rates, Result, compared, crossed, grouped, unused
from isthmus.recipes.study import Findings, Study, output_of
from isthmus.recipes.train import Trained
from isthmus.runs import Run
from isthmus.table import Table

NOTES = (
    f"A cell counts where the trigger works on at least {LEAST_ATTACK:g} % of the images of the first suspect, whose accuracy is that of "
    "its network. Means are over cells that every remedy finished at that budget. Attack success is of triggered images whose label is "
    "not the target; the fall of accuracy is from the better of the two suspects.",
    "The first suspect is a tampered `model`, which is the one that remedies of a single suspect repair. The second is what the attacker "
    "hands over with it: the other end of his path (`path`, `path-points`), the clean model that he started from (`segment`, whose user "
    "averages the two or connects them, and from which `auto` may choose to start); for the others it is the model of a second run with "
    "another seed.",
    "`against` is the same data, trigger and rate without the trick: `plain-dispersed` for `inversion`, `plain-keyed` (no cover) for "
    f"`keyed`, `plain` for everything that plants the patch. `plain-longer` trains {TIMES:g} times as long: what more gradients do by "
    "themselves. `plain-dispersed` and `plain-keyed` stand against the patch: what the trigger does by itself.",
    f"`best` is chosen by its test figures among the remedies that cost less than {TOLERATED:g} points, which nobody who repairs can do: a "
    "bound of what choosing another remedy would have helped. An attacker wins against the others as well where none costs so little "
    "any more.",
    f"A verdict is that of means over seeds, at every number of clean images, with {ALLOWED:g} points allowed.",
    "Attackers train with the plan of plain poisoning, once for each plan that they take (`cost`). None of them saw `auto`: "
    "each works against one idea, not against the whole of a remedy.",
)


def findings(run: Run, scale: str, seeds: int, done: frozenset[str]) -> Findings:
    """Return what the finished cells say."""
    size = SIZES[scale]
    results = [Result.read(one, _report(run, one.name)) for one in repairs_of(scale, seeds) if one.name in done]
    kept = compared(one for one in results if one.counts)
    handed = [
        _suspect(run, one, cell)
        for one, k in trainings_of(scale, seeds)
        if (cell := name(setting_of(size, one), k)) in done
    ]
    found = duels(kept, size.tamperers)
    return Findings(
        tables={"Suspects": suspects(handed), **_by_attacker(kept), "Who wins": winners(found)},
        claims=claims(found, scale, seeds, done),
        notes=[f"The scale: {ABOUT[scale]}.", *unused(results, kept), *NOTES],
    )


def _by_attacker(kept: Sequence[Result]) -> dict[str, Table]:
    """Return what each remedy left of each attacker, and what it cost, at each budget."""
    found: dict[str, Table] = {}
    for budget, held in grouped(kept, lambda one: one.repair.budget).items():
        at = f"remedies by attacker, {budget:,} clean images"
        found[f"Attack success, {at}"] = crossed(held, ("attacker", _tamperer), _remedy, lambda one: one.attack, "%")
        found[f"Fall of accuracy, {at}"] = crossed(
            held, ("attacker", _tamperer), _remedy, lambda one: one.drop, "points"
        )
    return found


def _suspect(run: Run, tamperer: Tamperer, cell: str) -> Suspect:
    held = read_json(output_of(run, cell, "metrics.json"))
    partner = None
    if tamperer.attacker is None:
        record = Trained.model_validate(held)
    else:
        record = Evaded.model_validate(held)
        partner_name = partner_of(tamperer)
        if partner_name is not None:
            given = record.partners[partner_name]
            planted = given.backdoors[0]
            partner = Rates.recorded(given.clean_accuracy, planted.attack_success, planted.recovery_accuracy)
    rates = Rates.recorded(record.clean_accuracy, record.attack_success, record.recovery_accuracy)
    return Suspect(tamperer, rates, record.gradient_evaluations, partner)


def _tamperer(result: Result) -> str:
    return tamperer_of(result.repair)


def _remedy(result: Result) -> str:
    return result.repair.remedy


def _report(run: Run, cell: str) -> report.Document:
    return report.read_report(output_of(run, cell, "report.json").parent)


ADAPTIVE_ATTACKERS = Study(
    name="adaptive-attackers",
    title="Attackers who know the defence: what remedies leave of each",
    scales=ABOUT,
    seeds=SEEDS,
    cells=cells,
    findings=findings,
)
