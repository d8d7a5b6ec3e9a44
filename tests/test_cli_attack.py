"""`isthmus attack`: the printed numbers are the library's, interrupted runs go on, bad input is one line."""

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from cli_example import call, tree
from isthmus.attacks.cascade import Settings, robustness
from isthmus.attacks.pgd import PGD
from isthmus.attacks.threat import Threat
from isthmus.data import load_data
from isthmus.recipes import attack as recipe_attack
from isthmus.table import Table

CODE = "from torch import nn\n\n\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
FIRST = torch.arange(100)


def model(shift=0.0):
    """Nearest class mean of the digits, a linear classifier of some 90 %."""
    train = load_data("digits").train
    x = train.inputs().flatten(1)
    means = torch.stack([x[train.y == c].mean(0) for c in range(10)]) + shift * torch.eye(10, 64)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    net[1].weight.data.copy_(means)
    net[1].bias.data.copy_(-means.square().sum(1) / 2)
    return net


@pytest.fixture
def words(tmp_path):
    """The begin of a command that attacks a model in a file."""
    (tmp_path / "arch.py").write_text(CODE)
    save_file({k: v.contiguous() for k, v in model().state_dict().items()}, tmp_path / "a.safetensors")
    save_file({k: v.contiguous() for k, v in model(0.5).state_dict().items()}, tmp_path / "b.safetensors")
    arch = f"{tmp_path / 'arch.py'}:net"
    return ["attack", tmp_path / "a.safetensors", "--arch", arch, "--data", "digits", "--n", "100"]


def without_times(document):
    attacks = [{key: value for key, value in entry.items() if key != "seconds"} for entry in document["attacks"]]
    return {**document, "attacks": attacks, "seconds": 0, "files": {}}


def test_the_numbers_are_those_of_the_library(capsys, words):
    done = call(capsys, *words, "--eps", "0.05", "--attack", "fgsm+pgd:steps=3", "--batch-size", "30", "--json")
    assert done.code == 0, done.err
    test = load_data("digits").test.take(FIRST)
    own = robustness(model(), test, "fgsm+pgd:steps=3", Threat("linf", 0.05), settings=Settings(batch_size=30))
    document = json.loads(json.dumps(own.to_json()))
    assert without_times(done.json) == {
        **without_times(document),
        "status": "done",
        "suite": "fgsm+pgd:steps=3",
        "models": [str(words[1])],
        "data": "digits/test",
        "seed": 0,
        "notes": [],
    }
    assert 0 < own.robust.hits < own.clean.hits < 100
    assert done.json["robust_accuracy"] == {
        "value": own.robust.value,
        "n": 100,
        "low": own.robust.low,
        "high": own.robust.high,
    }


@pytest.mark.parametrize(
    ("option", "value"), [("--n", "50"), ("--norm", "l2"), ("--seed", "1"), ("--eps", "8/255"), ("--attack", "fgsm")]
)
def test_every_option_changes_the_result(capsys, words, option, value):
    plain = ["--eps", "0.15", "--attack", "pgd:steps=2"]
    before = call(capsys, *words, *plain, "--json").json
    after = call(capsys, *words, *plain, option, value, "--json").json
    assert after["attacks"][0] | {"seconds": 0} != before["attacks"][0] | {"seconds": 0}
    assert after["seed"] == (1 if option == "--seed" else 0)
    assert after["threat"]["radius"] == (8 / 255 if option == "--eps" else 0.15)
    assert after["threat"]["norm"] == ("l2" if option == "--norm" else "linf")


def test_more_images_than_there_are_means_all(capsys, words):
    done = call(capsys, *words[:-1], "9999", "--eps", "0.05", "--attack", "fgsm", "--json")
    assert done.json["clean_accuracy"]["n"] == len(load_data("digits").test)


def test_people_see_a_line_for_each_attack_a_table_and_the_rates(capsys, words):
    done = call(capsys, *words, "--eps", "0.05", "--attack", "fgsm+pgd", "--batch-size", "40")
    lines = done.out.splitlines()
    assert lines[0].startswith("| attack | attacked | fooled | robust_accuracy (%) | robust_accuracy_low (%) |")
    assert lines[2].startswith("| fgsm | ")
    assert lines[3].startswith("| pgd-10 | ")
    rates = re.findall(r"^(clean|robust) accuracy: ([\d.]+) % \(Wilson 95 %: .*, n = 100\)$", done.out, re.MULTILINE)
    assert [name for name, _ in rates] == ["clean", "robust"]
    told = re.findall(r"^(\S+): (\d+) of \2 in [\d.]+ s, robust error ([\d.]+) %$", done.err, re.MULTILINE)
    assert [name for name, _, _ in told] == ["fgsm", "pgd-10"]
    assert float(told[-1][2]) == pytest.approx(100 - float(rates[1][1]), abs=0.1)


