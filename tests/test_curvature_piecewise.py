"""Which models are piecewise linear in their input: by name, and by what their dense Hessian of the logits says."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from contracts.modules import odd_module, untouched
from isthmus._check import InputError
from isthmus.curvature.piecewise import frozen, piecewise_linear
from isthmus.models import build_model


class Formula(nn.Module):
    """Logits from a formula of the flattened image and a weight."""

    def __init__(self, formula: Callable[[Tensor, Tensor], Tensor]):
        super().__init__()
        self.formula = formula
        self.weight = nn.Parameter(torch.linspace(-1, 1, 12 * 6).reshape(6, 12))

    def forward(self, x: Tensor) -> Tensor:
        return self.formula(x.flatten(1), self.weight)


def images(channels: int = 1, height: int = 3, width: int = 4) -> Tensor:
    return torch.rand(2, channels, height, width, generator=torch.Generator().manual_seed(0))


def pooled(x: Tensor, weight: Tensor) -> Tensor:
    grid = functional.pad(x.view(-1, 1, 3, 4), (1, 1, 0, 1), mode="replicate")
    parts = [functional.max_pool2d(grid, 2), functional.avg_pool2d(grid, 2), functional.adaptive_avg_pool2d(grid, 2)]
    parts += [functional.adaptive_max_pool2d(grid, 1), functional.interpolate(grid, scale_factor=2)]
    parts += [functional.interpolate(grid, size=(2, 5), mode="bilinear")]
    return functional.linear(torch.cat([part.flatten(1) for part in parts], 1)[:, :12], weight)


LINEAR: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "relu": lambda x, w: functional.relu(x - 0.5) @ w.T,
    "relu6, leaky, prelu": lambda x, w: (
        functional.leaky_relu(functional.relu6(functional.prelu(x - 0.5, w[0, :1]))) @ w.T
    ),
    "clamp and abs": lambda x, w: (x.clamp(0.2, 0.8) + (x - 0.5).abs()) @ w.T,
    "maximum of two parts": lambda x, w: torch.maximum(x, 1 - 2 * x) @ w.T,
    "pooling, padding, resizing": pooled,
    "masked by a comparison": lambda x, w: (x * (x > 0.5)) @ w.T,
    "where": lambda x, w: torch.where(x > 0.5, x, 0.1 * x) @ w.T,
    "division by a constant": lambda x, w: (x - 0.5) / (1 + w[0].abs()) @ w.T,
    "batched product with a constant": lambda x, w: torch.einsum("bi,ci->bc", x, w),
    "sorted": lambda x, w: x.sort(1).values @ w.T,
    "views": lambda x, w: (
        x.view(-1, 3, 4).transpose(1, 2).flip(1).flatten(1).split(6, 1)[0].double() @ w[:, :6].T.double()
    ),
}
SMOOTH: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], str]] = {
    "gelu": (lambda x, w: functional.gelu(x) @ w.T, "`gelu`"),
    "silu": (lambda x, w: functional.silu(x) @ w.T, "`silu`"),
    "tanh": (lambda x, w: torch.tanh(x) @ w.T, "`tanh`"),
    "hardswish": (lambda x, w: functional.hardswish(x) @ w.T, "`hardswish`"),
    "softmax": (lambda x, w: (x @ w.T).softmax(1), "`softmax`"),
    "layer norm": (lambda x, w: functional.layer_norm(x, (12,)) @ w.T, "`native_layer_norm`"),
    "square by mul": (lambda x, w: (x * x) @ w.T, "`mul` multiplies two tensors"),
    "gate": (lambda x, w: (x * x.mean(1, keepdim=True)) @ w.T, "`mul` multiplies two tensors"),
    "power": (lambda x, w: x.pow(2) @ w.T, "`pow`"),
    "bilinear": (lambda x, w: torch.bmm(x[:, :, None], x[:, None, :]).sum(1) @ w.T, "`bmm` multiplies two tensors"),
    "normalised": (lambda x, w: (x / x.sum(1, keepdim=True)) @ w.T, "`div` divides"),
    "weight made from x": (
        lambda x, w: functional.conv1d(x[None], x[:, None, :1] + w[0, 0], groups=len(x))[0] @ w.T,
        "`convolution` multiplies two tensors",
    ),
}


def bend(model: nn.Module, x: Tensor) -> float:
    """Return the largest second derivative of the logits of one image, by a dense double backward."""
    with frozen(model):
        weights = torch.arange(1.0, 7.0, dtype=torch.float64)
        hessian = torch.autograd.functional.hessian(lambda v: (model(v[None])[0].double() * weights).sum(), x)
    return float(hessian.abs().max())


@pytest.mark.parametrize("name", LINEAR)
def test_piecewise_linear_formulas_are_recognised(name: str) -> None:
    model, x = Formula(LINEAR[name]), images()
    linear, reason = piecewise_linear(model, x)
    assert linear, reason
    assert reason.startswith("only piecewise linear operations: ")
    assert bend(model, x[0]) == 0


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_formulas_are_recognised_and_the_operation_named(name: str) -> None:
    formula, named = SMOOTH[name]
    model, x = Formula(formula), images()
    linear, reason = piecewise_linear(model, x)
    assert not linear
    assert named in reason
    if name != "hardswish":
        assert bend(model, x[0]) > 1e-4


@pytest.mark.parametrize(
    ("spec", "linear"),
    [
        *(("cnn:width=4", True), ("resnet18:width=2", True), ("preresnet:width=2", True), ("lenet:width=1", True)),
        *(("vgg16:width=2", True), ("vgg16-bn:width=2", True), ("mlp:width=4", True), ("vit:width=6,depth=1", False)),
    ],
)
def test_the_models_of_the_zoo(spec: str, linear: bool) -> None:
    model = build_model(spec, num_classes=3, input_shape=(3, 8, 12))
    with untouched(model):
        found, reason = piecewise_linear(model, images(3, 8, 12))
    assert found is linear, reason


def test_attention_in_a_module_from_no_list() -> None:
    model = odd_module(0)
    model.head.weight.requires_grad_(False)
    with untouched(model):
        linear, reason = piecewise_linear(model, images(3, 8, 8))
    assert not linear
    assert "native_layer_norm" in reason


def test_dropout_and_batch_norm_count_as_in_evaluation() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.BatchNorm1d(6), nn.Dropout(0.5)).train()
    with untouched(model):
        assert piecewise_linear(model, images())[0]
    by_batch = nn.Sequential(nn.Conv2d(1, 6, 1), nn.BatchNorm2d(6, track_running_stats=False), nn.Flatten())
    linear, reason = piecewise_linear(by_batch, images())
    assert not linear
    assert "`native_batch_norm` normalises by the batch itself" in reason


def test_logits_that_do_not_vary() -> None:
    model = Formula(lambda x, w: w[:, : len(x)].T + 0 * (x.detach() > 2).float().sum())
    assert piecewise_linear(model, images()) == (True, "the logits do not vary with the input")


def test_freezing_is_undone_after_an_error() -> None:
    model = odd_module(0)
    model.head.bias.requires_grad_(False)

    def fails() -> None:
        with frozen(model):
            assert not model.training
            assert not any(parameter.requires_grad for parameter in model.parameters())
            raise ZeroDivisionError

    with untouched(model), pytest.raises(ZeroDivisionError):
        fails()


class Shifted(nn.BatchNorm1d):
    """A BatchNorm of its owner's that does more."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


