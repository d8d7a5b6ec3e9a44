"""What an inspection finds: each kind of fault put into a file by hand, and nothing in a file without one."""

import math
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import nn

from cli_example import DIGITS
from hostile_files import HOSTILE
from isthmus._check import InputError
from isthmus.data import Samples, load_data
from isthmus.evaluate import correct, logits
from isthmus.files import sha256
from isthmus.models import build_model, read_state
from isthmus.rates import Rate
from isthmus.recipes import inspect as recipe_inspect
from isthmus.recipes.inspect import InspectRecipe, run_inspect
from isthmus.recipes.inspect_images import measured
from isthmus.recipes.inspect_tensors import findings_of, head_of, largest_p, lines_of, robust_z
from isthmus.repair.triggers.inverted import MaskSearch
from isthmus.repair.trust.margins import MarginSearch
from isthmus.repair.trust.triage import Detection, Searches, Triage, examine
from isthmus.report.quantities import RateEntry
from isthmus.store import Card, save_model
from repair_example import suspects


def nothing(_model, _clean, _seed):
    return Triage("no evidence found", "nothing stands out")


def layer(rows=12, columns=20, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def codes(state, level="finding", **more):
    return [(one.code, one.where) for one in findings_of(state, **more) if one.level == level]


def test_an_ordinary_state_shows_nothing():
    state = build_model("cnn", num_classes=10, input_shape=(1, 8, 8)).state_dict()
    assert codes(state) == []
    assert {code for code, _ in codes(state, "note")} == {"constant-vectors"}


def changed(name, change):
    state = {
        "a.weight": layer(),
        "b.weight": layer(seed=1),
        "n.weight": torch.rand(8) + 0.5,
        "n.running_var": torch.rand(8) + 1,
    }
    value = state[name].clone()
    change(value)
    return state | {name: value}


@pytest.mark.parametrize(
    ("name", "change", "found", "text"),
    [
        ("a.weight", lambda w: w[0, :2].fill_(math.nan), "non-finite", "2 of 240 (0.8 %) of its values are NaN"),
        ("n.weight", lambda w: w[:1].fill_(math.inf), "non-finite", "1 of 8 (12.5 %) of its values"),
        ("n.running_var", lambda w: w[:3].neg_(), "negative-variance", "3 variances are negative"),
        ("a.weight", lambda w: w.zero_(), "zero-tensor", "all its 240 values are 0"),
        ("a.weight", lambda w: w.fill_(0.5), "constant-tensor", "all its 240 values are 0.5"),
        ("a.weight", lambda w: w.copy_(layer(seed=1)), "duplicate-tensors", "equal, number by number"),
        ("a.weight", lambda w: w[3:5].copy_(w[:2]), "duplicate-rows", "2 of 12 (16.7 %) of its rows repeat another"),
        ("a.weight", lambda w: w[:7].zero_(), "dead-units", "7 of 12 (58.3 %) rows have no weight"),
        (
            "n.weight",
            lambda w: w[:5].fill_(1e-5),
            "dead-units",
            "5 of 8 (62.5 %) channels have a negligible BatchNorm scale",
        ),
        (
            "n.running_var",
            lambda w: w[:5].fill_(1e-9),
            "dead-units",
            "5 of 8 (62.5 %) channels have a negligible variance",
        ),
    ],
)
def test_each_fault_is_found(name, change, found, text):
    hits = [one for one in findings_of(changed(name, change)) if one.level == "finding"]
    assert [one.code for one in hits] == [found]
    assert name in hits[0].where
    assert text in hits[0].text


def test_few_dead_units_and_ties_are_notes():
    state = changed("a.weight", lambda w: w[:2].zero_())
    assert codes(state) == []
    assert ("dead-units", "a.weight") in codes(state, "note")
    equal = {"a.weight": layer(), "b.weight": layer()}
    assert codes(equal, tied=[frozenset(equal)]) == []
    assert codes(equal, "note", tied=[frozenset(equal)])[0][0] == "duplicate-tensors"
    assert codes(equal, tied=[frozenset({"a.weight", "c"})])[0][0] == "duplicate-tensors"


def test_equal_statistics_of_two_layers_are_a_note():
    mean = layer(1, 32).flatten()
    state = {"a.running_mean": mean, "b.running_mean": mean.clone()}
    assert codes(state) == []
    assert codes(state, "note") == [("duplicate-tensors", "a.running_mean, b.running_mean")]


def test_rows_equal_by_projection_only_are_no_duplicates():
    rows = layer(2, 4)
    assert codes({"w": torch.stack([rows[0], rows[0].flip(0), rows[1]])}) == []
    assert codes({"w": torch.stack([rows[0], -rows[0], rows[1]])}) == []


def test_robust_scores_against_numpy():
    import numpy as np

    values = layer(1, 31).flatten()
    held = values.double().numpy()
    centre = np.median(held)
    wanted = (held - centre) / (1.482602218505602 * np.median(np.abs(held - centre)))
    assert robust_z(values).tolist() == pytest.approx(wanted.tolist(), rel=1e-4)
    assert robust_z(torch.ones(5)).tolist() == [0.0] * 5


def test_parts_unlike_their_siblings_are_noted():
    state = {f"{i}.weight": layer(seed=i) for i in range(9)}
    assert codes(state, "note") == []
    state["4.weight"] = 9 * state["4.weight"]
    state["7.weight"][3] *= 20
    found = codes(state, "note")
    assert ("unlike-siblings", "4.weight") in found
    assert ("unlike-channels", "7.weight") in found
    line = next(line for line in lines_of(state) if line.name == "7.weight")
    norms = state["7.weight"].norm(dim=1).log()
    assert line.channel_z == pytest.approx(float(robust_z(norms)[3]), rel=1e-6)
    assert line.rms == pytest.approx(float(state["7.weight"].square().mean().sqrt()), rel=1e-6)


def test_the_p_value_is_that_of_equal_rows():
    # For 3 values the largest |z| is 0.6745 (outer distance) / (inner distance), in which P(ratio >= r) can be integrated numerically.
    draws = torch.randn(200_000, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64).sort(1).values
    gaps = torch.stack([draws[:, 1] - draws[:, 0], draws[:, 2] - draws[:, 1]], 1).sort(1).values
    values = torch.tensor([0.0, 1.0, 11.0])
    assert largest_p(values) == pytest.approx(float((gaps[:, 1] / gaps[:, 0] >= 10).double().mean()), abs=0.01)
    assert largest_p(torch.tensor([*range(20), 500.0])) < 1e-3


def test_the_head_is_the_last_matrix_with_a_row_for_each_class():
    state = {
        "a.weight": layer(10),
        "a.bias": torch.rand(10),
        "b.weight": layer(10, seed=1),
        "b.bias": torch.rand(10),
        "c": layer(4),
    }
    found = head_of(state, None, 10)
    assert found.name == "b.weight"
    assert found.norm_z == pytest.approx(robust_z(state["b.weight"].double().norm(dim=1)).tolist())
    assert found.bias_z == pytest.approx(robust_z(state["b.bias"]).tolist())
    assert head_of(state, "a.weight", 10).name == "a.weight"
    assert head_of(state, None, 7) is None
    assert head_of({"w": torch.full((4, 2), torch.nan)}, None, None) is None


CARD = Card(arch="cnn", width=8, num_classes=10, input_shape=DIGITS, data="digits")


def write(path, module, card=CARD):
    save_model(module, path, card)
    return str(path)


@pytest.fixture
def suspect(tmp_path):
    """A file with a trained model in it, which says what it is."""
    return write(tmp_path / "a.safetensors", suspects()[0])


def test_a_trained_model_is_measured_like_the_library_measures(suspect):
    found = run_inspect(InspectRecipe(model=suspect, data="digits", n=150), search=nothing)
    test = load_data("digits").test.take(torch.arange(150))
    scores = logits(suspects()[0], test)
    rate = Rate.of(correct(scores, test.y))
    assert found.status == "nothing_found", found.findings
    assert found.accuracy == RateEntry.of(rate)
    assert found.data == "digits/test, first 150 images"
    assert sum(line.answered or 0 for line in found.classes) == 150
    assert sum(round(line.accuracy.value * line.accuracy.n) for line in found.classes if line.accuracy) == rate.hits
    assert found.classes[3].accuracy.n == int((test.y == 3).sum())
    weight = suspects()[0].state_dict()[found.head]
    assert [line.norm_z for line in found.classes] == pytest.approx(robust_z(weight.double().norm(dim=1)).tolist())
    values = suspects()[0].state_dict()
    assert found.parameters == sum(value.numel() for value in values.values() if value.is_floating_point())
    assert [line.name for line in found.tensors] == [line.name for line in lines_of(read_state(suspect)[0])]
    assert found.file.sha256 == sha256(suspect)
    assert found.fit.matched == len(values)
    assert found.untested == ()


def test_without_images_and_without_a_card(tmp_path):
    bare = write(tmp_path / "bare.safetensors", suspects()[0], None)
    found = run_inspect(InspectRecipe(model=bare))
    assert found.status == "nothing_found"
    assert (found.accuracy, found.fit, found.candidates) == (None, None, None)
    assert len(found.untested) == 2
    with pytest.raises(
        InputError, match="`data` should be given with --arch, because the file does not say its classes"
    ):
        run_inspect(InspectRecipe(model=bare, arch="cnn", width=8))
    assert run_inspect(InspectRecipe(model=bare, arch="cnn", width=8, data="digits", search=False)).fit.missing == ()


def test_names_that_do_not_fit(tmp_path):
    path = write(tmp_path / "a.safetensors", suspects()[0])
    found = run_inspect(InspectRecipe(model=path, arch="mlp:depth=1", width=8, data="digits"), search=nothing)
    assert found.status == "findings"
    assert found.accuracy is None
    wanted = set(build_model("mlp:depth=1", num_classes=10, input_shape=DIGITS, width=8).state_dict())
    held = set(suspects()[0].state_dict())
    assert set(found.fit.missing) == wanted - held
    assert set(found.fit.unexpected) == held - wanted
    assert {one.code for one in found.of("finding")} == {"missing-tensors", "unexpected-tensors", "does-not-load"}
    other = run_inspect(InspectRecipe(model=path, arch="cnn", width=4, data="digits"), search=nothing)
    assert "fc.weight: (10, 32), wanted (10, 16)" in other.fit.reshaped


def test_values_that_are_not_finite_stop_the_rest(tmp_path):
    module = deepcopy(suspects()[0])
    with torch.no_grad():
        module.fc.weight[0, 0] = torch.nan
    found = run_inspect(InspectRecipe(model=write(tmp_path / "a.safetensors", module), data="digits"), search=nothing)
    assert {one.code for one in found.of("finding")} == {"non-finite", "does-not-load"}
    assert found.accuracy is None


class Scaled(nn.Module):
    """A model that was trained on images in another range."""

    def __init__(self, change):
        super().__init__()
        self.net, self.change = suspects()[0], change

    def forward(self, x):
        return self.net(self.change(x))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda x: (x + 1) / 2, "-1 to 1"),
        (lambda x: x / 255, "0 to 255"),
        (lambda x: 1 - x, "1 to 0 (negative)"),
        (lambda x: 0.37 * x + 0.31, "with the mean and deviation of the training images taken out"),
    ],
)
def test_another_range_is_recognised(change, name):
    splits = load_data("digits")
    found = measured(Scaled(change), splits.test, splits.train, ())
    assert [one.code for one in found.findings if one.code == "input-range"] == ["input-range"]
    assert f"higher with inputs {name}:" in next(one.text for one in found.findings if one.code == "input-range")
    right = measured(Scaled(lambda x: x), splits.test, splits.train, ())
    assert [one.code for one in right.findings] == []


