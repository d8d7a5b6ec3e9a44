"""The straight lines between a reference and models matched to it: loss and error along them, before and after permuting."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite, isnan, nan
from time import perf_counter
from typing import cast

from torch import Tensor, nn

from isthmus.barrier import Barrier, barriers
from isthmus.data import Samples
from isthmus.geometry.build import line
from isthmus.probes import Clean
from isthmus.renormalize import Renormalized, renormalize
from isthmus.runs import Run
from isthmus.scan import Row, Watch, scan
from isthmus.settle import Keep, Recalibrate, running_layers
from isthmus.table import Cell, Column, Table, with_bounds
from isthmus.training.session import Monitor

LINES = "lines.json"
EVERY_SECONDS = 1.0  # how often the points so far are written
KEPT, RESET, REPAIR = "as is", "BatchNorm reset", "REPAIR"
MEASURES = ("test_loss", "test_error")
Key = tuple[str, str, str]
"""Model, weights (plain or permuted), and what was done about statistics."""
NAMES = ("model", "weights", "statistics")
_ABOUT = (
    "weight file of the other end",
    "whether the model's units were matched to the reference",
    "of the points between the ends: kept, BatchNorm recomputed, or REPAIR",
)
_KEYS = tuple(Column(name, "1", None, None, None, about) for name, about in zip(NAMES, _ABOUT, strict=True))


@dataclass(frozen=True, eq=False)
class Pair:
    """The other model of a line from the reference: as it came, and with its units matched."""

    name: str
    plain: nn.Module
    permuted: nn.Module


@dataclass(frozen=True, eq=False)
class Measured:
    """midpoints: a row for each pair, weights and statistics. lines: every point. barriers: of loss and error under each definition.

    repaired: which layers REPAIR corrects; where there are none it has no rows, because it would be the BatchNorm reset.
    """

    midpoints: Table
    lines: Table
    barriers: list[dict[str, object]]
    repaired: Renormalized


def measure(
    reference: nn.Module,
    pairs: Sequence[Pair],
    samples: Samples,
    test: Samples,
    points: int,
    keeper: "Keeper",
) -> Measured:
    """Return loss and error on `test` along every line at evenly spaced points and at the middle; `samples` are for the statistics.

    REPAIR depends on the weights of the mixture and is measured at the middle alone.
    """
    ts = sorted(
        {*(k / (points - 1) for k in range(points)), 0.5}
    )  # by division, so that no second 0.5 is off by a rounding
    policies: dict[str, Keep | Recalibrate] = {KEPT: Keep()}
    if running_layers(reference):
        policies[RESET] = Recalibrate(samples)
    probe, repairs = Clean(test), list[Renormalized]()
    keeper.begin(len(pairs) * 2 * len(policies) * len(ts), (Column("t"), *probe.columns))
    rows: list[dict[str, object]] = []
    told: list[dict[str, object]] = []
    for pair in pairs:
        for weights, other in (("plain", pair.plain), ("permuted", pair.permuted)):
            bridge = line([reference, other])
            for name, policy in policies.items():
                key = (pair.name, weights, name)
                table = scan(bridge, ts, [probe], settle=policy, watch=keeper.watch(key))
                keeper.finish(key, table)
                found = _barriers(table)
                rows.append(_labelled(key) | _midpoint(table) | _headlines(found))
                told += [_labelled(key) | {"of": of} | _plain(b) for of, held in found.items() for b in held.values()]
            repairs.append(renormalize(bridge.at(0.5), (reference, other), (0.5, 0.5), samples))
            if repairs[-1].corrected:
                ends = keeper.ends((pair.name, weights, KEPT))
                middle = _midpoint_of(probe(repairs[-1].module), ends)
                rows.append(_labelled((pair.name, weights, REPAIR)) | middle)
    midpoints = with_bounds(Table.of(cast(list[Row], rows), _columns(test)))
    return Measured(midpoints, keeper.table(), told, repairs[-1])


def _labelled(key: Key) -> dict[str, object]:
    return dict(zip(NAMES, key, strict=True))


def _midpoint(table: Table) -> dict[str, object]:
    rows = {row["t"]: row for row in table.rows()}
    return _midpoint_of(rows[0.5], (rows[0.0], rows[1.0]))


def _midpoint_of(middle: Mapping[str, object], ends: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """Return accuracy and loss in the middle, and their rise above the mean of the ends."""

    def rise(name: str) -> float:
        values = [_number(row[name]) for row in (middle, *ends)]
        return values[0] - (values[1] + values[2]) / 2

    return {
        "test_accuracy": 100 - _number(middle["test_error"]),
        "test_loss": _number(middle["test_loss"]),
        "error_rise": rise("test_error"),
        "loss_rise": rise("test_loss"),
    }


def _number(value: object) -> float:
    return nan if value is None else float(cast(float, value))


def _barriers(table: Table) -> dict[str, dict[str, Barrier]]:
    """Return column -> name -> barrier, nothing for a column with points that have no value."""
    held = {name: [_number(value) for value in table.values(name)] for name in MEASURES}
    return {
        name: barriers(table, value=name)
        for name, values in held.items()
        if not any(isnan(value) for value in values) and isfinite(values[0]) and isfinite(values[-1])
    }


def _headlines(found: Mapping[str, Mapping[str, Barrier]]) -> dict[str, object]:
    """Return the barrier of the error (Frankle et al.) and that of the loss (Git Re-Basin)."""
    wanted = {"error_barrier": ("test_error", "frankle"), "loss_barrier": ("test_loss", "git_re_basin")}
    return {name: found[of][which].value for name, (of, which) in wanted.items() if of in found}


def _plain(barrier: Barrier) -> dict[str, object]:
    held: dict[str, object] = dict(asdict(barrier))
    return held | {"value": barrier.value if isfinite(barrier.value) else "Infinity"}


def _columns(test: Samples) -> tuple[Column, ...]:
    loss, error = Clean(test).columns
    above = "in the middle above the mean of the ends"
    return (
        *_KEYS,
        Column("test_accuracy", "%", "higher", "test", error.n, f"in the middle, on {test.name}"),
        Column("test_loss", "nat", "lower", "test", loss.n, f"in the middle, {loss.about}"),
        Column("error_rise", "%", "lower", "test", None, f"error {above}"),
        Column("loss_rise", "nat", "lower", "test", None, f"loss {above}"),
        Column("error_barrier", "%", "lower", "test", None, "frankle: highest error less the mean of the ends"),
        Column("loss_barrier", "nat", "lower", "test", None, "git_re_basin: highest loss less the mean of the ends"),
    )


@dataclass(eq=False)
class Keeper:
    """Writes the points of all lines as they are measured, tells the monitor, and knows those of an interrupted run."""

    run: Run | None = None
    monitor: Monitor | None = None
    total: int = 0
    columns: tuple[Column, ...] = ()
    rows: dict[Key, list[Row]] = field(default_factory=dict[Key, list[Row]])
    tables: dict[Key, Table] = field(default_factory=dict[Key, Table])
    written: float = 0.0

    def begin(self, total: int, columns: tuple[Column, ...]) -> None:
        """Take what an interrupted run in the same folder had measured."""
        self.total, self.columns = total, columns
        if self.run is None or not self.run.resumed or not (self.run.folder / LINES).is_file():
            return
        for row in Table.load(self.run.folder / LINES).rows():
            key = cast(Key, tuple(str(row[name]) for name in NAMES))
            self.rows.setdefault(key, []).append({c.name: _number(row[c.name]) for c in columns})

    def watch(self, key: Key) -> Watch:
        """Return what follows the scan of one line."""
        return Watch(lambda row: self._add(key, row), list(self.rows.get(key, [])))

    def _add(self, key: Key, row: Row) -> None:
        self.rows.setdefault(key, []).append(row)
        if self.monitor is not None:
            self.monitor(sum(len(held) for held in self.rows.values()), self.total, row)
        if self.run is not None and perf_counter() - self.written >= EVERY_SECONDS:
            held = [_labelled(k) | dict(point) for k, points in self.rows.items() for point in points]
            table = Table.of(cast(list[Row], held), (*_KEYS, *self.columns), {"complete": False})
            self.run.save(LINES, table.save)
            self.written = perf_counter()

    def finish(self, key: Key, table: Table) -> None:
        """Take the finished table of a line."""
        self.tables[key] = table

    def ends(self, key: Key) -> list[dict[str, Cell]]:
        """Return the two ends of a finished line."""
        return [row for row in self.tables[key].rows() if row["t"] in (0.0, 1.0)]

    def table(self) -> Table:
        """Return the points of all lines in one table."""
        rows = [_labelled(key) | row for key, table in self.tables.items() for row in table.rows()]
        columns = next(iter(self.tables.values())).columns
        return Table.of(cast(list[Row], rows), (*_KEYS, *columns))


def flat_distance(one: Tensor, two: Tensor) -> float:
    """Return the Euclidean distance of two flat vectors, in float64."""
    return float((one.double() - two.double()).norm())
