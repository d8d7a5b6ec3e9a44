"""The report of a repair, put together from what was measured."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from torch import Tensor

from isthmus import report
from isthmus.files import sha256
from isthmus.geometry.bridge import Bridge
from isthmus.models.signature import kind_of
from isthmus.probes import Clean as CleanProbe
from isthmus.probes import Probe
from isthmus.randomness import stream
from isthmus.rates import Rate
from isthmus.recipes.case import Case, RepairRecipe
from isthmus.recipes.connect import shape_of
from isthmus.recipes.quality import by_class, changed, least_effectiveness
from isthmus.recipes.sample_sizes import sample_sizes
from isthmus.recipes.task import augment_for
from isthmus.recipes.verdict import criteria, judge
from isthmus.repair.methods import METHODS
from isthmus.repair.protocol import Repaired
from isthmus.runs import Run, environment
from isthmus.scan import coordinate_names, scan
from isthmus.settle import Recalibrate
from isthmus.store import save_bridge, save_model
from isthmus.table import Table
from isthmus.tampering import parse_target

Measured = tuple[report.Entry, Tensor]  # a model's figures, and which test images it gets right


def document_of(
    case: Case,
    results: Mapping[str, Repaired],
    run: Run,
    *,
    trust: report.Trust | None = None,
    candidates: Sequence[report.Candidate] = (),
) -> report.Document:
    """Return the report of `results` (remedy -> what it returned), after writing the weights and the bridge of the case's method.

    trust: the evidence that needs no trigger; candidates: the remedies among which the method chose. Both only stand in the report.
    """
    recipe = case.recipe
    main = results[recipe.method]
    suspects = _suspects(case)
    best = max(suspects, key=lambda pair: pair[0].clean_accuracy.value)
    first = [entry for entry, _ in suspects]
    measured = {name: case.measure.entry(name, result.module) for name, result in results.items()}
    done = {name: _compared(case, results[name], pair, first, best) for name, pair in measured.items()}
    repaired = done[recipe.method]
    assert repaired.change is not None
    attack = None if repaired.attack_success is None else _rate(repaired.attack_success)
    status, reasons = judge(attack, recipe.max_attack_success, best[1], measured[recipe.method][1], recipe.max_drop)
    accuracy = _rate(repaired.clean_accuracy)
    sizes = sample_sizes(attack, recipe.max_attack_success, accuracy, repaired.change, recipe.max_drop)
    files = _save(case, main, run)
    shown = main.table is not None and recipe.curve_n != 0
    curve = (
        _curve(case, main.bridge, main.table) if shown and main.bridge is not None and main.table is not None else None
    )
    weights = run.folder / "model.safetensors"
    return report.Document(
        title=f"Repair of {len(first)} suspect model(s) on {case.splits.name}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        isthmus=str(environment()["isthmus"]),
        command=run.command,
        status=status,
        reasons=reasons,
        criteria=criteria(attack, recipe.max_attack_success, repaired.change, recipe.max_drop),
        sample_sizes=sizes,
        method=_method(recipe, main),
        data=_data(case),
        trigger=_trigger(recipe),
        suspects=tuple(first),
        repaired=repaired.model_copy(update={"path": weights.name, "sha256": files.get(weights.name)}),
        baselines={name: entry for name, entry in done.items() if name != recipe.method},
        curve=None if curve is None else report.Curve.of(curve),
        choice=None if main.choice is None else _choice(main),
        candidates=tuple(candidates),
        trust=trust,
        geometry=None if main.bridge is None else _geometry(main.bridge),
        cost=_cost(results),
        environment=report.Environment.model_validate(environment()),
        seeds={"seed": recipe.seed},
        files=files,
        warnings=(*case.warnings, *main.warnings, *_cautions(case), *_familiar(main, first)),
    )


def _suspects(case: Case) -> list[Measured]:
    """Return the suspects as measured, with the files they came from."""
    found: list[Measured] = []
    for i, (module, path) in enumerate(zip(case.suspects, case.recipe.suspects, strict=True)):
        entry, right = case.measure.entry(f"suspect {i}", module)
        origin = {"path": path, "sha256": sha256(path), "format": kind_of(Path(path)), "note": "as given"}
        found.append((entry.model_copy(update={**origin, "per_class": _by_class(case, right)}), right))
    return found


def _by_class(case: Case, right: Tensor) -> tuple[report.RateEntry | None, ...]:
    return by_class(right, case.test.y, case.splits.num_classes)


def _compared(
    case: Case, result: Repaired, found: Measured, suspects: Sequence[report.Entry], best: Measured
) -> report.Entry:
    """Return what a remedy made, with its cost and beside the best suspect."""
    entry, right = found
    return entry.model_copy(
        update={
            "seconds": result.seconds,
            "gradient_evaluations": result.evaluations,
            "note": result.note,
            "per_class": _by_class(case, right),
            "change": changed(best[1], right, best[0].name),
            "effectiveness": least_effectiveness(suspects, entry),
        }
    )


def _cost(results: Mapping[str, Repaired]) -> report.Cost:
    return report.Cost(
        seconds={name: result.seconds for name, result in results.items()},
        gradient_evaluations={name: result.evaluations for name, result in results.items()},
    )


def _rate(entry: report.RateEntry) -> Rate:
    return Rate(round(entry.value * entry.n), entry.n)


def _save(case: Case, main: Repaired, run: Run) -> dict[str, str]:
    """Write weights and bridge; return their names with SHA-256."""
    if not run.primary:
        return {}
    card = case.task.card(case.recipe.data)
    paths = [run.save("model.safetensors", lambda place: save_model(main.module, place, card))]
    if main.bridge is not None:
        bridge = main.bridge
        paths.append(run.save("bridge.safetensors", lambda place: save_bridge(bridge, place, meta=card)))
    return {path.name: sha256(path) for path in paths}


def _curve(case: Case, bridge: Bridge, table: Table) -> Table:
    """Return the table that chose, with test columns attached afterwards."""
    n = case.recipe.curve_n
    test = case.test if n is None or n >= len(case.test) else case.test.subset(n, generator=stream(0, "curve"))
    probes: list[Probe] = [CleanProbe(test)]
    if case.measure.injected is not None:
        probes.append(case.measure.injected.probe())
    if case.measure.backdoor is not None:
        probes.append(replace(case.measure.backdoor, samples=test))
    axes = coordinate_names(bridge.basis.dim)
    points = list(zip(*(table.values(axis) for axis in axes), strict=True))
    measured = scan(bridge, points, probes, settle=Recalibrate(case.clean.train), seed=case.recipe.seed)
    return table.join(measured, on=axes)


def _method(recipe: RepairRecipe, main: Repaired) -> report.Method:
    settings = recipe.model_dump(
        mode="json", include={"evaluations", "batch_size", "learning_rate", "sharpness", "margin", "points"}
    )
    if main.history is not None:
        settings["plan"] = main.history.meta["plan"]
    rule = (main.reason or main.note or "nothing to choose") if main.choice is None else main.choice.rule
    return report.Method(name=main.name, description=METHODS[recipe.method].about, rule=rule, settings=settings)


def _data(case: Case) -> report.Data:
    roles = {"train": case.clean.train, "validation": case.clean.validation, "test": case.test}
    augment = augment_for(case.recipe.augment, case.splits)
    return report.Data(
        name=case.splits.name,
        num_classes=case.splits.num_classes,
        input_shape=case.splits.input_shape,
        clean_n=len(case.clean.train) + len(case.clean.validation),
        train_n=len(case.clean.train),
        validation_n=len(case.clean.validation),
        test_n=len(case.test),
        digests={role: samples.digest() for role, samples in roles.items()},
        augment={"shift": augment.shift, "flip": augment.flip},
    )


def _trigger(recipe: RepairRecipe) -> report.TriggerEntry | None:
    if recipe.injected is not None:
        return report.TriggerEntry(spec=f"errors injected: {recipe.injected}", target="each image's own")
    if recipe.trigger is None or recipe.target is None:
        return None
    return report.TriggerEntry(spec=recipe.trigger, target=parse_target(recipe.target))


def _choice(main: Repaired) -> report.Choice:
    assert main.choice is not None
    choice = main.choice
    return report.Choice(u=choice.u, rule=choice.rule, explanation=choice.explanation, candidates=choice.candidates)


def _geometry(bridge: Bridge) -> report.Geometry | None:
    """Return the shape of a path; of a surface, which has no length, none."""
    shape = shape_of(bridge)
    return report.Geometry.model_validate(shape) if "length" in shape else None


def _cautions(case: Case) -> Sequence[str]:
    """Return what a reader should know about this case in particular."""
    found: list[str] = []
    n = len(case.clean.validation)
    if n < 100:
        error = 100 * (0.25 / n) ** 0.5
        found.append(
            f"Only {n} validation images chose the point: accuracies there have a standard error of up to {error:.0f} points."
        )
    if case.recipe.clean_data is None and case.recipe.hold_out is None:
        found.append(
            "The images used for the repair come from the training split: the suspects may have been trained on them."
        )
    return found


def _familiar(main: Repaired, suspects: Sequence[report.Entry]) -> list[str]:
    """Return a warning for each suspect that knows the validation images better than the test images: it was trained on them."""
    if main.table is None or main.bridge is None:  # a table of settings, not of points between the suspects
        return []
    n, axes = main.table.column("validation_error").n or 1, coordinate_names(main.bridge.basis.dim)
    errors = {tuple(row[axis] for axis in axes): row["validation_error"] for row in main.table.rows()}
    found: list[str] = []
    corners = {name: u for name, (u, _) in zip(main.bridge.names, main.bridge.basis.corners, strict=True)}
    for k, entry in enumerate(suspects):
        error = errors.get(corners.get(f"suspect {k}", ()))
        if error is None:
            continue
        accuracy = entry.clean_accuracy.value
        ahead = 1 - float(error or 0) / 100 - accuracy
        if ahead > 3 * (accuracy * (1 - accuracy) / n) ** 0.5:  # three standard errors of n images
            found.append(
                f"{entry.name} is {100 * ahead:.1f} points better on the validation images than on the test images: it was probably "
                "trained on them. Validation then favours points near it, which keep what it brought. Use images it cannot have seen."
            )
    return found
