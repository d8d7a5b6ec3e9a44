"""`ensemble`: averages of answers and of weights, over points of a bridge or over models, beside the best single one."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter

from isthmus.files import atomic
from isthmus.layout import Layout
from isthmus.recipes.ensemble_bench import ROBUST, Bench, Entry
from isthmus.recipes.ensemble_members import Case, EnsembleRecipe, case_of, weight_bytes
from isthmus.recipes.ensemble_table import columns_of, reliability, row_of
from isthmus.runs import Run
from isthmus.settle import Recalibrate
from isthmus.store import save_model
from isthmus.table import Table, with_bounds
from isthmus.training.session import Monitor

RESULT, CSV = "ensemble.json", "table.csv"
SOUPS = {"uniform soup": "uniform-soup", "greedy soup": "greedy-soup", "centroid of the corners": "centroid"}


@dataclass(frozen=True)
class Averaged:
    """The table, one row for each single model, ensemble and soup; its `meta` says what was chosen. The files written."""

    table: Table
    files: dict[str, str] = field(default_factory=dict[str, str])

    def to_json(self) -> dict[str, object]:
        """Return rows, columns and meta as JSON values."""
        return {"status": "done", **self.table.to_json(), "files": self.files}


def run_ensemble(recipe: EnsembleRecipe, run: Run | None = None, *, monitor: Monitor | None = None) -> Averaged:
    """Return the comparison; with a run also written as `ensemble.json`, `table.csv` and `logits.safetensors`, and with `save` the soups.

    What is chosen (the point, the greedy soup) is chosen on validation images; the row that names the test images' own best says so, and
    the regret is what the choice loses to it. A resumed run takes over the logits and attacks that are there, and then gives the table of
    an uninterrupted one. Raises InputError as :func:`case_of`.
    """
    began = perf_counter()
    case = case_of(recipe, run)
    if run is not None and run.resumed and (run.folder / RESULT).is_file():  # written last: everything is there
        return Averaged(Table.load(run.folder / RESULT), _files(run))
    bench = Bench(case, recipe, run, monitor)
    entries = _entries(case, bench)
    rows = [row_of(entry, bench) for entry in entries]
    meta = _meta(recipe, case, bench, entries) | {"seconds": perf_counter() - began}
    table = with_bounds(Table.of(rows, columns_of(recipe, case), meta))
    if run is None:
        return Averaged(table)
    if recipe.save:
        _save_soups(case, bench, entries, run)
    bench.save_logits()
    run.save(CSV, partial(_save_csv, table))
    run.save(RESULT, table.save)
    run.discard(ROBUST)
    return Averaged(table, _files(run))


def _entries(case: Case, bench: Bench) -> list[Entry]:
    """Return what the table compares: members, corners that are none, the choices, ensembles, soups."""
    members, every = case.members, tuple(range(case.members.count))
    singles = [
        Entry(name, "member" if place in every else "corner", "single", (place,))
        for place, name in enumerate(members.names)
    ]
    chosen, hindsight = bench.chosen(), bench.hindsight()
    found = [
        *singles,
        Entry(f"chosen on validation: {members.names[chosen]}", "chosen", "single", (chosen,)),
        Entry(f"best on test, in hindsight: {members.names[hindsight]}", "hindsight", "single", (hindsight,)),
        Entry("softmax ensemble", "ensemble", "softmax", every),
        Entry("logit ensemble", "ensemble", "logits", every),
        Entry("uniform soup", "soup", "soup", every),
    ]
    if bench.recipe.greedy:
        found.append(Entry("greedy soup", "soup", "soup", bench.greedy().members))
    if members.corners:
        found.append(Entry("corner ensemble", "ensemble", "softmax", members.corners))
        found.append(Entry("centroid of the corners", "soup", "soup", members.corners))
    return found


def _meta(recipe: EnsembleRecipe, case: Case, bench: Bench, entries: list[Entry]) -> dict[str, object]:
    """Return what the table is of, what was chosen, and what there is to say."""
    names, tried = case.members.names, bench.greedy().tried if recipe.greedy else ()
    rates = {place: bench.accuracy(place) for place in (bench.chosen(), bench.hindsight())}
    notes = [*case.notes, *(f"{entry.name}: {text}" for entry in entries for text in bench.warnings(entry))]
    return {
        "models": list(recipe.models),
        "points": recipe.points,
        "data": case.test.name,
        "members": list(names[: case.members.count]),
        "settle": None if case.members.settle is None else type(case.members.settle).__name__,
        "settle_n": len(case.members.settle.samples) if isinstance(case.members.settle, Recalibrate) else None,
        "validation": {"n": len(case.validation), "hold_out": recipe.hold_out},
        "chosen": {"name": names[bench.chosen()], "test_accuracy": rates[bench.chosen()].to_json()},
        "hindsight": {"name": names[bench.hindsight()], "test_accuracy": rates[bench.hindsight()].to_json()},
        "regret": rates[bench.hindsight()].value - rates[bench.chosen()].value,
        "greedy": [
            {"name": names[place], "validation_accuracy": rate.to_json(), "kept": kept} for place, rate, kept in tried
        ],
        "reliability": _reliabilities(case, bench, entries),
        "attack": bench.attack_json(),
        "parameters": Layout.of(case.members.model(0)).size,
        "weight_bytes": weight_bytes(case.members.model(0)),
        "notes": list(dict.fromkeys(notes)),
        "seed": recipe.seed,
    }


def _reliabilities(case: Case, bench: Bench, entries: list[Entry]) -> list[dict[str, object]]:
    """Return the bins of confidence of the given models, of what was chosen on validation images, and of what was put together."""
    members = case.members
    given = members.corners or tuple(range(members.count))
    kept = [entry for entry in entries if entry.kind != "hindsight"]
    kept = [entry for entry in kept if entry.kind not in ("member", "corner") or entry.members[0] in given]
    return [found for entry in kept if (found := reliability(entry, bench)) is not None]


def _save_soups(case: Case, bench: Bench, entries: list[Entry], run: Run) -> None:
    """Write the soups as model files that load like any other."""
    for entry in entries:
        if entry.name in SOUPS:
            parts = [case.members.names[place] for place in entry.members]
            card = case.task.card(case.data).model_copy(update={"notes": {"soup": entry.name, "of": parts}})
            module = bench.module(entry)
            run.save(f"{SOUPS[entry.name]}.safetensors", partial(save_model, module, meta=card))


def _files(run: Run) -> dict[str, str]:
    named = {"table": RESULT, "csv": CSV, "logits": "logits.safetensors"}
    named |= {stem: f"{stem}.safetensors" for stem in SOUPS.values()}
    return {name: str(run.folder / file) for name, file in named.items() if (run.folder / file).is_file()}


def _save_csv(table: Table, path: Path) -> None:
    with atomic(path) as temporary:
        table.frame.to_csv(temporary, index=False)
