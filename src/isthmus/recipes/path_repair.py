"""`path-repair`: paths between tampered models against the baselines of Zhao et al. 2020, by their protocol and without its flaws."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from isthmus import report
from isthmus.recipes.path_repair_cells import ABOUT, ATTACKS, PATH, SIZES, cells, repair_name
from isthmus.recipes.study import Claim, Findings, Study, every, mean_and_sd, output_of
from isthmus.runs import Run
from isthmus.table import Cell as Value
from isthmus.table import Column, Table

PAPER_T = 0.1
PUBLISHED: Mapping[str, Mapping[str, tuple[tuple[float, float], ...]]] = {
    "backdoor": {
        "path": ((88, 1.1), (83, 0.8), (80, 1.5), (77, 3.3), (63, 2.5)),
        "fine-tune": ((84, 1.5), (82, 0.9), (78, 0.5), (74, 1.9), (46, 2.8)),
        "scratch": ((50, 0.4), (39, 0.7), (31, 0.3), (30, 3.2), (20, 2.1)),
        "noise": ((21, 97), (21, 97), (21, 97), (21, 97), (21, 97)),
        "prune": ((88, 43), (85, 49), (83, 81), (82, 79), (81, 82)),
    },
    "injection": {
        "path": ((92, 0), (90, 0), (90, 0), (90, 0), (88, 0)),
    },
}
"""Attack -> remedy -> (accuracy, attack success) in % at 2,500, 1,000, 500, 250 and 50 clean images: CIFAR-10, VGG16, Zhao et al. 2020,
Tables 2 and 3 as quoted from memory of them; the tables themselves were not at hand."""
BUDGETS = (2500, 1000, 500, 250, 50)
NOTES = (
    f"**As published**: the path's point is t = {PAPER_T:g}, which its authors chose by the test images; attack success counts all "
    "triggered images, those of the target class among them, which any good model sends there.",
    "**Without its flaws**: the path's point is chosen on clean validation images, and so is every knob; attack success is of images whose "
    "label is not the target. Clean images are from those that no suspect was trained on, never test images, in both.",
    "BatchNorm statistics along the path are recomputed on the clean images of the repair, not as published on the whole training set.",
    "Published figures are those of another network (VGG16) trained to the end, quoted from memory: they are beside, not a target.",
    "Every remedy takes as many gradients as the others at most. `sharp-path` and `auto` are ours and no part of the paper.",
    "Error injection: four test images sent to wrong labels by gradient descent on one tensor, others kept; one that survives is 25 %.",
)


@dataclass(frozen=True)
class Outcome:
    """What one remedy came to in one cell, in %. attack_all: target's own images counted; at_t: accuracy and attack_all at `PAPER_T`."""

    attack: str
    budget: int
    seed: int
    remedy: str
    accuracy: float
    success: float
    attack_all: float | None
    at_t: tuple[float, float] | None = None


def findings(run: Run, scale: str, seeds: int, done: frozenset[str]) -> Findings:
    """Return what the finished repairs say."""
    size, outcomes = SIZES[scale], list[Outcome]()
    for attack in ATTACKS:
        for budget in size.budgets:
            for seed in range(seeds):
                if (name := repair_name(attack, budget, seed)) in done:
                    document = report.read_report(output_of(run, name, "report.json").parent)
                    outcomes += outcomes_of(document, attack, budget, seed)
    tables = {
        "Backdoor, without the flaws of the protocol": corrected(outcomes, "backdoor"),
        "Backdoor, as published": published(outcomes),
        "Error injection": corrected(outcomes, "injection"),
    }
    return Findings(tables, claims(outcomes, size.budgets, seeds), [f"The scale: {ABOUT[scale]}.", *NOTES])


def outcomes_of(document: report.Document, attack: str, budget: int, seed: int) -> list[Outcome]:
    """Return what a report says: the suspect first, then each remedy."""
    named = [("suspect", document.suspects[0]), (PATH, document.repaired), *document.baselines.items()]
    found: list[Outcome] = []
    for name, entry in named:
        success, every_image = entry.attack_success, entry.attack_success_all
        assert success is not None
        found.append(
            Outcome(
                attack=attack,
                budget=budget,
                seed=seed,
                remedy=name,
                accuracy=100 * entry.clean_accuracy.value,
                success=100 * success.value,
                attack_all=None if every_image is None else 100 * every_image.value,
                at_t=_at(document) if name == PATH else None,
            )
        )
    return found


def _at(document: report.Document) -> tuple[float, float] | None:
    """Return accuracy and published attack success at the paper's point, where the curve was measured there with a trigger."""
    rows = [] if document.curve is None else document.curve.rows
    row = next((row for row in rows if abs(float(str(row["t"])) - PAPER_T) < 1e-6), None)
    if row is None or "attack_success_all" not in row:
        return None
    return 100 - float(str(row["test_error"])), float(str(row["attack_success_all"]))


