"""Bridges and models on disk: every bit comes back, and a file that is something else is refused with words."""

import errno
import json
import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from isthmus import store
from isthmus._check import InputError
from isthmus.files import sha256
from isthmus.geometry.bases import Bernstein, Chain, Product
from isthmus.geometry.build import connect, single
from isthmus.geometry.flat import Affine, Barycentric
from isthmus.layout import buffers_of
from isthmus.models import load_weights
from isthmus.store import Card, load_bridge, read_card, read_header, save_bridge, save_model


class Odd(nn.Module):
    """Tied weights, BatchNorm, an integer buffer, a buffer outside the saved state."""

    def __init__(self, seed=0, width=4):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first = nn.Linear(width, width, bias=False)
            self.norm = nn.BatchNorm1d(width)
            self.second = nn.Linear(width, width)
            self.norm.running_mean.normal_()
        self.second.weight = self.first.weight
        self.register_buffer("table", torch.arange(seed, seed + 5))
        self.register_buffer("mask", torch.full((2, 2), -torch.inf), persistent=False)

    def forward(self, x):
        return self.second(self.norm(self.first(x)))


def pair(dtype=torch.float32):
    return [Odd(seed).to(dtype) for seed in (1, 2)]


BASES = {
    "bezier": (Bernstein(3), 2),
    "chain": (Chain(4, (0.0, 0.2, 0.7, 1.0)), 2),
    "line": (Bernstein(1), 2),
    "simplex": (Barycentric(3), 3),
    "plane": (Affine(3), 3),
    "surface": (Product(Bernstein(2), Chain(3)), 4),
}


def moved(bridge):
    """Return the bridge with free points that lie on no line."""
    noise = torch.randn(bridge.free.shape, generator=torch.Generator().manual_seed(0))
    return bridge.with_free(bridge.free + noise.to(bridge.free))


def assert_equal(one, two):
    assert one.basis == two.basis
    assert one.layout == two.layout
    assert one.fixed_index == two.fixed_index
    assert one.names == two.names
    for a, b in ((one.fixed, two.fixed), (one.free, two.free)):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    assert one.states.keys() == two.states.keys()
    for i, state in one.states.items():
        assert state.keys() == two.states[i].keys()
        for name, tensor in state.items():
            assert tensor.dtype == two.states[i][name].dtype
            assert torch.equal(tensor, two.states[i][name])


@pytest.mark.parametrize("name", BASES)
def test_every_basis_comes_back_bit_for_bit(name, tmp_path):
    basis, count = BASES[name]
    bridge = moved(connect([Odd(seed) for seed in range(count)], basis))
    save_bridge(bridge, tmp_path / "b.safetensors")
    assert_equal(load_bridge(tmp_path / "b.safetensors", Odd(9)), bridge)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_every_dtype_comes_back_bit_for_bit(dtype, tmp_path):
    models = pair(dtype)
    bridge = moved(connect(models, Bernstein(2), names=("a", "b")))
    save_bridge(bridge, tmp_path / "b.safetensors")
    back = load_bridge(tmp_path / "b.safetensors", Odd(9).to(dtype))
    assert_equal(back, bridge)
    ends = [back.at(0.0), back.at(1.0)]
    for end, model in zip(ends, models, strict=True):
        for key, value in model.state_dict().items():
            assert torch.equal(end.state_dict()[key], value)
        assert torch.equal(end.table, model.table)  # the integer buffer is the end's own


def test_mixed_dtypes_and_a_single_model(tmp_path):
    model = Odd(1)
    model.norm.double()
    bridge = single(model)  # nothing fixed: a tensor without rows
    save_bridge(bridge, tmp_path / "b.safetensors")
    template = Odd(2)
    template.norm.double()
    assert_equal(load_bridge(tmp_path / "b.safetensors", template), bridge)


