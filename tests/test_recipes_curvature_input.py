"""`run_curvature` on what it cannot use: refused with the reason before anything is written."""

import pytest

import weights_example as example
from isthmus._check import InputError
from isthmus.recipes.curvature import run_curvature
from isthmus.recipes.curvature_parts import CurvatureRecipe
from isthmus.runs import Run


def recipe(path, **more) -> CurvatureRecipe:
    return CurvatureRecipe.model_validate({"model": path, "n": 60, "precision": "64-true", "top": 6, **more})


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return str(example.file(tmp_path_factory.mktemp("models") / "a.safetensors"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"top": 400}, r"`top` should be at most the 310 dimensions of what is looked at. Found 400"),
        ({"top": 9, "max_products": 8}, r"`max_products` should be at least the 9 eigenvalues. Found 8"),
        ({"recraft": True}, r"`recraft` should come with --adversary"),
        ({"subspace": "normal"}, r"`subspace` should be all without a bridge. Found normal. Name a bridge"),
        ({"at": (0.5,)}, r"`at` should come with a bridge. Found \(0.5,\) for the model"),
        (
            {"loss": "backdoor"},
            r"`test_trigger` should be given for the loss 'backdoor'. Found none. Give --test-trigger",
        ),
        ({"target": "1"}, r"`target` should be given only with the loss 'backdoor'. Found 1. Say --loss backdoor"),
        (
            {"loss": "backdoor", "test_trigger": "patch", "target": "1", "adversary": {}},
            r"`loss` should be clean with an adversary. Found backdoor",
        ),
        (
            {"adversary": {}, "recraft": True, "recraft_steps": (0.0,)},
            r"`recraft_steps` should be above 0 and finite. Found \(0.0,\)",
        ),
        ({"memory": 1e-6}, r"should fit into 0.0 MiB"),
        ({"model": "nothing.pt", "data": "digits", "arch": "mlp"}, r"Found nothing at"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(path, tmp_path, changes, message) -> None:
    asked = recipe(path, **changes)
    with pytest.raises(InputError, match=message), Run.open(tmp_path / "o", asked) as run:
        run_curvature(asked, run)
    assert not (tmp_path / "o").exists()


def test_a_bridge_needs_a_place_and_a_folder_a_bridge(tmp_path) -> None:
    path, _ = example.bridge_file(tmp_path)
    with pytest.raises(
        InputError, match=r"`at` should be given for a bridge: the coordinates of a point, such as --at 0.5"
    ):
        run_curvature(recipe(path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"`model` should be a weight file, a bridge file, or a folder with a bridge"):
        run_curvature(recipe(str(tmp_path / "empty")))
    with pytest.raises(InputError, match=r"`top` should be at most the 1 dimensions"):
        run_curvature(recipe(path, at=(0.5,), subspace="tangent", top=2))


def test_memory_that_is_too_small_names_a_smaller_batch(path) -> None:
    few = recipe(path, n=None, batch_size=1000, memory=6e-4, max_products=20, precision="32-true")
    with pytest.raises(
        InputError, match=r"`batch_size` should fit into 0.6 MiB. Found .* Take a batch size of at most \d+"
    ):
        run_curvature(few)
