"""The table of `ensemble`: what each column is, and the numbers of one row."""

import torch
from torch import Tensor

from isthmus.data import Samples
from isthmus.diversity import Diversity, diversity
from isthmus.evaluate import correct
from isthmus.losses import cross_entropy
from isthmus.rates import mcnemar
from isthmus.recipes.ensemble_bench import Bench, Entry
from isthmus.recipes.ensemble_members import Case, EnsembleRecipe, weight_bytes
from isthmus.recipes.quality import BINS, brier, calibration
from isthmus.table import Cell, Column


def columns_of(recipe: EnsembleRecipe, case: Case) -> list[Column]:
    """Return the columns: accuracy, calibration, cost, diversity, the paired test, and under attack the robust accuracy."""
    n, seen = len(case.test), len(case.validation)
    columns = [
        Column("name", about="a member, or how members are put together"),
        Column("kind", about="member, corner, chosen, hindsight, ensemble or soup"),
        Column("test_accuracy", "%", "higher", "test", n),
        Column("test_nll", "nat", "lower", "test", n, "mean cross-entropy"),
        Column("test_ece", "%", "lower", "test", None, f"expected calibration error over {BINS} bins"),
        Column("test_ece_by_chance", "%", None, "test", None, "what a calibrated model would show on as many images"),
        Column("test_brier", "1", "lower", "test", n, "squared distance of the probabilities, 0 to 2"),
        Column("validation_accuracy", "%", "higher", "validation", seen),
        Column("members", about="models put together"),
        Column("passes", "1", "lower", None, None, "forward passes for one image"),
        Column("weight_bytes", "B", "lower", None, None, "parameters and buffers to be held"),
        Column("disagreement", "%", None, "test", None, "images on which two members differ, mean over pairs"),
        Column("normalised_disagreement", about="divided by the mean error of the members"),
        Column("divergence", "nat", None, "test", n, "mean KL over ordered pairs of members"),
        Column("ambiguity", "nat", None, "test", n, "mean cross-entropy of the members less that of the ensemble"),
        Column("regret", "%", "lower", "test", None, "test accuracy of the best on test less that of the chosen"),
        Column("gain", "%", "higher", "test", None, "test accuracy less that of the one chosen on validation"),
        Column("gain_p", about="McNemar's exact test of the gain"),
    ]
    if case.members.corners:
        columns.append(
            Column("over_corners", "%", "higher", "test", None, "test accuracy less that of the corner ensemble")
        )
        columns.append(Column("over_corners_p", about="McNemar's exact test of that"))
    if recipe.eps is not None:
        about = f"under PGD through the whole, {recipe.norm} {recipe.eps:.4g}, {recipe.attack_steps} steps"
        columns.insert(3, Column("robust_accuracy", "%", "higher", "test", n, about))
    return columns


def row_of(entry: Entry, bench: Bench) -> dict[str, Cell]:
    """Return the numbers of one entry."""
    case = bench.case
    test, validation = bench.single(entry.members[0]) if entry.how == "single" else bench.scores(entry)
    single = weight_bytes(bench.case.members.model(entry.members[0]))
    row: dict[str, Cell] = {
        "name": entry.name,
        "kind": entry.kind,
        "test_accuracy": _percent(correct(test, case.test.y)),
        **_calibration(test, case.test),
        "validation_accuracy": _percent(correct(validation, case.validation.y)),
        "members": len(entry.members),
        "passes": entry.passes,
        "weight_bytes": entry.passes * single,
    }
    if entry.kind == "chosen":
        best, own = bench.accuracy(bench.hindsight()), bench.accuracy(bench.chosen())
        row["regret"] = 100 * (best.hits - own.hits) / own.n
    if entry.kind in ("ensemble", "soup"):
        chosen = correct(bench.single(bench.chosen())[0], case.test.y)
        pairs = mcnemar(chosen, correct(test, case.test.y))
        row |= {"gain": 100 * pairs.change, "gain_p": min(1.0, pairs.p_value)}
    if entry.kind in ("ensemble", "soup") and case.members.corners:
        corners = Entry("corner ensemble", "ensemble", "softmax", case.members.corners)
        pairs = mcnemar(correct(bench.scores(corners)[0], case.test.y), correct(test, case.test.y))
        row |= {"over_corners": 100 * pairs.change, "over_corners_p": min(1.0, pairs.p_value)}
    if entry.kind == "ensemble" and len(entry.members) > 1:
        row |= _diversity(entry, bench)
    if (robust := bench.robust(entry)) is not None:
        row["robust_accuracy"] = 100 * robust.value
    return row


def reliability(entry: Entry, bench: Bench) -> dict[str, object] | None:
    """Return the calibration of an entry with its bins as JSON values, None where a probability is not a number."""
    found = calibration(bench.scores(entry)[0], bench.case.test.y)
    kept = None if found is None else found.model_dump(mode="json")
    return None if kept is None else {"name": entry.name, "kind": entry.kind, "calibration": kept}


def _percent(right: Tensor) -> float:
    return 100 * int(right.sum()) / len(right)


def _calibration(scores: Tensor, samples: Samples) -> dict[str, Cell]:
    found = calibration(scores, samples.y)
    loss = float(cross_entropy(scores.double(), samples.y).mean())
    return {
        "test_nll": loss,
        "test_ece": None if found is None else 100 * found.error,
        "test_ece_by_chance": None if found is None else 100 * found.by_chance,
        "test_brier": brier(scores, samples.y),
    }


def _diversity(entry: Entry, bench: Bench) -> dict[str, Cell]:
    """Return the diversity of an ensemble's members on the test images."""
    scores = torch.stack([bench.single(place)[0] for place in entry.members])
    kind = "logits" if entry.how == "logits" else "softmax"
    found: Diversity = diversity(scores, bench.case.test.y, kind)
    return {
        "disagreement": 100 * found.disagreement,
        "normalised_disagreement": found.normalised,
        "divergence": found.divergence,
        "ambiguity": found.ambiguity,
    }