def test_freezing_changes_no_logits_and_leaves_every_forward() -> None:
    generator = torch.Generator().manual_seed(0)
    norms = [nn.BatchNorm1d(6), nn.BatchNorm1d(6, affine=False), nn.BatchNorm1d(6, eps=0.5), Shifted(6)]
    for norm in norms:
        norm.running_mean.copy_(torch.randn(6, generator=generator))
        norm.running_var.copy_(torch.rand(6, generator=generator) + 0.1)
        if norm.weight is not None:
            norm.weight.data.copy_(torch.randn(6, generator=generator))
            norm.bias.data.copy_(torch.randn(6, generator=generator))
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), *norms).double().eval()
    own = nn.BatchNorm1d(6).double().eval()
    own.forward = lambda x: 2 * x  # an owner's forward on the instance
    model.append(own)
    before, forward = model(images().double()).detach(), own.forward
    with untouched(model), frozen(model):
        found = model(images().double())
        with pytest.raises(ValueError, match="expected 2D or 3D input"):
            norms[0](torch.zeros(6, dtype=torch.float64))
    assert torch.allclose(found, before, rtol=1e-12, atol=1e-12)
    assert own.forward is forward
    assert not any("forward" in vars(norm) for norm in norms)


def test_half_precision_is_refused_and_autocast_is_off() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 6))
    with torch.autocast("cpu", torch.bfloat16), frozen(model):
        assert model(images()).dtype == torch.float32
    with pytest.raises(
        InputError, match=r"`model` should compute in float32 or float64.*Found torch.bfloat16. Use .float"
    ):
        piecewise_linear(model.bfloat16(), images())


def test_a_model_that_returns_no_logits() -> None:
    with pytest.raises(InputError, match="`model` should return logits"):
        piecewise_linear(nn.Identity(), images())
