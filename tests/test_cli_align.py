"""`isthmus align`: what is written computes what was given, the printed numbers are those of the files, wrong input is one line."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from cli_example import call, model_file
from isthmus.barrier import barriers
from isthmus.data import load_data
from isthmus.evaluate import logits
from isthmus.files import sha256
from isthmus.geometry.build import line
from isthmus.geometry.permute import permuted, random_permutations
from isthmus.geometry.symmetry import symmetry_of
from isthmus.models import build_model, load_model
from isthmus.probes import Clean
from isthmus.randomness import stream
from isthmus.recipes import align as recipes
from isthmus.recipes import align_lines
from isthmus.recipes.align import AlignRecipe, run_align
from isthmus.renormalize import renormalize
from isthmus.runs import Run
from isthmus.scan import scan
from isthmus.settle import Keep, Recalibrate
from isthmus.store import Card, read_card, save_model
from isthmus.table import Column, Table

FEW = ("--n", "40", "--test-n", "60", "--points", "3")
ARCH = """
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.hidden = nn.Linear(4 * 36, 6)
        self.few = nn.Linear(6, 5)
        self.head = nn.Linear(3, 10)

    def forward(self, x):
        x = self.norm(self.conv(x)).relu().flatten(1)
        return self.head(self.few(self.hidden(x).tanh()).topk(3, dim=1).values)


def net():
    return Net()


def flat():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""


@pytest.fixture
def models(tmp_path):
    return [model_file(tmp_path / f"{name}.safetensors", seed=i) for i, name in enumerate("abc")]


@pytest.fixture
def spec(tmp_path):
    (tmp_path / "arch.py").write_text(ARCH)
    return f"{tmp_path / 'arch.py'}:net"


def loaded(path, arch="mlp:depth=1", width: int | None = 8) -> nn.Module:
    return load_model(arch, path, num_classes=10, input_shape=(1, 8, 8), width=width)[0]


def images():
    data = load_data("digits")
    return data.train.subset(40, generator=stream(0, "match")), data.test.subset(60, generator=stream(0, "test"))


def by_name(document):
    return {(row["model"], row["weights"], row["statistics"]): row for row in document["midpoints"]["rows"]}


@pytest.mark.parametrize("by", ["weights", "activations"])
def test_the_models_compute_what_they_did_and_the_numbers_are_those_of_the_files(capsys, tmp_path, models, by):
    out = tmp_path / "o"
    done = call(capsys, "align", *models, "--by", by, *FEW, "--out", out, "--json")
    assert done.code == 0, done.err
    assert done.json == json.loads((out / "align.json").read_text())
    assert [group["size"] for group in done.json["groups"]] == [8]
    samples, test = images()
    reference, rows = loaded(models[0]), by_name(done.json)
    for k, path in enumerate(models[1:], 1):
        plain, aligned = loaded(path), loaded(out / f"aligned-{k}.safetensors")
        torch.testing.assert_close(logits(aligned, test), logits(plain, test))
        told = done.json["models"][k - 1]
        distances = [distance(reference, one) for one in (plain, aligned)]
        assert [told["distance_before"], told["distance_after"]] == pytest.approx(distances)
        assert told["likeness_after"] > told["likeness_before"]
        assert told["output_change"] < 1e-5
        about = {"to": origin(models[0]), "of": origin(path), "by": by}
        assert read_card(out / f"aligned-{k}.safetensors").notes["aligned"] == about
        assert read_card(out / f"aligned-{k}.safetensors").arch == "mlp:depth=1"
        for weights, other in (("plain", plain), ("permuted", aligned)):
            bridge = line([reference, other])
            table = scan(bridge, [0.0, 0.5, 1.0], [Clean(test)], settle=Keep())
            check(rows[str(path), weights, "as is"], table.rows())
            found = barriers(table)["git_re_basin"].value
            assert rows[str(path), weights, "as is"]["loss_barrier"] == found
            made = renormalize(bridge.at(0.5), [reference, other], (0.5, 0.5), samples)
            middle = Clean(test)(made.module)
            check(rows[str(path), weights, "REPAIR"], [table.rows()[0], middle, table.rows()[2]])
            assert rows[str(path), weights, "REPAIR"]["loss_barrier"] is None
    assert len(rows) == 8
    assert sorted(json.loads((out / "manifest.json").read_text())["inputs"]) == [str(path) for path in models]


