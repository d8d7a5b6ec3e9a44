"""`isthmus curvature`: the printed numbers are the library's, every option counts, bad input is one line."""

import json
import re

import pytest
import torch
from safetensors import safe_open
from torch import nn

import weights_example as example
from cli_example import call, tree
from isthmus.layout import Layout
from isthmus.recipes.curvature import run_curvature
from isthmus.recipes.curvature_parts import CurvatureRecipe
from isthmus.training.adversary import Adversary

CODE = """import torch
from torch import nn


class Noise(nn.Module):
    def forward(self, x):
        return x + torch.rand_like(x)


class Step(nn.Module):
    def forward(self, x):
        return x.argmax(1)[:, None] * torch.ones(10)


def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def noisy():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), Noise())


def stepped():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), Step())
"""


@pytest.fixture
def words(tmp_path):
    return ["curvature", example.file(tmp_path / "a.safetensors"), "--n", "40", "--top", "3"]


def test_the_numbers_are_those_of_the_library(capsys, words):
    more = [
        "--negative",
        "--gauss-newton",
        "--density",
        "--probes",
        "2",
        "--steps",
        "6",
        "--trace",
        "--trace-products",
        "9",
    ]
    attack = ["--adversary", "pgd", "--eps", "8/255", "--attack-steps", "2", "--recraft", "--recraft-step", "0.02"]
    done = call(capsys, *words, *more, *attack, "--json")
    assert done.code == 0, done.err
    own = CurvatureRecipe(
        model=str(words[1]),
        n=40,
        top=3,
        negative=True,
        gauss_newton=True,
        density=True,
        probes=2,
        steps=6,
        trace=True,
        trace_products=9,
        adversary=Adversary(eps=(8 / 255,), steps=2),
        recraft=True,
        recraft_steps=(0.02,),
    )
    expected = json.loads(json.dumps(run_curvature(own).to_json()))
    assert done.json | {"seconds": 0} == expected | {"seconds": 0}
    found = done.json
    assert found["eigenvalues"] == sorted(found["eigenvalues"], reverse=True)
    assert len(found["eigenvalues"]) == len(found["residuals"]) == len(found["converged"]) == 3
    assert (found["schema_version"], found["n"], found["split"], found["parameters"]) == ("1", 40, "test", 310)
    assert set(found["trace"]) == {"value", "error", "confidence", "products", "method"}
    assert [row["step"] for row in found["finite_difference"]] == [0.02, 0.02]
    assert found["objective"] == "adversarial loss under pgd (2 steps, linf 0.03137) at frozen examples"
    assert found["frozen"] is True
    assert "not the second derivative of the maximum" in found["notes"][0]


OPTIONS = [
    ("--n", "30"),
    ("--n", "all"),
    ("--seed", "1"),
    ("--split", "train"),
    ("--precision", "64-true"),
    ("--tolerance", "0.3"),
    ("--max-products", "4"),
    ("--batch-size", "7"),
    ("--adversary-set", "start=0.5"),
    ("--attack-steps", "1"),
    ("--eps", "0.2"),
    ("--norm", "l2"),
    ("--probes", "3"),
    ("--steps", "7"),
    ("--trace-products", "12"),
    ("--trace-method", "hutch++"),
]


def test_every_option_changes_the_result(capsys, words):
    plain = ["--density", "--probes", "2", "--steps", "6", "--trace", "--trace-products", "9", "--json"]
    attack = {"--adversary": "pgd", "--eps": "0.1", "--attack-steps": "3"}

    def run(**changes):
        spoken = [str(word) for pair in (attack | changes).items() for word in pair]
        found = call(capsys, *words, *plain, *spoken)
        assert found.code == 0, found.err
        return {key: found.json[key] for key in ("eigenvalues", "residuals", "density", "trace", "n", "loss")}

    before = run()
    for option, value in OPTIONS:
        assert run(**{option: value}) != before, option


