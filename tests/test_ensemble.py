"""Ensembles against the formula, in float64, and against attacks that must see one model."""

import pytest
import torch
from torch import Tensor, nn

from isthmus._check import InputError
from isthmus.attacks.pgd import PGD
from isthmus.attacks.threat import Threat
from isthmus.attacks.victim import attacked
from isthmus.ensemble import Ensemble, combined
from isthmus.losses import cross_entropy


def members(count: int, dtype: torch.dtype = torch.float64, classes: int = 4) -> list[nn.Module]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return [nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, classes)).to(dtype) for _ in range(count)]


def inputs(count: int = 6, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(count, 5, generator=torch.Generator().manual_seed(1), dtype=dtype)


class Fixed(nn.Module):
    """Returns given logits for every input."""

    def __init__(self, *logits: float, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.expand(len(x), -1)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-14), (torch.float32, 1e-6)])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_output_is_the_logarithm_of_the_mean_probability(count: int, dtype: torch.dtype, error: float) -> None:
    models, x = members(count, dtype), inputs(dtype=dtype)
    expected = sum(model.double()(x.double()).softmax(1) for model in members(count)) / count
    out = Ensemble(models)(x)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double().exp(), expected, rtol=error, atol=error)
    torch.testing.assert_close(out.exp().sum(1), torch.ones(6, dtype=dtype), rtol=error, atol=error)
    y = torch.tensor([0, 1, 2, 3, 0, 1])
    loss = -expected.gather(1, y[:, None]).squeeze(1).log()
    torch.testing.assert_close(cross_entropy(out, y).double(), loss, rtol=10 * error, atol=10 * error)


def test_one_member_gives_its_log_softmax_and_its_logits() -> None:
    (model,), x = members(1), inputs()
    torch.testing.assert_close(Ensemble([model])(x), model(x).log_softmax(1), rtol=0, atol=1e-15)
    assert torch.equal(Ensemble([model], "logits")(x), model(x))


def test_mean_logits_differ_from_mean_probabilities() -> None:
    models, x = members(3), inputs()
    found = Ensemble(models, kind="logits")(x)
    torch.testing.assert_close(found, (models[0](x) + models[1](x) + models[2](x)) / 3)
    # Two members against one that is very sure: the vote of probabilities and that of logits differ.
    torn = [Fixed(0.0, 2.0), Fixed(0.0, 2.0), Fixed(100.0, 0.0)]
    assert Ensemble(torn)(x).argmax(1).tolist() == [1] * 6
    assert Ensemble(torn, "logits")(x).argmax(1).tolist() == [0] * 6