def test_the_files_hold_what_was_found(capsys, words, tmp_path):
    done = call(capsys, *words, "--eps", "0.05", "--attack", "pgd", "--out", tmp_path / "o", "--json")
    names = ["adversarial.safetensors", "attack.json", "manifest.json", "recipe.json", "table.json"]
    assert sorted(tree(tmp_path / "o")) == names
    assert json.loads((tmp_path / "o" / "manifest.json").read_text())["status"] == "done"
    written = json.loads((tmp_path / "o" / "attack.json").read_text())
    assert {**written, "files": 0} == {**done.json, "files": 0}
    held = load_file(tmp_path / "o" / "adversarial.safetensors")
    test = load_data("digits").test.take(FIRST)
    assert torch.equal(held["labels"], test.y)
    wrong = model()(held["points"]).argmax(1) != held["labels"]
    assert torch.equal(wrong, held["fooled"] | ~held["correct"])
    assert 1 - float(wrong.double().mean()) == pytest.approx(done.json["robust_accuracy"]["value"])
    assert float((held["points"].double() - test.inputs().double()).abs().max()) <= 0.05 + 1e-7
    rows = Table.load(tmp_path / "o" / "table.json").rows()
    assert rows[0]["fooled"] == int(held["fooled"].sum()) == done.json["attacks"][0]["fooled"]


def test_several_models_are_their_softmax_ensemble(capsys, words):
    words.insert(2, words[1].with_name("b.safetensors"))
    done = call(capsys, *words, "--eps", "0.03", "--attack", "fgsm", "--json")
    assert done.code == 0, done.err
    test = load_data("digits").test.take(FIRST)
    x = test.inputs().requires_grad_()
    mean = (model()(x).softmax(1) + model(0.5)(x).softmax(1)) / 2
    right = mean.argmax(1) == test.y
    (gradient,) = torch.autograd.grad(nn.functional.nll_loss(mean.log(), test.y, reduction="sum"), x)
    moved = (x + 0.03 * gradient.sign()).clamp(0, 1).detach()
    still = ((model()(moved).softmax(1) + model(0.5)(moved).softmax(1)) / 2).argmax(1) == test.y
    assert done.json["clean_accuracy"]["value"] == pytest.approx(float(right.double().mean()))
    assert done.json["robust_accuracy"]["value"] == pytest.approx(float((right & still).double().mean()))
    assert len(done.json["models"]) == 2


