"""Dead layers: named by a probe, and held against forward hooks, autograd and layers that were killed on purpose."""

from collections.abc import Callable
from copy import deepcopy
from math import isnan

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from isthmus._check import InputError
from isthmus.data import Samples
from isthmus.layout import Bound, Layout
from isthmus.models import lenet, resnet18
from isthmus.probes import DeadLayers
from isthmus.probes.dead_layers import BATCH, DeadLayer, find_dead

Rectifier = Callable[[Tensor], Tensor]
RECTIFIERS: dict[str, Rectifier] = {
    "relu": functional.relu,
    "relu-module": nn.ReLU(),
    "relu-in-place": nn.ReLU(inplace=True),
    "relu-method": lambda h: h.relu(),
    "relu-method-in-place": lambda h: h.relu_(),
    "relu6": functional.relu6,
    "clamp": lambda h: h.clamp(min=0),
    "clamp-in-place": lambda h: h.clamp_(0),
    "clamp-min": lambda h: h.clamp_min(0),
    "clamp-min-tensor": lambda h: h.clamp(min=torch.zeros(())),
    "clip-both": lambda h: torch.clip(h, 0, 1),
    "hardtanh": nn.Hardtanh(0, 1),
    "threshold": nn.Threshold(0, 0),
    "maximum": lambda h: torch.maximum(h, torch.zeros_like(h)),
    "maximum-swapped": lambda h: torch.maximum(torch.tensor(0.0), h),
}


class Net(nn.Module):
    """conv1 - activation - pool - conv2 - activation - fc, with the activation as a function."""

    def __init__(self, rectifier: Rectifier = functional.relu):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
        self.fc = nn.Linear(4, 3)
        self.rectifier = rectifier

    def forward(self, x: Tensor) -> Tensor:
        h = functional.max_pool2d(self.rectifier(self.conv1(x)), 2)
        return self.fc(self.rectifier(self.conv2(h)).mean((2, 3)))


