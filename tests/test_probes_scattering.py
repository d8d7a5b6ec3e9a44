"""Gradient scattering against closed forms of linear models, and what its intervals, starts and errors are."""

from dataclasses import replace
from math import sqrt

import numpy as np
import pytest
import torch
from torch import nn

from isthmus._check import InputError
from isthmus.attacks.pgd import PGD
from isthmus.attacks.threat import Threat
from isthmus.data import Samples
from isthmus.geometry.build import bezier, simplex
from isthmus.layout import Layout
from isthmus.models import build_model
from isthmus.probes.scattering import FLOOR, Watch, random_direction, scattering, scattering_along
from isthmus.probes.similarity import Crafting, Mean, Similarity, cosines, perturb, similarity
from isthmus.randomness import stream
from isthmus.rates import wilson
from isthmus.settle import Keep
from isthmus.training.adversarial import craft

D = 12
STILL = PGD(steps=1, step=1.0, start=0.0)


def linear(seed: int = 0, size: int = D) -> nn.Linear:
    model = nn.Linear(size, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.randn(2, size, generator=torch.Generator().manual_seed(seed)))
    return model


def grey(n: int = 40, size: int = D, seed: int = 3) -> Samples:
    """Images well inside the box, in two classes."""
    draw = torch.Generator().manual_seed(seed)
    return Samples(0.3 + 0.4 * torch.rand(n, size, generator=draw), torch.arange(n) % 2, 2, "grey")


def crafting(threat: Threat | None = None, attack: PGD = STILL, samples: Samples | None = None, **more) -> Crafting:
    return Crafting(samples or grey(), threat or Threat("linf", 0.1), attack, **more)


def line(seed: int = 5, size: int = 2 * D) -> torch.Tensor:
    return random_direction(size, generator=torch.Generator().manual_seed(seed))


def margin(model: nn.Linear, v: torch.Tensor, a: float) -> torch.Tensor:
    """w_1 - w_0 at theta + a v."""
    moved = model.weight.detach().double() + a * (v / v.norm()).reshape(2, -1)
    return moved[1] - moved[0]


def test_along_a_direction_the_cosine_of_a_linear_model_counts_changes_of_sign() -> None:
    model, v, amounts = linear(), line(), (0.5, 1.0, 3.0, 30.0)
    rows = scattering(model, {"v": 7.0 * v}, amounts, crafting()).rows()
    assert [row["amount"] for row in rows] == [0.0, *amounts]
    for row in rows:
        plus, minus = (margin(model, v, sign * row["amount"]).sign() for sign in (1, -1))
        expected = 1 - 2 * float((plus != minus).double().mean())
        for name in ("cosine", "sign_cosine", "same_start"):
            assert row[name] == pytest.approx(expected, abs=1e-6)
        assert row["fall"] == pytest.approx(1 - expected, abs=1e-6)
        assert (row["cosine_se"], row["excluded"]) == (pytest.approx(0, abs=1e-7), 0)  # the same for every image
    assert rows[0]["cosine"] == rows[0]["cosine_low"] == 1.0
    assert rows[-1]["cosine"] < -0.5  # hardly anything is left of theta


def test_in_l2_it_is_the_cosine_of_the_weight_differences() -> None:
    model, v = linear(), line()
    row = scattering(model, {"v": v}, (1.5,), crafting(Threat("l2", 0.1))).rows()[1]
    plus, minus = margin(model, v, 1.5), margin(model, v, -1.5)
    assert row["cosine"] == pytest.approx(float(plus @ minus / plus.norm() / minus.norm()), abs=1e-5)
    assert row["sign_cosine"] == pytest.approx(float((plus.sign() * minus.sign()).mean()), abs=1e-6)


