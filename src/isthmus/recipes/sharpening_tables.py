"""What the cells of the study of Liu et al. 2020, section 4, say: spectra, similarity of perturbations, connectivity, by budget."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from isthmus.barrier import barriers
from isthmus.recipes.sharpening_paper import paper
from isthmus.recipes.study import mean_and_sd
from isthmus.recipes.train import Trained
from isthmus.table import Cell, Column, Table

Kind = Literal["curve", "line"]
Row = dict[str, Cell]
TOP = "top eigenvector"
STEP = 0.01  # of the difference of gradients that stands for the curvature of the loss with examples crafted anew
RANKS = (1, 5, 20)


@dataclass(frozen=True)
class Curvature:
    """The curvature of one minimum's training loss, in nat per squared unit of weight.

    eigenvalues: largest first, of the Hessian at frozen examples. trace_error: half width of its interval. recrafted: step -> curvature
    along the top eigenvector by differences of gradients with examples crafted anew; kept: the same with those of the minimum, which the
    kinks of the network alone set apart from the eigenvalue. n: images; loss: nat.
    """

    eigenvalues: tuple[float, ...]
    trace: float | None
    trace_error: float | None
    recrafted: Mapping[float, float]
    kept: Mapping[float, float]
    n: int
    loss: float

    @classmethod
    def read(cls, document: Mapping[str, object]) -> "Curvature":
        """Return what `curvature.json` holds of it."""
        trace = cast(Mapping[str, float] | None, document.get("trace")) or {}
        rows = cast(Sequence[Mapping[str, object]] | None, document.get("finite_difference")) or ()
        return cls(
            eigenvalues=tuple(float(value) for value in cast(Sequence[float], document["eigenvalues"])),
            trace=trace.get("value"),
            trace_error=trace.get("error"),
            recrafted={_number(r["step"]): _number(r["recrafted"]) for r in rows if r["direction"] == TOP},
            kept={_number(r["step"]): _number(r["kept"]) for r in rows if r["direction"] == TOP},
            n=int(cast(int, document["n"])),
            loss=_number(document["loss"]),
        )

    @property
    def recrafted_at(self) -> float | None:
        """Return the step nearest to `STEP`, None where there is none."""
        return min(self.recrafted, key=lambda step: abs(step - STEP), default=None)

    @property
    def true_curvature(self) -> float | None:
        """Return the curvature with examples crafted anew at that step."""
        return None if self.recrafted_at is None else self.recrafted[self.recrafted_at]


@dataclass(frozen=True)
class Minimum:
    """A training against budget eps (0: none) on `data`, from one seed, and what was measured of it so far."""

    data: str
    eps: float
    seed: int
    record: Trained
    curvature: Curvature | None = None
    scattering: Table | None = None

    @property
    def errors(self) -> tuple[float, float | None]:
        """Return (clean, robust) error in %; a vanilla training has no robust one."""
        standing = self.record.standings.get("last")
        clean = 100 - 100 * self.record.clean_accuracy["value"]
        return clean, None if standing is None else 100 - 100 * standing.robust_accuracy["value"]


@dataclass(frozen=True)
class Joined:
    """The scan of a curve or a straight line between the minima of two seeds, of one budget."""

    data: str
    eps: float
    seeds: tuple[int, int]
    kind: Kind
    table: Table

    def barrier(self, what: Literal["loss", "error"]) -> float:
        """Return by how much the robust loss (nat) or error (%) rises above the worse end; the clean one where the budget is 0."""
        return barriers(self.table, value=self.column(what))["draxler_rise"].value

    def column(self, what: Literal["loss", "error"]) -> str:
        """Return the name of the column."""
        return f"robust_{what}" if f"robust_{what}" in self.table.names else f"test_{what}"


def _own(name: str, unit: str, about: str) -> tuple[Column, Column]:
    return Column(name, unit, None, None, None, f"{about}, mean over seeds"), Column(
        f"{name}_sd", unit, None, None, None, "standard deviation over seeds"
    )


_NAT = "nat/weight²"
SPECTRA = (
    Column("data"),
    Column("eps", about="budget of training, and of the loss whose curvature this is"),
    Column("seeds", about="finished"),
    *(column for k in RANKS for column in _own(f"eigenvalue_{k}", _NAT, f"eigenvalue {k} at frozen examples")),
    *_own("trace", _NAT, "trace at frozen examples"),
    Column("trace_error", _NAT, about="largest half width of its interval among the seeds"),
    *_own("true_curvature", _NAT, "curvature along the top eigenvector with examples crafted anew"),
    Column("by_step", about="the same at each step of the difference"),
    Column("kept_by_step", about="by differences too, with the examples of the minimum kept"),
    Column("loss", "nat", "lower", None, None, "mean over seeds"),
    Column("images", about="of the loss"),
    Column("clean_error", "%", "lower", "test", None, "mean over seeds"),
    Column("robust_error", "%", "lower", "test", None, "mean over seeds"),
)
SIMILARITY = (
    Column("eps"),
    Column("direction"),
    Column("amount", about="the models are theta + a v and theta - a v, v of length 1"),
    Column("seeds", about="finished"),
    Column("cosine", about="of the perturbations at the two models, mean over seeds"),
    Column("cosine_sd", about="standard deviation over seeds"),
    Column("sign_cosine", about="of their signs, mean over seeds"),
    Column("same_start", about="of perturbations from one start, mean over seeds"),
    Column("robust_error", "%", "lower", None, None, "at theta + a v, mean over seeds"),
    Column("paper_cosine", about="of the paper, at its size, on training images"),
    Column("paper_robust_error", "%", "lower", "test", None, "of the paper, at its size"),
)
CONNECTIVITY = (
    Column("data"),
    Column("eps"),
    *(
        column
        for kind in ("curve", "line")
        for column in (
            Column(f"{kind}_pairs", about="finished"),
            *_own(f"{kind}_loss", "nat", f"rise of the robust loss on the {kind} above the worse end"),
            *_own(f"{kind}_error", "%", f"rise of the robust error on the {kind} above the worse end"),
        )
    ),
)


def spectra(minima: Sequence[Minimum]) -> Table:
    """Return eigenvalues, trace and curvature of the true loss by data set and budget."""
    rows: list[Row] = []
    for (data, eps), held in _grouped(minima).items():
        found = [m.curvature for m in held if m.curvature is not None]
        if not found:
            continue
        row: Row = {"data": data, "eps": eps, "seeds": len(found)}
        for k in RANKS:
            row |= _mean(f"eigenvalue_{k}", [c.eigenvalues[k - 1] for c in found if len(c.eigenvalues) >= k])
        row |= _mean("trace", [c.trace for c in found])
        row |= _mean("true_curvature", [c.true_curvature for c in found])
        row["trace_error"] = max((c.trace_error for c in found if c.trace_error is not None), default=None)
        row["by_step"] = _by_step([c.recrafted for c in found])
        row["kept_by_step"] = _by_step([c.kept for c in found])
        row["loss"] = mean_and_sd([c.loss for c in found])[0]
        row["images"] = min(c.n for c in found)
        errors = [m.errors for m in held]
        row["clean_error"] = mean_and_sd([clean for clean, _ in errors])[0]
        row["robust_error"] = mean_and_sd([robust for _, robust in errors if robust is not None])[0]
        rows.append(row)
    return Table.of(rows, SPECTRA)


def similarities(minima: Sequence[Minimum], data: str) -> Table:
    """Return the similarity of perturbations on one data set by budget, direction and amount, the paper's beside; several random
    directions count as one, their mean."""
    rows: list[Row] = []
    for (name, eps), held in _grouped(minima).items():
        tables = [m.scattering for m in held if m.scattering is not None]
        if name != data or not tables:
            continue
        for kind in ("eigenvector", "random"):
            for amount in sorted({cast(float, a) for table in tables for a in table.values("amount")}):
                if amount == 0 and kind == "random":  # at one model there is no direction
                    continue
                found = [of for table in tables if (of := _of(table, kind, amount))]
                if found:
                    rows.append({"eps": eps, "direction": kind, "amount": amount, **_similar(found)})
                    rows[-1] |= dict(
                        zip(("paper_cosine", "paper_robust_error"), paper(data, kind, amount, eps), strict=True)
                    )
    return Table.of(rows, SIMILARITY)


def connectivity(joined: Sequence[Joined]) -> Table:
    """Return the barriers between minima of one budget, by data set and budget."""
    rows: list[Row] = []
    for data, eps in sorted({(j.data, j.eps) for j in joined}, key=_order(joined)):
        row: Row = {"data": data, "eps": eps}
        for kind in ("curve", "line"):
            held = [j for j in joined if (j.data, j.eps, j.kind) == (data, eps, kind)]
            row[f"{kind}_pairs"] = len(held)
            row |= _mean(f"{kind}_loss", [j.barrier("loss") for j in held])
            row |= _mean(f"{kind}_error", [j.barrier("error") for j in held])
        rows.append(row)
    return Table.of(rows, CONNECTIVITY)


def rows_of(table: Table, kind: str, amount: float | None = None) -> list[Row]:
    """Return the rows along directions of one kind (eigenvector or random), at one amount or at the largest."""
    amounts = [cast(float, a) for a in table.values("amount")]
    wanted = max(amounts, default=0.0) if amount is None else amount
    return [r for r in table.rows() if str(r["direction"]).startswith(kind) and r["amount"] == wanted]


def _of(table: Table, kind: str, amount: float) -> Mapping[str, float]:
    """Return the means of one minimum over the directions of a kind; the second eigenvector and those after it are left out."""
    held = rows_of(table, kind, amount)[: 1 if kind == "eigenvector" else None]
    if amount == 0 and not held:
        held = rows_of(table, "random", amount)[:1]
    names = ("cosine", "sign_cosine", "same_start", "robust_error")
    found = {name: mean_and_sd([_number(r[name]) for r in held if r[name] is not None])[0] for name in names}
    return {name: value for name, value in found.items() if value is not None}


def _similar(found: Sequence[Mapping[str, float]]) -> Row:
    row: Row = {"seeds": len(found)} | _mean("cosine", [one.get("cosine") for one in found])
    for name in ("sign_cosine", "same_start", "robust_error"):
        row[name] = mean_and_sd([one[name] for one in found if name in one])[0]
    return row


def _by_step(found: Sequence[Mapping[float, float]]) -> str | None:
    steps = sorted({step for held in found for step in held})
    means = {step: mean_and_sd([held[step] for held in found if step in held])[0] for step in steps}
    return ", ".join(f"{step:g}: {value:.3g}" for step, value in means.items() if value is not None) or None


def _mean(name: str, values: Sequence[float | None]) -> Row:
    mean, deviation = mean_and_sd([value for value in values if value is not None])
    return {name: mean, f"{name}_sd": deviation}


def _grouped(minima: Sequence[Minimum]) -> dict[tuple[str, float], list[Minimum]]:
    """Return the minima of each data set and budget, data sets as they come, budgets ascending."""
    keys = sorted({(m.data, m.eps) for m in minima}, key=_order(minima))
    return {key: [m for m in minima if (m.data, m.eps) == key] for key in keys}


def _order(held: Sequence[Minimum] | Sequence[Joined]) -> Callable[[tuple[str, float]], tuple[int, float]]:
    places = list(dict.fromkeys(one.data for one in held))
    return lambda key: (places.index(key[0]), key[1])


def _number(value: object) -> float:
    return float(cast(float, value))
