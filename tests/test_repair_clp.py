"""Channel Lipschitzness pruning, against NumPy and outliers put there by hand."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from contracts.modules import assert_same_bits, tensors_of, untouched
from isthmus._check import InputError
from isthmus.data import Samples
from isthmus.models import build_model
from isthmus.models.pairs import Pair
from isthmus.repair.masks.clp import CLP, bounds
from isthmus.repair.protocol import Clean, Repaired
from isthmus.training.session import Session
from repair_example import suspects, trusted


def run(repair: CLP, module: nn.Module, clean: Clean | None = None) -> Repaired:
    with untouched(module):
        return repair((module,), clean or trusted(), seed=0, session=Session())


def by_numpy(conv: nn.Module, norm: nn.Module) -> np.ndarray:
    filters = conv.weight.detach().double().numpy()
    gain = np.abs(norm.weight.detach().double().numpy()) / np.sqrt(norm.running_var.double().numpy() + norm.eps)
    return np.array(
        [g * np.linalg.svd(w.reshape(w.shape[0], -1), compute_uv=False)[0] for g, w in zip(gain, filters, strict=True)]
    )


@pytest.mark.parametrize("name", ["cnn", "resnet18", "vgg16-bn", "preresnet:depth=8"])
def test_bounds_are_singular_values_of_the_real_pairs(name: str) -> None:
    module = build_model(name, num_classes=10, input_shape=(1, 8, 8), seed=0, width=4)
    generator = torch.Generator().manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.weight.data.normal_(generator=generator)
            part.running_var.uniform_(0.5, 2, generator=generator)
    found = bounds(module, trusted().train)
    assert len(found) == {"cnn": 3, "resnet18": 20, "vgg16-bn": 13, "preresnet:depth=8": 4}[name]
    for pair, bound in found.items():
        expected = by_numpy(module.get_submodule(pair.layer), module.get_submodule(pair.norm))
        np.testing.assert_allclose(bound.numpy(), expected, rtol=1e-10)


def test_a_bound_bounds_what_the_channel_does(generator: torch.Generator) -> None:
    """For a 1x1 convolution the bound is reached, by an input along the filter."""
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2)).eval()
    module[1].weight.data.uniform_(-2, 2, generator=generator)
    samples = Samples(torch.rand(2, 3, 1, 1, generator=generator), torch.tensor([0, 1]), 2)
    bound = bounds(module, samples)[Pair("0", "1")]
    for k in range(4):
        filters = module[0].weight[k].detach()
        step = (filters / filters.norm()).view(1, 3, 1, 1)
        change = module[:2](samples.x[:1] + step) - module[:2](samples.x[:1])
        assert float(change.detach()[0, k].abs()) == pytest.approx(float(bound[k]), rel=1e-4)


def outlying() -> nn.Module:
    """A trained suspect in which one filter of the last convolution and one of the second are far larger than their neighbours."""
    module = deepcopy(suspects()[0])
    with torch.no_grad():
        module.conv3.weight[5] *= 30
        module.conv2.weight[9] *= 30
    return module


@pytest.mark.parametrize("u", [1.0, 3.0, 5.2, 6.0])
def test_one_u_is_the_published_rule(u: float) -> None:
    module = outlying()
    found = run(CLP(settings=(u,)), module)
    expected, count = {name: tensor.clone() for name, tensor in tensors_of(module).items()}, 0
    for k in (1, 2, 3):
        scores = by_numpy(module.get_submodule(f"conv{k}"), module.get_submodule(f"bn{k}"))
        high = np.flatnonzero(scores > scores.mean() + u * scores.std(ddof=1))
        expected[f"bn{k}.weight"][high] = 0
        expected[f"bn{k}.bias"][high] = 0
        count += len(high)
    assert_same_bits(tensors_of(found.module), expected)
    assert found.table is not None
    assert found.table.values("closed") == [count]
    # Of n values none deviates by more than (n - 1) / sqrt(n): 3.75 of 16, 5.48 of 32.
    assert count == {1.0: count, 3.0: 2, 5.2: 1, 6.0: 0}[u]
    assert (found.name, found.evaluations, found.choice, found.history) == ("clp", 0, None, None)


def test_one_u_needs_no_data() -> None:
    clean = trusted()
    wrong = Clean(clean.train.take(torch.arange(1)), clean.validation.replaced(y=clean.validation.y.roll(1)))
    one, other = (run(CLP(settings=(3.0,)), outlying(), given) for given in (clean, wrong))
    assert_same_bits(tensors_of(one.module), tensors_of(other.module))


def test_of_several_settings_validation_takes_one() -> None:
    module = outlying()
    found = run(CLP(settings=(6.0, 3.0, 1.0, -1.0), margin=0.05), module)
    assert found.table is not None
    assert found.table.values("u") == [None, 6.0, 3.0, 1.0, -1.0]
    closed = [int(value or 0) for value in found.table.values("closed")]
    assert closed[:3] == [0, 0, 2]
    assert closed[-1] > 30  # most channels: guessing
    everything = run(CLP(settings=(6.0, 3.0, 1.0, -1.0), margin=1.0), module)
    assert everything.note.startswith(f"{closed[-1]} of 56 channels closed (u -1)")
    assert not found.note.startswith(f"{closed[-1]} of")


class Swapped(nn.Module):
    """Runs its layers in another order than it defines them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_b, self.norm_a = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv_a, self.norm_b = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm_a(self.conv_a(x)))
        return self.fc(functional.relu(self.norm_b(self.conv_b(x))).mean((2, 3)))


def test_the_order_of_definition_does_not_mislead() -> None:
    module = Swapped().eval()
    found = bounds(module, trusted().train)
    assert set(found) == {Pair("conv_a", "norm_a"), Pair("conv_b", "norm_b")}
    for pair, bound in found.items():
        part = by_numpy(module.get_submodule(pair.layer), module.get_submodule(pair.norm))
        np.testing.assert_allclose(bound.numpy(), part, rtol=1e-10)


@pytest.mark.parametrize(
    "module",
    [
        build_model("lenet", num_classes=10, input_shape=(1, 8, 8), seed=0, width=2),
        nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 10, 8), nn.Flatten()),  # before, not behind
        nn.Sequential(nn.Conv2d(1, 10, 8), nn.BatchNorm2d(10, affine=False), nn.Flatten()),
        nn.Sequential(nn.Conv2d(1, 10, 8), nn.BatchNorm2d(10, track_running_stats=False), nn.Flatten()),
        nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10)),
    ],
)
def test_a_model_without_pairs_is_refused_with_the_reason(module: nn.Module) -> None:
    with pytest.raises(
        InputError, match=r"`suspects` should have a convolution whose output goes straight into .*Found none in"
    ):
        run(CLP(), module.eval())


@pytest.mark.parametrize("settings", [(), (3.0, 3.0), (1.0, 2.0)])
def test_settings_that_do_not_fall_are_refused(settings: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match=r"`settings` should be one u or several falling ones\. Found"):
        CLP(settings=settings)
