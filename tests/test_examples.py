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


def test_the_blocks_of_constructions_run(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[1] / "docs" / "constructions.md").read_text()
    held: dict[str, object] = {}
    for block in text.split("```python\n")[1:]:
        exec(compile(block.split("```")[0], "constructions.md", "exec"), held)
    printed = capsys.readouterr().out.splitlines()
    assert float(printed[0]) < 1e-5  # the triangle and its patch
    assert printed[2] == "(0.0, 0.0, 0.0, 1.0)"
    assert all(float(value) > -1 for value in printed[3].split())  # barriers: the centre of the star, a pair
    assert printed[5].startswith("(('1.weight', '1.bias')")
