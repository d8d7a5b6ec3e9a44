"""Training a single model against a plain PyTorch loop, and what holds for every fit: determinism, nothing touched, clear errors."""

import os

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from contracts.modules import assert_same_bits, bits, odd_module, of_three_kinds, seeded, tensors_of, untouched
from fit_example import batches, gradient_plan, inputs, small, toy
from isthmus._check import InputError
from isthmus.data import Augment, Samples
from isthmus.geometry.bridge import Bridge
from isthmus.geometry.build import connect, line, parse_geometry
from isthmus.training.fit import fit, fit_module
from isthmus.training.plan import Plan
from isthmus.training.session import Session

SEED = 3


def weights_of(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def by_hand(module: nn.Module, samples: Samples, plan: Plan, optimizer: torch.optim.Optimizer) -> nn.Module:
    """The loop that everybody writes, with PyTorch's own cosine schedule."""
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=plan.steps)
    dtype = next(module.parameters()).dtype
    module.train()
    for index in batches(samples, plan, SEED):
        optimizer.zero_grad()
        functional.cross_entropy(module(inputs(samples, index, dtype)), samples.y[index]).backward()
        optimizer.step()
        schedule.step()
    return module


SGD, ADAM, ADAMW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW


@pytest.mark.parametrize(
    ("changes", "optimizer", "settings"),
    [
        ({"momentum": 0.0}, SGD, {}),
        ({}, SGD, {"momentum": 0.9}),
        ({"nesterov": True}, SGD, {"momentum": 0.9, "nesterov": True}),
        ({"weight_decay": 0.02}, SGD, {"momentum": 0.9, "weight_decay": 0.02}),
        ({"weight_decay": 0.02, "decay": "points"}, SGD, {"momentum": 0.9, "weight_decay": 0.02}),
        ({"optimizer": "adamw"}, ADAMW, {"weight_decay": 0.0}),
        ({"optimizer": "adamw", "weight_decay": 0.02, "decay": "points"}, ADAMW, {"weight_decay": 0.02}),
        (
            {"optimizer": "adamw", "weight_decay": 0.02, "decay": "theta"},
            ADAM,
            {"weight_decay": 0.02},
        ),  # in the gradient
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_the_loop_that_everybody_writes(
    dtype: torch.dtype, changes: dict[str, object], optimizer: type[torch.optim.Optimizer], settings: dict[str, object]
) -> None:
    samples = toy()
    plan = Plan.model_validate({"steps": 12, "batch_size": 10, "learning_rate": 0.02, "weight_decay": 0.0, **changes})
    norm = optimizer is SGD  # the gradient of a bias before BatchNorm is rounding, which Adam would blow up
    found, _ = fit_module(small(0, dtype, norm=norm), samples, plan, seed=SEED)
    own = small(0, dtype, norm=norm)
    expected = by_hand(own, samples, plan, optimizer(own.parameters(), lr=0.02, **settings))
    tolerance = {"rtol": 1e-9, "atol": 1e-11} if dtype == torch.float64 else {"rtol": 1e-3, "atol": 1e-5}
    for name, tensor in expected.state_dict().items():  # running statistics included
        torch.testing.assert_close(found.state_dict()[name], tensor, **tolerance, msg=lambda m, n=name: f"{n}: {m}")


def test_accumulated_micro_batches_are_one_larger_batch() -> None:
    whole, _ = fit_module(small(0), toy(), Plan(steps=6, batch_size=9), seed=SEED)
    parts, _ = fit_module(small(0), toy(), Plan(steps=6, batch_size=9, accumulate=2), seed=SEED)
    torch.testing.assert_close(weights_of(parts), weights_of(whole), rtol=1e-10, atol=1e-12)


def test_fewer_samples_than_a_batch_are_used_several_times() -> None:
    """Five samples, batches of ten: every batch is each sample twice, so this is the full gradient."""
    samples, plan = toy(5), gradient_plan(batch_size=10)
    model = small(0)
    functional.cross_entropy(model(inputs(samples, torch.arange(5))), samples.y).backward()
    expected = torch.cat([p.detach().flatten() - p.grad.flatten() for p in model.parameters() if p.grad is not None])
    found, _ = fit_module(small(0), samples, plan, seed=SEED)
    torch.testing.assert_close(weights_of(found), expected, rtol=1e-10, atol=1e-12)


def test_inputs_that_are_not_images_and_float_inputs() -> None:
    x = torch.randn(20, 7, generator=torch.Generator().manual_seed(0))
    samples = Samples(x, (x.sum(1) > 0).long(), 2, "features")
    with seeded(0):
        model = nn.Sequential(nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 2))
    trained, fitted = fit_module(model, samples, Plan(steps=100, batch_size=16), seed=SEED)
    assert functional.cross_entropy(trained(x), samples.y) < 0.2  # ln 2 = 0.69 is what guessing costs
    assert fitted.history.frame["error"].iloc[-1] < 10


class Single(nn.Module):
    """Inputs of 32 bits, whatever the weights have."""

    def forward(self, x: Tensor) -> Tensor:
        return x.float()


def three_kinds(seed: int) -> nn.Module:
    return nn.Sequential(Single(), of_three_kinds(seed))


@pytest.mark.parametrize(
    ("make", "rate", "share"),
    [(odd_module, 0.02, 0.8), (lambda seed: odd_module(seed).double(), 0.02, 0.8), (three_kinds, 0.3, 0.95)],
)
def test_any_module_trains_and_nothing_of_the_callers_is_touched(make, rate: float, share: float) -> None:
    model, samples = make(0), toy(30, noise=100)
    x, y = samples.inputs()[:4].to(next(model.parameters()).dtype), samples.y[:4]
    functional.cross_entropy(model(x), y).backward()  # gradients of the caller's own
    next(model.children()).eval()  # a mode of its own
    threads, environment, deterministic = torch.get_num_threads(), dict(os.environ), torch.initial_seed()
    with untouched(model):
        trained, fitted = fit_module(model, samples, Plan(steps=60, batch_size=16, learning_rate=rate), seed=SEED)
    assert (torch.get_num_threads(), dict(os.environ), torch.initial_seed()) == (threads, environment, deterministic)
    losses = fitted.history.frame["loss"]
    assert losses.iloc[-5:].mean() < share * losses.iloc[0]
    assert [m.training for m in trained.modules()] == [m.training for m in model.modules()]
    assert [p.requires_grad for p in trained.parameters()] == [p.requires_grad for p in model.parameters()]
    assert all(p.grad is None for p in trained.parameters())
    assert trained.state_dict().keys() == model.state_dict().keys()
    assert all(p.dtype == q.dtype for p, q in zip(trained.parameters(), model.parameters(), strict=True))


def test_tied_weights_stay_tied_and_buffers_of_integers_stay() -> None:
    model = odd_module(0)
    trained, _ = fit_module(model, toy(), Plan(steps=3, batch_size=8), seed=SEED)
    assert trained.inward.weight is trained.outward.weight
    assert torch.equal(trained.order, model.order)
    assert int(trained.norm.num_batches_tracked) == int(model.norm.num_batches_tracked) + 3


def test_a_module_that_draws_in_evaluation_mode_leaves_the_callers_stream() -> None:
    class Noisy(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + torch.rand_like(x))

    model = Noisy(nn.Conv2d(3, 5, 8), nn.Flatten())
    with untouched(model):
        fit_module(model, toy(), gradient_plan(), seed=SEED)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("decay", ["theta", "points"])
@pytest.mark.parametrize("sharpness", [None, 0.5])
def test_frozen_parameters_stay(optimizer: str, decay: str, sharpness: float | None) -> None:
    settings = {"optimizer": optimizer, "decay": decay, "sharpness": sharpness, "weight_decay": 0.1, "steps": 4}
    plan = Plan.model_validate({**settings, "batch_size": 8, "learning_rate": 0.01})
    model = odd_module(0)
    frozen = [name for name, _ in model.named_parameters() if name.startswith(("patches", "layer"))]
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    trained, _ = fit_module(model, toy(), plan, seed=SEED)
    assert_same_bits({n: tensors_of(trained)[n] for n in frozen}, {n: tensors_of(model)[n] for n in frozen})
    moved = {n for n, p in trained.named_parameters() if not torch.equal(p, model.get_parameter(n))}
    assert moved == {n for n, _ in model.named_parameters()} - set(frozen)
    narrow = three_kinds(0)
    trained, _ = fit_module(narrow, toy(), plan, seed=SEED)
    frozen = ["1.still", "1.quiet", "1.count"]
    assert_same_bits({n: tensors_of(trained)[n] for n in frozen}, {n: tensors_of(narrow)[n] for n in frozen})


def curve(bridge: Bridge | None = None, *, seed: int = SEED, **changes: object) -> Bridge:
    plan = Plan.model_validate({"steps": 3, "batch_size": 8, "augment": Augment(1), "num_points": 2, **changes})
    start = bridge or connect([odd_module(k) for k in range(2)], parse_geometry("bezier:2", 2))
    return fit(start, toy(), plan, seed=seed).bridge


def test_the_same_seed_gives_the_same_bits_and_another_one_does_not() -> None:
    first = curve()
    torch.rand(3)  # the caller's stream has no part in it
    assert torch.equal(bits(first.free), bits(curve().free))
    assert not torch.equal(first.free, curve(seed=4).free)


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 4}, {"batch_size": 9}, {"optimizer": "adamw"}, {"learning_rate": 0.04}, {"momentum": 0.5}, {"nesterov": True},
        {"weight_decay": 0.1}, {"weight_decay": 0.1, "decay": "points"}, {"schedule": "constant"}, {"schedule": "triangular"},
        {"schedule": "multistep"}, {"schedule": "multistep", "milestones": (0.4, 0.5)}, {"schedule": "multistep", "gamma": 0.5},
        {"warmup": 0.5}, {"num_points": 3}, {"sampling": "stratified"}, {"sampling": "area"}, {"accumulate": 2},
        {"sharpness": 0.1}, {"clip": 0.01},
        {"augment": Augment()}, {"augment": Augment(1, flip=True)}, {"precision": "bf16-mixed"},
    ],
)  # fmt: skip
def test_each_setting_matters(changes: dict[str, object]) -> None:
    without = dict(list(changes.items())[:-1])  # the last one is the one in question
    assert not torch.equal(curve(**without).free, curve(**changes).free)


