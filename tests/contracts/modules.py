"""What is owed to any module: its numbers go into a flat vector and back, its gradient is its own, and it is left as it was.

`odd_module` is an architecture in no list, with everything that a list forgets.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional

from isthmus.layout import Bound, Layout, buffers_of

DTYPES = (torch.float32, torch.float64)
SCALES = (1e-8, 1.0, 1e8)


class OddModule(nn.Module):
    """(B, 3, 8, 8) images -> (B, 5) logits: patches, BatchNorm, attention between tied projections, LayerNorm, dropout.

    `order` (integers) and `keep` (booleans) are buffers; `bias` is in no state_dict; `temperature` is a parameter without axes.
    """

    order: Tensor
    keep: Tensor
    bias: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 2, stride=2)
        self.norm = nn.BatchNorm2d(12)
        self.inward = nn.Linear(12, 12)
        self.outward = nn.Linear(12, 12, bias=False)
        self.outward.weight = self.inward.weight
        self.attention = nn.MultiheadAttention(12, 2, dropout=0.1, batch_first=True)
        self.layer = nn.LayerNorm(12)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(12, 5)
        self.temperature = nn.Parameter(torch.rand(()) + 0.5)
        self.register_buffer("order", torch.randperm(16))
        self.register_buffer("keep", torch.randperm(16) < 12)
        self.register_buffer("bias", torch.randn(5) / 10, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        tokens = functional.relu(self.norm(self.patches(x))).flatten(2).transpose(1, 2)[:, self.order]
        hidden = self.inward(tokens)
        seen, _ = self.attention(hidden, hidden, hidden, need_weights=False)
        tokens = self.layer(tokens + self.drop(self.outward(seen)))
        return self.head(tokens[:, self.keep].mean(1)) * self.temperature + self.bias


@contextmanager
def seeded(seed: int) -> Generator[None]:
    """Seed the global stream inside, and leave it as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def odd_module(seed: int) -> nn.Module:
    """Return an :class:`OddModule` drawn from `seed`, in training mode; its running statistics are not the initial ones."""
    with seeded(seed):
        module = OddModule()
        for _ in range(3):
            module.norm(torch.randn(8, 12, 4, 4) * (1 + torch.arange(12).view(-1, 1, 1)) + seed + 1)
    return module


class OfThreeKinds(nn.Module):
    """Weights of 16, 32 and 64 bits, one frozen, and tied weights; `forward` uses `view`, which a channels-last input breaks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.narrow = nn.Linear(16, 6).to(torch.bfloat16)
        self.wide = nn.Linear(6, 6).double()
        self.again = nn.Linear(6, 6).double()
        self.again.weight = self.wide.weight
        self.still = nn.Parameter(torch.randn(6, dtype=torch.bfloat16), requires_grad=False)
        self.quiet = nn.Parameter(torch.randn(6, dtype=torch.float64), requires_grad=False)
        self.count = nn.Parameter(torch.tensor([3, 5]), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        pooled = functional.adaptive_avg_pool2d(functional.relu(self.conv(x)), 2).contiguous()
        narrow = self.narrow(pooled.view(len(x), -1).bfloat16()) * self.still
        return self.again(torch.tanh(self.wide(narrow.double()))) * self.quiet


def of_three_kinds(seed: int) -> nn.Module:
    """Return an :class:`OfThreeKinds` drawn from `seed`: (B, 3, H, W) images -> (B, 6) logits."""
    with seeded(seed):
        return OfThreeKinds()


def stratified(make: Callable[[int], nn.Module]) -> dict[str, list[nn.Module]]:
    """Return four models each: different ones, equal ones, all zeros, and at scales of 1e-8 and 1e8, in both precisions."""
    found: dict[str, list[nn.Module]] = {}
    for dtype in DTYPES:
        kind = str(dtype).removeprefix("torch.")
        found[f"different {kind}"] = [make(seed).to(dtype) for seed in range(4)]
        found[f"equal {kind}"] = [make(0).to(dtype) for _ in range(4)]
        for scale in (0.0, SCALES[0], SCALES[-1]):
            found[f"scale {scale:g} {kind}"] = [scaled(make(seed).to(dtype), scale) for seed in range(4)]
    return found


def scaled(module: nn.Module, factor: float) -> nn.Module:
    """Return `module` with its parameters multiplied in place; at 0 half of them become minus zero."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.is_floating_point():
                parameter.mul_(factor)
    return module


