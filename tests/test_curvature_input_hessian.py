"""The spectrum of each image's input Hessian against the dense Hessian in float64."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from contracts.modules import odd_module, of_three_kinds, seeded, untouched
from isthmus._check import InputError
from isthmus.curvature.input_hessian import Effort, Method, input_eigenvalues, official_statistic
from isthmus.curvature.lanczos import lanczos
from isthmus.models import build_model


class Scaled(nn.Module):
    """Another model's logits times a factor."""

    def __init__(self, body: nn.Module, factor: float):
        super().__init__()
        self.body, self.factor = body, factor

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) * self.factor


def dense(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the Hessians (B, d, d) and gradients (B, d) of a float64 copy in evaluation mode, image by image."""
    model = deepcopy(model).double().eval()
    hessians, gradients = list[Tensor](), list[Tensor]()
    for image, label in zip(x.double(), y, strict=True):

        def loss(v: Tensor, label: Tensor = label) -> Tensor:
            return functional.cross_entropy(model(v[None]), label[None])

        with sdpa_kernel(SDPBackend.MATH):
            hessians.append(torch.autograd.functional.hessian(loss, image, vectorize=True).reshape(image.numel(), -1))
            gradients.append(torch.autograd.functional.jacobian(loss, image).flatten())
    return torch.stack(hessians), torch.stack(gradients)


def draw(shape: tuple[int, ...], n: int = 2, classes: int = 4) -> tuple[Tensor, Tensor]:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(3)), torch.arange(n) % classes


def check(model: nn.Module, x: Tensor, y: Tensor, method: Method, *, count: int = 2, tolerance: float = 1e-5) -> str:
    """Assert every field against the dense Hessian; return the method used."""
    with untouched(model):
        before = x.clone()
        found = input_eigenvalues(model, x, y, count=count, method=method)
        assert torch.equal(x, before)
        assert x.grad is None
    hessian, gradient = dense(model, x, y)
    values = torch.linalg.eigvalsh(hessian)
    scale = values.abs().amax(1)
    expected = values.flip(1)[:, :count]
    assert found.eigenvalues.shape == (len(x), count)
    assert found.eigenvalues.dtype == torch.float64
    assert float(((found.eigenvalues - expected).abs() / scale[:, None]).max()) < tolerance
    assert found.vector.shape == x.shape
    assert found.vector.dtype == x.dtype
    v = found.vector.double().flatten(1)
    assert torch.allclose(v.norm(dim=1), torch.ones(len(x), dtype=torch.float64), atol=1e-6)
    # Rayleigh quotient and residual of the vector by the dense Hessian: the vector itself may turn where eigenvalues are close.
    image = (hessian @ v[:, :, None]).squeeze(2)
    assert float((image - expected[:, :1] * v).norm(dim=1).div(expected[:, 0].abs()).max()) < 2e-3
    assert torch.allclose(found.gradient_norm, gradient.norm(dim=1), rtol=1e-4)
    cosine = (gradient * v).sum(1).abs() / gradient.norm(dim=1)
    assert torch.allclose(found.cosine, cosine, atol=1e-4)
    losses = [functional.cross_entropy(deepcopy(model).double().eval()(x.double()), y, reduction="none")]
    assert torch.allclose(found.loss, losses[0].detach(), rtol=1e-4)
    assert bool(found.converged.all())
    assert bool((found.residual <= 2e-3 * found.eigenvalues[:, 0].abs()).all())
    return found.method


MODELS = ("cnn:width=4", "resnet18:width=2", "preresnet:width=2,depth=8", "mlp:width=12", "lenet:width=1")


@pytest.mark.parametrize("spec", MODELS)
def test_exact_equals_the_dense_hessian(spec: str) -> None:
    shape = (2, 8, 9) if "8" in spec else (1, 5, 7) if "cnn" in spec else (1, 8, 8)
    model = build_model(spec, num_classes=4, input_shape=shape, seed=1)
    x, y = draw(shape)
    assert check(model, x, y, "auto") == "exact"


def test_exact_after_the_running_statistics_have_moved() -> None:
    model = build_model("cnn:width=4", num_classes=4, input_shape=(1, 5, 7))
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(16, 1, 5, 7, generator=torch.Generator().manual_seed(0)) * 3)
    assert check(model, *draw((1, 5, 7)), "exact") == "exact"


def test_lanczos_equals_the_dense_hessian_on_piecewise_linear_models() -> None:
    model = build_model("cnn:width=4", num_classes=4, input_shape=(1, 5, 7))
    assert check(model, *draw((1, 5, 7)), "lanczos") == "lanczos"


def test_lanczos_through_attention_layer_norm_and_tied_weights() -> None:
    model = odd_module(1)
    assert check(model, *draw((3, 8, 8)), "auto", count=1) == "lanczos"


def test_lanczos_on_a_vision_transformer() -> None:
    model = build_model("vit:width=12,depth=2,heads=2", num_classes=4, input_shape=(1, 8, 8))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    assert check(model, *draw((1, 8, 8)), "auto", count=1) == "lanczos"


def test_flat_inputs_of_a_smooth_perceptron_in_float64() -> None:
    with seeded(0):
        model = nn.Sequential(nn.Linear(7, 20), nn.Tanh(), nn.Linear(20, 4)).double()
    x, y = draw((7,))
    assert check(model, 4 * x.double() - 2, y, "auto", tolerance=1e-9) == "lanczos"
    # The whole spectrum, negative end included, and float32 inputs for a float64 model.
    found = input_eigenvalues(model, 4 * x - 2, y, count=7)
    expected = torch.linalg.eigvalsh(dense(model, 4 * x - 2, y)[0]).flip(1)
    assert float(expected[:, -1].max()) < 0
    assert torch.allclose(found.eigenvalues, expected, atol=1e-7)
    assert found.vector.dtype == torch.float32


def test_two_classes_have_one_eigenvalue_in_closed_form() -> None:
    """Logistic regression: H = p (1 - p) w w', so lambda = p (1 - p) |w|^2, v = w / |w| and the cosine is 1."""
    model = nn.Linear(5, 2).double()
    x, y = draw((5,), n=4, classes=2)
    w = (model.weight[1] - model.weight[0]).detach()
    p = torch.sigmoid(model(x.double())[:, 1] - model(x.double())[:, 0]).detach()
    found = input_eigenvalues(model, x.double(), y, count=3)
    assert found.method == "exact"
    assert found.products == 1
    assert torch.allclose(found.eigenvalues[:, 0], p * (1 - p) * w.square().sum(), rtol=1e-12)
    assert torch.equal(found.eigenvalues[:, 1:], torch.zeros(4, 2, dtype=torch.float64))
    assert torch.allclose((found.vector @ w).abs(), w.norm().expand(4), rtol=1e-12)
    assert torch.allclose(found.cosine, torch.ones(4, dtype=torch.float64), rtol=1e-12)
    one = input_eigenvalues(model, x[2:3].double(), y[2:3])
    assert one.eigenvalues.item() == pytest.approx(found.eigenvalues[2, 0].item(), rel=1e-12)


@pytest.mark.parametrize("gap", [1.0, 40.0, 200.0, 700.0])
def test_a_saturated_softmax_keeps_its_digits(gap: float) -> None:
    """At a gap of 40 nats 1 - p is zero in float64, and lambda = p (1 - p) |w|^2 is exp(-40) |w|^2."""
    model = nn.Linear(3, 2, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0, 0.0, 0.0], [gap, 2.0, 2.0]]))
    x = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    for label in (0, 1):
        found = input_eigenvalues(model, x, torch.tensor([label]))
        q = torch.exp(torch.tensor(-gap, dtype=torch.float64))
        p = 1 / (1 + q)
        size = torch.tensor([gap, 2.0, 2.0], dtype=torch.float64).norm()
        assert found.eigenvalues.item() == pytest.approx(float(q * p**2 * size**2), rel=1e-10, abs=0)
        assert found.gradient_norm.item() == pytest.approx(float((p if label == 0 else q * p) * size), rel=1e-10, abs=0)
        assert found.cosine.item() == pytest.approx(1.0)
    # Beyond the smallest number there is no curvature, and no direction to take a cosine with.
    far = input_eigenvalues(model, 2000 / gap * x, torch.tensor([1]))
    assert far.eigenvalues.item() == 0
    assert not far.vector.any()
    assert far.cosine.isnan().all()
    assert far.converged.all()