class Block(nn.Module):
    """x + conv2(act(bn(conv1(x)))), and an activation after the sum."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1, self.bn, self.conv2 = nn.Conv2d(width, width, 1), nn.BatchNorm2d(width), nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x + self.conv2(functional.relu(self.bn(self.conv1(x)))))


class Skipping(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(2, 4, 1), Block(4), Block(4), nn.Flatten(), nn.Linear(4 * 6 * 5, 3))


def images(count: int = 7) -> Tensor:
    return torch.rand(count, 2, 6, 5, generator=torch.Generator().manual_seed(1))


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().eval()


def kill(layer: nn.Module) -> None:
    """Make all outputs of a layer negative."""
    nn.init.constant_(layer.weight, 0.0)
    nn.init.constant_(layer.bias, -1.0)


def names(found: tuple[DeadLayer, ...]) -> list[str]:
    return [layer.name for layer in found]


def gradients(model: nn.Module, x: Tensor) -> dict[str, float]:
    """Largest absolute gradient of a loss with respect to each parameter."""
    model = deepcopy(model)
    (model(x) * torch.arange(1.0, 4.0)).square().sum().backward()
    return {name: p.grad.abs().max().item() for name, p in model.named_parameters()}


@pytest.mark.parametrize("form", RECTIFIERS)
def test_a_dead_layer_is_found_in_every_form_of_the_activation(form: str) -> None:
    model = seeded(lambda: Net(RECTIFIERS[form]))
    assert find_dead(model, images()) == ()
    kill(model.conv2)
    (found,) = find_dead(model, images())
    assert (found.name, found.after) == ("conv2", "conv1")
    logits = model(images())
    assert torch.equal(logits, logits[:1].expand_as(logits))
    assert f"answers class {int(logits[0].argmax())} for every image" in found.consequence
    assert "neither `conv2` nor any layer before it gets a gradient" in found.consequence
    found_gradients = gradients(model, images())
    assert {name for name, size in found_gradients.items() if size == 0} == {
        "conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias", "fc.weight",
    }  # fmt: skip


@pytest.mark.parametrize(("form", "dead"), [("relu", 1), ("threshold", 1), ("relu6", 1), ("clamp", 0), ("maximum", 0)])
def test_at_exactly_zero_it_is_the_gradient_that_counts(form: str, dead: int) -> None:
    model = seeded(lambda: Net(RECTIFIERS[form]))
    nn.init.zeros_(model.conv2.weight)
    nn.init.zeros_(model.conv2.bias)
    assert (gradients(model, images())["conv2.weight"] == 0) == bool(dead)
    assert len(find_dead(model, images())) == dead


@pytest.mark.parametrize("first", [True, False])
def test_a_connection_round_a_dead_layer_carries_the_image_and_the_gradient(first: bool) -> None:
    model = seeded(Skipping)
    kill(model[1 if first else 2].bn)
    (found,) = find_dead(model, images())
    assert found.name == ("1.bn" if first else "2.bn")
    assert found.after == (None if first else "add in 1")
    assert "other connections lead round it" in found.consequence
    assert "conv" not in found.consequence.replace("connection", "")
    sizes = gradients(model, images())
    assert sizes["0.weight"] > 0
    assert sizes[f"{found.name.split('.')[0]}.conv1.weight"] == 0


def test_the_sum_of_a_block_has_no_way_round() -> None:
    model = seeded(Skipping)
    kill(model[1].bn)
    nn.init.constant_(model[2].conv2.bias, -1e3)  # the second block's sum is negative
    inside, total = find_dead(model, images())
    assert (inside.name, total.name, total.after) == ("1.bn", "add in 2", "2.bn")
    assert "other connections lead round it" in inside.consequence
    assert "Every path to the logits leads through it" in total.consequence
    assert all(size == 0 for name, size in gradients(model, images()).items() if not name.startswith("4"))


def test_every_block_of_a_residual_network_is_followed() -> None:
    model = resnet18(3, (2, 8, 9), width=2).eval()
    nn.init.constant_(model.layer2[0].bn1.weight, 0.0)
    nn.init.constant_(model.layer2[0].bn1.bias, -1.0)
    x = torch.rand(7, 2, 8, 9, generator=torch.Generator().manual_seed(1))
    (found,) = find_dead(model, x)
    assert (found.name, found.after) == ("layer2.0.bn1", "add in layer1.1")
    assert "other connections lead round it" in found.consequence


def reference(model: nn.Sequential, x: Tensor) -> dict[str, Tensor]:
    """Units (boolean) that no image switches on, by the name of the module in front of each ReLU: plain forward passes."""
    found, h = {}, x
    for place, layer in enumerate(model):
        if isinstance(layer, nn.ReLU):
            rows = h.transpose(0, 1).flatten(1) if h.ndim == 4 else h.flatten(0, -2).T
            found[str(place - 1)] = (rows <= 0).all(1)
        h = layer(h)
    return found


class Swap(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


STACKS: dict[str, tuple[Callable[[], nn.Sequential], tuple[int, ...]]] = {
    "conv": (
        lambda: nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Conv2d(5, 6, 2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3)),
        (2, 6, 5),
    ),
    "conv-bn": (lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(40, 3)), (1, 7, 4)),
    "sequence": (lambda: nn.Sequential(nn.Conv1d(2, 4, 1), Swap(), nn.LayerNorm(4), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)), (2, 3)),
    "flat": (lambda: nn.Sequential(nn.Linear(5, 9), nn.ReLU(), nn.Linear(9, 6), nn.ReLU(), nn.Linear(6, 2)), (5,)),
    "tokens": (lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.LayerNorm(6), nn.ReLU(), nn.Flatten(), nn.Linear(18, 3)), (3, 4)),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("shift", [0.0, -0.4, -0.8, -1.2, -5.0])
def test_units_and_layers_are_those_of_a_plain_forward_pass(stack: str, shift: float, dtype: torch.dtype) -> None:
    make, shape = STACKS[stack]
    model = seeded(make).to(dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter += shift
    x = torch.rand(300, *shape, generator=torch.Generator().manual_seed(2))
    expected = reference(model, x.to(dtype))
    units = torch.cat(list(expected.values()))
    found = DeadLayers(Samples(x, torch.arange(300) % 3, 3), count=300)(model)
    assert found["dead_units"] == pytest.approx(100 * units.double().mean().item())
    assert found["dead_layers"] == sum(bool(dead.all()) for dead in expected.values())
    assert names(find_dead(model, x)) == [name for name, dead in expected.items() if bool(dead.all())]


def test_one_image_beyond_the_first_batch_keeps_a_layer_alive() -> None:
    model = seeded(lambda: nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 2)))
    nn.init.ones_(model[0].weight)
    nn.init.constant_(model[0].bias, -1.0)
    x = torch.rand(2 * BATCH + 3, 1)
    assert names(find_dead(model, x)) == ["0"]
    x[-1] = 1.5
    assert find_dead(model, x) == ()
    x[-1] = torch.nan  # not a number is not zero or negative
    assert find_dead(model, x) == ()


def test_weights_that_share_one_storage_keep_their_names() -> None:
    model = seeded(Net)
    kill(model.conv2)
    bound = Bound(model, Layout.of(model))
    assert len({p.untyped_storage().data_ptr() for p in bound.module.parameters()}) == 1
    assert names(find_dead(bound.module, images())) == ["conv2"]


class Bare(nn.Module):
    """Owns its weights itself, uses one activation twice, and halves of one tensor."""

    def __init__(self, split: bool):
        super().__init__()
        self.w1, self.w2 = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4, 3))
        self.split = split

    def forward(self, x: Tensor) -> Tensor:
        h = x @ self.w1
        if not self.split:
            return functional.relu(functional.relu(h) - 100) @ self.w2
        left, right = (h * torch.tensor([-1.0, -1.0, 1.0, 1.0])).chunk(2, 1)
        left.relu_()
        return torch.cat([left, right], 1) @ self.w2


def test_weights_of_the_model_itself_and_repeated_activations_are_named() -> None:
    x = torch.rand(5, 4)
    (found,) = find_dead(Bare(split=False), x)
    assert (found.name, found.after) == ("w1 #2", "w1")


def test_one_half_of_a_tensor_does_not_shut_the_other() -> None:
    model = seeded(lambda: nn.Sequential(Bare(split=True), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3)))
    kill(model[1])
    half, whole = find_dead(model, torch.rand(5, 4))
    assert (half.name, whole.name) == ("0.w1", "1")
    assert "other connections lead round it" in half.consequence
    assert "Every path to the logits leads through it" in whole.consequence


class Parallel(nn.Module):
    """A dead branch beside something that carries the image."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor]):
        super().__init__()
        self.dead, self.alive, self.join = nn.Linear(4, 3), nn.Linear(4, 3), join
        kill(self.dead)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(functional.relu(self.dead(x)), x)