def test_the_gradient_is_that_of_the_mean_probability() -> None:
    models, y = members(3), torch.tensor([0, 1, 2, 3, 0, 1])
    first, second = inputs().requires_grad_(), inputs().requires_grad_()
    cross_entropy(Ensemble(models)(first), y).sum().backward()
    weights = [p.grad.clone() for model in models for p in model.parameters()]
    for model in models:
        model.zero_grad()
    mean = sum(model(second).softmax(1) for model in models) / 3
    (-mean.gather(1, y[:, None]).log().sum()).backward()
    torch.testing.assert_close(first.grad, second.grad, rtol=1e-12, atol=1e-14)
    expected = [p.grad for model in models for p in model.parameters()]
    torch.testing.assert_close(weights, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("size", [1e3, 1e5, 1e30])
def test_extreme_logits_stay_finite(size: float) -> None:
    models = [Fixed(size, 0.0, -size), Fixed(0.0, 0.0, -size)]
    out = Ensemble(models)(torch.zeros(1, 5))
    assert out.isfinite().all()
    # Probabilities (1, 0, 0) and (1/2, 1/2, 0): their mean is 3/4, 1/4, and for the last class exp(-size) / 4.
    assert out[0, :2].exp().tolist() == pytest.approx([0.75, 0.25])
    assert out[0, 2].item() == pytest.approx(-size, rel=1e-2)
    cross_entropy(out, torch.tensor([2])).sum().backward()
    assert all(p.grad.isfinite().all() for model in models for p in model.parameters())
    assert models[1].logits.grad.abs().max() > 0.1  # where probabilities underflow the logarithm still has its gradient


def test_narrow_members_are_combined_in_float32() -> None:
    models = [Fixed(0.3, 0.1, dtype=torch.bfloat16), Fixed(0.1, 0.2, dtype=torch.bfloat16)]
    out = Ensemble(models)(torch.zeros(1, 5))
    assert out.dtype == torch.float32
    wide = [model.logits.detach().double().softmax(0) for model in models]
    torch.testing.assert_close(out[0].double().exp(), (wide[0] + wide[1]) / 2, rtol=1e-6, atol=1e-6)


def test_members_are_held_and_their_modes_kept() -> None:
    models = members(2)
    models[0].eval()
    ensemble = Ensemble(models)
    assert [model.training for model in models] == [False, True]
    assert ensemble.training
    assert not Ensemble([models[0]]).training
    assert len(list(ensemble.parameters())) == 8
    before = ensemble(inputs())
    nn.init.zeros_(models[1][2].weight)
    assert not torch.equal(ensemble(inputs()), before)
    assert not any(model.training for model in ensemble.eval().models)


def test_a_model_in_an_ensemble_with_itself_is_itself() -> None:
    (model,) = members(1)
    torch.testing.assert_close(Ensemble([model, model])(inputs()), model(inputs()).log_softmax(1))


def test_the_ensemble_is_attacked_as_one(generator: torch.Generator) -> None:
    """Two linear members that look along different axes: the attack has to move both coordinates, by hand exactly so."""
    models = [nn.Linear(2, 2, bias=False).double() for _ in range(2)]
    for model, axis in zip(models, ([1.0, 0.0], [0.0, 1.0]), strict=True):
        model.weight.data = torch.tensor([axis, [-value for value in axis]], dtype=torch.float64)
    x, y = torch.tensor([[0.5, 0.6]], dtype=torch.float64), torch.tensor([0])
    with attacked(Ensemble(models)) as victim:
        found = PGD(steps=20, loss=cross_entropy)(victim, Threat("linf", 0.2), x, y, generator=generator, keep="loss")
    torch.testing.assert_close(found.points, torch.tensor([[0.3, 0.4]], dtype=torch.float64))
    assert all(p.requires_grad for model in models for p in model.parameters())


def test_bad_input() -> None:
    with pytest.raises(InputError, match=r"`models` should hold at least one model\. Found none"):
        Ensemble([])
    with pytest.raises(
        InputError, match=r"`kind` should be one of logits, softmax\. Found 'softmx'\. Did you mean 'softmax'"
    ):
        Ensemble(members(1), "softmx")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"`models` should be on one device\. Found cpu, meta"):
        Ensemble([Fixed(1.0), nn.Linear(5, 2, device="meta")])
    with pytest.raises(InputError, match=r"`models` should have one dtype\. Found torch\.float64, torch\.float32"):
        Ensemble([*members(1), *members(1, torch.float32)])
    with pytest.raises(InputError, match=r"`models` should have the same number of classes\. Found 4, 3"):
        Ensemble([*members(1), *members(1, classes=3)])(inputs())
    with pytest.raises(InputError, match=r"`model` should return logits \(B, C\)"):
        Ensemble([nn.Flatten(0)])(inputs())


@pytest.mark.parametrize("kind", ["softmax", "logits"])
def test_the_logits_of_the_members_give_those_of_the_ensemble(kind) -> None:
    models, x = members(3), inputs()
    assert torch.equal(combined(torch.stack([model(x) for model in models]), kind), Ensemble(models, kind)(x))


@pytest.mark.parametrize(
    ("shape", "kind", "message"),
    [
        ((4, 3), "softmax", r"`scores` should be logits \(M, B, C\), M >= 1. Found \(4, 3\)."),
        ((0, 4, 3), "logits", r"`scores` should be logits \(M, B, C\), M >= 1. Found \(0, 4, 3\)."),
        ((2, 4, 3), "logit", "`kind` should be one of logits, softmax. Found 'logit'. Did you mean 'logits'?"),
    ],
)
def test_what_cannot_be_combined(shape, kind, message) -> None:
    with pytest.raises(InputError, match=message):
        combined(torch.zeros(shape), kind)
