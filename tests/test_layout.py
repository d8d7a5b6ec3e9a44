"""Any module's numbers into one vector and back, and the gradient of a bound copy against plain autograd."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from contracts.modules import (
    assert_same_bits,
    bits,
    check_module,
    odd_module,
    of_three_kinds,
    scaled,
    seeded,
    stratified,
    tensors_of,
    untouched,
)
from isthmus._check import InputError
from isthmus.layout import (
    Bound,
    Layout,
    arranged,
    buffers_of,
    load_buffers,
    memory_format_for,
    require_same_architecture,
)


def batch(*, count: int = 6, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, 3, 8, 8, generator=generator).to(dtype), torch.randint(5, (count,), generator=generator)


def state_of(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.named_parameters())


@pytest.mark.parametrize("count", [2, 6])
@pytest.mark.parametrize("label", list(stratified(odd_module)))
def test_contract(label: str, count: int) -> None:
    module = stratified(odd_module)[label][0]
    dtype = module.head.weight.dtype
    check_module(module, *batch(count=count, dtype=dtype), tolerance=1e-4 if dtype == torch.float32 else 1e-10)


@pytest.mark.parametrize("scale", [0.0, 1e-4, 1.0, 1e4])
def test_contract_with_weights_of_three_kinds(scale: float) -> None:
    check_module(scaled(of_three_kinds(0), scale), *batch(), tolerance=1e-2)


def test_contract_with_one_sample_in_evaluation_mode() -> None:
    check_module(odd_module(0).eval(), *batch(count=1), tolerance=1e-4)


class Recurrent(nn.Module):
    """A recurrent layer keeps a list of its own weights beside the registered ones."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(24, 5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.cell(x.transpose(1, 2).flatten(2))[0][:, -1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_contract_with_recurrent_and_parametrised_layers(dtype: torch.dtype) -> None:
    with seeded(0):
        recurrent = Recurrent().to(dtype)
        normed = nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(192, 5))).to(dtype)
    for module in (recurrent, normed):
        check_module(module, *batch(dtype=dtype), tolerance=1e-4)


def test_tied_weights_appear_once() -> None:
    module = odd_module(0)
    layout = Layout.of(module)
    assert "inward.weight" in layout.names
    assert "outward.weight" not in layout.names
    assert layout.size == sum(parameter.numel() for parameter in module.parameters())
    assert layout.shapes[layout.names.index("temperature")] == ()


def test_the_order_is_the_modules_own() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    layout = Layout.of(module)
    assert layout.names == ("0.weight", "0.bias", "1.weight", "1.bias")
    assert layout.slices == (slice(0, 6), slice(6, 9), slice(9, 12), slice(12, 15))
    expected = torch.cat([parameter.detach().reshape(-1) for parameter in module.parameters()])
    assert torch.equal(layout.flatten(state_of(module)), expected)


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        ((torch.bfloat16,), torch.bfloat16),
        ((torch.bfloat16, torch.float16), torch.float32),
        ((torch.bfloat16, torch.float32), torch.float32),
        ((torch.float16, torch.float64, torch.float32), torch.float64),
    ],
)
def test_the_vector_is_as_wide_as_the_widest_weight(dtypes: tuple[torch.dtype, ...], expected: torch.dtype) -> None:
    values = [-0.0, 0.1, 3.3895e38 if torch.float16 not in dtypes else 6e-8, 1e-7]
    module = nn.ParameterDict({f"p{i}": nn.Parameter(torch.tensor(values, dtype=d)) for i, d in enumerate(dtypes)})
    layout = Layout.of(module)
    assert layout.dtype == expected
    vector = layout.flatten(state_of(module))
    assert vector.dtype == expected
    for name, view in layout.unflatten(vector).items():
        assert torch.equal(bits(view.to(module[name].dtype)), bits(module[name]))


def test_values_in_a_channels_last_vector_are_in_that_order() -> None:
    module = nn.Conv2d(2, 3, (1, 2), bias=False)
    plain, last = Layout.of(module), Layout.of(module, channels_last=True)
    vector = plain.flatten(state_of(module))
    expected = module.weight.detach().permute(0, 2, 3, 1).reshape(-1)
    assert torch.equal(last.flatten(state_of(module)), expected)
    assert not torch.equal(expected, vector)
    assert torch.equal(plain.reordered(vector, last), expected)
    assert torch.equal(last.reordered(expected, plain), vector)
    copy = plain.reordered(vector, plain)
    assert torch.equal(copy, vector)
    assert copy.data_ptr() != vector.data_ptr()
    assert last.unflatten(expected)["weight"].is_contiguous(memory_format=torch.channels_last)


