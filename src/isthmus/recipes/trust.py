"""`trust_of`: what speaks for a repair without knowing the trigger, gathered after the repair and never used by it."""

from collections.abc import Callable

from isthmus import report
from isthmus._check import InputError
from isthmus.data import Samples
from isthmus.probes import Backdoor
from isthmus.randomness import seed_of, stream
from isthmus.rates import Rate, hits_of
from isthmus.recipes.case import Case
from isthmus.recipes.trust_entries import (
    disagreement_entry,
    inverted_entries,
    planted_entries,
    reactivation_entries,
    triage_entry,
)
from isthmus.repair.protocol import Repair, Repaired
from isthmus.repair.triggers.candidates import Candidate, Inversion
from isthmus.repair.triggers.inverted import MaskSearch, smallest_masks
from isthmus.repair.trust.disagreement import disagreements
from isthmus.repair.trust.margins import MarginSearch, class_margins
from isthmus.repair.trust.planted import Plant, plant, standard
from isthmus.repair.trust.reactivation import Stress, reactivation
from isthmus.repair.trust.removal import removal
from isthmus.repair.trust.triage import of_margins, of_masks, triage
from isthmus.training.session import Session

HELD_OUT = 500
"""Test images on which made-up triggers and disagreement are measured."""


def trust_of(case: Case, main: Repaired, remedy: Repair, session: Session) -> report.Trust:
    """Return the evidence that `case.recipe.trust` asks for.

    planted: known tamperings planted in copies of the suspects and repaired by the same remedy, measured on clean validation images.
    quick: made-up triggers (smallest masks, Wang et al. 2019) of each suspect, how often they still work after the repair, triage of each
    suspect, and where suspect and repaired model differ, on test images. full: both, and two attempts to bring the likeliest made-up
    trigger back. Nothing here has steered the repair.
    """
    if not case.clean.train.is_images or case.splits.num_classes < 3:
        note = "Triggers are sought and planted in images of three classes or more; nothing of it was tested here."
        return report.Trust(notes=(note,))
    level = case.recipe.trust
    if level == "planted":
        return _planted(case, remedy, report.Trust(), session)
    found, inversions = _searched(case, main, session)
    if level == "quick":
        return found
    return _reactivated(case, main, _planted(case, remedy, found, session), inversions, session)


def _searched(case: Case, main: Repaired, session: Session) -> tuple[report.Trust, list[Inversion]]:
    """Return made-up triggers, triage and disagreement of every suspect, and the triggers themselves."""
    seed, shown = case.recipe.seed, _held_out(case)
    inversions: list[Inversion] = []
    found = report.Trust(notes=(f"Measured on {len(shown):,} test images that the repair has not seen.",))
    for i, suspect in enumerate(case.suspects):
        session.tell(f"seeking triggers of suspect {i}")
        masks = smallest_masks(suspect, case.clean.train, shown, MaskSearch(), seed=seed_of(seed, "masks", i))
        margins = class_margins(
            suspect,
            case.splits.input_shape,
            case.splits.num_classes,
            MarginSearch(images=6),
            seed=seed_of(seed, "margins", i),
        )
        verdict = triage([of_masks(masks), of_margins(margins)])
        after = {one.target: _success(one, main, shown) for one in masks.candidates}
        found = found.model_copy(
            update={
                "inverted": (*found.inverted, *inverted_entries(f"suspect {i}", masks, after)),
                "triage": (*found.triage, triage_entry(f"suspect {i}", verdict)),
                "disagreement": (
                    *found.disagreement,
                    disagreement_entry(f"suspect {i}", disagreements(suspect, main.module, shown)[0], shown),
                ),
            }
        )
        inversions.append(masks)
    return found, inversions


def _planted(case: Case, remedy: Repair, found: report.Trust, session: Session) -> report.Trust:
    """Return `found` with what the remedy removes of planted tamperings."""
    seed = case.recipe.seed
    plants: list[Plant] = []
    for tampering in standard(case.clean.train, seed=seed_of(seed, "plants")):
        session.tell(f"planting {tampering.name}")
        plants.append(plant(case.suspects, case.clean, tampering, seed=seed_of(seed, "plant", tampering.name)))
    notes = [*found.notes]
    planted: tuple[report.Planted, ...] = ()
    if any(one.took for one in plants):
        session.tell("repairing the planted copies")
        removed = removal(plants, lambda s, c: remedy(s, c, seed=seed_of(seed, "removal"), session=Session()).module)
        planted = planted_entries(removed)
        if removed.skipped:
            notes.append(f"Did not take hold in the copies and says nothing: {', '.join(removed.skipped)}.")
    else:
        notes.append("None of the planted tamperings took hold in the copies: they say nothing.")
    skipped = tuple(one.name for one in plants if not one.took)
    return found.model_copy(update={"planted": planted, "skipped": skipped, "notes": tuple(notes)})


def _reactivated(
    case: Case, main: Repaired, found: report.Trust, inversions: list[Inversion], session: Session
) -> report.Trust:
    """Return `found` with the attempts to bring the likeliest made-up trigger back."""
    seed, notes = case.recipe.seed, [*found.notes]
    suspect = max((one.suspect for one in inversions), key=lambda one: one.success.value)
    session.tell("trying to bring the likeliest trigger back")
    back = _tried(
        lambda: reactivation_entries(
            f"made-up trigger of class {suspect.target}",
            reactivation(
                main.module, case.clean, suspect.trigger, suspect.target, Stress(), seed=seed_of(seed, "stress")
            ),
            Stress(),
        ),
        notes,
    )
    return found.model_copy(update={"reactivation": back, "notes": tuple(notes)})


def _tried(attempt: Callable[[], tuple[report.Reactivation, ...]], notes: list[str]) -> tuple[report.Reactivation, ...]:
    """Return what the attempt returns; with too few images it cannot be made, and the notes say why."""
    try:
        return attempt()
    except InputError as error:
        notes.append(f"Re-activation was not tested: {error}")
        return ()


def _held_out(case: Case) -> Samples:
    test = case.test
    return test if len(test) <= HELD_OUT else test.subset(HELD_OUT, generator=stream(case.recipe.seed, "trust"))


def _success(one: Candidate, main: Repaired, shown: Samples) -> Rate:
    """Return how often a candidate still works in the repaired model, on images of other classes than its own."""
    probe = Backdoor(shown, one.trigger, one.target)
    n = len(probe.subject)
    return Rate(hits_of(probe(main.module)["attack_success"] / 100, n), n)