def test_colour_images_are_tried_with_their_channels_reversed():
    x = torch.zeros(200, 3, 4, 4)
    y = torch.arange(200) % 3
    x[torch.arange(200), y] = torch.rand(200, 4, 4, generator=torch.Generator().manual_seed(0)) / 2 + 0.5
    samples = Samples(x, y, 3)
    model = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(3, 3))
    with torch.no_grad():
        model[2].weight.copy_(torch.eye(3).flip(0))
        model[2].bias.zero_()
    found = measured(model, samples, samples, ())
    assert "higher with inputs with the channels reversed (BGR)" in found.findings[-1].text
    assert found.fields["ranges"][-1].accuracy.value == 1.0
    assert len(found.fields["ranges"]) == 7


def test_dead_layers_chance_and_few_images():
    splits = load_data("digits")
    model = build_model("mlp:depth=1", num_classes=10, input_shape=DIGITS, width=8)
    with torch.no_grad():
        model[1].bias.fill_(-100)
    found = measured(model, splits.test, splits.train, ())
    assert [one.code for one in found.findings] == ["no-better-than-chance", "dead-layer"]
    assert found.fields["dead_units"] == 100.0
    few = measured(suspects()[0], splits.test.take(torch.arange(99)), splits.train, ())
    assert few.doubts == ["accuracy rests on 99 images, fewer than 100"]
    vectors = Samples(splits.test.inputs().flatten(1), splits.test.y, 10)
    flat = measured(nn.Linear(64, 10), vectors, vectors, ())
    assert (flat.fields["ranges"], flat.fields["dead_units"]) == ((), None)