def distance(one, two):
    pairs = zip(one.parameters(), two.parameters(), strict=True)
    return sum(float((p - q).detach().double().square().sum()) for p, q in pairs) ** 0.5


def origin(path):
    return {"path": str(path), "sha256": sha256(path)}


def check(row, points):
    """The accuracy and the loss of the point between, and how far these are above the mean of the ends."""
    first, middle, last = points
    assert row["test_accuracy"] == pytest.approx(100 - middle["test_error"])
    assert row["test_loss"] == pytest.approx(middle["test_loss"])
    for kind in ("error", "loss"):
        values = [point[f"test_{kind}"] for point in (first, middle, last)]
        assert row[f"{kind}_rise"] == pytest.approx(values[1] - (values[0] + values[2]) / 2)


def test_a_planted_permutation_is_found_and_told(capsys, tmp_path, generator):
    first = model_file(tmp_path / "a.safetensors")
    module = loaded(first)
    symmetry = symmetry_of(module, torch.rand(2, 1, 8, 8), generator=generator)
    moved = permuted(module, symmetry, random_permutations(symmetry, generator))
    save_model(moved, tmp_path / "b.safetensors", read_card(first))
    words = ("align", first, tmp_path / "b.safetensors", *FEW, "--json")
    for by in ("weights", "activations"):
        done = call(capsys, *words, "--by", by, "--out", tmp_path / by)
        (told,) = done.json["models"]
        assert told["distance_before"] > 0.1
        assert told["distance_after"] == 0
        assert told["likeness_after"] == pytest.approx(1)
        assert done.json["notes"] == [
            f"{tmp_path / 'b.safetensors'}: warning: is {first} with its hidden units in other places"
        ]
        one, two = load_file(first), load_file(tmp_path / by / "aligned-1.safetensors")
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_where_repair_has_nothing_to_correct_it_has_no_row(capsys, tmp_path):
    files = [model_file(tmp_path / f"{name}.safetensors", arch="cnn", seed=k, width=2) for k, name in enumerate("ab")]
    done = call(capsys, "align", *files, *FEW, "--out", tmp_path / "o")
    assert done.code == 0, done.err
    assert "REPAIR: 0 layers corrected, 3 by BatchNorm, 1 left; no more than the reset" in done.out.splitlines()
    assert "REPAIR |" not in done.out


def test_the_same_weights_under_two_names_are_told(capsys, tmp_path):
    files = [model_file(tmp_path / f"{name}.safetensors") for name in "ab"]
    done = call(capsys, "align", *files, *FEW, "--out", tmp_path / "o")
    assert done.code == 0, done.err
    assert done.out.splitlines()[0] == f"{files[1]}: warning: has the same weights as {files[0]}"


def test_an_architecture_of_ones_own_with_batch_norm_and_an_axis_that_cannot_be_traced(capsys, tmp_path, spec):
    for i, name in enumerate("ab"):
        module = build_model(spec, num_classes=10, input_shape=(1, 8, 8), seed=i)
        Recalibrate(load_data("digits").train)(module)
        torch.save(module.state_dict(), tmp_path / f"{name}.pth")
    words = (tmp_path / "a.pth", tmp_path / "b.pth", "--arch", spec, "--data", "digits", *FEW, "--out", tmp_path / "o")
    done = call(capsys, "align", *words, "--json")
    assert done.code == 0, done.err
    assert done.json["groups"] == [{"name": "conv.weight[0]", "size": 4}, {"name": "hidden.weight[0]", "size": 6}]
    assert any(axis.startswith("few.weight[0]: ") for axis in done.json["unpermuted"])
    assert done.json["repair"]["corrected"] == ["hidden", "few"]
    assert done.json["repair"]["normalised"] == ["conv"]
    assert done.json["repair"]["left"] == ["head: the last layer, which gives the logits"]
    rows = by_name(done.json)
    assert {key[2] for key in rows} == {"as is", "BatchNorm reset", "REPAIR"}
    samples, test = images()
    ends = [loaded(path, spec, None) for path in (tmp_path / "a.pth", tmp_path / "o" / "aligned-1.safetensors")]
    table = scan(line(ends), [0.0, 0.5, 1.0], [Clean(test)], settle=Recalibrate(samples))
    check(rows[str(tmp_path / "b.pth"), "permuted", "BatchNorm reset"], table.rows())
    again = call(capsys, "align", *words, "--resume").out.splitlines()
    assert again[0].endswith("10 hidden units in 2 groups may change places")
    assert again[1].startswith("left as it is: few.")
    assert "REPAIR: 2 layers corrected, 1 by BatchNorm, 1 left" in again
    assert again[-1] == f"written: {tmp_path / 'o' / 'aligned-1.safetensors'}"
    assert sum(line.startswith("| permuted |") for line in again) == 3


