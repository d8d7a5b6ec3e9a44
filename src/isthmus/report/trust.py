"""What stands for the trigger that a user does not have: models for each kind of evidence, all of them optional in a report."""

import base64
import binascii
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field, FiniteFloat

from isthmus.report.quantities import Count, Estimate, Fraction, RateEntry

_PNG = b"\x89PNG\r\n\x1a\n"
Finding = Literal["suspicious", "no evidence found", "inconclusive", "not applicable"]


def _picture(text: str) -> str:
    """Return text found to be a PNG in base64: it goes into a page as it is, so nothing else may pass."""
    try:
        held = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"`png` should be a picture in base64. Found: {error}.") from error
    if not held.startswith(_PNG):
        raise ValueError(f"`png` should be a PNG picture in base64. Found data that begins with {held[:8]!r}.")
    return text


Png = Annotated[str, AfterValidator(_picture)]


class Planted(BaseModel, frozen=True, extra="forbid"):
    """A known backdoor, planted in a copy of the user's own model and repaired like it.

    before, after: its attack success. removed: (before - after) / before. cost: accuracy lost by the copy, as a fraction.
    """

    name: str
    before: RateEntry
    after: RateEntry
    removed: Estimate
    cost: Estimate


class Inverted(BaseModel, frozen=True, extra="forbid"):
    """A trigger made up from a suspect for one class, and how often it works on held-out images before and after the repair.

    anomaly: how far it stands out among the classes, None where there are too few to tell. p_value: from models known to be untampered;
    None where it is uncalibrated.
    """

    suspect: str
    label: Count
    anomaly: FiniteFloat | None
    p_value: Fraction | None = None
    before: RateEntry
    after: RateEntry
    flagged: bool = False


class Reactivation(BaseModel, frozen=True, extra="forbid"):
    """Attack success of the repaired model before and after an attempt to bring the backdoor back.

    means: what was done, such as "re-tuned on 5 triggered images". control: what the same attempt reaches where no backdoor was ever held:
    learned anew, not brought back.
    """

    name: str
    means: str
    before: RateEntry
    after: RateEntry
    control: RateEntry | None = None


class Example(BaseModel, frozen=True, extra="forbid"):
    """An image on which suspect and repaired model disagree: its place in the data, its label and the two answers."""

    index: Count
    png: Png
    label: Count
    suspect: Count
    repaired: Count


class Move(BaseModel, frozen=True, extra="forbid"):
    """So many images went from one class of the suspect to another of the repaired model."""

    suspect: Count
    repaired: Count
    count: Count


class Disagreement(BaseModel, frozen=True, extra="forbid"):
    """Images on which one suspect and the repaired model differ, by who was right, and the most frequent moves between classes.

    shown: the name of the trigger that the images carried, empty for images as they are.
    """

    suspect: str
    shown: str = ""
    differ: RateEntry
    only_suspect_right: Count
    only_repaired_right: Count
    neither_right: Count
    moves: tuple[Move, ...] = ()
    examples: tuple[Example, ...] = ()


class Detector(BaseModel, frozen=True, extra="forbid"):
    """What one detector says of a suspect. label: the class that stands out; statistic: None where it could not be computed."""

    name: str
    statistic: FiniteFloat | None
    label: Count | None = None
    verdict: Finding


class Triage(BaseModel, frozen=True, extra="forbid"):
    """Which of four things the detectors together say of a suspect. p_value: None where it is uncalibrated.

    false_alarms: share of models known to be untampered of which they say "suspicious".
    """

    suspect: str
    verdict: Finding
    reason: str = ""
    p_value: Fraction | None = None
    detectors: tuple[Detector, ...] = ()
    false_alarms: RateEntry | None = None


class Candidate(BaseModel, frozen=True, extra="forbid"):
    """A remedy that was considered: its validation accuracy, its signals, and why it was chosen or not."""

    name: str
    validation_accuracy: RateEntry
    signals: dict[str, FiniteFloat] = {}
    chosen: bool
    reason: str


class Trust(BaseModel, frozen=True, extra="forbid"):
    """All evidence that needs no knowledge of the trigger. What is empty was not tested.

    skipped: names of plants that did not take hold and say nothing.
    """

    planted: tuple[Planted, ...] = ()
    skipped: tuple[str, ...] = ()
    inverted: tuple[Inverted, ...] = ()
    reactivation: tuple[Reactivation, ...] = ()
    disagreement: tuple[Disagreement, ...] = ()
    triage: tuple[Triage, ...] = ()
    notes: Annotated[tuple[str, ...], Field(description="what a reader should know of this evidence")] = ()