def test_memory_formats_give_the_same_model_up_to_rounding() -> None:
    plan = {"steps": 3, "batch_size": 8}
    start = [small(k, torch.float32, norm=True) for k in range(2)]
    found = [
        curve(connect(start, parse_geometry("bezier:2", 2)), channels_last=choice, **plan).free
        for choice in (None, True, False)
    ]
    assert torch.equal(found[0], found[1])  # a convolution: tried and taken
    torch.testing.assert_close(found[1], found[2], rtol=1e-4, atol=1e-6)


def test_the_history_says_what_was_seen() -> None:
    calls: list[tuple[int, int, float]] = []
    samples, plan = toy(), Plan(steps=5, batch_size=24, learning_rate=1e-12, momentum=0.0)
    session = Session(monitor=lambda step, steps, row: calls.append((step, steps, row["loss"])))
    _, fitted = fit_module(small(0), samples, plan, seed=SEED, session=session)
    logits = small(0)(inputs(samples, torch.arange(24)))  # the rate is so small that nothing changes
    frame = fitted.history.frame
    assert frame["step"].tolist() == [1, 2, 3, 4, 5]
    assert frame["loss"].tolist() == pytest.approx([functional.cross_entropy(logits, samples.y).item()] * 5)
    wrong = 100 * (logits.argmax(1) != samples.y).double().mean().item()
    assert frame["error"].tolist() == pytest.approx([wrong] * 5)
    assert frame["learning_rate"].iloc[0] == 1e-12
    assert calls == [(k + 1, 5, loss) for k, loss in enumerate(frame["loss"])]
    assert [(c.unit, c.better, c.split) for c in fitted.history.columns[1:3]] == [
        ("nat", "lower", "train"), ("%", "lower", "train")]  # fmt: skip
    assert Plan.model_validate(fitted.history.meta["plan"]) == plan
    assert (fitted.evaluations, fitted.history.meta["seed"]) == (5, SEED)
    assert fitted.seconds > 0


