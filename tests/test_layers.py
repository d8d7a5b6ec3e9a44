"""The house rules that a reader relies on: imports point down, importing is light, files stay short."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = {"plotly", "matplotlib", "sklearn", "timm", "transformers", "datasets", "torchvision", "pytorch_lightning"}

IMPORT_ALL = """
import importlib, json, pkgutil, sys
import isthmus
names = [m.name for m in pkgutil.walk_packages(isthmus.__path__, "isthmus.") if not m.name.endswith("__main__")]
for name in names:
    importlib.import_module(name)
print(json.dumps([names, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def lint_imports(folder: Path, source: Path) -> subprocess.CompletedProcess[str]:
    """Run the contract in `folder`'s pyproject.toml on the package that lies in `source`."""
    run = "import sys; sys.path.insert(0, sys.argv.pop()); from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", run, "--no-cache", str(source)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_imports_point_only_down() -> None:
    done = lint_imports(ROOT, ROOT / "src")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 kept, 0 broken" in done.stdout


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("layout", "from isthmus import training\n"),  # up
        ("tampering/triggers", "def late():\n    from isthmus import geometry\n"),  # sideways, inside a function
        ("utils", ""),  # a module without a place
    ],
)
def test_a_broken_rule_is_seen(tmp_path: Path, module: str, text: str) -> None:
    source = tmp_path / "src"
    for package in ("", "training", "tampering", "geometry"):
        folder = source / "isthmus" / package
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "__init__.py").touch()
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    before = lint_imports(tmp_path, source)
    assert before.returncode == 0, before.stdout + before.stderr
    (source / "isthmus" / f"{module}.py").write_text(text)
    after = lint_imports(tmp_path, source)
    assert after.returncode == 1, after.stdout + after.stderr
    assert "imports point only down" in after.stdout + after.stderr


def test_importing_is_light() -> None:
    """Figures, scikit-learn and the extras are imported by the functions that need them."""
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names, loaded = json.loads(done.stdout)
    assert "isthmus.layout" in names
    assert HEAVY.isdisjoint(loaded), sorted(HEAVY & set(loaded))


def test_files_stay_short() -> None:
    sources = sorted((ROOT / "src").rglob("*.py"))
    assert sources
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in sources}
    assert {name: n for name, n in lengths.items() if n > 300} == {}
