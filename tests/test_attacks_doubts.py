"""Each self-check fires on a model made for it and is silent on a plain one."""

import pytest
import torch
from torch import nn

from isthmus.attacks import doubts
from isthmus.attacks.outcome import Stage
from isthmus.attacks.threat import Threat
from isthmus.attacks.victim import attacked
from isthmus.randomness import stream

THREAT = Threat("linf", 8 / 255)


def plain(classes=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, classes))


class Noisy(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.body, self.size = plain(), size

    def forward(self, x):
        out = self.body(x)
        return out * (1 + self.size * torch.rand(()))


class Before(nn.Module):
    """A plain network behind a step that its input goes through."""

    def __init__(self, step):
        super().__init__()
        self.step, self.body = step, plain()

    def forward(self, x):
        return self.body(self.step(x))


class Stubborn(nn.Dropout):
    def train(self, mode=True):
        return self


def images(n=20):
    generator = torch.Generator().manual_seed(1)
    grid = torch.randint(0, 256, (n, 1, 3, 4), generator=generator) / 255
    return grid, torch.randint(0, 3, (n,), generator=generator)


def ask(model, check, *more, **named):
    with attacked(model, num_classes=2) as victim:
        return check(victim, *more, **named)


def kinds(model, n=20):
    x, y = images(n)
    with attacked(model, num_classes=3) as victim:
        return [doubt.kind for doubt in doubts.before(victim, THREAT, x, y, generator=stream(0))]


@pytest.mark.parametrize("n", [1, 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_plain_model_raises_no_doubt(n, dtype):
    assert kinds(plain().to(dtype), n) == []


def test_a_randomised_model_is_seen_at_a_drift_above_1e_4_of_the_logits():
    x, _ = images()
    found = ask(Noisy(1e-2), doubts.randomised, x)
    assert found.kind == "randomised"
    assert found.voids
    assert "Run the suite `random`" in found.message
    assert ask(Noisy(1e-6), doubts.randomised, x) is None
    assert ask(plain(), doubts.randomised, x) is None
    scaled = nn.Sequential(plain(), nn.Linear(3, 3, bias=False))
    scaled[1].weight.data.copy_(1e6 * torch.eye(3))  # rounding errors grow with the logits; the drift is relative
    assert ask(scaled, doubts.randomised, x) is None


def test_five_passes_are_made_unless_told_otherwise():
    x, _ = images()
    with attacked(plain(), num_classes=3) as victim:
        doubts.randomised(victim, x)
        assert victim.queries == 5 * len(x)
        doubts.randomised(victim, x, passes=2)
        assert victim.queries == 7 * len(x)


def test_probabilities_are_told_from_logits():
    logits = torch.tensor([[3.0, -1.0, 0.5], [0.0, 0.0, 0.0], [40.0, 0.0, -40.0]])
    assert doubts.probabilities(logits.softmax(1)).kind == "probabilities"
    assert doubts.probabilities(logits.softmax(1).bfloat16().float()) is None  # too coarse to be sure
    for innocent in (logits, logits.log_softmax(1), logits.sigmoid(), torch.tensor([[2.0, -1.0]]), logits.softmax(0)):
        assert doubts.probabilities(innocent) is None
    mixed = torch.cat([logits.softmax(1), logits])
    assert doubts.probabilities(mixed) is None
    assert kinds(nn.Sequential(plain(), nn.Softmax(1))) == ["probabilities"]


def test_logits_that_are_not_numbers_are_counted():
    logits = torch.zeros(4, 3)
    assert doubts.not_finite(logits) is None
    logits[1, 2], logits[3, 0] = torch.nan, torch.inf
    assert "for 2 of 4 images" in doubts.not_finite(logits).message


def test_a_gradient_that_is_cut_off_is_told_from_a_saturated_softmax():
    x, y = images()
    hard = Before(lambda x: (x > 0.5).float() + 0 * x)
    found = ask(hard, doubts.zero_gradients, x, y)
    assert found.voids
    assert "zero for 100% of 20 images, and so has the margin for 100%" in found.message
    sharp = nn.Sequential(plain(), nn.Linear(3, 3, bias=False))
    sharp[1].weight.data.copy_(1e5 * torch.eye(3))
    right = sharp(x).argmax(1)
    found = ask(sharp, doubts.zero_gradients, x, right)
    assert not found.voids
    assert "while the margin still has one: the softmax is saturated" in found.message
    assert ask(plain(), doubts.zero_gradients, x, y) is None


def test_a_model_without_any_gradient_can_be_checked():
    x, y = images()
    found = ask(Before(lambda x: (x > 0.5).float()), doubts.zero_gradients, x, y)
    assert found.kind == "no-gradient"
    assert found.voids
    assert "the model has no gradient by its input (`model` should be differentiable by its inputs." in found.message


def test_one_image_without_a_gradient_is_enough():
    x, y = images()
    relu = Before(lambda x: x * (x.flatten(1)[:, :1, None, None] < 0.95))
    x[:, 0, 0, 0] = 0.5
    assert ask(relu, doubts.zero_gradients, x, y) is None
    x[7, 0, 0, 0] = 0.99
    assert "exactly zero for 5% of 20 images" in ask(relu, doubts.zero_gradients, x, y).message


class Straight(torch.autograd.Function):
    """Rounds to 8 bits and passes the gradient on as if it had not."""

    @staticmethod
    def forward(_context, x):
        return (x * 255).round() / 255

    @staticmethod
    def backward(_context, gradient):
        return gradient


@pytest.mark.parametrize("step", [lambda x: (x * 255).round() / 255, Straight.apply], ids=["true gradient", "stand-in"])
def test_a_model_that_rounds_its_input_is_seen_whatever_gradient_it_reports(step):
    x, _ = images()
    found = ask(Before(step), doubts.blind, THREAT, x, generator=stream(0))
    assert "of 100% of 20 images at all, while changes of the radius do: the model rounds its input" in found.message
    assert found.voids


def test_a_dead_model_is_seen():
    x, _ = images()
    dead = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 3))
    dead[1].bias.data.fill_(-100.0)
    found = ask(dead, doubts.blind, THREAT, x, generator=stream(0))
    assert "nor do changes of the whole radius: the model ignores its input" in found.message
    assert ask(plain(), doubts.blind, THREAT, x, generator=stream(0)) is None
    per_image = Threat("l2", torch.full((20,), 0.5))
    assert ask(plain(), doubts.blind, per_image, x, generator=stream(0)) is None


def test_layers_that_refuse_evaluation_mode_are_named():
    model = nn.Sequential(plain(), Stubborn(0.5))
    model.eval()
    assert "1 layers stay in training mode after eval(): 1." in doubts.training_layers(model).message
    assert doubts.training_layers(plain().eval()) is None
    many = nn.Sequential(*[Stubborn() for _ in range(5)]).eval()
    assert "5 layers stay in training mode after eval(): 0, 1, 2, ..." in doubts.training_layers(many).message


def test_a_model_without_parameters_is_named():
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.call = [plain()]

        def forward(self, x):
            return self.call[0](x)

    assert doubts.no_parameters(Hidden()).kind == "no-parameters"
    assert kinds(Hidden()) == ["no-parameters"]
    assert doubts.no_parameters(plain()) is None


WHITE = Stage("apgd-ce", 500, 100, 10, 10)


@pytest.mark.parametrize(
    ("stages", "n", "fires"),
    [
        ([WHITE, Stage("square", 400, 2, 10)], 999, True),
        ([WHITE, Stage("square", 400, 2, 10)], 1000, False),  # 0.2 points exactly
        ([WHITE, Stage("square", 400, 0, 10)], 100, False),
        ([Stage("square", 400, 50, 10), WHITE], 1000, False),  # nothing before it to beat
        ([WHITE, Stage("fab-t", 400, 50, 10, 10)], 1000, False),
    ],
)
def test_an_attack_without_gradients_that_beats_those_with_them(stages, n, fires):
    found = doubts.black_box_gain(stages, n)
    assert (found is not None) == fires
    assert [doubt.kind for doubt in doubts.after(stages, n)] == (["black-box-gain"] if fires else [])
    if fires:
        assert "square, which uses no gradient, fooled 2 images" in found.message


def test_points_that_do_not_count_are_told():
    assert "square handed in 3 points outside ball or box" in doubts.outside(Stage("square", 9, outside=3)).message
    assert doubts.outside(Stage("square", 9)) is None
    found = doubts.unconfirmed(Stage("pgd", 9, unconfirmed=2))
    assert "pgd said it had fooled 2 images that the re-test finds correct" in found.message
    assert not found.voids
    assert doubts.unconfirmed(Stage("pgd", 9)) is None