def test_long_runs_are_logged_a_hundred_times_over_all_steps() -> None:
    _, fitted = fit_module(small(0), toy(), Plan(steps=205, batch_size=1, learning_rate=1e-3), seed=SEED)
    assert fitted.history.frame["step"].tolist() == [*range(2, 205, 2), 205]


def test_a_segment_has_nothing_to_train() -> None:
    with pytest.raises(InputError, match=r"`bridge` should have at least one free control point\. Found 0\. A segment"):
        fit(line([small(0), small(1)]), toy(), Plan(), seed=0)


def test_a_batch_has_a_sample_for_each_part() -> None:
    with pytest.raises(InputError, match=r"`batch_size` should be at least accumulate x processes, 3\. Found 2"):
        fit_module(small(0), toy(), Plan(batch_size=2, accumulate=3), seed=0)


@pytest.mark.parametrize(("rate", "steps"), [(1e30, 5), (1e300, 1)])
def test_a_loss_or_weights_that_are_not_finite_name_step_and_rate(rate: float, steps: int) -> None:
    text = rf"`learning_rate` should keep the loss finite.*by step \d at {rate:g}".replace("+", r"\+")
    with pytest.raises(InputError, match=text):
        fit_module(small(0, torch.float32), toy(), Plan(steps=steps, batch_size=8, learning_rate=rate), seed=0)


@pytest.mark.parametrize("often", [1, 2, 3])
def test_a_training_ends_with_the_first_row_below_a_loss(tmp_path, often: int) -> None:
    plan = Plan(steps=9, batch_size=8, learning_rate=0.05, schedule="constant", log_every=often)
    whole = fit_module(small(0), toy(noise=20), plan, seed=SEED)[1]
    losses = whole.history.frame["loss"].tolist()
    until = (losses[0] + losses[1]) / 2
    first = next(k for k, loss in enumerate(losses) if loss < until)
    session = Session(checkpoint=tmp_path / "checkpoint.pt", every_seconds=1e9)
    early = plan.model_copy(update={"until": until})
    model, found = fit_module(small(0), toy(noise=20), early, seed=SEED, session=session)
    taken = min((first + 1) * often, 9)
    assert (found.evaluations, found.history.frame["loss"].tolist()) == (taken, losses[: first + 1])
    short = fit_module(small(0), toy(noise=20), plan.model_copy(update={"steps": taken}), seed=SEED)[0]
    assert torch.equal(weights_of(model), weights_of(short))
    again, same = fit_module(small(0), toy(noise=20), early, seed=SEED, session=session)  # ended already
    assert same.evaluations == taken
    assert torch.equal(weights_of(again), weights_of(model))
