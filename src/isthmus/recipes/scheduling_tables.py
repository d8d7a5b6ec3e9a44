"""What the trainings of the study of Liu et al. 2020 say: robust errors, who is stuck, gradient norms, which claims hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil

from isthmus._check import require
from isthmus.recipes.study import Claim, Findings, every, mean_and_sd
from isthmus.recipes.train import Trained
from isthmus.table import Column, Table
from isthmus.training.budget import Kind

SCHEDULES: tuple[Kind, ...] = ("constant", "periodic-cosine", "periodic-linear")
NEAR = 0.005  # errors this close to that of a constant classifier are taken for it
TAIL = 0.1  # the share of the logged updates that the gradient norm at the end is the mean of
PAPER: Mapping[tuple[float, Kind], tuple[float, float]] = {
    (1e-4, "constant"): (8.58, 0.89),
    (1e-4, "periodic-cosine"): (6.64, 0.70),
    (1e-4, "periodic-linear"): (6.69, 0.59),
    (3e-4, "constant"): (88.65, 0.00),
    (3e-4, "periodic-cosine"): (7.44, 0.52),
    (3e-4, "periodic-linear"): (7.48, 0.11),
    (1e-3, "constant"): (88.65, 0.00),
    (1e-3, "periodic-cosine"): (9.62, 0.83),
    (1e-3, "periodic-linear"): (7.48, 0.15),
}
"""Robust error (%) under PGD-50, mean and standard deviation of 3 runs, by learning rate of Adam and schedule: LeNet of width 16, MNIST,
budget 0.4, 100 epochs (the authors' slides of October 2020)."""

_ERRORS = (
    Column("seeds", "1", None, None, None, "finished"),
    Column("robust_error", "%", "lower", "test", None, "mean over seeds, PGD-20 at the full budget"),
    Column("robust_error_sd", "%", None, "test", None, "standard deviation over seeds"),
    Column("clean_error", "%", "lower", "test", None, "mean over seeds"),
    Column("stuck", about="seeds that ended in a constant classifier"),
)
BY_RATE = (
    Column("learning_rate"),
    Column("budget", about="schedule of the budget"),
    *_ERRORS,
    Column("dead_layer", about="seeds with a dead layer"),
    Column("paper_robust_error", "%", "lower", "test", None, "of the paper, at its size"),
    Column("paper_sd", "%", None, "test", None, "of the paper, over 3 runs"),
)
BY_BUDGET = (
    Column("eps", "1", None, None, None, "constant budget"),
    Column("seeds", "1", None, None, None, "finished"),
    Column("gradient_norm", "1", None, "train", None, "mean of the last tenth of the logged updates, mean over seeds"),
    Column("gradient_norm_sd", "1", None, "train", None, "standard deviation over seeds"),
    Column("loss", "nat", "lower", "train", None, "of these updates, under attack"),
    Column("stuck", about="seeds that ended in a constant classifier"),
)
REMEDIES = (Column("model"), *_ERRORS)


@dataclass(frozen=True)
class Setting:
    """One training: schedule of the budget, learning rate, budget (0: none), seed, and in how many cycles."""

    schedule: Kind
    rate: float
    eps: float
    seed: int
    cycles: int = 1

    @property
    def name(self) -> str:
        """Return the name of its cell.

        >>> Setting("constant", 1e-3, 0.4, 0).name
        'constant-eps0.4-lr0.001-seed0'
        """
        several = f"-cycles{self.cycles}" if self.cycles > 1 else ""
        return f"{self.schedule}-eps{self.eps:g}-lr{self.rate:g}{several}-seed{self.seed}"


@dataclass(frozen=True)
class Result:
    """A finished training: its setting, its record and its history."""

    setting: Setting
    record: Trained
    history: Table

    def errors(self, kind: str = "last") -> tuple[float, float] | None:
        """Return (clean, robust) error in % of one set of its weights, None where it has no such set."""
        standing = self.record.standings.get(kind)
        if standing is None:
            return None
        return 100 - 100 * standing.clean_accuracy["value"], 100 - 100 * standing.robust_accuracy["value"]

    def tail(self, column: str) -> float:
        """Return the mean of a column of the history over the last tenth of its rows."""
        values = [float(value) for value in self.history.values(column)]  # type: ignore[arg-type]
        return sum(values[-ceil(TAIL * len(values)) :]) / ceil(TAIL * len(values))


def is_constant(errors: tuple[float, float], shares: Sequence[float]) -> bool:
    """Return whether (clean, robust) errors in % are those of a classifier that always answers one class.

    Both are then 100 less the class's share of the test images, here within half a point. On MNIST the class is the largest: 88.65 %.
    """
    require(bool(shares), "shares", "hold the share of each class", "none")
    return any(all(abs(error / 100 - (1 - share)) <= NEAR for error in errors) for share in shares)


def summarise(
    results: Sequence[Result], *, seeds: int, cycle_rate: float, shares: Sequence[float], paper: bool = True
) -> Findings:
    """Return the tables and what becomes of the claims.

    shares: of each class among the test images attacked. paper: put the paper's numbers beside, which are of MNIST.
    """
    target = max((result.setting.eps for result in results), default=0.0)
    reader = _Reader(tuple(results), seeds, target, tuple(shares), paper)
    tables = {
        "Robust error by learning rate and schedule": Table.of(reader.by_rate(), BY_RATE),
        "Gradient norm by budget": Table.of(reader.by_budget(), BY_BUDGET),
        "Scheduled budgets beside other remedies": Table.of(reader.remedies(cycle_rate), REMEDIES),
    }
    dead = [f"`{r.setting.name}`, dead layer: {text}" for r in results for text in r.record.dead_layers]
    notes = (
        "Robust error of the last weights, as in the paper, under PGD-20 with steps of an eighth of the budget; the paper's is under "
        "PGD-50 with steps of 0.01, at its own size, so only the pattern can be compared.",
        f"Stuck: clean and robust error are, within half a point, those of a classifier that always answers one class; the largest class "
        f"has {100 * max(shares):.2f} % of the {_attacked(results)} test images, which makes {100 - 100 * max(shares):.2f} %.",
        "All trainings set the same images aside, by which `best` is chosen (early stopping by robust error).",
        *dead,
    )
    return Findings(tables, reader.claims(cycle_rate), notes)


def _attacked(results: Sequence[Result]) -> str:
    counts = {int(s.robust_accuracy["n"]) for result in results for s in result.record.standings.values()}
    return ", ".join(f"{count:,}" for count in sorted(counts)) or "attacked"


@dataclass(frozen=True)
class _Reader:
    """The finished trainings, and how many seeds there should be."""

    results: tuple[Result, ...]
    seeds: int
    target: float
    shares: tuple[float, ...]
    paper: bool = True

    @property
    def rates(self) -> list[float]:
        return sorted({r.setting.rate for r in self.results if r.setting.cycles == 1})

    def group(self, kind: Kind, rate: float, eps: float | None = None, cycles: int | None = None) -> list[Result]:
        """Return the finished seeds of one setting, cycles=None for a single cycle."""
        eps = self.target if eps is None else eps
        wanted = (kind, rate, eps, cycles or 1)
        found = [
            r for r in self.results if (r.setting.schedule, r.setting.rate, r.setting.eps, r.setting.cycles) == wanted
        ]
        return sorted(found, key=lambda r: r.setting.seed)

    def stuck(self, results: Sequence[Result], kind: str = "last") -> list[bool]:
        return [is_constant(errors, self.shares) for r in results if (errors := r.errors(kind)) is not None]

    def errors(self, results: Sequence[Result], kind: str = "last") -> dict[str, float | int | str | None]:
        held = [errors for r in results if (errors := r.errors(kind)) is not None]
        mean, deviation = mean_and_sd([robust for _, robust in held])
        stuck = self.stuck(results, kind)
        return {
            "seeds": len(held),
            "robust_error": mean,
            "robust_error_sd": deviation,
            "clean_error": mean_and_sd([clean for clean, _ in held])[0],
            "stuck": f"{sum(stuck)}/{len(stuck)}",
        }

    def by_rate(self) -> list[dict[str, float | int | str | None]]:
        rows: list[dict[str, float | int | str | None]] = []
        for rate in self.rates:
            for kind in SCHEDULES:
                held = self.group(kind, rate)
                if not held:
                    continue
                dead = sum(bool(r.record.dead_layers) for r in held)
                paper = PAPER.get((rate, kind), (None, None)) if self.paper else (None, None)
                own = {"learning_rate": rate, "budget": kind, **self.errors(held), "dead_layer": f"{dead}/{len(held)}"}
                rows.append({**own, "paper_robust_error": paper[0], "paper_sd": paper[1]})
        return rows

    def budgets(self) -> dict[float, list[Result]]:
        """Return budget -> runs at a constant budget and the lowest learning rate."""
        if not self.rates:
            return {}
        found = {
            eps: self.group("constant", self.rates[0], eps) for eps in sorted({r.setting.eps for r in self.results})
        }
        return {eps: held for eps, held in found.items() if held}

    def by_budget(self) -> list[dict[str, float | int | str | None]]:
        rows: list[dict[str, float | int | str | None]] = []
        for eps, held in self.budgets().items():
            mean, deviation = mean_and_sd([r.tail("gradient_norm") for r in held])
            stuck = self.stuck(held)
            rows.append(
                {
                    "eps": eps,
                    "seeds": len(held),
                    "gradient_norm": mean,
                    "gradient_norm_sd": deviation,
                    "loss": mean_and_sd([r.tail("loss") for r in held])[0],
                    "stuck": f"{sum(stuck)}/{len(stuck)}" if stuck else None,
                }
            )
        return rows

    def remedies(self, cycle_rate: float) -> list[dict[str, float | int | str | None]]:
        if not self.rates:
            return []
        low = self.rates[0]
        named = {
            f"constant, rate {low:g}, last": (self.group("constant", low), "last"),
            f"constant, rate {low:g}, early stopped": (self.group("constant", low), "best"),
            f"constant, rate {low:g}, weights averaged": (self.group("constant", low), "averaged"),
            f"periodic-cosine, rate {low:g}, last": (self.group("periodic-cosine", low), "last"),
            f"periodic-linear, rate {low:g}, last": (self.group("periodic-linear", low), "last"),
        }
        for kind in ("constant", "periodic-cosine"):
            for cycles in sorted({r.setting.cycles for r in self.results if r.setting.cycles > 1}):
                held = self.group(kind, cycle_rate, cycles=cycles)
                named[f"{kind}, rate {cycle_rate:g}, {cycles} cycles, last"] = (held, "last")
                named[f"{kind}, rate {cycle_rate:g}, {cycles} cycles, ensemble of snapshots"] = (held, "snapshots")
        return [{"model": name, **self.errors(*held)} for name, held in named.items() if held[0]]

    def claims(self, cycle_rate: float) -> list[Claim]:
        found: list[Claim] = []
        for rate in self.rates[1:]:
            found.append(self._trapped(rate, "constant", True))
            found += [self._trapped(rate, kind, False) for kind in SCHEDULES[1:]]
        if not self.rates:
            return found
        low = self.rates[0]
        constant = self.group("constant", low)
        for kind in SCHEDULES[1:]:
            text = f"At learning rate {low:g} a {kind} budget has a lower robust error than a constant one."
            found.append(self._better(text, (self.group(kind, low), "last"), (constant, "last")))
        found.append(self._growing())
        for kind, word in (("best", "early stopping"), ("averaged", "weight averaging")):
            text = f"A periodic-cosine budget has a lower robust error than a constant one with {word} (our question)."
            found.append(self._better(text, (self.group("periodic-cosine", low), "last"), (constant, kind)))
        cycles = max(r.setting.cycles for r in self.results)
        if cycles > 1:
            several = [self.group(kind, cycle_rate, cycles=cycles) for kind in SCHEDULES[:2]]
            text = f"The ensemble over {cycles} cycles has a lower robust error with a periodic-cosine budget than with a constant one."
            found.append(self._better(text, (several[1], "snapshots"), (several[0], "snapshots")))
        return found

    def _trapped(self, rate: float, kind: Kind, expected: bool) -> Claim:
        stuck = self.stuck(self.group(kind, rate))
        how = "gets stuck in a constant classifier" if expected else "does not get stuck"
        text = f"At learning rate {rate:g} training with a {kind} budget of {self.target:g} {how}."
        return Claim(text, f"stuck {sum(stuck)}/{len(stuck)}", every([s is expected for s in stuck], self.seeds))

    def _better(self, text: str, one: tuple[list[Result], str], other: tuple[list[Result], str]) -> Claim:
        """Return whether one has a lower robust error than the other in every seed."""
        held = [
            {r.setting.seed: errors[1] for r in results if (errors := r.errors(kind)) is not None}
            for results, kind in (one, other)
        ]
        rises = [value - held[1][seed] for seed, value in held[0].items() if seed in held[1]]
        mean, deviation = mean_and_sd(rises)
        if mean is None:
            return Claim(text, "nothing to compare", None)
        wide = "" if deviation is None else f" +- {deviation:.2f}"
        lower = [rise < 0 for rise in rises]
        said = f"lower in {sum(lower)} of {len(lower)} seeds; mean difference {mean:+.2f}{wide} points"
        return Claim(text, said, every(lower, self.seeds))

    def _growing(self) -> Claim:
        text = "The gradient norm at the end of training grows with the (constant) budget."
        budgets = self.budgets()
        series = [
            [r.tail("gradient_norm") for held in budgets.values() for r in held if r.setting.seed == seed]
            for seed in range(self.seeds)
        ]
        whole = [values for values in series if len(values) == len(budgets) > 1]
        if not whole:
            return Claim(text, "nothing to compare", None)
        up = [all(a < b for a, b in pairwise(values)) for values in whole]
        times = [f"{values[-1] / values[0]:.3g}" for values in whole if values[0] > 0]
        said = f"rises from each budget to the next in {sum(up)} of {len(up)} seeds; largest over smallest budget: {', '.join(times)}"
        return Claim(text, said, every(up, self.seeds))
