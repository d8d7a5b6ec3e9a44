"""The input-Hessian probe against closed forms and against the images one by one."""

import pytest
import torch
from torch import Tensor, nn

from contracts.modules import odd_module, untouched
from isthmus._check import InputError
from isthmus.curvature.input_hessian import input_eigenvalues
from isthmus.data import Samples
from isthmus.geometry.build import line
from isthmus.models import build_model
from isthmus.probes import InputHessian, Probe
from isthmus.scan import scan
from isthmus.settle import Keep
from isthmus.table import Table

NAMES = ["input_eigenvalue", "input_eigenvalue_median", "input_eigenvalue_q90", "input_eigenvalue_max"]


def samples(n: int = 7, shape: tuple[int, ...] = (3, 8, 8)) -> Samples:
    generator = torch.Generator().manual_seed(5)
    x = torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=generator)
    return Samples(x, torch.arange(n) % 3, 3, "toy/test")


class Logistic(nn.Module):
    """Two-class logits 0 and <w, x>; the third class never wins."""

    def __init__(self, w: Tensor):
        super().__init__()
        self.w = nn.Parameter(w)

    def forward(self, x: Tensor) -> Tensor:
        z = x.flatten(1) @ self.w
        return torch.stack([torch.zeros_like(z), z], 1)


def test_the_values_of_logistic_regression() -> None:
    """lambda = p (1 - p) |w|^2 for each image, in pixels of [0, 1]; gradient and eigenvector are both w."""
    data = Samples(samples(9).x, torch.arange(9) % 2, 2, "toy/test")
    w = torch.randn(192, generator=torch.Generator().manual_seed(0))
    p = torch.sigmoid(data.inputs().flatten(1).double() @ w.double())
    top = p * (1 - p) * w.double().square().sum()
    probe = InputHessian(data, batch_size=4)
    found = probe(Logistic(w))
    assert list(found) == [column.name for column in probe.columns] == [*NAMES, "input_cosine", "input_residual"]
    assert found["input_eigenvalue"] == pytest.approx(float(top.mean()), rel=1e-4)
    assert found["input_eigenvalue_median"] == pytest.approx(float(top.median()), rel=1e-4)
    assert found["input_eigenvalue_q90"] == pytest.approx(float(top.quantile(0.9)), rel=1e-4)
    assert found["input_eigenvalue_max"] == pytest.approx(float(top.max()), rel=1e-4)
    assert found["input_cosine"] == pytest.approx(1)
    assert found["input_residual"] == 0


@pytest.mark.parametrize("name", ["cnn", "odd"])
def test_the_mean_of_the_images_whatever_the_batch(name: str, generator: torch.Generator) -> None:
    model = odd_module(1) if name == "odd" else build_model("cnn:width=4", num_classes=3, input_shape=(3, 8, 8))
    data, state = samples(), generator.get_state()
    digest = data.digest()
    with untouched(model):
        whole, parts = (InputHessian(data, batch_size=size)(model, generator=generator) for size in (100, 3))
    assert data.digest() == digest
    assert torch.equal(generator.get_state(), state)
    alone = [input_eigenvalues(model, data.inputs(torch.tensor([i])), data.y[i : i + 1]) for i in range(7)]
    top = torch.cat([one.eigenvalues[:, 0] for one in alone])
    for found in (whole, parts):
        assert found["input_eigenvalue"] == pytest.approx(float(top.mean()), rel=1e-4)
        assert found["input_eigenvalue_max"] == pytest.approx(float(top.max()), rel=1e-4)
        assert found["input_cosine"] == pytest.approx(float(torch.cat([one.cosine for one in alone]).mean()), rel=1e-3)
        assert (found["input_residual"] == 0) == (name == "cnn")
        assert found["input_residual"] < 1e-3


def test_the_columns_say_unit_split_number_and_method() -> None:
    top, *_, cosine, residual = InputHessian(samples()).columns
    assert (top.name, top.unit, top.better, top.split, top.n) == ("input_eigenvalue", "nat/input²", "lower", "test", 7)
    assert "toy/test" in top.about
    assert "else by Lanczos" in top.about
    assert "from the Jacobian (model piecewise linear" in InputHessian(samples(), "exact").columns[0].about
    assert InputHessian(samples(), "lanczos").columns[0].about.endswith("by Lanczos")
    assert (cosine.name, cosine.unit, cosine.better) == ("input_cosine", "1", None)
    assert (residual.name, residual.unit, residual.better) == ("input_residual", "1", "lower")
    other = InputHessian(samples(), split="validation")
    assert other.columns[0].name == "validation_input_eigenvalue"
    assert {column.split for column in other.columns} == {"validation"}


def test_both_methods_agree_and_the_choice_is_passed_on() -> None:
    model = build_model("cnn:width=4", num_classes=3, input_shape=(3, 8, 8))
    exact, lanczos = (InputHessian(samples(), method)(model) for method in ("exact", "lanczos"))
    for name in NAMES:
        assert lanczos[name] == pytest.approx(exact[name], rel=1e-4)
    assert lanczos["input_residual"] > exact["input_residual"] == 0
    with pytest.raises(InputError, match="`method` should be 'auto' or 'lanczos' for this model"):
        InputHessian(samples(), "exact")(odd_module(0))


def test_a_diverged_model_has_no_values() -> None:
    model = build_model("cnn:width=4", num_classes=3, input_shape=(3, 8, 8))
    model.fc.weight.data.fill_(torch.nan)
    found = InputHessian(samples())(model)
    assert all(value != value for value in found.values())
    Table.of([dict(found)], InputHessian(samples()).columns)


def test_a_flat_model_has_no_cosine() -> None:
    model = build_model("mlp:width=4,depth=1", num_classes=3, input_shape=(3, 8, 8))
    for parameter in model.parameters():
        parameter.data.zero_()
    found = InputHessian(samples())(model)
    assert [found[name] for name in NAMES] == [0.0] * 4
    assert found["input_cosine"] != found["input_cosine"]
    assert found["input_residual"] == 0


def test_scanned_along_a_line() -> None:
    ends = [build_model("cnn:width=4", num_classes=3, input_shape=(3, 8, 8), seed=seed) for seed in range(2)]
    probe: Probe = InputHessian(samples())
    table = scan(line(ends), [0.0, 1.0], [probe], settle=Keep())
    for value, end in zip(table.values("input_eigenvalue"), ends, strict=True):
        assert value == pytest.approx(probe(end, generator=torch.Generator())["input_eigenvalue"], rel=1e-5)


def test_bad_input() -> None:
    with pytest.raises(InputError, match=r"`method` should be one of auto, exact, lanczos. Found 'power'"):
        InputHessian(samples(), "power")
    with pytest.raises(InputError, match=r"`batch_size` should be at least 1. Found 0"):
        InputHessian(samples(), batch_size=0)