def test_errors_are_those_of_margins_at_both_sides_with_wilson_bounds() -> None:
    model, v, samples = linear(), line(), grey(60)
    for row in scattering(model, {"v": v}, (2.0,), crafting(samples=samples)).rows():
        for name, sign, eps in (("clean_error", 1, 0.0), ("robust_error", 1, 0.1), ("robust_error_minus", -1, 0.1)):
            u = margin(model, v, sign * row["amount"])
            signed = (2 * samples.y - 1) * (samples.x.double() @ u)
            share = float((signed < eps * u.abs().sum()).double().mean())
            assert row[name] == pytest.approx(100 * share)
            assert (row[f"{name}_low"], row[f"{name}_high"]) == pytest.approx([100 * b for b in wilson(share, 60)])


def test_the_random_start_leaves_a_floor_below_one() -> None:
    # One step of half a radius from U(-1, 1): E[d] = a - a^2/4 and E[d^2] = (1 - (a - 1)^3)/6 + a/2, both 7/16 at a = 1/2.
    size = 3000
    setup = crafting(attack=PGD(steps=1, step=0.5), samples=grey(20, size))
    row = scattering(linear(size=size), {"v": line(size=2 * size)}, (1e-9,), setup).rows()[0]
    assert row["cosine"] == pytest.approx(7 / 16, abs=0.01)
    assert row["cosine_low"] < 7 / 16 < row["cosine_high"] < 1
    assert row["same_start"] == 1.0


def test_the_cosine_of_one_start_leaves_the_weights_alone() -> None:
    size = 3000
    setup = crafting(attack=PGD(steps=1, step=0.5), samples=grey(20, size))
    rows = scattering(linear(size=size), {"v": line(size=2 * size)}, (1e-6,), setup).rows()
    assert rows[1]["same_start"] == pytest.approx(1, abs=1e-3)  # hardly moved
    assert rows[1]["cosine"] == pytest.approx(rows[0]["cosine"], abs=1e-3)  # its starts are those of the floor
    assert rows[1]["fall"] == pytest.approx(rows[0]["cosine"] - rows[1]["cosine"], abs=1e-12)


def test_intervals_are_normal_over_images_and_differences_are_paired() -> None:
    model = build_model("mlp:depth=1", num_classes=2, input_shape=(D,), width=6, seed=1)
    size = Layout.of(model).size
    setup, found = crafting(attack=PGD(steps=3, step=0.5)), dict[tuple[str, float], Similarity]()
    directions = {"one": line(1, size), "other": line(2, size)}
    table = scattering(model, directions, (1.0, 2.0), setup, watch=Watch(found.__setitem__))
    rows = {(row["direction"], row["amount"]): row for row in table.rows()}
    assert list(found) == [FLOOR, ("one", 1.0), ("one", 2.0), ("other", 1.0), ("other", 2.0)]
    assert list(rows) == [(name, a) for name in directions for a in (0.0, 1.0, 2.0)]
    pairs = {
        "cosine": found["other", 2.0].cosine,
        "fall": found[FLOOR].cosine - found["other", 2.0].cosine,
        "gap": found["other", 2.0].cosine - found["one", 2.0].cosine,
    }
    for name, values in pairs.items():
        values = values.numpy()
        wide = 1.959964 * values.std(ddof=1) / sqrt(len(values))
        row = rows["other", 2.0]
        held = [row[name], row[f"{name}_low"], row[f"{name}_high"]]
        assert held == pytest.approx([values.mean(), values.mean() - wide, values.mean() + wide])
        assert wide > 0.001
    assert {rows["one", a]["gap"] for a in (0.0, 1.0, 2.0)} == {None}
    assert (rows["other", 0.0]["gap"], rows["other", 0.0]["gap_high"]) == (0, 0)
    assert all(row["fall"] == 0 for row in table.rows() if row["amount"] == 0)


