"""Logits of unmodified models, which are left as they were."""

import pytest
import torch
from torch import Tensor, nn

from isthmus._check import InputError
from isthmus.data import Samples
from isthmus.evaluate import correct, evaluating, logits


def samples(count: int = 7, num_classes: int = 3) -> Samples:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, (count, 2, 4, 4), generator=generator).byte()
    return Samples(x, torch.arange(count) % num_classes, num_classes, "toy/test")


def convolutional() -> nn.Sequential:
    torch_state = torch.Generator().manual_seed(1)
    model = nn.Sequential(nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.Dropout(0.5), nn.Flatten(), nn.Linear(20, 3))
    for parameter in model.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=torch_state))
    return model


def test_logits_are_those_of_evaluation_mode() -> None:
    model, data = convolutional(), samples()
    expected = convolutional().eval()(data.x.float() / 255)
    found = logits(model, data)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    torch.testing.assert_close(found, expected.detach())  # the channels-last kernel may round otherwise


@pytest.mark.parametrize("batch_size", [1, 3, 7, 500])
def test_batches_change_nothing_but_rounding(batch_size: int) -> None:
    sizes: list[int] = []
    model = convolutional()
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    found = logits(model, samples(), batch_size=batch_size)
    torch.testing.assert_close(found, logits(convolutional(), samples()), rtol=1e-5, atol=1e-5)
    assert sizes[0] == 1  # tries whether the model takes channels-last inputs
    assert sum(sizes[1:]) == 7
    assert max(sizes) == min(batch_size, 7)


def test_the_model_is_left_as_it_was() -> None:
    model = convolutional().train()
    model[1].eval()  # a mode of its own, as in fine-tuning with frozen statistics
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    grads = torch.ones(3)
    model[4].bias.grad = grads
    random = torch.get_rng_state()
    logits(model, samples())
    assert [module.training for module in model.modules()] == [True, True, False, True, True, True]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model[4].bias.grad is grads
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.is_grad_enabled()


def test_modes_come_back_after_an_error() -> None:
    model = convolutional().train()
    modes: list[bool] = []

    def fail(module: nn.Module, _: object) -> None:
        modes.append(module.training)
        raise ZeroDivisionError

    model[2].register_forward_pre_hook(fail)
    with pytest.raises(ZeroDivisionError), evaluating(model):
        model(samples().inputs())
    assert modes == [False]
    assert all(module.training for module in model.modules())


class Stubborn(nn.BatchNorm2d):
    """Stays in evaluation mode whatever it is told, as frozen layers do."""

    def train(self, mode: bool = True) -> "Stubborn":
        return super().train(False)


def test_modes_come_back_where_the_owner_overrides_train() -> None:
    layer = Stubborn(2)
    layer.training = True
    with evaluating(layer):
        assert not layer.training
    assert layer.training


def test_the_transform_sees_pixels_in_the_box_and_decides_the_input() -> None:
    def black(x: Tensor) -> Tensor:
        assert x.dtype == torch.float32
        assert 0 <= float(x.min()) <= float(x.max()) <= 1
        return torch.zeros_like(x)

    data = samples()
    expected = convolutional().eval()(torch.zeros(7, 2, 4, 4)).detach()
    assert torch.equal(logits(convolutional(), data, transform=black), expected)
    assert not torch.equal(logits(convolutional(), data), expected)


def test_inputs_take_the_dtype_of_the_parameters() -> None:
    found = logits(convolutional().double(), samples())
    assert found.dtype == torch.float32
    expected = convolutional().double().eval()(samples().inputs().double())
    assert torch.equal(found, expected.float().detach())


class Viewing(nn.Module):
    """Flattens by `view`, which refuses channels-last activations."""

    def __init__(self) -> None:
        super().__init__()
        self.body = convolutional()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.view(len(x), -1).view(x.shape))


@pytest.mark.parametrize("refuses", [False, True])
def test_inputs_are_channels_last_where_the_model_takes_them(refuses: bool) -> None:
    seen: list[bool] = []
    model = Viewing() if refuses else convolutional()
    model.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
    )
    found = logits(model, samples())
    assert seen == [True, not refuses]  # tried on one sample, then used
    torch.testing.assert_close(found, logits(convolutional(), samples()), rtol=1e-5, atol=1e-5)


def test_a_model_without_parameters_can_be_measured() -> None:
    class Brightness(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((1, 2, 3))[:, None].repeat(1, 3)

    found = logits(Brightness(), samples())
    assert torch.allclose(found[:, 0], samples().inputs().mean((1, 2, 3)))


class Returns(nn.Module):
    def __init__(self, out: object):
        super().__init__()
        self.out = out

    def forward(self, x: Tensor) -> object:
        return self.out


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ((torch.zeros(7, 3),), r"Found tuple\. Wrap it so that it returns the logits alone"),
        (torch.zeros(7), r"Found shape \(7,\) for B = 7"),
        (torch.zeros(1, 3), r"Found shape \(1, 3\) for B = 7"),
        (torch.zeros(7, 2), r"Found C = 2"),
        (torch.zeros(7, 3, dtype=torch.int64), r"Found torch\.int64\. Return scores, not the predicted labels"),
    ],
)
def test_what_is_no_logits_is_refused(out: object, message: str) -> None:
    with pytest.raises(InputError, match=r"`model` should return logits \(B, C\) with C >= 3\. " + message):
        logits(Returns(out), samples())


def test_more_classes_than_the_data_has_are_fine() -> None:
    assert logits(Returns(torch.ones(7, 5)), samples()).shape == (7, 5)


def test_inputs_the_model_refuses_are_named() -> None:
    with pytest.raises(InputError, match=r"`model` should take inputs of shape \(B, 2, 4, 4\)\. Found: .*channels"):
        logits(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 3)), samples())
    with pytest.raises(InputError, match=r"`batch_size` should be at least 1\. Found 0"):
        logits(convolutional(), samples(), batch_size=0)


def test_correct_counts_the_first_largest_and_never_a_nan() -> None:
    scores = torch.tensor(
        [[0.0, 2.0, 1.0], [1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [torch.nan, 0.0, 0.0], [0.0, torch.inf, 0.0]]
    )
    assert correct(scores, torch.tensor([1, 0, 1, 0, 1])).tolist() == [True, True, False, False, True]
    with pytest.raises(InputError, match=r"`scores` should be logits \(2, C\)\. Found \(5, 3\)"):
        correct(scores, torch.tensor([1, 0]))
