"""Weight files: every wrapper and prefix, and everything that is refused before a single weight is written."""

import hashlib
import re
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from isthmus._check import InputError
from isthmus.models import LoadReport, build_model, load_model, load_weights, read_state

SIZES = {"num_classes": 3, "input_shape": (1, 8, 8)}


class Tied(nn.Module):
    """Two names for one tensor."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4, bias=False)
        self.second = nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight


class Normalised(nn.Module):
    """A wrapper whose files lack its prefix."""

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = body
        self.register_buffer("mean", torch.zeros(1), persistent=False)


def small(seed: int = 0) -> nn.Module:
    return build_model("cnn", **SIZES, width=2, seed=seed)


def same(model: nn.Module, state) -> bool:
    found = model.state_dict()
    return list(found) == list(state) and all(torch.equal(found[key], state[key]) for key in found)


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in small(1).state_dict().items()}


def test_safetensors_and_both_pytorch_formats_are_read_by_content(tmp_path, state):
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "a.pt")
    torch.save(state, tmp_path / "a.th", _use_new_zipfile_serialization=False)
    (tmp_path / "named_otherwise.bin").write_bytes((tmp_path / "a.safetensors").read_bytes())
    for name in ("a.safetensors", "a.pt", "a.th", "named_otherwise.bin"):
        model = small()
        report = load_weights(model, tmp_path / name)
        digest = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        assert report == LoadReport(str(tmp_path / name), digest, ())
        assert same(model, state)


def test_a_pytorch_file_named_safetensors_is_reported(tmp_path, state):
    torch.save(state, tmp_path / "a.safetensors")
    _, notes = read_state(tmp_path / "a.safetensors")
    assert notes == ("the file is named .safetensors and is a PyTorch file; it was read as one, restricted to tensors",)


def test_load_model_builds_and_loads(tmp_path, state):
    save_file(state, tmp_path / "a.safetensors")
    model, report = load_model("cnn", tmp_path / "a.safetensors", **SIZES, width=2, name="A")
    assert same(model, state)
    assert report.notes == ()


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "net", "model"])
def test_wrappers_are_opened_and_reported(tmp_path, state, wrapper):
    torch.save({"epoch": 7, wrapper: OrderedDict(state), "optimizer": {"lr": 0.1}}, tmp_path / "a.pt")
    model = small()
    report = load_weights(model, tmp_path / "a.pt")
    assert report.notes == (f"took the entry {wrapper!r} of the file (it also holds epoch, optimizer)",)
    assert same(model, state)


def test_nested_wrappers_and_prefixes(tmp_path, state):
    prefixed = {f"_orig_mod.module.{key}": value for key, value in state.items()}
    torch.save({"model": {"state_dict": prefixed}}, tmp_path / "a.pt")
    model = small()
    assert load_weights(model, tmp_path / "a.pt").notes == (
        "took the entry 'model' of the file",
        "took the entry 'state_dict' of the file",
        "took the prefix '_orig_mod.' off every name",
        "took the prefix 'module.' off every name",
    )
    assert same(model, state)


def test_one_uniform_prefix_is_added_or_removed(tmp_path, state):
    save_file(state, tmp_path / "bare.safetensors")
    model = Normalised(small())
    assert load_weights(model, tmp_path / "bare.safetensors").notes == ("added the prefix 'body.' to every name",)
    assert same(model.body, state)
    save_file(model.state_dict(), tmp_path / "body.safetensors")
    bare = small()
    assert load_weights(bare, tmp_path / "body.safetensors").notes == ("took the prefix 'body.' off every name",)
    assert same(bare, state)


def test_a_prefix_that_the_model_really_has_comes_back(tmp_path):
    model, other = nn.ModuleDict({"module": nn.Linear(2, 2)}), nn.ModuleDict({"module": nn.Linear(2, 2)})
    torch.save(model.state_dict(), tmp_path / "a.pt")
    load_weights(other, tmp_path / "a.pt")
    assert same(other, model.state_dict())


def test_a_prefix_that_fits_only_some_names_is_not_used(tmp_path, state):
    state["extra"] = torch.zeros(1)
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=re.escape("no tensor 'body.conv1.weight' (shape (2, 1, 3, 3) in the model).")):
        load_weights(Normalised(small()), tmp_path / "a.safetensors")


def test_files_without_batch_counters_load(tmp_path, state):
    old = {f"module.{key}": value for key, value in state.items() if "num_batches" not in key}
    torch.save({"state_dict": old}, tmp_path / "a.th")
    model = Normalised(small())
    assert load_weights(model, tmp_path / "a.th").notes[1:] == (
        "took the prefix 'module.' off every name",
        "added the prefix 'body.' to every name",
        "3 counters num_batches_tracked: not in the file (PyTorch before 0.4.1), left as they were",
    )
    assert torch.equal(model.body.bn2.running_var, state["bn2.running_var"])


def test_tied_tensors(tmp_path):
    weight = torch.arange(16.0).view(4, 4)
    save_file({"second.weight": weight}, tmp_path / "one.safetensors")
    model = Tied()
    notes = load_weights(model, tmp_path / "one.safetensors").notes
    assert notes == ("first.weight: not in the file, tied to a tensor that is",)
    assert torch.equal(model.first.weight, weight)
    assert model.first.weight is model.second.weight
    save_file({"first.weight": weight, "second.weight": weight + 1}, tmp_path / "two.safetensors")
    message = "different values for 'first.weight' and 'second.weight', which are one tensor in the model"
    with pytest.raises(InputError, match=message):
        load_weights(model, tmp_path / "two.safetensors")
    assert torch.equal(model.first.weight, weight)


def test_floats_are_converted_and_reported(tmp_path, state):
    half = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    save_file(half, tmp_path / "a.safetensors")
    model = small()
    report = load_weights(model, tmp_path / "a.safetensors")
    count = sum(value.is_floating_point() for value in state.values())
    assert report.notes == (f"converted {count} tensors from torch.float16 to torch.float32",)
    assert model.fc.weight.dtype == torch.float32
    assert torch.equal(model.fc.weight, half["fc.weight"].float())


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "conv1.weight",
            torch.zeros(16, 3, 3, 3),
            "'conv1.weight' of shape (16, 3, 3, 3) where the model has (2, 1, 3, 3)",
        ),
        ("fc.bias", None, "no tensor 'fc.bias' (shape (3,) in the model)."),
        ("fc.biass", torch.zeros(3), "'fc.biass' of shape (3,), which the model does not have."),
        (
            "fc.bias",
            torch.zeros(3, dtype=torch.int64),
            "'fc.bias' of torch.int64, which the model's torch.float32 does not hold",
        ),
        ("bn1.num_batches_tracked", torch.tensor(1.5), "'bn1.num_batches_tracked' of torch.float32"),
        (
            "fc.bias",
            torch.tensor([0.0, torch.nan, torch.inf]),
            "Found 2 NaN or infinite values of 3 in tensor 'fc.bias'",
        ),
        ("fc.bias", torch.tensor([0.0, 1e300, 0.0]).double() * 1e300, "in tensor 'fc.bias'"),
        (
            "fc.bias",
            torch.full((3,), 1e300, dtype=torch.float64),
            "(a.pt, in the dtypes of the model)` should hold finite",
        ),
        ("fc.bias", torch.zeros(3).to_sparse(), "should hold dense tensors"),
        ("fc.bias", torch.zeros(3, dtype=torch.complex64), "Found 'fc.bias' of torch.complex64"),
        ("fc.bias", [0.0], "`A` should hold a mapping of names to tensors. Found list under 'fc.bias' in a.pt."),
        (5, torch.zeros(3), "Found Tensor under 5 in a.pt."),
    ],
)
def test_tensors_that_do_not_fit_are_named_and_nothing_is_written(tmp_path, state, key, value, message):
    changed = {**state, key: value}
    torch.save({k: v for k, v in changed.items() if v is not None}, tmp_path / "a.pt")
    model = small()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        load_weights(model, tmp_path / "a.pt", name="A")
    assert "\n" not in str(caught.value)
    assert "A" in str(caught.value)
    assert same(model, before)


def test_a_renamed_tensor_is_suggested(tmp_path, state):
    state["fc.weights"] = state.pop("fc.weight")
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"no tensor 'fc.weight' .* Did you mean 'fc.weights'\?"):
        load_weights(small(), tmp_path / "a.pt")


def test_counts_that_would_wrap_are_refused(tmp_path):
    model = nn.Linear(2, 2)
    model.register_buffer("small", torch.zeros(1, dtype=torch.uint8))
    torch.save({**model.state_dict(), "small": torch.tensor([300])}, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"'small' of torch.int64, which the model's torch.uint8 does not hold"):
        load_weights(model, tmp_path / "a.pt")


def test_models_without_data_are_refused(tmp_path, state):
    save_file(state, tmp_path / "a.safetensors")
    for model in (nn.LazyLinear(3), nn.Linear(3, 3, device="meta")):
        with pytest.raises(InputError, match=r"`model` should have initialised tensors. Found 'weight' without data"):
            load_weights(model, tmp_path / "a.safetensors")


def test_loading_leaves_mode_gradients_and_random_state(tmp_path, state):
    save_file(state, tmp_path / "a.safetensors")
    model = small().eval()
    model.fc.weight.grad = torch.ones_like(model.fc.weight)
    model.fc.bias.requires_grad_(False)
    held, before = model.fc.weight, torch.get_rng_state()
    load_weights(model, tmp_path / "a.safetensors")
    assert model.fc.weight is held
    assert not model.training
    assert held.grad is not None
    assert not model.fc.bias.requires_grad
    assert torch.equal(before, torch.get_rng_state())
