"""BatchNorm as an affine map: the same numbers and gradients, and nothing left behind."""

import copy

import pytest
import torch
from torch import Tensor, nn

from contracts.modules import odd_module, seeded, untouched
from isthmus.folding import folded, folds_of


def normed(kind: str = "BatchNorm2d", **settings: bool) -> nn.Module:
    with seeded(0):
        layer = getattr(nn, kind)(3, **settings)
        for tensor in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
            if tensor is not None:
                tensor.data.uniform_(0.2, 2.0)
        return nn.Sequential(layer, nn.Flatten(), nn.LazyLinear(4)).eval()


@pytest.mark.parametrize("settings", [{}, {"affine": False}])
@pytest.mark.parametrize(
    ("kind", "shape"), [("BatchNorm1d", (5, 3)), ("BatchNorm2d", (5, 3, 4, 4)), ("BatchNorm3d", (2, 3, 2, 2, 2))]
)
def test_values_and_gradients_are_those_of_the_layer(
    kind: str, shape: tuple[int, ...], settings: dict[str, bool]
) -> None:
    model = normed(kind, **settings)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    model(x)
    model.double().requires_grad_(False)
    folds = folds_of(model)
    assert len(folds) == 1

    def outcome() -> tuple[Tensor, Tensor]:
        leaf = x.double().requires_grad_()
        out = model(leaf)
        return out, torch.autograd.grad(out.square().sum(), leaf)[0]

    expected = outcome()
    with folded(folds):
        found = outcome()
        assert "BatchNorm" not in str(found[0].grad_fn)
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


def test_the_model_is_itself_again_afterwards_also_after_an_error() -> None:
    model = odd_module(0).eval()

    def fail() -> None:
        with folded(folds_of(model)):
            assert "forward" in vars(model.norm)
            raise RuntimeError("stop")

    with untouched(model), pytest.raises(RuntimeError, match="stop"):
        fail()
    assert "forward" not in vars(model.norm)
    copy.deepcopy(model)


def test_what_does_more_is_left_alone() -> None:
    class Own(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x) + 1

    patched = nn.BatchNorm2d(3).eval()
    patched.forward = lambda x: x  # type: ignore[method-assign]
    without = nn.BatchNorm2d(3, track_running_stats=False).eval()
    model = nn.Sequential(Own(3).eval(), patched, without, nn.BatchNorm2d(3).train())
    assert folds_of(model) == []
    assert folds_of(model.eval()) != []


def test_mixed_precision_goes_the_layers_own_way() -> None:
    model = normed()
    x = torch.rand(5, 3, 4, 4)
    model(x)
    model.requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16):
        expected = model[0](x.bfloat16())
        with folded(folds_of(model)):
            assert torch.equal(model[0](x.bfloat16()), expected)
