"""BatchNorm policies against statistics by hand."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from contracts.modules import assert_same_bits, buffers_of, odd_module, tensors_of, untouched
from isthmus._check import InputError
from isthmus.data import Samples
from isthmus.settle import BatchStatistics, Keep, Recalibrate, require_policy, running_layers

RUNNING = {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}


def images(count: int, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Samples:
    x = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return Samples(x, torch.arange(count) % 5, 5, "drawn/train")


class Layered(nn.Module):
    """Two BatchNorm layers; keeps what went into each."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 4, 3)
        self.second = nn.BatchNorm2d(4, momentum=0.3)
        self.drop = nn.Dropout(0.5)
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv(self.first(x))
        if self.first.training:
            self.seen.append((x.detach().clone(), inner.detach().clone()))
        return self.drop(self.second(inner)).mean((2, 3))


@pytest.mark.parametrize(("count", "size", "parts"), [(12, 4, 3), (12, 500, 1), (10, 5, 2), (2, 2, 1)])
def test_mean_is_exact_and_variance_the_mean_of_the_batches(count: int, size: int, parts: int) -> None:
    module, samples = Layered(), images(count)
    Recalibrate(samples, batch_size=size)(module)
    assert len(module.seen) == parts
    for place, layer in enumerate((module.first, module.second)):
        inputs = [pair[place].double() for pair in module.seen]
        mean = torch.cat(inputs).mean((0, 2, 3))
        variance = torch.stack([x.var((0, 2, 3), correction=1) for x in inputs]).mean(0)
        torch.testing.assert_close(layer.running_mean.double(), mean, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(layer.running_var.double(), variance, rtol=1e-5, atol=1e-6)
        assert layer.num_batches_tracked == parts
    assert torch.equal(torch.cat([x for x, _ in module.seen]), samples.inputs())


def test_batches_of_unequal_sizes_count_alike() -> None:
    module = Layered()
    Recalibrate(images(11), batch_size=4)(module)
    sizes = [len(x) for x, _ in module.seen]
    assert sizes == [4, 4, 3]
    expected = torch.stack([x.mean((0, 2, 3)) for x, _ in module.seen]).mean(0)
    torch.testing.assert_close(module.first.running_mean, expected)


@pytest.mark.parametrize("count", [2, 3, 5, 9])
def test_no_batch_is_a_single_image(count: int) -> None:
    """BatchNorm1d refuses one sample, and its variance would be NaN."""
    module = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(192))
    Recalibrate(images(count), batch_size=2)(module)
    assert bool(torch.isfinite(module[1].running_var).all())


@pytest.mark.parametrize("training", [True, False])
def test_only_running_statistics_change(*, training: bool) -> None:
    module = odd_module(0).train(training)
    module.drop.train(not training)
    module.norm.momentum = 0.25
    before = tensors_of(module)
    stream = torch.get_rng_state()
    modes = [m.training for m in module.modules()]
    Recalibrate(images(8), batch_size=4)(module)
    after = tensors_of(module)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == RUNNING
    assert [m.training for m in module.modules()] == modes
    assert module.norm.momentum == 0.25
    assert torch.equal(torch.get_rng_state(), stream)
    assert all(parameter.grad is None for parameter in module.parameters())


def test_what_was_there_before_does_not_matter() -> None:
    one, two = odd_module(0), odd_module(0)
    two.norm.running_mean.fill_(1e8)
    two.norm.running_var.fill_(torch.inf)
    for module in (one, two):
        Recalibrate(images(8))(module)
    assert_same_bits(buffers_of(one), buffers_of(two))


@pytest.mark.parametrize("scale", [0.0, 1e-8, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_inputs_take_the_dtype_of_the_model(dtype: torch.dtype, scale: float) -> None:
    module = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 2, 3)).to(dtype)
    samples = images(6)
    Recalibrate(samples.replaced(x=samples.x * scale))(module)
    expected = (samples.x * scale).to(dtype).mean((0, 2, 3))
    torch.testing.assert_close(
        module[0].running_mean, expected, rtol=2e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-12
    )