def bits(tensor: Tensor) -> Tensor:
    """Return the bytes of a tensor: unlike numbers they tell -0.0 from 0.0 and one NaN from another."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Return copies of every parameter and buffer, those of no state_dict included."""
    held = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
    return {name: tensor.detach().clone() for name, tensor in held.items()}


def assert_same_bits(found: dict[str, Tensor], expected: dict[str, Tensor], label: str = "") -> None:
    """Assert equal names, dtypes, shapes and bytes."""
    assert found.keys() == expected.keys(), label
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, f"{label}: {name}"
        assert found[name].shape == tensor.shape, f"{label}: {name}"
        assert torch.equal(bits(found[name]), bits(tensor)), f"{label}: {name}"


@contextmanager
def untouched(*modules: nn.Module) -> Generator[None]:
    """Assert that what runs inside leaves weights, buffers, gradients, modes, hooks and the global stream of numbers as they were."""

    def state(module: nn.Module) -> list[object]:
        modes = [
            (name, m.training, len(m._forward_hooks), getattr(m, "momentum", None))
            for name, m in module.named_modules()
        ]
        places = [(name, p.data_ptr(), p.stride(), p.requires_grad) for name, p in module.named_parameters()]
        return [modes, places]

    def gradients(module: nn.Module) -> dict[str, Tensor]:
        return {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}

    before = [(deepcopy(state(m)), tensors_of(m), gradients(m)) for m in modules]
    stream = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), stream), "the global stream of random numbers was used"
    for module, (marks, tensors, grads) in zip(modules, before, strict=True):
        assert state(module) == marks, "modes, hooks, storage or requires_grad changed"
        assert_same_bits(tensors_of(module), tensors, "weights or buffers changed")
        assert_same_bits(gradients(module), grads, "gradients changed")


def check_module(module: nn.Module, x: Tensor, y: Tensor, *, tolerance: float = 1e-5) -> None:
    """Assert that the flat form of `module` is lossless and that a bound copy has the module's own gradient on (x, y).

    tolerance: of the gradient, relative to its largest entry; the order of sums may differ between memory formats.
    """
    for channels_last in (False, True):
        layout = Layout.of(module, channels_last=channels_last)
        with untouched(module):
            vector = layout.flatten(dict(module.named_parameters()))
            back = {
                name: view.to(dtype)
                for (name, view), dtype in zip(layout.unflatten(vector).items(), layout.dtypes, strict=True)
            }
        assert vector.shape == (layout.size,)
        assert_same_bits(
            back, {name: p.detach() for name, p in module.named_parameters() if name in back}, "round trip"
        )
        assert (
            back.keys() | buffers_of(module).keys()
            == dict(module.named_parameters()).keys() | dict(module.named_buffers()).keys()
        )
        with untouched(module):
            bound = Bound(module, layout)
            assert torch.equal(bits(bound.buffer), bits(vector)), "the buffer does not start at the module's weights"
            _check_gradient(module, bound, vector, (x, y), tolerance)


def _check_gradient(
    module: nn.Module, bound: Bound, vector: Tensor, batch: tuple[Tensor, Tensor], tolerance: float
) -> None:
    layout = bound.layout
    for factor in (1.0, 0.5):  # the weights the module came with, and others written into the buffer
        plain = deepcopy(module)
        with torch.no_grad():
            for name, value in layout.unflatten(vector * factor).items():
                dict(plain.named_parameters())[name].copy_(value)
        bound.buffer.copy_(vector * factor)
        bound.publish()
        assert_same_bits(tensors_of(bound.module) | buffers_of(plain), tensors_of(plain), "published weights")
        plain.zero_grad(set_to_none=True)
        bound.forget_gradient()
        for owner in (plain, bound.module):
            with seeded(0):  # dropout
                functional.cross_entropy(owner(batch[0]), batch[1]).backward()
        wanted = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in plain.named_parameters()}
        expected, found = layout.flatten(wanted), bound.collect()
        assert found.shape == expected.shape
        finite = expected.isfinite()  # at extreme scales the module's own gradient overflows
        assert torch.equal(found.isfinite(), finite), "gradient finite where the module's is not, or the reverse"
        if finite.any():
            worst = float((found - expected)[finite].abs().max())
            assert worst <= tolerance * float(expected[finite].abs().max()), f"gradient off by {worst}"