def test_unflatten_gives_views() -> None:
    layout = Layout.of(nn.Linear(2, 2))
    vector = torch.zeros(layout.size)
    layout.unflatten(vector)["bias"].fill_(3)
    assert vector.tolist() == [0, 0, 0, 0, 3, 3]


def test_flatten_ignores_other_entries_and_copies() -> None:
    module = odd_module(0)
    layout = Layout.of(module)
    vector = layout.flatten(module.state_dict())
    assert torch.equal(vector, layout.flatten(state_of(module)))
    vector.zero_()
    assert bool(module.head.weight.any())


def test_errors_of_layout() -> None:
    with pytest.raises(InputError, match=r"`module` should have floating-point parameters\. Found none in ReLU\."):
        Layout.of(nn.ReLU())
    lazy = nn.LazyLinear(3)
    with pytest.raises(
        InputError, match=r"`module` should have initialised parameters\. Found 'weight' without data\. Run one forward"
    ):
        Layout.of(lazy)
    with pytest.raises(InputError, match=r"Found '0\.weight' without data"):
        Layout.of(nn.Sequential(nn.Linear(2, 3, device="meta")))
    layout = Layout.of(nn.Linear(2, 3))
    with pytest.raises(InputError, match=r"`state` should have a tensor 'bias' of shape \(3,\)\. Found no such name\."):
        layout.flatten({"weight": torch.zeros(3, 2)})
    with pytest.raises(InputError, match=r"`state` should have 'weight' of shape \(3, 2\)\. Found \(2, 3\)\."):
        layout.flatten({"weight": torch.zeros(2, 3), "bias": torch.zeros(3)})


def test_frozen_weights_keep_a_zero_gradient_whatever_decay_wrote() -> None:
    module = of_three_kinds(0)
    layout = Layout.of(module)
    bound = Bound(module, layout)
    x, y = batch()
    functional.cross_entropy(bound.module(x), y).backward()
    held = layout.unflatten(bound.collect())
    assert not held["still"].any()  # frozen, narrow
    assert not held["quiet"].any()  # frozen, as wide as the vector
    bound.gradient.add_(bound.buffer)
    bound.silence_frozen()
    assert not held["still"].any()
    assert not held["quiet"].any()
    assert bool(held["wide.weight"].any())
    assert bool(held["narrow.weight"].any())


def test_forget_gradient_forgets_the_last_step() -> None:
    module = of_three_kinds(0)
    bound = Bound(module, Layout.of(module))
    x, y = batch()

    def step() -> Tensor:
        bound.forget_gradient()
        functional.cross_entropy(bound.module(x), y).backward()
        return bound.collect().clone()

    assert torch.equal(step(), step())
    bound.forget_gradient()
    assert not bound.collect().any()


def test_narrow_weights_take_the_buffer_when_published() -> None:
    module = of_three_kinds(0)
    layout = Layout.of(module)
    bound = Bound(module, layout)
    bound.buffer.fill_(0.3)
    assert not torch.equal(bound.module.narrow.bias, torch.full((6,), 0.3, dtype=torch.bfloat16))
    bound.publish()
    assert torch.equal(bound.module.narrow.bias, torch.full((6,), 0.3, dtype=torch.bfloat16))
    assert torch.equal(bound.module.wide.bias, torch.full((6,), 0.3, dtype=torch.float64))


def test_a_step_along_the_flat_gradient_is_a_step_of_sgd() -> None:
    module, (x, y) = odd_module(0), batch()
    plain, bound = deepcopy(module), Bound(module, Layout.of(module))
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    for step in range(3):
        optimizer.zero_grad()
        bound.forget_gradient()
        for owner in (plain, bound.module):
            with seeded(step):
                functional.cross_entropy(owner(x), y).backward()
        optimizer.step()
        bound.buffer.sub_(bound.collect(), alpha=0.1)
    torch.testing.assert_close(bound.buffer, bound.layout.flatten(state_of(plain)), rtol=1e-5, atol=1e-6)
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(dict(bound.module.named_buffers())[name], buffer)