def test_people_see_each_eigenvalue_the_stages_and_what_was_frozen(capsys, words):
    done = call(capsys, *words, "--adversary", "pgd", "--eps", "0.1", "--attack-steps", "1", "--trace")
    lines = done.out.splitlines()
    assert re.match(r"eigenvalues \(nat/weight²\), each ± its residual, \d+ products", lines[0])
    values = [float(line.split("±")[0]) for line in lines[1:4]]
    assert values == sorted(values, reverse=True)
    assert "at frozen examples is" in done.out
    assert "not the second derivative of the maximum" in done.out
    assert [line.partition(":")[0] for line in done.err.splitlines()] == ["eigenvalues", "trace"]
    short = call(capsys, *words, "--max-products", "4")
    assert "warning: " in short.out
    assert "Not all eigenpairs met the tolerance" in short.out


def test_the_files_hold_what_was_found_and_the_report_shows_it(capsys, words, tmp_path):
    done = call(capsys, *words, "--out", tmp_path / "o", "--json")
    names = ["curvature.json", "eigenvectors.safetensors", "manifest.json", "recipe.json"]
    assert sorted(tree(tmp_path / "o")) == names
    assert json.loads((tmp_path / "o" / "manifest.json").read_text())["status"] == "done"
    written = json.loads((tmp_path / "o" / "curvature.json").read_text())
    assert {**written, "files": 0} == {**done.json, "files": 0}
    with safe_open(tmp_path / "o" / "eigenvectors.safetensors", framework="pt") as file:
        vectors = file.get_tensor("vectors")
        held = json.loads(file.metadata()["isthmus"])
    layout = Layout.of(example.model())
    assert vectors.shape == (3, layout.size)
    assert (tuple(held["layout"]["names"]), held["format"]) == (layout.names, "isthmus-directions")
    samples = example.images(40)
    matrix = example.dense_hessian(example.model(), samples.inputs(), samples.y)
    quotients = ((vectors @ matrix) * vectors).sum(1)
    assert quotients.tolist() == pytest.approx(done.json["eigenvalues"], rel=1e-4)
    shown = call(capsys, "report", tmp_path / "o")
    assert shown.code == 0, shown.err
    assert shown.out.startswith("The largest eigenvalue of the Hessian of the clean loss is ")
    assert (tmp_path / "o" / "curvature.html").is_file()
    again = call(capsys, *words, "--out", tmp_path / "o", "--resume", "--json")
    assert again.json["eigenvalues"] == done.json["eigenvalues"]


def test_an_interrupted_one_says_how_to_go_on(capsys, words, tmp_path, monkeypatch):
    from isthmus.curvature.operator import BatchOperator

    whole = call(capsys, *words, "--json").json
    calls, original = [], BatchOperator.__call__

    def stopping(self, v):
        if len(calls) == 4:
            raise KeyboardInterrupt
        calls.append(1)
        return original(self, v)

    with monkeypatch.context() as patch:
        patch.setattr(BatchOperator, "__call__", stopping)
        done = call(capsys, *words, "--out", tmp_path / "o")
    assert done.code == 130
    assert done.err.splitlines()[-1].endswith(f"--out {tmp_path / 'o'} --resume")
    assert sorted(tree(tmp_path / "o")) == ["manifest.json", "progress-eigenvalues.pt", "recipe.json"]
    done = call(capsys, *words, "--out", tmp_path / "o", "--resume", "--json")
    assert done.json | {"seconds": 0, "files": 0} == whole | {"seconds": 0, "files": 0}
    other = call(capsys, *words, "--out", tmp_path / "o", "--resume", "--seed", "3")
    assert (other.code, "`seed` should be 0 to resume" in other.err) == (2, True)