@pytest.mark.parametrize("factor", [1e-4, 30.0])
def test_flat_and_sharp_float32_logits(factor: float) -> None:
    model = Scaled(build_model("cnn:width=4", num_classes=4, input_shape=(1, 5, 7), seed=2), factor)
    check(model, *draw((1, 5, 7), n=5), "exact", count=1)


@pytest.mark.parametrize("method", ["exact", "lanczos"])
def test_the_batch_changes_nothing(method: Method) -> None:
    """Neither its size nor its neighbours: an image alone, in a batch, and in batches of two have one spectrum."""
    model = build_model("resnet18:width=2", num_classes=4, input_shape=(1, 8, 8))
    x, y = draw((1, 8, 8), n=5)
    whole = input_eigenvalues(model, x, y, method=method)
    pairs = input_eigenvalues(model, x, y, method=method, effort=Effort(batch_size=2))
    alone = [input_eigenvalues(model, x[i : i + 1], y[i : i + 1], method=method) for i in range(5)]
    for other in (pairs.eigenvalues, torch.cat([one.eigenvalues for one in alone])):
        assert torch.allclose(other, whole.eigenvalues, rtol=1e-4)
    twice = input_eigenvalues(model, torch.cat([x, x]), torch.cat([y, y]), method=method)
    assert torch.allclose(twice.eigenvalues[5:], whole.eigenvalues, rtol=1e-4)


