"""`run_curvature` interrupted: every stage is taken up where it was, and ends at the same bits."""

import json

import pytest
import torch
from safetensors.torch import load_file

import weights_example as example
from isthmus.recipes import curvature_parts
from isthmus.recipes.curvature import run_curvature
from isthmus.recipes.curvature_parts import CurvatureRecipe
from isthmus.runs import Run


def recipe(path, **more) -> CurvatureRecipe:
    return CurvatureRecipe.model_validate(
        {"model": path, "n": 60, "precision": "64-true", "top": 6, "tolerance": 1e-9, **more}
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return str(example.file(tmp_path_factory.mktemp("models") / "a.safetensors"))


def stopping(monkeypatch, at: int) -> list[int]:
    """Interrupt at the product `at`."""
    from isthmus.curvature.operator import BatchOperator

    original, calls = BatchOperator.__call__, []

    def counted(self, v):
        if len(calls) == at:
            raise KeyboardInterrupt
        calls.append(1)
        return original(self, v)

    monkeypatch.setattr(BatchOperator, "__call__", counted)
    return calls


WHOLE = {"negative": True, "density": True, "probes": 2, "steps": 5, "trace": True, "trace_products": 8}
PARTS = {
    **WHOLE,
    "gauss_newton": True,
    "top": 2,
    "tolerance": 1e-3,
    "adversary": {"eps": (0.1,), "steps": 1},
    "recraft": True,
}


def test_an_interrupted_measurement_resumed_is_the_same(path, tmp_path, monkeypatch) -> None:
    asked = recipe(path, **PARTS)
    with monkeypatch.context() as patch:
        calls = stopping(patch, -1)
        whole = run_curvature(asked)
        total = len(calls)
    expected = whole.document | {"seconds": 0}
    for place, stop in enumerate(range(2, total, total // 6)):
        folder = tmp_path / str(place)
        with monkeypatch.context() as patch:
            stopping(patch, stop)
            with pytest.raises(KeyboardInterrupt), Run.open(folder, asked) as run:
                run_curvature(asked, run)
        assert json.loads((folder / "manifest.json").read_text())["status"] == "interrupted"
        assert list(folder.glob("progress-*.pt"))
        with monkeypatch.context() as patch:
            calls = stopping(patch, -1)
            with Run.open(folder, asked, resume=True) as run:
                again = run_curvature(asked, run)
            assert len(calls) <= total - stop + 4  # a probe of the density, two products of the differences
        assert again.document | {"seconds": 0} == expected
        assert torch.equal(again.vectors, whole.vectors)
        names = ["curvature.json", "eigenvectors.safetensors", "manifest.json", "recipe.json"]
        assert sorted(file.name for file in folder.iterdir()) == names
        assert torch.equal(load_file(folder / "eigenvectors.safetensors")["vectors"], whole.vectors)
        with Run.open(folder, asked, resume=True) as run, monkeypatch.context() as patch:
            stopping(patch, 0)  # a finished one is read
            assert run_curvature(asked, run).document == again.document


def test_the_state_is_written_while_it_works(path, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(curvature_parts, "EVERY_SECONDS", 0.0)
    asked = recipe(path)
    seen: list[bool] = []
    told: list[str] = []

    def monitor(step, steps, metrics) -> None:
        seen.append((tmp_path / "o" / "progress-eigenvalues.pt").is_file())
        assert 1 <= step <= steps == 200

    with Run.open(tmp_path / "o", asked) as run:
        run_curvature(asked, run, monitor=monitor, tell=told.append)
    assert seen[0] is False
    assert all(seen[1:])
    assert told == ["eigenvalues"]
