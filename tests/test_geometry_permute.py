"""Permuted copies: the tensors that a hand computation moves, the same function, and a refusal of groups that are none."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from contracts.modules import DTYPES, SCALES, assert_same_bits, scaled, tensors_of, untouched
from isthmus._check import InputError
from isthmus.geometry.permute import (
    cycles,
    difference,
    identity,
    inverse,
    permuted,
    random_permutations,
    require_preserved,
)
from isthmus.geometry.symmetry import symmetry_of
from isthmus.geometry.units import Group, Member, Symmetry
from isthmus.models import build_model
from symmetry_example import Faint, Forked, Grouped, made


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def net() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    return nn.Sequential(*layers).eval()


X = torch.rand(3, 2, 4, 4, generator=generator(7))


def found() -> Symmetry:
    return symmetry_of(net(), X, generator=generator())


def without(symmetry: Symmetry, tensor: str) -> Symmetry:
    """The symmetry with one axis forgotten."""
    group = symmetry.groups[0]
    kept = tuple(member for member in group.members if member.tensor != tensor)
    return replace(symmetry, groups=(replace(group, members=kept),))


def test_the_tensors_are_those_moved_by_hand() -> None:
    module, order = net(), torch.tensor([2, 0, 3, 1])
    with untouched(module):
        copy = permuted(module, found(), [order])
    expected = tensors_of(module)
    for name in ("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"):
        expected[name] = expected[name][order]
    expected["4.weight"] = expected["4.weight"].view(3, 4, 4)[:, order].reshape(3, 16)
    assert_same_bits(tensors_of(copy), expected)


def test_the_inverse_undoes_a_permutation_bitwise() -> None:
    for kind, shape in ((Forked, (2, 3, 8, 8)), (Grouped, (2, 2, 4, 4))):
        module = made(kind)
        symmetry = symmetry_of(module, torch.rand(shape, generator=generator()), generator=generator())
        moved = random_permutations(symmetry, generator(1))
        there = permuted(module, symmetry, moved)
        assert any(not torch.equal(a, b) for a, b in zip(there.parameters(), module.parameters(), strict=True))
        assert_same_bits(tensors_of(permuted(there, symmetry, inverse(moved))), tensors_of(module))
        assert_same_bits(tensors_of(permuted(module, symmetry, identity(symmetry))), tensors_of(module))


def test_in_a_cycle_no_unit_stays_and_every_unit_comes_round() -> None:
    pair = Group(2, (Member("0.weight", 0, torch.arange(2)[:, None]),))
    for seed in range(20):
        for order in cycles(Symmetry((pair, found().groups[0])), generator(seed)):
            place, seen = 0, list[int]()
            while place not in seen:
                seen.append(place)
                place = int(order[place])
            assert len(seen) == len(order)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [0.0, *SCALES])
def test_the_function_is_the_same_at_every_scale(dtype: torch.dtype, scale: float) -> None:
    module = scaled(made(Forked), scale).to(dtype)
    x = torch.rand(2, 3, 8, 8, generator=generator(), dtype=dtype)
    symmetry = symmetry_of(module, x, generator=generator())
    assert len(symmetry.groups) == 4
    copy = permuted(module, symmetry, random_permutations(symmetry, generator(1)))
    with torch.no_grad():
        expected, outputs = module(x), copy(x)
    if not expected.isfinite().all():  # float32 overflows in the module itself
        assert (dtype, scale) == (torch.float32, 1e8)
        return
    assert torch.allclose(outputs, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_the_symmetry_of_one_model_serves_all_of_its_architecture() -> None:
    first, other = (build_model("cnn", num_classes=10, input_shape=(1, 8, 8), width=4, seed=s).eval() for s in range(2))
    x = torch.rand(2, 1, 8, 8, generator=generator())
    symmetry = symmetry_of(first, x, generator=generator())
    require_preserved(other, symmetry, x, generator=generator())


@pytest.mark.parametrize("tensor", ["0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "4.weight"])
def test_a_group_without_one_of_its_tensors_is_refused(tensor: str) -> None:
    wrong = without(found(), tensor)
    module = (
        net()
    )  # fresh: scales are one, shifts and means zero, so that the outputs of the module itself are no witness
    message = r"`symmetry` should leave the outputs as they are to 1e-05 of the largest. Found a change of .* by permuting the 4 units of 0"
    with untouched(module), pytest.raises(InputError, match=message):
        require_preserved(module, wrong, X, generator=generator())
    if tensor.startswith("1.running_mean"):
        copy = permuted(module, wrong, random_permutations(wrong, generator()))
        assert torch.allclose(copy(X), module(X), atol=1e-6)


def test_a_wrong_group_is_seen_although_a_fresh_network_lets_no_signal_through() -> None:
    module, x = made(Faint), torch.rand(4, 6, generator=generator(1))
    with torch.no_grad():
        assert float((module(x) - module(x)[:1]).abs().max()) == 0.0  # thirty factors of about 0.02
    symmetry = symmetry_of(module, x, generator=generator())
    wrong = replace(symmetry, groups=(without(symmetry, "layers.0.weight").groups[0], *symmetry.groups[1:]))
    with untouched(module):
        right, change = (
            difference(module, s, cycles(s, generator(2)), x, generator=generator(3)) for s in (symmetry, wrong)
        )
    assert right < 1e-9
    assert change > 1e-3
    with pytest.raises(InputError, match=r"by permuting the 6 units of layers\.1\.weight\[0\]"):
        require_preserved(module, wrong, x, generator=generator(4))


def test_the_wrong_one_of_two_groups_is_the_one_named() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    x = torch.rand(2, 3, generator=generator())
    right = symmetry_of(module, x, generator=generator())
    second = right.groups[1]
    wrong = replace(right, groups=(right.groups[0], replace(second, members=second.members[:-1])))
    with pytest.raises(InputError, match=r"by permuting the 5 units of 2.weight\[0\]."):
        require_preserved(module, wrong, x, generator=generator())
    require_preserved(module, right, x, generator=generator())


def test_the_tolerance_is_the_one_asked_for() -> None:
    wrong = without(found(), "0.bias")
    change = difference(net(), wrong, random_permutations(wrong, generator(3)), X, generator=generator(4))
    assert 1e-3 < change < 10
    require_preserved(net(), wrong, X, generator=generator(), tolerance=10.0)


def test_the_change_is_that_of_the_outputs_relative_to_the_largest() -> None:
    class Fixed(nn.Module):
        """Logits are the two numbers of a parameter: to exchange them changes each by their difference."""

        def __init__(self) -> None:
            super().__init__()
            self.values = nn.Parameter(torch.tensor([1.0, 4.0]))

        def forward(self, x: Tensor) -> Tensor:
            return self.values.expand(len(x), 2)

    both = Symmetry((Group(2, (Member("values", 0, torch.arange(2)[:, None]),)),))
    change = difference(Fixed(), both, [torch.tensor([1, 0])], X, generator=generator())
    noise = torch.randn(2, generator=generator())  # the jitter: each number times exp(0.2 noise)
    one, two = (0.2 * noise).exp() * torch.tensor([1.0, 4.0])
    assert change == pytest.approx(float((two - one).abs() / max(one, two)), rel=1e-5)
    assert difference(Fixed(), both, [torch.tensor([0, 1])], X, generator=generator()) == 0


def test_a_module_that_runs_in_one_precision_only_is_checked_in_that() -> None:
    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.relu(self.first(x)) @ torch.eye(4))  # float32 times float32

    x = torch.rand(2, 3, generator=generator())
    require_preserved(Single(), symmetry_of(Single(), x, generator=generator()), x, generator=generator())


def test_permutations_must_be_permutations_of_the_groups() -> None:
    with pytest.raises(InputError, match=r"`permutations` should be 1, one per group. Found 0."):
        permuted(net(), found(), [])
    with pytest.raises(
        InputError, match=r"`permutations` should order the 4 units of 0.weight\[0\]. Found \[0, 1, 1, 3\]."
    ):
        permuted(net(), found(), [torch.tensor([0, 1, 1, 3])])


def test_the_module_must_have_the_tensors_of_the_symmetry() -> None:
    order = [torch.tensor([1, 0, 2, 3])]
    with pytest.raises(InputError, match=r"`module` should have '0.bias' .* Found no such tensor."):
        permuted(nn.Sequential(nn.Conv2d(2, 4, 3, bias=False)), found(), order)
    smaller = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3))
    with pytest.raises(InputError, match=r"with at least 4 places along axis 0. Found shape \(3"):
        permuted(smaller, found(), order)
