"""What the scans of the study of Zhao et al. 2020 say: barriers, correlations and which of the paper's claims hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from isthmus.association import Association, associate_columns
from isthmus.barrier import barriers
from isthmus.recipes.study import Claim, Findings, every
from isthmus.table import Column, Table

Loss = Literal["standard", "robust"]
Row = dict[str, str | int | float | None]
PAIRS = ("regular-regular", "regular-robust", "robust-robust")
SHARE = 0.1  # a rise above the worse end is called a barrier from this share of that end's loss on


_KEY = (Column("pair"), Column("seed"), Column("path", about="the loss that the path was trained on"))
BARRIERS = (
    *_KEY,
    Column("test_loss_rise", "nat", "lower", "test", None, "highest minus that of the worse end"),
    Column("test_loss_excess", "nat", "lower", "test", None, "highest above the line between the ends"),
    Column("robust_loss_rise", "nat", "lower", "test", None, "highest minus that of the worse end"),
    Column("robust_loss_excess", "nat", "lower", "test", None, "highest above the line between the ends"),
    Column("robust_loss_at", "1", None, "test", None, "t of the highest robust loss"),
    Column("robust_loss_max", "nat", "lower", "test", None, "highest robust loss"),
    Column("test_error_rise", "%", "lower", "test", None, "highest minus that of the worse end"),
    Column("robust_error_rise", "%", "lower", "test", None, "highest minus that of the worse end"),
    Column("test_error_ends", "%", None, "test", None, "at t = 0 and t = 1"),
    Column("robust_error_ends", "%", None, "test", None, "at t = 0 and t = 1"),
)
CURVATURE = (
    *_KEY,
    Column("pearson", "1", None, "test", None, "robust_loss with input_eigenvalue"),
    Column("pearson_low", "1", None, "test", None, "95 % interval"),
    Column("pearson_high", "1", None, "test", None, "95 % interval"),
    Column("spearman", "1", None, "test", None, "robust_loss with input_eigenvalue"),
    Column("spearman_low", "1", None, "test", None, "95 % interval"),
    Column("spearman_high", "1", None, "test", None, "95 % interval"),
    Column("points", "1", None, None, None, "scanned"),
    Column("effective", "1", None, None, None, "independent points that Pearson's interval rests on"),
    Column("images", "1", None, "test", None, "attacked"),
    Column("hessian_images", "1", None, "test", None, "whose eigenvalue was computed"),
)


@dataclass(frozen=True)
class Scan:
    """A finished scan: which pair, from which seed, on which loss its path was trained, and its table."""

    pair: str
    seed: int
    loss: Loss
    table: Table


def summarise(scans: Sequence[Scan], seeds: int) -> Findings:
    """Return the tables and what becomes of the claims, from the scans alone.

    A barrier is a rise above the worse end (Draxler et al. 2018) by at least a tenth of that end's loss; the excess over the straight
    line between the ends (Entezari et al. 2022) stands beside it.
    """
    rows = [_heights(scan) for scan in scans]
    curved = [_curvature(scan) for scan in scans]
    notes = (
        f"A rise above the worse end counts as a barrier from {100 * SHARE:g} % of that end's loss on (`*_rise`). `*_excess` is the "
        "largest height above the straight line between the ends; between a regular and a robust model the two differ much.",
        "Maxima are over the scanned points of one path each. The interval of a correlation is about other points of the same path, "
        "corrected for neighbours being alike (`effective`), not about other pairs of models.",
        "The robust loss is what PGD-10 finds, a lower bound of the largest loss in the ball.",
    )
    tables = {
        "Barriers": Table.of(rows, BARRIERS),
        "Robust loss and input curvature": Table.of(curved, CURVATURE),
    }
    return Findings(tables, _claims(scans, seeds), notes)


def _key(scan: Scan) -> Row:
    return {"pair": scan.pair, "seed": scan.seed, "path": scan.loss}


def _ends(scan: Scan, column: str) -> tuple[float, float]:
    rows = sorted(scan.table.rows(), key=lambda row: float(row["t"]))  # type: ignore[arg-type]
    return float(rows[0][column]), float(rows[-1][column])  # type: ignore[arg-type]


def _heights(scan: Scan) -> Row:
    found = {
        name: barriers(scan.table, value=name) for name in ("test_loss", "robust_loss", "test_error", "robust_error")
    }
    row = _key(scan)
    for name in ("test_loss", "robust_loss"):
        row[f"{name}_rise"] = found[name]["draxler_rise"].value
        row[f"{name}_excess"] = found[name]["entezari"].value
    for name in ("test_error", "robust_error"):
        row[f"{name}_rise"] = found[name]["draxler_rise"].value
        row[f"{name}_ends"] = ", ".join(f"{value:.1f}" for value in _ends(scan, name))
    top = found["robust_loss"]["draxler_max"]
    return row | {"robust_loss_at": top.t, "robust_loss_max": top.value}


def related(scan: Scan) -> Association | None:
    """Return how the robust loss goes with the largest input eigenvalue along the path, None where there is nothing to tell."""
    return associate_columns(scan.table, "robust_loss", "input_eigenvalue")


def _curvature(scan: Scan) -> Row:
    found = related(scan)
    row = _key(scan)
    row |= {
        "points": len(scan.table),
        "images": scan.table.column("robust_loss").n,
        "hessian_images": scan.table.column("input_eigenvalue").n,
    }
    if found is None:
        return row
    for name, held in (("pearson", found.pearson), ("spearman", found.spearman)):
        row |= {name: held.value, f"{name}_low": held.low, f"{name}_high": held.high}
    return row | {"effective": found.pearson.effective}


def barred(scan: Scan, column: str) -> bool:
    """Return whether `column` rises above its worse end by at least a tenth of it."""
    rise = barriers(scan.table, value=column)["draxler_rise"].value
    return rise > 0 and rise >= SHARE * max(_ends(scan, column))


def _claims(scans: Sequence[Scan], seeds: int) -> tuple[Claim, ...]:
    total = len(PAIRS) * seeds
    standard = {(scan.pair, scan.seed): scan for scan in scans if scan.loss == "standard"}
    robust = {(scan.pair, scan.seed): scan for scan in scans if scan.loss == "robust"}
    flat = [not barred(scan, "test_loss") for scan in standard.values()]
    high = [barred(scan, "robust_loss") for scan in standard.values()]
    associations = [found for scan in standard.values() if (found := related(scan)) is not None]
    positive = [found.pearson.low > 0 for found in associations]
    both = [key for key in standard if key in robust]
    return (
        Claim("Paths trained on the standard loss have no barrier of it.", _of(flat, total), every(flat, total)),
        Claim("They have a barrier of the robust loss.", _of(high, total), every(high, total)),
        Claim(
            "Along them the robust loss goes up and down with the largest input eigenvalue (Pearson's interval above 0).",
            _of(positive, total)
            + ("; " + ", ".join(f"{found.pearson.value:.2f}" for found in associations) if associations else ""),
            every(positive, total),
        ),
        _lower(standard, robust, both, total),
    )


def _lower(
    standard: Mapping[tuple[str, int], Scan],
    robust: Mapping[tuple[str, int], Scan],
    both: Sequence[tuple[str, int]],
    total: int,
) -> Claim:
    """Return whether training the path on the robust loss lowers its barrier, which the paper leaves open."""
    kinds = {"rise": "draxler_rise", "excess": "entezari", "maximum": "draxler_max"}
    parts: list[str] = []
    verdicts: list[bool] = []
    for word, kind in kinds.items():
        values = [
            [barriers(held[key].table, value="robust_loss")[kind].value for held in (standard, robust)] for key in both
        ]
        lower = [after < before for before, after in values]
        verdicts = lower if word == "rise" else verdicts
        parts.append(f"the {word} is lower on {_of(lower, total)}")
    return Claim(
        "Paths trained on the robust loss have a lower barrier of it (our question).",
        ", ".join(parts),
        every(verdicts, total),
    )


def _of(found: Sequence[bool], total: int) -> str:
    missing = "" if len(found) == total else f" ({total - len(found)} missing)"
    return f"{sum(found)} of {len(found)} paths{missing}"