def test_what_was_found_before_is_taken_over() -> None:
    model, v, kept, new = linear(), line(), {}, {}
    whole = scattering(model, {"v": v}, (1.0, 2.0), crafting(), watch=Watch(kept.__setitem__))
    kept = {place: Similarity.unpacked(found.packed()) for place, found in kept.items() if place[1] < 2}
    again = scattering(model, {"v": v}, (1.0, 2.0), crafting(), watch=Watch(new.__setitem__, kept))
    assert again.to_json() == whole.to_json()
    assert list(new) == [("v", 2.0)]


@pytest.mark.parametrize(
    "change",
    [
        {"threat": Threat("linf", 0.2)},
        {"threat": Threat("l2", 0.1)},
        {"attack": PGD(steps=2, step=0.4)},
        {"attack": PGD(steps=1, step=0.5)},
        {"attack": PGD(steps=1, step=0.4, start=0.5)},
        {"samples": grey(seed=4)},
        {"seed": 1},
    ],
)
def test_every_setting_changes_the_result_and_nothing_else_does(change: dict) -> None:
    model, v, base = linear(), line(), crafting(attack=PGD(steps=1, step=0.4))
    plain = scattering(model, {"v": v}, (1.0,), base)
    assert plain.to_json() == scattering(model, {"v": v}, (1.0,), base).to_json()
    other = scattering(model, {"v": v}, (1.0,), replace(base, **change))
    assert other.values("cosine") != plain.values("cosine")


def test_the_batch_size_draws_other_starts_but_in_linf() -> None:
    model, v, attack = linear(), line(), PGD(steps=1, step=0.4)
    for norm in ("linf", "l2"):
        setup = crafting(Threat(norm, 0.1), attack)
        plain, other = (scattering(model, {"v": v}, (1.0,), replace(setup, batch_size=size)) for size in (250, 7))
        assert (plain.values("cosine") == other.values("cosine")) is (norm == "linf")


def test_columns_say_split_and_number() -> None:
    table = scattering(linear(), {"v": line()}, (1.0,), crafting(split="train", seed=4))
    assert (table.column("robust_error").split, table.column("robust_error").n) == ("train", 40)
    assert table.column("robust_error").about == "misclassified under fgsm, at x or at its last iterate"
    assert table.meta["threat"] == {"norm": "linf", "radius": 0.1}
    assert (table.meta["seed"], table.meta["parameters"], table.meta["data"]) == (4, 2 * D, "grey")


def test_perturbations_are_those_of_training() -> None:
    model, samples, attack = linear(), grey(), PGD(steps=4, step=0.3)
    found = perturb(model, crafting(attack=attack), generator=stream(0, "x"))
    batch = (samples.inputs(), samples.y)
    own = craft(model, attack, Threat("linf", 0.1), batch, generator=stream(0, "x"), mode="eval")
    assert torch.equal(found.delta, own - batch[0])


