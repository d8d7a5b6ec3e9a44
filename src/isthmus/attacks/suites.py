"""`Suite`: which attacks are run one after the other, from names such as `standard`, `apgd-ce` or `pgd:steps=20,restarts=2+square`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import cast

from isthmus._check import InputError, nearest, require, unknown
from isthmus.attacks.apgd import APGD, TargetedAPGD
from isthmus.attacks.fab import FAB
from isthmus.attacks.outcome import Doubt
from isthmus.attacks.pgd import FGSM, PGD
from isthmus.attacks.protocol import Attack
from isthmus.attacks.square import Square
from isthmus.attacks.threat import Norm
from isthmus.losses import Loss, cross_entropy, dlr, margin

Option = int | float | Loss
LOSSES: dict[str, Loss] = {"ce": cross_entropy, "dlr": dlr, "margin": margin}


@dataclass(frozen=True)
class Suite:
    """Attacks in the order in which they run, each on what the ones before left correct.

    name: what was asked for. passes: forward passes over which logits and gradients are averaged, above 1 against randomised models.
    doubts: what was left out, and why.
    """

    name: str
    attacks: tuple[Attack, ...]
    passes: int = 1
    doubts: tuple[Doubt, ...] = ()

    def __post_init__(self) -> None:
        require(len(self.attacks) > 0, "attack", "name at least one attack that can be run", self.name)
        require(self.passes >= 1, "passes", "be at least 1", self.passes)

    @property
    def keys(self) -> tuple[str, ...]:
        """Return a name for each attack; one that comes again is numbered: `square`, `square#2`."""
        names = [attack.name for attack in self.attacks]
        return tuple(
            name if (again := names[:i].count(name)) == 0 else f"{name}#{again + 1}" for i, name in enumerate(names)
        )


@dataclass(frozen=True)
class Kind:
    """A named attack: how it is made, one line about it, the classes it needs."""

    factory: Callable[..., Attack]
    about: str
    classes: int = 2

    @property
    def options(self) -> dict[str, type]:
        """Return option -> type of what may follow the name: `pgd:steps=20,loss=dlr`."""
        if not callable(maker := _maker(self.factory)):
            return {}
        fixed = self.factory.keywords if isinstance(self.factory, partial) else {}
        known: dict[str, type] = {}
        for field in fields(maker):  # pyright: ignore[reportArgumentType]  every attack is a dataclass
            if field.name not in fixed and (field.type in (int, float) or field.type is Loss):
                known[field.name] = cast(type, field.type)
        return known


def _maker(factory: object) -> object:
    made = factory.func if isinstance(factory, partial) else factory
    return made if isinstance(made, type) else None


ATTACKS: dict[str, Kind] = {
    "fgsm": Kind(lambda: FGSM, "one step of the whole radius (Goodfellow et al. 2015)"),
    "pgd": Kind(PGD, "projected gradient ascent, 10 steps of a quarter radius (Madry et al. 2018)"),
    "apgd-ce": Kind(
        partial(APGD, loss=cross_entropy), "step sizes found on the way (Croce and Hein 2020), cross-entropy"
    ),
    "apgd-dlr": Kind(partial(APGD, loss=dlr), "the same on the difference of logits ratio; 3 classes or more", 3),
    "apgd-t": Kind(TargetedAPGD, "the same towards the 9 most likely other classes; 4 classes or more", 4),
    "fab-t": Kind(FAB, "nearest boundary of the 9 most likely other classes (Croce and Hein 2020)"),
    "square": Kind(Square, "random squares, no gradient, 5,000 queries (Andriushchenko et al. 2020)"),
}

SUITES: dict[str, str] = {
    "standard": "apgd-ce, apgd-t, fab-t, square: the order of AutoAttack (Croce and Hein 2020)",
    "standard-plus": "apgd-ce, apgd-dlr, fab-t with 5 restarts each, square, apgd-t, fab-t",
    "random": "apgd-ce and apgd-dlr on the mean of 20 passes, for randomised models",
}
_PARTS: dict[str, str] = {
    "standard": "apgd-ce+apgd-t+fab-t+square",
    "standard-plus": "apgd-ce:restarts=5+apgd-dlr:restarts=5+fab-t:restarts=5+square+apgd-t+fab-t",
    "random": "apgd-ce+apgd-dlr",
}
_L1_STANDARD = "apgd-ce:restarts=5+apgd-t:targets=5+fab-t+square"
RANDOM_PASSES = 20


def parse_attacks(text: str, *, num_classes: int, norm: Norm = "linf") -> Suite:
    """Return the suite that `text` names: a name of :data:`SUITES` or :data:`ATTACKS`, with settings, several joined by `+`.

    Against fewer than 10 classes targeted attacks take all the others as targets. A suite leaves out attacks whose loss needs more
    classes than there are, with a doubt that says so; such an attack named by itself raises InputError, and so do unknown names and
    settings.
    """
    attacks, doubts, passes = list[Attack](), list[Doubt](), 1
    for part in text.split("+"):
        name, _, settings = part.strip().partition(":")
        if name not in SUITES:
            attacks.append(_named(name, settings, num_classes))
            continue
        require(settings == "", "attack", f"be the suite {name} without settings", repr(part))
        passes = RANDOM_PASSES if name == "random" else passes
        parts = (_L1_STANDARD if (name, norm) == ("standard", "l1") else _PARTS[name]).split("+")
        held = [p for p in parts if ATTACKS[p.partition(":")[0]].classes <= num_classes]
        attacks += [_named(*_halves(p), num_classes) for p in held]
        doubts += _few_classes(name, [p for p in parts if p not in held], num_classes)
    return Suite(text, tuple(attacks), passes, tuple(doubts))


def suite_of(attacks: "str | Suite | Sequence[Attack]", *, num_classes: int, norm: Norm) -> Suite:
    """Return a suite from its text, from attacks, or as it is."""
    if isinstance(attacks, str):
        return parse_attacks(attacks, num_classes=num_classes, norm=norm)
    if isinstance(attacks, Suite):
        return attacks
    return Suite("+".join(attack.name for attack in attacks), tuple(attacks))


def _few_classes(name: str, left: Sequence[str], num_classes: int) -> list[Doubt]:
    """Return the doubt about a suite that had to leave attacks out."""
    if not left:
        return []
    names = ", ".join(_halves(part)[0] for part in left)
    needed = max(ATTACKS[_halves(part)[0]].classes for part in left)
    text = (
        f"the suite {name} runs without {names}: the loss divides by a difference between logits of {needed} classes, "
        f"and the model has {num_classes}. The other attacks ran."
    )
    return [Doubt("few-classes", text, voids=False)]


def _halves(part: str) -> tuple[str, str]:
    name, _, settings = part.partition(":")
    return name, settings


def _named(name: str, settings: str, num_classes: int) -> Attack:
    """Return one attack."""
    if name not in ATTACKS:
        raise unknown("attack", name, [*SUITES, *ATTACKS])
    kind = ATTACKS[name]
    fix = "Use apgd-ce, fab-t or square."
    require(
        num_classes >= kind.classes, "attack", f"suit {num_classes} classes; {name} needs {kind.classes}", name, fix
    )
    known = kind.options
    values: dict[str, Option] = {}
    for pair in settings.split(",") if settings else []:
        key, equals, value = (word.strip() for word in pair.partition("="))
        if known and equals and key not in known:
            raise InputError(
                f"`{name}` should have the settings {', '.join(known)}. Found {key!r}.{nearest(key, known)}"
            )
        whole = bool(known) and equals == "=" and key not in values
        wanted = "settings as name=value,name=value, each once" if known else "nothing"
        require(whole, name, f"be followed by {wanted}", repr(pair))
        values[key] = _value(key, value, known[key])
    if "targets" in known:
        wanted = values.get("targets", 9)
        values["targets"] = min(cast(int, wanted), num_classes - 1)
    return kind.factory(**values)


def _value(key: str, text: str, kind: type) -> Option:
    if kind is Loss:
        if text not in LOSSES:
            raise unknown(key, text, LOSSES)
        return LOSSES[text]
    try:
        return int(text) if kind is int else float(text)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise InputError(f"`{key}` should be {wanted}. Found {text!r}.") from None