def test_others_may_read_what_the_umask_lets_them(tmp_path):
    save_model(Odd(), tmp_path / "m.safetensors")
    (tmp_path / "plain").touch()
    assert (tmp_path / "m.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_equal_contents_are_equal_files(tmp_path):
    bridge, card = connect(pair(), Bernstein(2)), Card(arch="mlp", notes={"a": 1, "b": 2})
    for i in range(8):  # an unordered header would differ sooner or later
        save_bridge(bridge, tmp_path / f"b{i}", meta=card)
        save_model(Odd(), tmp_path / f"m{i}", card)
    assert len({sha256(path) for path in tmp_path.glob("b*")}) == 1
    assert len({sha256(path) for path in tmp_path.glob("m*")}) == 1


def test_the_header_says_what_the_file_is(tmp_path):
    card = Card(arch="mlp:depth=2", width=8, num_classes=10, input_shape=(1, 8, 8), data="digits", notes={"seed": 3})
    save_bridge(connect(pair(), Bernstein(2), names=("a.pt", "b.pt")), tmp_path / "b.safetensors", meta=card)
    header = read_header(tmp_path / "b.safetensors")
    assert header.card == card
    assert header.make_basis() == Bernstein(2)
    assert header.names == ("a.pt", "b.pt")
    assert header.fixed_index == (0, 2)
    assert header.layout.names == ("first.weight", "norm.weight", "norm.bias", "second.bias")
    assert header.layout.dtypes == ("float32",) * 4
    assert read_card(tmp_path / "b.safetensors") == card


def test_a_model_file_loads_anywhere_and_says_what_it_is(tmp_path):
    model, card = Odd(1), Card(arch="odd.py:net", num_classes=4)
    save_model(model, tmp_path / "m.safetensors", card)
    held = load_file(tmp_path / "m.safetensors")
    assert held.keys() == model.state_dict().keys()  # tied weights under both names
    for name, tensor in model.state_dict().items():
        assert torch.equal(held[name], tensor)
    assert read_card(tmp_path / "m.safetensors") == card
    fresh = Odd(5)
    load_weights(fresh, tmp_path / "m.safetensors")
    assert torch.equal(fresh.first.weight, model.first.weight)
    assert fresh.first.weight is fresh.second.weight


def test_files_of_other_origin_have_an_empty_card(tmp_path):
    torch.save(Odd().state_dict(), tmp_path / "a.pt")
    save_file({"x": torch.zeros(1)}, tmp_path / "b.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "c.safetensors", metadata={store.KEY: "no JSON"})
    save_file({"x": torch.zeros(1)}, tmp_path / "d.safetensors", metadata={store.KEY: '{"card": 3}'})
    for name in ("a.pt", "b.safetensors", "c.safetensors", "d.safetensors", "missing"):
        assert read_card(tmp_path / name) == Card()


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "b.safetensors"
    save_bridge(connect(pair(), Bernstein(2)), path)
    return path


def changed(path, *, tensors=None, **metadata):
    """Write the file again with other tensors or metadata."""
    with safe_open(path, framework="pt") as file:
        text = json.loads(file.metadata()[store.KEY])
    held = load_file(path) | (tensors or {})
    save_file({k: v for k, v in held.items() if v is not None}, path, metadata={store.KEY: json.dumps(text | metadata)})
    return path


def test_what_is_no_bridge_is_refused(tmp_path, saved):
    with pytest.raises(InputError, match=r"Found nothing at"):
        read_header(tmp_path / "none.safetensors")
    with pytest.raises(InputError, match=r"Found a folder at"):
        read_header(tmp_path)
    (tmp_path / "text").write_text("hello")
    with pytest.raises(InputError, match=r"should be a safetensors file. Found another kind, or a damaged one"):
        read_header(tmp_path / "text")
    save_model(Odd(), tmp_path / "m.safetensors")
    with pytest.raises(InputError, match=r"should be a bridge.*Found the weights of a single model"):
        load_bridge(tmp_path / "m.safetensors", Odd())
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match=r"Found tensors of another origin"):
        load_bridge(tmp_path / "x.safetensors", Odd())
    with pytest.raises(InputError, match=r"have bridge format version '1'. Found 2. Read it with the version"):
        load_bridge(changed(saved, format_version="2"), Odd())


def test_a_bridge_of_another_model_names_the_first_tensor_that_differs(saved):
    with pytest.raises(InputError, match=r"has 'first.weight' of shape \(5, 5\) float32. Found \(4, 4\) float32"):
        load_bridge(saved, Odd(width=5))
    with pytest.raises(InputError, match=r"has 'first.weight' of shape \(4, 4\) float64. Found \(4, 4\) float32"):
        load_bridge(saved, Odd().double())
    with pytest.raises(InputError, match=r"Found 'first.weight' in the bridge only, not in the model given"):
        load_bridge(saved, nn.Linear(4, 4))
    more = Odd()
    more.third = nn.Linear(1, 1)
    with pytest.raises(InputError, match=r"Found 'third.weight' in the model given only, not in the bridge"):
        load_bridge(saved, more)
    other = Odd()
    other.register_buffer("count", torch.zeros(1))
    with pytest.raises(InputError, match=r"Found the buffer 'count' in the model given only"):
        load_bridge(saved, other)
    other = Odd()
    other.table = torch.arange(6)
    with pytest.raises(InputError, match=r"which has the buffer 'table'"):
        load_bridge(saved, other)

    class Swapped(Odd):
        def __init__(self):
            super().__init__()
            norm = self.norm
            del self.norm
            self.norm = norm

    with pytest.raises(InputError, match=r"hold its tensors in the order of the model given. Found another order"):
        load_bridge(saved, Swapped())


def test_numbers_that_are_not_finite_are_refused(saved):
    free = load_file(saved)["free"]
    free[0, 3] = torch.nan
    with pytest.raises(InputError, match=r"Found 1 NaN or infinite values of 28 in tensor 'free'"):
        load_bridge(changed(saved, tensors={"free": free}), Odd())
    mean = torch.full((4,), torch.inf)
    with pytest.raises(InputError, match=r"Found 4 NaN or infinite values of 4 in tensor 'state.0.norm.running_mean'"):
        load_bridge(changed(saved, tensors={"free": torch.zeros(1, 28), "state.0.norm.running_mean": mean}), Odd())


def test_a_header_that_disagrees_with_its_tensors_is_refused(saved):
    with pytest.raises(InputError, match=r"should hold 'free' of shape \(rows, 28\) torch.float32. Found nothing"):
        load_bridge(changed(saved, tensors={"free": None}), Odd())
    with pytest.raises(InputError, match=r"Found \(1, 5\) torch.float32"):
        load_bridge(changed(saved, tensors={"free": torch.zeros(1, 5)}), Odd())
    with pytest.raises(InputError, match=r"should be a whole bridge file. Found a damaged one"):
        load_bridge(changed(saved, header={}), Odd())


def test_a_damaged_list_of_states_is_refused(saved):
    with pytest.raises(InputError, match=r"Found a damaged one"):
        load_bridge(changed(saved, states=["x"]), Odd())


def test_a_cut_file_is_refused(saved):
    saved.write_bytes(saved.read_bytes()[:-8])
    with pytest.raises(InputError, match=r"damaged"):
        load_bridge(saved, Odd())


def test_a_basis_of_the_users_own_is_not_saved(tmp_path):
    class Mine:
        num_points, dim, corners = 2, 1, (((0.0,), 0), ((1.0,), 1))
        sites, breaks = ((0.0,), (1.0,)), ((0.0, 1.0),)

        def __call__(self, u):
            return torch.cat([1 - u, u], -1)

    with pytest.raises(InputError, match=r"`basis` should be one of the library's own to be saved. Found Mine"):
        save_bridge(connect(pair(), Mine()), tmp_path / "b.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_type_that_safetensors_lacks_is_refused(tmp_path):
    model = nn.Linear(1, 1)
    model.register_buffer("wide", torch.zeros(1, dtype=torch.complex128))
    with pytest.raises(InputError, match=r"tensors of types that safetensors knows"):
        save_model(model, tmp_path / "m.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_earlier_file(saved, monkeypatch):
    before = saved.read_bytes()

    def full(*_arguments, **_settings):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(store, "save_file", full)
    with pytest.raises(InputError, match=r"the disk is full.*the earlier file is unchanged"):
        save_bridge(connect(pair(), Bernstein(3)), saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_nothing_of_the_callers_changes(tmp_path):
    model = Odd().train()
    bridge = connect(pair(), Bernstein(2))
    before = {k: v.clone() for k, v in model.state_dict().items()} | buffers_of(model)
    save_model(model, tmp_path / "m.safetensors")
    save_bridge(bridge, tmp_path / "b.safetensors")
    back = load_bridge(tmp_path / "b.safetensors", model)
    back.template.first.weight.data.zero_()
    assert model.training
    for key, value in (model.state_dict() | buffers_of(model)).items():
        assert torch.equal(value, before[key])
