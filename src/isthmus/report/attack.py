"""`attack.json` as a document, and the sentences about it."""

from collections.abc import Sequence
from fractions import Fraction
from math import isclose
from typing import Annotated

from pydantic import BaseModel, Field

from isthmus.report.document import Count, RateEntry
from isthmus.report.text import bounded, number, sentence

NORMS = {"linf": "L∞", "l2": "L2", "l1": "L1"}

LIMITS = (
    "Robust accuracy is what the attacks that were run left. It is an upper bound on the accuracy in the worst case, no certificate: "
    "another attack can only lower it.",
    "It holds for this kind and size of change, within this range of inputs. Others were not tested.",
    "Intervals (Wilson, 95 %) cover the sampling of images only, not the choice of seeds, models or data.",
)


class AttackLine(BaseModel, frozen=True, extra="ignore"):
    """What one attack did to the images that were still classified correctly, and the robust accuracy after it."""

    attack: str
    attacked: Count
    fooled: Count
    robust_accuracy: RateEntry
    queries: Count
    gradient_passes: Count
    seconds: float


class ThreatEntry(BaseModel, frozen=True, extra="ignore"):
    """The allowed change: a ball of `radius` (one for all images, or one each) in `norm`, inside the box low..high."""

    norm: str
    radius: float | Annotated[tuple[float, ...], Field(min_length=1)]
    low: float
    high: float


class AttackDocument(BaseModel, frozen=True, extra="ignore"):
    """What `isthmus attack` found, as far as the page shows it. Rates are fractions in [0, 1]."""

    clean_accuracy: RateEntry
    robust_accuracy: RateEntry
    threat: ThreatEntry
    attacks: tuple[AttackLine, ...]
    reliable: bool = True
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    suite: str = ""
    models: tuple[str, ...] = ()
    data: str = ""
    seed: int | None = None
    passes: int = 1
    seconds: float | None = None

    @property
    def title(self) -> str:
        """Return what was attacked."""
        return f"Attack on {' + '.join(self.models)}" if self.models else "Attack"


def radius_text(radius: float | Sequence[float]) -> str:
    """Return a radius as people write it, `8/255` where it is that, and the range of several.

    >>> radius_text(8 / 255), radius_text(0.5), radius_text((0.5, 1.0))
    ('8/255', '0.5', '0.5 to 1, one for each image')
    """
    if not isinstance(radius, int | float):
        low, high = radius_text(min(radius)), radius_text(max(radius))
        return low if low == high else f"{low} to {high}, one for each image"
    levels = Fraction(round(255 * radius * 2), 2)
    plain = isclose(radius, float(f"{radius:.2g}"), rel_tol=1e-6)  # 0.2 is 51/255 as well
    return number(radius) if plain or not isclose(radius, levels / 255, rel_tol=1e-6) else f"{float(levels):g}/255"


def threat_text(threat: ThreatEntry) -> str:
    """Return the threat in words: `L∞ radius 8/255 within 0..1`."""
    norm = NORMS.get(threat.norm, threat.norm)
    return f"{norm} radius {radius_text(threat.radius)} within {number(threat.low)}..{number(threat.high)}"


def attack_verdict(document: AttackDocument) -> str:
    """Return the headline: the robust accuracy with its bounds, beside that without attack, or that it cannot be relied on."""
    under = f" under {document.suite}" if document.suite else ""
    said = f"robust accuracy {bounded(document.robust_accuracy)}{under}, {threat_text(document.threat)}"
    without = f"Without attack {bounded(document.clean_accuracy)}."
    doubt = "" if document.reliable else " The evaluation is not reliable: see the warnings."
    return f"{sentence(said)}. {without}{doubt}"