def test_nothing_is_drawn_and_two_calls_agree_bitwise() -> None:
    model = odd_module(1)
    x, y = draw((3, 8, 8))
    with untouched(model):
        first, second = (input_eigenvalues(model, x, y) for _ in range(2))
    assert torch.equal(first.eigenvalues, second.eigenvalues)
    assert torch.equal(first.vector, second.vector)


def test_the_method_is_said_and_why() -> None:
    model = build_model("mlp:width=5", num_classes=4, input_shape=(6,))
    x, y = draw((6,), n=3)
    assert "only piecewise linear operations" in input_eigenvalues(model, x, y).reason
    found = input_eigenvalues(model, x, y, method="lanczos")
    assert found.reason.startswith("asked for; only piecewise linear")
    assert input_eigenvalues(model, x, y).products == 3
    assert found.products <= 3 + 3  # rank 3, one step to see that it is used up, one for the residual
    odd = input_eigenvalues(odd_module(0), *draw((3, 8, 8)))
    assert odd.method == "lanczos"
    assert "native_layer_norm" in odd.reason


def test_too_few_steps_are_admitted() -> None:
    model = odd_module(1)
    x, y = draw((3, 8, 8))
    found = input_eigenvalues(model, x, y, method="lanczos", effort=Effort(steps=2))
    assert not found.converged.any()
    assert found.products == 3
    hessian, _ = dense(model, x, y)
    v = found.vector.double().flatten(1)
    true = ((hessian @ v[:, :, None]).squeeze(2) - found.eigenvalues * v).norm(dim=1)
    assert torch.allclose(found.residual, true, rtol=1e-3)


def test_lanczos_finds_repeated_and_negative_eigenvalues() -> None:
    """Diagonal operators of different kinds in one batch: repeated, all negative, zero, indefinite with a small top."""
    spectra = torch.zeros(5, 12, dtype=torch.float64)
    spectra[0, :3], spectra[0, 3:] = 2.0, 1.0
    spectra[1] = -torch.arange(1.0, 13.0)
    spectra[3] = -torch.arange(0.0, 12.0) * 1e3
    spectra[3, 0] = 1e-2
    spectra[4, 2] = torch.nan
    found = lanczos(lambda v: v * spectra, spectra, count=4, steps=12, tolerance=1e-6, precision=2e-16)
    expected = spectra.sort(1, descending=True).values[:4, :4]
    assert torch.allclose(found.values[:4], expected, atol=1e-9)
    assert found.converged.tolist() == [True, True, True, True, False]
    assert not found.vector[2].any()
    assert found.values[4].isnan().all()


def test_logits_that_do_not_vary_have_no_curvature() -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([[0.0, 1.0, 2.0]]).expand(len(x), 3)

    x, y = draw((4,), n=3, classes=3)
    for method in ("auto", "lanczos"):
        found = input_eigenvalues(Constant(), x, y, method=method)
        assert not found.eigenvalues.any()
        assert found.cosine.isnan().all()
        assert torch.allclose(found.loss, torch.tensor([0.0, 1.0, 2.0]).double().logsumexp(0) - y.double())


def test_an_image_that_is_not_finite_does_not_spoil_the_others() -> None:
    model = build_model("mlp:width=5", num_classes=4, input_shape=(6,))
    x, y = draw((6,), n=3)
    clean = input_eigenvalues(model, x, y)
    x[1, 2] = torch.nan
    for method in ("exact", "lanczos"):
        found = input_eigenvalues(model, x, y, method=method)
        for value in (found.eigenvalues, found.loss, found.gradient_norm, found.cosine, found.residual):
            assert value[1].isnan().all()
        assert found.converged.tolist() == [True, False, True]
        assert torch.allclose(found.eigenvalues[[0, 2]], clean.eigenvalues[[0, 2]], rtol=1e-4)


def test_the_official_statistic_is_what_it_is_said_to_be() -> None:
    """1/B max over places j of the largest |eigenvalue| of the mean over batches of H(x_bj)."""
    with seeded(0):
        model = nn.Sequential(nn.Linear(7, 20), nn.Tanh(), nn.Linear(20, 4))
    x, y = draw((7,), n=6)
    x = 4 * x - 2
    values = torch.linalg.eigvalsh(dense(model, x, y)[0].view(3, 2, 7, 7).mean(0))
    largest = float(values.abs().max())
    signed = float(values.flatten()[values.abs().argmax()])
    assert abs(signed) == largest
    with untouched(model):
        generator = torch.Generator().manual_seed(0)
        effort = Effort(batch_size=2, steps=200, tolerance=1e-9)
        found = official_statistic(model, x, y, generator=generator, effort=effort)
    assert found == pytest.approx(signed / 2, rel=1e-3)
    # As published it stops where two estimates differ by less than 0.01, here at once: far from converged.
    early = official_statistic(
        model, x, y, generator=torch.Generator().manual_seed(0), effort=Effort(2, 10, tolerance=0.99)
    )
    assert abs(early) < 0.9 * abs(found)