def test_the_larger_of_two_branches_is_no_activation_even_where_one_is_zero() -> None:
    model = Parallel(lambda zero, x: torch.maximum(zero, model.alive(x)))
    held = Samples(torch.rand(5, 4), torch.zeros(5, dtype=torch.long), 3)
    assert DeadLayers(held)(model) == {"dead_layers": 1.0, "dead_units": 100.0}  # of three units, not of six


def test_logits_that_differ_outweigh_what_the_operations_show() -> None:
    """A detour over NumPy is invisible to torch."""
    model = Parallel(lambda zero, x: zero + torch.from_numpy(x.numpy().copy()[:, :3]))
    (found,) = find_dead(model, torch.rand(5, 4))
    assert "other connections lead round it" in found.consequence


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:DeprecationWarning")
def test_scripted_reparametrised_and_transformer_layers_are_seen() -> None:
    x = torch.rand(5, 4)
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)))
    kill(model[0])
    assert names(find_dead(torch.jit.script(model), x)) == ["0"]
    model = seeded(lambda: nn.Sequential(weight_norm(nn.Linear(4, 6)), nn.ReLU(), nn.Linear(6, 2)))
    nn.init.constant_(model[0].bias, -100.0)
    assert names(find_dead(model, x)) == ["0"]
    layer = seeded(lambda: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True))
    kill(layer.linear1)
    model = nn.Sequential(nn.Unflatten(1, (1, 4)), layer, nn.Flatten(), nn.Linear(4, 3)).eval()
    (found,) = find_dead(model, x)
    assert found.name == "1.linear1"
    assert "other connections lead round it" in found.consequence


