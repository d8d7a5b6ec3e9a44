"""Made-up cells of the study of budgets, whose answers are known on paper."""

from collections.abc import Mapping, Sequence

from isthmus.rates import Rate
from isthmus.recipes.adversarial import Standing
from isthmus.recipes.sharpening_tables import Curvature, Joined, Kind, Minimum
from isthmus.recipes.train import Trained
from isthmus.table import Column, Table

BUDGETS = (0.0, 0.1, 0.2, 0.3, 0.4)
AMOUNTS = (0.0, 0.05, 0.1)
N = 400

_BOUNDED = ("cosine", "fall", "gap")
_COLUMNS = (
    Column("direction"),
    Column("amount"),
    *(Column(f"{name}{end}") for name in _BOUNDED for end in ("", "_low", "_high")),
    Column("sign_cosine"),
    Column("same_start"),
    Column("robust_error", "%", "lower", "test", N),
)


def record(clean: float, robust: float | None) -> Trained:
    """The record of a training with such errors in %."""
    rates = [Rate(1000 - round(10 * error), 1000).to_json() for error in (clean, robust or 0.0)]
    standing = Standing(clean_accuracy=rates[0], robust_accuracy=rates[1], robust_loss=0.5)
    return Trained(
        arch="lenet",
        data="mnist",
        train_n=10,
        clean_accuracy=rates[0],
        loss=0.1,
        seconds=1.0,
        gradient_evaluations=1,
        standings={} if robust is None else {"last": standing},
        files={},
    )


def curvature(top: float, *, true: float | None = None) -> Curvature:
    """Eigenvalues top / k, and a trace of 10 top +- 1."""
    steps = {} if true is None else {0.001: true + 1, 0.01: true, 0.1: true - 1}
    return Curvature(tuple(top / k for k in range(1, 21)), 10 * top, 1.0, steps, dict.fromkeys(steps, top), 100, 0.25)


def scattering(
    *,
    floor: float = 0.9,
    eigen: Sequence[float] = (0.6, 0.3),
    random: Sequence[float] = (0.89, 0.88),
    half: float = 0.01,
) -> Table:
    """Cosines at the amounts, every interval +- `half`; half NaN: too few images."""
    rows: list[dict[str, float | str]] = []
    for name, values in (("eigenvector 1", eigen), ("random 1", random)):
        for place, (amount, cosine) in enumerate(zip(AMOUNTS, (floor, *values), strict=True)):
            row: dict[str, float | str] = {"direction": name, "amount": amount}
            found = {"cosine": cosine, "fall": floor - cosine}
            if name != "eigenvector 1":
                found["gap"] = cosine - (floor, *eigen)[place]
            for key, value in found.items():
                wide = 0.0 if amount == 0 and key != "cosine" else half
                row |= {key: value, f"{key}_low": value - wide, f"{key}_high": value + wide}
            rows.append(row | {"sign_cosine": cosine / 2, "same_start": 1 - amount, "robust_error": 5.0 + 100 * amount})
    return Table.of(rows, _COLUMNS)


def minima(seeds: int = 2, data: str = "mnist", budgets: Sequence[float] = BUDGETS, **more: float) -> list[Minimum]:
    """Top eigenvalue (1 + seed / 10) 10^(10 eps / 4), the true curvature three times as large; the usual similarities."""
    growth = more.get("growth", 10.0)
    return [
        Minimum(
            data,
            eps,
            seed,
            record(1.0 + seed, None if eps == 0 else 100 * eps),
            curvature(
                (1 + seed / 10) * growth ** (eps / 0.4), true=None if eps == 0 else 3 * growth ** (eps / 0.4) + seed
            ),
            None if eps == 0 else scattering(half=more.get("half", 0.01)),
        )
        for seed in range(seeds)
        for eps in budgets
    ]


def path(loss: Sequence[float], error: Sequence[float], *, clean: bool = False, n: int | None = N) -> Table:
    """A scan of a path; clean: of a vanilla minimum, which is not attacked."""
    names = ("test_loss", "test_error") if clean else ("robust_loss", "robust_error")
    columns = (Column("t"), Column(names[0], "nat", "lower", "test", n), Column(names[1], "%", "lower", "test", n))
    ts = [k / (len(loss) - 1) for k in range(len(loss))]
    return Table.of(
        [dict(zip(("t", *names), row, strict=True)) for row in zip(ts, loss, error, strict=True)][::-1], columns
    )


def joined(
    pairs: Sequence[tuple[int, int]] = ((0, 1),),
    data: str = "mnist",
    budgets: Sequence[float] = BUDGETS,
    rise: Mapping[Kind, float] | None = None,
) -> list[Joined]:
    """Curves with a barrier of rise eps (nat) and 100 rise eps (%) above the worse end; lines ten times that in loss, twice in error."""
    height = rise or {"curve": 1.0, "line": 2.0}
    found: list[Joined] = []
    for pair in pairs:
        for eps in budgets:
            for kind, times in height.items():
                more = eps * times
                table = path((0.5, 0.6 + more, 0.6), (10.0, 12.0 + 100 * more, 12.0), clean=eps == 0)
                found.append(Joined(data, eps, pair, kind, table))
    return found
