"""What attackers who know the defence gain over plain poisoning: what each remedy leaves of both, and who wins."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from isthmus.recipes.adaptive_attackers_cells import partner_of, repairs_of, tamperer_of
from isthmus.recipes.adaptive_attackers_scales import SIZES, Tamperer
from isthmus.recipes.repair_grid_claims import lacks
from isthmus.recipes.repair_grid_scales import AUTO
from isthmus.recipes.repair_grid_tables import Rates, Result, Row, grouped
from isthmus.recipes.study import Claim, mean_and_sd
from isthmus.table import Column, Table

TOLERATED = 10.0  # points of accuracy: a remedy that costs more is none
ALLOWED = 5.0  # points of attack success that may be left beyond what is left of plain poisoning

SUSPECTS = (
    Column("attacker"),
    Column("trigger"),
    Column("hands_over", about="the first and the second suspect"),
    Column("runs"),
    Column("clean_accuracy", "%", "higher", "test", None, "of `model`, mean over runs"),
    Column("attack_success", "%", None, "test", None, "mean over runs"),
    Column("attack_success_least", "%", None, "test", None, "of a run"),
    Column("recovery_accuracy", "%", "higher", "test", None, "triggered images classified as labelled, mean over runs"),
    Column("partner_accuracy", "%", "higher", "test", None, "of what is handed over with it"),
    Column("partner_attack_success", "%", None, "test", None, "of what is handed over with it"),
    Column("gradients", about="of one batch, in all trainings of a run"),
    Column("cost", about="gradients, over those of `plain`"),
)
WINNERS = (
    Column("budget", about="clean images"),
    Column("attacker"),
    Column("against", about="who does without the trick"),
    Column("seeds"),
    Column("auto", "%", "lower", "test", None, "attack success that `auto` leaves"),
    Column("auto_drop", "points", "lower", "test", None, "its fall of accuracy"),
    Column("auto_gain", "points", "lower", "test", None, "what `auto` leaves, less what it leaves of `against`"),
    Column(
        "best",
        about=f"of the other remedies that cost less than {TOLERATED:g} points the one that leaves least, by test",
    ),
    Column("best_left", "%", "lower", "test", None, "attack success that it leaves"),
    Column("best_drop", "points", "lower", "test", None, "its fall of accuracy"),
    Column("best_gain", "points", "lower", "test", None, "the same of the best other remedy for each"),
    Column("wins", about=f"against whom the attacker gains more than {ALLOWED:g} points"),
)


@dataclass(frozen=True)
class Suspect:
    """What a run of a tamperer handed over. partner: the model that goes with `model`, where he hands over two."""

    tamperer: Tamperer
    rates: Rates
    gradients: int
    partner: Rates | None = None


@dataclass(frozen=True)
class Left:
    """What a remedy left: mean attack success (%) and mean fall of accuracy (points)."""

    remedy: str
    attack: float
    drop: float

    @classmethod
    def of(cls, remedy: str, held: Sequence[Result]) -> "Left":
        """Return the means over results of one remedy."""
        count = len(held)
        return cls(remedy, sum(one.attack for one in held) / count, sum(one.drop for one in held) / count)


@dataclass(frozen=True)
class Remains:
    """What `auto` left, and the best other remedy that costs less than `TOLERATED`; None where there is none."""

    auto: Left | None
    best: Left | None

    @classmethod
    def of(cls, held: Sequence[Result]) -> "Remains":
        """Return what the remedies left of one tamperer at one budget."""
        left = [Left.of(remedy, some) for remedy, some in grouped(held, lambda one: one.repair.remedy).items()]
        auto = next((one for one in left if one.remedy == AUTO), None)
        others = [one for one in left if one.remedy != AUTO and one.drop < TOLERATED]
        return cls(auto, min(others, key=lambda one: one.attack, default=None))


@dataclass(frozen=True)
class Duel:
    """A tamperer at a budget, over the seeds that he shares with the one he is compared with. base: what is left of that one."""

    tamperer: Tamperer
    budget: int
    seeds: int
    own: Remains
    base: Remains | None

    @property
    def auto_gain(self) -> float | None:
        """Return how much more `auto` leaves of him, in points of attack success."""
        return None if self.base is None else _gain(self.own.auto, self.base.auto)

    @property
    def best_gain(self) -> float | None:
        """Return the same of the best other remedies."""
        return None if self.base is None else _gain(self.own.best, self.base.best)

    @property
    def wins(self) -> str | None:
        """Return against whom he gains; None where there is nothing to compare with.

        Where no other remedy costs little enough any more he gains against the others.
        """
        if self.base is None or self.auto_gain is None:
            return None
        priced_out = self.own.best is None and self.base.best is not None
        auto, others = _large(self.auto_gain), priced_out or _large(self.best_gain)
        return {(True, True): "all", (True, False): AUTO, (False, True): "the others", (False, False): "nobody"}[
            auto, others
        ]


def suspects(found: Sequence[Suspect]) -> Table:
    """Return what was handed over, and what it cost the attacker."""
    rows: list[Row] = []
    plain = next((one.gradients for one in found if one.tamperer.against is None), None)
    for tamperer, held in grouped(found, lambda one: one.tamperer).items():
        attacks = [one.rates.attack for one in held if one.rates.attack is not None]
        partners = [one.partner for one in held if one.partner is not None]
        gradients = mean_and_sd([float(one.gradients) for one in held])[0]
        partner = partner_of(tamperer)
        rows.append(
            {
                "attacker": tamperer.name,
                "trigger": tamperer.threat.trigger,
                "hands_over": "two runs" if partner is None else f"model, {partner}",
                "runs": len(held),
                "clean_accuracy": mean_and_sd([one.rates.accuracy for one in held])[0],
                "attack_success": mean_and_sd(attacks)[0],
                "attack_success_least": min(attacks, default=None),
                "recovery_accuracy": mean_and_sd(_known(one.rates.recovery for one in held))[0],
                "partner_accuracy": mean_and_sd([one.accuracy for one in partners])[0],
                "partner_attack_success": mean_and_sd(_known(one.attack for one in partners))[0],
                "gradients": gradients,
                "cost": None if plain is None or gradients is None else gradients / plain,
            }
        )
    return Table.of(rows, SUSPECTS)


def duels(results: Sequence[Result], tamperers: Sequence[Tamperer]) -> list[Duel]:
    """Return a duel for each budget and tamperer that there are results of, in the order of both."""
    held = grouped(results, lambda one: (one.repair.budget, tamperer_of(one.repair)))
    found: list[Duel] = []
    for budget in dict.fromkeys(one.repair.budget for one in results):
        for tamperer in tamperers:
            own = held.get((budget, tamperer.name), [])
            base = [] if tamperer.against is None else held.get((budget, tamperer.against), [])
            shared = {one.repair.seed for one in own} & {one.repair.seed for one in base}
            if shared:
                own, base = ([one for one in some if one.repair.seed in shared] for some in (own, base))
            if own:
                seeds = len({one.repair.seed for one in own})
                found.append(Duel(tamperer, budget, seeds, Remains.of(own), Remains.of(base) if shared else None))
    return found


def winners(found: Sequence[Duel]) -> Table:
    """Return who gains against which remedy, and how much."""
    rows: list[Row] = []
    for one in found:
        row: Row = {"budget": one.budget, "attacker": one.tamperer.name, "against": one.tamperer.against}
        row |= {"seeds": one.seeds, "auto_gain": one.auto_gain, "best_gain": one.best_gain, "wins": one.wins}
        if one.own.auto is not None:
            row |= {"auto": one.own.auto.attack, "auto_drop": one.own.auto.drop}
        if one.own.best is not None:
            row |= {"best": one.own.best.remedy, "best_left": one.own.best.attack, "best_drop": one.own.best.drop}
        rows.append(row)
    return Table.of(rows, WINNERS)


def claims(found: Sequence[Duel], scale: str, seeds: int, done: frozenset[str]) -> list[Claim]:
    """Return for each tamperer whether `auto` leaves no more of his backdoor than of the one without the trick.

    Undecided while repairs by `auto` are missing, and where one of the two is no evidence.
    """
    told: list[Claim] = []
    planned = [one for one in repairs_of(scale, seeds) if one.remedy == AUTO]
    for tamperer in SIZES[scale].tamperers:
        if tamperer.against is None:
            continue
        pair = (tamperer.name, tamperer.against)
        lacking = lacks([one.name for one in planned if tamperer_of(one) in pair], done)
        told.append(_claim(tamperer, [one for one in found if one.tamperer == tamperer], lacking))
    return told


def _claim(tamperer: Tamperer, found: Sequence[Duel], lacking: str) -> Claim:
    text = f"Of the backdoor of `{tamperer.name}` `auto` leaves at most {ALLOWED:g} points more than of that of `{tamperer.against}`."
    lines: list[str] = []
    holds: list[bool] = []
    for one in found:
        if one.base is None or one.own.auto is None or one.base.auto is None:
            continue
        own, base = one.own.auto, one.base.auto
        lines.append(
            f"{one.budget:,} images: {own.attack:.1f} % beside {base.attack:.1f} %, "
            f"accuracy falls by {own.drop:.1f} and {base.drop:.1f} points"
        )
        holds.append(own.attack - base.attack <= ALLOWED)
    if not holds:
        return Claim(text, "nothing to compare", None)
    return Claim(text, "; ".join(lines) + lacking, None if lacking else all(holds))


def _gain(own: Left | None, base: Left | None) -> float | None:
    return None if own is None or base is None else own.attack - base.attack


def _large(gain: float | None) -> bool:
    return gain is not None and gain > ALLOWED


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]