def test_buffers_are_everything_the_vector_does_not_hold() -> None:
    module = of_three_kinds(0)
    assert set(buffers_of(module)) == {"count"}
    odd, other = odd_module(0), odd_module(1)
    held = buffers_of(odd)
    assert set(held) == {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked", "order", "keep", "bias"}
    with untouched(odd):
        held["order"].zero_()
    load_buffers(other, buffers_of(odd))
    assert_same_bits(buffers_of(other), buffers_of(odd))
    load_buffers(module, {"count": torch.tensor([7, 8])})
    assert module.count.tolist() == [7, 8]


def test_same_architecture_passes_and_differences_are_named() -> None:
    require_same_architecture(odd_module(0), odd_module(1))
    with pytest.raises(
        InputError, match=r"`second` should have '0\.weight' like `first`: \(3, 2\) torch\.float32\. Found \(3, 4\)"
    ):
        require_same_architecture(nn.Sequential(nn.Linear(2, 3)), nn.Sequential(nn.Linear(4, 3)))
    with pytest.raises(
        InputError, match=r"'weight' like `a`: \(3, 2\) torch\.float32\. Found \(3, 2\) torch\.float64\."
    ):
        require_same_architecture(nn.Linear(2, 3), nn.Linear(2, 3).double(), ("a", "b"))
    with pytest.raises(InputError, match=r"`b` should have the tensors of `a`\. Found no tensor 'bias'\."):
        require_same_architecture(nn.Linear(2, 3), nn.Linear(2, 3, bias=False), ("a", "b"))
    with pytest.raises(InputError, match=r"`a` should have the tensors of `b`\. Found no tensor 'running_mean'\."):
        require_same_architecture(nn.LayerNorm(3), nn.BatchNorm1d(3), ("a", "b"))
    other = odd_module(1)
    other.order = other.order[:9]
    with pytest.raises(InputError, match=r"'order' like `first`: \(16,\) torch\.int64\. Found \(9,\) torch\.int64"):
        require_same_architecture(odd_module(0), other)


class Viewing(nn.Module):
    """Flattens by `view`, which a channels-last tensor refuses."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3, padding=1)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.conv(x))
        return x.view(len(x), -1)


def test_memory_format_is_tried() -> None:
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    viewing, odd = Viewing(), odd_module(0)
    viewing.conv.eval()  # a mode of its own
    with untouched(viewing, odd):
        assert memory_format_for(viewing, x) == torch.contiguous_format
        assert memory_format_for(odd, x) == torch.channels_last
    assert memory_format_for(Viewing(1), x[:, :1]) == torch.contiguous_format
    assert memory_format_for(nn.Linear(8, 2), x) == torch.contiguous_format
    assert memory_format_for(odd, x[0]) == torch.contiguous_format
    assert memory_format_for(odd, x[:, :2]) == torch.contiguous_format  # refuses the input in any order


def test_weights_follow_the_order_that_the_module_takes() -> None:
    viewing, plain = Viewing(1), nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2))
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = plain(x)
    assert not expected.is_contiguous(memory_format=torch.channels_last)
    assert (arranged(viewing, x), arranged(plain, x)) == (torch.contiguous_format, torch.channels_last)
    assert viewing(x).shape == (2, 256)
    assert plain(x).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(plain(x), expected)


def test_the_contract_sees_a_gradient_that_is_not_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bound, "collect", lambda self: self.gradient)
    with pytest.raises(AssertionError, match="gradient off by"):
        check_module(of_three_kinds(0), *batch(), tolerance=1e-2)


def test_the_contract_sees_a_touched_module() -> None:
    module = odd_module(0)
    for touch, message in (
        (lambda: module.eval(), "modes, hooks"),
        (lambda: module.norm.running_mean.add_(1), "weights or buffers changed"),
        (lambda: module.keep.logical_not_(), "weights or buffers changed"),
        (lambda: torch.rand(1), "global stream"),
    ):
        with pytest.raises(AssertionError, match=message), seeded(0), untouched(module):
            touch()
    before = tensors_of(module)
    before["bias"] = before["bias"] * 1
    assert_same_bits(tensors_of(module), before)