@pytest.mark.parametrize("stop", [2, 5])
def test_an_interrupted_attack_goes_on_where_it_was(capsys, words, tmp_path, monkeypatch, stop):
    words += ["--eps", "0.05", "--attack", "fgsm+pgd:steps=2+pgd:steps=3", "--batch-size", "30"]
    whole = call(capsys, *words, "--json").json
    calls = []
    original = PGD.__call__

    def stopping(self, *args, **named):
        if len(calls) == stop:
            raise KeyboardInterrupt
        calls.append(self.name)
        return original(self, *args, **named)

    monkeypatch.setattr(PGD, "__call__", stopping)
    done = call(capsys, *words, "--out", tmp_path / "o")
    assert done.code == 130
    assert done.err.splitlines()[-1].endswith(f"--out {tmp_path / 'o'} --resume")
    assert sorted(tree(tmp_path / "o")) == ["manifest.json", "progress.pt", "recipe.json"]
    assert json.loads((tmp_path / "o" / "manifest.json").read_text())["status"] == "interrupted"
    monkeypatch.setattr(PGD, "__call__", lambda self, *a, **k: calls.append(self.name) or original(self, *a, **k))
    calls.clear()
    done = call(capsys, *words, "--out", tmp_path / "o", "--resume", "--json")
    assert without_times(done.json) == without_times(whole)
    batches = [-(-entry["attacked"] // 30) for entry in whole["attacks"]]
    assert len(calls) == sum(batches) - stop  # nothing is attacked twice
    assert "progress.pt" not in tree(tmp_path / "o")
    calls.clear()
    again = call(capsys, *words, "--out", tmp_path / "o", "--resume", "--json")
    assert without_times(again.json) == without_times(whole)
    assert calls == []  # a finished one is read


def test_the_state_is_written_while_it_works(capsys, words, tmp_path, monkeypatch):
    monkeypatch.setattr(recipe_attack, "EVERY_SECONDS", 0.0)
    calls = []
    original = PGD.__call__

    def dying(self, *args, **named):
        if len(calls) == 3:
            assert (tmp_path / "o" / "progress.pt").is_file()
            raise ZeroDivisionError
        calls.append(0)
        return original(self, *args, **named)

    monkeypatch.setattr(PGD, "__call__", dying)
    words += ["--eps", "0.05", "--attack", "pgd", "--batch-size", "20", "--out", tmp_path / "o"]
    assert call(capsys, *words).code == 70
    monkeypatch.setattr(PGD, "__call__", lambda self, *a, **k: calls.append(0) or original(self, *a, **k))
    done = call(capsys, *words, "--resume", "--json")
    assert done.code == 0
    assert len(calls) == -(-done.json["attacks"][0]["attacked"] // 20)


def test_other_settings_or_another_file_do_not_resume(capsys, words, tmp_path):
    words += ["--eps", "0.05", "--attack", "fgsm", "--out", tmp_path / "o"]
    assert call(capsys, *words).code == 0
    before = tree(tmp_path / "o")
    done = call(capsys, *words, "--seed", "4", "--resume")
    assert done.code == 2
    assert "`seed` should be 0 to resume the run in" in done.err
    (tmp_path / "a.safetensors").write_bytes((tmp_path / "b.safetensors").read_bytes())
    done = call(capsys, *words, "--resume")
    assert done.code == 2
    assert "should be the file that the run was started with" in done.err
    assert tree(tmp_path / "o") == before


def normalised(folder):
    generator = np.random.default_rng(0)
    arrays = {f"x_{split}": generator.normal(size=(40, 8, 8)).astype(np.float32) for split in ("train", "test")}
    labels = {f"y_{split}": np.arange(40) % 10 for split in ("train", "test")}
    np.savez(folder / "d.npz", **arrays, **labels)
    return ["--eps", "0.1", "--data", folder / "d.npz"]


CASES = {
    "no radius": ([], r"Missing option '--eps'"),
    "zero": (["--eps", "0"], r"`radius` should be finite and above 0. Found '?0"),
    "negative": (["--eps", "-8/255"], r"`radius` should be finite and above 0. Found '?-8/255"),
    "words": (["--eps", "tiny"], r"`radius` should be a fraction or a decimal, such as 8/255 or 0.03. Found 'tiny'"),
    "larger than the box": (
        ["--eps", "8"],
        r"`radius` should be at most 1, the width of the box in this norm. Found 8.*8/255",
    ),
    "unknown norm": (["--eps", "0.1", "--norm", "l3"], r"`norm` should be one of l1, l2, linf. Found 'l3'"),
    "unknown attack": (["--eps", "0.1", "--attack", "standart"], r"Found 'standart'. Did you mean 'standard'\?"),
    "unknown setting": (["--eps", "0.1", "--attack", "pgd:stepss=3"], r"Found 'stepss'. Did you mean 'steps'\?"),
    "precision": (
        ["--eps", "0.1", "--precision", "fp16"],
        r"`precision` should be '32-true' or 'bf16-mixed'. Found 'fp16'",
    ),
    "accelerator": (
        ["--eps", "0.1", "--accelerator", "gpu"],
        r"`accelerator` should be one of auto, cpu, cuda, mps. Found 'gpu'",
    ),
    "normalised data": (
        normalised,
        r"should hold float images in \[0, 1\]. Found values from -.*mean and standard deviation inside the model",
    ),
    "no data": (["--eps", "0.1", "--data", "digit"], r"Found 'digit'. Did you mean 'digits'\?"),
    "resume": (["--eps", "0.1", "--resume"], r"`resume` should come with --out"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_line_and_leaves_nothing(capsys, words, tmp_path, case):
    more, message = CASES[case]
    more = more(tmp_path) if callable(more) else more
    before = tree(tmp_path)
    out = () if case == "resume" else ("--out", tmp_path / "o")
    done = call(capsys, *words, *more, *out)
    assert (done.code, done.out) == (2, "")
    assert len(done.err.splitlines()) == 1
    assert re.search(message, done.err), done.err
    assert tree(tmp_path) == before


def test_wrong_files_are_named(capsys, words, tmp_path):
    (tmp_path / "t.pt").write_text("weights, honestly")
    for path, message in ((tmp_path / "t.pt", "Found a text file"), (tmp_path / "none.pt", "Found nothing at")):
        done = call(capsys, *words[:1], path, *words[2:], "--eps", "0.1")
        assert done.code == 2
        assert message in done.err
    done = call(capsys, *words[:2], words[1], *words[2:], "--eps", "0.1")
    assert "`models` should be different files. Found" in done.err


def test_a_doubtful_evaluation_says_so_in_print_and_json(capsys, words, tmp_path):
    code = CODE.replace("nn.Linear(64, 10))", "nn.Linear(64, 10), Noise())")
    noise = "class Noise(nn.Module):\n    def forward(self, x):\n        return x + torch.rand_like(x)\n\n\n"
    (tmp_path / "arch.py").write_text("import torch\n" + code.replace("def net", noise + "def net"))
    done = call(capsys, *words, "--eps", "0.05", "--attack", "fgsm")
    assert done.code == 0, done.err
    assert "not reliable: see the warnings" in done.out
    assert "warning: the model is randomised" in done.out
    assert call(capsys, *words, "--eps", "0.05", "--attack", "fgsm", "--json").json["reliable"] is False
    averaged = call(capsys, *words, "--eps", "0.6", "--attack", "random", "--n", "4", "--json").json
    assert (averaged["reliable"], averaged["passes"]) == (True, 20)


def test_attacks_and_suites_are_listed(capsys):
    listed = call(capsys, "list", "attacks", "--json").json
    assert {"standard", "standard-plus", "random", "pgd", "fgsm", "apgd-ce", "apgd-t", "fab-t", "square"} <= set(listed)
    assert "settings steps, step, start, restarts, loss" in listed["pgd"]
