"""`isthmus scatter`: the printed numbers are the recipe's, every option reaches it, wrong words are one line."""

import json

import pytest
import torch
from safetensors.torch import save_file

from cli_example import call, model_file, tree
from isthmus.geometry.build import bezier
from isthmus.models import load_model
from isthmus.recipes.scattering import CraftingPlan, ScatterAlongRecipe, ScatterRecipe, run_scatter, run_scatter_along
from isthmus.store import Card, save_bridge

FEW = ("--eps", "0.1", "--n", "20", "--attack-steps", "2")
PLAN = CraftingPlan(eps=0.1, n=20, steps=2)


@pytest.fixture
def model(tmp_path):
    return model_file(tmp_path / "m.safetensors", width=4)


@pytest.fixture
def bridge(tmp_path):
    files = [model_file(tmp_path / f"{k}.safetensors", seed=k, width=4) for k in range(2)]
    loaded = [load_model("mlp:depth=1", path, num_classes=10, input_shape=(1, 8, 8), width=4)[0] for path in files]
    card = Card(arch="mlp:depth=1", width=4, num_classes=10, input_shape=(1, 8, 8), data="digits")
    folder = tmp_path / "ab"
    folder.mkdir()
    save_bridge(bezier(loaded, degree=1), folder / "bridge.safetensors", meta=card)
    return folder


def rows(document):
    return document["rows"]


def test_the_numbers_are_those_of_the_recipe_and_of_the_files(capsys, model, tmp_path):
    words = (*FEW, "--amounts", "0,0.5", "--hessian-n", "20", "--out", tmp_path / "o", "--json")
    done = call(capsys, "scatter", model, *words)
    assert done.code == 0, done.err
    recipe = ScatterRecipe(model=str(model), amounts=(0, 0.5), hessian_n=20, crafting=PLAN)
    assert rows(done.json) == run_scatter(recipe).table.rows()
    assert [(row["direction"], row["amount"]) for row in rows(done.json)] == [
        (name, a) for name in ("eigenvector 1", "random 1") for a in (0.0, 0.5)
    ]
    written = json.loads((tmp_path / "o" / "scattering.json").read_text())
    assert rows(written) == rows(done.json)
    again = call(capsys, "scatter", model, *words, "--resume")
    assert rows(again.json) == rows(done.json)
    assert "images.safetensors" in tree(tmp_path / "o")


@pytest.mark.parametrize(
    "words",
    [
        ("--norm", "l2"),
        ("--eps", "8/255"),
        ("--attack-steps", "3"),
        ("--attack-step", "0.6"),
        ("--start", "0"),
        ("--split", "train"),
        ("--n", "21"),
        ("--amounts", "0,0.7"),
        ("--random", "2"),
        ("--eigen", "1"),
        ("--seed", "1"),
    ],
)
def test_every_option_changes_the_result(capsys, model, words):
    base = ("scatter", model, *FEW, "--eigen", "0", "--amounts", "0.5", "--json")
    before, after = call(capsys, *base), call(capsys, *base, *words)
    assert after.code == 0, after.err
    assert rows(after.json) != rows(before.json)


def test_vectors_of_a_file(capsys, model, tmp_path):
    size = 64 * 4 + 4 + 4 * 10 + 10
    save_file({"vectors": torch.eye(2, size)}, tmp_path / "v.safetensors")
    words = ("--vectors", tmp_path / "v.safetensors", "--eigen", "2", "--random", "0", "--amounts", "1")
    done = call(capsys, "scatter", model, *FEW, *words, "--json")
    assert [row["direction"] for row in rows(done.json)] == ["eigenvector 1"] * 2 + ["eigenvector 2"] * 2


def test_people_see_a_table_and_the_floor(capsys, model):
    done = call(capsys, "scatter", model, *FEW, "--eigen", "0", "--amounts", "0.5")
    lines = done.out.splitlines()
    assert lines[0].startswith("| direction | amount | cosine | cosine_low | cosine_high |")
    assert lines[-1].startswith("floor: 0.")
    assert done.err.startswith("scattering: 2 of 2 in ")


def test_along_a_bridge(capsys, bridge):
    words = ("--points", "3", "--step", "0.1", "--settle-n", "50")
    done = call(capsys, "scatter", bridge, *FEW, *words, "--json")
    assert done.code == 0, done.err
    recipe = ScatterAlongRecipe(bridge=str(bridge), points=3, step=0.1, settle_n=50, crafting=PLAN)
    assert rows(done.json) == run_scatter_along(recipe).table.rows()
    plain = call(capsys, "scatter", bridge, *FEW, "--points", "3").out.splitlines()
    assert plain[0].startswith("| t | cosine |")
    assert plain[-1].startswith("| 1 | ")  # no line about a floor: it is a column


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--amounts", "0,x"), "`amounts` should be numbers such as 0,0.1,0.5. Found '0,x'."),
        (("--step", "0.1"), "`step` should come with --points, along a bridge. Found 0.1."),
        (("--points", "3", "--random", "2"), "`random` should be left out with --points, along a bridge. Found 2."),
        (("--resume",), "`resume` should come with --out, the folder to continue in. Found none."),
        (
            ("--eigen", "0", "--random", "0"),
            "`eigen` should be at least 1 where there are no random directions. Found 0.",
        ),
        (("--split", "validation", "--eigen", "0"), "`split` should be train or test. Found validation."),
        (("--norm", "l3"), "`norm` should be 'linf', 'l2' or 'l1'. Found 'l3'."),
    ],
)
def test_wrong_words_are_one_line(capsys, model, words, line):
    done = call(capsys, "scatter", model, *FEW, *words)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"isthmus: {line}")
    assert len(done.err.splitlines()) == 1