def test_images_that_no_gradient_moves_are_left_out_and_counted() -> None:
    class Gate(nn.Module):
        """Deaf to every image whose first value is above a half."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = linear()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x * (x[:, :1] < 0.5))

    samples = grey()
    x = samples.x.clone()
    x[:, 0] = torch.where(torch.arange(40) < 15, 0.9, 0.1)
    for attack in (PGD(steps=2, step=0.4), replace(STILL)):
        rows = scattering(Gate(), {"v": line()}, (1.0,), crafting(attack=attack, samples=samples.replaced(x=x))).rows()
        assert [row["excluded"] for row in rows] == [15, 15]
        assert all(row["cosine"] > 0 for row in rows)
    dead = linear()
    dead.weight.data.zero_()
    row = scattering(dead, {"v": line()}, (1.0,), crafting()).rows()[0]
    assert (row["excluded"], row["cosine"], row["fall"], row["clean_error"]) == (40, None, None, 50.0)


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(D, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2)).train()
    model[0].weight.requires_grad_(False)
    model[1].running_mean.add_(0.3)
    model[4].bias.grad = torch.ones(2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state, flags = torch.get_rng_state(), [p.requires_grad for p in model.parameters()]
    vector = line(1, Layout.of(model).size)
    kept = vector.clone()
    table = scattering(model, {"v": vector}, (0.5,), crafting(attack=PGD(steps=2)))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(module.training for module in model.modules())
    assert torch.equal(model[4].bias.grad, torch.ones(2))
    assert model[4].weight.grad is None
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(vector, kept)
    shifted = {name: tensor for name, tensor in before.items() if name != "1.running_mean"}
    model.load_state_dict(shifted | {"1.running_mean": before["1.running_mean"] + 1})
    moved = scattering(model, {"v": vector}, (0.5,), crafting(attack=PGD(steps=2)))
    assert moved.values("cosine") != table.values("cosine")  # the statistics are the model's own


def test_similarity_of_two_models_and_of_one_with_itself() -> None:
    first, second = linear(0), linear(1)
    found = similarity(first, second, crafting())
    u = [model.weight.detach()[1] - model.weight.detach()[0] for model in (first, second)]
    expected = float((u[0].sign() * u[1].sign()).mean())
    assert found.mean().value == pytest.approx(expected, abs=1e-6)
    assert found.mean("same_start").value == pytest.approx(expected, abs=1e-6)
    for place, model in enumerate((first, second)):
        right = (model(grey().x).argmax(1) == grey().y).double().mean()
        assert found.error("clean", place) == pytest.approx(100 * (1 - float(right)))
    assert found.error("robust", 0) == similarity(first, first, crafting()).error("robust", 1)
    back = Similarity.unpacked(found.packed())
    assert torch.equal(back.packed(), found.packed())
    assert torch.equal(back.robust, found.robust)
    assert Mean.of([]).n == 0
    assert np.isnan(Mean.of([2.0]).low)


def test_cosines_of_rows() -> None:
    one = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]])
    other = torch.tensor([[6.0, 8.0], [0.6, 0.8], [1.0, 1.0]])
    assert cosines(one, other).tolist() == pytest.approx([1.0, 0.6, float("nan")], nan_ok=True)
    rows = torch.rand(50, 7)
    assert torch.equal(cosines(rows, rows), torch.ones(50, dtype=torch.float64))


def test_a_random_direction_is_of_length_one_and_drawn() -> None:
    assert float(line(1).norm()) == pytest.approx(1)
    assert not torch.equal(line(1), line(2))


def test_along_a_bridge_of_linear_models() -> None:
    ends = [linear(0), linear(1)]
    bridge = bezier(ends, degree=1)
    rows = scattering_along(bridge, (0.0, 0.25, 0.5, 1.0), 0.1, crafting(), settle=None).rows()

    def u(t: float) -> torch.Tensor:
        weights = (1 - t) * ends[0].weight.detach() + t * ends[1].weight.detach()
        return (weights[1] - weights[0]).sign()

    length = float((ends[0].weight - ends[1].weight).detach().norm())
    for row, (low, high), after in zip(
        rows, ((0, 0.1), (0.15, 0.35), (0.4, 0.6), (0.9, 1)), (0.25, 0.5, 1.0, None), strict=True
    ):
        assert row["cosine"] == pytest.approx(float((u(low) * u(high)).mean()), abs=1e-6)
        assert row["fall"] == pytest.approx(1 - row["cosine"], abs=1e-6)
        assert row["distance"] == pytest.approx((high - low) * length, rel=1e-5)
        assert row["floor"] == 1.0
        if after is None:
            assert row["next_cosine"] is row["next_distance"] is None
        else:
            assert row["next_cosine"] == pytest.approx(float((u(row["t"]) * u(after)).mean()), abs=1e-6)
            assert row["next_distance"] == pytest.approx((after - row["t"]) * length, rel=1e-5)
    assert rows[0]["robust_error"] == similarity(ends[0], ends[0], crafting()).error("robust")
    assert rows[1]["cosine"] < 1


def test_along_a_bridge_step_policy_and_what_is_there_matter() -> None:
    ends = [build_model("mlp:depth=1", num_classes=2, input_shape=(D,), width=6, seed=seed) for seed in (0, 1)]
    bridge, setup, kept, new = bezier(ends, degree=1), crafting(attack=PGD(steps=2)), {}, {}
    table = scattering_along(bridge, (0.0, 0.5), 0.2, setup, settle=None, watch=Watch(kept.__setitem__))
    assert list(kept) == [("floor", 0.0), ("across", 0.0), ("next", 0.0), ("floor", 0.5), ("across", 0.5)]
    again = scattering_along(bridge, (0.0, 0.5), 0.2, setup, settle=None, watch=Watch(new.__setitem__, kept))
    assert (again.to_json(), new) == (table.to_json(), {})
    wide = scattering_along(bridge, (0.0, 0.5), 0.4, setup, settle=None)
    assert wide.values("cosine") != table.values("cosine")
    assert wide.values("next_cosine") == table.values("next_cosine")
    assert (wide.meta["step"], wide.meta["settle"]) == (0.4, None)
    layered = [nn.Sequential(nn.Linear(D, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)) for _ in range(2)]
    with pytest.raises(InputError, match="settle"):
        scattering_along(bezier(layered, degree=1), (0.0, 1.0), 0.1, setup, settle=None)
    assert scattering_along(bezier(layered, degree=1), (0.5,), 0.1, setup, settle=Keep()).meta["settle"] == "Keep"


def test_what_cannot_be_measured_is_refused() -> None:
    model, v = linear(), line()
    for directions, message in (
        ({}, r"`directions` should hold at least one. Found none"),
        ({"v": v[1:]}, r"`directions\['v'\]` should have shape \(24,\), one entry for each parameter. Found \(23,\)"),
        ({"v": 0 * v}, r"`directions\['v'\]` should have a length above 0. Found the zero vector"),
        ({"v": v / 0}, r"`directions\['v'\]` should be finite. Found NaN or infinite"),
    ):
        with pytest.raises(InputError, match=message):
            scattering(model, directions, (1.0,), crafting())
    for amounts in ((), (0.0,), (-1.0,), (2.0, 1.0), (1.0, 1.0), (float("nan"),), (float("inf"),)):
        with pytest.raises(
            InputError, match=r"`amounts` should be finite numbers of at least 0, ascending, one of them"
        ):
            scattering(model, {"v": v}, amounts, crafting())
    with pytest.raises(InputError, match=r"`attack` should have one restart. Found 2 restarts"):
        crafting(attack=PGD(restarts=2))
    with pytest.raises(InputError, match=r"`attack` should stay in the ball. Found confine=False"):
        crafting(attack=PGD(confine=False))
    with pytest.raises(InputError, match=r"`batch_size` should be at least 1. Found 0"):
        crafting(batch_size=0)
    with pytest.raises(InputError, match=r"`x` should lie in \[0, 1\]"):
        crafting(samples=grey().replaced(x=grey().x + 1))
    with pytest.raises(InputError, match=r"`values` should have shape \(7, N\). Found \(6, 2\)"):
        Similarity.unpacked(torch.zeros(6, 2))
    bridge = bezier([linear(0), linear(1)], degree=1)
    for ts in ((), (0.5, 0.5), (0.5, 0.2), (-0.1, 0.5), (0.5, 1.1)):
        with pytest.raises(InputError, match=r"`ts` should be ascending from 0 to 1 at most"):
            scattering_along(bridge, ts, 0.1, crafting(), settle=None)
    for step in (0.0, -1.0, 1.5, float("nan")):
        with pytest.raises(InputError, match=r"`step` should be above 0 and at most 1. Found"):
            scattering_along(bridge, (0.0,), step, crafting(), settle=None)
    with pytest.raises(InputError, match=r"`bridge` should be a curve. Found 2 coordinates"):
        scattering_along(simplex([linear(s) for s in range(3)]), (0.0,), 0.1, crafting(), settle=None)