@pytest.mark.parametrize(
    ("triage", "status", "code"),
    [
        (
            Triage("suspicious", "both point there", target=3, detections=(Detection("d", 4.0, 3, True),)),
            "findings",
            "candidate-trigger",
        ),
        (Triage("inconclusive", "one flags", detections=(Detection("d", math.nan, 1, False),)), "inconclusive", None),
        (Triage("no evidence found", "none"), "nothing_found", None),
        (Triage("not applicable", "no images"), "nothing_found", None),
    ],
)
def test_what_the_search_says_counts(suspect, triage, status, code):
    asked: list[tuple[int, int, int]] = []

    def search(model, clean, seed):
        asked.append((len(clean.train), len(clean.validation), seed))
        test = set(load_data("digits").test.contents())
        assert not test & {*clean.train.contents(), *clean.validation.contents()}
        return triage

    found = run_inspect(InspectRecipe(model=suspect, data="digits", clean=60, seed=4), search=search)
    assert asked == [(30, 30, 4)]
    assert found.status == status
    assert found.candidates.verdict == triage.verdict
    assert [one.code for one in found.of("finding")] == ([] if code is None else [code])
    assert any("triggers" in text for text in (found.untested if triage.verdict == "not applicable" else found.tested))


def test_a_search_that_refuses_is_no_fault(suspect):
    def search(_model, _clean, _seed):
        raise InputError("too few images")

    found = run_inspect(InspectRecipe(model=suspect, data="digits"), search=search)
    assert found.status == "nothing_found"
    assert "triggers: too few images" in found.untested


