"""Documents with invented numbers for the tests of the report and the plots."""

from math import exp

from isthmus.rates import Rate
from isthmus.report import (
    Choice,
    Cost,
    Curve,
    Data,
    Document,
    Entry,
    Environment,
    Geometry,
    Method,
    RateEntry,
    TriggerEntry,
)
from isthmus.table import Column, Table

T = [i / 30 for i in range(31)]


def rate(percentage: float, n: int) -> RateEntry:
    return RateEntry.of(Rate(round(percentage * n / 100), n))


def entry(name: str, figures: tuple[float, float | None, float | None], **more: object) -> Entry:
    accuracy, attack, recovery = figures
    return Entry.model_validate(
        {
            "name": name,
            "clean_accuracy": rate(accuracy, 4000),
            "attack_success": None if attack is None else rate(attack, 3600),
            "recovery_accuracy": None if recovery is None else rate(recovery, 3600),
            **more,
        }
    )


def _bounds(name: str, percentage: float, n: int) -> dict[str, float]:
    held = rate(percentage, n)
    return {name: 100 * held.value, f"{name}_low": 100 * held.low, f"{name}_high": 100 * held.high}


def columns(trigger: bool) -> list[Column]:
    measured = [("validation_error", "validation", 125), ("test_error", "test", 4000)]
    if trigger:
        measured += [("attack_success", "test", 3600), ("recovery_accuracy", "test", 3600)]
    return [
        Column(name + suffix, "%", "higher" if name == "recovery_accuracy" else "lower", split, n)  # type: ignore[arg-type]
        for name, split, n in measured
        for suffix in ("", "_low", "_high")
    ]


def at(position: float, trigger: bool) -> dict[str, float]:
    """One row of the invented curve: error rises in the middle, attack success falls quickly away from either end."""
    hump = exp(-(((position - 0.5) / 0.22) ** 2))
    error = 15.6 + 9 * hump
    attack = 97 * (exp(-((position / 0.13) ** 4)) + exp(-(((1 - position) / 0.18) ** 4))) + 0.7
    row = _bounds("validation_error", error + 1.5, 125) | _bounds("test_error", error, 4000)
    if trigger:
        row |= _bounds("attack_success", min(attack, 100), 3600) | _bounds(
            "recovery_accuracy", max(0, 100 - attack - error), 3600
        )
    return row


def path(trigger: bool = True) -> Curve:
    rows = [{"t": t} | at(t, trigger) for t in T]
    return Curve.of(
        Table.of(rows, [Column("t", about="position along the path"), *columns(trigger)], {"geometry": "bezier:2"})
    )


def surface() -> Curve:
    grid = [i / 4 for i in range(5)]
    rows = [{"u": u, "v": v} | at((u + v) / 2, True) for u in grid for v in grid]
    return Curve.of(Table.of(rows, [Column("u"), Column("v"), *columns(True)]))


def document(trigger: bool = True, **more: object) -> Document:
    """A realistic report: two tampered networks repaired by a path with 250 trusted images."""

    def seen(accuracy: float, attack: float, recovery: float) -> tuple[float, float | None, float | None]:
        return (accuracy, attack, recovery) if trigger else (accuracy, None, None)

    fields: dict[str, object] = {
        "title": "Repair of net_a.pth and net_b.pth",
        "created": "2026-11-21T09:30:00+00:00",
        "isthmus": "0.1.0",
        "command": (
            "isthmus",
            "repair",
            "net_a.pth",
            "net_b.pth",
            "--arch",
            "my nets.py:net",
            "--clean",
            "250",
            "--out",
            "out",
        ),
        "status": "done",
        "method": Method(
            name="path",
            description="A quadratic Bezier curve was trained between them in weight space, with sharpness-aware steps.",
            rule="farthest from both ends among the points whose validation accuracy is within 5 points of the suspects'",
            settings={
                "steps": 800,
                "learning_rate": 0.02,
                "radius": 2.0,
                "batch": 128,
                "points": [0.3, 0.7],
                "decay": 5e-4,
            },
        ),
        "data": Data(
            name="cifar10",
            num_classes=10,
            input_shape=(3, 32, 32),
            clean_n=250,
            train_n=125,
            validation_n=125,
            test_n=4000,
            digests={"train": "3f" * 32, "validation": "a1" * 32, "test": "9c" * 32},
            augment={"shift": 4, "flip": True},
        ),
        "trigger": TriggerEntry(spec="patch:size=3,at=28x28", target=1) if trigger else None,
        "suspects": (
            entry("net_a.pth", seen(84.6, 97.1, 2.6), path="models/net_a.pth", sha256="ab" * 32, loss=0.47),
            entry("net_b.pth", seen(84.5, 96.0, 3.5), path="models/net_b.pth", sha256="cd" * 32, loss=0.48),
        ),
        "repaired": entry(
            "repaired",
            seen(80.5, 1.2, 78.9),
            path="out/repaired.safetensors",
            sha256="ef" * 32,
            loss=0.61,
            seconds=62.4,
            gradient_evaluations=1600,
        ),
        "baselines": {
            "average": entry(
                "plain average", seen(11.2, 3.4, 10.4), seconds=0.4, note="weights averaged, statistics recalibrated"
            ),
            "fine-tune": entry("fine-tuning", seen(78.0, 12.4, 70.0), seconds=31.0, gradient_evaluations=1600),
            "scratch": entry(
                "from scratch",
                seen(43.1, 4.0, 41.5),
                seconds=30.1,
                gradient_evaluations=1600,
                note="the 250 images only",
            ),
        },
        "curve": path(trigger),
        "choice": Choice(
            u=(0.3,),
            rule="farthest point within the margin",
            explanation="Its validation error is 17.6 %, at most 21.4 % at 95 %.",
            candidates=31,
        ),
        "geometry": Geometry(length=45.2, chord=34.2, ratio=1.32),
        "cost": Cost(
            seconds={"train_path": 62.4, "scan": 24.0, "baselines": 61.5},
            gradient_evaluations={"train_path": 1600, "baselines": 3200},
        ),
        "environment": Environment(
            python="3.11.7", torch="2.13.0", isthmus="0.1.0", platform="Linux x86_64", threads=2, device="cpu"
        ),
        "seeds": {"repair": 0, "split": 0},
        "files": {"out/path.safetensors": "12" * 32},
        "warnings": ("validation holds 125 images: the choice is uncertain by 6 points",),
    }
    return Document.model_validate(fields | more)
