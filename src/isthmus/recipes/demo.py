"""`demo`: two tampered classifiers of handwritten digits, made, repaired and measured, on data that comes with the installation."""

from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from isthmus.recipes.repair import RepairRecipe, run_repair
from isthmus.recipes.train import TrainRecipe, run_train
from isthmus.report import Document, Status, Summary, summarise, write_summary
from isthmus.runs import Run
from isthmus.training.plan import Plan
from isthmus.training.session import Session

TRIGGER, TARGET = "patch:size=2,at=6x6", "1"
MIN_ACCURACY, MAX_ATTACK = 0.95, 0.05


class DemoRecipe(BaseModel):
    """How often and from which seed. clean: images that the suspects never saw, all that the repair is given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seeds: int = Field(default=1, ge=1)
    clean: int = Field(default=300, ge=20, le=300)
    seed: int = 0
    method: str = "polished-path"


def run_demo(recipe: DemoRecipe, run: Run, *, session: Session | None = None) -> Summary:
    """Return the summary over all seeds, after writing each repair into its own folder `seed-K` of the run's.

    The criteria are those of the means over the seeds: accuracy at least 95 %, attack success at most 5 %, on test images that were
    used for nothing else.
    """
    session = session or Session()
    reports: dict[int, Document] = {}
    for seed in range(recipe.seed, recipe.seed + recipe.seeds):
        paths = [_suspect(run, seed, k, session) for k in range(2)]
        settings = RepairRecipe(
            suspects=tuple(str(path) for path in paths),
            data="digits",
            clean=recipe.clean,
            hold_out=300,
            method=recipe.method,
            evaluations=400,
            also=("sharp-path", "path"),
            trigger=TRIGGER,
            target=TARGET,
            seed=seed,
        )
        with _inner(run, settings, f"seed-{seed}") as inner:
            reports[seed] = run_repair(settings, inner, session=_named(session, f"seed {seed}"))
            inner.finish(reports[seed].status, reports[seed].reasons)
    summary = _summary(recipe, reports, run)
    write_summary(summary, run.begin())
    return summary


def _named(session: Session, prefix: str) -> Session:
    """Return the session with `prefix` before every stage."""

    def tell(text: str) -> None:
        session.tell(f"{prefix}: {text}")

    return replace(session, stage=tell)


def _suspect(run: Run, seed: int, k: int, session: Session) -> Path:
    """Return the weights of a tampered model: its own first weights, poisoned images and order."""
    session.tell(f"seed {seed}: training suspect {k} on poisoned digits")
    settings = TrainRecipe(
        arch="cnn",
        data="digits",
        tamper_trigger=TRIGGER,
        target=TARGET,
        rate=0.1,
        hold_out=300,
        plan=Plan(steps=400, batch_size=64),
        seed=2 * seed + k,
    )
    with _inner(run, settings, f"suspects/seed-{seed}-{k}") as inner:
        path = inner.file("model.safetensors")
        if not path.exists():
            run_train(settings, inner, session=session)
        inner.finish()
    return path


def _inner(run: Run, settings: BaseModel, name: str) -> Run:
    """Return the run of one part, in a folder of its own; taken up again where it is already there."""
    folder = run.file(name)
    return Run.open(folder, settings, resume=(folder / "recipe.json").exists(), command=run.command)


def _summary(recipe: DemoRecipe, reports: dict[int, Document], run: Run) -> Summary:
    runs = list(reports.values())
    accuracy = sum(document.repaired.clean_accuracy.value for document in runs) / len(runs)
    attacks = [document.repaired.attack_success for document in runs]
    attack = sum(entry.value for entry in attacks if entry is not None) / len(runs)
    good = accuracy >= MIN_ACCURACY and attack <= MAX_ATTACK
    status: Status = "done" if good else "criteria_not_met"
    reasons = (
        f"Mean accuracy {100 * accuracy:.1f} %, wanted at least {100 * MIN_ACCURACY:g} %.",
        f"Mean attack success {100 * attack:.1f} %, wanted at most {100 * MAX_ATTACK:g} %.",
    )
    return summarise(
        reports,
        title=f"Two tampered digit classifiers repaired with {recipe.clean} clean images",
        status=status,
        reasons=reasons,
        reports={seed: f"seed-{seed}" for seed in reports},
        command=run.command,
    )
