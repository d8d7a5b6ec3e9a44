"""`repair`: suspects and clean samples in, a repaired model with its evidence out."""

from dataclasses import replace

from isthmus import report
from isthmus._check import InputError
from isthmus.randomness import seed_of
from isthmus.recipes.case import Case, RepairRecipe, load_case
from isthmus.recipes.evidence import document_of
from isthmus.recipes.task import augment_for
from isthmus.recipes.trust import trust_of
from isthmus.repair.methods import METHODS, Budget, make
from isthmus.repair.protocol import Repaired
from isthmus.runs import Run
from isthmus.training.session import Session

__all__ = ["BASELINES", "RepairRecipe", "run_repair"]

BASELINES = ("average", "fine-tune", "ft-sam", "scratch")


def run_repair(recipe: RepairRecipe, run: Run, *, session: Session | None = None) -> report.Document:
    """Return the report of a repair, after writing it, the repaired weights and the bridge into the run's folder.

    The method and the baselines see the suspects and the clean samples; the trigger, where one is given, measures afterwards. A method
    to compare with that cannot be made here, because its training diverges for instance, is left out with a warning.
    Raises InputError for suspects, data or settings that cannot be used, before anything is written.
    """
    if run.resumed and (run.folder / "report.json").exists():  # written last: everything is there
        return report.read_report(run.folder)
    case = load_case(recipe, run)
    session = session or Session()
    compared = [*recipe.also, *(BASELINES if recipe.baselines else ())]
    names = [name for name in dict.fromkeys([recipe.method, *compared]) if METHODS[name].suspects <= len(case.suspects)]
    budget = _budget(recipe, case)
    results: dict[str, Repaired] = {}
    lost: list[str] = []
    for name in names:
        session.tell(f"repairing by {name}" if name == recipe.method else f"comparing with {name}")
        own = replace(session, checkpoint=run.file(f"checkpoint-{name}.pt"))
        seed = seed_of(recipe.seed, "repair", name)
        try:
            results[name] = make(name, budget)(case.suspects, case.clean, seed=seed, session=own)
        except InputError as error:  # a comparison that diverges must not cost the repair
            if name == recipe.method:
                raise
            lost.append(f"Not compared with {name}: {error}")
    trust = None
    if recipe.trust != "none":
        trust = trust_of(case, results[recipe.method], make(recipe.method, budget), session)
    session.tell("measuring on the test images")
    document = document_of(case, results, run, trust=trust)
    document = document.model_copy(update={"warnings": (*document.warnings, *lost)})
    if run.primary:
        report.write_report(document, run.begin())
        run.discard("checkpoint-*.pt")
    return document


def _budget(recipe: RepairRecipe, case: Case) -> Budget:
    return Budget(
        build=lambda seed: case.task.build(seed % 2**31),
        classes=case.task.num_classes,
        suspects=len(case.suspects),
        evaluations=recipe.evaluations,
        batch_size=recipe.batch_size,
        augment=augment_for(recipe.augment, case.splits),
        precision=recipe.precision,
        points=recipe.points,
        margin=recipe.margin,
        learning_rate=recipe.learning_rate,
        sharpness=recipe.sharpness,
    )