def test_mixed_weights_of_three_kinds_run() -> None:
    """A float32 model with bfloat16 and float64 parts is measured; its own rounding is that of bfloat16."""
    model = of_three_kinds(0)
    x, y = draw((3, 8, 8))
    with untouched(model):
        found = input_eigenvalues(model, x, y)
    assert found.method == "lanczos"
    assert found.eigenvalues.isfinite().all()


class Unfriendly(nn.Module):
    """Two images of a batch see each other, or only one derivative exists."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "mixes":
            return (self.fc(x) - self.fc(x).mean(0)).softmax(1)
        if self.kind == "fused":  # its own backward pass has no derivative
            heads = x.view(-1, 1, 2, 3)
            with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
                return functional.scaled_dot_product_attention(heads, heads, heads).flatten(1) + self.fc(x).sum(1, True)
        return self.fc(Once.apply(x.tanh()))


class Once(torch.autograd.Function):
    """The identity, differentiable once."""

    @staticmethod
    def forward(_ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(_ctx: object, gradient: Tensor) -> Tensor:
        return gradient.clone()


def test_models_that_cannot_be_measured() -> None:
    x, y = draw((6,), n=3, classes=3)
    with pytest.raises(
        InputError, match=r"`model` should score each image by itself.*Found images of a batch that mix"
    ):
        input_eigenvalues(Unfriendly("mixes"), x, y)
    with pytest.raises(InputError, match=r"`model` should be twice differentiable in its input. Found an operation"):
        input_eigenvalues(Unfriendly("once"), x, y)
    with pytest.raises(
        InputError, match=r"`model` should be twice differentiable in its input. Found: .* not implemented"
    ):
        input_eigenvalues(Unfriendly("fused"), x, y)
    with pytest.raises(
        InputError, match=r"`method` should be 'auto' or 'lanczos' for this model. Found 'exact', but `na"
    ):
        input_eigenvalues(odd_module(0), *draw((3, 8, 8)), method="exact")


def test_bad_input(generator: torch.Generator) -> None:
    model = build_model("mlp:width=5", num_classes=4, input_shape=(6,))
    x, y = draw((6,), n=3)
    cases: list[tuple[Tensor, Tensor, dict[str, object], str]] = [
        ((255 * x).byte(), y, {}, "`x` should be floating point. Found torch.uint8. Divide uint8 images by 255"),
        (x[0], y, {}, r"`x` should hold at least one input \(B, ...\). Found shape \(6,\)"),
        (x[:0], y[:0], {}, r"`x` should hold at least one input \(B, ...\). Found shape \(0, 6\)"),
        (x, y[:2], {}, r"`y` should have shape \(3,\). Found \(2,\)"),
        (x, y - 1, {}, "`y` should hold integer labels from 0 on. Found torch.int64, least -1"),
        (x, y.float(), {}, "`y` should hold integer labels from 0 on. Found torch.float32"),
        (x, y + 2, {}, r"`model` should return logits \(B, C\) with C >= 5. Found C = 4"),
        (x, y, {"count": 0}, "`count` should be between 1 and the 6 numbers of one input. Found 0"),
        (x, y, {"count": 7}, "`count` should be between 1 and the 6 numbers of one input. Found 7"),
        (
            x,
            y,
            {"method": "exakt"},
            "`method` should be one of auto, exact, lanczos. Found 'exakt'. Did you mean 'exact'",
        ),
        (
            *(x, y, {"count": 3, "method": "lanczos", "effort": Effort(steps=2)}),
            "`count` should be at most the 2 steps of Lanczos. Found 3. Allow more steps",
        ),
    ]
    for inputs, labels, options, message in cases:
        with pytest.raises(InputError, match=message):
            input_eigenvalues(model, inputs, labels, **options)
    for name, value in (("batch_size", 0), ("steps", 0), ("tolerance", 0.0), ("tolerance", 1.0)):
        with pytest.raises(InputError, match=f"`{name}` should .* Found {value}"):
            Effort(**{name: value})
    with pytest.raises(InputError, match=r"`x` should hold whole batches of 2. Found 3 images. Change `batch_size`"):
        official_statistic(model, x, y, generator=generator, effort=Effort(batch_size=2))