def test_many_axes_that_stay_are_counted(capsys, models, tmp_path, monkeypatch):
    def many(module, x, *, generator):
        found = symmetry_of(module, x, generator=generator)
        return type(found)(found.groups, tuple(f"w[{k}]: sort" for k in range(7)), found.readings, found.steps)

    monkeypatch.setattr(recipes, "symmetry_of", many)
    lines = call(capsys, "align", *models[:2], *FEW, "--out", tmp_path / "o").out.splitlines()
    assert lines[5] == "left as it is: w[4]: sort"
    assert lines[6] == "left as they are: 2 more axes, see align.json"


@pytest.mark.parametrize(
    ("words", "same"),
    [
        (("--by", "activations"), False),
        (("--n", "41"), False),
        (("--clean", "60"), False),
        (("--test-n", "61"), False),
        (("--points", "5"), True),
        (("--seed", "1"), False),
    ],
)
def test_every_option_changes_the_result(capsys, tmp_path, models, words, same):
    base = ("align", *models[:2], *FEW, "--json")
    before = call(capsys, *base, "--out", tmp_path / "one").json
    after = call(capsys, *base, *words, "--out", tmp_path / "two")
    assert after.code == 0, after.err
    assert (before["midpoints"]["rows"] == after.json["midpoints"]["rows"]) == same
    lines = [len(Table.load(tmp_path / name / "lines.json")) for name in ("one", "two")]
    assert lines == [6, 10 if "--points" in words else 6]


def test_the_middle_is_a_point_whatever_their_number(capsys, tmp_path, models):
    assert call(capsys, "align", *models[:2], *FEW, "--points", "4", "--out", tmp_path / "o").code == 0
    table = Table.load(tmp_path / "o" / "lines.json")
    assert table.values("t")[:5] == pytest.approx([0, 1 / 3, 0.5, 2 / 3, 1])


def test_an_interrupted_run_goes_on_and_ends_the_same(tmp_path, models, monkeypatch):
    monkeypatch.setattr(align_lines, "EVERY_SECONDS", 0.0)
    recipe = AlignRecipe(models=tuple(map(str, models)), n=40, test_n=60, points=4)
    whole = run_align(recipe, Run.open(tmp_path / "whole", recipe))
    steps = []

    def stop(step, total, _metrics):
        steps.append((step, total))
        if len(steps) == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Run.open(tmp_path / "o", recipe) as run:
        run_align(recipe, run, monitor=stop)
    assert steps[-1] == (12, 20)
    assert not (tmp_path / "o" / "align.json").exists()
    again = []
    with Run.open(tmp_path / "o", recipe, resume=True) as run:
        ended = run_align(recipe, run, monitor=lambda step, _total, _metrics: again.append(step))
    assert again == list(range(12, 21))  # the point at which it stopped was not written yet
    assert ended.midpoints == whole.midpoints
    assert ended.barriers == whole.barriers
    one, two = (json.loads((tmp_path / name / "lines.json").read_text()) for name in ("whole", "o"))
    assert one == two


