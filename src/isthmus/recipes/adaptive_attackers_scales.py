"""The sizes of the study `adaptive-attackers`: who tampers by which trigger, on which data, and what the models are repaired by."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from isthmus.recipes.repair_grid_scales import AUTO, SCALES, Block, Scale, Threat

PLAIN, LONGER, PLAIN_DISPERSED, PLAIN_KEYED = "plain", "plain-longer", "plain-dispersed", "plain-keyed"
TIMES = 4.0  # plain poisoning beside attackers who take as many plans: `path-points` and `perturbation`
RATE = 0.1


@dataclass(frozen=True)
class Tamperer:
    """Somebody who tampers. threat: his name, trigger and rate. attacker: text form of one of `isthmus evade`; None: poisoning alone.

    times: as many epochs as the block has. against: the name of who he is compared with, what he would have done without his trick.
    """

    threat: Threat
    attacker: str | None = None
    times: float = 1.0
    against: str | None = PLAIN

    @property
    def name(self) -> str:
        """Return the name that cells and tables use."""
        return self.threat.name


@dataclass(frozen=True)
class Size:
    """How large the study is. grid: its one block, budgets, remedies and their cost, as those of the repair grid."""

    grid: Scale
    tamperers: tuple[Tamperer, ...]

    @property
    def block(self) -> Block:
        """Return the data set and what is trained on it."""
        return self.grid.blocks[0]


def tamperers(patch: str, dispersed: str, keyed: str) -> tuple[Tamperer, ...]:
    """Return who tampers with such triggers: plain poisoning, then the attackers of `isthmus evade`, then `keyed` with cover."""

    def one(name: str, trigger: str, attacker: str | None, against: str | None = PLAIN) -> Tamperer:
        return Tamperer(Threat(name, trigger, RATE), attacker, against=against)

    return (
        one(PLAIN, patch, None, None),
        replace(one(LONGER, patch, None), times=TIMES),
        one(PLAIN_DISPERSED, dispersed, None),
        one(PLAIN_KEYED, keyed, None),
        *(one(name, patch, name) for name in ("path", "path-points", "flat", "perturbation", "segment")),
        one("inversion", dispersed, "inversion", PLAIN_DISPERSED),
        Tamperer(Threat("keyed", keyed, RATE, cover=f"{keyed},wrong=true"), against=PLAIN_KEYED),
    )


def _size(block: Block, held: tuple[Tamperer, ...], scale: Scale) -> Size:
    own = replace(block, threats=tuple(one.threat for one in held), untampered=0)
    return Size(replace(scale, blocks=(own,)), held)


def _block(scale: str, name: str) -> Block:
    (found,) = (block for block in SCALES[scale].blocks if block.name == name)
    return found


REMEDIES = (AUTO, "sharp-path", "path", "average", "fine-tune", "ft-sam", "anp", "i-bau")
_BUDGETS = (500, 50)
_SMALL = tamperers("patch:size=3", "dispersed:share=0.05", "keyed:share=0.1")
_PAPER = tamperers("patch:size=3", "dispersed:share=0.02", "keyed:share=0.05")
_SMOKE = tuple(
    one for one in tamperers("patch:size=3,at=0x0", "dispersed", "keyed") if one.name in (PLAIN, "path", "segment")
)

SIZES: Mapping[str, Size] = {
    "smoke": _size(_block("smoke", "digits"), _SMOKE, replace(SCALES["smoke"], remedies=(AUTO, "average"))),
    "small": _size(
        _block("small", "fashion-mnist"), _SMALL, replace(SCALES["small"], budgets=_BUDGETS, remedies=REMEDIES)
    ),
    "paper": _size(
        _block("paper", "cifar10-preresnet"), _PAPER, replace(SCALES["paper"], budgets=_BUDGETS, remedies=REMEDIES)
    ),
}
"""Blocks, plans and gradients are those of the repair grid's scale of the same name."""
SEEDS = {"smoke": 1, "small": 1, "paper": 2}
ABOUT = {
    "smoke": "digits, a small network, two attackers, two remedies: does it run? Seconds, its numbers mean nothing",
    "small": "Fashion-MNIST (cnn, width 16), six attackers, `keyed` with cover and plain poisoning, 500 and 50 clean images, 400 gradients "
    "of 128 images for every remedy; about an hour with two jobs",
    "paper": "CIFAR-10 (preresnet), trained to the end, the same attackers and remedies, all test images; for a GPU",
}
