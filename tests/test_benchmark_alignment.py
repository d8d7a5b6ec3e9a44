"""The benchmark of alignment, reduced to two tiny networks: its tables are those of the records, what is there is not made again."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    for name in (
        "permutation_groups",
        "alignment",
    ):  # the second imports the first, its neighbour when it runs as a script
        spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return module


def test_the_tables_are_those_of_the_records(benchmark: ModuleType, tmp_path: Path, monkeypatch) -> None:
    network = benchmark.Network("vgg11", (2,), 0.05)
    tiny = benchmark.Scale("digits", (network,), ((0, 1),), steps=2, batch=16, n=20, test_n=30, known=("mlp",))
    monkeypatch.setitem(benchmark.SCALES, "tiny", tiny)
    for run in benchmark.cells(tiny, tmp_path).values():
        run()
    rows = json.loads((tmp_path / "vgg11-w2-p0-activations" / "align.json").read_text())["midpoints"]["rows"]
    held = {(row["weights"], row["statistics"]): f"{row['test_accuracy']:.1f}" for row in rows}
    ends = [json.loads((tmp_path / f"vgg11-w2-s{s}" / "metrics.json").read_text())["clean_accuracy"] for s in (0, 1)]
    mean = sum(50 * end["value"] for end in ends)
    text = benchmark.page("tiny", tmp_path)
    line = next(line for line in text.splitlines() if "| activations |" in line)
    assert line.startswith(f"| vgg11 | 2 | {mean:.1f} ± ")
    permuted = [held["permuted", kind] for kind in ("as is", "REPAIR")]
    assert f"| activations | {permuted[0]} | - | {permuted[1]} | 89.4 / 89.8 | 67.3 | 84.9 |" in line
    assert "| mlp | 1,055,242 | 3 | 1,536 | 100.00 |" in text
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    for run in benchmark.cells(tiny, tmp_path).values():
        run()
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


def test_cells_of_the_scales(benchmark: ModuleType, tmp_path: Path) -> None:
    names = [name for name in benchmark.cells(benchmark.SCALES["small"], tmp_path) if not name.startswith("groups-")]
    assert len(names) == 8 * (4 + 2 * 2)  # eight networks: four ends, two pairs matched twice
    assert names[:6] == [
        *(f"vgg11-w16-s{seed}" for seed in range(4)),
        "vgg11-w16-p0-weights",
        "vgg11-w16-p0-activations",
    ]
    assert not list(tmp_path.iterdir())