def test_what_no_layer_made_or_no_image_reaches_is_no_layer() -> None:
    class Clamped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.scale = nn.Linear(4, 3), nn.Parameter(-torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.clamp(0, 1)) + self.scale.relu() + x.norm(dim=1, keepdim=True).clamp_min(1e-12)

    x = torch.rand(5, 4)
    x[:, 0] = 0.0
    found = DeadLayers(Samples(x, torch.zeros(5, dtype=torch.long), 3))(Clamped())
    assert isnan(found["dead_layers"])
    assert isnan(found["dead_units"])


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_and_the_images_are_as_before(fails: bool) -> None:
    class Failing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if fails:
                raise RuntimeError("no forward")
            return x.sub_(0.5)

    model = nn.Sequential(Failing(), nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))
    model.train()
    model[2].eval()
    model[1].weight.requires_grad_(False)
    x, state = images(), deepcopy(model.state_dict())
    before, random = x.clone(), torch.get_rng_state()
    if fails:
        with pytest.raises(InputError, match=r"`model` should take inputs of shape \(B, 2, 6, 5\)\. Found: no forward"):
            find_dead(model, x)
    else:
        find_dead(model, x)
    assert torch.equal(x, before)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert [module.training for module in model] == [True, True, False, True, True, True]
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True, True, True]
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def digits(count: int = 40) -> Samples:
    x = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    return Samples(x, torch.arange(count).sort(descending=True).values // 10, 4, "toy/train")


def test_the_probe_takes_every_class_by_its_share_and_says_so(generator: torch.Generator) -> None:
    probe = DeadLayers(digits(), count=8)
    layers, units = probe.columns
    assert (layers.name, layers.unit, layers.better, layers.split, layers.n) == (
        "dead_layers",
        "1",
        "lower",
        "train",
        8,
    )
    assert (units.name, units.unit, units.better, units.split, units.n) == ("dead_units", "%", "lower", "train", None)
    assert "8 images of toy/train" in layers.about
    assert [c.name for c in DeadLayers(digits(), split="validation").columns] == [
        "validation_dead_layers",
        "validation_dead_units",
    ]
    # A unit for each class, which only images of this class switch on: with every class present none is dead.
    held = digits()
    x = functional.one_hot(held.y, 4).float()
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 4))
    nn.init.eye_(model[0].weight)
    probe = DeadLayers(Samples(x, held.y, 4), count=4)
    assert probe(model, generator=generator) == {"dead_layers": 0.0, "dead_units": 0.0}
    model[0].weight.data[1:] = -1
    assert probe(model) == {"dead_layers": 0.0, "dead_units": 75.0}
    model[0].weight.data[:] = -1
    assert probe(model) == {"dead_layers": 1.0, "dead_units": 100.0}
    assert names(probe.find(model)) == ["0"]


def test_the_stuck_lenet_of_liu_names_its_layer() -> None:
    model = lenet(4, (1, 8, 8), width=2)
    kill(model.fc1)
    (found,) = DeadLayers(digits()).find(model)
    assert (found.name, found.after) == ("fc1", "conv2")
    assert found.consequence.startswith("`fc1` is zero or negative before its activation on all 40 images.")


def test_bad_input() -> None:
    with pytest.raises(InputError, match=r"`x` should hold at least two different inputs\. Found 1 that are equal"):
        find_dead(Net(), images(1))
    with pytest.raises(InputError, match=r"`x` should hold at least two different inputs\. Found 3 that are equal"):
        find_dead(Net(), torch.ones(3, 2, 6, 5))
    with pytest.raises(InputError, match=r"`count` should be at least 2 images\. Found 1"):
        DeadLayers(digits(), count=1)
    with pytest.raises(InputError, match=r"`model` should return logits"):
        find_dead(nn.Conv2d(2, 3, 1), images())