def own_model(folder, name, weight=None):
    (folder / "arch.py").write_text(CODE)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    if weight is not None:
        net[1].weight.data[0, 0] = weight
    torch.save(net.state_dict(), folder / "m.pt")
    return [folder / "m.pt", "--arch", f"{folder / 'arch.py'}:{name}", "--data", "digits", "--n", "20"]


CASES = {
    "too many": (["--top", "311"], r"`top` should be at most the 310 dimensions of what is looked at. Found 311"),
    "no images": (["--n", "0"], r"`n` should be a number of images, at least 1, or all. Found 0"),
    "words for a number": (["--n", "some"], r"`n` should be a number of images, at least 1, or all. Found some"),
    "typo in an option": (["--densty"], r"No such option: --densty"),
    "typo in a split": (
        ["--split", "tset"],
        r"`split` should be 'test' or 'train'. Found 'tset'. Did you mean 'test'\?",
    ),
    "precision": (["--precision", "fp16"], r"`precision` should be '32-true' or '64-true'. Found 'fp16'"),
    "subspace": (["--subspace", "normal"], r"`subspace` should be all without a bridge. Found normal"),
    "at": (["--at", "0.5"], r"`at` should come with a bridge. Found \(0.5,\)"),
    "at in words": (["--at", "half"], r"`at` should be numbers such as 0.5 or 0.5,0.5. Found 'half'"),
    "recraft": (["--recraft"], r"`recraft` should come with --adversary"),
    "radius without an attack": (["--eps", "0.1"], r"`eps` should come with --adversary. Found none"),
    "attack without a radius": (["--adversary", "pgd"], r"`eps` should be given with --adversary, such as --eps 8/255"),
    "trigger": (["--loss", "backdoor", "--target", "1"], r"`test_trigger` should be given for the loss 'backdoor'"),
    "target": (["--target", "1"], r"`target` should be given only with the loss 'backdoor'. Found 1"),
    "memory": (
        ["--memory", "0.0004", "--n", "all"],
        r"`batch_size` should fit into 0.4 MiB. Found .* Take a batch size of at most",
    ),
    "memory of the vectors": (
        ["--memory", "0.0008", "--n", "all"],
        r"`max_products` should leave memory for a vector each. Found 200. .* Take at most \d+ steps",
    ),
    "resume": (["--resume"], r"`resume` should come with --out"),
    "tolerance": (["--tolerance", "0"], r"`tolerance` should be greater than 0. Found 0"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_line_and_leaves_nothing(capsys, words, tmp_path, case):
    more, message = CASES[case]
    before = tree(tmp_path)
    out = () if case == "resume" else ("--out", tmp_path / "o")
    done = call(capsys, *words, *more, *out)
    assert (done.code, done.out) == (2, "")
    assert len(done.err.splitlines()) == 1
    assert re.search(message, done.err), done.err
    assert tree(tmp_path) == before


MODELS = {
    "stochastic": (
        "noisy",
        None,
        r"should have the same loss and gradient at each evaluation.*random numbers drawn in '2'",
    ),
    "not differentiable": ("stepped", None, r"`model` should be differentiable in its weights"),
    "nan": ("net", float("nan"), r"should hold finite numbers. Found 1 NaN or infinite"),
}


@pytest.mark.parametrize("case", MODELS)
def test_models_without_a_curvature_are_refused_with_the_reason(capsys, tmp_path, case):
    name, weight, message = MODELS[case]
    done = call(capsys, "curvature", *own_model(tmp_path, name, weight), "--out", tmp_path / "o")
    assert (done.code, done.out) == (2, "")
    assert len(done.err.splitlines()) == 1
    assert re.search(message, done.err), done.err
    assert not (tmp_path / "o").exists()


def test_a_model_of_ones_own_has_a_curvature(capsys, tmp_path):
    done = call(capsys, "curvature", *own_model(tmp_path, "net"), "--json")
    assert done.code == 0, done.err
    assert (len(done.json["eigenvalues"]), done.json["n"]) == (20, 20)