def test_the_search_of_the_library_runs(suspect):
    fast = Searches(MaskSearch(steps=10, batch_size=20), MarginSearch(images=2, steps=5))

    def search(model, clean, seed):
        return examine(model, clean, fast, seed=seed)

    found = run_inspect(InspectRecipe(model=suspect, data="digits", clean=60), search=search)
    assert [line.detector for line in found.candidates.detections] == ["smallest mask", "largest margin"]


def test_settings_change_the_result(suspect):
    few = run_inspect(InspectRecipe(model=suspect, data="digits", n=120, search=False))
    assert few.accuracy.n == 120
    assert "triggers: the search was switched off" in few.untested
    whole = run_inspect(InspectRecipe(model=suspect, data="digits", n=None, search=False))
    assert whole.accuracy.n == len(load_data("digits").test)


def test_a_file_swapped_between_two_looks(suspect, monkeypatch):
    real = recipe_inspect.load_weights

    def other(model, path, *, name):
        return replace(real(model, path, name=name), sha256="0" * 64)

    monkeypatch.setattr(recipe_inspect, "load_weights", other)
    with pytest.raises(InputError, match=r"stay as it is while it is inspected. Found a file that changed"):
        run_inspect(InspectRecipe(model=suspect, data="digits"), search=nothing)


@pytest.mark.parametrize("case", ["overlap", "code before damage", "bomb", "shared lists"])
def test_hostile_files_are_refused(tmp_path, case):
    path = HOSTILE[case][0](tmp_path)
    with pytest.raises(InputError, match=HOSTILE[case][1]):
        run_inspect(InspectRecipe(model=str(path)))
    assert not (tmp_path / "exploded").exists()