def test_a_point_without_a_value_has_no_barrier():
    rows = [
        {"t": t, "test_loss": loss, "test_error": 10.0} for t, loss in ((0.0, 1.0), (0.5, float("nan")), (1.0, 1.0))
    ]
    table = Table.of(rows, (Column("t"), Column("test_loss", "nat", "lower"), Column("test_error", "%", "lower")))
    assert set(align_lines._barriers(table)) == {"test_error"}
    rows[1]["test_loss"] = float("inf")
    table = Table.of(rows, table.columns)
    found = align_lines._barriers(table)["test_loss"]["entezari"]
    assert align_lines._plain(found)["value"] == "Infinity"


def test_a_model_that_would_compute_something_else_is_refused(capsys, tmp_path, models, monkeypatch):
    real = recipes.match_weights

    def wrong(*words, **settings):
        found = real(*words, **settings)
        with torch.no_grad():
            next(found.module.parameters())[0] += 1
        return found

    monkeypatch.setattr(recipes, "match_weights", wrong)
    done = call(capsys, "align", *models[:2], *FEW, "--out", tmp_path / "o")
    assert (done.code, done.out) == (2, "")
    assert (
        "`models` should compute the same after their units changed places, to 0.0001 of the largest output."
        in done.err
    )
    assert f"in {str(models[1])!r}" in done.err
    assert not (tmp_path / "o").exists()


def test_wrong_input_is_one_line(capsys, tmp_path, models, spec):
    other = model_file(tmp_path / "wide.safetensors", width=9)
    lame = loaded(models[0])
    with torch.no_grad():
        next(lame.parameters())[0] = torch.nan
    save_model(lame, tmp_path / "nan.safetensors", read_card(models[0]))
    flat = [tmp_path / f"flat-{k}.safetensors" for k in range(2)]
    for k, path in enumerate(flat):
        module = build_model(spec.replace(":net", ":flat"), num_classes=10, input_shape=(1, 8, 8), seed=k)
        save_model(module, path, Card(data="digits"))
    cases = [
        ((models[0],), "`models` should be at least 2, the reference first. Found 1."),
        ((models[0], models[0]), "`models` should be different files. Found"),
        ((models[0], other), "be a model of one architecture with the others"),
        ((models[0], tmp_path / "nan.safetensors"), "should hold finite numbers. Found"),
        ((*flat, "--arch", spec.replace(":net", ":flat")), "`models` should have hidden units that may change places"),
        ((*models[:2], "--by", "colour"), "`by` should be 'weights' or 'activations'. Found 'colour'."),
        ((models[0], tmp_path / "none.safetensors"), "none.safetensors"),
    ]
    for words, text in cases:
        done = call(capsys, "align", *words, "--out", tmp_path / "o")
        assert (done.code, done.out) == (2, ""), words
        assert text in done.err
        assert len(done.err.splitlines()) == 1
        assert not (tmp_path / "o").exists()
    assert call(capsys, "align", *models[:2], *FEW, "--out", tmp_path / "o").code == 0
    done = call(capsys, "align", *models[:2], *FEW, "--out", tmp_path / "o")
    assert done.code == 2
    assert "`out` should" in done.err


def test_a_model_that_rounds_by_more_than_the_tolerance_is_judged_in_float64(capsys, tmp_path, models):
    """Pairs of equal units, weighed by a million and by minus a million and one: in float32 their order shows."""
    one = loaded(models[1])
    first, head = [layer for layer in one.modules() if isinstance(layer, nn.Linear)]
    with torch.no_grad():
        first.weight.copy_(first.weight[:4].repeat(2, 1))
        first.bias.copy_(first.bias[:4].repeat(2))
        head.weight.copy_(torch.cat([head.weight[:, :4] + 1e6, head.weight[:, 4:] - 1e6], 1))
    card = Card(arch="mlp:depth=1", width=8, num_classes=10, input_shape=(1, 8, 8), data="digits")
    save_model(one, tmp_path / "rough.safetensors", card)
    done = call(capsys, "align", models[0], tmp_path / "rough.safetensors", *FEW, "--out", tmp_path / "o", "--json")
    assert done.code == 0, done.err
    assert done.json["models"][0]["output_change"] < 1e-6
    samples, _ = images()
    before, after = (logits(m, samples) for m in (one, loaded(tmp_path / "o" / "aligned-1.safetensors")))
    assert float((after - before).abs().max() / before.abs().max()) > recipes.TOLERANCE
