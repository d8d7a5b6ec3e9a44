"""The benchmark of hard pairs, reduced to one tiny network: its table is that of the records, what is there is not made again."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from isthmus.data import load_data
from isthmus.evaluate import logits
from isthmus.losses import cross_entropy
from isthmus.randomness import stream
from isthmus.recipes.reserve import kept_apart
from isthmus.store import load_bridge

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    # each imports those before it, its neighbours when it runs as a script
    for name in ("permutation_groups", "alignment", "hard_pairs_cases", "hard_pairs"):
        spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return module


def tiny(benchmark: ModuleType) -> tuple[ModuleType, object]:
    pair = benchmark.Pair("mlp", "mlp:depth=1", 8, (0.05, 0.05), (5e-4, 5e-2))
    sizes = {"steps": 4, "gradients": 20, "ticks": (3, 4), "batch": 16, "validation": 100}
    return pair, benchmark.Scale("digits", (pair,), **sizes, n=50, settle_n=20, points=5)


def test_the_table_is_that_of_the_records(benchmark: ModuleType, tmp_path: Path, monkeypatch) -> None:
    pair, scale = tiny(benchmark)
    monkeypatch.setitem(benchmark.SCALES, "tiny", scale)
    todo = benchmark.cells(scale, tmp_path, {})
    for run in todo.values():
        run()
    text = benchmark.page("tiny", tmp_path)
    rows = [line[2:].split(" | ") for line in text.partition("## Published")[0].splitlines() if line.startswith("| ")]
    rows = {row[0]: row[1:] for row in rows}
    for way in benchmark.PATHS:
        held = json.loads((tmp_path / benchmark.cell(pair, 0, way) / "measured.json").read_text())
        assert rows[way.name][2] == f"{held['loss']:.3f}"
        assert rows[way.name][0] == f"{held['gradients']:,}"
    assert (rows["curve"][0], rows["curve, 4x"][0], rows["walk"][0], rows["walk, 4x"][0]) == ("20", "80", "20", "80")
    assert int(rows["pivots"][0]) >= 16 * 3
    assert int(rows["walk to a loss"][0]) <= 20
    recipe = json.loads((tmp_path / "mlp-0-walk-inward" / "recipe.json").read_text())["settings"]
    assert (recipe["walk"], recipe["geometry"], recipe["plan"]["learning_rate"]) == ("inward-first", "llpf:3", 0.05 / 3)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    for run in todo.values():
        run()
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    given = (tmp_path / "mlp-0-0" / "model.safetensors", tmp_path / "mlp-0-1" / "model.safetensors")
    assert list(benchmark.cells(scale, tmp_path, {"mlp-0": given})) == [
        name for name in todo if name[-2:] not in ("-0", "-1")
    ]
    _the_highest_loss(benchmark, tmp_path)


def _the_highest_loss(benchmark: ModuleType, folder: Path) -> None:
    """Look once more, by hand, at the points of the straight line."""
    splits = load_data("digits")
    pair, _ = tiny(benchmark)
    bridge = load_bridge(folder / "mlp-0-line" / "bridge.safetensors", benchmark.build(pair, splits))
    train = kept_apart(splits.train, 100, test=splits.test)[1].subset(50, generator=stream(0, "train"))
    losses = [float(cross_entropy(logits(bridge.at(float(t)), train), train.y).mean()) for t in torch.linspace(0, 1, 5)]
    held = json.loads((folder / "mlp-0-line" / "measured.json").read_text())
    assert held["loss"] == pytest.approx(max(losses), rel=1e-5)
    assert held["ends"] == pytest.approx(max(losses[0], losses[-1]), rel=1e-5)
    rise = [loss - (1 - k / 4) * losses[0] - k / 4 * losses[-1] for k, loss in enumerate(losses)]
    assert held["entezari"] == pytest.approx(max(rise), abs=1e-5)
    assert (held["gradients"], held["points"], held["ratio"]) == (0, 5, pytest.approx(1.0))


def test_ends_and_cells(benchmark: ModuleType, tmp_path: Path) -> None:
    assert benchmark.ends_given("a=x,y") == ("a", (Path("x"), Path("y")))
    with pytest.raises(benchmark.argparse.ArgumentTypeError, match=r"should be NAME=A,B\. Found 'a=x'\."):
        benchmark.ends_given("a=x")
    names = list(benchmark.cells(benchmark.SCALES["small"], tmp_path, {}))
    assert names.index("vgg11-decay-0-walk-inward") < names.index("vgg11-1-0")
    assert "vgg11-0-walk-inward" not in names
    assert not list(tmp_path.iterdir())
