"""A model under attack: everything counted, and everything put back."""

import pytest
import torch
from torch import Tensor, nn

from contracts.attacks import Small, images, unchanged
from isthmus._check import InputError
from isthmus.attacks.victim import attacked
from isthmus.losses import cross_entropy


def disturbed() -> Small:
    model = Small().train()
    model.features[3].eval()
    model.head.bias.requires_grad_(False)
    model.head.weight.grad = torch.ones_like(model.head.weight)
    return model


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_put_back_also_after_an_error(mode: str, fails: bool) -> None:
    model, x = disturbed(), images()

    def attack() -> None:
        with attacked(model, num_classes=4, mode=mode) as victim:
            assert not any(p.requires_grad for p in model.parameters())
            assert model.features[1].training == (mode == "train")
            assert not model.features[3].training
            look = victim.look(x)
            torch.rand(3)  # as a model with noise of its own draws
            look.gradient(lambda out: out[:, 0])
            if fails:
                raise ZeroDivisionError

    with unchanged(model, x):
        if fails:
            with pytest.raises(ZeroDivisionError):
                attack()
        else:
            attack()


def test_train_mode_normalises_by_the_batch_and_keeps_the_statistics() -> None:
    model, x = Small().train(), images()
    model.features[3].p = 0.0
    with attacked(model, mode="eval") as victim:
        own = victim.logits(x)
    with unchanged(model), attacked(model, mode="train") as victim:
        by_batch = victim.logits(x)
        assert int(model.features[1].num_batches_tracked) == 1  # the layer did learn, and is put back
    torch.testing.assert_close(own, Small().eval()(x).detach())
    batch = model.features[0](x)
    normal = (batch - batch.mean((0, 2, 3), keepdim=True)) / (
        batch.var((0, 2, 3), correction=0, keepdim=True) + 1e-5
    ).sqrt()
    scale, shift = (t[:, None, None] for t in (model.features[1].weight, model.features[1].bias))
    expected = model.head(nn.functional.silu(normal * scale + shift).flatten(1)).detach()
    torch.testing.assert_close(by_batch, expected)
    assert not torch.allclose(own, by_batch)


class Counting(nn.Module):
    """Counts its calls in a buffer even in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(20, 3)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.head(x.flatten(1))


def test_buffers_that_change_in_evaluation_mode_are_put_back() -> None:
    model = Counting()
    with attacked(model) as victim:
        victim.logits(images())
        assert int(model.calls) == 1
    assert int(model.calls) == 0


def test_a_graph_of_the_caller_survives_an_attack() -> None:
    model, x = Small().eval(), images()
    loss = model(x).square().sum()
    with attacked(model) as victim:
        victim.logits(x)
    loss.backward()  # would raise if a buffer had been written in the meantime
    assert model.head.weight.grad is not None


def test_logits_and_gradients_are_those_of_the_model() -> None:
    model, x = Small().eval(), images()
    y = torch.arange(len(x)) % 4
    inputs = x.clone().requires_grad_()
    losses = cross_entropy(model(inputs), y)
    (expected,) = torch.autograd.grad(losses.sum(), inputs)
    with attacked(model, num_classes=4) as victim:
        look = victim.look(x)
        found = look.gradient(lambda out: cross_entropy(out, y))
        assert not look.logits.requires_grad
        torch.testing.assert_close(look.logits, model(x).detach())
        torch.testing.assert_close(victim.logits(x), look.logits)
    torch.testing.assert_close(found, expected)


def test_queries_and_gradients_are_counted_in_images() -> None:
    with attacked(Small(), passes=3) as victim:
        victim.logits(images(count=5))
        assert (victim.queries, victim.gradients) == (15, 0)
        look = victim.look(images(count=2))
        assert (victim.queries, victim.gradients) == (21, 0)
        look.gradient(lambda out: out[:, 0])
        assert (victim.queries, victim.gradients) == (21, 6)


class Noisy(nn.Module):
    """Logits n_k (sum x, 0): the k-th call multiplies by k."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        total = x.flatten(1).sum(1)
        return self.calls * torch.stack([total, torch.zeros_like(total)], 1)