def test_a_module_of_nothing_but_statistics() -> None:
    module = nn.BatchNorm2d(3, affine=False)
    Recalibrate(images(4))(module)
    torch.testing.assert_close(module.running_mean, images(4).x.mean((0, 2, 3)))


class Failing(nn.Module):
    """Breaks at the second batch."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3, momentum=0.2)
        self.off = nn.BatchNorm2d(3).eval()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.norm.training
        if self.calls == 2:
            raise RuntimeError("out of luck")
        return self.off(self.norm(x))


def test_modes_and_momenta_come_back_after_an_error() -> None:
    module = Failing()
    with pytest.raises(RuntimeError, match="out of luck"):
        Recalibrate(images(8), batch_size=4)(module)
    assert (module.norm.training, module.off.training, module.training) == (True, False, True)
    assert (module.norm.momentum, module.off.momentum) == (0.2, 0.1)


def test_modules_without_statistics_are_not_run() -> None:
    module = nn.Sequential(nn.Linear(5, 2), nn.BatchNorm1d(2, track_running_stats=False))  # would refuse the images
    with untouched(module):
        Recalibrate(images(4))(module)
        Keep()(module)


def test_keep_changes_nothing() -> None:
    module = odd_module(0)
    with untouched(module):
        Keep()(module)


def test_running_layers_are_found() -> None:
    module = nn.ModuleList(
        [
            nn.BatchNorm1d(2),
            nn.InstanceNorm2d(2, track_running_stats=True),
            nn.InstanceNorm2d(2),
            nn.BatchNorm2d(2, track_running_stats=False),
            nn.LayerNorm(2),
            nn.GroupNorm(1, 2),
        ]
    )
    assert running_layers(module) == [module[0], module[1]]
    assert len(running_layers(odd_module(0))) == 1


def test_errors() -> None:
    with pytest.raises(
        InputError, match=r"`samples` should hold at least 2 images to recalibrate BatchNorm\. Found 1\."
    ):
        Recalibrate(images(1))
    with pytest.raises(
        InputError, match=r"`batch_size` should be at least 2, so that a batch has a variance\. Found 1\."
    ):
        Recalibrate(images(4), batch_size=1)
    message = r"`settle` should be given .* Found None and 1 such layers\. Pass Recalibrate\(samples\) to recompute .*, or Keep\(\)\."
    with pytest.raises(InputError, match=message):
        require_policy(odd_module(0), None)
    require_policy(odd_module(0), Keep())
    require_policy(nn.Linear(2, 2), None)


def in_training(module: nn.Module, x: Tensor) -> Tensor:
    """Return what a copy says in training mode, its dropout apart."""
    copy = deepcopy(module).train()
    for layer in copy.modules():
        if isinstance(layer, nn.Dropout):
            layer.eval()
    with torch.no_grad():
        return copy(x)


@pytest.mark.parametrize("training", [True, False])
def test_batch_statistics_are_those_of_training_mode(*, training: bool) -> None:
    module, x = Layered().eval(), images(6).inputs()
    module.drop.train(training)
    with torch.no_grad():
        before = module(x)
    expected = in_training(module, x)
    BatchStatistics()(module)
    module.eval()
    with torch.no_grad():
        torch.testing.assert_close(module(x), expected)
        assert not torch.allclose(module(x), before)
        half = module(x[:3])
    assert not torch.allclose(half, expected[:3])  # the other images of the batch matter
    assert running_layers(module) == []


def test_batch_statistics_are_asked_for_at_given_models_too() -> None:
    assert BatchStatistics.everywhere
    norm = nn.InstanceNorm2d(3, track_running_stats=True)
    x = images(4).inputs()
    expected = nn.InstanceNorm2d(3)(x)
    BatchStatistics()(norm)
    torch.testing.assert_close(norm.eval()(x), expected)
    plain = nn.Linear(2, 2)
    with untouched(plain):
        BatchStatistics()(plain)
