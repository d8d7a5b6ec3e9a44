"""Invented scans of paths between regular and adversarially trained models, for the tests of the figures and the pages."""

from math import exp, log1p

from isthmus.rates import Rate
from isthmus.table import Column, Table, with_bounds

N = 1000
PAIRS = {"regular–regular": (1.0, 1.0), "regular–robust": (1.0, 0.12), "robust–robust": (0.12, 0.12)}


def columns() -> list[Column]:
    return [
        Column("t", "1", None, None, None, "coordinate on the bridge"),
        Column("test_loss", "nat", "lower", "test", N, "mean cross-entropy on cifar10"),
        Column("test_error", "%", "lower", "test", N, "misclassified of cifar10"),
        Column(
            "robust_loss", "nat", "lower", "test", N, "mean of the largest cross-entropy met under pgd, linf 0.03137"
        ),
        Column("robust_error", "%", "lower", "test", N, "misclassified under pgd, linf 0.03137"),
        Column("evasion_success", "%", "lower", "test", None, "made wrong, of those classified correctly"),
        Column(
            "input_eigenvalue", "nat/input²", "lower", "test", N, "mean of the largest eigenvalue of the input Hessian"
        ),
        Column("input_eigenvalue_median", "nat/input²", "lower", "test", N, "median over the images"),
        Column("input_eigenvalue_q90", "nat/input²", "lower", "test", N, "90 % quantile over the images"),
    ]


def at(t: float, ends: tuple[float, float], barrier: float) -> dict[str, float]:
    """One row: steep (1) or flat (0.12) ends, a barrier of robust loss between them, little change of the loss itself."""
    wave = 0.5 + 0.5 * ((7919 * round(1000 * t)) % 97) / 97  # a fixed scatter in 0.5..1
    steep = (1 - t) * ends[0] + t * ends[1] + barrier * exp(-(((t - 0.55) / 0.2) ** 2)) + 0.03 * wave
    wrong = round(N * (0.08 + 0.08 * (1 - ends[0] * (1 - t) - ends[1] * t) + 0.01 * wave))
    lost = round((N - wrong) * (1 - exp(-2.6 * steep)))
    return {
        "t": t,
        "test_loss": 0.24 + 0.1 * wrong / N + 0.02 * wave,
        "test_error": 100 * wrong / N,
        "robust_loss": 0.8 + 9 * log1p(steep) * (0.9 + 0.1 * wave),
        "robust_error": 100 * (wrong + lost) / N,
        "evasion_success": 100 * lost / (N - wrong),
        "input_eigenvalue": 60 * steep**1.5 * (0.7 + 0.5 * wave),
        "input_eigenvalue_median": 4 * steep**2,
        "input_eigenvalue_q90": 150 * steep**1.5,
    }


def table(pair: str = "regular–robust", *, barrier: float = 0.6, points: int = 31, drop: tuple[str, ...] = ()) -> Table:
    rows = [at(i / (points - 1), PAIRS[pair], barrier) for i in range(points)]
    kept = [column for column in columns() if column.name not in drop]
    rows = [{column.name: row[column.name] for column in kept} for row in rows]
    return with_bounds(
        Table.of(rows, kept, {"seed": 0, "settle": "Recalibrate", "bridge": "runs/ab", "data": "cifar10"})
    )


def attack(**more: object) -> dict[str, object]:
    """What `isthmus attack` writes: the published order of four attacks on 1,000 images."""
    left, lines = 880, []
    for name, fooled in (("apgd-ce", 361), ("apgd-t", 34), ("fab-t", 0), ("square", 1)):
        lines.append(
            {
                "attack": name,
                "attacked": left,
                "fooled": fooled,
                "robust_accuracy": Rate(left - fooled, N).to_json(),
                "queries": 110 * left,
                "gradient_passes": 0 if name == "square" else 100 * left,
                "seconds": 0.031 * left,
            }
        )
        left -= fooled
    return {
        "status": "done",
        "suite": "standard",
        "models": ["A.pth"],
        "data": "cifar10",
        "seed": 0,
        "clean_accuracy": Rate(880, N).to_json(),
        "robust_accuracy": Rate(left, N).to_json(),
        "reliable": True,
        "attacks": lines,
        "gradient_passes": 1,
        "queries": 1,
        "passes": 1,
        "warnings": ["square fooled 1 image that the attacks with gradients left: their gradients may be masked."],
        "threat": {"norm": "linf", "radius": 8 / 255, "low": 0.0, "high": 1.0},
        "notes": [],
        "seconds": 61.2,
        **more,
    }