def test_passes_are_averaged_in_logits_and_gradients() -> None:
    x = torch.ones(2, 3)
    with attacked(Noisy(), passes=3) as victim:
        assert victim.logits(x)[:, 0].tolist() == [6, 6]  # 3 (1 + 2 + 3) / 3
        look = victim.look(x)
        assert look.logits[:, 0].tolist() == [15, 15]  # 3 (4 + 5 + 6) / 3
        assert look.gradient(lambda out: out[:, 0]).tolist() == [[5.0] * 3] * 2
        squared = victim.look(x)  # the mean of the gradients, not the gradient at the mean
        found = squared.gradient(lambda out: out[:, 0].square())
        assert float(found[0, 0]) == pytest.approx(2 * 3 * (49 + 64 + 81) / 3)


class Drawing(nn.Module):
    """Adds noise from the global stream, as a randomised defence does."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


def test_a_randomised_model_moves_no_stream_but_its_own() -> None:
    torch_state = torch.get_rng_state()
    with attacked(Drawing()) as victim:
        first, second = (victim.logits(torch.zeros(4, 2)) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), torch_state)


def test_bf16_returns_float32_near_the_model_and_leaves_the_rest_alone() -> None:
    seen: list[torch.dtype] = []
    model, x = Small().eval(), images()
    model.head.register_forward_hook(lambda _, __, out: seen.append(out.dtype))
    with attacked(model, precision="bf16-mixed") as victim:
        look = victim.look(x)
        gradient = look.gradient(lambda out: out[:, 0])
    assert set(seen) >= {torch.bfloat16}
    assert look.logits.dtype == gradient.dtype == torch.float32
    exact = model(x).detach()
    assert 0 < float((look.logits - exact).abs().max()) < 0.05 * float(exact.abs().max())


@pytest.mark.parametrize(("of_model", "of_x"), [(torch.float64, torch.float64), (torch.float64, torch.float32)])
def test_double_models_give_double_logits_and_gradients_like_the_images(
    of_model: torch.dtype, of_x: torch.dtype
) -> None:
    model, x = Small().to(of_model).eval(), images(of_x)
    with attacked(model) as victim:
        look = victim.look(x)
        assert look.logits.dtype == of_model
        assert look.gradient(lambda out: out[:, 0]).dtype == of_x
    torch.testing.assert_close(look.logits, model(x.to(of_model)).detach())


class Returns(nn.Module):
    def __init__(self, how: str):
        super().__init__()
        self.head, self.how = nn.Linear(20, 4), how

    def forward(self, x: Tensor) -> object:
        out = self.head(x.flatten(1))
        if self.how == "detached":
            return out.detach()
        return {"tuple": (out, x), "wide": out[:, None], "good": out}[self.how]


def test_what_is_no_classifier_is_refused() -> None:
    x = images()
    refused = r"`model` should return logits \(B, C\) with C >= 2\. Found tuple\. Wrap it so that it returns the logits"
    with pytest.raises(InputError, match=refused), attacked(Returns("tuple")) as victim:
        victim.look(x)
    with pytest.raises(InputError, match=r"Found shape \(12, 1, 4\)"), attacked(Returns("wide")) as victim:
        victim.logits(x)
    with pytest.raises(InputError, match=r"C >= 5\. Found C = 4"), attacked(Returns("good"), num_classes=5) as victim:
        victim.logits(x)
    with (
        pytest.raises(InputError, match=r"`model` should take inputs of shape \(B, 3, 2, 2\)\. Found: "),
        attacked(Small()) as victim,
    ):
        victim.look(torch.rand(2, 3, 2, 2, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(InputError, match=r"`passes` should be at least 1\. Found 0"), attacked(Small(), passes=0):
        pass


def test_a_model_without_a_graph_is_refused_with_the_reason() -> None:
    message = r"`model` should be differentiable by its inputs\. Found logits without a gradient\. Take `torch\.no_grad"
    with attacked(Returns("detached")) as victim:
        look = victim.look(images())
        with pytest.raises(InputError, match=message):
            look.gradient(lambda out: out[:, 0])


def test_the_memory_order_of_the_caller_is_taken_where_given() -> None:
    orders: list[bool] = []
    model = Small()
    model.features[0].register_forward_pre_hook(
        lambda _, args: orders.append(args[0].is_contiguous(memory_format=torch.channels_last))
    )
    x = torch.rand(3, 1, 4, 5, generator=torch.Generator().manual_seed(0))
    with attacked(model, memory_format=torch.contiguous_format) as victim:
        victim.logits(x)
    assert len(orders) == 1  # nothing was tried
    with attacked(model) as victim:
        victim.logits(x)
        victim.logits(x)
    assert len(orders) == 4  # tried once, on one image
    assert victim.queries == 6  # the trial is no query
