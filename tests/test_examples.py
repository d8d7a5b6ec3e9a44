"""The gallery runs, and its asserts hold."""

import runpy
from pathlib import Path

import pytest

GALLERY = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("path", GALLERY, ids=[path.stem for path in GALLERY])
def test_example_runs_and_its_claims_hold(path: Path) -> None:
    runpy.run_path(str(path))


def test_readme_code_runs() -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    held: dict[str, object] = {}
    exec(compile(code.replace("steps=100", "steps=3"), "README.md", "exec"), held)
    assert "model" in held