def _columns(about: str) -> tuple[Column, ...]:
    return (
        Column("budget", about="clean images"),
        Column("remedy"),
        Column("seeds"),
        Column("accuracy", "%", "higher", "test", None, "mean over seeds"),
        Column("accuracy_sd", "%", None, "test", None, "standard deviation over seeds"),
        Column("attack_success", "%", "lower", "test", None, f"{about}, mean over seeds"),
        Column("attack_success_sd", "%", None, "test", None, "standard deviation over seeds"),
        Column("published_accuracy", "%", None, None, None, "VGG16, quoted"),
        Column("published_attack_success", "%", None, None, None, "VGG16, quoted"),
    )


def corrected(outcomes: Sequence[Outcome], attack: str) -> Table:
    """Return a row for each number of clean images and remedy, at points and settings that validation chose."""
    held = [one for one in outcomes if one.attack == attack]
    about = "of images not of the target" if attack == "backdoor" else "of the four injected errors"
    rows = [
        _row(budget, remedy, [(one.accuracy, one.success) for one in group], attack)
        for (budget, remedy), group in _grouped(held).items()
    ]
    return Table.of(rows, _columns(about))


def published(outcomes: Sequence[Outcome]) -> Table:
    """Return the same by the paper's protocol: the path at its fixed point, all triggered images counted."""
    rows: list[dict[str, Value]] = []
    for (budget, remedy), group in _grouped(one for one in outcomes if one.attack == "backdoor").items():
        pairs = [one.at_t if remedy == PATH else (one.accuracy, one.attack_all) for one in group]
        known = [(pair[0], pair[1]) for pair in pairs if pair is not None and pair[1] is not None]
        if known:
            rows.append(_row(budget, remedy, known, "backdoor"))
    return Table.of(rows, _columns("of all triggered images"))


def _grouped(outcomes: Iterable[Outcome]) -> dict[tuple[int, str], list[Outcome]]:
    found: dict[tuple[int, str], list[Outcome]] = {}
    for one in outcomes:
        found.setdefault((one.budget, one.remedy), []).append(one)
    return found


def _row(budget: int, remedy: str, rates: Sequence[tuple[float, float]], attack: str) -> dict[str, Value]:
    accuracy, success = (mean_and_sd([pair[i] for pair in rates]) for i in (0, 1))
    quoted = PUBLISHED[attack].get(remedy)
    beside = quoted[BUDGETS.index(budget)] if quoted is not None and budget in BUDGETS else (None, None)
    return {
        "budget": budget,
        "remedy": remedy,
        "seeds": len(rates),
        "accuracy": accuracy[0],
        "accuracy_sd": accuracy[1],
        "attack_success": success[0],
        "attack_success_sd": success[1],
        "published_accuracy": beside[0],
        "published_attack_success": beside[1],
    }


def claims(outcomes: Sequence[Outcome], budgets: Sequence[int], seeds: int) -> list[Claim]:
    """Return the paper's claims with what was found, by the protocol without flaws; undecided while repairs are missing."""
    held = {attack: _grouped(one for one in outcomes if one.attack == attack) for attack in ATTACKS}

    def means(attack: str, remedy: str) -> dict[int, tuple[float, float]]:
        found: dict[int, tuple[float, float]] = {}
        for budget in budgets:
            group = held[attack].get((budget, remedy), [])
            if len(group) == seeds:
                found[budget] = (sum(o.accuracy for o in group) / seeds, sum(o.success for o in group) / seeds)
        return found

    path, tuned, pruned = (means("backdoor", name) for name in (PATH, "fine-tune", "prune"))
    injected = means("injection", PATH)
    both = [budget for budget in path if budget in tuned]
    ahead = [path[b][0] >= tuned[b][0] and path[b][1] <= tuned[b][1] + 1 for b in both]
    return [
        _claim(
            "A path removes a backdoor (attack success at most 5 %).", path, [v[1] <= 5 for v in path.values()], budgets
        ),
        _claim(
            "It is at least as accurate as fine-tuning, and leaves no more of the attack (1 point allowed).",
            {b: (path[b][0] - tuned[b][0], path[b][1] - tuned[b][1]) for b in both},
            ahead,
            budgets,
        ),
        _claim(
            "Pruning keeps the backdoor (attack success of 40 % and more).",
            pruned,
            [v[1] >= 40 for v in pruned.values()],
            budgets,
        ),
        _claim(
            "A path removes injected errors (none of four survives).",
            injected,
            [v[1] == 0 for v in injected.values()],
            budgets,
        ),
    ]


def _claim(text: str, means: Mapping[int, tuple[float, float]], holds: Sequence[bool], budgets: Sequence[int]) -> Claim:
    told = "; ".join(f"{budget:,} images: {a:+.1f} / {s:.1f}" for budget, (a, s) in means.items())
    found = (
        f"accuracy / attack success by clean images: {told}" if means else "no number of clean images has all its seeds"
    )
    return Claim(text, found, every(holds, len(budgets)))


PATH_REPAIR = Study(
    name="path-repair",
    title="Path repair against its baselines (Zhao et al. 2020)",
    scales=ABOUT,
    seeds={"smoke": 1, "small": 3, "paper": 5},
    cells=cells,
    findings=findings,
)
