"""`isthmus landscape`: options reach the recipe, folders get their page, bad input is one line and exit code 2."""

import json

import pytest

from cli_example import call, model_file, tree
from isthmus.probes import Clean
from isthmus.recipes import landscape as module
from isthmus.recipes.landscape import LandscapeRecipe, run_landscape
from isthmus.table import Table

FEW = ("--grid", "3", "--n", "40")


@pytest.fixture
def file(tmp_path):
    return model_file(tmp_path / "m.safetensors")


def test_json_is_the_recipes_table_and_nothing_is_written(capsys, file, tmp_path):
    words = ("--directions", "random", "--range", "0.5", "--orthogonal", "--normalise", "layer", "--seed", "3")
    attack = ("--adversary", "pgd", "--eps", "0.1", "--norm", "l2", "--attack-steps", "2", "--frozen")
    done = call(capsys, "landscape", file, *FEW, *words, *attack, "--split", "train", "--threads", "1", "--json")
    assert done.code == 0, done.err
    recipe = LandscapeRecipe(
        models=(str(file),),
        directions="random",
        grid="3",
        range=0.5,
        normalise="layer",
        orthogonal=True,
        n=40,
        split="train",
        adversary="pgd",
        eps=0.1,
        norm="l2",
        attack_steps=2,
        frozen=True,
        seed=3,
    )
    assert done.json["rows"] == json.loads(json.dumps(run_landscape(recipe).table.to_json()["rows"]))
    assert done.json["meta"]["kind"] == "landscape"
    assert done.json["files"] == {}
    assert list(tree(tmp_path)) == ["m.safetensors"]


def test_three_models_are_a_plane_and_one_dimension_a_line(capsys, tmp_path):
    files = [model_file(tmp_path / f"{i}.safetensors", seed=i) for i in range(3)]
    plane = call(capsys, "landscape", *files, *FEW, "--settle", "keep", "--settle-n", "10", "--json").json
    assert plane["meta"]["directions"] == "plane"
    line = call(capsys, "landscape", files[0], *FEW, "--one-dimensional", "--hessian-n", "30", "--json").json
    assert line["meta"]["directions"] == "eigen"
    assert line["meta"]["axes"][0]["images"] == 30
    assert [set(row) & {"a", "b"} for row in line["rows"]] == [{"a"}] * 3
    again = call(capsys, "landscape", files[0], *FEW, "--dim", "1", "--hessian-n", "30", "--json").json
    assert again["rows"] == line["rows"]


def test_a_folder_holds_the_landscape_and_gets_its_page(capsys, file, tmp_path):
    words = ("landscape", file, *FEW, "--directions", "random", "--trajectory", file)
    done = call(capsys, *words, "--out", tmp_path / "l")
    assert done.code == 0, done.err
    assert done.out.startswith("3 x 3 points of a plane in weight space.\na, along random direction 1 (filter-norm")
    names = ["directions.safetensors", "landscape.csv", "landscape.json", "manifest.json", "recipe.json"]
    assert sorted(tree(tmp_path / "l")) == names
    table = Table.load(tmp_path / "l" / "landscape.json")
    header, *lines = (tmp_path / "l" / "landscape.csv").read_text().splitlines()
    assert tuple(header.split(",")) == table.names
    assert [float(line.split(",")[2]) for line in lines] == table.values("test_loss")
    told = call(capsys, "report", tmp_path / "l")
    assert told.out.splitlines()[-1] == f"written: {tmp_path / 'l' / 'landscape.html'}"
    assert "isthmus landscape" in (tmp_path / "l" / "landscape.html").read_text()
    assert call(capsys, *words, "--seed", "1", "--out", tmp_path / "k").code == 0
    both = call(capsys, "report", tmp_path / "l", tmp_path / "k", "--json")
    assert [len(one["rows"]) for one in both.json["landscapes"]] == [9, 9]
    assert (tmp_path / "l" / "landscapes.html").is_file()
    mixed = call(capsys, "report", tmp_path / "l", tmp_path)
    assert mixed.code == 2
    assert "landscape.json" in mixed.err


def test_an_interrupted_landscape_goes_on_and_can_be_looked_at(capsys, file, tmp_path, monkeypatch):
    words = ("landscape", file, *FEW, "--directions", "random")
    whole = call(capsys, *words, "--json").json["rows"]
    count, original = [], Clean.__call__

    def stopping(self, model, **kw):
        if len(count) == 5:
            raise KeyboardInterrupt
        count.append(0)
        return original(self, model, **kw)

    monkeypatch.setattr(Clean, "__call__", stopping)
    monkeypatch.setattr(module, "EVERY_SECONDS", 0.0)
    done = call(capsys, *words, "--out", tmp_path / "l")
    assert done.code == 130
    assert done.err.splitlines()[-1].endswith("--resume")
    assert "5 points" not in call(capsys, "report", tmp_path / "l").err
    assert "was not finished: these are the points measured so far" in (tmp_path / "l" / "landscape.html").read_text()
    monkeypatch.setattr(Clean, "__call__", original)
    assert call(capsys, *words, "--out", tmp_path / "l", "--resume", "--json").json["rows"] == whole


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--directions", "eigne"), "Did you mean 'eigen'"),
        (("--directions", "plane"), "`models` should be three models for plane. Found 1."),
        (("--grid", "20"), "`grid` should have an odd number of points"),
        (("--range", "-1"), "`range` should be above 0. Found -1.0."),
        (("--at", "half"), "`at` should be coordinates such as 0.5 or 0.3,0.4. Found 'half'."),
        (("--at", "0.5"), "`at` should be given only with a bridge"),
        (("--dim", "2", "--one-dimensional"), "`dim` should be 1 with --one-dimensional. Found 2."),
        (("--adversary", "fgsm"), "`adversary` should be 'none' or 'pgd'. Found 'fgsm'."),
        (("--eps", "-1"), "`eps` should be"),
        (("--vectors", "nowhere"), "`vectors` should be a file of eigenvectors"),
        (("--resume",), "`resume` should come with --out"),
    ],
)
def test_bad_input_is_one_line(capsys, file, words, said):
    done = call(capsys, "landscape", file, *words)
    assert done.code == 2
    assert said in done.err
    assert len(done.err.splitlines()) == 1
